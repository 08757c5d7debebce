//! One task at work: from what is to what should be done now. *Pure.*

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::{
    Settings, Shared,
    conditions::{self, Word, seconds},
    effect::{Creation, Effect, Refusal, StatusWrite, Target, Told, Written, examination},
    limits::{Full, Seat},
    planned::{Planned, later, may_go_away},
    record::End,
    sweep,
    view::{Turn, View},
    work::{Work, note},
    world::{self, Pods, Workers},
};
use crate::{
    duration,
    health::Candidate,
    metrics::Metrics,
    task::{
        OBSOLETE_ANNOTATION, Phase, PrewarmTask, PrewarmTaskStatus, Problem,
        caps::{self, Caps},
        plan::{Findings, candidates, plan},
        resource::MAX_BATCH_ENDS,
        validate::{ValidTask, validate},
    },
    trace::{self, Span},
    worker::{Reason, WorkerFacts},
};

/// A status is written at most this often, in milliseconds; results that a deletion waits for are no exception.
const WRITE_INTERVAL_MS: i64 = 1000;
/// Progress that nothing waits for is written this often, in milliseconds.
const PROGRESS_INTERVAL_MS: i64 = 5000;
/// A task is parked when nothing was pulled for it for so long, in milliseconds: longer than from one batch to the next.
const PARKED_AFTER_MS: i64 = 10_000;
/// After a passing refusal, nothing is sent again for the task for this long, in milliseconds.
const PAUSE_MS: i64 = 2000;

/// Problems of a spec that a status names; each has up to 700 characters.
const MAX_PROBLEMS: usize = 10;
/// Words of the API server that a status repeats, in characters.
const MAX_WORDS: usize = 500;
/// Says of an object in memory that it could not be read, and why. Objects that are delivered carry no annotations but ours.
pub(super) const UNREADABLE: &str = "prewarm.io/unreadable";
/// Longest words of a registry in a condition, in characters.
const MAX_SAID: usize = 200;

/// One task at work.
#[allow(clippy::struct_excessive_bools, reason = "each says one thing, and all combinations occur")]
pub(super) struct Run {
    target: Target,
    valid: Result<ValidTask, Vec<Problem>>,
    /// The registries that its images come from.
    hosts: Vec<String>,
    status: PrewarmTaskStatus,
    version: Option<String>,
    /// The status as the API server has it.
    written: PrewarmTaskStatus,
    written_at: Option<Timestamp>,
    /// Whether something waits for the next write.
    urgent: bool,
    told: Vec<Told>,
    findings: Option<Findings>,
    /// Whether nodes are checked beyond their own conditions.
    examines: bool,
    planned: Option<Planned>,
    inflight: HashSet<String>,
    paused_until: Option<Timestamp>,
    /// What the API server said when it last took nothing of ours, while that lasts.
    trouble: Option<String>,
    /// Which of the task's registries gets fewer pulls than it might.
    reduced: Option<String>,
    /// Why the task ends without its nodes having decided it.
    stopped: Option<Stopped>,
    /// Whether the API server has refused even the shortest status: nothing is tried until somebody changes the task.
    mute: bool,
    /// Whether the object could not be read, so that its status is not known.
    unreadable: bool,
    /// What of the spec is more than the operator's settings allow.
    limited: Vec<String>,
    /// The same of its priority, which may change.
    cut_priority: Option<String>,
    /// The task's deadline, and the setting that it comes from where the task does not say it.
    deadline: (Duration, Option<&'static str>),
    /// Whether the deadline has ended nodes of it.
    expired: bool,
    /// When a worker of the task last pulled, a node of it ended, or its phase changed.
    progress: Option<Timestamp>,
}

/// An end that has nothing to do with the task's nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stopped {
    reason: &'static str,
    message: String,
}

impl Stopped {
    fn internal_error() -> Self {
        let message = "an internal error ended the work on this task; the server's log says more, under its UID";
        Self { reason: "InternalError", message: message.to_owned() }
    }
}

impl Run {
    /// Takes up a task where its status says that it stands.
    pub(super) fn resume(task: &PrewarmTask, settings: &Settings) -> Self {
        match unreadable(task) {
            Some(why) => {
                let stopped = Stopped { reason: "InvalidSpec", message: format!("the task cannot be read: {why}") };
                Self { stopped: Some(stopped), unreadable: true, ..Self::with(task, Err(Vec::new())) }
            }
            None => Self::within(task, &settings.limits.caps),
        }
    }

    /// A task that can be read, within the operator's limits.
    fn within(task: &PrewarmTask, caps: &Caps) -> Self {
        let mut limited = Vec::new();
        let valid = validate(&task.spec).and_then(|mut valid| {
            let problems = caps::check(caps, &valid);
            limited = caps::clamp(caps, &mut valid);
            if problems.is_empty() { Ok(valid) } else { Err(problems) }
        });
        let deadline = valid.as_ref().map_or((Duration::MAX, None), |valid| caps::deadline(caps, valid));
        Self { limited, deadline, ..Self::with(task, valid) }
    }

    /// A task over which the controller has failed. It ends, and nothing of it is looked at again.
    pub(super) fn broken(task: &PrewarmTask) -> Self {
        Self { stopped: Some(Stopped::internal_error()), ..Self::with(task, Err(Vec::new())) }
    }

    /// Whether the controller has failed over the task.
    pub(super) fn is_broken(&self) -> bool {
        self.stopped == Some(Stopped::internal_error())
    }

    fn with(task: &PrewarmTask, valid: Result<ValidTask, Vec<Problem>>) -> Self {
        let status = task.status.clone().unwrap_or_default();
        #[cfg(test)]
        super::faults::hit(
            if valid.is_ok() { "resume" } else { "broken" },
            task.metadata.name.as_deref().unwrap_or(""),
        );
        let mut hosts: Vec<String> =
            valid.iter().flat_map(|valid| valid.images.iter().map(|image| image.registry().to_owned())).collect();
        hosts.sort();
        hosts.dedup();
        Self {
            target: target(task),
            valid,
            hosts,
            written: status.clone(),
            status,
            version: task.resource_version(),
            written_at: None,
            urgent: false,
            told: Vec::new(),
            findings: None,
            examines: false,
            planned: None,
            inflight: HashSet::new(),
            paused_until: None,
            trouble: None,
            reduced: None,
            stopped: None,
            mute: false,
            unreadable: false,
            limited: Vec::new(),
            cut_priority: None,
            deadline: (Duration::MAX, None),
            expired: false,
            progress: None,
        }
    }

    /// The workers that there are, `most` of them, and those that were asked for.
    pub(super) fn seats<'a>(
        &'a self,
        workers: Option<&'a Workers>,
        pods: &Pods,
        now: Timestamp,
        alone: SignedDuration,
        most: usize,
    ) -> Vec<Seat<'a>> {
        let Target { namespace, uid, .. } = &self.target;
        let alive = workers.into_iter().flat_map(Workers::values);
        let seen = alive.filter_map(|worker| seat(uid, namespace, worker, pods, now, alone)).take(most);
        seen.chain(self.claimed().map(|node| Seat { node, namespace, task: uid, holds: true })).collect()
    }

    /// Notes whether a worker of the task pulls.
    pub(super) fn note_progress(&mut self, pulls: bool, now: Timestamp) {
        if pulls || self.progress.is_none() {
            self.progress = Some(now);
        }
    }

    /// Whether nothing has been pulled for it for a while: then its place is given to others, and it goes on without one.
    pub(super) fn is_parked(&self, now: Timestamp) -> bool {
        self.progress.and_then(|at| later(at, PARKED_AFTER_MS)).is_some_and(|at| at <= now)
    }

    /// The task's registries that do not answer.
    pub(super) fn silent(&self) -> impl Iterator<Item = &str> {
        self.planned.iter().flat_map(|planned| planned.registries.silent()).map(|(host, ..)| host)
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether the task has left the queue of those that wait.
    pub(super) fn has_begun(&self) -> bool {
        self.status.phase != Phase::Pending
    }

    /// Whether the task takes one of the places of tasks that run. One that only waits for its workers to be gone does not:
    /// that is up to Kubernetes, and may take long.
    pub(super) fn takes_place(&self) -> bool {
        self.has_begun() && self.status.phase != Phase::Finalizing && !self.status.phase.is_terminal()
    }

    /// The registries that its images come from.
    pub(super) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The registry of an image, by its index.
    pub(super) fn host_of(&self, image: u16) -> Option<&str> {
        Some(self.valid.as_ref().ok()?.images.get(usize::from(image))?.registry())
    }

    /// Whether the worker's result is in the API server.
    pub(super) fn is_recorded(&self, worker: &WorkerFacts) -> bool {
        let letters = self.written.node_states.as_bytes();
        self.planned.as_ref().is_some_and(|planned| planned.is_recorded(worker, letters))
    }

    /// Nodes whose worker was asked for and is not in the watch yet.
    pub(super) fn claimed(&self) -> impl Iterator<Item = &str> {
        self.planned.iter().flat_map(Planned::claimed)
    }

    /// Notes the newest object. A status write of ours may have overtaken the watch, so the version only moves forward.
    pub(super) fn see(&mut self, task: &PrewarmTask) {
        #[cfg(test)]
        super::faults::hit("see", &self.target.name);
        let number = |version: &Option<String>| version.as_deref().and_then(|v| v.parse::<u64>().ok());
        let seen = task.resource_version();
        if number(&seen) >= number(&self.version) {
            self.mute &= seen == self.version;
            self.version = seen;
            if !self.unreadable {
                self.written = task.status.clone().unwrap_or_default();
            }
        }
    }

    /// Notes the end of an effect.
    pub(super) fn done(
        &mut self,
        effect: &Effect,
        result: Result<Written, Refusal>,
        shared: &mut Shared,
        now: Timestamp,
    ) {
        self.inflight.remove(&effect.key());
        #[cfg(test)]
        super::faults::hit("done", &self.target.name);
        if result == Err(Refusal::Broken) {
            return self.fail_over(effect);
        }
        match (effect, result) {
            (Effect::WriteStatus(write), Ok(written)) => {
                if write.status.phase.is_terminal() {
                    tell(&shared.metrics, &self.target, &write.status, now);
                }
                self.written = write.status.clone();
                self.version = written.resource_version.or(self.version.take());
            }
            (Effect::WriteStatus(_), Err(Refusal::Unstorable(message))) => self.status_refused(&message),
            (Effect::CreatePlan(_), Err(Refusal::Unstorable(message))) => {
                let message = format!("the API server does not store its PrewarmPlan: {}", short(&message));
                self.stopped = Some(Stopped { reason: "PlanRefused", message });
            }
            (Effect::WriteStatus(write), Err(refusal)) => {
                self.told.splice(0..0, write.told.iter().cloned());
                self.urgent = true;
                self.pause(&refusal, now);
            }
            (Effect::Examine(_), result) => {
                let failed =
                    || Box::new(Findings { unchecked: vec!["the checks failed".into()], ..Findings::default() });
                self.findings = Some(*result.ok().and_then(|written| written.findings).unwrap_or_else(failed));
            }
            (Effect::Create(creation), result) => self.created(creation, result, shared, now),
            (Effect::Probe(_), result) => self.probed(result, now),
            (_, Err(refusal)) => self.pause(&refusal, now),
            _ => {}
        }
    }

    /// An effect has panicked: the task ends, and where that cannot be written either, it is left alone.
    fn fail_over(&mut self, effect: &Effect) {
        self.urgent = true;
        self.mute = self.stopped.is_some() && matches!(effect, Effect::WriteStatus(_));
        self.stopped.get_or_insert_with(Stopped::internal_error);
    }

    /// A status that is refused is refused again. The task ends with a short one; where that is refused too, there is nothing
    /// left to try.
    fn status_refused(&mut self, message: &str) {
        self.urgent = true;
        if self.stopped.is_some() {
            let Target { namespace, name, .. } = &self.target;
            tracing::error!(
                task = name,
                namespace,
                message,
                "not even the end of the task can be written: it is left alone"
            );
            self.mute = true;
            return;
        }
        let message = format!("the API server does not store its status: {}", short(message));
        self.stopped = Some(Stopped { reason: "StatusRefused", message });
    }

    /// Ends a task whatever became of its nodes. The status keeps what is short.
    fn stop(&mut self, stopped: &Stopped, task: &PrewarmTask, view: &View<'_>, effects: &mut Vec<Effect>) {
        effects.extend(sweep::delete_all(view.workers, view.contested));
        self.planned = None;
        self.status.failed_nodes = Vec::new();
        self.status.ignored_nodes = Vec::new();
        self.status.images = Vec::new();
        self.status.batch_ends = Vec::new();
        self.status.node_states = String::new();
        self.conclude(Phase::Failed, stopped.reason, &stopped.message, task, view.now);
    }

    fn pause(&mut self, refusal: &Refusal, now: Timestamp) {
        if let Refusal::Passing(message) | Refusal::Final(_, message) = refusal {
            self.paused_until = later(now, PAUSE_MS);
            self.trouble = Some(message.clone());
        }
    }

    fn created(&mut self, creation: &Creation, result: Result<Written, Refusal>, shared: &mut Shared, now: Timestamp) {
        let Some(planned) = &mut self.planned else { return };
        let name = &creation.name;
        let Err(refusal) = result else {
            self.trouble = None;
            return planned.acknowledged(name, now);
        };
        let index = planned.forget(name);
        let (Some(index), Refusal::Final(reason, message), Ok(valid)) = (index, &refusal, &self.valid) else {
            return self.pause(&refusal, now);
        };
        let at_home = creation.namespace == self.target.namespace;
        if at_home && planned.away.is_some() {
            // It was on its way when another was refused: the next look sends it elsewhere.
        } else if may_go_away(&shared.settings, valid, planned, (*reason, message)) {
            planned.go_away(message.clone());
        } else if *reason == Reason::QuotaExceeded && planned.takes_quota() {
            self.pause(&refusal, now);
        } else {
            planned.count_refusal();
            planned.refuse(*reason, message.clone(), now);
            let end = End::Node(*reason, message.clone());
            note(planned, valid, shared, index, end, true, now);
        }
    }

    fn probed(&mut self, result: Result<Written, Refusal>, now: Timestamp) {
        if let (Some(planned), Err(Refusal::Final(reason, message))) = (&mut self.planned, result) {
            planned.refuse(reason, message, now);
        }
    }

    /// What should be done now.
    pub(super) fn step(&mut self, task: &PrewarmTask, view: &View<'_>, shared: &mut Shared) -> Vec<Effect> {
        #[cfg(test)]
        super::faults::hit(if self.stopped.is_none() { "step" } else { "end" }, &self.target.name);
        if self.paused_until.is_some_and(|until| view.now < until) {
            return Vec::new();
        }
        self.paused_until = None;
        self.cut_priority = caps::priority(&shared.settings.limits.caps, task.spec.priority).1;
        let reduced = |host: &&String| shared.budgets.is_reduced(host);
        self.reduced = self.hosts.iter().find(reduced).cloned();
        let mut effects = Vec::new();
        if self.mute {
            return effects;
        }
        if let Some(stopped) = self.stopped.clone() {
            self.stop(&stopped, task, view, &mut effects);
        } else if let Err(problems) = &self.valid {
            let message = listed(problems);
            self.conclude(Phase::Failed, "InvalidSpec", &message, task, view.now);
        } else if task.spec.cancel {
            self.cancel(task, view, &mut effects);
        } else if self.planned.is_none() {
            self.begin(task, view, &shared.settings, &mut effects);
        }
        if self.planned.is_some() && !task.spec.cancel {
            self.advance(task, view, shared, &mut effects);
        }
        self.write(view.now, &mut effects);
        effects.retain(|effect| self.inflight.insert(effect.key()));
        effects
    }

    fn cancel(&mut self, task: &PrewarmTask, view: &View<'_>, effects: &mut Vec<Effect>) {
        effects.extend(sweep::delete_all(view.workers, view.contested));
        // A creation under way would come after the deletion: it is waited for.
        if view.workers().next().is_some() || self.inflight.iter().any(|key| key.starts_with("create/")) {
            self.phase(Phase::Finalizing, "Cancelling", "its workers are being deleted", task, view.now);
        } else {
            self.conclude(Phase::Cancelled, "Cancelled", "cancelled by spec.cancel", task, view.now);
        }
    }

    /// Chooses the nodes and records them, before the first worker.
    fn begin(&mut self, task: &PrewarmTask, view: &View<'_>, settings: &Settings, effects: &mut Vec<Effect>) {
        let Ok(valid) = &self.valid else { return };
        if let Some(spec) = view.plan {
            self.planned =
                Some(Planned::new(valid, Arc::clone(spec), &self.status, settings.limits.registry_failures, view.now));
            return;
        }
        if !self.status.node_states.is_empty() {
            let message =
                "its PrewarmPlan was deleted: which nodes were done is not known any more; create another task";
            self.conclude(Phase::Failed, "PlanLost", message, task, view.now);
            return;
        }
        if let Some(why) = obsolete(task) {
            return self.conclude(Phase::Cancelled, "Obsolete", why, task, view.now);
        }
        let held = match view.turn {
            _ if task.spec.suspend => Some(("Suspended", "held by spec.suspend".to_owned())),
            Turn::Held(held) => Some(("Queued", held.message(&self.target.namespace).to_string())),
            Turn::Now => None,
        };
        if let Some((reason, message)) = held.filter(|_| !self.has_begun()) {
            self.phase(Phase::Pending, reason, &message, task, view.now);
            return;
        }
        self.examines = settings.examine;
        if self.findings.is_none() {
            let able = candidates(valid, view.nodes.values()).filter(|(_, obstacle)| obstacle.is_none());
            let able: Vec<Candidate> = able.map(|(node, _)| Candidate::from(node)).collect();
            let choose_for = (valid.nodes.of(able.len()) < able.len()).then(|| self.target.namespace.clone());
            if settings.examine || choose_for.is_some() {
                effects.push(examination(&valid.images, able, choose_for));
                self.phase(Phase::Snapshotting, "Checking", "nodes are being checked", task, view.now);
                return;
            }
        }
        let findings = self.findings.clone().unwrap_or_default();
        let mut spec = plan(valid, view.nodes.values(), &findings, settings.breaker);
        let most = settings.limits.caps.nodes as usize;
        if most > 0 && spec.nodes.len() > most {
            self.limited.push(format!("{} nodes are limited to {most} (--max-nodes-per-task)", spec.nodes.len()));
            spec.nodes.truncate(most);
        }
        let spec = Arc::new(spec);
        if spec.nodes.is_empty() {
            self.status.ignored_nodes.clone_from(&spec.ignored);
            self.status.ignored_node_count = spec.ignored_count;
            let message = if spec.ignored_count == 0 {
                "no node matches nodeSelector and nodeAffinity".to_owned()
            } else {
                format!("none of the {} matching nodes can be warmed now: see status.ignoredNodes", spec.ignored_count)
            };
            self.conclude(Phase::Failed, "NoEligibleNodes", &message, task, view.now);
            return;
        }
        self.phase(Phase::Snapshotting, "Snapshotting", "the chosen nodes are being recorded", task, view.now);
        effects.push(Effect::CreatePlan(spec));
    }

    /// Works on the nodes of the plan; ends the task.
    fn advance(&mut self, task: &PrewarmTask, view: &View<'_>, shared: &mut Shared, effects: &mut Vec<Effect>) {
        let (Some(planned), Ok(valid)) = (&mut self.planned, &self.valid) else { return };
        if self.status.start_time.is_none() {
            self.status.start_time = Some(seconds(view.now));
        }
        let overdue = overdue(self.status.start_time.as_deref(), self.deadline.0, view.now);
        self.expired |= overdue && !planned.record.all_ended();
        let moved = planned.record.moved();
        let mut work = Work::new(&self.target, valid, planned, view, shared, &self.written, &self.hosts);
        work.observe(overdue);
        if obsolete(task).is_some() {
            work.abandon();
        }
        work.reap(effects);
        if !task.spec.suspend {
            work.dispatch(effects);
        }
        let (place, left, full) = (work.place(), work.is_left(), work.full());
        self.urgent |= work.is_urgent();
        self.status.current_batch_index = place.current;
        self.status.total_batches = place.total;
        self.status.ignored_nodes.clone_from(&planned.spec.ignored);
        self.status.ignored_node_count = planned.spec.ignored_count;
        planned.record.fill(&mut self.status);
        let ended = if planned.record.all_ended() { place.total } else { place.current };
        note_batches(&mut self.status, ended, view.now);
        if planned.record.moved() != moved {
            self.progress = Some(view.now);
            self.status.estimated_completion = estimate(&self.status, view.now);
        }
        let all = planned.record.all_ended();
        let recorded = self.status.node_states == self.written.node_states;
        if all && recorded && !left {
            self.end(task, view.now);
        } else if all {
            self.phase(
                Phase::Finalizing,
                "Finalizing",
                "every node has ended; workers are being deleted",
                task,
                view.now,
            );
        } else if task.spec.suspend {
            self.phase(Phase::Running, "Suspended", "held by spec.suspend; nodes at work go on", task, view.now);
        } else {
            let trouble =
                self.trouble.as_ref().map(|said| format!("; the API server refuses: {said}")).unwrap_or_default();
            let most = shared.settings.max_workers;
            let full = match full {
                Some(Full::Cluster) => format!("; {most} of {most} workers are at work (--max-workers)"),
                Some(Full::Namespace(most)) => {
                    let namespace = &self.target.namespace;
                    format!("; namespace {namespace} has {most} of {most} workers (--max-workers-per-namespace)")
                }
                Some(Full::Registry | Full::Node | Full::Own) | None => String::new(),
            };
            let message = format!("{place}{trouble}{full}");
            self.phase(Phase::Running, "Running", &message, task, view.now);
        }
    }

    /// Every node has ended, and nothing is left to be removed.
    fn end(&mut self, task: &PrewarmTask, now: Timestamp) {
        let (Some(planned), Ok(valid)) = (&self.planned, &self.valid) else { return };
        let mut summary = planned.record.summary();
        if self.expired {
            summary.push_str("; ended by its ");
            summary.push_str(&self.deadline_text());
        }
        let (threshold, total) = (valid.success_threshold, planned.spec.nodes.len() as u64);
        if u64::from(planned.record.warm()).saturating_mul(100) >= u64::from(threshold).saturating_mul(total) {
            self.conclude(Phase::Completed, "Completed", &summary, task, now);
        } else if let Some(why) = obsolete(task) {
            self.conclude(Phase::Cancelled, "Obsolete", &format!("{why}; {summary}"), task, now);
        } else {
            let message = format!("{summary}; {threshold}% were asked for");
            self.conclude(Phase::Failed, "SuccessThresholdNotReached", &message, task, now);
        }
    }

    fn deadline_text(&self) -> String {
        let (deadline, setting) = self.deadline;
        let setting = setting.map(|setting| format!(" ({setting})")).unwrap_or_default();
        format!("deadline of {}{setting}", duration::format(deadline))
    }

    fn conclude(&mut self, phase: Phase, reason: &str, message: &str, task: &PrewarmTask, now: Timestamp) {
        if self.status.completion_time.is_none() {
            self.status.completion_time = Some(seconds(now));
        }
        self.status.estimated_completion = None;
        self.phase(phase, reason, message, task, now);
    }

    fn phase(&mut self, phase: Phase, reason: &str, message: &str, task: &PrewarmTask, now: Timestamp) {
        let generation = task.metadata.generation;
        if self.status.phase != phase {
            self.progress = Some(now);
            self.told.push(Told { phase, message: message.to_owned() });
            self.urgent = true;
        }
        let plan = self.planned.as_ref().map(|planned| &planned.spec);
        let tripped = plan.and_then(|plan| plan.throttled.clone()).map(|why| ("CircuitBreaker", why));
        let slowed = || {
            let host = self.reduced.as_ref().filter(|_| !phase.is_terminal())?;
            Some(("RegistryLimit", format!("{host} asks for fewer requests: fewer nodes pull from it at once")))
        };
        let silent = || {
            let registries =
                self.planned.as_ref().filter(|_| !phase.is_terminal()).map(|planned| &planned.registries)?;
            let (host, nodes, said) = registries.silent().next()?;
            let said: String = said.chars().take(MAX_SAID).collect();
            let message = format!("registry {host} does not answer on {nodes} nodes: few ask it meanwhile: {said}");
            Some(("RegistryUnreachable", message))
        };
        let throttled = tripped.or_else(silent).or_else(slowed);
        let mut limited = self.limited.clone();
        limited.extend(self.cut_priority.clone());
        let away = self.planned.as_ref().and_then(|planned| planned.away.clone());
        let checked = plan.filter(|plan| self.examines && self.findings.is_some() || !plan.unchecked.is_empty());
        let unchecked = checked.map(|plan| plan.unchecked.join("; "));
        self.status.phase = phase;
        self.status.observed_generation = generation;
        let limited = limited.join("; ");
        let word = Word { phase, reason, message, throttled, limited, away, unchecked, generation };
        self.status.conditions = conditions::compute(&self.written.conditions, &word, now);
    }

    /// The status, if it is news and the last was written long enough ago.
    fn write(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let reasons = |status: &PrewarmTaskStatus| -> Vec<(String, String)> {
            status.conditions.iter().map(|c| (c.type_.clone(), c.reason.clone())).collect()
        };
        let urgent = self.urgent || reasons(&self.status) != reasons(&self.written);
        let interval = if urgent { WRITE_INTERVAL_MS } else { PROGRESS_INTERVAL_MS };
        let too_soon = self.written_at.and_then(|at| later(at, interval)).is_some_and(|next| now < next);
        let writing = self.inflight.contains("status");
        if self.status == self.written || too_soon || writing {
            return;
        }
        (self.written_at, self.urgent) = (Some(now), false);
        effects.push(Effect::WriteStatus(Box::new(StatusWrite {
            status: self.status.clone(),
            version: self.version.clone(),
            told: std::mem::take(&mut self.told),
        })));
    }
}

/// The first problems, for a condition and an Event.
fn listed(problems: &[Problem]) -> String {
    let mut texts: Vec<String> = problems.iter().take(MAX_PROBLEMS).map(ToString::to_string).collect();
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join("; ")
}

fn short(message: &str) -> String {
    message.chars().take(MAX_WORDS).collect()
}

/// Why the object could not be read, if so.
fn unreadable(task: &PrewarmTask) -> Option<&str> {
    task.annotations().get(UNREADABLE).map(String::as_str)
}

/// Why the task is not needed any more, if so.
fn obsolete(task: &PrewarmTask) -> Option<&str> {
    task.annotations().get(OBSOLETE_ANNOTATION).map(String::as_str)
}

pub(super) fn target(task: &PrewarmTask) -> Target {
    let meta = task.meta();
    Target {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

fn tell(metrics: &Metrics, target: &Target, status: &PrewarmTaskStatus, now: Timestamp) {
    let phase = status.phase.as_str().to_lowercase();
    metrics.tasks.with_label_values(&[&phase]).inc();
    if let Some(start) = status.start_time.as_deref().and_then(|time| time.parse::<Timestamp>().ok()) {
        metrics.task_duration.observe(now.duration_since(start).as_secs_f64());
        let attributes = [("namespace", &*target.namespace), ("task", &target.name), ("phase", &phase)];
        trace::tell(&Span { name: "task", task_uid: &target.uid, start, end: now, attributes: &attributes });
    }
}

fn overdue(start: Option<&str>, deadline: Duration, now: Timestamp) -> bool {
    let start = start.and_then(|time| time.parse::<Timestamp>().ok());
    start.is_some_and(|start| now > start && now.duration_since(start).unsigned_abs() >= deadline)
}

/// The place of a worker of the task, in this namespace; none where it is not alive.
pub(super) fn seat<'a>(
    task: &'a str,
    namespace: &'a str,
    worker: &'a WorkerFacts,
    pods: &Pods,
    now: Timestamp,
    alone: SignedDuration,
) -> Option<Seat<'a>> {
    let holds = world::holds_node(worker, pods, now, alone);
    world::is_alive(worker).then_some(Seat { node: &worker.node, namespace, task, holds })
}

/// Writes down that this many batches have ended by now, where it was not.
fn note_batches(status: &mut PrewarmTaskStatus, ended: u32, now: Timestamp) {
    let start = status.start_time.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
    let since = start.map_or(0, |start| now.duration_since(start).as_secs());
    let ended = usize::try_from(ended).unwrap_or(MAX_BATCH_ENDS).min(MAX_BATCH_ENDS);
    if status.batch_ends.len() < ended {
        status.batch_ends.resize(ended, u32::try_from(since).unwrap_or_default());
    }
}

/// By the pace so far; none before the first node has ended.
fn estimate(status: &PrewarmTaskStatus, now: Timestamp) -> Option<String> {
    let start: Timestamp = status.start_time.as_deref()?.parse().ok()?;
    let ended = status.succeeded_nodes.saturating_add(status.failed_node_count).saturating_add(status.skipped_nodes);
    let left = status.total_nodes.checked_sub(ended)?;
    let per_node = now.duration_since(start).as_millis().checked_div(i128::from(ended))?;
    let left = i64::try_from(per_node.saturating_mul(i128::from(left))).ok()?;
    later(now, left).map(seconds)
}

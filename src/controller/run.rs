//! One task at work: from what is to what should be done now. *Pure.*

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use k8s_openapi::{api::batch::v1::Job, jiff::Timestamp};
use kube::ResourceExt;

use super::{
    conditions::{self, seconds},
    effects::{Refusal, Written},
    record::{End, Record},
    world::{Jobs, Pods},
};
use crate::{
    metrics::Metrics,
    node::Facts,
    task::{
        BatchPolicy, Phase, PrewarmPlanSpec, PrewarmTask, PrewarmTaskStatus,
        plan::plan,
        validate::{ValidTask, validate},
    },
    worker::{Assignment, ImageOutcome, JobFacts, PodOutcome, Reason, WorkerSettings, build, method_for, read},
};

/// A status is written at most this often, in milliseconds; results that a deletion waits for are no exception.
const WRITE_INTERVAL_MS: i64 = 1000;
/// After a passing refusal, nothing is sent again for the task for this long, in milliseconds.
const PAUSE_MS: i64 = 2000;
/// A Job whose creation was acknowledged is in the watch within milliseconds; after this long without it, in
/// milliseconds, it was deleted before it was seen, and is made again.
const UNSEEN_MS: i64 = 30_000;

/// What should be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect {
    CreatePlan(Arc<PrewarmPlanSpec>),
    CreateJob(Box<Job>),
    DeleteJob(String),
    DeleteBatch(u32),
    DeleteAll,
    /// With the resource version that it is based on.
    WriteStatus(Box<PrewarmTaskStatus>, Option<String>),
    DeleteTask,
}

impl Effect {
    /// Verb and resource, for metrics and logs.
    pub(super) fn request(&self) -> (&'static str, &'static str) {
        match self {
            Self::CreatePlan(_) => ("create", "prewarmplans"),
            Self::CreateJob(_) => ("create", "jobs"),
            Self::DeleteJob(_) => ("delete", "jobs"),
            Self::DeleteBatch(_) | Self::DeleteAll => ("deletecollection", "jobs"),
            Self::WriteStatus(..) => ("patch", "prewarmtasks"),
            Self::DeleteTask => ("delete", "prewarmtasks"),
        }
    }
}

/// What a step may look at.
pub(super) struct View<'a> {
    pub(super) nodes: &'a BTreeMap<String, Facts>,
    pub(super) jobs: Option<&'a Jobs>,
    pub(super) pods: &'a Pods,
    pub(super) plan: Option<&'a Arc<PrewarmPlanSpec>>,
    /// Nodes with a worker, of whatever task.
    pub(super) busy: &'a HashSet<String>,
    pub(super) may_begin: bool,
    pub(super) worker: &'a WorkerSettings,
    pub(super) now: Timestamp,
}

impl View<'_> {
    fn job(&self, name: &str) -> Option<&JobFacts> {
        self.jobs.and_then(|jobs| jobs.get(name))
    }

    fn jobs(&self) -> impl Iterator<Item = &JobFacts> {
        self.jobs.into_iter().flat_map(BTreeMap::values)
    }
}

/// A Job that was asked for and has not been seen to end.
#[derive(Debug, Clone, Copy)]
struct Active {
    since: Timestamp,
    seen: bool,
}

/// The nodes of a task that has been planned.
struct Planned {
    spec: Arc<PrewarmPlanSpec>,
    /// The name of each node's Job.
    names: Vec<String>,
    index: HashMap<String, usize>,
    record: Record,
    active: HashMap<usize, Active>,
    /// The batch at work.
    batch: usize,
}

/// One task at work.
pub(super) struct Run {
    valid: Result<ValidTask, Vec<String>>,
    status: PrewarmTaskStatus,
    version: Option<String>,
    /// The status as the API server has it.
    written: PrewarmTaskStatus,
    written_at: Option<Timestamp>,
    planned: Option<Planned>,
    inflight: HashSet<String>,
    paused_until: Option<Timestamp>,
}

impl Run {
    /// Takes up a task where its status says that it stands.
    pub(super) fn resume(task: &PrewarmTask) -> Self {
        let status = task.status.clone().unwrap_or_default();
        Self {
            valid: validate(&task.spec),
            written: status.clone(),
            status,
            version: task.resource_version(),
            written_at: None,
            planned: None,
            inflight: HashSet::new(),
            paused_until: None,
        }
    }

    /// Whether the task takes one of the places of tasks that run.
    pub(super) fn has_begun(&self) -> bool {
        self.status.phase != Phase::Pending
    }

    /// Nodes whose Job was asked for and is not in the watch yet.
    pub(super) fn claimed(&self) -> Vec<String> {
        let Some(planned) = &self.planned else { return Vec::new() };
        let unseen = planned.active.iter().filter(|(_, active)| !active.seen);
        unseen.map(|(index, _)| planned.spec.nodes[*index].clone()).collect()
    }

    /// Notes the newest object. A status write of ours may have overtaken the watch, so the version only moves forward.
    pub(super) fn see(&mut self, task: &PrewarmTask) {
        let number = |version: &Option<String>| version.as_deref().and_then(|v| v.parse::<u64>().ok());
        let seen = task.resource_version();
        if number(&seen) >= number(&self.version) {
            self.version = seen;
            self.written = task.status.clone().unwrap_or_default();
        }
    }

    /// Notes the end of an effect.
    pub(super) fn done(
        &mut self,
        effect: &Effect,
        result: Result<Written, Refusal>,
        metrics: &Metrics,
        now: Timestamp,
    ) {
        self.inflight.remove(&key(effect));
        match (effect, result) {
            (Effect::WriteStatus(status, _), Ok(written)) => {
                if status.phase.is_terminal() {
                    tell(metrics, status, now);
                }
                self.written = (**status).clone();
                self.version = written.resource_version.or(self.version.take());
            }
            (Effect::CreateJob(job), Ok(_)) => self.created(&job.name_any(), now),
            (Effect::CreateJob(job), Err(Refusal::Final(reason, message))) => {
                self.end_by_job(&job.name_any(), End::Node(reason, message), now);
            }
            (effect, Err(_)) => {
                if let Effect::CreateJob(job) = effect {
                    self.forget(&job.name_any());
                }
                self.paused_until = later(now, PAUSE_MS);
            }
            _ => {}
        }
    }

    fn created(&mut self, name: &str, now: Timestamp) {
        if let Some(planned) = &mut self.planned
            && let Some(active) = planned.index.get(name).and_then(|index| planned.active.get_mut(index))
        {
            active.since = active.since.max(now);
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(planned) = &mut self.planned
            && let Some(index) = planned.index.get(name)
        {
            planned.active.remove(index);
        }
    }

    fn end_by_job(&mut self, name: &str, end: End, now: Timestamp) {
        self.forget(name);
        if let Some(planned) = &mut self.planned
            && let Some(index) = planned.index.get(name).copied()
        {
            let node = planned.spec.nodes[index].clone();
            planned.record.end(index, &node, end, now);
        }
    }

    /// What should be done now.
    pub(super) fn step(&mut self, task: &PrewarmTask, view: &View<'_>, metrics: &Metrics) -> Vec<Effect> {
        if self.paused_until.is_some_and(|until| view.now < until) {
            return Vec::new();
        }
        self.paused_until = None;
        let mut effects = Vec::new();
        if let Err(problems) = &self.valid {
            let message = problems.join("; ");
            self.conclude(Phase::Failed, "InvalidSpec", &message, task, view.now);
        } else if task.spec.cancel {
            self.cancel(task, view, &mut effects);
        } else if self.planned.is_none() {
            self.begin(task, view, &mut effects);
        }
        if self.planned.is_some() && !task.spec.cancel {
            self.advance(task, view, metrics, &mut effects);
        }
        self.write(view.now, &mut effects);
        effects.retain(|effect| self.inflight.insert(key(effect)));
        effects
    }

    fn cancel(&mut self, task: &PrewarmTask, view: &View<'_>, effects: &mut Vec<Effect>) {
        if view.jobs().any(|job| !job.deleting) {
            effects.push(Effect::DeleteAll);
        }
        // A creation under way would come after the deletion: it is waited for.
        if view.jobs().next().is_some() || self.inflight.iter().any(|key| key.starts_with("job/")) {
            self.phase(Phase::Finalizing, "Cancelling", "its Jobs are being deleted", task, view.now);
        } else {
            self.conclude(Phase::Cancelled, "Cancelled", "cancelled by spec.cancel", task, view.now);
        }
    }

    /// Chooses the nodes and records them, before the first Job.
    fn begin(&mut self, task: &PrewarmTask, view: &View<'_>, effects: &mut Vec<Effect>) {
        let Ok(valid) = &self.valid else { return };
        if let Some(spec) = view.plan {
            self.planned = Some(planned(task, valid, Arc::clone(spec), &self.status));
            return;
        }
        if !self.has_begun() && !view.may_begin {
            let (reason, message) = if task.spec.suspend {
                ("Suspended", "held by spec.suspend")
            } else {
                ("Queued", "waits until fewer tasks run")
            };
            self.phase(Phase::Pending, reason, message, task, view.now);
            return;
        }
        let spec = Arc::new(plan(valid, view.nodes.values()));
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

    /// Works on the batch that is at work; goes on to the next; ends the task.
    fn advance(&mut self, task: &PrewarmTask, view: &View<'_>, metrics: &Metrics, effects: &mut Vec<Effect>) {
        let (Some(planned), Ok(valid)) = (&mut self.planned, &self.valid) else { return };
        if self.status.start_time.is_none() {
            self.status.start_time = Some(seconds(view.now));
        }
        let overdue = overdue(self.status.start_time.as_deref(), valid, view.now);
        let mut worker = Stepper { task, valid, planned, view, metrics, recorded: self.written.node_states.as_bytes() };
        loop {
            let range = worker.range();
            range.clone().for_each(|index| worker.observe(index, overdue));
            worker.reap(&range, effects);
            if !worker.batch_is_over(&range) {
                if !task.spec.suspend {
                    worker.dispatch(&range, effects);
                }
                break;
            }
            if worker.planned.batch + 1 >= worker.batches() {
                break;
            }
            worker.planned.batch += 1;
        }
        let over = worker.batch_is_over(&worker.range());
        let (batch, batches) = (worker.planned.batch, worker.batches());
        self.status.current_batch_index = u32::try_from(batch).unwrap_or(u32::MAX);
        self.status.total_batches = u32::try_from(batches).unwrap_or(u32::MAX);
        self.status.ignored_nodes.clone_from(&planned.spec.ignored);
        self.status.ignored_node_count = planned.spec.ignored_count;
        planned.record.fill(&mut self.status);
        let (all, summary) = (planned.record.all_ended(), planned.record.summary());
        let warm = u64::from(planned.record.succeeded()) * 100;
        let needed = u64::from(valid.success_threshold) * planned.spec.nodes.len() as u64;
        let threshold = valid.success_threshold;
        if all && over {
            if warm >= needed {
                self.conclude(Phase::Completed, "Completed", &summary, task, view.now);
            } else {
                let message = format!("{summary}; {threshold}% were asked for");
                self.conclude(Phase::Failed, "SuccessThresholdNotReached", &message, task, view.now);
            }
        } else if all {
            self.phase(Phase::Finalizing, "Finalizing", "every node has ended; Jobs are being deleted", task, view.now);
        } else if task.spec.suspend {
            self.phase(Phase::Running, "Suspended", "held by spec.suspend; nodes at work go on", task, view.now);
        } else {
            self.status.estimated_completion = estimate(&self.status, view.now);
            let message = format!("batch {} of {batches}", batch + 1);
            self.phase(Phase::Running, "Running", &message, task, view.now);
        }
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
        self.status.phase = phase;
        self.status.observed_generation = generation;
        self.status.conditions = conditions::compute(&self.written.conditions, phase, reason, message, generation, now);
    }

    /// The status, if it is news and the last was written long enough ago.
    fn write(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let too_soon = self.written_at.and_then(|at| later(at, WRITE_INTERVAL_MS)).is_some_and(|next| now < next);
        let writing = self.inflight.contains("status");
        if self.status == self.written || too_soon || writing {
            return;
        }
        self.written_at = Some(now);
        effects.push(Effect::WriteStatus(Box::new(self.status.clone()), self.version.clone()));
    }
}

fn tell(metrics: &Metrics, status: &PrewarmTaskStatus, now: Timestamp) {
    let phase = status.phase.as_str().to_lowercase();
    metrics.tasks.with_label_values(&[&phase]).inc();
    if let Some(start) = status.start_time.as_deref().and_then(|time| time.parse::<Timestamp>().ok()) {
        metrics.task_duration.observe(now.duration_since(start).as_secs_f64());
    }
}

/// What an effect is known by while it is under way.
fn key(effect: &Effect) -> String {
    match effect {
        Effect::CreatePlan(_) => "plan".into(),
        Effect::CreateJob(job) => format!("job/{}", job.name_any()),
        Effect::DeleteJob(name) => format!("delete/{name}"),
        Effect::DeleteBatch(batch) => format!("delete-batch/{batch}"),
        Effect::DeleteAll => "delete-all".into(),
        Effect::WriteStatus(..) => "status".into(),
        Effect::DeleteTask => "delete-task".into(),
    }
}

fn later(time: Timestamp, milliseconds: i64) -> Option<Timestamp> {
    time.checked_add(k8s_openapi::jiff::SignedDuration::from_millis(milliseconds)).ok()
}

fn overdue(start: Option<&str>, valid: &ValidTask, now: Timestamp) -> bool {
    let start = start.and_then(|time| time.parse::<Timestamp>().ok());
    match (start, valid.deadline) {
        (Some(start), Some(deadline)) => now.duration_since(start).unsigned_abs() >= deadline && now > start,
        _ => false,
    }
}

/// By the pace so far; none before the first node has ended.
fn estimate(status: &PrewarmTaskStatus, now: Timestamp) -> Option<String> {
    let start: Timestamp = status.start_time.as_deref()?.parse().ok()?;
    let ended = status.succeeded_nodes + status.failed_node_count + status.skipped_nodes;
    let left = status.total_nodes.checked_sub(ended)?;
    let per_node = now.duration_since(start).as_millis().checked_div(i128::from(ended))?;
    let left = i64::try_from(per_node * i128::from(left)).ok()?;
    later(now, left).map(seconds)
}

fn planned(task: &PrewarmTask, valid: &ValidTask, spec: Arc<PrewarmPlanSpec>, status: &PrewarmTaskStatus) -> Planned {
    let (namespace, name, uid) = names(task);
    let job = |node: &String| {
        let method = valid.pull_method;
        Assignment { namespace: &namespace, task: &name, uid: &uid, batch: 0, node, method }.job_name()
    };
    let names: Vec<String> = spec.nodes.iter().map(job).collect();
    let index = names.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect();
    let record = Record::restore(spec.nodes.len(), &valid.images, status);
    Planned { spec, names, index, record, active: HashMap::new(), batch: 0 }
}

fn names(task: &PrewarmTask) -> (String, String, String) {
    (task.namespace().unwrap_or_default(), task.name_any(), task.uid().unwrap_or_default())
}

/// The work on one batch.
struct Stepper<'a> {
    task: &'a PrewarmTask,
    valid: &'a ValidTask,
    planned: &'a mut Planned,
    view: &'a View<'a>,
    metrics: &'a Metrics,
    /// The letters that the API server has.
    recorded: &'a [u8],
}

impl Stepper<'_> {
    /// A sliding window has one stretch of nodes, the whole plan.
    fn batches(&self) -> usize {
        if self.valid.batch_policy == BatchPolicy::Rolling { 1 } else { self.planned.spec.batches.len() }
    }

    fn range(&self) -> Range<usize> {
        if self.valid.batch_policy == BatchPolicy::Rolling {
            return 0..self.planned.spec.nodes.len();
        }
        let sizes = &self.planned.spec.batches;
        let start: usize = sizes.iter().take(self.planned.batch).map(|size| *size as usize).sum();
        let size = sizes.get(self.planned.batch).copied().unwrap_or(0) as usize;
        start..start + size
    }

    fn batch_label(&self) -> u32 {
        if self.valid.batch_policy == BatchPolicy::Rolling {
            return 0;
        }
        u32::try_from(self.planned.batch).unwrap_or(u32::MAX)
    }

    fn is_recorded(&self, index: usize) -> bool {
        self.recorded.get(index).is_some_and(|letter| *letter != b'.')
    }

    /// Every node has ended, its result is in the API server, and no Job is left.
    fn batch_is_over(&self, range: &Range<usize>) -> bool {
        range.clone().all(|index| {
            self.planned.record.has_ended(index)
                && self.is_recorded(index)
                && self.view.job(&self.planned.names[index]).is_none()
        })
    }

    /// Looks at one node's Job and pod.
    fn observe(&mut self, index: usize, overdue: bool) {
        if self.planned.record.has_ended(index) {
            return;
        }
        let job = self.view.job(&self.planned.names[index]);
        let end = if overdue {
            Some(End::Node(Reason::Timeout, "the task's deadline is over".into()))
        } else if let Some(job) = job {
            let since = self.since(index, job);
            self.planned.active.insert(index, Active { since, seen: true });
            self.judge(index, job, since)
        } else {
            self.vanished(index);
            None
        };
        if let Some(end) = end {
            self.count(index, &end);
            let node = self.planned.spec.nodes[index].clone();
            self.planned.active.remove(&index);
            self.planned.record.end(index, &node, end, self.view.now);
        }
    }

    fn since(&self, index: usize, job: &JobFacts) -> Timestamp {
        let known = self.planned.active.get(&index).map(|active| active.since);
        job.created.or(known).unwrap_or(self.view.now)
    }

    /// A Job that was there and is not, or that never came, is made again.
    fn vanished(&mut self, index: usize) {
        let lost =
            |active: &Active| active.seen || later(active.since, UNSEEN_MS).is_some_and(|limit| limit < self.view.now);
        if self.planned.active.get(&index).is_some_and(lost) {
            self.planned.active.remove(&index);
        }
    }

    /// Whether the node has ended, and how.
    fn judge(&self, index: usize, job: &JobFacts, since: Timestamp) -> Option<End> {
        let node = &self.planned.spec.nodes[index];
        if !self.view.nodes.contains_key(node) {
            return Some(End::Node(Reason::NodeLost, "the node was deleted while it was being warmed".into()));
        }
        let late = self.view.now > since && self.view.now.duration_since(since).unsigned_abs() >= self.valid.timeout;
        let pod = self.view.pods.get(&(job.namespace.clone(), job.name.clone()));
        let Some(pod) = pod else {
            return match &job.failed {
                Some((reason, message)) => Some(End::Node(failed_job(reason), format!("{reason}: {message}"))),
                None if late => Some(End::Node(
                    Reason::Timeout,
                    "the Job made no pod in time: its events say why (a quota or an admission policy may refuse it)"
                        .into(),
                )),
                None => None,
            };
        };
        match read(pod, &self.valid.images, &self.view.worker.image) {
            PodOutcome::Node(reason, message) => Some(End::Node(reason, message)),
            PodOutcome::Images(outcomes) => {
                let open = outcomes.iter().any(|outcome| matches!(outcome, ImageOutcome::Open(_)));
                (!open || late || job.failed.is_some()).then_some(End::Images(outcomes))
            }
        }
    }

    fn count(&self, index: usize, end: &End) {
        let image = |result: &str, count: usize| {
            self.metrics.images.with_label_values(&[result]).inc_by(count as u64);
        };
        let result = match end {
            End::Skipped(..) => "skipped",
            End::Node(..) => {
                image("failed", self.valid.images.len());
                "failed"
            }
            End::Images(outcomes) => {
                let warm = outcomes.iter().filter(|outcome| matches!(outcome, ImageOutcome::Warm(_))).count();
                image("succeeded", warm);
                image("failed", outcomes.len() - warm);
                if warm == outcomes.len() { "succeeded" } else { "failed" }
            }
        };
        self.metrics.nodes.with_label_values(&[result]).inc();
        if let Some(active) = self.planned.active.get(&index) {
            self.metrics.pull_duration.observe(self.view.now.duration_since(active.since).as_secs_f64());
        }
    }

    /// Deletes Jobs whose results are in the API server: failed nodes' at once, because their pods would wait for ever;
    /// the others' with their batch, by one request.
    fn reap(&self, range: &Range<usize>, effects: &mut Vec<Effect>) {
        let rolling = self.valid.batch_policy == BatchPolicy::Rolling;
        let done = |index: usize| self.planned.record.has_ended(index) && self.is_recorded(index);
        let left: Vec<usize> = range
            .clone()
            .filter(|index| self.view.job(&self.planned.names[*index]).is_some_and(|job| !job.deleting))
            .collect();
        if left.is_empty() {
            return;
        }
        if !rolling && range.clone().all(done) {
            effects.push(Effect::DeleteBatch(self.batch_label()));
            return;
        }
        let single =
            left.into_iter().filter(|index| done(*index) && (rolling || self.planned.record.has_failed(*index)));
        effects.extend(single.map(|index| Effect::DeleteJob(self.planned.names[index].clone())));
    }

    /// Starts nodes while fewer than `batchSize` Jobs are alive.
    fn dispatch(&mut self, range: &Range<usize>, effects: &mut Vec<Effect>) {
        let limit = self.valid.batch_size.of(self.planned.spec.nodes.len());
        let unseen = self.planned.active.values().filter(|active| !active.seen).count();
        let mut alive = self.view.jobs().count() + unseen;
        for index in range.clone() {
            if alive >= limit {
                return;
            }
            if self.planned.record.has_ended(index) || self.planned.active.contains_key(&index) {
                continue;
            }
            let node = self.planned.spec.nodes[index].clone();
            if let Some(end) = self.unfit(&node) {
                self.count(index, &end);
                self.planned.record.end(index, &node, end, self.view.now);
            } else if !self.view.busy.contains(&node) {
                effects.push(Effect::CreateJob(Box::new(self.job(&node))));
                self.planned.active.insert(index, Active { since: self.view.now, seen: false });
                alive += 1;
            }
        }
    }

    /// A node that has become unfit since it was chosen is not tried.
    fn unfit(&self, node: &str) -> Option<End> {
        let Some(facts) = self.view.nodes.get(node) else {
            return Some(End::Skipped(Reason::NodeLost, "the node was deleted before its turn".into()));
        };
        let obstacle = self.valid.demand.obstacle(facts)?;
        let message = format!("the node became unfit before its turn: {}", obstacle.as_str());
        Some(End::Skipped(Reason::NodeRefused, message))
    }

    fn job(&self, node: &str) -> Job {
        let (namespace, task, uid) = names(self.task);
        let method = self.view.nodes.get(node).map_or(self.valid.pull_method, |facts| method_for(self.valid, facts));
        let batch = self.batch_label();
        let at = Assignment { namespace: &namespace, task: &task, uid: &uid, batch, node, method };
        build(self.valid, &at, self.view.worker)
    }
}

fn failed_job(reason: &str) -> Reason {
    if reason == "DeadlineExceeded" { Reason::Timeout } else { Reason::Unknown }
}

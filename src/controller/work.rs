//! One look at all nodes of a planned task: what has ended, what is to be removed, what may start. *Pure.*

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use k8s_openapi::jiff::Timestamp;

use super::{
    Settings, Shared, WorkerNamespace,
    effect::{Creation, Effect, Target},
    judge::{Judge, Judgement},
    known::Scope,
    limits::Full,
    planned::{Planned, after, at_once, later, may_go_away},
    record::End,
    view::View,
    world::{is_alive, may_pull},
};
use crate::{
    node::Facts,
    task::{
        BatchPolicy, PrewarmTaskStatus,
        batches::{Batches, NodeState, batches},
        validate::ValidTask,
    },
    trace::{self, Span},
    worker::{Assignment, ImageOutcome, Reason, Worker, WorkerFacts, build, method_for},
};

/// The API server is asked why a Job has no pod at most this often, in milliseconds: often enough that a refusal is known
/// within seconds, and one request for all nodes of the task.
const PROBE_INTERVAL_MS: i64 = 5_000;

/// Further batches that may end in one look: 5,000 nodes of which one at a time is worked on.
const MAX_BATCHES_AT_ONCE: usize = 5_000;

/// Which batch is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) current: u32,
    pub(super) total: u32,
    retrying: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.retrying { "further batch" } else { "batch" };
        write!(f, "{what} {} of {}", self.current.saturating_add(1), self.total)
    }
}

/// The work on a task, for one step.
pub(super) struct Work<'a> {
    target: &'a Target,
    valid: &'a ValidTask,
    planned: &'a mut Planned,
    view: &'a View<'a>,
    shared: &'a mut Shared,
    /// The letters that the API server has.
    recorded: &'a [u8],
    hosts: &'a [String],
    at_once: usize,
    /// Workers of each node's present try.
    at: BTreeMap<usize, Vec<&'a WorkerFacts>>,
    /// Which batch was at work when the step began.
    begun: Batches,
    urgent: bool,
    /// Why no further worker was started, where a limit of the whole cluster says so.
    full: Option<Full>,
}

/// What came of an attempt to start a node's worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    /// It was started, or needs none, or waits for something that passes.
    Settled,
    /// The node is at work for another task.
    Busy,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        target: &'a Target,
        valid: &'a ValidTask,
        planned: &'a mut Planned,
        view: &'a View<'a>,
        shared: &'a mut Shared,
        written: &'a PrewarmTaskStatus,
        hosts: &'a [String],
    ) -> Self {
        planned.tire(view.now);
        let at_once = at_once(&planned.spec, valid);
        let begun = batches(planned.record.letters(), valid.batch_policy, at_once);
        let mut at: BTreeMap<usize, Vec<&WorkerFacts>> = BTreeMap::new();
        for worker in view.workers() {
            let Some(index) = planned.index_of(&worker.node) else { continue };
            planned.seen(index, &worker.name);
            if let Some(node) = view.nodes.get(&worker.node) {
                planned.meet(index, node.identity);
            }
            if view.pods.contains_key(&worker.key()) {
                planned.has_pod();
            }
            if planned.record.state(index).attempt() == worker.attempt {
                at.entry(index).or_default().push(worker);
            }
        }
        planned.seen_alive = view.workers().filter(|worker| is_alive(worker)).count();
        let recorded = written.node_states.as_bytes();
        Self { target, valid, planned, view, shared, recorded, hosts, at_once, at, begun, urgent: false, full: None }
    }

    /// Whether something waits for the status to be written.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent || self.batches() != self.begun
    }

    fn batches(&self) -> Batches {
        batches(self.planned.record.letters(), self.valid.batch_policy, self.at_once)
    }

    /// Where the task stands.
    pub(super) fn place(&self) -> Place {
        let batches = self.batches();
        let total = batches.total.saturating_add(self.planned.retry_batches);
        let current = batches.current.map_or(total.saturating_sub(1), |batch| batch.index);
        Place { current, total, retrying: self.planned.retry_batches > 0 }
    }

    /// Which limit of the cluster or of the namespace keeps further workers from being started.
    pub(super) fn full(&self) -> Option<Full> {
        self.full
    }

    /// Learns from the pods which registries answer.
    fn ask_around(&mut self) {
        let Planned { record, registries, .. } = &mut *self.planned;
        for (index, workers) in &self.at {
            let state = record.state(*index);
            if state.is_final() {
                continue;
            }
            for pod in workers.iter().filter_map(|worker| self.view.pods.get(&worker.key())) {
                registries.see(*index, state.attempt(), pod, &self.valid.images);
            }
        }
        // Where a registry has just been found not to answer, some of those that ask it go on.
        if registries.probes_left().is_some() {
            for (index, workers) in &self.at {
                let state = record.state(*index);
                let asked: Vec<usize> =
                    workers.iter().flat_map(|worker| worker.asked.iter()).map(|image| usize::from(*image)).collect();
                let may = asked.iter().all(|image| !registries.puts_off(*image, *index, state.attempt()));
                if may && !state.is_final() {
                    registries.ask(*index, asked);
                }
            }
        }
    }

    /// Looks at the workers there are, and notes what has ended.
    pub(super) fn observe(&mut self, overdue: bool) {
        self.ask_around();
        let open: Vec<usize> = self.at.keys().copied().filter(|index| !self.state(*index).is_final()).collect();
        let mut dismissed = false;
        for index in open {
            match self.judge(index) {
                Judgement::End(end) => self.end(index, end, !overdue),
                Judgement::Refused(refused)
                    if !dismissed
                        && may_go_away(
                            &self.shared.settings,
                            self.valid,
                            self.planned,
                            (refused.reason, &refused.message),
                        ) =>
                {
                    self.planned.go_away(refused.message);
                    dismissed = true;
                }
                Judgement::Refused(_) if dismissed => {}
                Judgement::Refused(refused) => {
                    self.planned.count_refusal();
                    self.end(index, End::Node(refused.reason, refused.message), !overdue);
                }
                Judgement::Open | Judgement::Podless | Judgement::Start(..) | Judgement::Settle(..) => {}
            }
        }
        if overdue {
            let left = 0..self.planned.spec.nodes.len();
            for index in left.filter(|index| !self.planned.record.state(*index).is_final()).collect::<Vec<_>>() {
                let message = "the task's deadline is over".to_owned();
                self.end(index, End::Node(Reason::Timeout, message), false);
            }
        }
    }

    /// The task is not needed any more: nodes that are not at work are left out, and those that are come to their end.
    pub(super) fn abandon(&mut self) {
        let idle = |index: &usize| {
            !self.state(*index).is_final() && !self.at.contains_key(index) && !self.planned.is_unseen(*index)
        };
        let left: Vec<usize> = (0..self.planned.spec.nodes.len()).filter(idle).collect();
        for index in left {
            self.end(index, End::Abandoned, false);
        }
    }

    fn state(&self, index: usize) -> NodeState {
        self.planned.record.state(index)
    }

    fn judge(&self, index: usize) -> Judgement {
        let judge = Judge {
            valid: self.valid,
            planned: self.planned,
            view: self.view,
            settings: &self.shared.settings,
            known: &self.shared.known,
            scope: Scope::new(&self.target.namespace, self.valid),
        };
        judge.node(index, self.at.get(&index).map_or(&[], Vec::as_slice))
    }

    fn end(&mut self, index: usize, end: End, again: bool) {
        let since = self.at.get(&index).and_then(|workers| workers.iter().filter_map(|worker| worker.since).min());
        if let End::Images(outcomes) | End::Behind(outcomes) = &end {
            self.learn(index, outcomes);
        }
        let namespace = &self.target.namespace;
        let state = note(self.planned, self.valid, self.shared, index, end, again, self.view.now);
        if let Some(since) = since {
            self.shared.metrics.pull_duration.observe(self.view.now.duration_since(since).as_secs_f64());
            let node = self.planned.node(index);
            let attributes = [("namespace", namespace.as_str()), ("node", node), ("state", state.as_str())];
            let (task_uid, end) = (self.target.uid.as_str(), self.view.now);
            trace::tell(&Span { name: "pull", task_uid, start: since, end, attributes: &attributes });
        }
        self.at.remove(&index);
        // The workers of failed nodes go only when the failure is in the status, and until then others must wait.
        self.urgent |= !matches!(state, NodeState::Succeeded | NodeState::AlreadyWarm);
    }

    /// Remembers what is on a node now, if it is the machine that the workers were seen on, and what the namespace was given there.
    fn learn(&mut self, index: usize, outcomes: &[ImageOutcome]) {
        let (now, scope) = (self.view.now, Scope::new(&self.target.namespace, self.valid));
        let node = self.planned.spec.nodes.get(index).and_then(|node| self.view.nodes.get(node));
        let same = |node: &&Facts| node.ready && self.planned.met(index).is_none_or(|met| met == node.identity);
        let node = node.filter(same).map(|node| node.identity);
        let workers = self.at.get(&index).map_or(&[][..], Vec::as_slice);
        for (at, (image, outcome)) in (0u16..).zip(self.valid.images.iter().zip(outcomes)) {
            if !matches!(outcome, ImageOutcome::Warm(_)) {
                continue;
            }
            if let Some(node) = node {
                self.shared.known.learn(scope, node, image, now);
            }
            if let Some(worker) = workers.iter().find(|worker| worker.asked.contains(&at)) {
                // Workers in our own namespace have no credentials.
                let of = if worker.is_away() { Scope::ANYBODY } else { scope };
                self.shared.known.prove(of, image, now);
            }
        }
    }

    /// Removes workers whose results are in the API server: those of failed nodes at once, because their pods would wait for
    /// ever; the others with their batch, by one request. Those to be retained stay.
    pub(super) fn reap(&mut self, effects: &mut Vec<Effect>) {
        let mut groups: BTreeMap<(&str, u32), Vec<(&WorkerFacts, bool)>> = BTreeMap::new();
        for worker in self.view.workers().filter(|worker| !worker.deleting && !self.is_kept(worker)) {
            groups
                .entry((&worker.namespace, worker.batch))
                .or_default()
                .push((worker, self.planned.is_recorded(worker, self.recorded)));
        }
        let retains = !self.valid.retain.is_zero();
        let mut wanted = Vec::new();
        for ((namespace, batch), workers) in groups {
            let whole = !retains
                && !(self.view.contested)(namespace)
                && !self.is_open(batch)
                && workers.iter().all(|(_, done)| *done);
            if whole {
                wanted.push(Effect::DeleteMany(self.valid.worker, namespace.to_owned(), Some(batch)));
                continue;
            }
            let single = workers.into_iter().filter(|(worker, done)| {
                let singly = retains || (self.view.contested)(namespace);
                self.is_misplaced(worker) || *done && (singly || may_pull(worker, self.view.pods))
            });
            wanted.extend(single.map(|(worker, _)| Effect::delete(worker)));
        }
        let now = self.view.now;
        effects.extend(wanted.into_iter().filter(|effect| self.planned.delete_now(effect.key(), now)));
    }

    /// Whether workers with this label may still come.
    fn is_open(&self, label: u32) -> bool {
        let current = self.batches().current.is_some_and(|batch| match self.valid.batch_policy {
            BatchPolicy::Rolling => batch
                .nodes
                .clone()
                .any(|index| self.label(batch.index, index) == label && self.state(index) == NodeState::Waiting),
            BatchPolicy::Barrier | BatchPolicy::Doubling => batch.index == label,
        });
        let retrying = !self.planned.retry_batch.is_empty() && self.retry_label() == label;
        current || retrying || self.planned.expects(label)
    }

    /// The label of the present batch of further tries: beyond those of all first tries.
    fn retry_label(&self) -> u32 {
        let first = match self.valid.batch_policy {
            BatchPolicy::Barrier => self.batches().total,
            // How these are cut changes with what succeeds.
            BatchPolicy::Rolling | BatchPolicy::Doubling => {
                u32::try_from(self.planned.spec.nodes.len()).unwrap_or(u32::MAX)
            }
        };
        first.saturating_add(self.planned.retry_batches).saturating_sub(1)
    }

    /// Whether the worker waits where nothing is taken while others go elsewhere.
    fn is_misplaced(&self, worker: &WorkerFacts) -> bool {
        self.planned.away.is_some()
            && worker.namespace == self.target.namespace
            && !self.view.pods.contains_key(&worker.key())
            && !worker.finished
    }

    /// Whether the worker stays, to hold its images against the kubelet's garbage collection.
    fn is_kept(&self, worker: &WorkerFacts) -> bool {
        let good = |index: usize| self.state(index) == NodeState::Succeeded;
        !self.valid.retain.is_zero()
            && !may_pull(worker, self.view.pods)
            && self.planned.index_of(&worker.node).is_some_and(good)
    }

    /// Whether workers are left that have to go.
    pub(super) fn is_left(&self) -> bool {
        self.view.workers().any(|worker| !self.is_kept(worker)) || self.planned.has_unseen()
    }

    /// Starts what may start.
    pub(super) fn dispatch(&mut self, effects: &mut Vec<Effect>) {
        self.probe(effects);
        // Nodes that end without a worker may end whole batches: at most as many rounds as there are batches.
        while let Some(batch) = self.batches().current {
            for index in batch.nodes.clone() {
                let label = self.label(batch.index, index);
                // A sliding window goes past a busy node by itself.
                if self.start(index, label, effects) == Started::Busy && self.valid.batch_policy != BatchPolicy::Rolling
                {
                    self.put_behind(index);
                }
            }
            if self.is_waiting(&batch.nodes) {
                return;
            }
            self.urgent = true;
        }
        // Each further batch that ends at once is followed by the next: no node comes twice in one look, as those that are
        // tried again wait first.
        for _ in 0..MAX_BATCHES_AT_ONCE {
            if !self.retry(effects) {
                return;
            }
        }
    }

    /// Puts a node behind that is at work for another task, unless its own work has begun: the batch goes on without it.
    fn put_behind(&mut self, index: usize) {
        if self.at.contains_key(&index)
            || self.planned.begun(index).is_some()
            || self.state(index) != NodeState::Waiting
        {
            return;
        }
        self.planned.record.put_behind(index);
        self.shared.metrics.nodes_deferred.inc();
        self.urgent = true;
    }

    fn is_waiting(&self, nodes: &Range<usize>) -> bool {
        nodes.clone().any(|index| self.state(index) == NodeState::Waiting)
    }

    /// A sliding window is labelled in stretches, so that its workers too can be removed by one request for many.
    fn label(&self, batch: u32, index: usize) -> u32 {
        let stretch =
            || index.checked_div(self.at_once).and_then(|stretch| u32::try_from(stretch).ok()).unwrap_or(u32::MAX);
        if self.valid.batch_policy == BatchPolicy::Rolling { stretch() } else { batch }
    }

    /// Works on the nodes that failed or were put behind, in batches of their own. Whether such a batch has ended at once.
    fn retry(&mut self, effects: &mut Vec<Effect>) -> bool {
        let Planned { record, retry_batch, .. } = &mut *self.planned;
        retry_batch.retain(|index, attempt| record.state(*index) == NodeState::Retrying(*attempt));
        if retry_batch.is_empty() {
            let next = self.next_retries();
            if next.is_empty() {
                return false;
            }
            let Planned { record, retry_batch, retry_batches, .. } = &mut *self.planned;
            retry_batch.extend(next.into_iter().map(|index| (index, record.state(index).attempt())));
            *retry_batches = retry_batches.saturating_add(1);
            self.urgent = true;
        }
        let nodes: Vec<usize> = self.planned.retry_batch.keys().copied().collect();
        let label = self.retry_label();
        for index in nodes {
            if self.start(index, label, effects) == Started::Busy {
                // It has its turn again when it is free.
                self.planned.retry_batch.remove(&index);
            }
        }
        let Planned { record, retry_batch, .. } = &mut *self.planned;
        retry_batch.retain(|index, attempt| record.state(*index) == NodeState::Retrying(*attempt));
        retry_batch.is_empty()
    }

    /// The nodes of the next further batch: those with the fewest tries come first, and wait for one another. Nodes that are
    /// at work for another task are passed over. Where a registry does not answer, only as many as may ask it.
    fn next_retries(&self) -> Vec<usize> {
        let Planned { record, retry_at, registries, .. } = &*self.planned;
        let attempt = |index: usize| record.state(index).attempt();
        let most = registries.probes_left().unwrap_or(self.at_once).min(self.at_once);
        let (task, namespace) = (&*self.target.uid, &*self.target.namespace);
        let free = |index: &usize| {
            let node = self.planned.spec.nodes.get(*index).map(String::as_str).unwrap_or_default();
            self.shared.room.is_free(node, task, namespace) != Err(Full::Node)
        };
        let mut levels: Vec<u8> = record.retrying().map(attempt).collect();
        levels.sort_unstable();
        levels.dedup();
        for level in levels {
            let next: Vec<usize> =
                record.retrying().filter(|index| attempt(*index) == level).filter(free).take(most).collect();
            let due = |index: &usize| retry_at.get(index).is_none_or(|at| *at <= self.view.now);
            if !next.iter().all(due) {
                return Vec::new();
            }
            if !next.is_empty() {
                return next;
            }
        }
        Vec::new()
    }

    /// Starts a node's next worker, if there is one to start and room for it; ends the node, if nothing needs to be pulled.
    fn start(&mut self, index: usize, batch: u32, effects: &mut Vec<Effect>) -> Started {
        if self.state(index).is_final() || self.planned.is_unseen(index) {
            return Started::Settled;
        }
        if let Some(end) = self.unfit(index) {
            self.end(index, end, false);
            return Started::Settled;
        }
        let (part, asked) = match self.judge(index) {
            Judgement::Start(part, asked) => (part, asked),
            Judgement::End(end) => {
                self.end(index, end, true);
                return Started::Settled;
            }
            Judgement::Settle(part, outcomes) => {
                self.settle(index, part, outcomes, effects);
                return Started::Settled;
            }
            Judgement::Open | Judgement::Podless | Judgement::Refused(_) => return Started::Settled,
        };
        if let Some(refused) = self.planned.barred().cloned() {
            self.end(index, End::Node(refused.reason, refused.message), true);
            return Started::Settled;
        }
        let namespace = self.namespace();
        let node = self.planned.node(index).to_owned();
        if self.planned.alive() >= self.at_once {
            return Started::Settled;
        }
        match self.shared.room.take(&node, &self.target.uid, &self.target.namespace, self.hosts) {
            Ok(()) => {}
            Err(Full::Node) => return Started::Busy,
            Err(full) => {
                self.full = Some(full).filter(|full| *full != Full::Own).or(self.full);
                return Started::Settled;
            }
        }
        let creation = match Creation::new(&self.build(index, &namespace, batch, part, &asked)) {
            Ok(creation) => creation,
            Err(error) => {
                self.end(index, End::Node(Reason::Unknown, error.to_string()), false);
                return Started::Settled;
            }
        };
        self.planned.registries.ask(index, asked);
        self.planned.asked_for(index, &creation.name, batch, self.view.now);
        effects.push(Effect::Create(Box::new(creation)));
        Started::Settled
    }

    /// Keeps what a part has come to, and removes its worker.
    fn settle(&mut self, index: usize, part: u16, outcomes: Vec<ImageOutcome>, effects: &mut Vec<Effect>) {
        let workers = self.at.get(&index).into_iter().flatten().filter(|worker| worker.part == part);
        effects.extend(workers.map(|worker| Effect::delete(worker)));
        self.planned.settle(index, part, outcomes);
    }

    /// A node that has become unfit since it was chosen is not tried; one that is at work is left to it.
    fn unfit(&self, index: usize) -> Option<End> {
        if self.at.contains_key(&index) {
            return None;
        }
        let first = self.state(index).attempt() == 0;
        let end = |reason, message: String| {
            Some(if first { End::Skipped(reason, message) } else { End::Node(reason, message) })
        };
        let Some(facts) = self.view.nodes.get(self.planned.node(index)) else {
            return end(Reason::NodeLost, "the node was deleted before its turn".into());
        };
        let obstacle = self.valid.demand.obstacle(facts)?;
        end(Reason::NodeRefused, format!("the node became unfit before its turn: {}", obstacle.as_str()))
    }

    /// Where workers go.
    fn namespace(&self) -> String {
        let Settings { worker_namespace, own_namespace, .. } = &*self.shared.settings;
        let own = *worker_namespace == WorkerNamespace::Own && !self.valid.has_credentials();
        if own || self.planned.away.is_some() { own_namespace.clone() } else { self.target.namespace.clone() }
    }

    fn build(&self, index: usize, namespace: &str, batch: u32, part: u16, asked: &[usize]) -> Worker {
        let node = self.planned.node(index);
        let method = self.view.nodes.get(node).map_or(self.valid.pull_method, |facts| method_for(self.valid, facts));
        let at = Assignment {
            namespace,
            task_namespace: &self.target.namespace,
            task: &self.target.name,
            uid: &self.target.uid,
            batch,
            node,
            attempt: self.state(index).attempt(),
            part,
            asked,
            method,
        };
        build(self.valid, &at, &self.shared.settings.worker)
    }

    /// Asks by a dry run why a Job has no pod, where one has none.
    fn probe(&mut self, effects: &mut Vec<Effect>) {
        let due =
            self.planned.probed_at.and_then(|at| later(at, PROBE_INTERVAL_MS)).is_none_or(|at| at <= self.view.now);
        if !due || self.planned.alive() == 0 {
            return;
        }
        let podless = self.at.iter().find(|(index, _)| self.judge(**index) == Judgement::Podless);
        let Some((index, worker)) = podless.and_then(|(index, workers)| Some((*index, *workers.last()?))) else {
            return;
        };
        let asked: Vec<usize> = worker.asked.iter().map(|index| usize::from(*index)).collect();
        let built = self.build(index, &worker.namespace, worker.batch, worker.part, &asked);
        self.planned.probed_at = Some(self.view.now);
        effects.push(Effect::Probe(Box::new(built.to_pod())));
    }
}

/// Notes the end of a try on a node, with all that follows from it: another try, where `again` and the retry rule allow one.
/// Where the node stands then.
#[allow(clippy::too_many_arguments, reason = "called from two places with different parts of a task borrowed")]
pub(super) fn note(
    planned: &mut Planned,
    valid: &ValidTask,
    shared: &mut Shared,
    index: usize,
    end: End,
    again: bool,
    now: Timestamp,
) -> NodeState {
    let spec = Arc::clone(&planned.spec);
    let node = spec.nodes.get(index).map_or("", String::as_str);
    let attempt = planned.record.state(index).attempt();
    let behind = matches!(end, End::Behind(_));
    let again = again && (behind || attempt < valid.retry.limit);
    let mut warm = 0;
    if let End::Images(outcomes) = &end {
        let tries = u32::from(valid.retry.limit).saturating_add(1);
        for (image, reason, message) in planned.registries.ended(index, attempt, outcomes, tries) {
            planned.record.give_up(image, reason, &message);
        }
    }
    if let End::Images(outcomes) | End::Behind(outcomes) = &end {
        warm = outcomes.iter().filter(|outcome| matches!(outcome, ImageOutcome::Warm(_))).count();
    }
    let all = valid.images.len();
    planned.try_ended(index);
    let reasons = reasons(&end, all);
    let state = planned.record.end(index, node, end, again, now);
    let (succeeded, failed) = match state {
        NodeState::Retrying(tries) => {
            let due = if behind { now } else { after(now, valid.retry.delay(tries)) };
            planned.retry_at.insert(index, due);
            (0, 0)
        }
        NodeState::Succeeded | NodeState::AlreadyWarm => (all, 0),
        NodeState::Skipped => (0, 0),
        NodeState::Failed | NodeState::Waiting => (warm, all.saturating_sub(warm)),
    };
    shared.metrics.nodes.with_label_values(&[state.as_str()]).inc();
    shared.metrics.images.with_label_values(&["succeeded"]).inc_by(succeeded as u64);
    shared.metrics.images.with_label_values(&["failed"]).inc_by(failed as u64);
    if failed > 0 {
        for (reason, images) in reasons {
            shared.metrics.image_failures.with_label_values(&[reason.as_str()]).inc_by(images);
        }
    }
    state
}

/// Why images of a node are not there, and how many of each.
fn reasons(end: &End, all: usize) -> Vec<(Reason, u64)> {
    match end {
        End::Images(outcomes) | End::Behind(outcomes) => outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                ImageOutcome::Failed(reason, _) | ImageOutcome::Open(Some((reason, _))) => Some((*reason, 1)),
                ImageOutcome::Open(None) => Some((Reason::Unknown, 1)),
                ImageOutcome::Warm(_) => None,
            })
            .collect(),
        End::Node(reason, _) => vec![(*reason, all as u64)],
        End::AlreadyWarm | End::Skipped(..) | End::Abandoned => Vec::new(),
    }
}

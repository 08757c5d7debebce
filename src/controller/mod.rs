//! Snapshot, plan, dispatch, observe, status, reap.
//!
//! ```text
//!   watches (tasks, plans, nodes, Jobs, pods)  ->  World     what is
//!                                                    |
//!                          Run::step (pure) per task: what should be done now
//!                                                    |
//!   effects (the only code that writes)  <-----------+
//!        '--> their results come back to the Run, beside the watches' events
//! ```
//!
//! In: what the watches tell. Out: plans, Jobs, status, deletions. Runs on the
//! leader only; a successor goes on from what is in the API server. May call
//! `node`, `task` and `worker`.

mod conditions;
mod effects;
mod record;
mod run;
#[cfg(test)]
mod tests;
mod watches;
mod world;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::{Timestamp, ToSpan};
use kube::{Client, ResourceExt};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    effects::{Done, Executor},
    run::{Run, View},
    watches::Observation,
    world::World,
};
use crate::{metrics::Metrics, task::PrewarmTask, worker::WorkerSettings};

/// Events that arrive this close together are worked on at once: a batch of 100 pods changes within it.
const GATHER: Duration = Duration::from_millis(50);
/// While tasks run, time-outs and delayed writes are looked at this often; it costs no request.
const TICK: Duration = Duration::from_millis(250);
/// How often finished tasks are looked at for their time to live.
const SWEEP: Duration = Duration::from_secs(5);
/// Events that may wait: one re-list of 5,000 nodes and their pods is a single one, so this is ample.
const QUEUE: usize = 10_000;

/// What the controller must be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How worker Jobs are built.
    pub worker: WorkerSettings,
    /// How many tasks may run at once.
    pub max_concurrent_tasks: usize,
    /// The only namespace looked at, where set.
    pub namespace: Option<String>,
}

/// Works until `stop`. Returns when its watches have ended.
pub async fn run(client: Client, settings: Settings, metrics: Arc<Metrics>, stop: CancellationToken) {
    let (events, mut inbox) = mpsc::channel(QUEUE);
    let watches = watches::start(&client, settings.namespace.as_deref(), &events, &metrics, &stop);
    let executor = Executor::new(client, events, Arc::clone(&metrics));
    let mut controller = Controller {
        settings,
        metrics,
        executor,
        world: World::default(),
        runs: HashMap::new(),
        swept: Instant::now(),
    };
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            event = inbox.recv() => event,
            () = tokio::time::sleep(TICK), if !controller.runs.is_empty() => None,
            () = tokio::time::sleep(SWEEP) => None,
        };
        if let Some(event) = event {
            controller.take(event);
            tokio::time::sleep(GATHER).await;
        }
        while let Ok(event) = inbox.try_recv() {
            controller.take(event);
        }
        if controller.world.is_complete() {
            controller.work();
        }
    }
    watches.await;
}

struct Controller {
    settings: Settings,
    metrics: Arc<Metrics>,
    executor: Executor,
    world: World,
    /// By the task's UID.
    runs: HashMap<String, Run>,
    swept: Instant,
}

impl Controller {
    fn take(&mut self, observation: Observation) {
        match observation {
            Observation::Done(Done { uid, effect, result }) => {
                if let Some(run) = self.runs.get_mut(&uid) {
                    run.done(&effect, result, &self.metrics, Timestamp::now());
                }
            }
            other => self.world.observe(other),
        }
    }

    fn work(&mut self) {
        let open: BTreeMap<String, Arc<PrewarmTask>> = self.world.open_tasks();
        self.runs.retain(|uid, _| open.contains_key(uid));
        for (uid, task) in &open {
            self.runs.entry(uid.clone()).or_insert_with(|| Run::resume(task)).see(task);
        }
        let allowed = self.turns(&open);
        let now = Timestamp::now();
        let mut busy = self.world.busy_nodes();
        busy.extend(self.runs.values().flat_map(Run::claimed));
        for (uid, task) in &open {
            let Some(run) = self.runs.get_mut(uid) else { continue };
            let view = View {
                nodes: self.world.nodes(),
                jobs: self.world.jobs_of(uid),
                pods: self.world.pods(),
                plan: self.world.plan_of(uid),
                busy: &busy,
                may_begin: allowed.contains(uid),
                worker: &self.settings.worker,
                now,
            };
            let effects = run.step(task, &view, &self.metrics);
            busy.extend(run.claimed());
            self.executor.spawn(task, effects);
        }
        self.metrics
            .active_tasks
            .set(i64::try_from(self.runs.values().filter(|run| run.has_begun()).count()).unwrap_or(0));
        self.metrics.jobs_active.set(i64::try_from(self.world.job_count()).unwrap_or(0));
        self.sweep(now);
    }

    /// Which waiting tasks may begin: by priority, then by age, as far as there is room.
    fn turns(&self, open: &BTreeMap<String, Arc<PrewarmTask>>) -> Vec<String> {
        let begun = self.runs.values().filter(|run| run.has_begun()).count();
        let mut waiting: Vec<_> = open
            .iter()
            .filter(|(uid, task)| !task.spec.suspend && self.runs.get(*uid).is_some_and(|run| !run.has_begun()))
            .collect();
        waiting.sort_by_key(|(_, task)| {
            (std::cmp::Reverse(task.spec.priority), task.creation_timestamp().map(|time| time.0), task.name_any())
        });
        let room = self.settings.max_concurrent_tasks.saturating_sub(begun);
        waiting.into_iter().take(room).map(|(uid, _)| uid.clone()).collect()
    }

    /// Deletes tasks whose time to live is over, and Jobs that an ended task has left.
    fn sweep(&mut self, now: Timestamp) {
        if self.swept.elapsed() < SWEEP {
            return;
        }
        self.swept = Instant::now();
        for (uid, task) in self.world.ended_tasks() {
            let left = self.world.jobs_of(uid).is_some_and(|jobs| jobs.values().any(|job| !job.deleting));
            if left {
                self.executor.spawn(task, vec![run::Effect::DeleteAll]);
            } else if outlived(task, now) {
                self.executor.spawn(task, vec![run::Effect::DeleteTask]);
            }
        }
    }
}

/// Whether `ttlSecondsAfterFinished` is over.
fn outlived(task: &PrewarmTask, now: Timestamp) -> bool {
    let ended =
        task.status.as_ref().and_then(|s| s.completion_time.as_deref()).and_then(|t| t.parse::<Timestamp>().ok());
    match (task.spec.ttl_seconds_after_finished, ended) {
        (Some(ttl), Some(ended)) => ended.checked_add(i64::from(ttl).seconds()).is_ok_and(|end| end <= now),
        _ => false,
    }
}

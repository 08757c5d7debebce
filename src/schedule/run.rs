//! Carries decisions out. Runs on the leader only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    ExecutionStatus, Made, PrewarmSchedule, PrewarmScheduleStatus, RunFacts,
    decide::{Decision, decide},
    task_of,
};
use crate::{
    catalog::{Catalog, Schedules},
    metrics::Metrics,
    supervise::{Work, contain},
    task::{Condition, PrewarmTask},
};

/// Schedules are looked at this often even without news: the wall clock may have been set.
const LOOK: Duration = Duration::from_secs(20);
/// After a request that failed for a passing reason.
const RETRY: Duration = Duration::from_secs(2);
/// Schedules worked on at once: at the full hour a thousand may be due.
const CONCURRENCY: usize = 16;

/// Works by the schedules until `stop`. The catalog must have its first lists.
pub async fn run(
    client: Client,
    catalog: Catalog,
    schedules: Schedules,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let (mut of_tasks, mut of_schedules) = (catalog.news(), schedules.news());
    let worker = Worker { client, catalog, schedules: schedules.clone(), metrics, broken: Mutex::default() };
    loop {
        let pause = stop.run_until_cancelled(worker.look_at_all()).await;
        let Some(pause) = pause else { return };
        let news = async {
            // The senders live as long as the catalog, which this holds.
            tokio::select! {
                _ = of_tasks.changed() => {}
                _ = of_schedules.changed() => {}
                () = tokio::time::sleep_until(Instant::now() + pause) => {}
            }
        };
        if stop.run_until_cancelled(news).await.is_none() {
            return;
        }
    }
}

struct Worker {
    client: Client,
    catalog: Catalog,
    schedules: Schedules,
    metrics: Arc<Metrics>,
    /// Schedules over which the decision has failed, by UID, with their generation.
    broken: Mutex<HashMap<String, Option<i64>>>,
}

impl Worker {
    /// How long nothing is to be done without news.
    async fn look_at_all(&self) -> Duration {
        let looks = self.schedules.all().into_iter().map(|schedule| async move { self.look(&schedule).await });
        let pauses: Vec<Duration> = stream::iter(looks).buffer_unordered(CONCURRENCY).collect().await;
        pauses.into_iter().min().unwrap_or(LOOK).min(LOOK)
    }

    async fn look(&self, schedule: &PrewarmSchedule) -> Duration {
        if schedule.metadata.deletion_timestamp.is_some() {
            return LOOK;
        }
        let uid = schedule.metadata.uid.as_deref().unwrap_or_default();
        let entries = self.catalog.runs_of(&schedule.namespace().unwrap_or_default(), uid);
        let runs: Vec<RunFacts> =
            entries.iter().filter_map(|entry| entry.run.as_ref().map(|run| run.facts.clone())).collect();
        let uids = entries.iter().map(|entry| (&*entry.key.name, &*entry.uid)).collect();
        let before = schedule.status.clone().unwrap_or_default();
        let Some(mut decision) = self.decide(schedule, &runs) else { return LOOK };
        if let Err(error) = self.carry_out(schedule, &mut decision, &before, &uids).await {
            let name = schedule.name_any();
            tracing::warn!(schedule = name, namespace = schedule.namespace(), %error, "the schedule is worked on again soon");
            return RETRY;
        }
        let left = decision.wake.map(|wake| wake.duration_since(Timestamp::now()).max(SignedDuration::ZERO));
        left.map_or(LOOK, SignedDuration::unsigned_abs)
    }

    async fn carry_out(
        &self,
        schedule: &PrewarmSchedule,
        decision: &mut Decision,
        before: &PrewarmScheduleStatus,
        uids: &HashMap<&str, &str>,
    ) -> kube::Result<()> {
        let namespace = schedule.namespace().unwrap_or_default();
        let tasks = Api::<PrewarmTask>::namespaced(self.client.clone(), &namespace);
        for (name, made) in &decision.start {
            match self.start(&tasks, schedule, name, made).await {
                Ok(()) => {
                    tracing::info!(namespace, schedule = schedule.name_any(), task = name, tick = %made.tick, "a run begins");
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 404 | 422) => {
                    tracing::warn!(
                        namespace,
                        schedule = schedule.name_any(),
                        message = status.message,
                        "a run was refused"
                    );
                    refused(&mut decision.status, name, &status.message);
                }
                Err(error) => return Err(error),
            }
        }
        // By name and UID: a task that was made anew under the name of a run is none.
        for (name, uid) in decision.cancel.iter().filter_map(|name| uids.get_key_value(name.as_str())) {
            self.count("patch", "prewarmtasks");
            let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "spec": {"cancel": true}}));
            gone_is_fine(tasks.patch(name, &PatchParams::default(), &patch).await)?;
        }
        for (name, uid) in decision.forget.iter().filter_map(|name| uids.get_key_value(name.as_str())) {
            self.count("delete", "prewarmtasks");
            let only = Preconditions { uid: Some((*uid).to_owned()), resource_version: None };
            gone_is_fine(tasks.delete(name, &DeleteParams::default().preconditions(only)).await)?;
        }
        if decision.status != *before {
            self.write(schedule, &decision.status, before).await?;
        }
        Ok(())
    }

    /// A schedule over which the decision fails is left alone until somebody changes it, and says so.
    fn decide(&self, schedule: &PrewarmSchedule, runs: &[RunFacts]) -> Option<Decision> {
        let (uid, version) = (schedule.uid().unwrap_or_default(), schedule.metadata.generation);
        if self.broken().get(&uid) == Some(&version) {
            return None;
        }
        let now = Timestamp::now();
        let name = format!("PrewarmSchedule {}/{}", schedule.namespace().unwrap_or_default(), schedule.name_any());
        let decision = contain(&self.metrics, Work::Schedule, name, || decide(schedule, runs, now));
        let mut broken = self.broken();
        if decision.is_some() {
            broken.remove(&uid);
            return decision;
        }
        broken.insert(uid, version);
        Some(Decision { status: failed_over(schedule, now), ..Decision::default() })
    }

    fn broken(&self) -> MutexGuard<'_, HashMap<String, Option<i64>>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, verb: &str, resource: &str) {
        self.metrics.kube_requests.with_label_values(&[verb, resource]).inc();
    }

    /// A task of that name that is there already was made by a leader that could not write it down.
    async fn start(
        &self,
        tasks: &Api<PrewarmTask>,
        schedule: &PrewarmSchedule,
        name: &str,
        made: &Made,
    ) -> kube::Result<()> {
        self.count("create", "prewarmtasks");
        match tasks.create(&PostParams::default(), &task_of(schedule, name, made)).await {
            Ok(task) => self.catalog.put(&task),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// With the resource version that the decision is based on: who decides on an old one, decides again.
    async fn write(
        &self,
        schedule: &PrewarmSchedule,
        status: &PrewarmScheduleStatus,
        before: &PrewarmScheduleStatus,
    ) -> kube::Result<()> {
        self.count("update", "prewarmschedules");
        let api = Api::<PrewarmSchedule>::namespaced(self.client.clone(), &schedule.namespace().unwrap_or_default());
        let written = PrewarmSchedule { status: Some(status.clone()), ..schedule.clone() };
        match api.replace_status(&schedule.name_any(), &PostParams::default(), &written).await {
            Ok(schedule) => {
                self.measure(before, status);
                self.schedules.put(schedule);
                Ok(())
            }
            // What has changed is on its way to us.
            Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn measure(&self, before: &PrewarmScheduleStatus, after: &PrewarmScheduleStatus) {
        let known: HashMap<u32, ExecutionStatus> =
            before.executions.iter().map(|run| (run.number, run.status)).collect();
        let ended = after.executions.iter().filter(|run| run.status != ExecutionStatus::Running);
        for run in ended.filter(|run| known.get(&run.number) != Some(&run.status)) {
            self.metrics.schedule_runs.with_label_values(&[run.status.as_str()]).inc();
        }
    }
}

/// The status of a schedule over which the decision has failed.
fn failed_over(schedule: &PrewarmSchedule, now: Timestamp) -> PrewarmScheduleStatus {
    let mut status = schedule.status.clone().unwrap_or_default();
    status.next_schedule_time = None;
    status.conditions.retain(|condition| condition.type_ != "Ready");
    status.conditions.push(Condition {
        type_: "Ready".into(),
        status: "False".into(),
        last_transition_time: Timestamp::from_second(now.as_second()).unwrap_or(now).to_string(),
        reason: "InternalError".into(),
        message: "an internal error ended the work on this schedule; the server's log says more, under its name".into(),
        observed_generation: schedule.metadata.generation,
    });
    status
}

/// That the object is gone, or another has its name (409, and 422 of a patch that names a UID), is what was wanted.
fn gone_is_fine<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("metadata.uid") => Ok(()),
        other => other.map(drop),
    }
}

/// A run whose task cannot be created has failed.
fn refused(status: &mut PrewarmScheduleStatus, task: &str, why: &str) {
    status.active.retain(|name| name != task);
    let now = Timestamp::now();
    if let Some(run) = status.executions.iter_mut().find(|run| run.task.as_deref() == Some(task)) {
        run.task = None;
        run.status = ExecutionStatus::Failed;
        run.completion_time = Some(Timestamp::from_second(now.as_second()).unwrap_or(now).to_string());
        run.message = Some(format!("the task could not be created: {why}"));
    }
}

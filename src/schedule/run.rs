//! Controller of schedules: executes decisions against the API server. Runs on the leader only.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use prewarmer_core::{
    schedule::{
        ExecutionOrigin, ExecutionStatus, ExecutionTask, PrewarmSchedule, PrewarmScheduleStatus,
        build_task,
        decide::{ScheduleDecision, decide},
    },
    task::{Condition, PrewarmTask},
    timestamp,
};
use prewarmer_kube::{
    api_error::ApiErrorKind,
    metrics::ObjectErrorMetrics,
    object_error::{WorkKind, catch_panic},
    store::{ScheduleStore, TaskStore},
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::ScheduleMetrics;
use crate::telemetry::schedule_span;

/// Interval of reconciles without watch events: the wall clock may have been set.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(20);
/// Delay after a request that failed for a transient reason.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Schedules reconciled concurrently: at the full hour a thousand may be due.
const CONCURRENCY: usize = 16;

/// Runs until `stop` is cancelled. The stores must have received their initial lists.
pub(crate) async fn run(
    client: Client,
    catalog: TaskStore,
    schedules: ScheduleStore,
    object_errors: ObjectErrorMetrics,
    metrics: ScheduleMetrics,
    stop: CancellationToken,
) {
    let (mut of_tasks, mut of_schedules) = (catalog.tracked_changes(), schedules.changes());
    let worker = ScheduleController {
        client,
        catalog,
        schedules: schedules.clone(),
        object_errors,
        metrics,
        panicked: Mutex::default(),
    };
    loop {
        let pause = stop.run_until_cancelled(worker.reconcile_all()).await;
        let Some(pause) = pause else { return };
        let news = async {
            // The senders live as long as the stores, which the worker holds.
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

struct ScheduleController {
    client: Client,
    catalog: TaskStore,
    schedules: ScheduleStore,
    object_errors: ObjectErrorMetrics,
    metrics: ScheduleMetrics,
    /// Schedules for which the decision panicked, by UID, with their generation.
    panicked: Mutex<HashMap<String, Option<i64>>>,
}

impl ScheduleController {
    /// Reconciles all schedules. Returns the time until the next reconcile without watch events.
    async fn reconcile_all(&self) -> Duration {
        let looks = self.schedules.all().into_iter().map(|schedule| {
            let namespace = schedule.namespace().unwrap_or_default();
            let span = schedule_span(&namespace, &schedule.name_any());
            async move { self.reconcile(&schedule).await }.instrument(span)
        });
        let pauses: Vec<Duration> =
            stream::iter(looks).buffer_unordered(CONCURRENCY).collect().await;
        pauses.into_iter().min().unwrap_or(RECONCILE_INTERVAL).min(RECONCILE_INTERVAL)
    }

    async fn reconcile(&self, schedule: &PrewarmSchedule) -> Duration {
        if schedule.metadata.deletion_timestamp.is_some() {
            return RECONCILE_INTERVAL;
        }
        let uid = schedule.metadata.uid.as_deref().unwrap_or_default();
        let entries = self.catalog.executions_of(&schedule.namespace().unwrap_or_default(), uid);
        let runs: Vec<ExecutionTask> = entries
            .iter()
            .filter_map(|entry| entry.execution.as_ref().map(|run| run.facts.clone()))
            .collect();
        let uids = entries.iter().map(|entry| (&*entry.key.name, &*entry.uid)).collect();
        let before = schedule.status.clone().unwrap_or_default();
        let Some(mut decision) = self.decide(schedule, &runs) else { return RECONCILE_INTERVAL };
        if let Err(error) = self.execute(schedule, &mut decision, &before, &uids).await {
            let name = schedule.name_any();
            tracing::warn!(schedule = name, namespace = schedule.namespace(), %error, "schedule reconcile failed, will be retried");
            return RETRY_DELAY;
        }
        let left = decision
            .next_reconcile
            .map(|wake| wake.duration_since(Timestamp::now()).max(SignedDuration::ZERO));
        left.map_or(RECONCILE_INTERVAL, SignedDuration::unsigned_abs)
    }

    async fn execute(
        &self,
        schedule: &PrewarmSchedule,
        decision: &mut ScheduleDecision,
        before: &PrewarmScheduleStatus,
        uids: &HashMap<&str, &str>,
    ) -> kube::Result<()> {
        let namespace = schedule.namespace().unwrap_or_default();
        let tasks = Api::<PrewarmTask>::namespaced(self.client.clone(), &namespace);
        for (name, made) in &decision.start {
            match self.create_task(&tasks, schedule, name, made).await {
                Ok(()) => {
                    tracing::info!(namespace, schedule = schedule.name_any(), task = name, tick = %made.scheduled_at, "schedule execution started");
                }
                Err(kube::Error::Api(status))
                    if ApiErrorKind::of_status(&status).is_rejection() =>
                {
                    tracing::warn!(
                        namespace,
                        schedule = schedule.name_any(),
                        message = status.message,
                        "schedule execution refused"
                    );
                    record_rejection(&mut decision.status, name, &status.message);
                }
                Err(error) => return Err(error),
            }
        }
        // By name and UID: a task that was recreated under the name of an execution is not one.
        for (name, uid) in
            decision.cancel.iter().filter_map(|name| uids.get_key_value(name.as_str()))
        {
            let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "spec": {"cancel": true}}));
            ignore_missing(tasks.patch(name, &PatchParams::default(), &patch).await)?;
        }
        for (name, uid) in
            decision.delete.iter().filter_map(|name| uids.get_key_value(name.as_str()))
        {
            let only = Preconditions { uid: Some((*uid).to_owned()), resource_version: None };
            ignore_missing(tasks.delete(name, &DeleteParams::default().preconditions(only)).await)?;
        }
        if decision.status != *before {
            self.write_status(schedule, &decision.status, before).await?;
        }
        Ok(())
    }

    /// Decides about a schedule. After a panic the schedule is not reconciled until its generation
    /// changes, and its condition `Ready` reports this.
    fn decide(
        &self,
        schedule: &PrewarmSchedule,
        runs: &[ExecutionTask],
    ) -> Option<ScheduleDecision> {
        let (uid, version) = (schedule.uid().unwrap_or_default(), schedule.metadata.generation);
        if self.lock_panicked().get(&uid) == Some(&version) {
            return None;
        }
        let now = Timestamp::now();
        let name = format!(
            "PrewarmSchedule {}/{}",
            schedule.namespace().unwrap_or_default(),
            schedule.name_any()
        );
        let decision = catch_panic(&self.object_errors, WorkKind::Schedule, name, || {
            decide(schedule, runs, now)
        });
        let mut broken = self.lock_panicked();
        if decision.is_some() {
            broken.remove(&uid);
            return decision;
        }
        broken.insert(uid, version);
        Some(ScheduleDecision {
            status: panicked_status(schedule, now),
            ..ScheduleDecision::default()
        })
    }

    fn lock_panicked(&self) -> MutexGuard<'_, HashMap<String, Option<i64>>> {
        self.panicked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the task of an execution. An existing task of that name was created by a leader that
    /// could not write the status.
    async fn create_task(
        &self,
        tasks: &Api<PrewarmTask>,
        schedule: &PrewarmSchedule,
        name: &str,
        made: &ExecutionOrigin,
    ) -> kube::Result<()> {
        match tasks.create(&PostParams::default(), &build_task(schedule, name, made)).await {
            Ok(task) => self.catalog.put(&task),
            Err(error) if ApiErrorKind::of(&error) == ApiErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes the status with the resource version that the decision is based on. A conflict means
    /// that the decision is repeated.
    async fn write_status(
        &self,
        schedule: &PrewarmSchedule,
        status: &PrewarmScheduleStatus,
        before: &PrewarmScheduleStatus,
    ) -> kube::Result<()> {
        let api = Api::<PrewarmSchedule>::namespaced(
            self.client.clone(),
            &schedule.namespace().unwrap_or_default(),
        );
        let written = PrewarmSchedule { status: Some(status.clone()), ..schedule.clone() };
        match api.replace_status(&schedule.name_any(), &PostParams::default(), &written).await {
            Ok(schedule) => {
                self.count_ended(before, status);
                self.schedules.put(schedule);
                Ok(())
            }
            // The newer object arrives by the watch.
            Err(error) if ApiErrorKind::of(&error).is_outdated() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn count_ended(&self, before: &PrewarmScheduleStatus, after: &PrewarmScheduleStatus) {
        let known: HashMap<u32, ExecutionStatus> =
            before.executions.iter().map(|run| (run.number, run.status)).collect();
        let ended = after.executions.iter().filter(|run| run.status != ExecutionStatus::Running);
        for run in ended.filter(|run| known.get(&run.number) != Some(&run.status)) {
            self.metrics.runs.with_label_values(&[run.status.as_str()]).inc();
        }
    }
}

/// Returns the status of a schedule for which the decision panicked.
fn panicked_status(schedule: &PrewarmSchedule, now: Timestamp) -> PrewarmScheduleStatus {
    let mut status = schedule.status.clone().unwrap_or_default();
    status.next_schedule_time = None;
    status.conditions.retain(|condition| condition.type_ != "Ready");
    status.conditions.push(Condition {
        type_: "Ready".into(),
        status: "False".into(),
        last_transition_time: timestamp::format(now),
        reason: "InternalError".into(),
        message:
            "internal error in the reconcile of this schedule; see the server's log for its name"
                .into(),
        observed_generation: schedule.metadata.generation,
    });
    status
}

/// Treats an object that is already deleted or replaced (409, and 422 of a patch with a UID) as
/// success.
fn ignore_missing<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(error) if !ApiErrorKind::of(&error).is_gone_or_replaced() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Records an execution whose task could not be created as failed.
fn record_rejection(status: &mut PrewarmScheduleStatus, task: &str, why: &str) {
    status.active.retain(|name| name != task);
    if let Some(run) = status.executions.iter_mut().find(|run| run.task.as_deref() == Some(task)) {
        run.task = None;
        run.status = ExecutionStatus::Failed;
        run.completion_time = Some(timestamp::format(Timestamp::now()));
        run.message = Some(format!("task could not be created: {why}"));
    }
}

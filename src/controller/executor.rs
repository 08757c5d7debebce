//! Execution of effects. Contains the only code of the task controller that writes to the API
//! server.

#[cfg(test)]
mod api_tests;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Event, EventSource, ObjectReference, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{
        DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions,
        Request,
    },
    core::PartialObjectMeta,
};
use prewarmer_core::{
    controller::{
        ApplyError, Effect, EffectFinished, EffectOutput, Observation, PhaseEvent, StatusWrite,
        TaskRef, WorkerCreation, WorkerDeletion,
    },
    task::{Phase, PrewarmPlan, PrewarmPlanSpec, PrewarmTask, WorkerKind, owner_reference},
    worker::{BATCH_LABEL, FailureReason, MANAGED_BY, TASK_UID_LABEL, event_name},
};
use prewarmer_kube::{
    api_error::{ApiErrorKind, is_too_large},
    lease::Term,
    object_error::{WorkKind, record_panic},
};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc::Sender};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{metrics::Metrics, node_checks::NodeChecks, supervise, telemetry::task_span};

/// Maximum number of concurrent creations and deletions. Enough to create a batch of 100 workers in
/// a moment, and few enough that API Priority and Fairness does not queue the requests. Statuses
/// and plans are not limited: a task writes one at a time.
const MAX_CONCURRENT_REQUESTS: usize = 32;
/// Maximum length of an Event message that the API server accepts, in bytes.
const MAX_EVENT_MESSAGE: usize = 1024;
/// Reporting component of Events.
const REPORTING_COMPONENT: &str = "prewarmer";

/// Applies effects while the term lasts, and reports their results. Effects that are still running
/// at the end of the term are aborted; the next leader decides again.
pub(super) struct Executor {
    client: Client,
    events: Sender<Observation>,
    metrics: Arc<Metrics>,
    checks: Arc<NodeChecks>,
    permits: Arc<Semaphore>,
    term: Term,
    tasks: TaskTracker,
}

impl Executor {
    pub(super) fn new(
        client: Client,
        events: Sender<Observation>,
        metrics: Arc<Metrics>,
        checks: Arc<NodeChecks>,
        term: Term,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS));
        Self { client, events, metrics, checks, permits, term, tasks: TaskTracker::new() }
    }

    /// Waits until no effect is running. The term must have ended.
    pub(super) async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Starts all effects concurrently.
    pub(super) fn spawn(&self, target: &TaskRef, effects: Vec<Effect>) {
        for effect in effects {
            let performer = EffectClient {
                client: self.client.clone(),
                metrics: Arc::clone(&self.metrics),
                target: target.clone(),
            };
            let (events, permits, checks) =
                (self.events.clone(), Arc::clone(&self.permits), Arc::clone(&self.checks));
            let term = self.term.clone();
            let work = async move {
                let attempt = async {
                    match &effect {
                        Effect::CheckNodes(examination) => {
                            let findings = Some(Box::new(checks.evaluate(examination).await));
                            Ok(EffectOutput { check_results: findings, ..EffectOutput::default() })
                        }
                        Effect::WriteStatus(_) | Effect::CreatePlan(_) => {
                            performer.apply(&effect).await
                        }
                        _ => match permits.acquire().await {
                            Ok(_permit) => performer.apply(&effect).await,
                            Err(error) => Err(ApplyError::Transient(error.to_string())),
                        },
                    }
                };
                let result =
                    AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(|payload| {
                        let TaskRef { namespace, name, uid } = &performer.target;
                        let task = format!("PrewarmTask {namespace}/{name} ({uid})");
                        record_panic(
                            &performer.metrics.object_errors,
                            WorkKind::Effect,
                            task,
                            payload.as_ref(),
                        );
                        Err(ApplyError::Panicked)
                    });
                let uid = performer.target.uid;
                // Sending fails only after the controller has stopped and needs no result.
                let _ = events
                    .send(Observation::EffectFinished(EffectFinished {
                        task_uid: uid,
                        effect,
                        result,
                    }))
                    .await;
            };
            let span = task_span(&target.namespace, &target.name);
            let work = async move { term.run(work).await };
            self.tasks.spawn(supervise::with_component_name("controller", work.instrument(span)));
        }
    }
}

/// Client that applies the effects of one task.
struct EffectClient {
    client: Client,
    metrics: Arc<Metrics>,
    target: TaskRef,
}

impl EffectClient {
    async fn apply(&self, effect: &Effect) -> Result<EffectOutput, ApplyError> {
        let (verb, resource) = effect.verb_and_resource();
        let result = self.send(effect).await.or_else(|error| map_api_error(effect, error));
        let TaskRef { name, namespace, .. } = &self.target;
        match &result {
            Err(
                ApplyError::Transient(message)
                | ApplyError::Rejected(_, message)
                | ApplyError::Unstorable(message),
            ) if !matches!(effect, Effect::DryRun(_)) => {
                tracing::warn!(
                    task = name,
                    namespace,
                    verb,
                    resource,
                    message,
                    "request to the API server failed"
                );
            }
            Err(ApplyError::Conflict(message)) => {
                tracing::debug!(
                    task = name,
                    namespace,
                    message,
                    "object was changed or deleted concurrently"
                );
            }
            _ => {}
        }
        result
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn send(&self, effect: &Effect) -> kube::Result<EffectOutput> {
        let (target, post) = (&self.target, PostParams::default());
        match effect {
            Effect::CheckNodes(_) => {}
            Effect::CreatePlan(spec) => {
                let body = serde_json::to_vec(&plan_object(target, spec))
                    .map_err(kube::Error::SerdeError)?;
                self.create::<PrewarmPlan>(&target.namespace, body, &post).await?;
            }
            Effect::CreateWorker(creation) => {
                let WorkerCreation { kind, namespace, body, .. } = &**creation;
                match kind {
                    WorkerKind::Job => self.create::<Job>(namespace, body.clone(), &post).await?,
                    WorkerKind::Pod => self.create::<Pod>(namespace, body.clone(), &post).await?,
                }
            }
            Effect::DryRun(pod) => {
                let dry = PostParams { dry_run: true, ..PostParams::default() };
                let body = serde_json::to_vec(pod).map_err(kube::Error::SerdeError)?;
                self.create::<Pod>(&pod.namespace().unwrap_or_default(), body, &dry).await?;
            }
            // Foreground deletion removes a Job after its pods, so that no pod outlives it.
            Effect::DeleteWorker(doomed) => {
                let WorkerDeletion { kind, namespace, name, uid } = &**doomed;
                match kind {
                    WorkerKind::Job => {
                        self.api::<Job>(namespace)
                            .delete(name, &delete_params(DeleteParams::foreground(), uid, None))
                            .await?;
                    }
                    WorkerKind::Pod => {
                        self.api::<Pod>(namespace)
                            .delete(name, &delete_params(DeleteParams::default(), uid, None))
                            .await?;
                    }
                }
            }
            Effect::DeleteWorkers(kind, namespace, batch) => {
                let batch =
                    batch.map(|batch| format!(",{BATCH_LABEL}={batch}")).unwrap_or_default();
                let which = format!(
                    "{}={},{TASK_UID_LABEL}={}{batch}",
                    MANAGED_BY.0, MANAGED_BY.1, target.uid
                );
                let which = ListParams::default().labels(&which);
                let (url, how) = match kind {
                    WorkerKind::Job => {
                        (Job::url_path(&(), Some(namespace)), DeleteParams::foreground())
                    }
                    WorkerKind::Pod => {
                        (Pod::url_path(&(), Some(namespace)), DeleteParams::default())
                    }
                };
                let request = Request::new(url)
                    .delete_collection(&how, &which)
                    .map_err(kube::Error::BuildRequest)?;
                self.client.request::<IgnoredAny>(request).await?;
            }
            Effect::WriteStatus(write) => return self.write_status(write).await,
            Effect::DeleteTask(version) => {
                let how = delete_params(DeleteParams::default(), &target.uid, version.clone());
                self.api::<PrewarmTask>(&target.namespace).delete(&target.name, &how).await?;
            }
        }
        Ok(EffectOutput::default())
    }

    /// Creates an object. The response is not parsed: the watches deliver what is needed.
    async fn create<K>(&self, namespace: &str, body: Vec<u8>, how: &PostParams) -> kube::Result<()>
    where
        K: Resource<DynamicType = ()>,
    {
        let request = Request::new(K::url_path(&(), Some(namespace)))
            .create(how, body)
            .map_err(kube::Error::BuildRequest)?;
        self.client.request::<IgnoredAny>(request).await.map(drop)
    }

    /// Writes the Events before the status. A crash in between then repeats the Events under the
    /// same names, and none is lost.
    async fn write_status(&self, write: &StatusWrite) -> kube::Result<EffectOutput> {
        for event in &write.events {
            self.create_event(event).await;
        }
        let patch = Patch::Merge(status_patch(write));
        let request = Request::new(PrewarmTask::url_path(&(), Some(&self.target.namespace)))
            .patch_subresource("status", &self.target.name, &PatchParams::default(), &patch)
            .map_err(kube::Error::BuildRequest)?;
        // Only the resource version of the response is parsed. The rest may be a task that cannot
        // be decoded.
        let written = self.client.request::<PartialObjectMeta<PrewarmTask>>(request).await?;
        Ok(EffectOutput {
            resource_version: written.metadata.resource_version,
            check_results: None,
        })
    }

    /// Creates an Event. A failure is logged and ignored, because Events are informative only.
    async fn create_event(&self, event: &PhaseEvent) {
        let events = self.api::<Event>(&self.target.namespace);
        match events
            .create(&PostParams::default(), &phase_event(&self.target, event, Timestamp::now()))
            .await
        {
            Ok(_) => {}
            Err(error) if ApiErrorKind::of(&error) == ApiErrorKind::AlreadyExists => {}
            Err(error) => tracing::debug!(task = self.target.name, %error, "cannot create Event"),
        }
    }
}

/// Returns parameters that delete only the object with this UID and, where given, this resource
/// version.
fn delete_params(how: DeleteParams, uid: &str, resource_version: Option<String>) -> DeleteParams {
    how.preconditions(Preconditions {
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        resource_version,
    })
}

/// Returns a merge patch with the resource version, so that a previous leader that has not noticed
/// the end of its term cannot overwrite the status of its successor.
fn status_patch(write: &StatusWrite) -> serde_json::Value {
    json!({
        "apiVersion": "prewarm.io/v1alpha1",
        "kind": "PrewarmTask",
        "metadata": { "resourceVersion": write.version },
        "status": write.status,
    })
}

fn plan_object(target: &TaskRef, spec: &PrewarmPlanSpec) -> PrewarmPlan {
    let metadata = ObjectMeta {
        name: Some(format!("plan-{}", target.uid)),
        namespace: Some(target.namespace.clone()),
        labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
        owner_references: Some(vec![owner_reference(&target.name, &target.uid)]),
        ..ObjectMeta::default()
    };
    PrewarmPlan { metadata, spec: spec.clone() }
}

/// Returns the Event of a phase. Its name is derived from task and phase, so that each phase has
/// one Event however often it is sent.
fn phase_event(target: &TaskRef, event: &PhaseEvent, now: Timestamp) -> Event {
    let phase = event.phase.as_str();
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(&target.name, &target.uid, phase)),
            namespace: Some(target.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(PrewarmTask::api_version(&()).into_owned()),
            kind: Some(PrewarmTask::kind(&()).into_owned()),
            namespace: Some(target.namespace.clone()),
            name: Some(target.name.clone()),
            uid: Some(target.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(if event.phase == Phase::Failed { "Warning" } else { "Normal" }.into()),
        reason: Some(phase.into()),
        message: Some(event.message.chars().take(MAX_EVENT_MESSAGE / 4).collect()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(REPORTING_COMPONENT.into()), host: None }),
        reporting_component: Some(REPORTING_COMPONENT.into()),
        ..Event::default()
    }
}

/// Maps an error of the API server. Creating an object that exists and deleting one that does not
/// are successes.
fn map_api_error(effect: &Effect, error: kube::Error) -> Result<EffectOutput, ApplyError> {
    let kube::Error::Api(status) = error else {
        return Err(ApplyError::Transient(error.to_string()));
    };
    let creates = matches!(effect, Effect::CreateWorker(_) | Effect::CreatePlan(_));
    let deletes = matches!(
        effect,
        Effect::DeleteWorker(..) | Effect::DeleteWorkers(..) | Effect::DeleteTask(_)
    );
    let updates = matches!(effect, Effect::WriteStatus(_));
    let stores = matches!(effect, Effect::CreatePlan(_) | Effect::WriteStatus(_));
    let kind = ApiErrorKind::of_status(&status);
    if stores && (kind.is_invalid() || is_too_large(&status)) {
        return Err(ApplyError::Unstorable(status.message));
    }
    match kind {
        ApiErrorKind::AlreadyExists if creates => Ok(EffectOutput::default()),
        ApiErrorKind::NotFound if deletes => Ok(EffectOutput::default()),
        // The name belongs to another object now, or to another version of it.
        _ if deletes && kind.is_conflict() => Err(ApplyError::Conflict(status.message)),
        _ if updates && kind.is_outdated() => Err(ApplyError::Conflict(status.message)),
        ApiErrorKind::QuotaExceeded => {
            Err(ApplyError::Rejected(FailureReason::QuotaExceeded, status.message))
        }
        _ if kind.is_rejection() => {
            Err(ApplyError::Rejected(FailureReason::Forbidden, status.message))
        }
        _ => Err(ApplyError::Transient(status.message)),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rstest::rstest;

    use super::*;

    fn create() -> Effect {
        let (namespace, name) = ("shop".into(), "w".into());
        Effect::CreateWorker(Box::new(WorkerCreation {
            kind: WorkerKind::Job,
            namespace,
            name,
            body: Vec::new(),
        }))
    }

    fn map_status(
        effect: &Effect,
        code: u16,
        reason: &str,
        message: &str,
    ) -> Result<EffectOutput, ApplyError> {
        let status =
            Status { code, reason: reason.into(), message: message.into(), ..Status::default() };
        map_api_error(effect, kube::Error::Api(Box::new(status)))
    }

    #[rstest]
    #[case(
        403,
        "jobs is forbidden: exceeded quota: q, requested: count/jobs.batch=1",
        FailureReason::QuotaExceeded
    )]
    #[case(403, "admission webhook denied the request", FailureReason::Forbidden)]
    #[case(
        403,
        r#"pods "x" is forbidden: violates PodSecurity "restricted:latest""#,
        FailureReason::Forbidden
    )]
    #[case(
        403,
        r#"pods "x" is forbidden: [minimum cpu usage per Container is 10m]"#,
        FailureReason::Forbidden
    )]
    #[case(422, "spec.template: invalid", FailureReason::Forbidden)]
    fn rejections_have_a_failure_reason(
        #[case] code: u16,
        #[case] message: &str,
        #[case] expected: FailureReason,
    ) {
        for effect in [create(), Effect::DryRun(Box::default())] {
            assert!(
                matches!(map_status(&effect, code, "", message), Err(ApplyError::Rejected(reason, _)) if reason == expected)
            );
        }
    }

    #[test]
    fn existing_on_create_and_missing_on_delete_succeed() {
        assert!(map_status(&create(), 409, "AlreadyExists", "").is_ok());
        let one = Effect::delete_worker(&prewarmer_core::worker::WorkerInfo::default());
        assert!(map_status(&one, 404, "NotFound", "").is_ok());
        assert!(
            matches!(map_status(&one, 409, "Conflict", ""), Err(ApplyError::Conflict(_))),
            "the name belongs to another object"
        );
        let many = Effect::DeleteWorkers(WorkerKind::Pod, "a".into(), None);
        assert!(matches!(map_status(&many, 500, "", ""), Err(ApplyError::Transient(_))));
    }

    /// Every further attempt for such an object would fail as well.
    #[test]
    fn objects_that_cannot_be_stored_are_not_retried() {
        let status = StatusWrite {
            status: prewarmer_core::task::PrewarmTaskStatus::default(),
            version: None,
            events: Vec::new(),
        };
        for effect in [Effect::CreatePlan(Arc::default()), Effect::WriteStatus(Box::new(status))] {
            for (code, message) in [
                (422, "PrewarmPlan.prewarm.io \"p\" is invalid: spec.nodes: Too many"),
                (413, "Request entity too large: limit is 3145728"),
                (500, "etcdserver: request is too large"),
                (
                    500,
                    "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2 vs. 1)",
                ),
            ] {
                assert!(
                    matches!(
                        map_status(&effect, code, "", message),
                        Err(ApplyError::Unstorable(_))
                    ),
                    "{message}"
                );
            }
            assert!(matches!(
                map_status(&effect, 500, "", "etcdserver: leader changed"),
                Err(ApplyError::Transient(_))
            ));
        }
        assert!(
            matches!(map_status(&create(), 422, "", ""), Err(ApplyError::Rejected(..))),
            "a rejected worker is a failure of its node"
        );
    }

    #[test]
    fn concurrent_status_write_is_a_conflict() {
        let status = Box::default();
        let status = Effect::WriteStatus(Box::new(StatusWrite {
            status: *status,
            version: None,
            events: Vec::new(),
        }));
        assert!(matches!(map_status(&status, 409, "Conflict", ""), Err(ApplyError::Conflict(_))));
        assert!(matches!(map_status(&status, 404, "NotFound", ""), Err(ApplyError::Conflict(_))));
    }

    #[test]
    fn one_event_per_phase() {
        let target = TaskRef { namespace: "shop".into(), name: "t".repeat(253), uid: "u".into() };
        let event = |phase| PhaseEvent { phase, message: "m".into() };
        let name = |phase, second| {
            let now = Timestamp::from_second(second).unwrap();
            phase_event(&target, &event(phase), now).metadata.name.unwrap()
        };
        assert_eq!(name(Phase::Running, 1), name(Phase::Running, 2));
        assert_ne!(name(Phase::Running, 1), name(Phase::Failed, 1));
        assert!(name(Phase::Running, 1).len() <= 253);
    }
}

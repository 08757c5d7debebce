//! The only code that writes to the API server.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc::Sender};

use super::{run::Effect, watches::Observation};
use crate::{
    metrics::Metrics,
    task::{PrewarmPlan, PrewarmPlanSpec, PrewarmTask, PrewarmTaskStatus, resource::owner_reference},
    worker::{BATCH_LABEL, MANAGED_BY, Reason, TASK_UID_LABEL},
};

/// Requests under way at once: enough that a batch of 100 Jobs is created in a moment, few enough that the API server's
/// fairness never has to queue us.
const CONCURRENCY: usize = 32;

/// An effect that has ended.
#[derive(Debug)]
pub(super) struct Done {
    /// The task's UID.
    pub(super) uid: String,
    /// Which effect.
    pub(super) effect: Effect,
    /// What came of it.
    pub(super) result: Result<Written, Refusal>,
}

/// What an effect leaves: for a status, the object's new resource version.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    pub(super) resource_version: Option<String>,
}

/// Why an effect failed.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    /// Another try may succeed.
    Passing(String),
    /// The API server will never take it.
    Final(Reason, String),
}

/// Performs effects, and reports their ends.
pub(super) struct Executor {
    client: Client,
    events: Sender<Observation>,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
}

impl Executor {
    pub(super) fn new(client: Client, events: Sender<Observation>, metrics: Arc<Metrics>) -> Self {
        Self { client, events, metrics, permits: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    /// Starts each effect; none waits for another.
    pub(super) fn spawn(&self, task: &Arc<PrewarmTask>, effects: Vec<Effect>) {
        for effect in effects {
            let (client, events, permits) = (self.client.clone(), self.events.clone(), Arc::clone(&self.permits));
            let (task, metrics) = (Arc::clone(task), Arc::clone(&self.metrics));
            tokio::spawn(async move {
                let Ok(_permit) = permits.acquire().await else { return };
                let (verb, resource) = effect.request();
                metrics.kube_requests.with_label_values(&[verb, resource]).inc();
                let result = perform(client, &task, &effect).await.or_else(|error| accept(&effect, error));
                if let Err(Refusal::Passing(message) | Refusal::Final(_, message)) = &result {
                    let (name, namespace) = (task.name_any(), task.namespace());
                    tracing::warn!(task = name, namespace, verb, resource, message, "the API server refused");
                }
                let uid = task.uid().unwrap_or_default();
                // The receiver is gone only when the controller has stopped: nobody is left to tell.
                let _ = events.send(Observation::Done(Done { uid, effect, result })).await;
            });
        }
    }
}

async fn perform(client: Client, task: &PrewarmTask, effect: &Effect) -> kube::Result<Written> {
    let namespace = task.namespace().unwrap_or_default();
    let (name, uid) = (task.name_any(), task.uid().unwrap_or_default());
    let jobs = || Api::<Job>::namespaced(client.clone(), &namespace);
    let tasks = || Api::<PrewarmTask>::namespaced(client.clone(), &namespace);
    match effect {
        Effect::CreatePlan(spec) => {
            let plans = Api::<PrewarmPlan>::namespaced(client, &namespace);
            plans.create(&PostParams::default(), &owned_plan(task, spec)).await?;
        }
        Effect::CreateJob(job) => {
            jobs().create(&PostParams::default(), job).await?;
        }
        Effect::DeleteJob(job) => {
            jobs().delete(job, &DeleteParams::foreground()).await?;
        }
        Effect::DeleteBatch(batch) => {
            let selector = format!("{TASK_UID_LABEL}={uid},{BATCH_LABEL}={batch}");
            jobs().delete_collection(&DeleteParams::foreground(), &ListParams::default().labels(&selector)).await?;
        }
        Effect::DeleteAll => {
            let selector = format!("{TASK_UID_LABEL}={uid}");
            jobs().delete_collection(&DeleteParams::foreground(), &ListParams::default().labels(&selector)).await?;
        }
        Effect::WriteStatus(status, version) => {
            let patch = Patch::Merge(status_patch(status, version.as_deref()));
            let written = tasks().patch_status(&name, &PatchParams::default(), &patch).await?;
            return Ok(Written { resource_version: written.resource_version() });
        }
        Effect::DeleteTask => {
            tasks().delete(&name, &DeleteParams::default()).await?;
        }
    }
    Ok(Written::default())
}

/// With the resource version, so that a predecessor that has not noticed its end cannot overwrite ours.
fn status_patch(status: &PrewarmTaskStatus, version: Option<&str>) -> serde_json::Value {
    json!({
        "apiVersion": "prewarm.io/v1alpha1",
        "kind": "PrewarmTask",
        "metadata": { "resourceVersion": version },
        "status": status,
    })
}

fn owned_plan(task: &PrewarmTask, spec: &PrewarmPlanSpec) -> PrewarmPlan {
    let uid = task.uid().unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(format!("plan-{uid}")),
        namespace: task.namespace(),
        labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
        owner_references: Some(vec![owner_reference(&task.name_any(), &uid)]),
        ..ObjectMeta::default()
    };
    PrewarmPlan { metadata, spec: spec.clone() }
}

/// What a refusal means. Creating what is there already, and deleting what is gone, is success.
fn accept(effect: &Effect, error: kube::Error) -> Result<Written, Refusal> {
    let kube::Error::Api(status) = error else { return Err(Refusal::Passing(error.to_string())) };
    let creates = matches!(effect, Effect::CreateJob(_) | Effect::CreatePlan(_));
    match status.code {
        409 if creates && status.reason == "AlreadyExists" => Ok(Written::default()),
        404 if !creates => Ok(Written::default()),
        403 if status.message.contains("exceeded quota") => Err(Refusal::Final(Reason::QuotaExceeded, status.message)),
        400 | 403 | 404 | 422 => Err(Refusal::Final(Reason::Forbidden, status.message)),
        _ => Err(Refusal::Passing(status.message)),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rstest::rstest;

    use super::*;

    fn refusal(effect: &Effect, code: u16, reason: &str, message: &str) -> Result<Written, Refusal> {
        let status = Status { code, reason: reason.into(), message: message.into(), ..Status::default() };
        accept(effect, kube::Error::Api(Box::new(status)))
    }

    #[rstest]
    #[case(403, "jobs is forbidden: exceeded quota: q, requested: count/jobs.batch=1", Reason::QuotaExceeded)]
    #[case(403, "admission webhook denied the request", Reason::Forbidden)]
    #[case(422, "spec.template: invalid", Reason::Forbidden)]
    fn final_refusals(#[case] code: u16, #[case] message: &str, #[case] expected: Reason) {
        let effect = Effect::CreateJob(Box::default());
        assert!(matches!(refusal(&effect, code, "", message), Err(Refusal::Final(reason, _)) if reason == expected));
    }

    #[test]
    fn what_is_so_already_is_success() {
        assert!(refusal(&Effect::CreateJob(Box::default()), 409, "AlreadyExists", "").is_ok());
        assert!(refusal(&Effect::DeleteJob("a".into()), 404, "NotFound", "").is_ok());
        assert!(matches!(refusal(&Effect::DeleteAll, 500, "", ""), Err(Refusal::Passing(_))));
        let status = Effect::WriteStatus(Box::default(), None);
        assert!(matches!(refusal(&status, 409, "Conflict", ""), Err(Refusal::Passing(_))));
    }
}

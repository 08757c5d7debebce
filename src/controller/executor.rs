//! The only code that writes to the API server.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

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
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions, Request},
    core::PartialObjectMeta,
};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc::Sender};
use tokio_util::task::TaskTracker;

use super::{
    effect::{Creation, Doomed, Effect, Refusal, StatusWrite, Target, Told, Written},
    observation::{Done, Observation},
};
use crate::{
    health::Checks,
    leader::Term,
    metrics::Metrics,
    supervise::{self, Work, contained},
    task::{Phase, PrewarmPlan, PrewarmPlanSpec, PrewarmTask, WorkerKind, resource::owner_reference},
    worker::{BATCH_LABEL, MANAGED_BY, Reason, TASK_UID_LABEL, event_name},
};

/// Creations and deletions under way at once: enough that a batch of 100 workers is created in a moment, few enough that
/// the API server's fairness never has to queue us. Statuses and plans do not wait behind them: a task has one at a time.
const CONCURRENCY: usize = 32;
/// What the API server says of objects that are too large for etcd, or for its connection to it, under other codes.
const TOO_LARGE: [&str; 2] = ["request is too large", "trying to send message larger than max"];
/// Longest message of an Event that the API server takes.
const MAX_EVENT_MESSAGE: usize = 1024;
/// Who the Events come from.
const COMPONENT: &str = "prewarmer";

/// What becomes of effects.
pub(super) enum Executor {
    /// They are performed.
    Cluster(Box<Cluster>),
    /// They are kept, for tests and fuzzing.
    Memory(Mutex<Vec<(Target, Effect)>>),
}

impl Executor {
    /// Starts each effect; none waits for another.
    pub(super) fn spawn(&self, target: &Target, effects: Vec<Effect>) {
        match self {
            Self::Cluster(cluster) => cluster.spawn(target, effects),
            Self::Memory(kept) => {
                let effects = effects.into_iter().map(|effect| (target.clone(), effect));
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(effects);
            }
        }
    }

    /// Waits until no effect is under way any more. The term must be over.
    pub(super) async fn ended(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.tasks.close();
            cluster.tasks.wait().await;
        }
    }

    /// The effects that were kept.
    pub(super) fn kept(&self) -> Vec<(Target, Effect)> {
        match self {
            Self::Cluster(_) => Vec::new(),
            Self::Memory(kept) => std::mem::take(&mut kept.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Performs effects as long as the term holds, and reports their ends. Those that are under way when the term ends are
/// aborted: a successor decides anew.
pub(super) struct Cluster {
    client: Client,
    events: Sender<Observation>,
    metrics: Arc<Metrics>,
    checks: Arc<Checks>,
    permits: Arc<Semaphore>,
    term: Term,
    tasks: TaskTracker,
}

impl Cluster {
    pub(super) fn new(
        client: Client,
        events: Sender<Observation>,
        metrics: Arc<Metrics>,
        checks: Arc<Checks>,
        term: Term,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(CONCURRENCY));
        Self { client, events, metrics, checks, permits, term, tasks: TaskTracker::new() }
    }

    fn spawn(&self, target: &Target, effects: Vec<Effect>) {
        for effect in effects {
            let performer =
                Performer { client: self.client.clone(), metrics: Arc::clone(&self.metrics), target: target.clone() };
            let (events, permits, checks) = (self.events.clone(), Arc::clone(&self.permits), Arc::clone(&self.checks));
            let term = self.term.clone();
            let work = async move {
                let attempt = async {
                    match &effect {
                        Effect::Examine(examination) => {
                            let findings = Some(Box::new(checks.examine(examination).await));
                            Ok(Written { findings, ..Written::default() })
                        }
                        Effect::WriteStatus(_) | Effect::CreatePlan(_) => performer.perform(&effect).await,
                        _ => match permits.acquire().await {
                            Ok(_permit) => performer.perform(&effect).await,
                            Err(error) => Err(Refusal::Passing(error.to_string())),
                        },
                    }
                };
                let result = AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(|payload| {
                    let Target { namespace, name, uid } = &performer.target;
                    let task = format!("PrewarmTask {namespace}/{name} ({uid})");
                    contained(&performer.metrics, Work::Effect, task, payload.as_ref());
                    Err(Refusal::Broken)
                });
                let uid = performer.target.uid;
                // The receiver is gone only when the controller has stopped: nobody is left to tell.
                let _ = events.send(Observation::Done(Done { uid, effect, result })).await;
            };
            self.tasks.spawn(supervise::named("controller", async move { term.run(work).await }));
        }
    }
}

/// Performs one effect.
struct Performer {
    client: Client,
    metrics: Arc<Metrics>,
    target: Target,
}

impl Performer {
    async fn perform(&self, effect: &Effect) -> Result<Written, Refusal> {
        let (verb, resource) = effect.request();
        self.count(verb, resource);
        let result = self.request(effect).await.or_else(|error| accept(effect, error));
        let Target { name, namespace, .. } = &self.target;
        match &result {
            Err(Refusal::Passing(message) | Refusal::Final(_, message) | Refusal::Unstorable(message))
                if !matches!(effect, Effect::Probe(_)) =>
            {
                tracing::warn!(task = name, namespace, verb, resource, message, "the API server refused");
            }
            Err(Refusal::Stale(message)) => {
                tracing::debug!(task = name, namespace, message, "somebody wrote in between");
            }
            _ => {}
        }
        result
    }

    fn count(&self, verb: &str, resource: &str) {
        self.metrics.kube_requests.with_label_values(&[verb, resource]).inc();
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn request(&self, effect: &Effect) -> kube::Result<Written> {
        let (target, post) = (&self.target, PostParams::default());
        match effect {
            Effect::Examine(_) => {}
            Effect::CreatePlan(spec) => {
                let body = serde_json::to_vec(&owned_plan(target, spec)).map_err(kube::Error::SerdeError)?;
                self.create::<PrewarmPlan>(&target.namespace, body, &post).await?;
            }
            Effect::Create(creation) => {
                let Creation { kind, namespace, body, .. } = &**creation;
                match kind {
                    WorkerKind::Job => self.create::<Job>(namespace, body.clone(), &post).await?,
                    WorkerKind::Pod => self.create::<Pod>(namespace, body.clone(), &post).await?,
                }
            }
            Effect::Probe(pod) => {
                let dry = PostParams { dry_run: true, ..PostParams::default() };
                let body = serde_json::to_vec(pod).map_err(kube::Error::SerdeError)?;
                self.create::<Pod>(&pod.namespace().unwrap_or_default(), body, &dry).await?;
            }
            // In the foreground a Job goes after its pods: no pod outlives it.
            Effect::Delete(doomed) => {
                let Doomed { kind, namespace, name, uid } = &**doomed;
                match kind {
                    WorkerKind::Job => {
                        self.api::<Job>(namespace).delete(name, &only(DeleteParams::foreground(), uid, None)).await?;
                    }
                    WorkerKind::Pod => {
                        self.api::<Pod>(namespace).delete(name, &only(DeleteParams::default(), uid, None)).await?;
                    }
                }
            }
            Effect::DeleteMany(kind, namespace, batch) => {
                let batch = batch.map(|batch| format!(",{BATCH_LABEL}={batch}")).unwrap_or_default();
                let which = format!("{}={},{TASK_UID_LABEL}={}{batch}", MANAGED_BY.0, MANAGED_BY.1, target.uid);
                let which = ListParams::default().labels(&which);
                let (url, how) = match kind {
                    WorkerKind::Job => (Job::url_path(&(), Some(namespace)), DeleteParams::foreground()),
                    WorkerKind::Pod => (Pod::url_path(&(), Some(namespace)), DeleteParams::default()),
                };
                let request = Request::new(url).delete_collection(&how, &which).map_err(kube::Error::BuildRequest)?;
                self.client.request::<IgnoredAny>(request).await?;
            }
            Effect::WriteStatus(write) => return self.write_status(write).await,
            Effect::DeleteTask(version) => {
                let how = only(DeleteParams::default(), &target.uid, version.clone());
                self.api::<PrewarmTask>(&target.namespace).delete(&target.name, &how).await?;
            }
        }
        Ok(Written::default())
    }

    /// Creates an object. The answer repeats it, and is not read: the watches tell what matters of it.
    async fn create<K>(&self, namespace: &str, body: Vec<u8>, how: &PostParams) -> kube::Result<()>
    where
        K: Resource<DynamicType = ()>,
    {
        let request =
            Request::new(K::url_path(&(), Some(namespace))).create(how, body).map_err(kube::Error::BuildRequest)?;
        self.client.request::<IgnoredAny>(request).await.map(drop)
    }

    /// The Events come first: a crash in between repeats them under the same names, where none would be lost.
    async fn write_status(&self, write: &StatusWrite) -> kube::Result<Written> {
        for told in &write.told {
            self.tell(told).await;
        }
        let patch = Patch::Merge(status_patch(write));
        let request = Request::new(PrewarmTask::url_path(&(), Some(&self.target.namespace)))
            .patch_subresource("status", &self.target.name, &PatchParams::default(), &patch)
            .map_err(kube::Error::BuildRequest)?;
        // Of the answer only the version is read: the rest may be what nobody can read.
        let written = self.client.request::<PartialObjectMeta<PrewarmTask>>(request).await?;
        Ok(Written { resource_version: written.metadata.resource_version, findings: None })
    }

    /// An Event is for people; that it cannot be written holds up nothing.
    async fn tell(&self, told: &Told) {
        self.count("create", "events");
        let events = self.api::<Event>(&self.target.namespace);
        match events.create(&PostParams::default(), &event(&self.target, told, Timestamp::now())).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => tracing::debug!(task = self.target.name, %error, "an Event was not taken"),
        }
    }
}

/// A deletion of the object with this UID, and with a version of this state, and of no other that has its name.
fn only(how: DeleteParams, uid: &str, resource_version: Option<String>) -> DeleteParams {
    how.preconditions(Preconditions { uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()), resource_version })
}

/// With the resource version, so that a predecessor that has not noticed its end cannot overwrite ours.
fn status_patch(write: &StatusWrite) -> serde_json::Value {
    json!({
        "apiVersion": "prewarm.io/v1alpha1",
        "kind": "PrewarmTask",
        "metadata": { "resourceVersion": write.version },
        "status": write.status,
    })
}

fn owned_plan(target: &Target, spec: &PrewarmPlanSpec) -> PrewarmPlan {
    let metadata = ObjectMeta {
        name: Some(format!("plan-{}", target.uid)),
        namespace: Some(target.namespace.clone()),
        labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
        owner_references: Some(vec![owner_reference(&target.name, &target.uid)]),
        ..ObjectMeta::default()
    };
    PrewarmPlan { metadata, spec: spec.clone() }
}

/// The name follows from the task and the phase: however often a phase is told, there is one Event of it.
fn event(target: &Target, told: &Told, now: Timestamp) -> Event {
    let phase = told.phase.as_str();
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
        type_: Some(if told.phase == Phase::Failed { "Warning" } else { "Normal" }.into()),
        reason: Some(phase.into()),
        message: Some(told.message.chars().take(MAX_EVENT_MESSAGE / 4).collect()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: None }),
        reporting_component: Some(COMPONENT.into()),
        ..Event::default()
    }
}

/// What a refusal means. Creating what is there already, and deleting what is gone, is success.
fn accept(effect: &Effect, error: kube::Error) -> Result<Written, Refusal> {
    let kube::Error::Api(status) = error else { return Err(Refusal::Passing(error.to_string())) };
    let creates = matches!(effect, Effect::Create(_) | Effect::CreatePlan(_));
    let deletes = matches!(effect, Effect::Delete(..) | Effect::DeleteMany(..) | Effect::DeleteTask(_));
    let updates = matches!(effect, Effect::WriteStatus(_));
    let stores = matches!(effect, Effect::CreatePlan(_) | Effect::WriteStatus(_));
    if stores && (matches!(status.code, 413 | 422) || TOO_LARGE.iter().any(|words| status.message.contains(words))) {
        return Err(Refusal::Unstorable(status.message));
    }
    match status.code {
        409 if creates && status.reason == "AlreadyExists" => Ok(Written::default()),
        404 if deletes => Ok(Written::default()),
        // What has the name now is another object, or another state of it.
        409 if deletes => Err(Refusal::Stale(status.message)),
        404 | 409 if updates => Err(Refusal::Stale(status.message)),
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

    fn create() -> Effect {
        let (namespace, name) = ("shop".into(), "w".into());
        Effect::Create(Box::new(Creation { kind: WorkerKind::Job, namespace, name, body: Vec::new() }))
    }

    fn refusal(effect: &Effect, code: u16, reason: &str, message: &str) -> Result<Written, Refusal> {
        let status = Status { code, reason: reason.into(), message: message.into(), ..Status::default() };
        accept(effect, kube::Error::Api(Box::new(status)))
    }

    #[rstest]
    #[case(403, "jobs is forbidden: exceeded quota: q, requested: count/jobs.batch=1", Reason::QuotaExceeded)]
    #[case(403, "admission webhook denied the request", Reason::Forbidden)]
    #[case(403, r#"pods "x" is forbidden: violates PodSecurity "restricted:latest""#, Reason::Forbidden)]
    #[case(403, r#"pods "x" is forbidden: [minimum cpu usage per Container is 10m]"#, Reason::Forbidden)]
    #[case(422, "spec.template: invalid", Reason::Forbidden)]
    fn final_refusals(#[case] code: u16, #[case] message: &str, #[case] expected: Reason) {
        for effect in [create(), Effect::Probe(Box::default())] {
            assert!(
                matches!(refusal(&effect, code, "", message), Err(Refusal::Final(reason, _)) if reason == expected)
            );
        }
    }

    #[test]
    fn what_is_so_already_is_success() {
        assert!(refusal(&create(), 409, "AlreadyExists", "").is_ok());
        let one = Effect::delete(&crate::worker::WorkerFacts::default());
        assert!(refusal(&one, 404, "NotFound", "").is_ok());
        assert!(matches!(refusal(&one, 409, "Conflict", ""), Err(Refusal::Stale(_))), "another has its name");
        let many = Effect::DeleteMany(WorkerKind::Pod, "a".into(), None);
        assert!(matches!(refusal(&many, 500, "", ""), Err(Refusal::Passing(_))));
    }

    /// Such an object is refused at each further try as well.
    #[test]
    fn what_cannot_be_stored_is_final() {
        let status = StatusWrite { status: crate::task::PrewarmTaskStatus::default(), version: None, told: Vec::new() };
        for effect in [Effect::CreatePlan(Arc::default()), Effect::WriteStatus(Box::new(status))] {
            for (code, message) in [
                (422, "PrewarmPlan.prewarm.io \"p\" is invalid: spec.nodes: Too many"),
                (413, "Request entity too large: limit is 3145728"),
                (500, "etcdserver: request is too large"),
                (500, "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2 vs. 1)"),
            ] {
                assert!(matches!(refusal(&effect, code, "", message), Err(Refusal::Unstorable(_))), "{message}");
            }
            assert!(matches!(refusal(&effect, 500, "", "etcdserver: leader changed"), Err(Refusal::Passing(_))));
        }
        assert!(matches!(refusal(&create(), 422, "", ""), Err(Refusal::Final(..))), "a worker's refusal is its node's");
    }

    #[test]
    fn a_write_in_between_is_not_overwritten() {
        let status = Box::default();
        let status = Effect::WriteStatus(Box::new(StatusWrite { status: *status, version: None, told: Vec::new() }));
        assert!(matches!(refusal(&status, 409, "Conflict", ""), Err(Refusal::Stale(_))));
        assert!(matches!(refusal(&status, 404, "NotFound", ""), Err(Refusal::Stale(_))));
    }

    #[test]
    fn one_event_per_phase() {
        let target = Target { namespace: "shop".into(), name: "t".repeat(253), uid: "u".into() };
        let told = |phase| Told { phase, message: "m".into() };
        let name = |phase, second| {
            let now = Timestamp::from_second(second).unwrap();
            event(&target, &told(phase), now).metadata.name.unwrap()
        };
        assert_eq!(name(Phase::Running, 1), name(Phase::Running, 2));
        assert_ne!(name(Phase::Running, 1), name(Phase::Failed, 1));
        assert!(name(Phase::Running, 1).len() <= 253);
    }
}

//! Controller without an API server, for fuzzing and tests. Input: objects as JSON, and simulated
//! responses of the API server. Output: the controller's requests.
//!
//! Only the client is replaced: objects are decoded as the watches decode them, and the rounds are
//! those of the controller.

#![allow(
    clippy::indexing_slicing,
    reason = "only JSON values are indexed, and a missing key gives null"
)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::{
    classify::{classify_job, classify_plan, classify_pod, task_of},
    effect::{ApplyError, Effect, EffectOutput},
    measurement::Measurement,
    observation::{EffectFinished, Observation},
    settings::{ControllerSettings, FairnessLimits, WorkerNamespace},
    task_controller::Controller,
    watch::{WatchChange, WatchSource},
};
use crate::{
    node::{Interner, NodeInfo},
    task::{WorkerKind, plan::BatchSizeBreaker},
    worker::{FailureReason, WorkerSettings, provenance::AllowedNamespaces},
};

/// Namespace of workers that the task's namespace rejects.
const OWN_NAMESPACE: &str = "prewarmer";

/// Time at the start: 2026-06-01.
const START: SignedDuration = SignedDuration::from_hours(494_496);
/// Time that passes in a round.
const ROUND_DURATION: SignedDuration = SignedDuration::from_secs(1);

/// Simulated response of the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimulatedResponse {
    /// Applied and reported as applied.
    Applied,
    /// Applied, with the response lost.
    ResponseLost,
    /// Rejected with a transient error.
    TransientError,
    /// Rejected with a permanent error.
    PermanentError,
    /// Rejected as too large or invalid to store.
    Unstorable,
}

/// Request of the controller.
#[derive(Debug)]
pub struct RecordedRequest {
    /// Verb, as in the metric of requests.
    pub verb: &'static str,
    /// Resource, plural.
    pub resource: &'static str,
    /// Object to create: a Job, a pod or a plan.
    pub object: Option<Value>,
}

/// Controller with simulated watches and responses.
pub struct ControllerHarness {
    controller: Controller,
    texts: Arc<Interner>,
    places: AllowedNamespaces,
    /// Stored tasks as JSON, by UID.
    tasks: BTreeMap<String, Value>,
    version: u64,
    now: Timestamp,
    internal_errors: usize,
}

impl Default for ControllerHarness {
    fn default() -> Self {
        Self::new()
    }
}

impl ControllerHarness {
    /// Creates a controller whose first lists are complete and empty.
    #[must_use]
    pub fn new() -> Self {
        Self {
            controller: Controller::new(0, Arc::new(sample_settings())),
            texts: Arc::default(),
            places: AllowedNamespaces { own: Some(OWN_NAMESPACE.into()) },
            tasks: BTreeMap::new(),
            version: 1,
            now: Timestamp::UNIX_EPOCH.saturating_add(START).unwrap_or_default(),
            internal_errors: 0,
        }
    }

    /// Delivers an object as its watch would, and reports whether it was delivered. Ignores objects
    /// of other kinds, and those that the API server would not have stored.
    pub fn deliver(&mut self, object: &Value) -> bool {
        let Some(observation) = self.decode(object) else { return false };
        if object["kind"] == "PrewarmTask" {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            self.tasks.insert(uid, object.clone());
        }
        self.controller.handle(observation, self.now);
        true
    }

    fn decode(&self, object: &Value) -> Option<Observation> {
        let from = object.clone();
        Some(match object["kind"].as_str()? {
            "PrewarmTask" => {
                let task: DeserializeGuard<_> = serde_json::from_value(from).ok()?;
                Observation::Task(WatchChange::Applied(task_of(task).0))
            }
            "PrewarmPlan" => {
                let plan = classify_plan(serde_json::from_value(from).ok()?);
                Observation::Plan(WatchSource::all("prewarmplans"), WatchChange::Applied(plan))
            }
            "Node" => Observation::Node(WatchChange::Applied(NodeInfo::new(
                &serde_json::from_value(from).ok()?,
                &self.texts,
            ))),
            "Job" => {
                let job = classify_job(&serde_json::from_value(from).ok()?, &self.places);
                Observation::Job(WatchSource::all("jobs"), WatchChange::Applied(job))
            }
            "Pod" => {
                let pod =
                    classify_pod(&serde_json::from_value(from).ok()?, &self.places, &self.texts);
                Observation::Pod(WatchSource::all("pods"), WatchChange::Applied(pod))
            }
            _ => return None,
        })
    }

    /// Runs one round of the controller. `answer` decides the response to each request.
    pub fn round(&mut self, mut answer: impl FnMut(&RecordedRequest) -> SimulatedResponse) {
        self.now = self.now.saturating_add(ROUND_DURATION).unwrap_or(self.now);
        self.controller.reconcile_all(self.now);
        let effects = self.controller.take_actions().into_iter().flat_map(|(target, effects)| {
            effects.into_iter().map(move |effect| (target.clone(), effect))
        });
        for (target, effect) in effects {
            let (verb, resource) = effect.verb_and_resource();
            let object = match &effect {
                Effect::CreateWorker(creation) => {
                    serde_json::from_slice(&creation.body).ok().map(|mut body: Value| {
                        body["kind"] =
                            json!(if creation.kind == WorkerKind::Job { "Job" } else { "Pod" });
                        self.version = self.version.saturating_add(1);
                        body["metadata"]["uid"] = json!(format!("worker-{}", self.version));
                        body["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
                        body
                    })
                }
                Effect::CreatePlan(spec) => {
                    Some(json!({"kind": "PrewarmPlan", "apiVersion": "prewarm.io/v1alpha1",
                    "metadata": {"name": format!("plan-{}", target.uid), "namespace": target.namespace,
                        "ownerReferences": [{"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "controller": true,
                            "name": target.name, "uid": target.uid}]},
                    "spec": **spec}))
                }
                _ => None,
            };
            let answer = answer(&RecordedRequest { verb, resource, object });
            let mut written = EffectOutput::default();
            if let (
                Effect::WriteStatus(write),
                SimulatedResponse::Applied | SimulatedResponse::ResponseLost,
            ) = (&effect, answer)
            {
                written.resource_version = self.store_status(&target.uid, &json!(write.status));
            }
            let message = || "message of the API server".to_owned();
            let result = match answer {
                SimulatedResponse::Applied => Ok(written),
                SimulatedResponse::ResponseLost | SimulatedResponse::TransientError => {
                    Err(ApplyError::Transient(message()))
                }
                SimulatedResponse::PermanentError => {
                    Err(ApplyError::Rejected(FailureReason::Forbidden, message()))
                }
                SimulatedResponse::Unstorable => Err(ApplyError::Unstorable(message())),
            };
            self.controller.handle(
                Observation::EffectFinished(EffectFinished {
                    task_uid: target.uid,
                    effect,
                    result,
                }),
                self.now,
            );
        }
        let is_error =
            |measurement: &&Measurement| matches!(measurement, Measurement::InternalError(_));
        let measurements = self.controller.take_measurements();
        let errors = measurements.iter().filter(is_error).count();
        self.internal_errors = self.internal_errors.saturating_add(errors);
    }

    /// Stores a status and delivers the task.
    fn store_status(&mut self, uid: &str, status: &Value) -> Option<String> {
        let mut task = self.tasks.get(uid)?.clone();
        self.version = self.version.saturating_add(1);
        let version = self.version.to_string();
        task["status"] = status.clone();
        task["metadata"]["resourceVersion"] = json!(version);
        self.deliver(&task);
        Some(version)
    }

    /// Returns the stored tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &Value> {
        self.tasks.values()
    }

    /// Returns the number of contained internal errors.
    #[must_use]
    pub fn internal_errors(&self) -> usize {
        self.internal_errors
    }
}

/// Returns the default settings, except that a node with many images gets several workers.
#[must_use]
pub fn sample_settings() -> ControllerSettings {
    ControllerSettings {
        worker: WorkerSettings {
            image_pull_policy: crate::task::PullPolicy::default(),
            owner: None,
            service_account: None,
            image: "helper:1".into(),
            priority_class: None,
            ttl: Duration::from_secs(3600),
            images_per_pod: 30,
        },
        max_concurrent_tasks: 10,
        namespace: None,
        own_namespace: OWN_NAMESPACE.into(),
        worker_namespace: WorkerNamespace::Fallback,
        fallback_on_policy: false,
        breaker: BatchSizeBreaker { node_threshold: 5000, batch_size: 50 },
        node_checks_enabled: false,
        max_workers: 300,
        limits: FairnessLimits::default(),
        registry_concurrency: 200,
        warm_image_ttl: Duration::from_secs(600),
        public_registries: vec!["docker.io".into()],
        max_retained_workers: 8000,
    }
}

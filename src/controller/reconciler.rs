//! The controller over objects as the API server would deliver them, without one: for fuzzing and tests.
//!
//! Everything is as in the cluster but for the client: objects are read as the watches read them, rounds are those of the
//! controller, and what a round asks for is answered by the caller.

#![allow(clippy::indexing_slicing, reason = "only JSON is indexed, which gives null where there is nothing")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::{
    Controller, Settings, WorkerNamespace,
    clock::Clock,
    effect::{Effect, Refusal, Written},
    executor::Executor,
    observation::{Change, Done, Observation, Source},
    watches,
};
use crate::{
    metrics::Metrics,
    node::{Facts, Interner},
    task::{WorkerKind, plan::Breaker},
    worker::{Reason, WorkerSettings, provenance::Places},
};

/// Where workers go that the task's namespace does not take.
const OWN_NAMESPACE: &str = "prewarmer";

/// What the API server says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is done, and the answer is lost.
    Lost,
    /// It is refused for now.
    Passing,
    /// It is refused.
    Final,
    /// It cannot be stored.
    Unstorable,
}

/// A request of the controller.
#[derive(Debug)]
pub struct Asked {
    /// The verb.
    pub verb: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// What is to be created: a Job, a pod or a plan.
    pub object: Option<Value>,
}

/// The controller without a cluster.
pub struct Reconciler {
    controller: Controller,
    texts: Arc<Interner>,
    places: Places,
    /// Tasks by UID, as they are stored.
    tasks: BTreeMap<String, Value>,
    version: u64,
}

impl Reconciler {
    /// A controller that has its first lists, which are empty. An error means that two metrics share a name.
    pub fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let (settings, metrics) = (settings(), Arc::new(Metrics::new()?));
        let clock = Clock::from(Timestamp::now());
        Ok(Self {
            controller: Controller::new(Executor::Memory(Mutex::default()), 0, Arc::new(settings), metrics, clock),
            texts: Arc::default(),
            places: Places { own: Some(OWN_NAMESPACE.into()) },
            tasks: BTreeMap::new(),
            version: 1,
        })
    }

    /// Delivers an object as its watch would; one of another kind, and one that the API server would not have stored, is left
    /// out. Whether it was delivered.
    pub fn see(&mut self, object: &Value) -> bool {
        let Some(observation) = self.read(object) else { return false };
        if object["kind"] == "PrewarmTask" {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            self.tasks.insert(uid, object.clone());
        }
        self.controller.take(observation);
        true
    }

    fn read(&self, object: &Value) -> Option<Observation> {
        let from = object.clone();
        Some(match object["kind"].as_str()? {
            "PrewarmTask" => {
                let task: DeserializeGuard<_> = serde_json::from_value(from).ok()?;
                let task = watches::task(task, watches::Presence::There, &self.controller.shared.metrics);
                Observation::Task(Change::Put(task))
            }
            "PrewarmPlan" => {
                let plan = watches::plan(serde_json::from_value(from).ok()?);
                Observation::Plan(Source::all("prewarmplans"), Change::Put(plan))
            }
            "Node" => Observation::Node(Change::Put(Facts::new(&serde_json::from_value(from).ok()?, &self.texts))),
            "Job" => {
                let job = watches::see_job(&serde_json::from_value(from).ok()?, &self.places);
                Observation::Job(Source::all("jobs"), Change::Put(job))
            }
            "Pod" => {
                let pod = watches::see_pod(&serde_json::from_value(from).ok()?, &self.places, &self.texts);
                Observation::Pod(Source::all("pods"), Change::Put(pod))
            }
            _ => return None,
        })
    }

    /// One round of the controller. Each request is answered by `answer`, which may look at it first.
    pub fn round(&mut self, mut answer: impl FnMut(&Asked) -> Answer) {
        self.controller.work();
        for (target, effect) in self.controller.executor.kept() {
            let (verb, resource) = effect.request();
            let object = match &effect {
                Effect::Create(creation) => serde_json::from_slice(&creation.body).ok().map(|mut body: Value| {
                    body["kind"] = json!(if creation.kind == WorkerKind::Job { "Job" } else { "Pod" });
                    self.version = self.version.saturating_add(1);
                    body["metadata"]["uid"] = json!(format!("worker-{}", self.version));
                    body["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
                    body
                }),
                Effect::CreatePlan(spec) => Some(json!({"kind": "PrewarmPlan", "apiVersion": "prewarm.io/v1alpha1",
                    "metadata": {"name": format!("plan-{}", target.uid), "namespace": target.namespace,
                        "ownerReferences": [{"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "controller": true,
                            "name": target.name, "uid": target.uid}]},
                    "spec": **spec})),
                _ => None,
            };
            let answer = answer(&Asked { verb, resource, object });
            let mut written = Written::default();
            if let (Effect::WriteStatus(write), Answer::Done | Answer::Lost) = (&effect, answer) {
                written.resource_version = self.store(&target.uid, &json!(write.status));
            }
            let message = || "a word of the API server".to_owned();
            let result = match answer {
                Answer::Done => Ok(written),
                Answer::Lost | Answer::Passing => Err(Refusal::Passing(message())),
                Answer::Final => Err(Refusal::Final(Reason::Forbidden, message())),
                Answer::Unstorable => Err(Refusal::Unstorable(message())),
            };
            self.controller.take(Observation::Done(Done { uid: target.uid, effect, result }));
        }
    }

    /// Stores a status, and delivers the task.
    fn store(&mut self, uid: &str, status: &Value) -> Option<String> {
        let mut task = self.tasks.get(uid)?.clone();
        self.version = self.version.saturating_add(1);
        let version = self.version.to_string();
        task["status"] = status.clone();
        task["metadata"]["resourceVersion"] = json!(version);
        self.see(&task);
        Some(version)
    }

    /// The tasks as they are stored.
    pub fn tasks(&self) -> impl Iterator<Item = &Value> {
        self.tasks.values()
    }

    /// How many internal errors were contained.
    #[must_use]
    pub fn internal_errors(&self) -> u64 {
        let errors = &self.controller.shared.metrics.internal_errors;
        crate::supervise::Work::ALL.iter().map(|kind| errors.with_label_values(&[kind.as_str()]).get()).sum()
    }
}

/// As by default, but that a node with more than a few images gets several workers.
fn settings() -> Settings {
    Settings {
        worker: WorkerSettings {
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
        breaker: Breaker { nodes: 5000, at_once: 50 },
        examine: false,
        max_workers: 300,
        limits: super::Limits::default(),
        registry_concurrency: 200,
        known_for: Duration::from_secs(600),
        public_registries: vec!["docker.io".into()],
        max_retained: 8000,
        cluster: crate::egress::Cluster::default(),
    }
}

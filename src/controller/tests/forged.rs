//! Jobs, pods and plans that others made with our labels.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{
        Controller,
        clock::Clock,
        executor::Executor,
        observation::{Change, Observation, Source},
        watches,
    },
    simulation::settings,
};
use crate::{
    metrics::Metrics,
    node::{Facts, Interner},
    task::{Phase, PrewarmTask, PrewarmTaskSpec},
    worker::provenance::{Places, Rejection},
};

const UID: &str = "0b9f4f4c-6a7c-4f0e-9a51-1f2a3b4c5d6e";

/// A controller that keeps what it asks for.
fn controller(nodes: &[&str]) -> Controller {
    let metrics = Arc::new(Metrics::new().unwrap());
    let executor = Executor::Memory(std::sync::Mutex::default());
    let mut controller = Controller::new(executor, 5, Arc::new(settings()), metrics, Clock::from(Timestamp::now()));
    let task = PrewarmTask {
        metadata: serde_json::from_value(
            json!({"name": "web", "namespace": "shop", "uid": UID, "resourceVersion": "1"}),
        )
        .unwrap(),
        ..PrewarmTask::new("web", PrewarmTaskSpec::new(vec!["docker.io/library/nginx:1".into(), "b:1".into()]))
    };
    controller.take(Observation::Task(Change::Replace(vec![Arc::new(task)])));
    controller.take(Observation::Plan(Source::all("prewarmplans"), Change::Replace(Vec::new())));
    controller.take(Observation::Node(Change::Replace(nodes.iter().map(|name| Facts::sample(name)).collect())));
    controller.take(Observation::Job(Source::all("jobs"), Change::Replace(Vec::new())));
    controller.take(Observation::Pod(Source::all("pods"), Change::Replace(Vec::new())));
    assert!(controller.world.is_complete());
    controller
}

/// Metadata as a stranger who has read our source would write it, without what only a namespace's editor could add.
fn metadata(namespace: &str, name: &str, uid: &str, node: &str) -> Value {
    json!({
        "name": name, "namespace": namespace, "uid": format!("uid-of-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {
            "app.kubernetes.io/managed-by": "prewarmer", "prewarm.io/task": "web", "prewarm.io/task-uid": uid,
            "prewarm.io/node": node, "prewarm.io/batch": "0", "prewarm.io/attempt": "0", "prewarm.io/part": "0",
        },
        "annotations": {
            "prewarm.io/node-name": node, "prewarm.io/task-namespace": "shop", "prewarm.io/images": "0,1",
        },
    })
}

fn see_job(controller: &mut Controller, job: &Value) {
    let job = serde_json::from_value(job.clone()).unwrap();
    controller.take(Observation::Job(Source::all("jobs"), Change::Put(watches::see_job(&job, &Places::default()))));
}

fn see_pod(controller: &mut Controller, pod: &Value) {
    let pod = serde_json::from_value(pod.clone()).unwrap();
    let seen = watches::see_pod(&pod, &Places::default(), &Interner::default());
    controller.take(Observation::Pod(Source::all("pods"), Change::Put(seen)));
}

fn see_plan(controller: &mut Controller, plan: &Value) {
    let plan = serde_json::from_value(plan.clone()).unwrap();
    controller.take(Observation::Plan(Source::all("prewarmplans"), Change::Put(watches::plan(plan))));
}

#[tokio::test]
async fn suspended_jobs_of_strangers_leave_the_whole_room() {
    let mut controller = controller(&["n1"]);
    for n in 0..300 {
        let (name, uid, node) = (format!("fake-{n}"), format!("none-{n}"), format!("ghost-{n}"));
        let spec = json!({"suspend": true, "template": {"spec": {"nodeName": node}}});
        see_job(&mut controller, &json!({"metadata": metadata("evil", &name, &uid, &node), "spec": spec}));
    }
    let mut room = controller.room(Timestamp::now());
    assert_eq!(room.take("n1", "t", "shop", &[]), Ok(()), "300 fake Jobs leave no room");
    controller.measure();
    assert_eq!(controller.shared.metrics.jobs_active.get(), 0);
    assert_eq!(controller.world.foreign(), [(("jobs", Rejection::Name), 300)].into());
}

#[tokio::test]
async fn results_of_strangers_are_no_results() {
    let mut controller = controller(&["n1"]);
    controller.work();
    let plan = json!({"metadata": {"name": format!("plan-{UID}"), "namespace": "shop", "ownerReferences": [
        {"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "name": "web", "uid": UID, "controller": true}]},
        "spec": {"nodes": ["n1"], "atOnce": 1, "ignored": [], "ignoredCount": 0, "unchecked": []}});
    see_plan(&mut controller, &plan);
    let mut metadata = metadata("evil", "fake", UID, "n1");
    metadata["annotations"]["prewarm.io/images"] = json!("");
    see_pod(
        &mut controller,
        &json!({"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"}}),
    );
    controller.work();
    let run = &controller.runs[UID];
    assert!(controller.world.workers_of(UID).is_none(), "the fake is taken for a worker");
    assert_eq!(run.claimed().collect::<Vec<_>>(), ["n1"], "a worker of our own is asked for");
}

#[tokio::test]
async fn pods_of_strangers_close_no_registry() {
    let mut controller = controller(&["n1"]);
    controller.work();
    let container = json!({"name": "image-0", "state": {"waiting": {
        "reason": "ErrImagePull", "message": "429 Too Many Requests, retry-after: 3600"}}});
    see_pod(
        &mut controller,
        &json!({"metadata": metadata("evil", "fake", UID, "n1"), "spec": {"nodeName": "n1"},
        "status": {"phase": "Pending", "containerStatuses": [container]}}),
    );
    assert_eq!(controller.shared.budgets.reduced(), 0, "docker.io is closed for everybody");
}

#[tokio::test]
async fn plans_of_strangers_are_ignored() {
    let mut controller = controller(&["n1"]);
    let plan = |namespace: &str, name: &str, owner: Value| {
        json!({"metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner]},
            "spec": {"nodes": ["forged"], "atOnce": 1, "ignored": [], "ignoredCount": 0, "unchecked": []}})
    };
    let owner = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "name": "web", "uid": UID, "controller": true});
    let but = |field: &str, value: Value| {
        let mut owner = owner.clone();
        owner[field] = value;
        owner
    };
    let name = format!("plan-{UID}");
    for forged in [
        plan("evil", &name, owner.clone()),
        plan("shop", "plan-x", owner.clone()),
        plan("shop", &name, but("kind", json!("ConfigMap"))),
        plan("shop", &name, but("controller", json!(false))),
    ] {
        see_plan(&mut controller, &forged);
        assert!(controller.world.plan_of(UID).is_none(), "{forged:#}");
    }
    see_plan(&mut controller, &plan("shop", &name, owner.clone()));
    assert!(controller.world.plan_of(UID).is_some());
    assert_eq!(controller.runs.get(UID).map(|_| Phase::Pending), None);
}

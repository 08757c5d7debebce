//! Foreign Jobs, pods and plans with the controller's labels.

use std::sync::Arc;

use crate::{
    node::{Interner, NodeInfo},
    task::{Phase, PrewarmTask, PrewarmTaskSpec},
    worker::provenance::{AllowedNamespaces, ProvenanceError},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{
        Controller,
        classify::{classify_job, classify_plan, classify_pod},
        observation::Observation,
        watch::{WatchChange, WatchSource},
    },
    simulation::settings,
};

const UID: &str = "0b9f4f4c-6a7c-4f0e-9a51-1f2a3b4c5d6e";

fn now() -> Timestamp {
    Timestamp::from_second(1_780_000_000).unwrap()
}

/// Returns a controller with one task, whose watches have delivered their first lists.
fn controller(nodes: &[&str]) -> Controller {
    let mut controller = Controller::new(5, Arc::new(settings()));
    let task = PrewarmTask {
        metadata: serde_json::from_value(
            json!({"name": "web", "namespace": "shop", "uid": UID, "resourceVersion": "1"}),
        )
        .unwrap(),
        ..PrewarmTask::new(
            "web",
            PrewarmTaskSpec::new(vec!["docker.io/library/nginx:1".into(), "b:1".into()]),
        )
    };
    controller.handle(Observation::Task(WatchChange::Restarted(vec![Arc::new(task)])), now());
    controller.handle(
        Observation::Plan(WatchSource::all("prewarmplans"), WatchChange::Restarted(Vec::new())),
        now(),
    );
    controller.handle(
        Observation::Node(WatchChange::Restarted(
            nodes.iter().map(|name| NodeInfo::sample(name)).collect(),
        )),
        now(),
    );
    controller.handle(
        Observation::Job(WatchSource::all("jobs"), WatchChange::Restarted(Vec::new())),
        now(),
    );
    controller.handle(
        Observation::Pod(WatchSource::all("pods"), WatchChange::Restarted(Vec::new())),
        now(),
    );
    assert!(controller.state.is_synced());
    controller
}

/// Returns metadata as a user who knows the source code would write it, without the parts that
/// require permission to edit objects in the task's namespace.
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

fn deliver_job(controller: &mut Controller, job: &Value) {
    let job = serde_json::from_value(job.clone()).unwrap();
    controller.handle(
        Observation::Job(
            WatchSource::all("jobs"),
            WatchChange::Applied(classify_job(&job, &AllowedNamespaces::default())),
        ),
        now(),
    );
}

fn deliver_pod(controller: &mut Controller, pod: &Value) {
    let pod = serde_json::from_value(pod.clone()).unwrap();
    let seen = classify_pod(&pod, &AllowedNamespaces::default(), &Interner::default());
    controller
        .handle(Observation::Pod(WatchSource::all("pods"), WatchChange::Applied(seen)), now());
}

fn deliver_plan(controller: &mut Controller, plan: &Value) {
    let plan = serde_json::from_value(plan.clone()).unwrap();
    controller.handle(
        Observation::Plan(
            WatchSource::all("prewarmplans"),
            WatchChange::Applied(classify_plan(plan)),
        ),
        now(),
    );
}

#[test]
fn foreign_jobs_take_no_capacity() {
    let mut controller = controller(&["n1"]);
    for n in 0..300 {
        let (name, uid, node) = (format!("fake-{n}"), format!("none-{n}"), format!("ghost-{n}"));
        let spec = json!({"suspend": true, "template": {"spec": {"nodeName": node}}});
        deliver_job(
            &mut controller,
            &json!({"metadata": metadata("evil", &name, &uid, &node), "spec": spec}),
        );
    }
    let mut room = controller.compute_capacity(now());
    assert_eq!(
        room.try_reserve("n1", "t", "shop", &[]),
        Ok(()),
        "300 forged Jobs leave no capacity"
    );
    assert_eq!(controller.gauges().active_nodes, 0);
    assert_eq!(controller.state.foreign_counts(), [(("jobs", ProvenanceError::Name), 300)].into());
}

#[test]
fn results_of_foreign_pods_are_ignored() {
    let mut controller = controller(&["n1"]);
    controller.reconcile_all(now());
    let plan = json!({"metadata": {"name": format!("plan-{UID}"), "namespace": "shop", "ownerReferences": [
        {"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "name": "web", "uid": UID, "controller": true}]},
        "spec": {"nodes": ["n1"], "atOnce": 1, "ignored": [], "ignoredCount": 0, "unchecked": []}});
    deliver_plan(&mut controller, &plan);
    let mut metadata = metadata("evil", "fake", UID, "n1");
    metadata["annotations"]["prewarm.io/images"] = json!("");
    deliver_pod(
        &mut controller,
        &json!({"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"}}),
    );
    controller.reconcile_all(now());
    let run = &controller.reconcilers[UID];
    assert!(controller.state.workers_of(UID).is_none(), "the forged pod counts as a worker");
    assert_eq!(run.expected_nodes().collect::<Vec<_>>(), ["n1"], "our own worker is created");
}

#[test]
fn foreign_pods_reduce_no_registry_budget() {
    let mut controller = controller(&["n1"]);
    controller.reconcile_all(now());
    let container = json!({"name": "image-0", "state": {"waiting": {
        "reason": "ErrImagePull", "message": "429 Too Many Requests, retry-after: 3600"}}});
    deliver_pod(
        &mut controller,
        &json!({"metadata": metadata("evil", "fake", UID, "n1"), "spec": {"nodeName": "n1"},
        "status": {"phase": "Pending", "containerStatuses": [container]}}),
    );
    assert_eq!(controller.context.budgets.reduced_count(), 0, "the budget of docker.io is reduced");
}

#[test]
fn foreign_plans_are_ignored() {
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
        deliver_plan(&mut controller, &forged);
        assert!(controller.state.plan_of(UID).is_none(), "{forged:#}");
    }
    deliver_plan(&mut controller, &plan("shop", &name, owner.clone()));
    assert!(controller.state.plan_of(UID).is_some());
    assert_eq!(controller.reconcilers.get(UID).map(|_| Phase::Pending), None);
}

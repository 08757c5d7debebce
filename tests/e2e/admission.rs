//! Admission reviews: each workload kind and change creates exactly the expected tasks.

use std::{collections::BTreeMap, time::Duration};

use kube::ResourceExt;
use prewarmer_api::task::Amount;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{
        HELPER, SETTLE_TIME, TASK_TIMEOUT, deployment, expect_tasks_for, pod_spec, wide_deployment,
        workload,
    },
    namespace::Namespace,
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

#[tokio::test(flavor = "multi_thread")]
async fn each_workload_kind_creates_one_task() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("kinds");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let template = |image: &str, restart: Option<&str>| {
        let mut spec = pod_spec(&[image]);
        if let Some(policy) = restart {
            spec["restartPolicy"] = json!(policy);
        }
        json!({"metadata": {"labels": {"app": image.replace(':', "-")}}, "spec": spec})
    };
    let selected = |image: &str| {
        json!({"replicas": 1, "serviceName": "x", "selector": {"matchLabels": {"app": image.replace(':', "-")}},
               "template": template(image, None)})
    };
    let without = |spec: Value, fields: &[&str]| {
        let mut spec = spec;
        for field in fields {
            spec.as_object_mut().unwrap().remove(*field);
        }
        spec
    };
    let rc =
        json!({"replicas": 1, "selector": {"app": "rc-1"}, "template": template("rc:1", None)});
    let job = json!({"template": template("job:1", Some("Never"))});
    let cron = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template("cron:1", Some("Never"))}}});
    // Pods and Jobs that run once are warmed where they opt in.
    let opted_in = |object: Value| {
        let mut object = object;
        object["metadata"]["annotations"] = json!({"prewarm.io/enabled": "true"});
        object
    };
    let all = [
        workload(
            "apps/v1",
            "Deployment",
            "a",
            &without(selected("deployment:1"), &["serviceName"]),
        ),
        workload("apps/v1", "StatefulSet", "a", &selected("stateful:1")),
        workload(
            "apps/v1",
            "DaemonSet",
            "a",
            &without(selected("daemon:1"), &["serviceName", "replicas"]),
        ),
        workload("apps/v1", "ReplicaSet", "a", &without(selected("replica:1"), &["serviceName"])),
        workload("v1", "ReplicationController", "a", &rc),
        opted_in(workload("batch/v1", "Job", "a", &job)),
        workload("batch/v1", "CronJob", "a", &cron),
        opted_in(workload("v1", "Pod", "a", &pod_spec(&["pod:1"]))),
    ];
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": all}));
    let images =
        ["deployment:1", "stateful:1", "daemon:1", "replica:1", "rc:1", "job:1", "cron:1", "pod:1"];
    expect_tasks_for(&namespace, &images).await;
    tokio::time::sleep(SETTLE_TIME).await;
    expect_tasks_for(&namespace, &images).await;
    let tasks = namespace.tasks();
    let spec_with = |image: &str| {
        let mut specs = tasks.iter().map(|task| &task.spec);
        specs.find(|spec| spec.images.iter().any(|one| one == image)).unwrap()
    };
    assert_eq!(spec_with("daemon:1").nodes, Amount::Text("all".into()));
    assert_eq!(spec_with("deployment:1").nodes, Amount::Count(100));
    let node = BTreeMap::from([("kubernetes.io/hostname".into(), "node-0001".into())]);
    assert_eq!(spec_with("pod:1").node_selector, Some(node));
    assert!(
        server.get("/metrics").contains("\nprewarm_workloads_recovered_total 0\n"),
        "hints were lost"
    );
    assert_eq!(
        server.review_count(),
        8,
        "the API server sent pods or Jobs of controllers for review"
    );
}

fn custom_resource(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_kinds_create_tasks() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("custom");
    let definitions = [
        custom_resource("argoproj.io", "v1alpha1", "Rollout", "rollouts"),
        custom_resource("jobset.x-k8s.io", "v1alpha2", "JobSet", "jobsets"),
        custom_resource("ray.example.com", "v1", "RayCluster", "rayclusters"),
    ];
    cluster.kubectl(
        &["apply", "-f", "-"],
        &json!({"apiVersion": "v1", "kind": "List", "items": definitions}).to_string(),
    );
    let wait = ["wait", "--for=condition=Established", "--timeout=30s"];
    let all = [
        "crd/rollouts.argoproj.io",
        "crd/jobsets.jobset.x-k8s.io",
        "crd/rayclusters.ray.example.com",
    ];
    cluster.kubectl(&[&wait[..], &all].concat(), "");
    let kinds = "--kinds=argoproj.io/v1alpha1/Rollout=spec.template,\
        jobset.x-k8s.io/v1alpha2/JobSet=spec.replicatedJobs[*].template.spec.template,\
        ray.example.com/v1/RayCluster=spec.template+spec.workers[*].template";
    let image = format!("--worker-image={HELPER}");
    // Both workloads are coalesced into one task, which the next rollout of one of them does not
    // supersede. The window is long enough for both reviews on a slow machine.
    let window = "--coalesce-window=4s";
    let server = Server::with_args(cluster, &namespace, &namespace, &[kinds, &image, window]).await;
    let rollout = |image: &str, replicas: u32| {
        let spec =
            json!({"replicas": replicas, "template": {"spec": pod_spec(&[image, "proxy:1"])}});
        workload("argoproj.io/v1alpha1", "Rollout", "web", &spec)
    };
    let part =
        |image: &str| json!({"template": {"spec": {"template": {"spec": pod_spec(&[image])}}}});
    let jobs = json!({"replicatedJobs": [part("leader:1"), part("worker:1")]});
    let both =
        [rollout("web:1", 1), workload("jobset.x-k8s.io/v1alpha2", "JobSet", "train", &jobs)];
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": both}));
    expect_tasks_for(&namespace, &["web:1", "proxy:1", "leader:1", "worker:1"]).await;
    let before = server.review_count();
    namespace.apply(&rollout("web:1", 3));
    assert_eq!(server.review_count(), before, "a change of replicas alone was sent for review");
    namespace.apply(&rollout("web:2", 3));
    expect_tasks_for(&namespace, &["web:1", "web:2", "proxy:1", "leader:1", "worker:1"]).await;
    // Every template of a kind with several is warmed, and a change of any of them is reviewed.
    let ray = |worker: &str| {
        let workers = json!([{"template": {"spec": pod_spec(&[worker])}}]);
        let spec = json!({"template": {"spec": pod_spec(&["head:1"])}, "workers": workers});
        workload("ray.example.com/v1", "RayCluster", "ray", &spec)
    };
    let mut images = vec!["web:1", "web:2", "proxy:1", "leader:1", "worker:1"];
    namespace.apply(&ray("ray:1"));
    images.extend(["head:1", "ray:1"]);
    expect_tasks_for(&namespace, &images).await;
    namespace.apply(&ray("ray:2"));
    images.push("ray:2");
    expect_tasks_for(&namespace, &images).await;
    // A ReplicaSet owned by a configured kind creates no task of its own.
    let owner = json!([{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "web", "uid": "u", "controller": true}]);
    let labels = json!({"app": "web"});
    let mut made = workload(
        "apps/v1",
        "ReplicaSet",
        "web-1",
        &json!({"replicas": 0, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod_spec(&["other:1"])}}),
    );
    made["metadata"]["ownerReferences"] = owner;
    namespace.apply(&made);
    tokio::time::sleep(SETTLE_TIME).await;
    expect_tasks_for(&namespace, &images).await;
}

/// Waits until the Deployment's controller has no pending write. The API server retries a PATCH
/// that conflicts with such a write and sends another admission review for it.
async fn wait_until_settled(namespace: &Namespace, name: &str) {
    let look = || async {
        let all = namespace.get("deployments");
        let it = all.iter().find(|one| one["metadata"]["name"] == name)?;
        let (wanted, status) = (&it["spec"]["replicas"], &it["status"]);
        let seen = status["observedGeneration"] == it["metadata"]["generation"];
        let counts = ["replicas", "updatedReplicas", "availableReplicas"];
        (seen && counts.iter().all(|field| &status[*field] == wanted)).then_some(())
    };
    namespace.eventually("an up-to-date status of the Deployment", TASK_TIMEOUT, look).await;
}

/// A restart starts pods that resolve `latest` again, but find an image with a fixed tag.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_warms_images_whose_tags_move() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("restart");
    namespace.apply(&deployment("web", 1, &["moving:latest", "fixed:1"]));
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"], "");
    wait_until_settled(&namespace, "web").await;
    let server = Server::start(cluster, &namespace, HELPER).await;
    namespace.kubectl(&["rollout", "restart", "deployment/web"], "");
    expect_tasks_for(&namespace, &["moving:latest"]).await;
    let task = namespace.tasks()[0].name_any();
    namespace.wait_until_ended(&task, TASK_TIMEOUT).await;
    // kubectl writes the time of a restart in seconds.
    tokio::time::sleep(Duration::from_secs(1)).await;
    namespace.kubectl(&["rollout", "restart", "deployment/web"], "");
    assert_eq!(server.review_count(), 2);
    tokio::time::sleep(SETTLE_TIME).await;
    assert_eq!(namespace.tasks().len(), 1, "the task ended less than five minutes ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_image_changes_of_a_workload_create_tasks() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("life");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let apply = |words: &[&str], object: &Value| {
        namespace.kubectl(&[&["apply", "-f", "-"][..], words].concat(), &object.to_string());
    };
    apply(&["--dry-run=server"], &deployment("web", 2, &["web:1", "proxy:1"]));
    apply(&["--server-side"], &deployment("web", 2, &["web:1", "proxy:1"]));
    expect_tasks_for(&namespace, &["web:1", "proxy:1"]).await;
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"], "");
    // An open task would be superseded and its remaining images merged into the new task.
    let first = namespace.tasks()[0].name_any();
    namespace.wait_until_ended(&first, TASK_TIMEOUT).await;
    assert_eq!(server.review_count(), 2);
    namespace.kubectl(&["scale", "deployment/web", "--replicas=3"], "");
    namespace.kubectl(&["annotate", "deployment/web", "note=x"], "");
    namespace.kubectl(&["label", "deployment/web", "note=x"], "");
    let status = r#"{"status": {"observedGeneration": 99}}"#;
    namespace.kubectl(
        &["patch", "deployment/web", "--subresource=status", "--type=merge", "-p", status],
        "",
    );
    namespace.kubectl(&["rollout", "pause", "deployment/web"], "");
    namespace.kubectl(&["rollout", "resume", "deployment/web"], "");
    assert_eq!(server.review_count(), 2, "a change without effect on images was sent for review");
    wait_until_settled(&namespace, "web").await;
    namespace.kubectl(&["rollout", "restart", "deployment/web"], "");
    assert_eq!(server.review_count(), 3);
    namespace.kubectl(&["set", "image", "deployment/web", "c0=web:2"], "");
    expect_tasks_for(&namespace, &["web:1", "proxy:1", "web:2"]).await;
    let newest = namespace.tasks().into_iter().find(|task| task.spec.images == ["web:2"]);
    let newest = newest.expect("a task with only the new image");
    namespace.wait_until_ended(&newest.name_any(), TASK_TIMEOUT).await;
    namespace.kubectl(&["rollout", "undo", "deployment/web"], "");
    namespace.kubectl(&["set", "image", "deployment/web", "c0=docker.io/library/web:2"], "");
    tokio::time::sleep(SETTLE_TIME).await;
    expect_tasks_for(&namespace, &["web:1", "proxy:1", "web:2"]).await;
    assert_eq!(namespace.get("prewarmtasks").len(), 2);
    namespace.kubectl(&["delete", "deployment/web"], "");
    namespace.apply(&deployment("other", 0, &["web:2", "proxy:1"]));
    tokio::time::sleep(SETTLE_TIME).await;
    expect_tasks_for(&namespace, &["web:1", "proxy:1", "web:2"]).await;
    assert!(
        server.get("/metrics").contains("\nprewarm_workloads_recovered_total 0\n"),
        "hints were lost"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_nodes_limits_node_count() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("auto");
    let image = format!("--worker-image={HELPER}");
    let _server =
        Server::with_args(cluster, &namespace, &namespace, &["--auto-nodes=4", &image]).await;
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "wide"}}});
    namespace.apply(&scaler);
    let on = |node: &str| {
        let mut pod = workload(
            "v1",
            "Pod",
            node,
            &json!({"nodeName": node, "containers": [{"name": "c", "image": "web:0"}]}),
        );
        pod["metadata"]["annotations"] = json!({"prewarm.io/enabled": "false"});
        pod
    };
    // The current image runs on two nodes: the last one and one in the middle.
    namespace.apply(
        &json!({"apiVersion": "v1", "kind": "List", "items": [on("node-0120"), on("node-0060")]}),
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    namespace.apply(&wide_deployment("narrow", 0, &["web:1"]));
    namespace.apply(&wide_deployment("wide", 0, &["wide:1"]));
    expect_tasks_for(&namespace, &["web:1", "wide:1"]).await;
    for task in namespace.tasks() {
        let status = namespace.wait_until_ended(&task.name_any(), TASK_TIMEOUT).await;
        let wide = task.spec.images == ["wide:1"];
        assert_eq!(status.succeeded_nodes, if wide { 12 } else { 4 }, "{status:#?}");
        if !wide {
            let plans = namespace.get("prewarmplans");
            let plan = plans
                .iter()
                .find(|plan| plan["spec"]["nodes"].as_array().unwrap().len() == 4)
                .unwrap();
            assert_eq!(
                plan["spec"]["nodes"].as_array().unwrap()[..2],
                [json!("node-0060"), json!("node-0120")]
            );
        }
    }
}

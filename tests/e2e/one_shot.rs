//! Pods and Jobs that run once: they create no task and no request of the server, unless annotated.
//! The test needs a cluster of its own, whose Job controller its Jobs keep busy.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::Pod},
};
use kube::{Api, Resource, api::PostParams};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, SETTLE_TIME, expect_tasks_for, workload},
    namespace::Namespace,
    server::Server,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::TestCluster;

const FAKE_NODES: usize = 20;
/// Number of Jobs, and number of pods.
const OBJECTS: usize = 300;
/// Objects that are created at the same time. The webhook must answer each review within a second.
const CONCURRENCY: usize = 8;

/// Returns a Job with an image of its own, which is placed on a node by its name.
fn pinned_job(n: usize) -> Value {
    let image = format!("registry.example/pinned:{n}");
    let pod = json!({"nodeName": format!("node-{:04}", n % FAKE_NODES + 1), "restartPolicy": "Never",
        "containers": [{"name": "c", "image": image}]});
    workload("batch/v1", "Job", &format!("pinned-{n}"), &json!({"template": {"spec": pod}}))
}

/// Returns a pod of a pipeline with an image of its own.
fn ci_pod(n: usize) -> Value {
    let image = format!("registry.example/ci:{n}");
    let spec = json!({"nodeSelector": {"type": "fake"}, "restartPolicy": "Never",
        "containers": [{"name": "c", "image": image}]});
    workload("v1", "Pod", &format!("ci-{n}"), &spec)
}

/// Creates [`OBJECTS`] objects.
async fn create_all<K>(cluster: &Cluster, namespace: &Namespace, object: impl Fn(usize) -> Value)
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    K::DynamicType: Default,
{
    let api = Api::<K>::namespaced(cluster.client().await, &namespace.name);
    let objects = (0..OBJECTS).map(|n| serde_json::from_value::<K>(object(n)).unwrap());
    stream::iter(objects)
        .for_each_concurrent(CONCURRENCY, |object| {
            let api = api.clone();
            async move {
                api.create(&PostParams::default(), &object).await.unwrap();
            }
        })
        .await;
}

/// Returns the server's requests to the API server that are writes, except those for the Lease, and
/// all requests of intake, by labels.
fn work(server: &Server) -> BTreeMap<String, String> {
    let text = server.get("/metrics");
    assert!(text.contains("\nprewarm_kube_requests_total{"), "{text}");
    let is_work = |labels: &&str| {
        let is_write = ["create", "update", "patch", "delete", "deletecollection"]
            .iter()
            .any(|verb| labels.contains(&format!("verb=\"{verb}\"")));
        labels.contains("component=\"intake\"")
            || is_write && !labels.contains("component=\"election\"")
    };
    text.lines()
        .filter_map(|line| line.strip_prefix("prewarm_kube_requests_total"))
        .filter(is_work)
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(labels, count)| (labels.to_owned(), count.to_owned()))
        .collect()
}

fn one_shot_counts(server: &Server) -> BTreeMap<String, usize> {
    let text = server.get("/metrics");
    text.lines()
        .filter_map(|line| line.strip_prefix("prewarm_admission_one_shot_total{reason=\""))
        .filter_map(|line| line.split_once("\"} "))
        .map(|(reason, count)| (reason.to_owned(), count.parse().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shot_pods_and_jobs_make_no_task() {
    let cluster = Cluster::dedicated(FAKE_NODES);
    let namespace = cluster.namespace("once");
    let server = Server::start(cluster, &namespace, HELPER).await;
    // The registration of the webhook and the first reconcile are done.
    tokio::time::sleep(SETTLE_TIME).await;
    let (before, reviews) = (work(&server), server.review_count());
    create_all::<Job>(cluster, &namespace, pinned_job).await;
    create_all::<Pod>(cluster, &namespace, ci_pod).await;
    let expected = BTreeMap::from([
        ("bare_pod".to_owned(), OBJECTS),
        ("new_image".to_owned(), 0),
        ("no_further_completions".to_owned(), 0),
        ("node_name".to_owned(), OBJECTS),
    ]);
    assert_eq!(one_shot_counts(&server), expected);
    assert_eq!(server.review_count() - reviews, 2 * OBJECTS as u64);
    // The workload watch has seen all Jobs, and would have requested tasks for them.
    let started = || async {
        let jobs = namespace.get("jobs");
        jobs.iter().all(|job| job["status"]["startTime"].is_string()).then_some(jobs.len())
    };
    let jobs = namespace.eventually("a start of each Job", Duration::from_secs(120), started).await;
    assert_eq!(jobs, OBJECTS);
    tokio::time::sleep(SETTLE_TIME).await;
    assert_eq!(namespace.get("prewarmtasks").len(), 0, "tasks of one-shot pods and Jobs");
    assert_eq!(work(&server), before, "writes of the server, or requests of intake");

    let mut opted_in = pinned_job(OBJECTS);
    opted_in["metadata"]["annotations"] = json!({"prewarm.io/enabled": "true"});
    namespace.apply(&opted_in);
    let image = format!("registry.example/pinned:{OBJECTS}");
    expect_tasks_for(&namespace, &[image.as_str()]).await;
    let mut further = pinned_job(OBJECTS + 1);
    let spec = &mut further["spec"];
    spec["completions"] = json!(3);
    spec["template"]["spec"]["nodeName"] = Value::Null;
    spec["template"]["spec"]["nodeSelector"] = json!({"type": "fake"});
    namespace.apply(&further);
    let other = format!("registry.example/pinned:{}", OBJECTS + 1);
    expect_tasks_for(&namespace, &[image.as_str(), &other]).await;
    // An annotation that is added later is found by the workload watch.
    let later = "registry.example/pinned:0";
    namespace.kubectl(&["annotate", "job/pinned-0", "prewarm.io/enabled=true"], "");
    let images = [image.as_str(), &other, later];
    expect_tasks_for(&namespace, &images).await;
    // Images of a controller of an unknown kind are new at first, also for the workload watch.
    let run = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "run"}});
    namespace.apply(&run);
    let uid = namespace.kubectl(&["get", "configmap/run", "-o", "jsonpath={.metadata.uid}"], "");
    let owners = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "run", "uid": uid.trim(),
        "controller": true}]);
    let mut job = further;
    job["metadata"]["name"] = json!("owned");
    job["spec"]["completions"] = json!(1);
    job["spec"]["template"]["spec"]["containers"][0]["image"] = json!("registry.example/owned:1");
    for mut owned in [job, ci_pod(OBJECTS)] {
        owned["metadata"]["ownerReferences"] = owners.clone();
        namespace.apply(&owned);
    }
    let counted = || async { (one_shot_counts(&server)["new_image"] == 2).then_some(()) };
    namespace.eventually("two new images", Duration::from_secs(30), counted).await;
    tokio::time::sleep(SETTLE_TIME).await;
    expect_tasks_for(&namespace, &images).await;
}

//! Admission policies that restrict the controller's account, tested by impersonation: every worker
//! that the server creates is accepted, and every change that gives it more access is denied.
//! `installed.rs` tests the same with the server's own token.

use prewarmer_core::{
    task::{PrewarmTaskSpec, PullMethod, WorkerKind, validate::validate},
    worker::{Assignment, WorkerObject, WorkerSettings, build},
};
use prewarmer_test_support::{
    cluster::{CHART, Cluster},
    fixtures::INSTALLED_HELPER,
    misuses::{set_pointer, try_misuses, worker_misuses},
    namespace::Namespace,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Returns a worker as the server creates it.
fn worker_object(
    kind: WorkerKind,
    method: PullMethod,
    namespace: &str,
    class: &str,
) -> WorkerObject {
    let spec = PrewarmTaskSpec {
        worker: kind,
        ..PrewarmTaskSpec::new(vec!["nginx:1".into(), "redis:7".into()])
    };
    let at = Assignment {
        namespace,
        task_namespace: namespace,
        task: "t",
        task_uid: "u-1",
        batch: 0,
        node: "node-0001",
        attempt: 0,
        part: 0,
        images: &[0, 1],
        method,
    };
    let settings = WorkerSettings {
        image_pull_policy: prewarmer_core::task::PullPolicy::default(),
        owner: None,
        service_account: None,
        image: INSTALLED_HELPER.into(),
        priority_class: Some(class.to_owned()),
        ttl: std::time::Duration::from_secs(3600),
        images_per_pod: 30,
    };
    build(&validate(&spec).unwrap(), &at, &settings)
}

/// Returns the same worker as JSON.
fn build_worker(kind: WorkerKind, method: PullMethod, namespace: &str, class: &str) -> Value {
    let mut value = match worker_object(kind, method, namespace, class) {
        WorkerObject::Job(job) => serde_json::to_value(job).unwrap(),
        WorkerObject::Pod(pod) => serde_json::to_value(pod).unwrap(),
    };
    value["metadata"]["ownerReferences"] = json!([{"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "name": "t", "uid": "u-1", "controller": true}]);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn misuses_of_workers_are_denied() {
    let cluster = Cluster::shared();
    let (install, shop) = (cluster.namespace("fence"), cluster.namespace("fenced"));
    let instance = install.name.as_str();
    let values = format!(
        "crds.install=false,test.enabled=false,instance={instance},workerImage.repository=registry.example/helper"
    );
    let mut words = vec![
        "template",
        "prewarmer",
        CHART,
        "--namespace",
        instance,
        "--set",
        &values,
        "--set-string",
        "workerImage.tag=1",
    ];
    for part in ["fence", "rbac", "serviceaccount", "priorityclasses"] {
        words.extend(["--show-only", &*format!("templates/{part}.yaml").leak()]);
    }
    let manifests = cluster.helm(&words);
    cluster.kubectl(&["apply", "--server-side", "-f", "-"], &manifests);
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "fence"}, "handler": "x"});
    cluster.kubectl(&["apply", "-f", "-"], &class.to_string());
    let class = format!("prewarmer-{instance}-worker");
    let account = impersonation_flag(cluster, instance);
    let create = |namespace: &str, object: &Value| {
        let words = ["-n", namespace, &account, "create", "--dry-run=server", "-f", "-"];
        cluster.try_kubectl(&words, &object.to_string())
    };
    // The API server enforces new policies after a short delay.
    let canary =
        build_worker(WorkerKind::Pod, PullMethod::Helper, &shop.name, "system-node-critical");
    shop.eventually(
        "enforcement of the policies",
        std::time::Duration::from_secs(20),
        async || create(&shop.name, &canary).1.contains("ValidatingAdmissionPolicy").then_some(()),
    )
    .await;
    let (mut tried, mut wrong) = (0, Vec::new());
    for (kind, named) in [(WorkerKind::Pod, "Pod"), (WorkerKind::Job, "Job")] {
        for method in [PullMethod::Helper, PullMethod::ImageVolume] {
            let good = build_worker(kind, method, &shop.name, &class);
            let (taken, said) = create(&shop.name, &good);
            assert!(
                taken,
                "{named} by {method:?}: a worker as the server creates it was denied: {said}"
            );
            let probe = worker_object(kind, method, &shop.name, &class).to_pod();
            let (taken, said) = create(&shop.name, &serde_json::to_value(probe).unwrap());
            assert!(taken, "{named} by {method:?}: the pod of a dry run was denied: {said}");
            let create = |objects: &Value| create(&shop.name, objects).1;
            let (denied, others) =
                try_misuses(&good, &worker_misuses(named, method == PullMethod::Helper), create);
            tried += denied + others.len();
            wrong.extend(others.into_iter().map(|said| format!("{named} by {method:?}: {said}")));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {tried} misuses are not denied by a policy:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    println!("MEASURED {tried} misuses of a worker are denied");
    cluster_defaults_are_accepted(&create, &shop, &install, &class);
    cluster.kubectl(&["delete", "-f", "-", "--wait=false", "--ignore-not-found"], &manifests);
}

/// Returns the kubectl flag that impersonates the account that creates workers.
fn impersonation_flag(cluster: &Cluster, namespace: &str) -> String {
    let made = cluster.kubectl(&["-n", namespace, "get", "serviceaccounts", "-o", "name"], "");
    let names: Vec<&str> =
        made.lines().filter_map(|line| line.strip_prefix("serviceaccount/prewarmer-")).collect();
    let controller = names.iter().find(|name| name.ends_with("-controller"));
    let name = controller.or_else(|| names.iter().find(|name| !name.ends_with("-worker"))).unwrap();
    format!("--as=system:serviceaccount:{namespace}:prewarmer-{name}")
}

/// Verifies that additions of `LimitRange`s and service meshes are accepted, and workers in the
/// installation's own namespace, which a task of another namespace cannot own.
fn cluster_defaults_are_accepted(
    create: &impl Fn(&str, &Value) -> (bool, String),
    shop: &Namespace,
    install: &Namespace,
    class: &str,
) {
    let mut limited = build_worker(WorkerKind::Pod, PullMethod::Helper, &shop.name, class);
    for container in ["/spec/containers/0", "/spec/initContainers/0"] {
        set_pointer(
            &mut limited,
            &format!("{container}/resources/requests/ephemeral-storage"),
            json!("100Mi"),
        );
        set_pointer(
            &mut limited,
            &format!("{container}/resources/limits/ephemeral-storage"),
            json!("1Gi"),
        );
    }
    set_pointer(&mut limited, "/spec/securityContext/seLinuxOptions", json!({"level": "s0:c1,c2"}));
    let (taken, said) = create(&shop.name, &limited);
    assert!(taken, "{said}");
    let mut own = build_worker(WorkerKind::Pod, PullMethod::Helper, &install.name, class);
    own["metadata"]["ownerReferences"] = Value::Null;
    let (taken, said) = create(&install.name, &own);
    assert!(
        !taken && said.contains("the workers' service account"),
        "a worker with another service account was not denied: {said}"
    );
    own["spec"]["serviceAccountName"] = json!(format!("prewarmer-{}-worker", install.name));
    let lease = json!([{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": "prewarmer", "uid": "u-2"}]);
    for owner in [Value::Null, lease] {
        own["metadata"]["ownerReferences"] = owner;
        let (taken, said) = create(&install.name, &own);
        assert!(taken, "{said}");
    }
}

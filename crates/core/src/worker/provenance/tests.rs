//! Tests of the provenance of Jobs and pods.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    task::{PrewarmTaskSpec, validate::validate},
    worker::{Assignment, WorkerObject, WorkerSettings, build},
};

fn settings() -> WorkerSettings {
    let ttl = std::time::Duration::from_secs(60);
    WorkerSettings {
        image_pull_policy: crate::task::PullPolicy::default(),
        owner: None,
        service_account: Some("worker".into()),
        image: "helper:1".into(),
        priority_class: None,
        ttl,
        images_per_pod: 30,
    }
}

fn task(kind: WorkerKind) -> PrewarmTask {
    let spec =
        PrewarmTaskSpec { worker: kind, ..PrewarmTaskSpec::new(vec!["a:1".into(), "b:1".into()]) };
    let mut task = PrewarmTask::new("web", spec);
    (task.metadata.namespace, task.metadata.uid) = (Some("shop".into()), Some("u-1".into()));
    task
}

/// Returns a worker as the controller creates it, as JSON of the API server.
fn worker_json(kind: WorkerKind, namespace: &str) -> Value {
    let valid = validate(&task(kind).spec).unwrap();
    let at = Assignment {
        namespace,
        task_namespace: "shop",
        task: "web",
        task_uid: "u-1",
        batch: 3,
        node: "n1",
        attempt: 1,
        part: 0,
        images: &[0, 1],
        method: crate::task::PullMethod::Helper,
    };
    let mut object = match build(&valid, &at, &settings()) {
        WorkerObject::Job(job) => serde_json::to_value(job).unwrap(),
        WorkerObject::Pod(pod) => serde_json::to_value(pod).unwrap(),
    };
    object["metadata"]["uid"] = json!("w-1");
    object
}

/// Returns the pod that the Job controller creates for a worker Job.
fn job_pod_json(job: &Value) -> Value {
    let name = job["metadata"]["name"].clone();
    let mut pod = job["spec"]["template"].clone();
    pod["metadata"]["name"] = json!(format!("{}-abcde", name.as_str().unwrap()));
    pod["metadata"]["namespace"] = job["metadata"]["namespace"].clone();
    pod["metadata"]["labels"][JOB_NAME_LABEL] = name.clone();
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": "w-1", "controller": true}]);
    pod
}

fn allowed_namespaces() -> AllowedNamespaces {
    AllowedNamespaces { own: Some("prewarmer".into()) }
}

fn job(object: &Value) -> Result<WorkerInfo, ProvenanceError> {
    let worker =
        verify_job(&serde_json::from_value(object.clone()).unwrap(), &allowed_namespaces())?;
    verify_against_task(&worker, &task(WorkerKind::Job)).map(|()| worker)
}

fn bare(object: &Value) -> Result<PodClaim, ProvenanceError> {
    let claim =
        verify_pod(&serde_json::from_value(object.clone()).unwrap(), &allowed_namespaces())?;
    verify_against_task(&claim.worker, &task(WorkerKind::Pod)).map(|()| claim)
}

#[test]
fn own_workers_pass() {
    for namespace in ["shop", "prewarmer"] {
        let worker = job(&worker_json(WorkerKind::Job, namespace)).unwrap();
        assert_eq!(
            (worker.batch, worker.attempt, worker.part, &*worker.images),
            (3, 1, 0, &[0, 1][..])
        );
        assert_eq!(
            (worker.is_outside_task_namespace(), &*worker.uid),
            (namespace != "shop", "w-1")
        );
        assert_eq!(bare(&worker_json(WorkerKind::Pod, namespace)).unwrap().job, None);
        let pod = job_pod_json(&worker_json(WorkerKind::Job, namespace));
        let claim =
            verify_pod(&serde_json::from_value(pod).unwrap(), &allowed_namespaces()).unwrap();
        assert_eq!(
            (claim.job.as_deref(), verify_against_job(&claim, &worker)),
            (Some("w-1"), Ok(()))
        );
    }
}

type JsonChange = (&'static str, Value);

#[rstest]
#[case(("/metadata/namespace", json!("evil")), ProvenanceError::Namespace)]
#[case(("/metadata/name", json!("prewarm-00112233445566778899")), ProvenanceError::Name)]
#[case(("/metadata/labels/prewarm.io~1attempt", json!("0")), ProvenanceError::Name)]
#[case(("/metadata/labels/prewarm.io~1attempt", json!("01")), ProvenanceError::Labels)]
#[case(("/metadata/labels/prewarm.io~1attempt", json!("-1")), ProvenanceError::Labels)]
#[case(("/metadata/labels/prewarm.io~1batch", json!("4294967296")), ProvenanceError::Labels)]
#[case(("/metadata/labels/prewarm.io~1part", json!("1")), ProvenanceError::Name)]
#[case(("/metadata/labels/prewarm.io~1node", json!("n2")), ProvenanceError::Labels)]
#[case(("/metadata/labels/prewarm.io~1task", json!("other")), ProvenanceError::Owner)]
#[case(("/metadata/labels/prewarm.io~1task-uid", json!("u-2")), ProvenanceError::Name)]
#[case(("/metadata/annotations/prewarm.io~1node-name", json!("n2")), ProvenanceError::Labels)]
#[case(("/metadata/annotations/prewarm.io~1task-namespace", json!("bank")), ProvenanceError::Namespace)]
#[case(("/metadata/annotations/prewarm.io~1images", json!("")), ProvenanceError::Labels)]
#[case(("/metadata/annotations/prewarm.io~1images", json!("0,0")), ProvenanceError::Labels)]
#[case(("/metadata/annotations/prewarm.io~1images", json!("999")), ProvenanceError::Task)]
#[case(("/metadata/annotations/prewarm.io~1images", json!("70000")), ProvenanceError::Labels)]
#[case(("/metadata/ownerReferences", json!([])), ProvenanceError::Owner)]
#[case(("/metadata/ownerReferences/0/uid", json!("u-2")), ProvenanceError::Owner)]
#[case(("/metadata/ownerReferences/0/name", json!("other")), ProvenanceError::Owner)]
#[case(("/metadata/ownerReferences/0/kind", json!("ConfigMap")), ProvenanceError::Owner)]
#[case(("/metadata/ownerReferences/0/controller", json!(false)), ProvenanceError::Owner)]
fn inconsistent_workers_are_rejected(
    #[case] change: JsonChange,
    #[case] expected: ProvenanceError,
) {
    let changed = |mut object: Value| {
        *object.pointer_mut(change.0).unwrap() = change.1.clone();
        object
    };
    assert_eq!(job(&changed(worker_json(WorkerKind::Job, "shop"))), Err(expected));
    assert_eq!(bare(&changed(worker_json(WorkerKind::Pod, "shop"))), Err(expected));
}

#[test]
fn node_label_must_match_node_name() {
    let mut object = worker_json(WorkerKind::Job, "shop");
    object["spec"]["template"]["spec"]["nodeName"] = json!("n2");
    assert_eq!(job(&object), Err(ProvenanceError::Node));
    let mut object = worker_json(WorkerKind::Pod, "shop");
    object["spec"].as_object_mut().unwrap().remove("nodeName");
    assert_eq!(bare(&object), Err(ProvenanceError::Node));
}

#[test]
fn own_namespace_is_rejected_unless_workers_may_run_there() {
    let object = serde_json::from_value(worker_json(WorkerKind::Job, "prewarmer")).unwrap();
    assert_eq!(verify_job(&object, &AllowedNamespaces::default()), Err(ProvenanceError::Namespace));
}

#[test]
fn worker_of_wrong_kind_attempt_or_namespace_is_rejected() {
    let worker = job(&worker_json(WorkerKind::Job, "shop")).unwrap();
    assert_eq!(verify_against_task(&worker, &task(WorkerKind::Pod)), Err(ProvenanceError::Task));
    let late = WorkerInfo { attempt: 6, ..worker.clone() };
    assert_eq!(verify_against_task(&late, &task(WorkerKind::Job)), Err(ProvenanceError::Task));
    let mut other = task(WorkerKind::Job);
    other.metadata.namespace = Some("bank".into());
    assert_eq!(verify_against_task(&worker, &other), Err(ProvenanceError::Namespace));
}

#[rstest]
#[case(("/metadata/ownerReferences/0/uid", json!("w-2")), ProvenanceError::UnknownJob)]
#[case(("/metadata/ownerReferences/0/kind", json!("ReplicaSet")), ProvenanceError::Owner)]
#[case(("/metadata/ownerReferences/0/name", json!("other")), ProvenanceError::Owner)]
#[case(("/metadata/labels/batch.kubernetes.io~1job-name", json!("other")), ProvenanceError::Name)]
#[case(("/metadata/annotations/prewarm.io~1images", json!("0")), ProvenanceError::Job)]
#[case(("/metadata/labels/prewarm.io~1batch", json!("0")), ProvenanceError::Job)]
#[case(("/spec/nodeName", json!("n2")), ProvenanceError::Node)]
fn pod_that_does_not_match_its_job_is_rejected(
    #[case] change: JsonChange,
    #[case] expected: ProvenanceError,
) {
    let object = worker_json(WorkerKind::Job, "shop");
    let worker = job(&object).unwrap();
    let mut pod = job_pod_json(&object);
    *pod.pointer_mut(change.0).unwrap() = change.1;
    let claim = verify_pod(&serde_json::from_value(pod).unwrap(), &allowed_namespaces());
    assert_eq!(claim.and_then(|claim| verify_against_job(&claim, &worker)), Err(expected));
}

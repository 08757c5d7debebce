//! Verification that a Job or pod with our labels is a worker of this installation. Pure: no
//! client, no clock, no I/O.
//!
//! Labels prove nothing, because every user who may create pods can set them. Verified are only
//! properties that Prewarmer, or a user with write access to the task's own namespace, can produce:
//! the namespace, the owner reference with the task's UID, the name derived from task, node,
//! attempt and part, the node, and that labels and annotations agree with all of these.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use super::{
    ATTEMPT_LABEL, BATCH_LABEL, IMAGES_ANNOTATION, MANAGED_BY, NODE_ANNOTATION, NODE_LABEL,
    PART_LABEL, TASK_LABEL, TASK_NAMESPACE_ANNOTATION, TASK_UID_LABEL, WorkerInfo,
    info::JOB_NAME_LABEL,
    names::{label_value, worker_name},
    pod::image_index,
};
use crate::{
    slim::{SlimJob, SlimPod},
    task::{MAX_RETRIES, PrewarmTask, WorkerKind},
};

/// Cause for which an object with our labels fails provenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProvenanceError {
    /// Labels or annotations of a worker are missing, malformed or inconsistent.
    Labels,
    /// The name is not the one derived from task, node, attempt and part.
    Name,
    /// The pod is not pinned to the node in its labels.
    Node,
    /// A controller owner reference to the task is missing where it is required.
    Owner,
    /// The namespace is not one in which workers of the task are created.
    Namespace,
    /// No task has the UID in the labels, at least not yet.
    UnknownTask,
    /// Name, kind of worker, number of images or number of attempts do not match the task.
    Task,
    /// The pod's controller is not a known worker Job, at least not yet.
    UnknownJob,
    /// Labels or annotations of the pod do not match its Job.
    Job,
    /// The task already has the maximum number of workers.
    TooMany,
}

impl ProvenanceError {
    /// Returns the value of the metric label `reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Name => "name",
            Self::Node => "node",
            Self::Owner => "owner",
            Self::Namespace => "namespace",
            Self::UnknownTask => "unknown_task",
            Self::Task => "task",
            Self::UnknownJob => "unknown_job",
            Self::Job => "job",
            Self::TooMany => "too_many",
        }
    }

    /// Reports whether one of our own workers can be rejected with this cause for a moment: watches
    /// are not ordered relative to each other, and a pod is deleted after its owner.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::UnknownTask | Self::UnknownJob)
    }

    /// Returns a description for users.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Labels => {
                "labels or annotations of a worker are missing or contradict one another"
            }
            Self::Name => "the name does not match the worker that the labels describe",
            Self::Node => "spec.nodeName is not the node that the labels name",
            Self::Owner => "no controller owner reference refers to the PrewarmTask",
            Self::Namespace => "workers of its PrewarmTask are not created in this namespace",
            Self::UnknownTask => "its namespace has no PrewarmTask with the UID in its labels",
            Self::Task => "it does not match the spec of its PrewarmTask",
            Self::UnknownJob => "its controller is not a known worker Job",
            Self::Job => "its labels or annotations do not match its Job",
            Self::TooMany => "its PrewarmTask already has the maximum number of workers",
        }
    }
}

/// Namespaces in which workers may exist without an owner reference to their task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedNamespaces {
    /// Prewarmer's own namespace, set if workers of tasks of other namespaces may be created there.
    /// Tenants cannot write to it.
    pub own: Option<String>,
}

/// Pod that claims to be a worker, or to belong to a worker Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// Worker that the pod claims to be or to belong to.
    pub worker: WorkerInfo,
    /// UID of the Job that created the pod. `None` for a bare pod.
    pub job: Option<Box<str>>,
}

/// Verifies a worker Job as far as possible without its task.
pub fn verify_job(
    job: &SlimJob,
    places: &AllowedNamespaces,
) -> Result<WorkerInfo, ProvenanceError> {
    let worker = parse_worker(
        WorkerKind::Job,
        &job.metadata,
        job.name_any(),
        &job.spec.template.spec.node_name,
    )?;
    verify_owner(&job.metadata, &worker, places)?;
    Ok(worker.with_job_status(job))
}

/// Verifies a worker pod as far as possible without its task and its Job.
pub fn verify_pod(pod: &SlimPod, places: &AllowedNamespaces) -> Result<PodClaim, ProvenanceError> {
    let meta = &pod.metadata;
    let Some(job) = pod.labels().get(JOB_NAME_LABEL) else {
        let worker = parse_worker(WorkerKind::Pod, meta, pod.name_any(), &pod.spec.node_name)?;
        verify_owner(meta, &worker, places)?;
        return Ok(PodClaim { worker: worker.with_pod_status(pod), job: None });
    };
    let worker = parse_worker(WorkerKind::Job, meta, job.clone(), &pod.spec.node_name)?;
    let owner = controller_of(meta).filter(|owner| {
        owner.kind == "Job"
            && owner.api_version == "batch/v1"
            && owner.name == *job
            && !owner.uid.is_empty()
    });
    let owner = owner.ok_or(ProvenanceError::Owner)?;
    verify_namespace(&worker, places)?;
    Ok(PodClaim { worker, job: Some(owner.uid.as_str().into()) })
}

/// Returns the images of a pod, as written in its spec, by index in the task.
#[must_use]
pub fn pulled_images(pod: &SlimPod) -> Box<[(u16, Box<str>)]> {
    let volumes = pod
        .spec
        .volumes
        .iter()
        .filter_map(|volume| Some((&volume.name, &volume.image.as_ref()?.reference)));
    let volumes: Vec<_> = volumes.collect();
    let containers =
        pod.spec.containers.iter().map(|container| (&container.name, &container.image));
    // The containers of a pod that mounts images run the helper image.
    let all: Vec<_> = if volumes.is_empty() { containers.collect() } else { volumes };
    all.into_iter()
        .filter_map(|(name, image)| Some((image_index(name)?, image.as_str().into())))
        .collect()
}

/// Verifies that a worker matches its task. Only properties derived from the spec are compared; a
/// spec does not change.
pub fn verify_against_task(worker: &WorkerInfo, task: &PrewarmTask) -> Result<(), ProvenanceError> {
    let (spec, name) = (&task.spec, task.metadata.name.as_deref().unwrap_or_default());
    if task.metadata.namespace.as_deref() != Some(&*worker.task_namespace) {
        return Err(ProvenanceError::Namespace);
    }
    let images = spec.images.len();
    let fits = *worker.task == *label_value(name)
        && spec.worker == worker.kind
        && u32::from(worker.attempt) <= MAX_RETRIES
        && usize::from(worker.part) < images
        && worker.images.iter().all(|image| usize::from(*image) < images);
    if fits { Ok(()) } else { Err(ProvenanceError::Task) }
}

/// Verifies that a pod belongs to this Job.
pub fn verify_against_job(claim: &PodClaim, job: &WorkerInfo) -> Result<(), ProvenanceError> {
    if claim.job.as_deref() != Some(&*job.uid) {
        return Err(ProvenanceError::UnknownJob);
    }
    let pod = &claim.worker;
    let agree = (pod.kind, &pod.task_uid, &pod.task, &pod.task_namespace)
        == (job.kind, &job.task_uid, &job.task, &job.task_namespace)
        && (&pod.node, pod.batch, pod.attempt, pod.part, &pod.images)
            == (&job.node, job.batch, job.attempt, job.part, &job.images);
    if agree { Ok(()) } else { Err(ProvenanceError::Job) }
}

/// Returns the controller owner reference if it refers to a `PrewarmTask` with a UID. The caller
/// must compare the owner's name.
#[must_use]
pub fn owner_task(meta: &ObjectMeta) -> Option<&OwnerReference> {
    controller_of(meta).filter(|owner| {
        owner.kind == PrewarmTask::kind(&())
            && owner.api_version == PrewarmTask::api_version(&())
            && !owner.uid.is_empty()
    })
}

fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Parses the worker described by labels and annotations, and compares it with its name and its
/// node.
fn parse_worker(
    kind: WorkerKind,
    meta: &ObjectMeta,
    name: String,
    pinned: &str,
) -> Result<WorkerInfo, ProvenanceError> {
    let label = |name: &str| meta.labels.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let annotation =
        |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let present = |text: Option<&str>| {
        text.filter(|text| !text.is_empty()).map(str::to_owned).ok_or(ProvenanceError::Labels)
    };
    if label(MANAGED_BY.0) != Some(MANAGED_BY.1) {
        return Err(ProvenanceError::Labels);
    }
    let node = present(annotation(NODE_ANNOTATION))?;
    let task_uid = present(label(TASK_UID_LABEL))?;
    let task = present(label(TASK_LABEL))?;
    let task_namespace = present(annotation(TASK_NAMESPACE_ANNOTATION))?;
    if label(NODE_LABEL) != Some(label_value(&node).as_str()) {
        return Err(ProvenanceError::Labels);
    }
    let batch: u32 = parse_number(label(BATCH_LABEL))?;
    let attempt: u8 = parse_number(label(ATTEMPT_LABEL))?;
    let part: u16 = parse_number(label(PART_LABEL))?;
    let asked = parse_image_indexes(annotation(IMAGES_ANNOTATION).unwrap_or_default())?;
    if name != worker_name(&[&task_uid, &node, &attempt.to_string(), &part.to_string()]) {
        return Err(ProvenanceError::Name);
    }
    if pinned != node {
        return Err(ProvenanceError::Node);
    }
    Ok(WorkerInfo {
        kind,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name,
        uid: meta.uid.clone().unwrap_or_default().into(),
        task_uid,
        task: task.into(),
        task_namespace: task_namespace.into(),
        node,
        batch,
        attempt,
        part,
        images: asked,
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        first_seen: None,
        deleting: meta.deletion_timestamp.is_some(),
        finished: false,
        failure: None,
    })
}

/// Parses a number in canonical form: no sign and no leading zeros.
fn parse_number<T: std::str::FromStr + ToString>(text: Option<&str>) -> Result<T, ProvenanceError> {
    let text = text.ok_or(ProvenanceError::Labels)?;
    let number: T = text.parse().map_err(|_| ProvenanceError::Labels)?;
    if number.to_string() == text { Ok(number) } else { Err(ProvenanceError::Labels) }
}

/// Parses image indexes in strictly ascending order. At least one is required, because Prewarmer
/// creates no worker without images.
fn parse_image_indexes(text: &str) -> Result<Box<[u16]>, ProvenanceError> {
    let indexes = text
        .split(',')
        .map(|index| parse_number(Some(index)))
        .collect::<Result<Box<[u16]>, _>>()?;
    if indexes.is_sorted_by(|a, b| a < b) { Ok(indexes) } else { Err(ProvenanceError::Labels) }
}

fn verify_namespace(
    worker: &WorkerInfo,
    places: &AllowedNamespaces,
) -> Result<(), ProvenanceError> {
    let at_home = worker.namespace == *worker.task_namespace;
    let in_ours = places.own.as_deref() == Some(worker.namespace.as_str());
    if at_home || in_ours { Ok(()) } else { Err(ProvenanceError::Namespace) }
}

/// Verifies that a worker is owned by its task. A task of another namespace cannot own workers in
/// Prewarmer's own namespace; there the namespace itself is the proof.
fn verify_owner(
    meta: &ObjectMeta,
    worker: &WorkerInfo,
    places: &AllowedNamespaces,
) -> Result<(), ProvenanceError> {
    verify_namespace(worker, places)?;
    if worker.is_outside_task_namespace() {
        return Ok(());
    }
    let is_task = |owner: &OwnerReference| {
        owner.uid == worker.task_uid && label_value(&owner.name) == *worker.task
    };
    if owner_task(meta).is_some_and(is_task) { Ok(()) } else { Err(ProvenanceError::Owner) }
}

#[cfg(test)]
mod tests {
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
            owner: None,
            service_account: Some("worker".into()),
            image: "helper:1".into(),
            priority_class: None,
            ttl,
            images_per_pod: 30,
        }
    }

    fn task(kind: WorkerKind) -> PrewarmTask {
        let spec = PrewarmTaskSpec {
            worker: kind,
            ..PrewarmTaskSpec::new(vec!["a:1".into(), "b:1".into()])
        };
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
        assert_eq!(
            verify_job(&object, &AllowedNamespaces::default()),
            Err(ProvenanceError::Namespace)
        );
    }

    #[test]
    fn worker_of_wrong_kind_attempt_or_namespace_is_rejected() {
        let worker = job(&worker_json(WorkerKind::Job, "shop")).unwrap();
        assert_eq!(
            verify_against_task(&worker, &task(WorkerKind::Pod)),
            Err(ProvenanceError::Task)
        );
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
}

//! Whether a Job or pod that carries our labels is a worker of this installation. *Pure.*
//!
//! Labels prove nothing: anybody who may create pods can write them. What is checked is what only we, or somebody with the
//! right to write into the task's own namespace, can bring about: the namespace, the owner reference with the task's UID, the name
//! that follows from task, node, try and part, the node, and that labels and annotations agree with all of these.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use super::{
    ASKED_ANNOTATION, ATTEMPT_LABEL, BATCH_LABEL, MANAGED_BY, NODE_ANNOTATION, NODE_LABEL, PART_LABEL, TASK_LABEL,
    TASK_NAMESPACE_ANNOTATION, TASK_UID_LABEL, WorkerFacts,
    facts::JOB_NAME_LABEL,
    names::{label_value, worker_name},
    pod::image_index,
};
use crate::{
    reduced::{ReducedJob, ReducedPod},
    task::{PrewarmTask, WorkerKind, resource::MAX_RETRIES},
};

/// Why an object with our labels does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// Labels or annotations of a worker are missing, malformed, or contradict one another.
    Labels,
    /// The name is not the one that follows from task, node, try and part.
    Name,
    /// It is not pinned to the node that its labels name.
    Node,
    /// No controller owner reference names the task, where one must.
    Owner,
    /// It is in a namespace where workers of its task do not go.
    Namespace,
    /// There is no task with the UID that it names, at least not yet.
    UnknownTask,
    /// It contradicts its task: name, kind of worker, number of images or tries.
    Task,
    /// A pod: there is no worker Job with the UID that it names as its controller, at least not yet.
    UnknownJob,
    /// A pod: its labels contradict those of its Job.
    Job,
    /// Its task has more workers already than any task can have.
    TooMany,
}

impl Rejection {
    /// The word for metrics and messages.
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

    /// Returns whether a worker of ours can be rejected for this for a moment: watches are not ordered among one another, and a pod is
    /// deleted after its owner.
    #[must_use]
    pub fn may_pass(self) -> bool {
        matches!(self, Self::UnknownTask | Self::UnknownJob)
    }

    /// What is wrong, for people.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::Labels => "labels or annotations of a worker are missing or contradict one another",
            Self::Name => "the name is not the one of the worker that the labels describe",
            Self::Node => "it is not pinned to the node that its labels name",
            Self::Owner => "no controller owner reference names the PrewarmTask",
            Self::Namespace => "workers of that task do not go to this namespace",
            Self::UnknownTask => "there is no PrewarmTask with that UID in the namespace",
            Self::Task => "it contradicts its PrewarmTask",
            Self::UnknownJob => "its controller is no worker Job",
            Self::Job => "it contradicts its Job",
            Self::TooMany => "its PrewarmTask has more workers than any can have",
        }
    }
}

/// Where workers may be without an owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Our own namespace, where workers of tasks of other namespaces may go there. Tenants cannot write to it.
    pub own: Option<String>,
}

/// A pod: a worker by itself, or one that a Job made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// The worker that the pod says it is, or belongs to.
    pub worker: WorkerFacts,
    /// The UID of the Job that made it; none for a bare pod.
    pub job: Option<Box<str>>,
}

/// A Job that is a worker as far as can be said without its task.
pub fn of_job(job: &ReducedJob, places: &Places) -> Result<WorkerFacts, Rejection> {
    let worker = described(WorkerKind::Job, &job.metadata, job.name_any(), &job.spec.template.spec.node_name)?;
    check_owner(&job.metadata, &worker, places)?;
    Ok(worker.with_job_status(job))
}

/// A pod that is a worker, or belongs to a worker Job, as far as can be said without the task and the Job.
pub fn of_pod(pod: &ReducedPod, places: &Places) -> Result<PodClaim, Rejection> {
    let meta = &pod.metadata;
    let Some(job) = pod.labels().get(JOB_NAME_LABEL) else {
        let worker = described(WorkerKind::Pod, meta, pod.name_any(), &pod.spec.node_name)?;
        check_owner(meta, &worker, places)?;
        return Ok(PodClaim { worker: worker.with_pod_status(pod), job: None });
    };
    let worker = described(WorkerKind::Job, meta, job.clone(), &pod.spec.node_name)?;
    let owner = controller(meta).filter(|owner| {
        owner.kind == "Job" && owner.api_version == "batch/v1" && owner.name == *job && !owner.uid.is_empty()
    });
    let owner = owner.ok_or(Rejection::Owner)?;
    check_place(&worker, places)?;
    Ok(PodClaim { worker, job: Some(owner.uid.as_str().into()) })
}

/// The images that a pod asks for, as it names them, by their index in the task.
#[must_use]
pub fn pulls(pod: &ReducedPod) -> Box<[(u16, Box<str>)]> {
    let volumes = pod.spec.volumes.iter().filter_map(|volume| Some((&volume.name, &volume.image.as_ref()?.reference)));
    let volumes: Vec<_> = volumes.collect();
    let containers = pod.spec.containers.iter().map(|container| (&container.name, &container.image));
    // The containers of pods that mount images run the helper.
    let all: Vec<_> = if volumes.is_empty() { containers.collect() } else { volumes };
    all.into_iter().filter_map(|(name, image)| Some((image_index(name)?, image.as_str().into()))).collect()
}

/// Whether the worker agrees with its task. What follows from the spec alone is checked; a spec does not change.
pub fn check_task(worker: &WorkerFacts, task: &PrewarmTask) -> Result<(), Rejection> {
    let (spec, name) = (&task.spec, task.metadata.name.as_deref().unwrap_or_default());
    if task.metadata.namespace.as_deref() != Some(&*worker.task_namespace) {
        return Err(Rejection::Namespace);
    }
    let images = spec.images.len();
    let fits = *worker.task == *label_value(name)
        && spec.worker == worker.kind
        && u32::from(worker.attempt) <= MAX_RETRIES
        && usize::from(worker.part) < images
        && worker.asked.iter().all(|image| usize::from(*image) < images);
    if fits { Ok(()) } else { Err(Rejection::Task) }
}

/// Whether a pod belongs to this Job.
pub fn check_job(claim: &PodClaim, job: &WorkerFacts) -> Result<(), Rejection> {
    if claim.job.as_deref() != Some(&*job.uid) {
        return Err(Rejection::UnknownJob);
    }
    let pod = &claim.worker;
    let agree = (pod.kind, &pod.task_uid, &pod.task, &pod.task_namespace)
        == (job.kind, &job.task_uid, &job.task, &job.task_namespace)
        && (&pod.node, pod.batch, pod.attempt, pod.part, &pod.asked)
            == (&job.node, job.batch, job.attempt, job.part, &job.asked);
    if agree { Ok(()) } else { Err(Rejection::Job) }
}

/// Whether somebody's owner reference names a task by kind and UID and is its controller; the owner's name is to be compared.
#[must_use]
pub fn owning_task(meta: &ObjectMeta) -> Option<&OwnerReference> {
    controller(meta).filter(|owner| {
        owner.kind == PrewarmTask::kind(&())
            && owner.api_version == PrewarmTask::api_version(&())
            && !owner.uid.is_empty()
    })
}

fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The worker that labels and annotations describe, if they describe one and agree with its name and its node.
fn described(kind: WorkerKind, meta: &ObjectMeta, name: String, pinned: &str) -> Result<WorkerFacts, Rejection> {
    let label = |name: &str| meta.labels.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let annotation = |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let present = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Rejection::Labels);
    if label(MANAGED_BY.0) != Some(MANAGED_BY.1) {
        return Err(Rejection::Labels);
    }
    let node = present(annotation(NODE_ANNOTATION))?;
    let task_uid = present(label(TASK_UID_LABEL))?;
    let task = present(label(TASK_LABEL))?;
    let task_namespace = present(annotation(TASK_NAMESPACE_ANNOTATION))?;
    if label(NODE_LABEL) != Some(label_value(&node).as_str()) {
        return Err(Rejection::Labels);
    }
    let batch: u32 = number(label(BATCH_LABEL))?;
    let attempt: u8 = number(label(ATTEMPT_LABEL))?;
    let part: u16 = number(label(PART_LABEL))?;
    let asked = asked(annotation(ASKED_ANNOTATION).unwrap_or_default())?;
    if name != worker_name(&[&task_uid, &node, &attempt.to_string(), &part.to_string()]) {
        return Err(Rejection::Name);
    }
    if pinned != node {
        return Err(Rejection::Node);
    }
    Ok(WorkerFacts {
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
        asked,
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        since: None,
        deleting: meta.deletion_timestamp.is_some(),
        finished: false,
        failed: None,
    })
}

/// A number as we write it: no sign, no zeros before it.
fn number<T: std::str::FromStr + ToString>(text: Option<&str>) -> Result<T, Rejection> {
    let text = text.ok_or(Rejection::Labels)?;
    let number: T = text.parse().map_err(|_| Rejection::Labels)?;
    if number.to_string() == text { Ok(number) } else { Err(Rejection::Labels) }
}

/// Indexes of images, rising, at least one: a worker that is asked for nothing is never made.
fn asked(text: &str) -> Result<Box<[u16]>, Rejection> {
    let indexes = text.split(',').map(|index| number(Some(index))).collect::<Result<Box<[u16]>, _>>()?;
    if indexes.is_sorted_by(|a, b| a < b) { Ok(indexes) } else { Err(Rejection::Labels) }
}

fn check_place(worker: &WorkerFacts, places: &Places) -> Result<(), Rejection> {
    let at_home = worker.namespace == *worker.task_namespace;
    let in_ours = places.own.as_deref() == Some(worker.namespace.as_str());
    if at_home || in_ours { Ok(()) } else { Err(Rejection::Namespace) }
}

/// A worker is owned by its task. In our own namespace no owner is possible, for a task of another: there the namespace speaks for it.
fn check_owner(meta: &ObjectMeta, worker: &WorkerFacts, places: &Places) -> Result<(), Rejection> {
    check_place(worker, places)?;
    if worker.is_away() {
        return Ok(());
    }
    let is_task = |owner: &OwnerReference| owner.uid == worker.task_uid && label_value(&owner.name) == *worker.task;
    if owning_task(meta).is_some_and(is_task) { Ok(()) } else { Err(Rejection::Owner) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        task::{PrewarmTaskSpec, validate::validate},
        worker::{Assignment, Worker, WorkerSettings, build},
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
        let spec = PrewarmTaskSpec { worker: kind, ..PrewarmTaskSpec::new(vec!["a:1".into(), "b:1".into()]) };
        let mut task = PrewarmTask::new("web", spec);
        (task.metadata.namespace, task.metadata.uid) = (Some("shop".into()), Some("u-1".into()));
        task
    }

    /// A worker as we make it, as JSON of the API server.
    fn made(kind: WorkerKind, namespace: &str) -> Value {
        let valid = validate(&task(kind).spec).unwrap();
        let at = Assignment {
            namespace,
            task_namespace: "shop",
            task: "web",
            uid: "u-1",
            batch: 3,
            node: "n1",
            attempt: 1,
            part: 0,
            asked: &[0, 1],
            method: crate::task::PullMethod::Helper,
        };
        let mut object = match build(&valid, &at, &settings()) {
            Worker::Job(job) => serde_json::to_value(job).unwrap(),
            Worker::Pod(pod) => serde_json::to_value(pod).unwrap(),
        };
        object["metadata"]["uid"] = json!("w-1");
        object
    }

    /// The pod that the Job controller makes of a worker Job.
    fn pod_of(job: &Value) -> Value {
        let name = job["metadata"]["name"].clone();
        let mut pod = job["spec"]["template"].clone();
        pod["metadata"]["name"] = json!(format!("{}-abcde", name.as_str().unwrap()));
        pod["metadata"]["namespace"] = job["metadata"]["namespace"].clone();
        pod["metadata"]["labels"][JOB_NAME_LABEL] = name.clone();
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": "w-1", "controller": true}]);
        pod
    }

    fn places() -> Places {
        Places { own: Some("prewarmer".into()) }
    }

    fn job(object: &Value) -> Result<WorkerFacts, Rejection> {
        let worker = of_job(&serde_json::from_value(object.clone()).unwrap(), &places())?;
        check_task(&worker, &task(WorkerKind::Job)).map(|()| worker)
    }

    fn bare(object: &Value) -> Result<PodClaim, Rejection> {
        let claim = of_pod(&serde_json::from_value(object.clone()).unwrap(), &places())?;
        check_task(&claim.worker, &task(WorkerKind::Pod)).map(|()| claim)
    }

    #[test]
    fn what_we_make_counts() {
        for namespace in ["shop", "prewarmer"] {
            let worker = job(&made(WorkerKind::Job, namespace)).unwrap();
            assert_eq!((worker.batch, worker.attempt, worker.part, &*worker.asked), (3, 1, 0, &[0, 1][..]));
            assert_eq!((worker.is_away(), &*worker.uid), (namespace != "shop", "w-1"));
            assert_eq!(bare(&made(WorkerKind::Pod, namespace)).unwrap().job, None);
            let pod = pod_of(&made(WorkerKind::Job, namespace));
            let claim = of_pod(&serde_json::from_value(pod).unwrap(), &places()).unwrap();
            assert_eq!((claim.job.as_deref(), check_job(&claim, &worker)), (Some("w-1"), Ok(())));
        }
    }

    type Change = (&'static str, Value);

    #[rstest]
    #[case(("/metadata/namespace", json!("evil")), Rejection::Namespace)]
    #[case(("/metadata/name", json!("prewarm-00112233445566778899")), Rejection::Name)]
    #[case(("/metadata/labels/prewarm.io~1attempt", json!("0")), Rejection::Name)]
    #[case(("/metadata/labels/prewarm.io~1attempt", json!("01")), Rejection::Labels)]
    #[case(("/metadata/labels/prewarm.io~1attempt", json!("-1")), Rejection::Labels)]
    #[case(("/metadata/labels/prewarm.io~1batch", json!("4294967296")), Rejection::Labels)]
    #[case(("/metadata/labels/prewarm.io~1part", json!("1")), Rejection::Name)]
    #[case(("/metadata/labels/prewarm.io~1node", json!("n2")), Rejection::Labels)]
    #[case(("/metadata/labels/prewarm.io~1task", json!("other")), Rejection::Owner)]
    #[case(("/metadata/labels/prewarm.io~1task-uid", json!("u-2")), Rejection::Name)]
    #[case(("/metadata/annotations/prewarm.io~1node-name", json!("n2")), Rejection::Labels)]
    #[case(("/metadata/annotations/prewarm.io~1task-namespace", json!("bank")), Rejection::Namespace)]
    #[case(("/metadata/annotations/prewarm.io~1images", json!("")), Rejection::Labels)]
    #[case(("/metadata/annotations/prewarm.io~1images", json!("0,0")), Rejection::Labels)]
    #[case(("/metadata/annotations/prewarm.io~1images", json!("999")), Rejection::Task)]
    #[case(("/metadata/annotations/prewarm.io~1images", json!("70000")), Rejection::Labels)]
    #[case(("/metadata/ownerReferences", json!([])), Rejection::Owner)]
    #[case(("/metadata/ownerReferences/0/uid", json!("u-2")), Rejection::Owner)]
    #[case(("/metadata/ownerReferences/0/name", json!("other")), Rejection::Owner)]
    #[case(("/metadata/ownerReferences/0/kind", json!("ConfigMap")), Rejection::Owner)]
    #[case(("/metadata/ownerReferences/0/controller", json!(false)), Rejection::Owner)]
    fn what_disagrees_does_not(#[case] change: Change, #[case] expected: Rejection) {
        let changed = |mut object: Value| {
            *object.pointer_mut(change.0).unwrap() = change.1.clone();
            object
        };
        assert_eq!(job(&changed(made(WorkerKind::Job, "shop"))), Err(expected));
        assert_eq!(bare(&changed(made(WorkerKind::Pod, "shop"))), Err(expected));
    }

    #[test]
    fn the_node_is_the_one_that_it_runs_on() {
        let mut object = made(WorkerKind::Job, "shop");
        object["spec"]["template"]["spec"]["nodeName"] = json!("n2");
        assert_eq!(job(&object), Err(Rejection::Node));
        let mut object = made(WorkerKind::Pod, "shop");
        object["spec"].as_object_mut().unwrap().remove("nodeName");
        assert_eq!(bare(&object), Err(Rejection::Node));
    }

    #[test]
    fn our_own_namespace_counts_only_where_workers_may_go_there() {
        let object = serde_json::from_value(made(WorkerKind::Job, "prewarmer")).unwrap();
        assert_eq!(of_job(&object, &Places::default()), Err(Rejection::Namespace));
    }

    #[test]
    fn a_worker_of_another_kind_or_of_too_many_tries_contradicts_its_task() {
        let worker = job(&made(WorkerKind::Job, "shop")).unwrap();
        assert_eq!(check_task(&worker, &task(WorkerKind::Pod)), Err(Rejection::Task));
        let late = WorkerFacts { attempt: 6, ..worker.clone() };
        assert_eq!(check_task(&late, &task(WorkerKind::Job)), Err(Rejection::Task));
        let mut other = task(WorkerKind::Job);
        other.metadata.namespace = Some("bank".into());
        assert_eq!(check_task(&worker, &other), Err(Rejection::Namespace));
    }

    #[rstest]
    #[case(("/metadata/ownerReferences/0/uid", json!("w-2")), Rejection::UnknownJob)]
    #[case(("/metadata/ownerReferences/0/kind", json!("ReplicaSet")), Rejection::Owner)]
    #[case(("/metadata/ownerReferences/0/name", json!("other")), Rejection::Owner)]
    #[case(("/metadata/labels/batch.kubernetes.io~1job-name", json!("other")), Rejection::Name)]
    #[case(("/metadata/annotations/prewarm.io~1images", json!("0")), Rejection::Job)]
    #[case(("/metadata/labels/prewarm.io~1batch", json!("0")), Rejection::Job)]
    #[case(("/spec/nodeName", json!("n2")), Rejection::Node)]
    fn a_pod_agrees_with_its_job(#[case] change: Change, #[case] expected: Rejection) {
        let object = made(WorkerKind::Job, "shop");
        let worker = job(&object).unwrap();
        let mut pod = pod_of(&object);
        *pod.pointer_mut(change.0).unwrap() = change.1;
        let claim = of_pod(&serde_json::from_value(pod).unwrap(), &places());
        assert_eq!(claim.and_then(|claim| check_job(&claim, &worker)), Err(expected));
    }
}

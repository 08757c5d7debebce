//! Builds the object that pulls images on one node: a Job or a bare pod.

use std::collections::BTreeMap;

use super::{
    ATTEMPT_LABEL, Assignment, BATCH_LABEL, IMAGES_ANNOTATION, MANAGED_BY, NODE_ANNOTATION,
    NODE_LABEL, PART_LABEL, TASK_LABEL, TASK_NAMESPACE_ANNOTATION, TASK_UID_LABEL, WorkerSettings,
    names::label_value, pod,
};
use crate::{
    node::NodeInfo,
    task::{PullMethod, WorkerKind, owner_reference, validate::ValidTask},
};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{Pod, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// Object that pulls images.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerObject {
    /// Worker Job.
    Job(Box<Job>),
    /// Bare worker pod.
    Pod(Box<Pod>),
}

impl WorkerObject {
    /// Returns the object's metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Job(job) => &job.metadata,
            Self::Pod(pod) => &pod.metadata,
        }
    }

    /// Returns the object's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// Returns the bare pod itself, or for a Job the pod to create in a dry run, which shows whether
    /// the pods of the Job are admitted. Policies for the server's own pods admit it: its owner is
    /// that of the Job, and it has the deadline of the Job.
    #[must_use]
    pub fn to_pod(&self) -> Pod {
        match self {
            Self::Pod(pod) => (**pod).clone(),
            Self::Job(job) => {
                let job_spec = job.spec.as_ref();
                let template = job_spec.map(|spec| spec.template.clone()).unwrap_or_default();
                let metadata = ObjectMeta {
                    generate_name: Some(format!("{}-", self.name())),
                    namespace: job.metadata.namespace.clone(),
                    owner_references: job.metadata.owner_references.clone(),
                    ..template.metadata.unwrap_or_default()
                };
                let active_deadline_seconds =
                    job_spec.and_then(|spec| spec.active_deadline_seconds);
                let spec = template.spec.map(|spec| PodSpec { active_deadline_seconds, ..spec });
                Pod { metadata, spec, status: None }
            }
        }
    }
}

/// Returns the pull method for a node: the one of the task's spec, or with `Auto` the best that the
/// node supports.
#[must_use]
pub fn pull_method_for(task: &ValidTask, node: &NodeInfo) -> PullMethod {
    match task.pull_method {
        PullMethod::Auto if node.supports_image_volumes() => PullMethod::ImageVolume,
        PullMethod::Auto => PullMethod::Helper,
        chosen => chosen,
    }
}

/// Builds the worker that pulls the assigned images to one node.
#[must_use]
pub fn build(task: &ValidTask, at: &Assignment<'_>, settings: &WorkerSettings) -> WorkerObject {
    let metadata = metadata(at, settings);
    let spec = pod::pod_spec(task, at, settings);
    let mut pod_labels = metadata.labels.clone().unwrap_or_default();
    pod_labels.insert("sidecar.istio.io/inject".into(), "false".into());
    let annotations = metadata.annotations.clone();
    if task.worker == WorkerKind::Pod {
        let metadata = ObjectMeta { labels: Some(pod_labels), ..metadata };
        return WorkerObject::Pod(Box::new(Pod { metadata, spec: Some(spec), status: None }));
    }
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels),
            annotations,
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    };
    WorkerObject::Job(Box::new(Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: pod::active_deadline_seconds(task),
            ttl_seconds_after_finished: i32::try_from(
                settings.ttl.saturating_add(task.retain).as_secs(),
            )
            .ok(),
            pod_replacement_policy: Some("Failed".into()),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }))
}

fn metadata(at: &Assignment<'_>, settings: &WorkerSettings) -> ObjectMeta {
    let asked: Vec<String> = at.images.iter().map(ToString::to_string).collect();
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels = BTreeMap::from([
        text(MANAGED_BY.0, MANAGED_BY.1),
        text(TASK_LABEL, &label_value(at.task)),
        text(TASK_UID_LABEL, at.task_uid),
        text(NODE_LABEL, &label_value(at.node)),
        text(BATCH_LABEL, &at.batch.to_string()),
        text(ATTEMPT_LABEL, &at.attempt.to_string()),
        text(PART_LABEL, &at.part.to_string()),
    ]);
    let annotations = BTreeMap::from([
        text(NODE_ANNOTATION, at.node),
        text(TASK_NAMESPACE_ANNOTATION, at.task_namespace),
        text(IMAGES_ANNOTATION, &asked.join(",")),
        text("cluster-autoscaler.kubernetes.io/safe-to-evict", "true"),
        text("sidecar.istio.io/inject", "false"),
        text("linkerd.io/inject", "disabled"),
    ]);
    // An owner in another namespace counts as absent, and its dependents are garbage collected.
    let owner = if at.namespace == at.task_namespace {
        Some(owner_reference(at.task, at.task_uid))
    } else {
        settings.owner.clone()
    };
    ObjectMeta {
        name: Some(at.worker_name()),
        namespace: Some(at.namespace.to_owned()),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::task::{PrewarmTaskSpec, validate::validate};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn settings() -> WorkerSettings {
        let ttl = Duration::from_secs(3600);
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

    fn assignment(method: PullMethod) -> Assignment<'static> {
        Assignment {
            namespace: "shop",
            task_namespace: "shop",
            task: "t",
            task_uid: "u-1",
            batch: 2,
            node: "node-1",
            attempt: 0,
            part: 0,
            images: &[0, 1],
            method,
        }
    }

    fn task(worker: WorkerKind) -> ValidTask {
        let spec = PrewarmTaskSpec {
            worker,
            ..PrewarmTaskSpec::new(vec!["nginx:1".into(), "redis:7".into()])
        };
        validate(&spec).unwrap()
    }

    fn job(method: PullMethod) -> Job {
        match build(&task(WorkerKind::Job), &assignment(method), &settings()) {
            WorkerObject::Job(job) => *job,
            WorkerObject::Pod(_) => panic!("expected a Job"),
        }
    }

    #[test]
    fn by_image_volume() {
        insta::assert_yaml_snapshot!(job(PullMethod::ImageVolume));
    }

    #[test]
    fn by_helper() {
        insta::assert_yaml_snapshot!(job(PullMethod::Helper));
    }

    #[test]
    fn bare_pod_has_the_spec_of_the_job_pod() {
        let WorkerObject::Pod(bare) =
            build(&task(WorkerKind::Pod), &assignment(PullMethod::Helper), &settings())
        else {
            panic!("expected a pod")
        };
        let made = WorkerObject::Job(Box::new(job(PullMethod::Helper))).to_pod();
        assert_eq!(bare.spec, made.spec);
        assert_eq!(bare.metadata.owner_references, made.metadata.owner_references);
        assert_eq!(bare.metadata.owner_references.as_ref().unwrap()[0].uid, "u-1");
    }

    #[test]
    fn each_image_has_the_policy_that_applies_to_it() {
        let images = ["nginx", "redis:7", "app:latest"].map(str::to_owned);
        let always = Some(crate::task::PullPolicy::Always);
        for (declared, expected) in
            [(None, ["Always", "IfNotPresent", "Always"]), (always, ["Always"; 3])]
        {
            let spec = PrewarmTaskSpec {
                image_pull_policy: declared,
                ..PrewarmTaskSpec::new(images.to_vec())
            };
            let task = validate(&spec).unwrap();
            let pod = |method| {
                let at = Assignment { images: &[0, 1, 2], ..assignment(method) };
                build(&task, &at, &settings()).to_pod().spec.unwrap()
            };
            let (helper, volume) = (pod(PullMethod::Helper), pod(PullMethod::ImageVolume));
            let containers = helper.containers.iter().map(|c| c.image_pull_policy.as_deref());
            assert!(containers.eq(expected.map(Some)));
            let volumes = volume.volumes.iter().flatten();
            let volumes = volumes.map(|v| v.image.as_ref().unwrap().pull_policy.as_deref());
            assert!(volumes.eq(expected.map(Some)));
            let own = volume.containers.iter().map(|c| c.image_pull_policy.as_deref());
            assert!(own.eq([Some("IfNotPresent"); 3]), "the helper's own policy");
        }
    }

    #[test]
    fn only_assigned_images_are_pulled() {
        let at = Assignment { images: &[1], ..assignment(PullMethod::Helper) };
        let pod = build(&task(WorkerKind::Pod), &at, &settings()).to_pod().spec.unwrap();
        let images: Vec<_> =
            pod.containers.iter().map(|c| (c.name.as_str(), c.image.as_deref().unwrap())).collect();
        assert_eq!(images, [("image-1", "redis:7")]);
    }

    #[test]
    fn worker_in_another_namespace_is_owned_by_the_installation() {
        let at = Assignment { namespace: "prewarmer", ..assignment(PullMethod::Helper) };
        let worker = build(&task(WorkerKind::Job), &at, &settings());
        assert_eq!(worker.metadata().owner_references, None);
        let account = |at| {
            build(&task(WorkerKind::Pod), at, &settings())
                .to_pod()
                .spec
                .unwrap()
                .service_account_name
        };
        assert_eq!(
            account(&at).as_deref(),
            Some("worker"),
            "the configured account, without pull credentials"
        );
        assert_eq!(
            account(&assignment(PullMethod::Helper)),
            None,
            "in the task's namespace: its default account"
        );
        let owner = OwnerReference { kind: "Lease".into(), ..OwnerReference::default() };
        let installed = WorkerSettings { owner: Some(owner.clone()), ..settings() };
        let owners = |kind| build(&task(kind), &at, &installed).metadata().owner_references.clone();
        assert_eq!(
            (owners(WorkerKind::Job), owners(WorkerKind::Pod)),
            (Some(vec![owner.clone()]), Some(vec![owner]))
        );
        let at = assignment(PullMethod::Helper);
        let own = build(&task(WorkerKind::Pod), &at, &installed)
            .metadata()
            .owner_references
            .clone()
            .unwrap();
        assert_eq!((own.len(), own[0].kind.as_str()), (1, "PrewarmTask"));
        assert_eq!(
            worker.metadata().annotations.as_ref().unwrap()[TASK_NAMESPACE_ANNOTATION],
            "shop"
        );
    }

    #[test]
    fn names_and_labels_of_long_node_names_are_valid_and_unique() {
        let long = |tail: &str| format!("{}{tail}", "ip-10-0-0-1.".repeat(20));
        let (a, b) = (long("a"), long("b"));
        let name = |node: &str, attempt: u8, part: u16| {
            Assignment { node, attempt, part, ..assignment(PullMethod::Helper) }.worker_name()
        };
        let names = [name(&a, 0, 0), name(&b, 0, 0), name(&a, 1, 0), name(&a, 0, 1)];
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        assert!(names.iter().all(|name| name.len() <= 63));
        assert_ne!(label_value(&a), label_value(&b));
        assert!(label_value(&a).len() <= 63);
        assert_eq!(label_value("short"), "short");
    }
}

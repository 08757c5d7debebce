//! Builds the node-pinned Job.
//!
//! Every container satisfies Pod Security "restricted", carries no token and
//! asks for next to nothing. `nodeName` bypasses the scheduler, which is fine:
//! the nodes were chosen by the controller, and the kubelet still checks.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Capabilities, Container, EmptyDirVolumeSource, ImageVolumeSource, LocalObjectReference, PodSecurityContext,
            PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume,
            VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use sha2::{Digest, Sha256};

use super::{BATCH_LABEL, MANAGED_BY, NODE_ANNOTATION, NODE_LABEL, TASK_LABEL, TASK_UID_LABEL};
use crate::{
    node::Facts,
    task::{PullMethod, resource::owner_reference, validate::ValidTask},
};

/// The init container that copies the helper.
pub(super) const INSTALL_CONTAINER: &str = "install-helper";
/// Where the helper lies in its own image.
const HELPER_IN_IMAGE: &str = "/prewarmer-helper";
/// Where the helper is copied to, in the pods of the `Helper` method.
const HELPER_DIR: &str = "/prewarmer";
/// Where an image is mounted, in the pods of the `ImageVolume` method.
const IMAGE_DIR: &str = "/image";
/// A user that no image gives meaning to.
const NOBODY: i64 = 65_532;
/// The kubelet may need this long beyond a node's time-out until the controller, which ends nodes itself, has done so;
/// the Job's own deadline only matters when no controller is there.
const DEADLINE_SLACK: Duration = Duration::from_secs(60);
/// Longest value of a label.
const MAX_LABEL: usize = 63;
/// The helper is one static program of about half a megabyte; the copy needs no more room than this.
const HELPER_ROOM: &str = "16Mi";

/// What holds for every worker.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The helper's image.
    pub image: String,
    /// The priority class of worker pods.
    pub priority_class: Option<String>,
    /// How long a finished Job may stay when no controller removes it.
    pub ttl: Duration,
}

/// One node's share of a task.
#[derive(Debug, Clone, Copy)]
pub struct Assignment<'a> {
    /// The task's namespace.
    pub namespace: &'a str,
    /// The task's name.
    pub task: &'a str,
    /// The task's UID.
    pub uid: &'a str,
    /// The index of the batch.
    pub batch: u32,
    /// The node's name.
    pub node: &'a str,
    /// The method, as [`method_for`] chose it.
    pub method: PullMethod,
}

impl Assignment<'_> {
    /// The Job's name: always the same for a task and a node, so that a restarted controller or a repeated request meets
    /// the Job that is there. 80 bits of SHA-256: two of 5,000 nodes share one with a chance of 10^-17.
    #[must_use]
    pub fn job_name(&self) -> String {
        format!("prewarm-{}", short_hash(&[self.uid, self.node], 20))
    }
}

/// The method for a node: what the task says, or the best that the node supports.
#[must_use]
pub fn method_for(task: &ValidTask, node: &Facts) -> PullMethod {
    match task.pull_method {
        PullMethod::Auto if node.mounts_image_volumes() => PullMethod::ImageVolume,
        PullMethod::Auto => PullMethod::Helper,
        chosen => chosen,
    }
}

/// The Job that brings all of a task's images to one node.
#[must_use]
pub fn build(task: &ValidTask, at: &Assignment<'_>, settings: &WorkerSettings) -> Job {
    let labels = labels(at);
    let annotations = BTreeMap::from([
        (NODE_ANNOTATION.to_owned(), at.node.to_owned()),
        ("cluster-autoscaler.kubernetes.io/safe-to-evict".to_owned(), "true".to_owned()),
        ("sidecar.istio.io/inject".to_owned(), "false".to_owned()),
        ("linkerd.io/inject".to_owned(), "disabled".to_owned()),
    ]);
    let mut pod_labels = labels.clone();
    pod_labels.insert("sidecar.istio.io/inject".into(), "false".into());
    Job {
        metadata: ObjectMeta {
            name: Some(at.job_name()),
            namespace: Some(at.namespace.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations.clone()),
            owner_references: Some(vec![owner_reference(at.task, at.uid)]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: seconds(task.timeout + DEADLINE_SLACK),
            ttl_seconds_after_finished: i32::try_from(settings.ttl.as_secs()).ok(),
            pod_replacement_policy: Some("Failed".into()),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(task, at, settings)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn labels(at: &Assignment<'_>) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
        (TASK_LABEL.to_owned(), label_value(at.task)),
        (TASK_UID_LABEL.to_owned(), at.uid.to_owned()),
        (NODE_LABEL.to_owned(), label_value(at.node)),
        (BATCH_LABEL.to_owned(), at.batch.to_string()),
    ])
}

fn pod(task: &ValidTask, at: &Assignment<'_>, settings: &WorkerSettings) -> PodSpec {
    let secrets = task.image_pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() });
    let by_volume = at.method == PullMethod::ImageVolume;
    PodSpec {
        node_name: Some(at.node.to_owned()),
        restart_policy: Some("Never".into()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(0),
        priority_class_name: settings.priority_class.clone(),
        service_account_name: task.service_account_name.clone(),
        image_pull_secrets: Some(secrets.collect()),
        tolerations: Some(vec![Toleration { operator: Some("Exists".into()), ..Toleration::default() }]),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        init_containers: (!by_volume).then(|| vec![install(settings)]),
        containers: (0..task.images.len()).map(|index| puller(index, task, by_volume, settings)).collect(),
        volumes: Some(if by_volume { image_volumes(task) } else { vec![helper_volume()] }),
        ..PodSpec::default()
    }
}

/// The name of the container that stands for the image at this index of the task.
pub(super) fn container_name(index: usize) -> String {
    format!("image-{index}")
}

fn puller(index: usize, task: &ValidTask, by_volume: bool, settings: &WorkerSettings) -> Container {
    let (image, policy, program, mount) = if by_volume {
        (settings.image.clone(), "IfNotPresent", HELPER_IN_IMAGE.to_owned(), mount(container_name(index), IMAGE_DIR))
    } else {
        let image = task.images[index].as_written().to_owned();
        let program = format!("{HELPER_DIR}{HELPER_IN_IMAGE}");
        (image, task.image_pull_policy.as_str(), program, mount("helper".into(), HELPER_DIR))
    };
    Container {
        name: container_name(index),
        image: Some(image),
        image_pull_policy: Some(policy.into()),
        command: Some(vec![program, "ok".into()]),
        working_dir: Some("/".into()),
        volume_mounts: Some(vec![VolumeMount { read_only: Some(true), ..mount }]),
        resources: Some(resources()),
        security_context: Some(restricted()),
        ..Container::default()
    }
}

fn install(settings: &WorkerSettings) -> Container {
    Container {
        name: INSTALL_CONTAINER.into(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(vec![HELPER_IN_IMAGE.into(), "install".into(), HELPER_DIR.into()]),
        volume_mounts: Some(vec![mount("helper".into(), HELPER_DIR)]),
        resources: Some(resources()),
        security_context: Some(restricted()),
        ..Container::default()
    }
}

fn mount(name: String, path: &str) -> VolumeMount {
    VolumeMount { name, mount_path: path.into(), ..VolumeMount::default() }
}

fn helper_volume() -> Volume {
    let room =
        EmptyDirVolumeSource { size_limit: Some(Quantity(HELPER_ROOM.into())), ..EmptyDirVolumeSource::default() };
    Volume { name: "helper".into(), empty_dir: Some(room), ..Volume::default() }
}

fn image_volumes(task: &ValidTask) -> Vec<Volume> {
    let volume = |(index, image): (usize, &crate::image::Reference)| Volume {
        name: container_name(index),
        image: Some(ImageVolumeSource {
            reference: Some(image.as_written().to_owned()),
            pull_policy: Some(task.image_pull_policy.as_str().into()),
        }),
        ..Volume::default()
    };
    task.images.iter().enumerate().map(volume).collect()
}

/// Enough for a program that exits at once; stated so that namespaces whose quota demands requests and limits take it.
fn resources() -> ResourceRequirements {
    let amounts = |cpu: &str, memory: &str| {
        Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ]))
    };
    ResourceRequirements { requests: amounts("1m", "1Mi"), limits: amounts("100m", "32Mi"), claims: None }
}

fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

fn seconds(duration: Duration) -> Option<i64> {
    i64::try_from(duration.as_secs()).ok()
}

/// A name as a label's value: as it is where it fits, else its beginning and a hash.
pub(crate) fn label_value(name: &str) -> String {
    if name.len() <= MAX_LABEL {
        return name.to_owned();
    }
    let hash = short_hash(&[name], 16);
    let keep = name.char_indices().map(|(at, _)| at).take_while(|at| at + 17 <= MAX_LABEL).last().unwrap_or(0);
    format!("{}-{hash}", name[..keep].trim_end_matches(['-', '.', '_']))
}

/// The first `digits` hexadecimal digits of the SHA-256 over the parts.
fn short_hash(parts: &[&str], digits: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    crate::hex(&hasher.finalize()[..digits / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{PrewarmTaskSpec, validate::validate};

    fn settings() -> WorkerSettings {
        WorkerSettings { image: "helper:1".into(), priority_class: None, ttl: Duration::from_secs(3600) }
    }

    fn assignment(method: PullMethod) -> Assignment<'static> {
        Assignment { namespace: "shop", task: "t", uid: "u-1", batch: 2, node: "node-1", method }
    }

    fn job(method: PullMethod) -> Job {
        let task = validate(&PrewarmTaskSpec::new(vec!["nginx:1".into(), "redis:7".into()])).unwrap();
        build(&task, &assignment(method), &settings())
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
    fn names_and_labels_of_long_nodes_fit_and_differ() {
        let long = |tail: &str| format!("{}{tail}", "ip-10-0-0-1.".repeat(20));
        let (a, b) = (long("a"), long("b"));
        let name = |node: &str| Assignment { node, ..assignment(PullMethod::Helper) }.job_name();
        assert_ne!(name(&a), name(&b));
        assert!(name(&a).len() <= 63);
        assert_ne!(label_value(&a), label_value(&b));
        assert!(label_value(&a).len() <= 63);
        assert_eq!(label_value("short"), "short");
    }
}

//! The pod that pulls.
//!
//! Every container satisfies Pod Security "restricted", carries no token and
//! asks for next to nothing. `nodeName` bypasses the scheduler, which is fine:
//! the nodes were chosen by the controller, and the kubelet still checks.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EmptyDirVolumeSource, ImageVolumeSource, LocalObjectReference, PodSecurityContext,
        PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::{Assignment, WorkerSettings};
use crate::task::{PullMethod, WorkerKind, validate::ValidTask};

/// The kubelet may need this long beyond a node's time-out until the controller, which ends nodes itself, has done so;
/// the worker's own deadline only matters when no controller is there.
const DEADLINE_SLACK: Duration = Duration::from_secs(60);
/// The init container that copies the helper.
pub(super) const INSTALL_CONTAINER: &str = "install-helper";
/// Before the image's index, in the name of its container.
const CONTAINER_PREFIX: &str = "image-";
/// Where the helper lies in its own image.
const HELPER_IN_IMAGE: &str = "/prewarmer-helper";
/// Where the helper is copied to, in the pods of the `Helper` method.
const HELPER_DIR: &str = "/prewarmer";
/// Where an image is mounted, in the pods of the `ImageVolume` method.
const IMAGE_DIR: &str = "/image";
/// A user that no image gives meaning to.
const NOBODY: i64 = 65_532;
/// The helper is one static program of about half a megabyte; the copy needs no more room than this.
const HELPER_ROOM: &str = "16Mi";

/// The pod's spec.
pub(super) fn spec(task: &ValidTask, at: &Assignment<'_>, settings: &WorkerSettings) -> PodSpec {
    // A Job has a deadline of its own.
    let bare = task.worker == WorkerKind::Pod;
    let secrets = task.image_pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() });
    let by_volume = at.method == PullMethod::ImageVolume;
    PodSpec {
        node_name: Some(at.node.to_owned()),
        restart_policy: Some("Never".into()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(0),
        priority_class_name: settings.priority_class.clone(),
        service_account_name: task.service_account_name.clone().or_else(|| of_its_own(at, settings)),
        image_pull_secrets: Some(secrets.collect()),
        active_deadline_seconds: bare.then(|| deadline(task)).flatten(),
        tolerations: Some(vec![Toleration { operator: Some("Exists".into()), ..Toleration::default() }]),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        init_containers: (!by_volume).then(|| vec![install(settings)]),
        containers: at.asked.iter().map(|index| puller(*index, task, by_volume, settings)).collect(),
        volumes: Some(if by_volume { image_volumes(task, at.asked) } else { vec![helper_volume()] }),
        ..PodSpec::default()
    }
}

/// The account of a worker that is not in its task's namespace: one without credentials, for it works for whoever may make tasks.
fn of_its_own(at: &Assignment<'_>, settings: &WorkerSettings) -> Option<String> {
    settings.service_account.clone().filter(|_| at.namespace != at.task_namespace)
}

/// When the API server or the kubelet ends a worker by itself.
pub(super) fn deadline(task: &ValidTask) -> Option<i64> {
    i64::try_from(task.timeout.saturating_add(DEADLINE_SLACK).as_secs()).ok()
}

/// The name of the container that stands for the image at this index of the task.
pub(super) fn container_name(index: usize) -> String {
    format!("{CONTAINER_PREFIX}{index}")
}

/// The index in the name of a container of ours.
pub(super) fn image_index(container: &str) -> Option<u16> {
    container.strip_prefix(CONTAINER_PREFIX)?.parse().ok()
}

fn puller(index: usize, task: &ValidTask, by_volume: bool, settings: &WorkerSettings) -> Container {
    let (image, policy, program, mount) = if by_volume {
        (settings.image.clone(), "IfNotPresent", HELPER_IN_IMAGE.to_owned(), mount(container_name(index), IMAGE_DIR))
    } else {
        let image = task.images.get(index).map(|image| image.as_written().to_owned()).unwrap_or_default();
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

fn image_volumes(task: &ValidTask, asked: &[usize]) -> Vec<Volume> {
    let volume = |index: &usize| Volume {
        name: container_name(*index),
        image: Some(ImageVolumeSource {
            reference: task.images.get(*index).map(|image| image.as_written().to_owned()),
            pull_policy: Some(task.image_pull_policy.as_str().into()),
        }),
        ..Volume::default()
    };
    asked.iter().map(volume).collect()
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

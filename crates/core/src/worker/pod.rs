//! Spec of the worker pod.
//!
//! Every container satisfies the Pod Security level `restricted`, has no service account token and
//! requests minimal resources. `nodeName` bypasses the scheduler: the controller has chosen the
//! node, and the kubelet still performs its admission checks.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EmptyDirVolumeSource, ImageVolumeSource, LocalObjectReference,
        PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext,
        Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::{Assignment, WorkerSettings};
use crate::task::{PullMethod, PullPolicy, WorkerKind, validate::ValidTask};

/// Time between a node's timeout and the deadline of its worker. The controller normally ends the
/// worker at the timeout; the deadline matters only while no controller runs.
const DEADLINE_SLACK: Duration = Duration::from_secs(60);
/// Name of the init container that copies the helper.
pub(super) const INSTALL_CONTAINER: &str = "install-helper";
/// Prefix of the container names, before the index of the image.
const CONTAINER_PREFIX: &str = "image-";
/// Path of the helper in its own image.
const HELPER_PATH: &str = "/prewarmer-helper";
/// Directory into which the helper is copied, in pods of the `Helper` method.
const HELPER_DIR: &str = "/prewarmer";
/// Path at which an image is mounted, in pods of the `ImageVolume` method.
const IMAGE_DIR: &str = "/image";
/// UID and GID of the containers. Not used by common images.
const NON_ROOT_ID: i64 = 65_532;
/// Size limit of the volume for the helper. The helper is one static program of about 0.5 MB.
const HELPER_VOLUME_SIZE: &str = "16Mi";

/// Returns the spec of the worker pod.
pub(super) fn pod_spec(
    task: &ValidTask,
    at: &Assignment<'_>,
    settings: &WorkerSettings,
) -> PodSpec {
    // A Job has its own deadline.
    let bare = task.worker == WorkerKind::Pod;
    let secrets = task
        .image_pull_secrets
        .iter()
        .map(|secret| LocalObjectReference { name: secret.name.clone() });
    let by_volume = at.method == PullMethod::ImageVolume;
    PodSpec {
        node_name: Some(at.node.to_owned()),
        restart_policy: Some("Never".into()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(0),
        priority_class_name: settings.priority_class.clone(),
        service_account_name: task
            .service_account_name
            .clone()
            .or_else(|| own_service_account(at, settings)),
        image_pull_secrets: Some(secrets.collect()),
        active_deadline_seconds: bare.then(|| active_deadline_seconds(task)).flatten(),
        tolerations: Some(vec![Toleration {
            operator: Some("Exists".into()),
            ..Toleration::default()
        }]),
        security_context: Some(pod_security_context()),
        init_containers: (!by_volume).then(|| vec![install_container(settings)]),
        containers: at
            .images
            .iter()
            .map(|index| image_container(*index, task, by_volume, settings))
            .collect(),
        volumes: Some(if by_volume {
            image_volumes(task, at.images)
        } else {
            vec![helper_volume()]
        }),
        ..PodSpec::default()
    }
}

/// Returns a security context that the Pod Security Standard `restricted` permits.
fn pod_security_context() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NON_ROOT_ID),
        run_as_group: Some(NON_ROOT_ID),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".into(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// Returns the service account of a worker outside of its task's namespace. It has no credentials,
/// because it serves every user who may create tasks.
fn own_service_account(at: &Assignment<'_>, settings: &WorkerSettings) -> Option<String> {
    settings.service_account.clone().filter(|_| at.namespace != at.task_namespace)
}

/// Returns the number of seconds after which the API server or the kubelet ends a worker.
pub(super) fn active_deadline_seconds(task: &ValidTask) -> Option<i64> {
    i64::try_from(task.timeout.saturating_add(DEADLINE_SLACK).as_secs()).ok()
}

/// Returns the name of the container for the image with this index in the task.
pub(super) fn container_name(index: usize) -> String {
    format!("{CONTAINER_PREFIX}{index}")
}

/// Parses the image index of a container name. `None` for containers that pull no image.
pub(super) fn image_index(container: &str) -> Option<u16> {
    container.strip_prefix(CONTAINER_PREFIX)?.parse().ok()
}

fn image_container(
    index: usize,
    task: &ValidTask,
    by_volume: bool,
    settings: &WorkerSettings,
) -> Container {
    let (image, policy, program, mount) = if by_volume {
        (
            settings.image.clone(),
            settings.image_pull_policy.as_str(),
            HELPER_PATH.to_owned(),
            mount(container_name(index), IMAGE_DIR),
        )
    } else {
        let (image, policy) = image_source(task, index);
        let program = format!("{HELPER_DIR}{HELPER_PATH}");
        (image.unwrap_or_default(), policy, program, mount("helper".into(), HELPER_DIR))
    };
    Container {
        name: container_name(index),
        image: Some(image),
        image_pull_policy: Some(policy.into()),
        command: Some(vec![program, "ok".into()]),
        working_dir: Some("/".into()),
        volume_mounts: Some(vec![VolumeMount { read_only: Some(true), ..mount }]),
        resources: Some(minimal_resources()),
        security_context: Some(restricted_security_context()),
        ..Container::default()
    }
}

/// Returns the reference of an image of the task as written, and its pull policy. An index without
/// an image has no reference.
fn image_source(task: &ValidTask, index: usize) -> (Option<String>, &'static str) {
    let image = task.images.get(index);
    let policy = image.map_or(PullPolicy::IfNotPresent, |image| task.pull_policy(image));
    (image.map(|image| image.as_written().to_owned()), policy.as_str())
}

fn install_container(settings: &WorkerSettings) -> Container {
    Container {
        name: INSTALL_CONTAINER.into(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.as_str().into()),
        command: Some(vec![HELPER_PATH.into(), "install".into(), HELPER_DIR.into()]),
        volume_mounts: Some(vec![mount("helper".into(), HELPER_DIR)]),
        resources: Some(minimal_resources()),
        security_context: Some(restricted_security_context()),
        ..Container::default()
    }
}

fn mount(name: String, path: &str) -> VolumeMount {
    VolumeMount { name, mount_path: path.into(), ..VolumeMount::default() }
}

fn helper_volume() -> Volume {
    let room = EmptyDirVolumeSource {
        size_limit: Some(Quantity(HELPER_VOLUME_SIZE.into())),
        ..EmptyDirVolumeSource::default()
    };
    Volume { name: "helper".into(), empty_dir: Some(room), ..Volume::default() }
}

fn image_volumes(task: &ValidTask, asked: &[usize]) -> Vec<Volume> {
    let volume = |index: &usize| {
        let (reference, policy) = image_source(task, *index);
        let source = ImageVolumeSource { reference, pull_policy: Some(policy.into()) };
        Volume { name: container_name(*index), image: Some(source), ..Volume::default() }
    };
    asked.iter().map(volume).collect()
}

/// Returns resources for a program that exits at once. Requests and limits are set because some
/// quotas require both.
fn minimal_resources() -> ResourceRequirements {
    let amounts = |cpu: &str, memory: &str| {
        Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ]))
    };
    ResourceRequirements {
        requests: amounts("1m", "1Mi"),
        limits: amounts("100m", "32Mi"),
        claims: None,
    }
}

fn restricted_security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

//! Changes that one observation causes outside of the cluster state.

use super::super::foreign_object::ForeignObject;
use crate::worker::{ContainerInfo, ContainerState, PodInfo, is_registry_rate_limit};

/// Request of a registry to slow down, received in the answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controller) struct RateLimitNotice {
    pub(in crate::controller) task_uid: String,
    /// Index of the image in the task.
    pub(in crate::controller) image: u16,
    pub(in crate::controller) message: String,
}

/// Changes that one observation causes outside of the cluster state.
#[derive(Debug, Default)]
pub(in crate::controller) struct ObservationReport {
    pub(in crate::controller) rate_limits: Vec<RateLimitNotice>,
    /// Foreign object that was not known before, with its kind.
    pub(in crate::controller) new_foreign: Option<(&'static str, ForeignObject)>,
}

/// Returns the rate limit messages of a pod that its previous state did not have. During the
/// backoff between two attempts the kubelet repeats the last message without a request; that is not
/// counted.
pub(super) fn rate_limit_notices(before: Option<&PodInfo>, pod: &PodInfo) -> Vec<RateLimitNotice> {
    let new = |container: &&ContainerInfo| {
        let old = before.and_then(|pod| pod.container(container.image_index));
        old.is_none_or(|old| old.state != container.state)
    };
    let complaint = |container: &ContainerInfo| match &container.state {
        ContainerState::Waiting(Some(words))
            if words.0 != "ImagePullBackOff" && is_registry_rate_limit(&words.1) =>
        {
            Some(RateLimitNotice {
                task_uid: pod.task_uid.clone(),
                image: container.image_index,
                message: words.1.clone(),
            })
        }
        _ => None,
    };
    pod.containers.iter().filter(new).filter_map(complaint).collect()
}

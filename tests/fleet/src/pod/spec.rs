//! Spec of a pod.

use std::time::Duration;

/// Pull policy of an image (`imagePullPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// The registry is asked at each start.
    Always,
    /// The registry is asked unless the node has the image.
    IfNotPresent,
    /// The registry is never asked.
    Never,
}

/// Which containers are started again when they end (`restartPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// All.
    Always,
    /// Those with another exit code than 0.
    OnFailure,
    /// None.
    Never,
}

/// Role of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// Init container that must end before the next one starts.
    Init,
    /// Init container with the restart policy `Always`, which runs as long as the pod.
    Sidecar,
    /// Container of the application.
    App,
}

/// Run time of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunTime {
    /// Until it is stopped.
    Unlimited,
    /// For some time; it then ends with an exit code.
    Limited {
        /// Time from the start to the end.
        time: Duration,
        /// Exit code.
        exit_code: i32,
    },
}

/// Container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Name.
    pub name: String,
    /// Role.
    pub kind: ContainerKind,
    /// Image reference as written, possibly invalid.
    pub image: String,
    /// Pull policy.
    pub pull_policy: PullPolicy,
    /// Run time.
    pub run_time: RunTime,
    /// Names of the volumes that it mounts.
    pub mounts: Vec<String>,
}

/// Volume with the content of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageVolume {
    /// Name of the volume.
    pub name: String,
    /// Image reference as written, possibly invalid.
    pub image: String,
    /// Pull policy.
    pub pull_policy: PullPolicy,
}

/// Taint of a node with the effect `NoExecute`, the only effect that a kubelet considers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; empty if there is none.
    pub value: String,
}

/// Toleration of taints with the effect `NoExecute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Key of the taint; none for all keys.
    pub key: Option<String>,
    /// Value of the taint; none for all values.
    pub value: Option<String>,
}

impl Toleration {
    fn matches(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
    }
}

/// Pod that is bound to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID, by which inputs refer to the pod.
    pub uid: String,
    /// True if it belongs to a workload. False for pods whose only purpose is to pull images: an
    /// image that only such pods have used counts as pulled in vain.
    pub is_workload: bool,
    /// Restart policy.
    pub restart_policy: RestartPolicy,
    /// Containers: init containers and sidecars in their order, then those of the application.
    pub containers: Vec<ContainerSpec>,
    /// Image volumes.
    pub volumes: Vec<ImageVolume>,
    /// Pull secrets, as `namespace/name`.
    pub secrets: Vec<String>,
    /// Tolerations of `NoExecute` taints.
    pub tolerations: Vec<Toleration>,
    /// Time from the signal to stop until containers are killed.
    pub grace: Duration,
    /// Time after which the kubelet ends the pod (`activeDeadlineSeconds`).
    pub active_deadline: Option<Duration>,
}

impl PodSpec {
    /// Reports whether the pod has init containers or sidecars.
    #[must_use]
    pub fn has_init_containers(&self) -> bool {
        self.containers.iter().any(|container| container.kind != ContainerKind::App)
    }

    /// Returns the first taint that the pod does not tolerate.
    #[must_use]
    pub fn untolerated<'a>(&self, taints: &'a [Taint]) -> Option<&'a Taint> {
        let tolerates = |taint: &Taint| self.tolerations.iter().any(|t| t.matches(taint));
        taints.iter().find(|taint| !tolerates(taint))
    }

    /// Returns the path of a container in the events about it, such as `spec.containers{web}`.
    #[must_use]
    pub fn field_path(container: &ContainerSpec) -> String {
        let list = match container.kind {
            ContainerKind::Init | ContainerKind::Sidecar => "initContainers",
            ContainerKind::App => "containers",
        };
        format!("spec.{list}{{{}}}", container.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::testing::pod;

    #[test]
    fn taints_are_tolerated_by_key_and_value() {
        let taint = |key: &str, value: &str| Taint { key: key.into(), value: value.into() };
        let taints = [taint("gpu", "yes"), taint("maintenance", "")];
        let mut pod = pod("web");
        assert_eq!(pod.untolerated(&taints), Some(&taints[0]));
        pod.tolerations = vec![Toleration { key: Some("gpu".into()), value: Some("yes".into()) }];
        assert_eq!(pod.untolerated(&taints), Some(&taints[1]));
        pod.tolerations = vec![Toleration { key: None, value: None }];
        assert_eq!(pod.untolerated(&taints), None);
        assert_eq!(pod.untolerated(&[]), None);
    }
}

//! Events of the kubelet, with the texts of Kubernetes 1.36.
//!
//! Sources: `pkg/kubelet/images/image_manager.go`, `pkg/kubelet/kuberuntime/kuberuntime_container.go`
//! and `kuberuntime_manager.go`, `pkg/kubelet/events/event.go`. Since 1.35 the Events `Created` and
//! `Started` no longer name the container (kubernetes/kubernetes#134043), and `Pulled` states that
//! the pod may access the image, where `KubeletEnsureSecretPulledImages` is enabled.

use std::time::Duration;

use crate::time::go_duration;

/// Event about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// True if the type is `Warning` rather than `Normal`.
    pub is_warning: bool,
    /// Reason.
    pub reason: &'static str,
    /// Message.
    pub message: String,
    /// Path of the container in the pod; none for the pod and its image volumes.
    pub field_path: Option<String>,
}

impl Event {
    fn new(reason: &'static str, message: String, field_path: Option<String>) -> Self {
        Self { is_warning: false, reason, message, field_path }
    }

    fn warning(reason: &'static str, message: String, field_path: Option<String>) -> Self {
        Self { is_warning: true, ..Self::new(reason, message, field_path) }
    }

    /// Returns the event of the start of a pull.
    #[must_use]
    pub fn pulling(image: &str, field_path: Option<String>) -> Self {
        Self::new("Pulling", format!("Pulling image \"{image}\""), field_path)
    }

    /// Returns the event of a successful pull. `pull` is the duration of the runtime's request,
    /// `total` includes the wait for other pulls; the size is in bytes.
    #[must_use]
    pub fn pulled(
        image: &str,
        pull: Duration,
        total: Duration,
        size: u64,
        field_path: Option<String>,
    ) -> Self {
        let (pull, total) = (go_duration(pull), go_duration(total));
        let message = format!(
            "Successfully pulled image \"{image}\" in {pull} ({total} including waiting). Image size: {size} bytes."
        );
        Self::new("Pulled", message, field_path)
    }

    /// Returns the event of an image that the node has.
    #[must_use]
    pub fn present(image: &str, field_path: Option<String>) -> Self {
        let message = format!(
            "Container image \"{image}\" already present on machine and can be accessed by the pod"
        );
        Self::new("Pulled", message, field_path)
    }

    /// Returns the event of a failed pull.
    #[must_use]
    pub fn pull_failed(image: &str, error: &str, field_path: Option<String>) -> Self {
        let message = format!("Failed to pull image \"{image}\": {error}");
        Self::warning("Failed", message, field_path)
    }

    /// Returns the event of a container that could not be started, with its waiting reason.
    #[must_use]
    pub fn failed(reason: &str, field_path: String) -> Self {
        Self::warning("Failed", format!("Error: {reason}"), Some(field_path))
    }

    /// Returns the event of a pull that waits after failures.
    #[must_use]
    pub fn pull_backoff(image: &str, field_path: Option<String>) -> Self {
        Self::new("BackOff", format!("Back-off pulling image \"{image}\""), field_path)
    }

    /// Returns the event of an image that is absent under the policy `Never`.
    #[must_use]
    pub fn never_pull(image: &str, field_path: Option<String>) -> Self {
        let message = never_pull_message(image);
        Self::warning("ErrImageNeverPull", message, field_path)
    }

    /// Returns the event of an invalid image reference.
    #[must_use]
    pub fn invalid_image(message: String, field_path: Option<String>) -> Self {
        Self::warning("InspectFailed", message, field_path)
    }

    /// Returns the event of a created container.
    #[must_use]
    pub fn created(field_path: String) -> Self {
        Self::new("Created", "Container created".into(), Some(field_path))
    }

    /// Returns the event of a started container.
    #[must_use]
    pub fn started(field_path: String) -> Self {
        Self::new("Started", "Container started".into(), Some(field_path))
    }

    /// Returns the event of a container whose restart waits. `pod` is name, namespace and UID as
    /// `name_namespace(uid)`.
    #[must_use]
    pub fn restart_backoff(container: &str, pod: &str, field_path: String) -> Self {
        let message = format!("Back-off restarting failed container {container} in pod {pod}");
        Self::warning("BackOff", message, Some(field_path))
    }

    /// Returns the event of a container that is stopped.
    #[must_use]
    pub fn killing(container: &str, field_path: String) -> Self {
        Self::new("Killing", format!("Stopping container {container}"), Some(field_path))
    }

    /// Returns the event of a rejected or ended pod.
    #[must_use]
    pub fn pod_ended(reason: &'static str, message: String) -> Self {
        Self::warning(reason, message, None)
    }
}

/// Returns the message of a container whose image is absent under the policy `Never`.
#[must_use]
pub fn never_pull_message(image: &str) -> String {
    format!("Container image \"{image}\" is not present with pull policy of Never")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_kubernetes_1_36() {
        let (pull, total) = (Duration::from_millis(1_200), Duration::from_millis(61_500));
        let texts = [
            Event::pulling("a:1", None),
            Event::pulled("a:1", pull, total, 9, None),
            Event::present("a:1", None),
            Event::created("spec.containers{a}".into()),
            Event::started("spec.containers{a}".into()),
        ]
        .map(|event| event.message);
        let expected = [
            "Pulling image \"a:1\"",
            "Successfully pulled image \"a:1\" in 1.2s (1m1.5s including waiting). Image size: 9 bytes.",
            "Container image \"a:1\" already present on machine and can be accessed by the pod",
            "Container created",
            "Container started",
        ];
        assert_eq!(texts, expected);
    }
}

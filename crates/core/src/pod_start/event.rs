//! Parsing of the kubelet's image events. Pure: no client, no clock, no I/O.
//!
//! The messages are those of `pkg/kubelet/images/image_manager.go`, Kubernetes 1.30 to 1.37. They
//! are not a stable API of the kubelet, so unknown messages are ignored.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use crate::{image::ImageRef, worker::is_worker_pod_name};

/// Field selector for the events about images of pods; the API server filters all others.
pub const FIELD_SELECTOR: &str = "reason=Pulled,involvedObject.kind=Pod";

/// Presence of an image on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEvent {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the node.
    pub node: String,
    /// Normalized image reference.
    pub image: String,
    /// Set if the pod is a worker.
    pub by_worker: bool,
    /// Duration of the pull; `None` if the image was already present.
    pub pull_duration: Option<Duration>,
    /// Time of the event.
    pub at: Timestamp,
}

/// Parses an event. `now` is used for events without a time.
#[must_use]
pub fn parse_event(event: &Event, now: Timestamp) -> Option<ImageEvent> {
    let (image, took) = parse_message(event.message.as_deref()?)?;
    let image: ImageRef = image.parse().ok()?;
    let pod = &event.involved_object;
    let node = event
        .source
        .as_ref()
        .and_then(|source| source.host.clone())
        .or_else(|| event.reporting_instance.clone())?;
    let told = event
        .last_timestamp
        .as_ref()
        .map(|time| time.0)
        .or(event.event_time.as_ref().map(|time| time.0));
    Some(ImageEvent {
        namespace: pod.namespace.clone()?,
        node,
        image: image.normalized().to_owned(),
        by_worker: is_worker_pod_name(pod.name.as_deref()?),
        pull_duration: took,
        at: told.unwrap_or(now),
    })
}

/// Returns the image and, if it was pulled, the duration of the pull.
fn parse_message(message: &str) -> Option<(&str, Option<Duration>)> {
    let (before, rest) = message.split_once('"')?;
    let (image, after) = rest.split_once('"')?;
    if after.trim_start().starts_with("already present on machine") {
        return Some((image, None));
    }
    if before.trim_end() != "Successfully pulled image" {
        return None;
    }
    let took = after.trim_start().strip_prefix("in ")?.split(' ').next()?;
    Some((image, Some(crate::duration::parse(took).ok()?)))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EventSource, ObjectReference};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Container image \"a:1\" already present on machine", Some(("a:1", None)))]
    #[case("Container image \"a:1\" already present on machine and can be accessed by the pod", Some(("a:1", None)))]
    #[case("Successfully pulled image \"a:1\" in 1.5s (2.25s including waiting). Image size: 9 bytes.", Some(("a:1", Some(1500))))]
    #[case("Successfully pulled image \"a:1\" in 1m2.5s (1m3s including waiting)", Some(("a:1", Some(62_500))))]
    #[case("Successfully pulled image \"a:1\" in 345ms", Some(("a:1", Some(345))))]
    #[case("Successfully pulled image \"a:1\" in soon", None)]
    #[case("Pulling image \"a:1\"", None)]
    #[case("Failed to pull image \"a:1\": in 3s", None)]
    #[case("", None)]
    fn parses_messages(#[case] message: &str, #[case] meant: Option<(&str, Option<u64>)>) {
        let meant = meant.map(|(image, millis)| (image, millis.map(Duration::from_millis)));
        assert_eq!(parse_message(message), meant);
    }

    #[test]
    fn parses_an_event() {
        let event = Event {
            message: Some("Container image \"nginx\" already present on machine".into()),
            involved_object: ObjectReference {
                namespace: Some("shop".into()),
                name: Some("web-7d-x".into()),
                ..ObjectReference::default()
            },
            source: Some(EventSource { host: Some("node-1".into()), ..EventSource::default() }),
            ..Event::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let read_one = parse_event(&event, now).unwrap();
        assert_eq!(
            (read_one.image.as_str(), read_one.node.as_str()),
            ("docker.io/library/nginx:latest", "node-1")
        );
        assert!(!read_one.by_worker && read_one.at == now);
        let named = |name: &str| Event {
            involved_object: ObjectReference {
                name: Some(name.into()),
                ..event.involved_object.clone()
            },
            ..event.clone()
        };
        let worker = |name: &str| parse_event(&named(name), now).unwrap().by_worker;
        assert!(
            worker("prewarm-0123456789abcdef0123") && worker("prewarm-0123456789abcdef0123-x7k2p")
        );
        assert!(!worker("prewarm-me") && !worker("prewarm-0123456789abcdef012g"));
    }
}

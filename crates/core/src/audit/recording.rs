//! Starts of containers, from the events of kubelets.
//!
//! Every client that may create Events can forge one. Only what looks like a kubelet's event about
//! the image of a container is used; its texts are bounded and its numbers limited.

use std::sync::Arc;

use super::{
    event::AuditEvent,
    message::{self, PullMessage},
};
use crate::{
    dns::MAX_SUBDOMAIN, image::ImageRef, node::Interner, task::PullPolicy, timestamp,
    worker::is_worker_pod_name,
};

/// Reason of the events.
const REASON: &str = "Pulled";
/// Component that writes them.
const KUBELET: &str = "kubelet";
/// Kind of the object that they are about.
const POD: &str = "Pod";
/// Beginnings of the field paths of containers that a workload's template defines. Containers for
/// debugging (`spec.ephemeralContainers`) are not part of it.
const CONTAINER_PATHS: [&str; 2] = ["spec.containers{", "spec.initContainers{"];
/// Most occurrences that are counted for one event. A kubelet reports 25 of a pod at once and then
/// one every five minutes (client-go, `defaultSpamBurst`), which makes 300 in a day.
const MAX_OCCURRENCES: u32 = 300;

/// Start of a container, or of several with the same message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageStart {
    pub(super) namespace: Arc<str>,
    pub(super) pod: Arc<str>,
    pub(super) node: Arc<str>,
    /// Normalized image reference.
    pub(super) image: Arc<str>,
    /// True where the kubelet asks the registry even for a present image, by the default pull policy
    /// of the tag.
    pub(super) is_moving: bool,
    /// Time at which the image was present, in milliseconds since 1970; the first one of several.
    pub(super) at: i64,
    /// Number of starts, at least 1.
    pub(super) count: u32,
    /// Pull; `None` if the image was present.
    pub(super) pull: Option<Pull>,
}

/// Pull of an image by a kubelet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pull {
    /// Duration of the pull, in milliseconds.
    pub(super) duration: u64,
    /// Time for which the container waited, in milliseconds.
    pub(super) waited: u64,
    /// Size of the image, where known.
    pub(super) image_bytes: Option<u64>,
}

impl ImageStart {
    /// Returns the time at which the container began to wait, in milliseconds since 1970.
    pub(super) fn begin(&self) -> i64 {
        let waited = self.pull.map_or(0, |pull| pull.waited);
        self.at.saturating_sub(i64::try_from(waited).unwrap_or(i64::MAX))
    }
}

/// Numbers of events that are not used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct IgnoredEvents {
    /// Not by a kubelet, or not about the image of a container.
    pub(super) foreign: u64,
    /// Unknown message, invalid image reference, or no time.
    pub(super) unreadable: u64,
    /// About a pod of Prewarmer's workers.
    pub(super) workers: u64,
}

/// Starts of containers, in the order in which their events were added.
#[derive(Debug, Default)]
pub struct Recording {
    texts: Interner,
    pub(super) starts: Vec<ImageStart>,
    pub(super) ignored: IgnoredEvents,
    /// Number of events that stand for several with different messages.
    pub(super) combined: u64,
}

impl Recording {
    /// Adds an event.
    pub fn add(&mut self, event: &AuditEvent) {
        if !is_about_an_image(event) {
            self.ignored.foreign += 1;
        } else if is_worker_pod_name(&event.involved_object.name) {
            self.ignored.workers += 1;
        } else if let Some(start) = self.start(event) {
            self.starts.push(start);
        } else {
            self.ignored.unreadable += 1;
        }
    }

    /// Counts an object that cannot be decoded as an event.
    pub fn add_undecodable(&mut self) {
        self.ignored.unreadable += 1;
    }

    /// Returns the number of events that were not used.
    #[must_use]
    pub fn ignored_events(&self) -> u64 {
        let IgnoredEvents { foreign, unreadable, workers } = self.ignored;
        foreign + unreadable + workers
    }

    /// Reports whether no event was usable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Creates the recording of one start of a pod.
    #[cfg(test)]
    pub(super) fn of_pod(namespace: &str, pod: &str) -> Self {
        let mut recording = Self::default();
        recording.starts.push(ImageStart {
            namespace: namespace.into(),
            pod: pod.into(),
            node: "node-1".into(),
            image: "docker.io/library/web:1".into(),
            is_moving: false,
            at: 0,
            count: 1,
            pull: None,
        });
        recording
    }

    fn start(&mut self, event: &AuditEvent) -> Option<ImageStart> {
        let parsed = message::parse(&event.message)?;
        let image: ImageRef = parsed.image.parse().ok()?;
        // Of a combined event only the latest message is known.
        let (time, count) = if parsed.is_combined {
            (event.last_time()?, 1)
        } else {
            (event.first_time()?, event.occurrences())
        };
        let at = timestamp::parse(time)?.as_millisecond();
        self.combined += u64::from(parsed.is_combined);
        let pod = &event.involved_object;
        Some(ImageStart {
            namespace: self.texts.intern(&pod.namespace),
            pod: self.texts.intern(&pod.name),
            node: self.texts.intern(event.node()),
            is_moving: PullPolicy::by_tag(&image) == PullPolicy::Always,
            image: self.texts.intern(image.normalized()),
            at,
            count: u32::try_from(count.max(1)).unwrap_or(u32::MAX).min(MAX_OCCURRENCES),
            pull: parsed.pull.map(Pull::from),
        })
    }
}

impl From<PullMessage> for Pull {
    fn from(message: PullMessage) -> Self {
        // Below 2^27: the parser limits durations to a day.
        let milliseconds =
            |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            duration: milliseconds(message.pull),
            waited: milliseconds(message.waited),
            image_bytes: message.image_bytes,
        }
    }
}

/// Reports whether the event has the form of a kubelet's about the image of a container, or of an
/// image volume, whose events name the pod without a field.
fn is_about_an_image(event: &AuditEvent) -> bool {
    let pod = &event.involved_object;
    let is_name = |name: &str| !name.is_empty() && name.len() <= MAX_SUBDOMAIN;
    let path = pod.field_path.as_str();
    event.reason == REASON
        && event.component() == KUBELET
        && pod.kind == POD
        && [&pod.namespace, &pod.name, event.node()].into_iter().all(is_name)
        && (path.is_empty() || CONTAINER_PATHS.iter().any(|start| path.starts_with(start)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const PULLED: &str =
        "Successfully pulled image \"web\" in 3s (4s including waiting). Image size: 9 bytes.";

    /// Returns an event as the API server sends it, with other values for some fields.
    fn event(changes: Value) -> AuditEvent {
        let mut object = json!({
            "metadata": {"name": "web-1.18", "namespace": "shop", "managedFields": [{}]},
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web-1", "fieldPath": "spec.containers{web}"},
            "reason": "Pulled", "message": PULLED, "type": "Normal",
            "source": {"component": "kubelet", "host": "node-1"},
            "firstTimestamp": "1970-01-01T00:01:40Z", "lastTimestamp": "1970-01-01T00:03:20Z",
            "count": 1, "eventTime": null, "reportingComponent": "kubelet", "reportingInstance": "node-1",
        });
        if let Value::Object(changes) = changes {
            for (field, value) in changes {
                object[field] = value;
            }
        }
        serde_json::from_value(object).unwrap()
    }

    fn record(event: &AuditEvent) -> Recording {
        let mut recording = Recording::default();
        recording.add(event);
        recording
    }

    #[test]
    fn an_event_is_a_start() {
        let recording = record(&event(json!({})));
        let start = &recording.starts[0];
        assert_eq!((&*start.namespace, &*start.pod, &*start.node), ("shop", "web-1", "node-1"));
        assert_eq!((&*start.image, start.is_moving), ("docker.io/library/web:latest", true));
        assert_eq!((start.at, start.begin(), start.count), (100_000, 96_000, 1));
        assert_eq!(start.pull, Some(Pull { duration: 3000, waited: 4000, image_bytes: Some(9) }));
    }

    #[rstest]
    #[case::other_component(json!({"source": {"component": "eve", "host": "node-1"}}))]
    #[case::other_reporter(json!({"source": {}, "reportingComponent": "eve.example/x"}))]
    #[case::no_component(json!({"source": {"host": "node-1"}, "reportingComponent": ""}))]
    #[case::other_reason(json!({"reason": "Pulling"}))]
    #[case::other_kind(json!({"involvedObject": {"kind": "Node", "namespace": "shop", "name": "web-1"}}))]
    #[case::debug_container(json!({"involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web-1", "fieldPath": "spec.ephemeralContainers{debug}"}}))]
    #[case::no_node(json!({"source": {"component": "kubelet"}, "reportingInstance": ""}))]
    #[case::long_node(json!({"source": {"component": "kubelet", "host": "n".repeat(254)}}))]
    fn forged_and_other_events_are_not_used(#[case] changes: Value) {
        let recording = record(&event(changes));
        let expected = IgnoredEvents { foreign: 1, ..IgnoredEvents::default() };
        assert_eq!((recording.starts.len(), recording.ignored), (0, expected));
    }

    #[rstest]
    #[case::message(json!({"message": "Pulled, somehow"}))]
    #[case::image(json!({"message": "Container image \"Web Server\" already present on machine"}))]
    #[case::no_time(json!({"firstTimestamp": null, "lastTimestamp": null}))]
    #[case::time(json!({"firstTimestamp": "soon"}))]
    fn unreadable_events_are_counted(#[case] changes: Value) {
        let recording = record(&event(changes));
        let expected = IgnoredEvents { unreadable: 1, ..IgnoredEvents::default() };
        assert_eq!((recording.starts.len(), recording.ignored), (0, expected));
    }

    #[test]
    fn pods_of_workers_are_left_out() {
        let pod = json!({"kind": "Pod", "namespace": "shop", "name": "prewarm-0123456789abcdef0123-x7k2p", "fieldPath": "spec.initContainers{i}"});
        let recording = record(&event(json!({"involvedObject": pod})));
        assert_eq!((recording.starts.len(), recording.ignored.workers), (0, 1));
    }

    #[rstest]
    #[case::legacy(json!({"count": 7}), 7)]
    #[case::series(json!({"count": 0, "series": {"count": 3, "lastObservedTime": "1970-01-01T00:09:00.000000Z"}}), 3)]
    #[case::none(json!({"count": null}), 1)]
    #[case::negative(json!({"count": -5}), 1)]
    #[case::forged(json!({"count": 2_147_483_647}), MAX_OCCURRENCES)]
    fn repetitions_are_counted_up_to_a_bound(#[case] changes: Value, #[case] expected: u32) {
        let recording = record(&event(changes));
        assert_eq!((recording.starts[0].count, recording.starts[0].at), (expected, 100_000));
    }

    #[test]
    fn a_combined_event_is_its_latest_pull() {
        let message = format!("(combined from similar events): {PULLED}");
        let recording = record(&event(json!({"message": message, "count": 12})));
        let start = &recording.starts[0];
        assert_eq!((start.count, start.at, recording.combined), (1, 200_000, 1));
    }

    #[test]
    fn recorders_of_the_newer_api_are_read() {
        let recording = record(&event(json!({
            "source": {}, "firstTimestamp": null, "lastTimestamp": null, "count": null,
            "eventTime": "1970-01-01T00:01:40.250000Z",
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web-1"},
        })));
        let start = &recording.starts[0];
        assert_eq!((start.at, &*start.node), (100_250, "node-1"));
    }
}

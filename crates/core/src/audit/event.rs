//! Event with only the fields that are used. Others, such as `managedFields`, are skipped and never
//! allocated.

use serde::Deserialize;

/// Event of `core/v1` about the image of a container. `events.k8s.io/v1` serves the same objects with
/// other names of fields.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuditEvent {
    pub(super) involved_object: InvolvedObject,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) source: EventSource,
    /// Component that reports the event; recorders of `events.k8s.io` set it in place of `source`.
    pub(super) reporting_component: String,
    /// Instance of the component, for a kubelet the name of the node.
    pub(super) reporting_instance: String,
    pub(super) first_timestamp: Option<String>,
    pub(super) last_timestamp: Option<String>,
    pub(super) event_time: Option<String>,
    /// Number of equal events that this one stands for.
    pub(super) count: Option<i64>,
    pub(super) series: Option<EventSeries>,
}

/// Object that the event is about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct InvolvedObject {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Container, such as `spec.containers{web}`.
    pub(super) field_path: String,
}

/// Component and host that created the event.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct EventSource {
    pub(super) component: String,
    pub(super) host: String,
}

/// Repetitions of an event, as recorders of `events.k8s.io` count them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct EventSeries {
    pub(super) count: Option<i64>,
    pub(super) last_observed_time: Option<String>,
}

impl AuditEvent {
    /// Returns the number of occurrences, 1 where none is stated.
    pub(super) fn occurrences(&self) -> i64 {
        let of_series = self.series.as_ref().and_then(|series| series.count);
        of_series.or(self.count).unwrap_or(1)
    }

    /// Returns the time of the first occurrence, as text.
    pub(super) fn first_time(&self) -> Option<&str> {
        let times = [&self.first_timestamp, &self.event_time, &self.last_timestamp];
        times.into_iter().find_map(Option::as_deref)
    }

    /// Returns the time of the last occurrence, as text.
    pub(super) fn last_time(&self) -> Option<&str> {
        let of_series =
            self.series.as_ref().and_then(|series| series.last_observed_time.as_deref());
        let times = [&self.last_timestamp, &self.event_time, &self.first_timestamp];
        of_series.or_else(|| times.into_iter().find_map(Option::as_deref))
    }

    /// Returns the component that created the event.
    pub(super) fn component(&self) -> &str {
        let component = &self.source.component;
        if component.is_empty() { &self.reporting_component } else { component }
    }

    /// Returns the node of the kubelet that created the event.
    pub(super) fn node(&self) -> &str {
        let host = &self.source.host;
        if host.is_empty() { &self.reporting_instance } else { host }
    }
}

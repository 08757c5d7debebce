//! Outcome sums since the installation, passed from leader to leader.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::PodStartMetrics;

/// Annotation of the Lease that contains the sums as JSON.
pub(crate) const SUMS_ANNOTATION: &str = "prewarm.io/starts";

/// Outcome sums since the installation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutcomeSums {
    /// Number of warm starts.
    pub warm: u64,
    /// Number of cold starts.
    pub cold: u64,
    /// Waiting time saved, in seconds.
    pub seconds_saved: f64,
    /// Start of the count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl OutcomeSums {
    /// Returns the share of warm starts in percent; `None` before the first start.
    #[must_use]
    pub fn warm_percent(&self) -> Option<f64> {
        let all = self.warm.saturating_add(self.cold);
        #[allow(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
        let share = (all > 0).then(|| self.warm as f64 * 100.0 / all as f64);
        share
    }

    fn from_metrics(metrics: &PodStartMetrics) -> Self {
        let starts = |image: &str| metrics.pod_starts.with_label_values(&[image]).get();
        Self {
            warm: starts("warm"),
            cold: starts("cold"),
            seconds_saved: metrics.seconds_saved.get(),
            since: None,
        }
    }

    /// Adds the difference between two readings of a process's metrics.
    fn plus_difference(self, from: Self, to: Self) -> Self {
        Self {
            warm: self.warm.saturating_add(to.warm.saturating_sub(from.warm)),
            cold: self.cold.saturating_add(to.cold.saturating_sub(from.cold)),
            seconds_saved: self.seconds_saved + to.seconds_saved - from.seconds_saved,
            since: self.since,
        }
    }
}

/// Outcome sums known to this replica. Clones share them.
#[derive(Clone)]
pub struct OutcomeTotals {
    metrics: PodStartMetrics,
    state: Arc<Mutex<OutcomeTotalsState>>,
}

#[derive(Debug, Default)]
struct OutcomeTotalsState {
    /// Sums in the Lease when another replica led last, or at the start of this replica's term.
    base: OutcomeSums,
    /// Metrics of this process at the start of its term; `None` while another replica leads.
    term_start: Option<OutcomeSums>,
}

impl OutcomeTotals {
    /// Creates totals that count from the metrics of this process.
    pub(crate) fn new(metrics: PodStartMetrics) -> Self {
        Self { metrics, state: Arc::default() }
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut OutcomeTotalsState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stores the sums written by another leader.
    pub fn observe(&self, text: Option<&str>) {
        self.with_state(|state| {
            *state = OutcomeTotalsState { base: parse_sums(text), term_start: None }
        });
    }

    /// Returns the annotation to write while this replica leads. `text` is the annotation in the
    /// Lease, which is the base when the term starts.
    #[must_use]
    pub fn annotation(&self, text: Option<&str>, now: Timestamp) -> String {
        let own = OutcomeSums::from_metrics(&self.metrics);
        let sums = self.with_state(|state| {
            let begun = *state.term_start.get_or_insert_with(|| {
                state.base = parse_sums(text);
                own
            });
            state.base.since.get_or_insert(now);
            state.base.plus_difference(begun, own)
        });
        serde_json::to_string(&sums).unwrap_or_default()
    }

    /// Returns the current sums.
    #[must_use]
    pub fn get(&self) -> OutcomeSums {
        self.with_state(|state| match state.term_start {
            Some(begun) => {
                state.base.plus_difference(begun, OutcomeSums::from_metrics(&self.metrics))
            }
            None => state.base,
        })
    }
}

/// Parses the annotation. An invalid one counts as zero, since no decision depends on these sums.
fn parse_sums(text: Option<&str>) -> OutcomeSums {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn sums_pass_from_leader_to_leader() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let metrics = || PodStartMetrics::register(&Registry::new()).unwrap();
        let (first, second) = (metrics(), metrics());
        let (one, other) = (OutcomeTotals::new(first.clone()), OutcomeTotals::new(second.clone()));
        let begun = one.annotation(None, now);
        assert_eq!(one.get().warm_percent(), None);
        first.pod_starts.with_label_values(&["warm"]).inc_by(3);
        first.pod_starts.with_label_values(&["cold"]).inc();
        first.seconds_saved.inc_by(12.5);
        let written = one.annotation(Some(&begun), now);
        other.observe(Some(&written));
        let sums = other.get();
        assert_eq!((sums.warm, sums.cold, sums.seconds_saved, sums.since), (3, 1, 12.5, Some(now)));
        assert_eq!(sums.warm_percent(), Some(75.0));
        // The second replica leads and counts one more start; then the first replica takes over
        // again.
        let mut text = other.annotation(Some(&written), now);
        second.pod_starts.with_label_values(&["warm"]).inc();
        text = other.annotation(Some(&text), now);
        one.observe(Some(&text));
        assert_eq!(one.get().warm, 4);
        let again = one.annotation(Some(&text), now);
        assert_eq!((parse_sums(Some(&again)).warm, one.get().warm), (4, 4));
        assert_eq!(parse_sums(Some("nonsense")), OutcomeSums::default());
    }
}

//! The outcome figures since the installation: from leader to leader.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

/// On the Lease: the sums.
pub const ANNOTATION: &str = "prewarm.io/starts";

/// What there was since the installation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sums {
    /// Containers that found their image.
    pub warm: u64,
    /// Containers that did not.
    pub cold: u64,
    /// Seconds that containers would have waited.
    pub seconds_saved: f64,
    /// Since when it is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl Sums {
    /// The share of warm starts in percent; none before the first start.
    #[must_use]
    pub fn warm_percent(&self) -> Option<f64> {
        let all = self.warm.saturating_add(self.cold);
        #[allow(clippy::cast_precision_loss, reason = "nobody starts 2^52 containers")]
        let share = (all > 0).then(|| self.warm as f64 * 100.0 / all as f64);
        share
    }

    fn of(metrics: &Metrics) -> Self {
        let starts = |image: &str| metrics.pod_starts.with_label_values(&[image]).get();
        Self { warm: starts("warm"), cold: starts("cold"), seconds_saved: metrics.seconds_saved.get(), since: None }
    }

    /// With what has come from one look at a process's figures to another.
    fn grown(self, from: Self, to: Self) -> Self {
        Self {
            warm: self.warm.saturating_add(to.warm.saturating_sub(from.warm)),
            cold: self.cold.saturating_add(to.cold.saturating_sub(from.cold)),
            seconds_saved: self.seconds_saved + to.seconds_saved - from.seconds_saved,
            since: self.since,
        }
    }
}

/// The sums, as this replica knows them. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Totals(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What the Lease said when another led, or when this replica began to.
    heard: Sums,
    /// The figures of this process at that moment, while it leads.
    begun: Option<Sums>,
}

impl Totals {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another replica leads, and has written this.
    pub fn heard(&self, text: Option<&str>) {
        self.change(|state| *state = State { heard: read(text), begun: None });
    }

    /// This replica leads: what is to be written. `text` is what the Lease says, which counts when it has just begun.
    #[must_use]
    pub fn to_write(&self, text: Option<&str>, metrics: &Metrics, now: Timestamp) -> String {
        let own = Sums::of(metrics);
        let sums = self.change(|state| {
            let begun = *state.begun.get_or_insert_with(|| {
                state.heard = read(text);
                own
            });
            state.heard.since.get_or_insert(now);
            state.heard.grown(begun, own)
        });
        serde_json::to_string(&sums).unwrap_or_default()
    }

    /// The sums now.
    #[must_use]
    pub fn get(&self, metrics: &Metrics) -> Sums {
        self.change(|state| match state.begun {
            Some(begun) => state.heard.grown(begun, Sums::of(metrics)),
            None => state.heard,
        })
    }
}

/// What cannot be read counts as nothing: these are figures, not decisions.
fn read(text: Option<&str>) -> Sums {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_from_leader_to_leader() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let (first, second) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        let (one, other) = (Totals::default(), Totals::default());
        let begun = one.to_write(None, &first, now);
        assert_eq!(one.get(&first).warm_percent(), None);
        first.pod_starts.with_label_values(&["warm"]).inc_by(3);
        first.pod_starts.with_label_values(&["cold"]).inc();
        first.seconds_saved.inc_by(12.5);
        let written = one.to_write(Some(&begun), &first, now);
        other.heard(Some(&written));
        let sums = other.get(&second);
        assert_eq!((sums.warm, sums.cold, sums.seconds_saved, sums.since), (3, 1, 12.5, Some(now)));
        assert_eq!(sums.warm_percent(), Some(75.0));
        // The second leads, counts one more, and the first listens and takes over again.
        let mut text = other.to_write(Some(&written), &second, now);
        second.pod_starts.with_label_values(&["warm"]).inc();
        text = other.to_write(Some(&text), &second, now);
        one.heard(Some(&text));
        assert_eq!(one.get(&first).warm, 4);
        let again = one.to_write(Some(&text), &first, now);
        assert_eq!((read(Some(&again)).warm, one.get(&first).warm), (4, 4));
        assert_eq!(read(Some("nonsense")), Sums::default());
    }
}

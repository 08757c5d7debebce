//! Figures of a run.

use std::time::Duration;

use prewarmer_fleet::{Fleet, PodStart};
use serde_json::{Value, json};

/// What a run of a trace showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Started pods of workloads.
    pub starts: usize,
    /// Of these, pods whose node had all images.
    pub warm: usize,
    /// Times from the binding of a pod until it ran, ascending.
    pub waits: Vec<Duration>,
    /// Bytes received from registries.
    pub downloaded: u64,
    /// Of these, bytes that no workload has used when they were removed or the run ended.
    pub in_vain: u64,
    /// Images that garbage collection removed.
    pub evictions: u64,
}

impl Figures {
    /// Returns the figures of a fleet with these starts.
    #[must_use]
    pub fn new(fleet: &Fleet, starts: &[PodStart]) -> Self {
        let starts: Vec<&PodStart> = starts.iter().filter(|start| start.is_workload).collect();
        let mut waits: Vec<Duration> =
            starts.iter().map(|start| start.running.since(start.bound)).collect();
        waits.sort_unstable();
        let total = fleet.counters().total();
        Self {
            starts: starts.len(),
            warm: starts.iter().filter(|start| start.is_warm).count(),
            waits,
            downloaded: total.downloaded,
            in_vain: total.in_vain.saturating_add(fleet.unused_bytes()),
            evictions: total.evictions,
        }
    }

    /// Returns the time within which this share of the pods ran, in percent (nearest rank); zero
    /// without pods.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = self.waits.len().saturating_mul(percent).div_ceil(100);
        self.waits.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Returns the figures as JSON; times in milliseconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let millis = |percent| u64::try_from(self.percentile(percent).as_millis()).unwrap_or(u64::MAX);
        json!({
            "starts": self.starts, "warm": self.warm,
            "p50": millis(50), "p95": millis(95), "p99": millis(99),
            "downloaded": self.downloaded, "inVain": self.in_vain, "evictions": self.evictions,
        })
    }
}

/// Returns what a policy would reach that knows the future: every pod finds its images, and no byte
/// is in vain. `without` is the run without Prewarmer, which downloads exactly what pods use;
/// `warm` are the waits of its warm starts, which are those of a start without a pull.
#[must_use]
pub fn oracle(without: &Figures, starts: &[PodStart]) -> Figures {
    let mut warm: Vec<Duration> = starts
        .iter()
        .filter(|start| start.is_workload && start.is_warm)
        .map(|start| start.running.since(start.bound))
        .collect();
    warm.sort_unstable();
    Figures {
        starts: without.starts,
        warm: without.starts,
        waits: warm,
        downloaded: without.downloaded.saturating_sub(without.in_vain),
        in_vain: 0,
        evictions: without.evictions,
    }
}

#[cfg(test)]
mod tests {
    use prewarmer_fleet::{NodeId, SimTime};

    use super::*;

    fn start(millis: u64, is_workload: bool, is_warm: bool) -> PodStart {
        PodStart {
            node: NodeId(0),
            is_workload,
            bound: SimTime::from_secs(1),
            running: SimTime::from_millis(1_000 + millis),
            is_warm,
        }
    }

    fn figures(waits: &[u64]) -> Figures {
        Figures {
            starts: waits.len(),
            warm: 0,
            waits: waits.iter().copied().map(Duration::from_millis).collect(),
            downloaded: 100,
            in_vain: 30,
            evictions: 2,
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let all: Vec<u64> = (1..=100).collect();
        let percentile = |waits: &[u64], percent| figures(waits).percentile(percent).as_millis();
        assert_eq!([50, 95, 99, 100].map(|percent| percentile(&all, percent)), [50, 95, 99, 100]);
        assert_eq!([1, 50, 99].map(|percent| percentile(&[7], percent)), [7, 7, 7]);
        assert_eq!(percentile(&[], 50), 0);
    }

    #[test]
    fn the_oracle_starts_all_pods_warm_and_wastes_nothing() {
        let starts = [start(900, true, true), start(9_000, true, false), start(1, false, true)];
        let oracle = oracle(&figures(&[900, 9_000]), &starts);
        assert_eq!((oracle.starts, oracle.warm), (2, 2));
        assert_eq!(oracle.waits, [Duration::from_millis(900)]);
        assert_eq!((oracle.downloaded, oracle.in_vain), (70, 0));
    }
}

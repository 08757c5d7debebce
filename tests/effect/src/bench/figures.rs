//! Figures of a run.

use std::time::Duration;

use prewarmer_fleet::{Fleet, PodStart};

use crate::connect::run::SimulationFigures;

/// Observations of a run of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Started pods of workloads.
    pub starts: usize,
    /// Pods of workloads that were bound to a node and did not start before they were deleted or the
    /// run ended. Slow starts of a policy may be among them.
    pub unstarted: u64,
    /// Of the started pods, those whose node had all images.
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
    /// Returns the figures of a fleet with what its simulation has seen.
    #[must_use]
    pub fn new(fleet: &Fleet, seen: &SimulationFigures) -> Self {
        let waits = waits(seen.starts.iter().filter(|start| start.is_workload));
        let warm = seen.starts.iter().filter(|start| start.is_workload && start.is_warm).count();
        let total = fleet.counters().total();
        let starts = u64::try_from(waits.len()).unwrap_or(u64::MAX);
        Self {
            starts: waits.len(),
            unstarted: seen.bound_workload_pods.saturating_sub(starts),
            warm,
            waits,
            downloaded: total.downloaded,
            in_vain: total.in_vain.saturating_add(fleet.unused_bytes()),
            evictions: total.evictions,
        }
    }

    /// Returns the time within which this share of the pods ran, in percent (nearest rank); none
    /// without pods.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = self.waits.len().saturating_mul(percent).div_ceil(100);
        self.waits.get(rank.saturating_sub(1)).copied()
    }
}

/// Returns what a policy would reach that knows the future: every pod finds its images, and no byte
/// is in vain. `without` is the run without Prewarmer, which downloads exactly what pods use;
/// `starts` are those of that run, of which the warm ones show how long a start without a pull takes.
/// Without a warm start there are no times.
#[must_use]
pub fn oracle(without: &Figures, starts: &[PodStart]) -> Figures {
    Figures {
        starts: without.starts,
        unstarted: without.unstarted,
        warm: without.starts,
        waits: waits(starts.iter().filter(|start| start.is_workload && start.is_warm)),
        downloaded: without.downloaded.saturating_sub(without.in_vain),
        in_vain: 0,
        evictions: without.evictions,
    }
}

/// Returns the times from the binding of pods until they ran, ascending.
fn waits<'a>(starts: impl Iterator<Item = &'a PodStart>) -> Vec<Duration> {
    let mut waits: Vec<Duration> = starts.map(|start| start.running.since(start.bound)).collect();
    waits.sort_unstable();
    waits
}

#[cfg(test)]
mod tests {
    use prewarmer_fleet::{
        NodeId, SimTime,
        image::{Catalog, CatalogSettings},
        registry::{Registries, RegistrySettings},
    };

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
            unstarted: 1,
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
        let percentile = |waits: &[u64], percent| {
            figures(waits).percentile(percent).map(|time| time.as_millis())
        };
        let expected = [50, 95, 99, 100].map(Some);
        assert_eq!([50, 95, 99, 100].map(|percent| percentile(&all, percent)), expected);
        assert_eq!([1, 50, 99].map(|percent| percentile(&[7], percent)), [Some(7); 3]);
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn only_pods_of_workloads_count_and_those_that_did_not_start_are_known() {
        let catalog = Catalog::new(1, CatalogSettings::default());
        let fleet = Fleet::new(1, catalog, Registries::new(RegistrySettings::new("")));
        let starts = vec![start(9_000, true, false), start(900, true, true), start(5, false, true)];
        let seen =
            SimulationFigures { starts, bound_workload_pods: 5, ..SimulationFigures::default() };
        let figures = Figures::new(&fleet, &seen);
        assert_eq!((figures.starts, figures.warm, figures.unstarted), (2, 1, 3));
        assert_eq!(figures.waits, [900, 9_000].map(Duration::from_millis));
    }

    #[test]
    fn the_oracle_starts_all_pods_warm_and_wastes_nothing() {
        let starts = [start(900, true, true), start(9_000, true, false), start(1, false, true)];
        let found = oracle(&figures(&[900, 9_000]), &starts);
        assert_eq!((found.starts, found.warm), (2, 2));
        assert_eq!(found.waits, [Duration::from_millis(900)]);
        assert_eq!((found.downloaded, found.in_vain), (70, 0));
        assert_eq!(oracle(&figures(&[9_000]), &starts[1..]).percentile(50), None);
    }
}

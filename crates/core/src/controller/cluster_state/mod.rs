//! Compact state of the cluster, updated from watch events. Pure: no client, no clock, no I/O.

mod cached_task;
mod foreign;
mod nodes;
mod pending;
mod pods;
mod report;
mod state;
mod tasks;
#[cfg(test)]
mod tests;
mod workers;

use k8s_openapi::jiff::Timestamp;

pub(super) use self::{
    cached_task::{CachedTask, EndedTask},
    foreign::ForeignClaim,
    report::{ObservationReport, RateLimitNotice},
    state::ClusterState,
};
use super::observation::Observation;

impl ClusterState {
    /// Applies a watch event at the time `now` of the controller's clock.
    pub(super) fn apply(&mut self, observation: Observation, now: Timestamp) -> ObservationReport {
        let mut news = ObservationReport::default();
        match observation {
            Observation::Task(change) => self.apply_tasks(change, now, &mut news),
            Observation::Plan(source, change) => self.apply_plans(&source, change, &mut news),
            Observation::Node(change) => self.apply_nodes(change, now),
            Observation::Job(source, change) => self.apply_jobs(&source, change, now, &mut news),
            Observation::Pod(source, change) => self.apply_pods(&source, change, now, &mut news),
            Observation::EffectFinished(_) => {}
        }
        news
    }
}

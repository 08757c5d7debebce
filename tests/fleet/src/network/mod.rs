//! Downloads of layers, which share the links of nodes and registries fairly.
//!
//! The rates are max-min fair: no download can become faster without making one slower that is not
//! faster than it. That is the usual model of many TCP connections over shared links. A download
//! crosses two links, that of its registry and that of its node, so all downloads from one registry
//! to one node have the same rate. They form a *group*, and the cost of a change depends on the
//! number of groups, not of downloads. Rates are computed when a download starts or ends, and once
//! for all that do so at the same time.
//!
//! A group counts the bytes that each of its downloads has received since the group exists; a
//! download is complete when the count reaches its target. Nothing has to be updated per download
//! while time passes.
//!
//! All numbers are integers: rates in millibytes per second, counts in nanobytes (millibytes per
//! second times microseconds). Results therefore depend on no rounding mode, and the sum of rates
//! never exceeds a link; each download loses less than one millibyte per second by rounding down.

mod fair;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::fair::{Demand, fair_rates};
use crate::{
    ids::{NodeId, RegistryId},
    image::Digest,
    time::{SimTime, micros},
};

/// Millibytes of a byte.
const MILLIS_PER_BYTE: u64 = 1_000;
/// Nanobytes of a byte.
const NANOS_PER_BYTE: u128 = 1_000_000_000;

/// Download of a layer to a node: a node downloads each layer once at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Download {
    /// Node that receives the layer.
    pub node: NodeId,
    /// Layer.
    pub layer: Digest,
}

/// Group of downloads from one registry to one node.
#[derive(Debug, Default)]
struct Group {
    /// Rate of each download, in millibytes per second.
    rate: u64,
    /// Nanobytes that each download has received since the group exists.
    received: u128,
    /// Downloads by the value of `received` at which they are complete.
    targets: BTreeSet<(u128, Download)>,
}

impl Group {
    /// Returns the time at which the first download is complete; none without a rate.
    fn next_completion(&self, now: SimTime) -> Option<SimTime> {
        let (target, _) = self.targets.first()?;
        let rest = target.saturating_sub(self.received);
        if rest == 0 {
            return Some(now);
        }
        let wait = rest.checked_add(u128::from(self.rate).saturating_sub(1))?;
        let wait = wait.checked_div(u128::from(self.rate))?;
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        Some(SimTime::from_micros(now.as_micros().saturating_add(wait)))
    }
}

/// Group and target of a download.
#[derive(Debug, Clone, Copy)]
struct Route {
    registry: RegistryId,
    target: u128,
    bytes: u64,
}

/// Links of nodes and registries, and the downloads over them.
#[derive(Debug, Default)]
pub struct Network {
    /// Bytes per second, by node.
    nodes: BTreeMap<NodeId, u64>,
    /// Bytes per second, by registry.
    registries: BTreeMap<RegistryId, u64>,
    groups: BTreeMap<(RegistryId, NodeId), Group>,
    routes: BTreeMap<Download, Route>,
    now: SimTime,
    /// True if downloads started or ended since the rates were computed.
    is_stale: bool,
    /// Next completion at the current rates.
    next: Option<SimTime>,
}

impl Network {
    /// Creates a network without links.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the capacity of a node's link, in bytes per second, from the time on until which
    /// [`Self::advance`] has let time pass.
    pub fn set_node(&mut self, node: NodeId, bytes_per_second: u64) {
        self.nodes.insert(node, bytes_per_second);
        self.is_stale = true;
    }

    /// Sets the capacity of a registry's link, in bytes per second, from the same time on.
    pub fn set_registry(&mut self, registry: RegistryId, bytes_per_second: u64) {
        self.registries.insert(registry, bytes_per_second);
        self.is_stale = true;
    }

    /// Starts a download. A node or registry without a link has no capacity. Has no effect while the
    /// node downloads the same layer. The caller has received all completions before `now`.
    pub fn start(&mut self, download: Download, registry: RegistryId, bytes: u64, now: SimTime) {
        if self.routes.contains_key(&download) {
            return;
        }
        self.pass(now);
        let group = self.groups.entry((registry, download.node)).or_default();
        let target =
            group.received.saturating_add(u128::from(bytes).saturating_mul(NANOS_PER_BYTE));
        group.targets.insert((target, download));
        self.routes.insert(download, Route { registry, target, bytes });
        self.is_stale = true;
    }

    /// Ends a download and returns the bytes that it has received; none if there is no such
    /// download. The caller has received all completions before `now`.
    pub fn cancel(&mut self, download: Download, now: SimTime) -> Option<u64> {
        self.pass(now);
        let route = self.remove(download)?;
        let received = self
            .groups
            .get(&(route.registry, download.node))
            .map_or(route.target, |group| group.received);
        self.drop_empty_group(route.registry, download.node);
        let rest = route.target.saturating_sub(received).div_ceil(NANOS_PER_BYTE);
        Some(route.bytes.saturating_sub(u64::try_from(rest).unwrap_or(u64::MAX)))
    }

    /// Returns the number of downloads.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Reports whether there is no download.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Returns the time of the next completion; none if no download makes progress.
    pub fn next_completion(&mut self) -> Option<SimTime> {
        self.refresh();
        self.next
    }

    /// Lets time pass, and returns the downloads that are complete by then in order of time, then
    /// of node and layer.
    pub fn advance(&mut self, to: SimTime) -> Vec<(SimTime, Download)> {
        let mut complete = Vec::new();
        while let Some(next) = self.next_completion().filter(|next| *next <= to) {
            self.pass(next);
            for download in self.complete() {
                complete.push((next, download));
            }
        }
        self.pass(to);
        complete
    }

    /// Removes the downloads whose target is reached, and returns them in order.
    fn complete(&mut self) -> BTreeSet<Download> {
        let reached = |group: &Group| -> Vec<Download> {
            let targets = group.targets.iter();
            targets.take_while(|(t, _)| *t <= group.received).map(|(_, d)| *d).collect()
        };
        let complete: BTreeSet<Download> = self.groups.values().flat_map(reached).collect();
        for download in &complete {
            if let Some(route) = self.remove(*download) {
                self.drop_empty_group(route.registry, download.node);
            }
        }
        complete
    }

    fn remove(&mut self, download: Download) -> Option<Route> {
        let route = self.routes.remove(&download)?;
        if let Some(group) = self.groups.get_mut(&(route.registry, download.node)) {
            group.targets.remove(&(route.target, download));
        }
        self.is_stale = true;
        Some(route)
    }

    fn drop_empty_group(&mut self, registry: RegistryId, node: NodeId) {
        let key = (registry, node);
        if self.groups.get(&key).is_some_and(|group| group.targets.is_empty()) {
            self.groups.remove(&key);
        }
    }

    /// Adds what the downloads receive until a time.
    fn pass(&mut self, to: SimTime) {
        if to <= self.now {
            return;
        }
        self.refresh();
        let elapsed = u128::from(micros(to.since(self.now)));
        for group in self.groups.values_mut() {
            let more = u128::from(group.rate).saturating_mul(elapsed);
            group.received = group.received.saturating_add(more);
        }
        self.now = to;
    }

    /// Computes the rates and the next completion if downloads started or ended.
    fn refresh(&mut self) {
        if !self.is_stale {
            return;
        }
        self.is_stale = false;
        let (capacities, demands) = self.demands();
        let rates = fair_rates(&capacities, &demands);
        for (group, rate) in self.groups.values_mut().zip(rates) {
            group.rate = rate;
        }
        let now = self.now;
        self.next = self.groups.values().filter_map(|group| group.next_completion(now)).min();
    }

    /// Returns the capacities of all links in use, and the demand of each group in their order.
    fn demands(&self) -> (Vec<u64>, Vec<Demand>) {
        let mut capacities = Vec::new();
        let mut add = |bytes: Option<&u64>| {
            capacities.push(bytes.copied().unwrap_or_default().saturating_mul(MILLIS_PER_BYTE));
            capacities.len().saturating_sub(1)
        };
        let mut node_links: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut registry_links: BTreeMap<RegistryId, usize> = BTreeMap::new();
        let mut demands = Vec::with_capacity(self.groups.len());
        for ((registry, node), group) in &self.groups {
            let from = *registry_links
                .entry(*registry)
                .or_insert_with(|| add(self.registries.get(registry)));
            let to = *node_links.entry(*node).or_insert_with(|| add(self.nodes.get(node)));
            let flows = u64::try_from(group.targets.len()).unwrap_or(u64::MAX);
            demands.push(Demand { links: [from, to], flows });
        }
        (capacities, demands)
    }
}

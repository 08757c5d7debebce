//! Max-min fair rates by progressive filling.
//!
//! The link that offers the least to each of its open flows is a bottleneck: its flows get that
//! rate and are closed, and what they use is taken from their other link. The share that a link
//! offers never decreases by that, so a heap with outdated shares suffices: a link whose share has
//! grown is put back. For `G` demands and `L` links the cost is `O((G + L) log L)`.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Flows with the same links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    /// Indexes of the two links.
    pub(super) links: [usize; 2],
    /// Number of flows.
    pub(super) flows: u64,
}

/// Link while rates are assigned.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// Capacity that is not assigned yet.
    rest: u64,
    /// Number of flows without a rate.
    open: u64,
    /// First entry of the list of demands over this link.
    head: Option<Entry>,
}

/// Entry of a link's list: the demand, and which of its two links this is.
#[derive(Debug, Clone, Copy)]
struct Entry {
    demand: usize,
    side: usize,
}

impl Link {
    /// Returns the share of each open flow; none if all have a rate.
    fn share(&self) -> Option<u64> {
        self.rest.checked_div(self.open)
    }
}

/// Returns the max-min fair rate of each flow of each demand, in the unit of the capacities, rounded
/// down. A demand over a link that does not exist has the rate 0.
pub(super) fn fair_rates(capacities: &[u64], demands: &[Demand]) -> Vec<u64> {
    let (mut links, next) = lists(capacities, demands);
    let mut heap: BinaryHeap<Reverse<(u64, usize)>> = links
        .iter()
        .enumerate()
        .filter_map(|(index, link)| Some(Reverse((link.share()?, index))))
        .collect();
    let mut rates: Vec<Option<u64>> = vec![None; demands.len()];
    while let Some(Reverse((share, index))) = heap.pop() {
        let Some(current) = links.get(index).and_then(Link::share) else {
            continue;
        };
        if current > share {
            heap.push(Reverse((current, index)));
            continue;
        }
        let mut entry = links.get(index).and_then(|link| link.head);
        while let Some(at) = entry {
            entry = next.get(at.demand).and_then(|sides| *sides.get(at.side)?);
            let (Some(demand), Some(rate)) = (demands.get(at.demand), rates.get_mut(at.demand))
            else {
                continue;
            };
            if rate.is_none() {
                *rate = Some(share);
                close(&mut links, demand, share);
            }
        }
    }
    rates.into_iter().map(Option::unwrap_or_default).collect()
}

/// Returns the links, and for each demand the next entry in the lists of its two links.
fn lists(capacities: &[u64], demands: &[Demand]) -> (Vec<Link>, Vec<[Option<Entry>; 2]>) {
    let mut links: Vec<Link> =
        capacities.iter().map(|rest| Link { rest: *rest, open: 0, head: None }).collect();
    let mut next = vec![[None; 2]; demands.len()];
    let complete = |demand: &Demand| demand.links.iter().all(|index| *index < capacities.len());
    for (index, demand) in demands.iter().enumerate().filter(|(_, demand)| complete(demand)) {
        for (side, link) in demand.links.iter().enumerate() {
            let place = next.get_mut(index).and_then(|sides| sides.get_mut(side));
            if let (Some(link), Some(place)) = (links.get_mut(*link), place) {
                link.open = link.open.saturating_add(demand.flows);
                *place = link.head.replace(Entry { demand: index, side });
            }
        }
    }
    (links, next)
}

/// Takes the flows of a demand from its links.
fn close(links: &mut [Link], demand: &Demand, rate: u64) {
    for index in demand.links {
        if let Some(link) = links.get_mut(index) {
            link.rest = link.rest.saturating_sub(rate.saturating_mul(demand.flows));
            link.open = link.open.saturating_sub(demand.flows);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(from: usize, to: usize, flows: u64) -> Demand {
        Demand { links: [from, to], flows }
    }

    #[test]
    fn flows_over_one_link_get_equal_rates() {
        let demands = [demand(0, 1, 2), demand(0, 2, 3)];
        assert_eq!(fair_rates(&[100, 1_000, 1_000], &demands), [20, 20]);
    }

    #[test]
    fn what_a_slow_node_leaves_goes_to_the_others() {
        let demands = [demand(0, 1, 1), demand(0, 2, 1), demand(0, 3, 1)];
        assert_eq!(fair_rates(&[100, 10, 1_000, 1_000], &demands), [10, 45, 45]);
    }

    #[test]
    fn a_fast_node_uses_what_a_slow_registry_leaves() {
        let demands = [demand(0, 2, 1), demand(1, 2, 1)];
        assert_eq!(fair_rates(&[10, 1_000, 100], &demands), [10, 90]);
    }

    #[test]
    fn a_link_without_capacity_or_existence_gives_no_rate() {
        let demands = [demand(0, 1, 1), demand(0, 7, 1)];
        assert_eq!(fair_rates(&[0, 10], &demands), [0, 0]);
        assert_eq!(fair_rates(&[10, 10], &demands), [10, 0]);
        assert!(fair_rates(&[], &[]).is_empty());
    }

    fn cases() -> impl Strategy<Value = (Vec<u64>, Vec<Demand>)> {
        let registries = proptest::collection::vec(0..10_000_u64, 1..4);
        let nodes = proptest::collection::vec(0..10_000_u64, 1..8);
        (registries, nodes).prop_flat_map(|(registries, nodes)| {
            let first = registries.len();
            let count = nodes.len();
            let one = (0..first, 0..count, 1..6_u64)
                .prop_map(move |(from, to, flows)| demand(from, first + to, flows));
            (Just([registries, nodes].concat()), proptest::collection::vec(one, 0..20))
        })
    }

    fn load(demands: &[Demand], rates: &[u64], link: usize) -> u64 {
        let over = demands.iter().zip(rates).filter(|(demand, _)| demand.links.contains(&link));
        over.map(|(demand, rate)| demand.flows * rate).sum()
    }

    proptest! {
        #[test]
        fn no_link_carries_more_than_its_capacity((capacities, demands) in cases()) {
            let rates = fair_rates(&capacities, &demands);
            for (link, capacity) in capacities.iter().enumerate() {
                prop_assert!(load(&demands, &rates, link) <= *capacity);
            }
        }

        /// Each flow has a bottleneck: a link that is full up to rounding, and on which no flow is
        /// faster.
        #[test]
        fn each_flow_has_a_bottleneck((capacities, demands) in cases()) {
            let rates = fair_rates(&capacities, &demands);
            for (demand, rate) in demands.iter().zip(&rates) {
                let is_bottleneck = |link: &usize| {
                    let over = demands.iter().zip(&rates).filter(|(d, _)| d.links.contains(link));
                    let (mut flows, mut fastest) = (0, 0);
                    for (other, rate) in over {
                        flows += other.flows;
                        fastest = fastest.max(*rate);
                    }
                    capacities[*link] - load(&demands, &rates, *link) < flows && *rate >= fastest
                };
                prop_assert!(demand.links.iter().any(is_bottleneck), "{demands:?} {rates:?}");
            }
        }

        #[test]
        fn rates_do_not_depend_on_the_order((capacities, demands) in cases()) {
            let rates = fair_rates(&capacities, &demands);
            let reversed: Vec<Demand> = demands.iter().rev().copied().collect();
            let mut others = fair_rates(&capacities, &reversed);
            others.reverse();
            prop_assert_eq!(rates, others);
        }
    }
}

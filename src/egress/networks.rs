//! Sets of IP networks. Pure: no client, no clock, no I/O.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Maximum number of networks in a set. A cluster of 5,000 nodes with two addresses each in
/// scattered networks has 10,000. At 18 bytes per network, a full set takes 360 kB.
const MAX_NETWORKS: usize = 20_000;
/// Number of bits by which the networks of a set that is too large are widened in each step.
const WIDEN_BITS: u8 = 4;

/// Set of addresses as disjoint networks in ascending order, IPv4 before IPv6.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NetworkSet(Vec<IpNet>);

impl NetworkSet {
    /// Creates a set and joins networks that overlap or adjoin. A set of more than 20,000 networks
    /// is widened until it is smaller: then it covers more addresses, never fewer.
    #[must_use]
    pub(crate) fn new(networks: &[IpNet]) -> Self {
        Self::bounded(networks, MAX_NETWORKS)
    }

    fn bounded(networks: &[IpNet], most: usize) -> Self {
        let mut joined = IpNet::aggregate(&networks.iter().map(IpNet::trunc).collect());
        while joined.len() > most {
            joined = IpNet::aggregate(&joined.iter().map(widened).collect());
        }
        joined.sort_unstable();
        Self(joined)
    }

    /// Reports whether the set contains the address, in logarithmic time.
    #[must_use]
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let after = self.0.partition_point(|network| network.network() <= address);
        after
            .checked_sub(1)
            .and_then(|index| self.0.get(index))
            .is_some_and(|network| network.contains(&address))
    }

    /// Returns the number of networks in the set.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Reports whether the set is empty.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn widened(network: &IpNet) -> IpNet {
    let length = network.prefix_len().saturating_sub(WIDEN_BITS);
    match network {
        IpNet::V4(network) => Ipv4Net::new(network.addr(), length)
            .map_or((*network).into(), |wide| wide.trunc().into()),
        IpNet::V6(network) => Ipv6Net::new(network.addr(), length)
            .map_or((*network).into(), |wide| wide.trunc().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(networks: &[&str]) -> NetworkSet {
        NetworkSet::new(&networks.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    fn has(set: &NetworkSet, address: &str) -> bool {
        set.contains(address.parse().unwrap())
    }

    #[test]
    fn contains_what_its_networks_contain() {
        let set =
            set(&["10.0.1.7/24", "10.0.0.0/24", "192.0.2.9/32", "2001:db8::/64", "10.0.0.128/25"]);
        assert_eq!(set.len(), 3);
        for inside in ["10.0.0.0", "10.0.1.255", "192.0.2.9", "2001:db8::ffff"] {
            assert!(has(&set, inside), "{inside}");
        }
        for outside in
            ["9.255.255.255", "10.0.2.0", "192.0.2.8", "192.0.2.10", "2001:db8:0:1::", "::"]
        {
            assert!(!has(&set, outside), "{outside}");
        }
        assert!(!has(&NetworkSet::default(), "10.0.0.0"));
    }

    #[test]
    fn large_set_is_widened_and_keeps_all_addresses() {
        let addresses: Vec<IpNet> = (0..1000_u32)
            .map(|n| IpNet::from(IpAddr::from((0x0B00_0000 + n * 1024).to_be_bytes())))
            .collect();
        let set = NetworkSet::bounded(&addresses, 100);
        assert!(set.len() <= 100, "{}", set.len());
        assert!(addresses.iter().all(|address| set.contains(address.addr())));
        assert!(!has(&set, "93.184.216.34"));
    }

    proptest::proptest! {
        #[test]
        fn contains_agrees_with_linear_search(
            networks in proptest::collection::vec((0_u32..0xFFFF, 16_u8..=32), 0..40),
            address in 0_u32..0xFFFF,
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(bits, length)| Ipv4Net::new(bits.to_be_bytes().into(), length).unwrap().into())
                .collect();
            let address = IpAddr::from(address.to_be_bytes());
            let expected = networks.iter().any(|network| network.contains(&address));
            proptest::prop_assert_eq!(NetworkSet::new(&networks).contains(address), expected);
        }
    }
}

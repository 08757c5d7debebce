//! Sets of addresses. *Pure.*

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The most networks that a set keeps. A cluster of 5,000 nodes with two addresses each in scattered networks has 10,000;
/// at 18 bytes for each network, a full set takes 360 kB.
const MAX_NETWORKS: usize = 20_000;
/// By how many bits the networks of a set that is too large are widened, until it is small enough.
const WIDEN_BITS: u8 = 4;

/// A set of addresses as disjoint networks in ascending order, IPv4 before IPv6.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Joins networks that overlap or adjoin. A set of more than 20,000 networks is widened until it is smaller: it covers
    /// more addresses then, never fewer.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
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

    /// Whether the set has the address. Takes time by the logarithm of the set's size.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let after = self.0.partition_point(|network| network.network() <= address);
        after.checked_sub(1).and_then(|index| self.0.get(index)).is_some_and(|network| network.contains(&address))
    }

    /// How many networks the set has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set has no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn widened(network: &IpNet) -> IpNet {
    let length = network.prefix_len().saturating_sub(WIDEN_BITS);
    match network {
        IpNet::V4(network) => {
            Ipv4Net::new(network.addr(), length).map_or((*network).into(), |wide| wide.trunc().into())
        }
        IpNet::V6(network) => {
            Ipv6Net::new(network.addr(), length).map_or((*network).into(), |wide| wide.trunc().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(networks: &[&str]) -> Networks {
        Networks::new(&networks.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    fn has(set: &Networks, address: &str) -> bool {
        set.contains(address.parse().unwrap())
    }

    #[test]
    fn contains_what_its_networks_contain() {
        let set = set(&["10.0.1.7/24", "10.0.0.0/24", "192.0.2.9/32", "2001:db8::/64", "10.0.0.128/25"]);
        assert_eq!(set.len(), 3);
        for inside in ["10.0.0.0", "10.0.1.255", "192.0.2.9", "2001:db8::ffff"] {
            assert!(has(&set, inside), "{inside}");
        }
        for outside in ["9.255.255.255", "10.0.2.0", "192.0.2.8", "192.0.2.10", "2001:db8:0:1::", "::"] {
            assert!(!has(&set, outside), "{outside}");
        }
        assert!(!has(&Networks::default(), "10.0.0.0"));
    }

    #[test]
    fn a_large_set_is_widened_and_loses_nothing() {
        let addresses: Vec<IpNet> =
            (0..1000_u32).map(|n| IpNet::from(IpAddr::from((0x0B00_0000 + n * 1024).to_be_bytes()))).collect();
        let set = Networks::bounded(&addresses, 100);
        assert!(set.len() <= 100, "{}", set.len());
        assert!(addresses.iter().all(|address| set.contains(address.addr())));
        assert!(!has(&set, "93.184.216.34"));
    }

    proptest::proptest! {
        #[test]
        fn is_what_a_search_of_all_would_find(
            networks in proptest::collection::vec((0_u32..0xFFFF, 16_u8..=32), 0..40),
            address in 0_u32..0xFFFF,
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(bits, length)| Ipv4Net::new(bits.to_be_bytes().into(), length).unwrap().into())
                .collect();
            let address = IpAddr::from(address.to_be_bytes());
            let expected = networks.iter().any(|network| network.contains(&address));
            proptest::prop_assert_eq!(Networks::new(&networks).contains(address), expected);
        }
    }
}

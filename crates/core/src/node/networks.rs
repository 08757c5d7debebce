//! Networks of nodes and their pods.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Shortest accepted prefix lengths of pod and Service networks, for IPv4 and IPv6. A wider network
/// is a configuration error that would deny half of the internet.
const MIN_PREFIX_LENGTHS: (u8, u8) = (8, 16);
/// Prefix length of an IPv6 subnet. Where pods get addresses from the node's own subnet (EKS with
/// IPv6), nodes have no `podCIDRs`, and this network covers their pods.
const SUBNET_PREFIX_V6: u8 = 64;

/// Returns the networks of a node and its pods from `status.addresses`, without host names, and
/// from `spec.podCIDRs`.
pub fn node_networks<'a>(
    addresses: impl IntoIterator<Item = &'a str>,
    pod_cidrs: impl IntoIterator<Item = &'a str>,
) -> Vec<IpNet> {
    let own =
        addresses.into_iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(address_network);
    let pods =
        pod_cidrs.into_iter().filter_map(|text| text.parse::<IpNet>().ok()).filter(is_plausible);
    own.chain(pods).collect()
}

fn address_network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => IpNet::from(IpAddr::V4(address)),
        IpAddr::V6(address) => {
            enclosing_network(IpAddr::V6(address), SUBNET_PREFIX_V6, SUBNET_PREFIX_V6)
        }
    }
}

/// Returns the network around an address, with the prefix length of its family.
#[must_use]
pub fn enclosing_network(address: IpAddr, v4: u8, v6: u8) -> IpNet {
    let network = match address {
        IpAddr::V4(address) => Ipv4Net::new(address, v4).map(|network| network.trunc().into()),
        IpAddr::V6(address) => Ipv6Net::new(address, v6).map(|network| network.trunc().into()),
    };
    network.unwrap_or_else(|_| address.into())
}

/// Reports whether the network is not implausibly wide.
#[must_use]
pub fn is_plausible(network: &IpNet) -> bool {
    let widest = if network.addr().is_ipv4() { MIN_PREFIX_LENGTHS.0 } else { MIN_PREFIX_LENGTHS.1 };
    network.prefix_len() >= widest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_networks_contain_addresses_and_pod_cidrs() {
        let addresses =
            ["198.51.100.7", "2a05:d018:1:2::17", "::ffff:198.51.100.8", "node-1.example.com"];
        let found = node_networks(
            addresses,
            ["203.0.113.0/24", "2a05:d018:9::/56", "0.0.0.0/0", "2000::/3", "none"],
        );
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "198.51.100.7/32",
                "2a05:d018:1:2::/64",
                "198.51.100.8/32",
                "203.0.113.0/24",
                "2a05:d018:9::/56"
            ]
        );
    }
}

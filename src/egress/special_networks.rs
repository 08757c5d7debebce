//! Networks that are not part of the public internet, and addresses that embed others. Pure: no
//! client, no clock, no I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks of IANA's special-purpose registry of IPv4 (RFC 6890 and its successors) that are not
/// part of the public internet: this network, private, shared (CGNAT), loopback, link-local,
/// protocol assignments, documentation, 6to4 relays, benchmarking, multicast, reserved and
/// broadcast.
const SPECIAL_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// Only network of IPv6 that is assigned to the public internet.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Special-purpose networks within [`PUBLIC_V6`]: protocol assignments with Teredo, documentation,
/// and 6to4 (whose addresses embed an IPv4 address).
const SPECIAL_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];
/// Networks of services that provide credentials and configuration to cloud machines: link-local
/// (AWS, Azure, GCP, `OpenStack`; AWS' pod identity), Azure's `WireServer` (a public address that
/// only machines inside reach), Alibaba, Oracle, AWS by IPv6, GCP by IPv6.
const METADATA_V4: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(192, 0, 0, 192), 32),
];
const METADATA_V6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0), 32),
];
/// Prefixes whose addresses embed an IPv4 address in their last 32 bits: NAT64 (RFC 6052) and its
/// local form (RFC 8215).
const IPV4_EMBEDDING_PREFIXES: [(Ipv6Addr, u8); 2] = [
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
];

/// Reports whether an address belongs to the public internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => SPECIAL_V4
            .iter()
            .all(|(network, length)| !Ipv4Net::new_assert(*network, *length).contains(&address)),
        IpAddr::V6(address) => {
            let within = |(network, length): (Ipv6Addr, u8)| {
                Ipv6Net::new_assert(network, length).contains(&address)
            };
            within(PUBLIC_V6) && !SPECIAL_V6.into_iter().any(within)
        }
    }
}

/// Returns the network of metadata services that contains the address, if there is one.
pub(super) fn metadata_network(address: IpAddr) -> Option<IpNet> {
    let v4 = METADATA_V4
        .iter()
        .map(|(network, length)| IpNet::from(Ipv4Net::new_assert(*network, *length)));
    let v6 = METADATA_V6
        .iter()
        .map(|(network, length)| IpNet::from(Ipv6Net::new_assert(*network, *length)));
    v4.chain(v6).find(|network| network.contains(&address))
}

/// Returns the IPv4 address embedded in an IPv6 address, to which a gateway translates it.
pub(super) fn embedded_ipv4(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let bits = address.to_bits();
    let last = |bits: u128| {
        u32::try_from(bits & u128::from(u32::MAX)).map(Ipv4Addr::from_bits).ok().map(IpAddr::V4)
    };
    // The IPv4-compatible form, except the unspecified and the loopback address.
    if bits >> 32 == 0 && bits > 1 {
        return last(bits);
    }
    if IPV4_EMBEDDING_PREFIXES
        .iter()
        .any(|(network, length)| Ipv6Net::new_assert(*network, *length).contains(&address))
    {
        return last(bits);
    }
    // 6to4 embeds the IPv4 address after the first 16 bits.
    (bits >> 112 == 0x2002).then(|| last(bits >> 80)).flatten()
}

//! Decision whether an address may be connected to. Pure: no client, no clock, no I/O.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::Url;

use super::ClusterNetworks;

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
/// Default ports of notifications: HTTP, HTTPS and the usual second port of HTTPS.
pub(crate) const DEFAULT_PORTS: &str = "80,443,8443";
/// Suffixes of names that only the cluster's own DNS resolves, or that mean this machine.
const CLUSTER_DOMAINS: [&str; 7] =
    ["svc", "cluster.local", "local", "localhost", "internal", "localdomain", "home.arpa"];

/// Reason why an address may not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Link-local address or metadata service of a cloud. Most of these services are link-local.
    #[error(
        "{0} is not an address of the public internet: it is link-local or a metadata service of a cloud"
    )]
    Metadata(IpAddr),
    /// Address within a network of `--egress-deny`.
    #[error("{0} is denied by --egress-deny")]
    Configured(IpAddr),
    /// Address of the cluster.
    #[error("{0} is an address of the cluster's own nodes, pods or Services{1}")]
    Cluster(IpAddr, AllowFlag),
    /// Address outside the public internet.
    #[error("{0} is not an address of the public internet{1}")]
    NotPublic(IpAddr, AllowFlag),
    /// Name inside the cluster that resolves to an address which no setting allows.
    #[error("{0} is a name inside the cluster, not on the public internet{1}")]
    ClusterName(String, AllowFlag),
    /// Port not allowed for notifications.
    #[error("port {0} is not allowed (--notify-ports)")]
    Port(u16),
    /// URL without a host.
    #[error("the URL has no host")]
    NoHost,
}

/// Name of the flag that can allow an address, for messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AllowFlag(Option<&'static str>);

impl fmt::Display for AllowFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, ", and {name} does not allow it"),
            None => Ok(()),
        }
    }
}

/// Set of ports that may be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// Reports whether the set contains the port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self(vec![80..=80, 443..=443, 8443..=8443])
    }
}

/// Text that is not a set of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected ports and ranges of ports, such as 443,8000-8999")]
pub struct PortSetError;

impl FromStr for PortSet {
    type Err = PortSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let range = |item: &str| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some(port(first)?..=port(last)?).filter(|range| !range.is_empty())
        };
        let ranges: Option<Vec<_>> = prewarmer_core::comma_separated(text).map(range).collect();
        let ranges = ranges.filter(|ranges| !ranges.is_empty());
        ranges.map(Self).ok_or(PortSetError)
    }
}

/// Egress policy: decides which addresses may be connected to. Clones share it.
///
/// The rules apply in this order. Networks of `--egress-deny` are denied. Metadata services are
/// denied, unless the allow list contains a network within theirs. Networks of the allow list are
/// allowed. The cluster's own addresses and all addresses outside the public internet are denied.
#[derive(Debug, Clone, Default)]
pub struct EgressPolicy(Arc<EgressRules>);

#[derive(Debug, Default)]
struct EgressRules {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    setting: AllowFlag,
    ports: Option<PortSet>,
    cluster: ClusterNetworks,
    unrestricted: bool,
}

impl EgressPolicy {
    /// Creates a policy that allows every address, for addresses that only the operator can choose.
    #[must_use]
    pub fn unrestricted() -> Self {
        Self(Arc::new(EgressRules { unrestricted: true, ..EgressRules::default() }))
    }

    /// Creates a policy that allows the public internet without the addresses of the cluster.
    #[must_use]
    pub fn new(denied: Vec<IpNet>, cluster: ClusterNetworks) -> Self {
        Self(Arc::new(EgressRules { denied, cluster, ..EgressRules::default() }))
    }

    /// Returns the policy with these networks allowed. `setting` is the flag that lists them, for
    /// messages.
    #[must_use]
    pub fn with_allowed(&self, allowed: Vec<IpNet>, setting: &'static str) -> Self {
        let EgressRules { denied, ports, cluster, unrestricted, .. } = &*self.0;
        let (denied, ports, cluster) = (denied.clone(), ports.clone(), cluster.clone());
        let setting = AllowFlag(Some(setting));
        Self(Arc::new(EgressRules {
            allowed,
            denied,
            setting,
            ports,
            cluster,
            unrestricted: *unrestricted,
        }))
    }

    /// Returns the policy restricted to these ports.
    #[must_use]
    pub fn with_ports(&self, ports: PortSet) -> Self {
        let EgressRules { allowed, denied, setting, cluster, unrestricted, .. } = &*self.0;
        let (allowed, denied, cluster) = (allowed.clone(), denied.clone(), cluster.clone());
        let ports = Some(ports);
        Self(Arc::new(EgressRules {
            allowed,
            denied,
            setting: *setting,
            ports,
            cluster,
            unrestricted: *unrestricted,
        }))
    }

    /// Returns the policy without the allow list, so that only the public internet is allowed.
    #[must_use]
    pub fn public_only(&self) -> Self {
        Self::new(self.0.denied.clone(), self.0.cluster.clone())
    }

    /// Checks whether an address may be connected to. Returns the reason if it is denied.
    pub fn check(&self, address: IpAddr) -> Result<(), Denied> {
        if self.0.unrestricted {
            return Ok(());
        }
        // An IPv4-mapped IPv6 address reaches the same host as the IPv4 address.
        let address = address.to_canonical();
        self.check_single(address)?;
        // A gateway translates such addresses to IPv4: both addresses must be allowed.
        match embedded_ipv4(address) {
            Some(carried) => self.check_single(carried),
            None => Ok(()),
        }
    }

    fn check_single(&self, address: IpAddr) -> Result<(), Denied> {
        let inner = &*self.0;
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        if within(&inner.denied) {
            return Err(Denied::Configured(address));
        }
        if let Some(metadata) = metadata_network(address) {
            let named = inner
                .allowed
                .iter()
                .any(|allowed| metadata.contains(allowed) && allowed.contains(&address));
            return if named { Ok(()) } else { Err(Denied::Metadata(address)) };
        }
        if within(&inner.allowed) {
            return Ok(());
        }
        if !is_public(address) {
            return Err(Denied::NotPublic(address, inner.setting));
        }
        if inner.cluster.contains(address) {
            return Err(Denied::Cluster(address, inner.setting));
        }
        Ok(())
    }

    /// Checks whether an address may be connected to that a name has resolved to. A name inside the
    /// cluster may only resolve to networks of the allow list: its public addresses, if it has any,
    /// are the load balancers of the cluster. Returns the reason if it is denied.
    pub fn check_resolved(&self, name: &str, address: IpAddr) -> Result<(), Denied> {
        self.check(address)?;
        let canonical = address.to_canonical();
        if !self.0.unrestricted
            && is_cluster_name(name)
            && !self.0.allowed.iter().any(|network| network.contains(&canonical))
        {
            return Err(Denied::ClusterName(name.to_owned(), self.0.setting));
        }
        Ok(())
    }

    /// Checks a URL without resolving its name. Returns the reason if it is denied.
    pub fn check_url(&self, url: &Url) -> Result<(), Denied> {
        if let (Some(ports), Some(port)) = (&self.0.ports, url.port_or_known_default())
            && !ports.contains(port)
        {
            return Err(Denied::Port(port));
        }
        let host = normalized_host(url).ok_or(Denied::NoHost)?;
        match host.parse::<IpAddr>() {
            Ok(address) => self.check(address),
            // With an allow list, the resolved addresses decide.
            Err(_) if is_cluster_name(&host) && self.0.allowed.is_empty() => {
                Err(Denied::ClusterName(host, self.0.setting))
            }
            Err(_) => Ok(()),
        }
    }
}

/// Returns the host of a URL in lower case, without brackets and without a trailing dot.
fn normalized_host(url: &Url) -> Option<String> {
    let host = url.host_str()?.trim_matches(['[', ']']).trim_end_matches('.').to_lowercase();
    (!host.is_empty()).then_some(host)
}

/// Reports whether only the cluster's DNS or this machine can resolve a name: one with a single
/// label, or one under a domain that is not on the internet.
#[must_use]
pub(crate) fn is_cluster_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_lowercase();
    let under = |domain: &&str| {
        name.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // Matches `name.namespace.svc.DOMAIN` with any cluster domain.
    !name.contains('.') || CLUSTER_DOMAINS.iter().any(under) || name.contains(".svc.")
}

fn is_public(address: IpAddr) -> bool {
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
fn metadata_network(address: IpAddr) -> Option<IpNet> {
    let v4 = METADATA_V4
        .iter()
        .map(|(network, length)| IpNet::from(Ipv4Net::new_assert(*network, *length)));
    let v6 = METADATA_V6
        .iter()
        .map(|(network, length)| IpNet::from(Ipv6Net::new_assert(*network, *length)));
    v4.chain(v6).find(|network| network.contains(&address))
}

/// Returns the IPv4 address embedded in an IPv6 address, to which a gateway translates it.
fn embedded_ipv4(address: IpAddr) -> Option<IpAddr> {
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn allowing(texts: &[&str]) -> EgressPolicy {
        EgressPolicy::default().with_allowed(nets(texts), "--notify-allow")
    }

    fn check(policy: &EgressPolicy, address: &str) -> Result<(), Denied> {
        policy.check(address.parse().unwrap())
    }

    #[rstest]
    #[case("93.184.216.34", true)]
    #[case("172.32.0.1", true)]
    #[case("::ffff:93.184.216.34", true)]
    #[case("2606:2800:220:1::1", true)]
    #[case::this_network("0.0.0.0", false)]
    #[case::private("10.1.2.3", false)]
    #[case::private("172.31.255.255", false)]
    #[case::private("192.168.0.1", false)]
    #[case::cgnat("100.64.0.1", false)]
    #[case::cgnat("100.127.255.255", false)]
    #[case::loopback("127.0.0.1", false)]
    #[case::loopback("127.1.2.3", false)]
    #[case::link_local("169.254.169.254", false)]
    #[case::aws_pod_identity("169.254.170.23", false)]
    #[case::azure("168.63.129.16", false)]
    #[case::azure_neighbour("168.63.129.17", true)]
    #[case::azure_mapped("::ffff:168.63.129.16", false)]
    #[case::alibaba("100.100.100.200", false)]
    #[case::oracle("192.0.0.192", false)]
    #[case::documentation("192.0.2.1", false)]
    #[case::documentation("203.0.113.1", false)]
    #[case::benchmarking("198.19.255.255", false)]
    #[case::multicast("224.0.0.1", false)]
    #[case::reserved("240.0.0.1", false)]
    #[case::broadcast("255.255.255.255", false)]
    #[case::loopback("::1", false)]
    #[case::unspecified("::", false)]
    #[case::mapped("::ffff:127.0.0.1", false)]
    #[case::compatible("::7f00:1", false)]
    #[case::nat64("64:ff9b::a9fe:a9fe", false)]
    #[case::nat64("64:ff9b::5db8:d822", false)]
    #[case::link_local("fe80::1", false)]
    #[case::site_local("fec0::1", false)]
    #[case::unique_local("fc00::1", false)]
    #[case::aws("fd00:ec2::254", false)]
    #[case::gcp("fd20:ce::254", false)]
    #[case::six_to_four("2002:7f00:1::", false)]
    #[case::teredo("2001:0:1::1", false)]
    #[case::documentation("2001:db8::1", false)]
    #[case::multicast("ff02::1", false)]
    fn default_policy_allows_only_public_addresses(#[case] address: &str, #[case] allowed: bool) {
        assert_eq!(check(&EgressPolicy::default(), address).is_ok(), allowed, "{address}");
    }

    #[test]
    fn allow_list_permits_its_networks_only() {
        let policy = allowing(&["10.0.0.0/8", "127.0.0.0/8"]);
        assert!(check(&policy, "10.1.2.3").is_ok() && check(&policy, "::ffff:127.0.0.1").is_ok());
        let denied = check(&policy, "192.168.0.1").unwrap_err().to_string();
        assert_eq!(
            denied,
            "192.168.0.1 is not an address of the public internet, and --notify-allow does not allow it"
        );
    }

    #[test]
    fn metadata_services_are_allowed_only_by_their_own_networks() {
        for address in ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254"] {
            let address: IpAddr = address.parse().unwrap();
            let wide = allowing(&["0.0.0.0/0", "::/0", "100.64.0.0/10", "fd00::/8"]);
            assert_eq!(wide.check(address), Err(Denied::Metadata(address)));
            let narrow =
                EgressPolicy::default().with_allowed(vec![address.into()], "--notify-allow");
            assert_eq!(narrow.check(address), Ok(()));
        }
    }

    #[test]
    fn embedded_ipv4_address_must_be_allowed_too() {
        let policy = allowing(&["64:ff9b::/96", "2002::/16"]);
        assert!(check(&policy, "64:ff9b::5db8:d822").is_ok(), "a public address behind NAT64");
        for inside in ["64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "2002:a00:1::", "2002:a83f:8110::1"]
        {
            assert!(check(&policy, inside).is_err(), "{inside}");
        }
    }

    #[test]
    fn the_loopback_address_of_ipv6_can_be_allowed() {
        assert!(check(&allowing(&["::1/128"]), "::1").is_ok());
    }

    #[test]
    fn deny_list_overrides_allow_list() {
        let policy = EgressPolicy::new(
            nets(&["10.9.0.0/16", "93.184.216.0/24"]),
            ClusterNetworks::default(),
        )
        .with_allowed(nets(&["10.0.0.0/8"]), "--notify-allow");
        assert!(check(&policy, "10.8.0.1").is_ok());
        assert_eq!(
            check(&policy, "10.9.0.1"),
            Err(Denied::Configured("10.9.0.1".parse().unwrap()))
        );
        assert!(
            check(&policy, "93.184.216.34").is_err() && check(&policy, "93.184.217.34").is_ok()
        );
    }

    #[test]
    fn the_clusters_own_public_addresses_are_denied() {
        let cluster = ClusterNetworks::default();
        let policy = EgressPolicy::new(Vec::new(), cluster.clone());
        assert!(check(&policy, "2a05:d018::17").is_ok());
        cluster.set_nodes(&nets(&["2a05:d018::/64", "93.184.216.34/32"]));
        assert!(matches!(check(&policy, "2a05:d018::17"), Err(Denied::Cluster(..))));
        assert!(matches!(check(&policy, "93.184.216.34"), Err(Denied::Cluster(..))));
        assert!(check(&policy, "2a05:d018:0:1::17").is_ok());
        let allowing = policy.with_allowed(nets(&["2a05:d018::/64"]), "--notify-allow");
        assert!(
            check(&allowing, "2a05:d018::17").is_ok()
                && check(&allowing.public_only(), "2a05:d018::17").is_err()
        );
    }

    #[rstest]
    #[case("http://hooks.example.com/x", true)]
    #[case("https://hooks.example.com:8443/x", true)]
    #[case("https://hooks.example.com:6443/x", false)]
    #[case("http://93.184.216.34:22/", false)]
    #[case("http://localhost/", false)]
    #[case("http://LOCALHOST./", false)]
    #[case("http://a.localhost/", false)]
    #[case("http://kubernetes/", false)]
    #[case("https://kubernetes.default.svc/", false)]
    #[case("https://kubernetes.default.svc./", false)]
    #[case("https://kubernetes.default.svc.corp.example/", false)]
    #[case("https://web.shop.svc.cluster.local/", false)]
    #[case("http://metadata.google.internal/", false)]
    #[case("http://svc.example.com/", true)]
    #[case("http://2130706433/", false)]
    #[case("http://0x7f.1/", false)]
    #[case("http://0177.0.0.1/", false)]
    #[case("http://[::ffff:a9fe:a9fe]/", false)]
    fn urls(#[case] text: &str, #[case] good: bool) {
        let policy = EgressPolicy::default().with_ports(PortSet::default());
        assert_eq!(policy.check_url(&text.parse().unwrap()).is_ok(), good, "{text}");
    }

    #[test]
    fn cluster_name_resolves_only_to_allowed_networks() {
        let policy = allowing(&["10.0.0.0/8"]);
        assert!(policy.check_url(&"http://web.shop.svc/".parse().unwrap()).is_ok());
        assert!(policy.check_resolved("web.shop.svc", "10.0.0.1".parse().unwrap()).is_ok());
        assert!(policy.check_resolved("web.shop.svc", "93.184.216.34".parse().unwrap()).is_err());
        assert!(policy.check_resolved("example.com", "93.184.216.34".parse().unwrap()).is_ok());
    }

    #[rstest]
    #[case("443", Some((443, 80)))]
    #[case(" 80 , 8000-8999 ", Some((8443, 443)))]
    #[case("1-65535", Some((1, 0)))]
    #[case("", None)]
    #[case("0", None)]
    #[case("9-1", None)]
    #[case("https", None)]
    #[case("70000", None)]
    fn ports(#[case] text: &str, #[case] expected: Option<(u16, u16)>) {
        let ports = text.parse::<PortSet>().ok();
        assert_eq!(ports.is_some(), expected.is_some());
        if let (Some(ports), Some((inside, outside))) = (ports, expected) {
            assert!(ports.contains(inside) && !ports.contains(outside));
        }
        assert_eq!(DEFAULT_PORTS.parse::<PortSet>().unwrap(), PortSet::default());
    }
}

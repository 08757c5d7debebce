//! Tests of the decisions of the policy.

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
        let narrow = EgressPolicy::default().with_allowed(vec![address.into()], "--notify-allow");
        assert_eq!(narrow.check(address), Ok(()));
    }
}

#[test]
fn embedded_ipv4_address_must_be_allowed_too() {
    let policy = allowing(&["64:ff9b::/96", "2002::/16"]);
    assert!(check(&policy, "64:ff9b::5db8:d822").is_ok(), "a public address behind NAT64");
    for inside in ["64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "2002:a00:1::", "2002:a83f:8110::1"] {
        assert!(check(&policy, inside).is_err(), "{inside}");
    }
}

#[test]
fn the_loopback_address_of_ipv6_can_be_allowed() {
    assert!(check(&allowing(&["::1/128"]), "::1").is_ok());
}

#[test]
fn deny_list_overrides_allow_list() {
    let policy =
        EgressPolicy::new(nets(&["10.9.0.0/16", "93.184.216.0/24"]), ClusterNetworks::default())
            .with_allowed(nets(&["10.0.0.0/8"]), "--notify-allow");
    assert!(check(&policy, "10.8.0.1").is_ok());
    assert_eq!(check(&policy, "10.9.0.1"), Err(Denied::Configured("10.9.0.1".parse().unwrap())));
    assert!(check(&policy, "93.184.216.34").is_err() && check(&policy, "93.184.217.34").is_ok());
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

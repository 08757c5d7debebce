//! Where a call comes from, where proxies stand between.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Proxies whose `X-Forwarded-For` is believed: no others by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

/// Hops that are looked at: more proxies than that stand behind one another nowhere.
const MAX_HOPS: usize = 20;

impl Proxies {
    /// Proxies in these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether the address is that of a trusted proxy.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of the caller behind the proxies: of those that `X-Forwarded-For` names, the last that is no trusted
    /// proxy. What stands before it was written by the caller and may be anything.
    #[must_use]
    pub fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut caller = peer.to_canonical();
        if !self.has(caller) {
            return caller;
        }
        let all: Vec<&str> =
            headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
        for hop in all.iter().rev().flat_map(|value| value.rsplit(',')).take(MAX_HOPS) {
            // An address that cannot be read was put there by the last one that could: that is as far as is known.
            let Some(address) = address(hop) else { break };
            caller = address.to_canonical();
            if !self.has(caller) {
                break;
            }
        }
        caller
    }
}

/// An address, as proxies write it: some add the port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    // Not from a proxy: whatever the header says.
    #[case("203.0.113.9", &["198.51.100.1"], "203.0.113.9")]
    #[case("10.1.2.3", &["198.51.100.1"], "198.51.100.1")]
    #[case("10.1.2.3", &["192.0.2.1, 198.51.100.1"], "198.51.100.1")]
    #[case("10.1.2.3", &["192.0.2.1, 198.51.100.1, 10.9.9.9"], "198.51.100.1")]
    #[case("10.1.2.3", &["192.0.2.1", "198.51.100.1,10.9.9.9"], "198.51.100.1")]
    #[case("10.1.2.3", &["10.4.4.4, 10.9.9.9"], "10.4.4.4")]
    #[case("10.1.2.3", &["198.51.100.1:4711"], "198.51.100.1")]
    #[case("10.1.2.3", &["[2001:db8::1]:4711"], "2001:db8::1")]
    #[case("10.1.2.3", &["2001:db8::1"], "2001:db8::1")]
    #[case("10.1.2.3", &["[2001:db8::1]"], "2001:db8::1")]
    #[case("::ffff:10.1.2.3", &["198.51.100.1"], "198.51.100.1")]
    #[case("10.1.2.3", &["198.51.100.1, nonsense"], "10.1.2.3")]
    #[case("10.1.2.3", &["198.51.100.1, nonsense, 10.9.9.9"], "10.9.9.9")]
    #[case("10.1.2.3", &[""], "10.1.2.3")]
    #[case("10.1.2.3", &[], "10.1.2.3")]
    fn behind_proxies(#[case] peer: &str, #[case] values: &[&'static str], #[case] expected: &str) {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        assert_eq!(proxies.caller(peer.parse().unwrap(), &headers), expected.parse::<IpAddr>().unwrap());
        let none = Proxies::default();
        assert_eq!(none.caller(peer.parse().unwrap(), &headers), peer.parse::<IpAddr>().unwrap().to_canonical());
    }
}

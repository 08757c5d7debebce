//! Client addresses of requests that pass through trusted proxies.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Trusted proxies, whose `X-Forwarded-For` header is used. Default: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// Maximum number of hops that are evaluated; real chains of proxies are shorter.
const MAX_HOPS: usize = 20;

impl TrustedProxies {
    /// Trusts the proxies in these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Reports whether the address belongs to a trusted proxy.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns the client address behind the proxies: the last address in `X-Forwarded-For` that is
    /// not a trusted proxy. Entries before it were written by the client and cannot be trusted.
    #[must_use]
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut caller = peer.to_canonical();
        if !self.contains(caller) {
            return caller;
        }
        let all: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        for hop in all.iter().rev().flat_map(|value| value.rsplit(',')).take(MAX_HOPS) {
            // The previous hop wrote an entry that is not an address: the chain is known only up to
            // that hop.
            let Some(address) = parse_address(hop) else { break };
            caller = address.to_canonical();
            if !self.contains(caller) {
                break;
            }
        }
        caller
    }
}

/// Parses an address as proxies write it; some add the port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    // The peer is not a proxy: the header is ignored.
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
    fn client_address_behind_proxies(
        #[case] peer: &str,
        #[case] values: &[&'static str],
        #[case] expected: &str,
    ) {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        assert_eq!(
            proxies.client_address(peer.parse().unwrap(), &headers),
            expected.parse::<IpAddr>().unwrap()
        );
        let none = TrustedProxies::default();
        assert_eq!(
            none.client_address(peer.parse().unwrap(), &headers),
            peer.parse::<IpAddr>().unwrap().to_canonical()
        );
    }
}

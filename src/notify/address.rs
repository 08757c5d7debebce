//! Which addresses may be told. *Pure*, but for the look-up of names.
//!
//! A task's author chooses the address and we connect to it from inside the
//! cluster: without a guard that would reach what the author cannot, such as a
//! cloud's metadata service.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Of the special-purpose registry of IANA (RFC 6890 and what came after), all that is not the public internet.
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
/// The only part of IPv6 that is given out to the public internet, and what of it is special: Teredo and others of
/// `2001::/23`, documentation, 6to4 (whose addresses carry an IPv4 one).
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const SPECIAL_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    SPECIAL_V4.iter().all(|(net, length)| !Ipv4Net::new_assert(*net, *length).contains(&address))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let within = |(net, length): (Ipv6Addr, u8)| Ipv6Net::new_assert(net, length).contains(&address);
    within(PUBLIC_V6) && !SPECIAL_V6.into_iter().any(within)
}

/// Says which addresses may be told. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
}

impl Guard {
    /// Besides the public internet, these.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Whether that address may be connected to.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        // An IPv4 address in the clothes of an IPv6 one reaches what it reaches.
        let address = address.to_canonical();
        let public = match address {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => is_public_v6(address),
        };
        public || self.allowed.iter().any(|net| net.contains(&address))
    }

    /// What can be said of an address without looking its name up. The error says what was wrong.
    pub fn check(&self, text: &str) -> Result<Url, String> {
        let url: Url = text.parse().map_err(|error| format!("this is no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("expected http or https".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("names a user or a password: sign messages with secretRef instead".into());
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.').to_lowercase();
        let literal: Option<IpAddr> = host.parse().ok();
        let local = host == "localhost" || host.ends_with(".localhost");
        let refused = match literal {
            Some(address) => !self.permits(address),
            None => local && !self.permits(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        if refused {
            return Err(format!("{host} is not an address of the public internet, and no setting allows it"));
        }
        Ok(url)
    }
}

/// Looks names up, and gives only addresses that may be connected to: what was checked is what is connected to.
#[derive(Debug, Clone)]
pub(super) struct GuardedNames(pub(super) Guard);

impl Resolve for GuardedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let good: Vec<SocketAddr> = found.iter().copied().filter(|one| guard.permits(one.ip())).collect();
            if good.is_empty() {
                let text = format!(
                    "{} has no address of the public internet, and no setting allows what it has",
                    name.as_str()
                );
                return Err(text.into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("93.184.216.34", true)]
    #[case("127.0.0.1", false)]
    #[case("127.1.2.3", false)]
    #[case("10.1.2.3", false)]
    #[case("172.31.255.255", false)]
    #[case("172.32.0.1", true)]
    #[case("192.168.0.1", false)]
    #[case("169.254.169.254", false)]
    #[case("100.100.100.200", false)]
    #[case("0.0.0.0", false)]
    #[case("224.0.0.1", false)]
    #[case("255.255.255.255", false)]
    #[case("::1", false)]
    #[case("::", false)]
    #[case("::ffff:127.0.0.1", false)]
    #[case("::ffff:93.184.216.34", true)]
    #[case("64:ff9b::a9fe:a9fe", false)]
    #[case("fe80::1", false)]
    #[case("fd00:ec2::254", false)]
    #[case("2002:7f00:1::", false)]
    #[case("2001:0:1::1", false)]
    #[case("2606:2800:220:1::1", true)]
    #[case("ff02::1", false)]
    fn addresses(#[case] address: &str, #[case] permitted: bool) {
        assert_eq!(Guard::default().permits(address.parse().unwrap()), permitted);
    }

    #[rstest]
    #[case("https://hooks.example.com/x", true)]
    #[case("http://93.184.216.34/", true)]
    #[case("ftp://example.com", false)]
    #[case("https://user:pass@example.com", false)]
    #[case("http://localhost:80/", false)]
    #[case("http://LOCALHOST./", false)]
    #[case("http://a.localhost/", false)]
    #[case("http://2130706433/", false)]
    #[case("http://0x7f.1/", false)]
    #[case("http://0177.0.0.1/", false)]
    #[case("http://[::ffff:a9fe:a9fe]/", false)]
    #[case("http://169.254.169.254/latest/meta-data", false)]
    #[case("nonsense", false)]
    fn urls(#[case] text: &str, #[case] good: bool) {
        assert_eq!(Guard::default().check(text).is_ok(), good, "{text}");
    }

    #[test]
    fn a_setting_allows_more() {
        let guard = Guard::new(vec![IpNet::from_str("127.0.0.0/8").unwrap()]);
        assert!(guard.check("http://localhost:1/").is_ok() && guard.permits("::ffff:127.0.0.1".parse().unwrap()));
        assert!(guard.check("http://10.0.0.1/").is_err());
    }

    #[tokio::test]
    async fn a_name_is_checked_by_what_it_means() {
        let names = GuardedNames(Guard::default());
        let error = names.resolve(Name::from_str("localhost").unwrap()).await.err().unwrap();
        assert!(error.to_string().contains("no address of the public internet"), "{error}");
    }
}

//! Ports that may be connected to.

use std::{ops::RangeInclusive, str::FromStr};

/// Default ports of notifications: HTTP, HTTPS and the usual second port of HTTPS.
pub(crate) const DEFAULT_PORTS: &str = "80,443,8443";

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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

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

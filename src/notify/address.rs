//! Check of notification addresses. Pure: no client, no clock, no I/O.

use reqwest::Url;

use crate::egress::{Denied, EgressPolicy, PortSet};

/// Reason why an address is not allowed. The text contains at most the host of the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Text that is not an absolute URL.
    #[error("expected an absolute URL")]
    NotAbsolute,
    /// Scheme other than http and https.
    #[error("expected the scheme http or https")]
    Scheme,
    /// User name or password in the URL.
    #[error("must not contain a user name or password: sign messages with secretRef instead")]
    Credentials,
    /// Address that the egress policy denies.
    #[error("{0}")]
    Denied(Denied),
}

/// Policy that decides which addresses notifications may be sent to. Clones share it.
#[derive(Debug, Clone)]
pub struct NotificationPolicy(EgressPolicy);

impl Default for NotificationPolicy {
    fn default() -> Self {
        Self(EgressPolicy::default().with_ports(PortSet::default()))
    }
}

impl From<EgressPolicy> for NotificationPolicy {
    fn from(policy: EgressPolicy) -> Self {
        Self(policy)
    }
}

impl NotificationPolicy {
    /// Parses and checks an address without resolving its name.
    pub fn parse(&self, text: &str) -> Result<Url, AddressError> {
        let url: Url = text.parse().map_err(|_| AddressError::NotAbsolute)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Credentials);
        }
        self.0.check_url(&url).map_err(AddressError::Denied)?;
        Ok(url)
    }

    pub(super) fn policy(&self) -> &EgressPolicy {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("https://hooks.example.com/x", true)]
    #[case("http://93.184.216.34/", true)]
    #[case("ftp://example.com", false)]
    #[case("https://user:pass@example.com", false)]
    #[case("http://hooks.example.com:6379/", false)]
    #[case("http://168.63.129.16/", false)]
    #[case("http://localhost:80/", false)]
    #[case("nonsense", false)]
    fn urls(#[case] text: &str, #[case] good: bool) {
        assert_eq!(NotificationPolicy::default().parse(text).is_ok(), good, "{text}");
    }

    #[test]
    fn error_contains_no_token() {
        for text in [
            "https://u:TOKEN@example.com/TOKEN",
            "ftp://example.com/TOKEN",
            "TOKEN",
            "http://10.0.0.1/TOKEN",
        ] {
            let error = NotificationPolicy::default().parse(text).unwrap_err().to_string();
            assert!(!error.contains("TOKEN"), "{error}");
        }
    }
}

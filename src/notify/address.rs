//! Check of notification addresses. Pure: no client, no clock, no I/O.

use reqwest::Url;

use super::webhook_client::DeliveryError;
use crate::egress::{EgressPolicy, PortSet};

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
    /// Checks an address without resolving its name. The error names the problem and contains at
    /// most the host of the address.
    pub fn check(&self, text: &str) -> Result<Url, String> {
        self.parse(text).map_err(|failure| failure.to_string())
    }

    pub(super) fn parse(&self, text: &str) -> Result<Url, DeliveryError> {
        let url: Url =
            text.parse().map_err(|_| DeliveryError::Address("expected an absolute URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(DeliveryError::Address("expected the scheme http or https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(DeliveryError::Address(
                "must not contain a user name or password: sign messages with secretRef instead",
            ));
        }
        self.0.check_url(&url).map_err(DeliveryError::Denied)?;
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
        assert_eq!(NotificationPolicy::default().check(text).is_ok(), good, "{text}");
    }

    #[test]
    fn error_contains_no_token() {
        for text in [
            "https://u:TOKEN@example.com/TOKEN",
            "ftp://example.com/TOKEN",
            "TOKEN",
            "http://10.0.0.1/TOKEN",
        ] {
            let error = NotificationPolicy::default().check(text).unwrap_err();
            assert!(!error.contains("TOKEN"), "{error}");
        }
    }
}

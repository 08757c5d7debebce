//! Which addresses notifications may be sent to. *Pure.*

use reqwest::Url;

use super::post::Failure;
use crate::egress::{Policy, Ports};

/// Says which addresses notifications may be sent to. Clones share it.
#[derive(Debug, Clone)]
pub struct Guard(Policy);

impl Default for Guard {
    fn default() -> Self {
        Self(Policy::default().at_ports(Ports::default()))
    }
}

impl From<Policy> for Guard {
    fn from(policy: Policy) -> Self {
        Self(policy)
    }
}

impl Guard {
    /// What can be said of an address without resolving its name. The error says what is wrong, and repeats at most the host.
    pub fn check(&self, text: &str) -> Result<Url, String> {
        self.read(text).map_err(|failure| failure.to_string())
    }

    pub(super) fn read(&self, text: &str) -> Result<Url, Failure> {
        let url: Url = text.parse().map_err(|_| Failure::Address("expected an absolute URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failure::Address("expected http or https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Failure::Address("names a user or a password: sign messages with secretRef instead"));
        }
        self.0.check_url(&url).map_err(Failure::Denied)?;
        Ok(url)
    }

    pub(super) fn policy(&self) -> &Policy {
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
        assert_eq!(Guard::default().check(text).is_ok(), good, "{text}");
    }

    #[test]
    fn what_is_wrong_repeats_no_token() {
        for text in ["https://u:TOKEN@example.com/TOKEN", "ftp://example.com/TOKEN", "TOKEN", "http://10.0.0.1/TOKEN"] {
            let error = Guard::default().check(text).unwrap_err();
            assert!(!error.contains("TOKEN"), "{error}");
        }
    }
}

//! API tokens, for people who have no access to Kubernetes.
//!
//! A Secret of our own namespace holds one entry for each: its name, and what
//! it may do. Of the token itself only the SHA-256 is stored. That is enough
//! because a token is 256 bits of chance: there is no dictionary to try, which
//! is what slow hashes are for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// What every API token begins with, so that one in a log or a repository is known for what it is.
pub const PREFIX: &str = "prw_";
/// Stands for all namespaces.
pub const ALL_NAMESPACES: &str = "*";
/// Longest name of a token.
const MAX_NAME: usize = 40;
/// For how long tokens are accepted without contact with the Secret that holds them. A token that was revoked meanwhile is good for
/// no longer. Three times the interval of the look that restores contact, so that one that fails does no harm.
const BELIEVED: Duration = Duration::from_secs(60);

/// What the Secret says of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenEntry {
    /// The SHA-256 of the token, in hexadecimal digits.
    pub sha256: String,
    /// The namespaces that it is good for; `*` stands for all.
    pub namespaces: Vec<String>,
    /// Whether it may only look.
    #[serde(default)]
    pub read_only: bool,
    /// Whether it may list the cluster's nodes; one for all namespaces may anyway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nodes: bool,
    /// When it ends, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Whether it can be the name of a token.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(good)
}

/// A new token of that name.
#[must_use]
pub fn generate(name: &str) -> String {
    format!("{PREFIX}{name}_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// What is stored of a token.
#[must_use]
pub fn digest(token: &str) -> String {
    crate::hex(&Sha256::digest(token))
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Unknown,
    Expired,
    /// The Secret was out of reach for so long that nothing is known of any token.
    OutOfReach,
}

/// The tokens that there are. Clones share them.
#[derive(Clone, Default)]
pub struct Tokens(Arc<Inner>);

#[derive(Default)]
struct Inner {
    entries: ArcSwap<HashMap<String, TokenEntry>>,
    contact: Mutex<Contact>,
}

/// When the Secret was seen last, and which version of it.
#[derive(Default)]
struct Contact {
    at: Option<Instant>,
    /// UID and resource version.
    version: Option<(String, String)>,
}

impl Tokens {
    /// Takes the Secret as it is now; without one there are no tokens. An entry that cannot be read is left out, and named.
    pub fn replace(&self, secret: Option<&Secret>) {
        let version =
            secret.and_then(|secret| Some((secret.metadata.uid.clone()?, secret.metadata.resource_version.clone()?)));
        let same = {
            let mut contact = self.0.contact.lock().unwrap_or_else(PoisonError::into_inner);
            let same = version.is_some() && contact.version == version;
            *contact = Contact { at: Some(Instant::now()), version };
            same
        };
        if !same {
            self.read(secret);
        }
    }

    /// For how long the Secret has been out of reach; none where it was never seen.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.0.contact.lock().unwrap_or_else(PoisonError::into_inner).at.map(|at| at.elapsed())
    }

    fn read(&self, secret: Option<&Secret>) {
        let data = secret.and_then(|secret| secret.data.as_ref());
        let mut all = HashMap::new();
        for (name, ByteString(text)) in data.into_iter().flatten() {
            match serde_json::from_slice::<TokenEntry>(text) {
                Ok(entry) if is_name(name) => {
                    all.insert(name.clone(), entry);
                }
                Ok(_) => tracing::warn!(name, "an API token is left out: its name has other than a-z, 0-9 and dashes"),
                Err(error) => tracing::warn!(name, %error, "an API token is left out: its entry cannot be read"),
            }
        }
        if **self.0.entries.load() != all {
            tracing::info!(tokens = all.len(), "API tokens");
            self.0.entries.store(Arc::new(all));
        }
    }

    /// The name and the rights of a token.
    pub(super) fn check(&self, token: &str, now: Timestamp) -> Result<(String, TokenEntry), Refused> {
        if self.age().is_none_or(|age| age > BELIEVED) {
            return Err(Refused::OutOfReach);
        }
        let name = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map_or("", |(name, _)| name);
        let all = self.0.entries.load();
        let entry = all.get(name);
        // As long for a name that there is as for one that there is not.
        let known = entry.map_or("", |entry| entry.sha256.as_str());
        let same: bool = digest(token).as_bytes().ct_eq(known.to_ascii_lowercase().as_bytes()).into();
        let entry = entry.filter(|_| same).ok_or(Refused::Unknown)?;
        if entry.expires_at.is_some_and(|end| end <= now) {
            return Err(Refused::Expired);
        }
        Ok((name.to_owned(), entry.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(entries: &[(&str, &str)]) -> Tokens {
        let data =
            entries.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
        let tokens = Tokens::default();
        tokens.replace(Some(&Secret { data: Some(data), ..Secret::default() }));
        tokens
    }

    fn entry(token: &str, more: &str) -> String {
        format!("{{\"sha256\": \"{}\", \"namespaces\": [\"shop\"]{more}}}", digest(token))
    }

    #[test]
    fn good_wrong_expired_and_revoked() {
        let (ci, old) = (generate("ci"), generate("old"));
        assert!(ci.starts_with("prw_ci_") && ci.len() == 7 + 43, "{ci}");
        let of_ci = entry(&ci, "");
        let all = tokens(&[("ci", &of_ci), ("old", &entry(&old, ", \"expiresAt\": \"2020-01-01T00:00:00Z\""))]);
        let now = Timestamp::now();
        let (name, rights) = all.check(&ci, now).unwrap();
        assert_eq!((name.as_str(), rights.read_only, rights.namespaces), ("ci", false, vec!["shop".to_owned()]));
        assert_eq!(all.check(&old, now), Err(Refused::Expired));
        for wrong in
            [generate("ci"), generate("nobody"), "prw_ci_".into(), "prw_".into(), String::new(), format!("{ci}x")]
        {
            assert_eq!(all.check(&wrong, now), Err(Refused::Unknown), "{wrong}");
        }
        // The digest of a token is none.
        assert_eq!(all.check(&format!("prw_ci_{}", digest(&ci)), now), Err(Refused::Unknown));
        all.replace(None);
        assert_eq!(all.check(&ci, now), Err(Refused::Unknown));
    }

    #[test]
    fn entries_that_cannot_be_read_are_left_out() {
        let (a, b, c) = (generate("a"), generate("b"), generate("c"));
        let all = tokens(&[
            ("a", "nonsense"),
            ("b", &entry(&b, ", \"readonly\": true")),
            ("C", &entry(&c, "")),
            ("c", &entry(&c, "")),
        ]);
        let now = Timestamp::now();
        assert!(all.check(&a, now).is_err() && all.check(&b, now).is_err() && all.check(&c, now).is_ok());
    }

    /// Revocation must not hang on one watch.
    #[tokio::test(start_paused = true)]
    async fn without_contact_no_token_is_good() {
        let ci = generate("ci");
        let now = Timestamp::now();
        assert_eq!(Tokens::default().check(&ci, now), Err(Refused::OutOfReach), "before the first contact");
        let all = tokens(&[("ci", &entry(&ci, ""))]);
        tokio::time::advance(BELIEVED).await;
        assert!(all.check(&ci, now).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(all.check(&ci, now), Err(Refused::OutOfReach));
        assert_eq!(all.check(&generate("ci"), now), Err(Refused::OutOfReach), "good and bad ones are not told apart");
        all.replace(None);
        assert_eq!(all.check(&ci, now), Err(Refused::Unknown));
    }

    #[test]
    fn the_same_version_is_read_once() {
        let ci = generate("ci");
        let mut secret = Secret::default();
        secret.metadata.uid = Some("u".into());
        secret.metadata.resource_version = Some("1".into());
        let all = Tokens::default();
        all.replace(Some(&secret));
        secret.data = Some([("ci".to_owned(), ByteString(entry(&ci, "").into_bytes()))].into());
        secret.metadata.resource_version = Some("2".into());
        all.replace(Some(&secret));
        all.replace(Some(&secret));
        assert!(all.check(&ci, Timestamp::now()).is_ok());
    }
}

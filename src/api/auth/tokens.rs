//! API tokens, for users without access to Kubernetes.
//!
//! A Secret in the server's own namespace has one entry per token: its name and its permissions.
//! Only the SHA-256 of the token is stored. A fast hash is sufficient because a token has 256
//! random bits; slow hashes protect secrets that a dictionary attack can guess.

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

/// Prefix of every API token, by which scanners recognise one in a log or a repository.
pub(super) const TOKEN_PREFIX: &str = "prw_";
/// Namespace entry of a token that is valid in all namespaces.
pub const ALL_NAMESPACES: &str = "*";
/// Maximum length of a token's name in characters.
const MAX_NAME_LEN: usize = 40;
/// Maximum time since the last successful read of the Secret during which tokens are accepted. It
/// bounds how long a revoked token stays valid. It is three times the poll interval, so that a
/// single failed poll has no effect.
const MAX_CONTACT_AGE: Duration = Duration::from_secs(60);

/// Entry of the Secret for one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenEntry {
    /// SHA-256 of the token, in hexadecimal digits.
    pub sha256: String,
    /// Namespaces in which the token is valid; `*` stands for all.
    pub namespaces: Vec<String>,
    /// Restricts the token to read access. Default: false.
    #[serde(default)]
    pub read_only: bool,
    /// Permits the token to list the cluster's nodes. Default: false. A token for all namespaces
    /// may always list them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nodes: bool,
    /// Expiry time in RFC 3339; `None` for a token without expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Returns the name of the Secret of API tokens of an installation.
#[must_use]
pub fn token_secret_name(object_name: &str) -> String {
    format!("{object_name}-api-tokens")
}

/// Reports whether the text is a valid token name: 1 to 40 of `a-z`, `0-9` and `-`.
#[must_use]
pub fn is_token_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= MAX_NAME_LEN && name.chars().all(good)
}

/// Generates a token with that name and 256 random bits.
#[must_use]
pub fn generate_token(name: &str) -> String {
    format!("{TOKEN_PREFIX}{name}_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// Returns the SHA-256 of a token in lower-case hexadecimal digits, as the Secret stores it.
#[must_use]
pub fn token_digest(token: &str) -> String {
    prewarmer_core::hex(&Sha256::digest(token))
}

/// Reason for which a token is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenRejection {
    Unknown,
    Expired,
    /// The Secret has not been read for so long that no token can be verified.
    SecretUnavailable,
}

/// Current API tokens. Clones share them.
#[derive(Clone, Default)]
pub struct ApiTokens(Arc<ApiTokensInner>);

#[derive(Default)]
struct ApiTokensInner {
    entries: ArcSwap<HashMap<String, TokenEntry>>,
    contact: Mutex<SecretContact>,
}

/// Time of the last successful read of the Secret, and the version that was read.
#[derive(Default)]
struct SecretContact {
    at: Option<Instant>,
    /// UID and resource version of the Secret.
    version: Option<(String, String)>,
}

impl ApiTokens {
    /// Replaces the tokens with those of the Secret; without a Secret there are none. Invalid
    /// entries are ignored with a warning that names them.
    pub fn replace(&self, secret: Option<&Secret>) {
        let version = secret.and_then(|secret| {
            Some((secret.metadata.uid.clone()?, secret.metadata.resource_version.clone()?))
        });
        let same = {
            let mut contact = self.0.contact.lock().unwrap_or_else(PoisonError::into_inner);
            let same = version.is_some() && contact.version == version;
            *contact = SecretContact { at: Some(Instant::now()), version };
            same
        };
        if !same {
            self.load_entries(secret);
        }
    }

    /// Records that the API server has reported no change of the Secret until now.
    pub(super) fn record_contact(&self) {
        let mut contact = self.0.contact.lock().unwrap_or_else(PoisonError::into_inner);
        contact.at = Some(Instant::now());
    }

    /// Returns the time since the last successful read of the Secret; `None` if it was never read.
    #[must_use]
    pub fn contact_age(&self) -> Option<Duration> {
        self.0.contact.lock().unwrap_or_else(PoisonError::into_inner).at.map(|at| at.elapsed())
    }

    fn load_entries(&self, secret: Option<&Secret>) {
        let data = secret.and_then(|secret| secret.data.as_ref());
        let mut all = HashMap::new();
        for (name, ByteString(text)) in data.into_iter().flatten() {
            match serde_json::from_slice::<TokenEntry>(text) {
                Ok(entry) if is_token_name(name) => {
                    all.insert(name.clone(), entry);
                }
                Ok(_) => tracing::warn!(
                    name,
                    "API token ignored: its name must consist of at most 40 of a-z, 0-9 and -"
                ),
                Err(error) => {
                    tracing::warn!(name, %error, "API token ignored: its entry in the Secret is not valid");
                }
            }
        }
        if **self.0.entries.load() != all {
            tracing::info!(tokens = all.len(), "API tokens updated");
            self.0.entries.store(Arc::new(all));
        }
    }

    /// Verifies a token and returns its name and entry.
    pub(super) fn verify(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<(String, TokenEntry), TokenRejection> {
        if self.contact_age().is_none_or(|age| age > MAX_CONTACT_AGE) {
            return Err(TokenRejection::SecretUnavailable);
        }
        let name = token
            .strip_prefix(TOKEN_PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .map_or("", |(name, _)| name);
        let all = self.0.entries.load();
        let entry = all.get(name);
        // The comparison takes the same time for existing and unknown names.
        let known = entry.map_or("", |entry| entry.sha256.as_str());
        let same: bool =
            token_digest(token).as_bytes().ct_eq(known.to_ascii_lowercase().as_bytes()).into();
        let entry = entry.filter(|_| same).ok_or(TokenRejection::Unknown)?;
        if entry.expires_at.is_some_and(|end| end <= now) {
            return Err(TokenRejection::Expired);
        }
        Ok((name.to_owned(), entry.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(entries: &[(&str, &str)]) -> ApiTokens {
        let data = entries
            .iter()
            .map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec())))
            .collect();
        let tokens = ApiTokens::default();
        tokens.replace(Some(&Secret { data: Some(data), ..Secret::default() }));
        tokens
    }

    fn entry(token: &str, more: &str) -> String {
        format!("{{\"sha256\": \"{}\", \"namespaces\": [\"shop\"]{more}}}", token_digest(token))
    }

    #[test]
    fn valid_invalid_expired_and_revoked_tokens() {
        let (ci, old) = (generate_token("ci"), generate_token("old"));
        assert!(ci.starts_with("prw_ci_") && ci.len() == 7 + 43, "{ci}");
        let of_ci = entry(&ci, "");
        let all = tokens(&[
            ("ci", &of_ci),
            ("old", &entry(&old, ", \"expiresAt\": \"2020-01-01T00:00:00Z\"")),
        ]);
        let now = Timestamp::now();
        let (name, rights) = all.verify(&ci, now).unwrap();
        assert_eq!(
            (name.as_str(), rights.read_only, rights.namespaces),
            ("ci", false, vec!["shop".to_owned()])
        );
        assert_eq!(all.verify(&old, now), Err(TokenRejection::Expired));
        for wrong in [
            generate_token("ci"),
            generate_token("unknown"),
            "prw_ci_".into(),
            "prw_".into(),
            String::new(),
            format!("{ci}x"),
        ] {
            assert_eq!(all.verify(&wrong, now), Err(TokenRejection::Unknown), "{wrong}");
        }
        // The digest of a token is not a valid token.
        assert_eq!(
            all.verify(&format!("prw_ci_{}", token_digest(&ci)), now),
            Err(TokenRejection::Unknown)
        );
        all.replace(None);
        assert_eq!(all.verify(&ci, now), Err(TokenRejection::Unknown));
    }

    #[test]
    fn invalid_entries_are_ignored() {
        let (a, b, c) = (generate_token("a"), generate_token("b"), generate_token("c"));
        let all = tokens(&[
            ("a", "nonsense"),
            ("b", &entry(&b, ", \"readonly\": true")),
            ("C", &entry(&c, "")),
            ("c", &entry(&c, "")),
        ]);
        let now = Timestamp::now();
        assert!(
            all.verify(&a, now).is_err()
                && all.verify(&b, now).is_err()
                && all.verify(&c, now).is_ok()
        );
    }

    /// Revocation must not depend on a single watch.
    #[tokio::test(start_paused = true)]
    async fn no_token_is_accepted_without_contact_to_the_secret() {
        let ci = generate_token("ci");
        let now = Timestamp::now();
        assert_eq!(
            ApiTokens::default().verify(&ci, now),
            Err(TokenRejection::SecretUnavailable),
            "before the first contact"
        );
        let all = tokens(&[("ci", &entry(&ci, ""))]);
        tokio::time::advance(MAX_CONTACT_AGE).await;
        assert!(all.verify(&ci, now).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(all.verify(&ci, now), Err(TokenRejection::SecretUnavailable));
        assert_eq!(
            all.verify(&generate_token("ci"), now),
            Err(TokenRejection::SecretUnavailable),
            "valid and invalid tokens get the same error"
        );
        all.replace(None);
        assert_eq!(all.verify(&ci, now), Err(TokenRejection::Unknown));
    }

    #[test]
    fn secret_is_parsed_once_per_version() {
        let ci = generate_token("ci");
        let mut secret = Secret::default();
        secret.metadata.uid = Some("u".into());
        secret.metadata.resource_version = Some("1".into());
        let all = ApiTokens::default();
        all.replace(Some(&secret));
        secret.data = Some([("ci".to_owned(), ByteString(entry(&ci, "").into_bytes()))].into());
        secret.metadata.resource_version = Some("2".into());
        all.replace(Some(&secret));
        all.replace(Some(&secret));
        assert!(all.verify(&ci, Timestamp::now()).is_ok());
    }
}

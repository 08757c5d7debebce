//! Caller of a request: its name, its identity, and the namespaces that it may use.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use k8s_openapi::api::authentication::v1::UserInfo;

use super::tokens::{ALL_NAMESPACES, TokenEntry};

/// Number of hexadecimal digits of an API token's digest that distinguish it from an earlier token
/// of the same name.
const IDENTITY_DIGITS: usize = 16;

/// Name of the caller, set by authentication; a request extension.
#[derive(Clone, Default)]
pub(in crate::api) struct CallerName(pub(in crate::api) Arc<OnceLock<String>>);

/// Authenticated identity of a caller.
#[derive(Debug, Clone)]
pub(super) enum CallerIdentity {
    /// Caller of a server without authentication (`--auth=none`).
    Anonymous,
    /// User of Kubernetes.
    User(Arc<UserInfo>),
    /// API token with its entry in the Secret.
    Token { entry: Box<TokenEntry> },
}

/// Bearer token as it was sent. Its `Debug` output is redacted.
#[derive(Clone)]
pub(super) struct BearerToken(pub(super) Arc<str>);

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// Authenticated caller of a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name for logs and rate limits: `user:NAME`, `token:NAME` or `anonymous`.
    pub name: String,
    /// Client address, behind trusted proxies.
    pub address: IpAddr,
    pub(super) identity: CallerIdentity,
    pub(super) token: Option<BearerToken>,
}

impl Caller {
    /// Returns the namespace of an API token that is valid in only one.
    pub(in crate::api) fn only_namespace(&self) -> Option<&str> {
        match &self.identity {
            CallerIdentity::Token { entry } => match entry.namespaces.as_slice() {
                [one] if one != ALL_NAMESPACES => Some(one),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the key under which data of a caller are stored, such as Idempotency-Keys. It
    /// contains the UID of the user or the digest of the token, so that a new user or token with
    /// the name of a deleted one has no access to its data.
    pub(in crate::api) fn identity_key(&self) -> String {
        let of = match &self.identity {
            CallerIdentity::Anonymous => String::new(),
            CallerIdentity::User(user) => user.uid.clone().unwrap_or_default(),
            CallerIdentity::Token { entry } => {
                entry.sha256.to_ascii_lowercase().chars().take(IDENTITY_DIGITS).collect()
            }
        };
        format!("{}#{of}", self.name)
    }
}

/// Namespaces in which a caller has a permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceScope {
    /// All namespaces.
    All,
    /// Only the namespaces with these names.
    Only(BTreeSet<String>),
}

impl NamespaceScope {
    /// Reports whether the namespace is in the scope.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(namespace),
        }
    }
}

//! Authentication and authorization of callers of the REST API and the web page.
//!
//! Kubernetes is the access control: the API server reviews bearer tokens of Kubernetes
//! (`TokenReview`) and the permission of their users on `PrewarmTask`s (`SubjectAccessReview`).
//! API tokens from a Secret are a second way to authenticate. Input: headers and peer address of a
//! request. Output: a [`Caller`], or an `ApiError`.

mod address;
mod authenticate;
mod authorize;
mod bearer;
mod caller;
mod fingerprint;
mod limits;
mod origin;
mod proxies;
mod revalidation;
mod reviews;
mod token_format;
mod token_watch;
mod tokens;

pub(super) use self::{address::CallerAddress, caller::CallerName, origin::is_cross_site};
pub use self::{
    address::caller_address,
    authenticate::Auth,
    caller::{Caller, NamespaceScope},
    origin::is_same_origin,
    proxies::TrustedProxies,
    revalidation::Revalidation,
    reviews::Permission,
    token_watch::watch_tokens,
    tokens::{
        ALL_NAMESPACES, ApiTokens, TokenEntry, generate_token, is_token_name, token_digest,
        token_secret_name,
    },
};

#[cfg(test)]
mod tests;

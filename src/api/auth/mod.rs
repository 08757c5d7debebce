//! Authentication and authorization of callers of the REST API and the web page.
//!
//! Kubernetes is the access control: the API server reviews bearer tokens of Kubernetes
//! (`TokenReview`) and the permission of their users on `PrewarmTask`s (`SubjectAccessReview`).
//! API tokens from a Secret are a second way to authenticate. Input: headers and peer address of a
//! request. Output: a [`Caller`], or an `ApiError`.

mod limits;
mod origin;
mod proxies;
mod revalidation;
mod reviews;
mod token_format;
mod token_watch;
mod tokens;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRef, FromRequestParts},
    http::{Extensions, HeaderMap, StatusCode, header, request::Parts},
};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;

use self::{limits::AuthLimits, reviews::ReviewClient, token_format::TokenDefect};
pub(super) use self::{
    origin::{is_cross_site, is_same_origin},
    revalidation::Revalidation,
};
pub use self::{
    proxies::TrustedProxies,
    reviews::Permission,
    token_watch::watch_tokens,
    tokens::{
        ALL_NAMESPACES, ApiTokens, TokenEntry, generate_token, is_token_name, token_digest,
        token_secret_name,
    },
};
use super::{call_middleware::CallerName, error::ApiError};

/// Maximum length of a token in bytes; longer ones are rejected. Tokens of service accounts have 1
/// to 2 KB.
const MAX_TOKEN_LEN: usize = 8 * 1024;
/// Number of hexadecimal digits of an API token's digest that distinguish it from an earlier token
/// of the same name.
const IDENTITY_DIGITS: usize = 16;

/// Authenticated identity of a caller.
#[derive(Debug, Clone)]
enum CallerIdentity {
    /// Caller of a server without authentication (`--auth=none`).
    Anonymous,
    /// User of Kubernetes.
    User(Arc<UserInfo>),
    /// API token with its entry in the Secret.
    Token { entry: Box<TokenEntry> },
}

/// Bearer token as it was sent. Its `Debug` output is redacted.
#[derive(Clone)]
struct BearerToken(Arc<str>);

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
    identity: CallerIdentity,
    token: Option<BearerToken>,
}

impl Caller {
    /// Returns the key under which data of a caller are stored, such as Idempotency-Keys. It
    /// contains the UID of the user or the digest of the token, so that a new user or token with
    /// the name of a deleted one has no access to its data.
    pub(super) fn identity_key(&self) -> String {
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

/// Authenticator and authorizer of callers. Clones share tokens, cached reviews and rate limits.
#[derive(Clone)]
pub struct Auth {
    /// Client of the API server's reviews; `None` without authentication.
    reviews: Option<ReviewClient>,
    tokens: ApiTokens,
    limits: Arc<AuthLimits>,
    proxies: Arc<TrustedProxies>,
}

impl Auth {
    /// Creates an authenticator that allows each caller `rate` calls per second with a burst of
    /// twice that number. Without a client, callers are not authenticated and every permission is
    /// granted.
    #[must_use]
    pub fn new(client: Option<Client>, tokens: ApiTokens, rate: u32) -> Self {
        Self {
            reviews: client.map(ReviewClient::new),
            tokens,
            limits: Arc::new(AuthLimits::new(rate)),
            proxies: Arc::default(),
        }
    }

    /// Accepts only Kubernetes tokens for one of these audiences. An empty list stands for the API
    /// server's own audience.
    #[must_use]
    pub fn with_audiences(self, audiences: Vec<String>) -> Self {
        Self { reviews: self.reviews.map(|reviews| reviews.with_audiences(audiences)), ..self }
    }

    /// Trusts the `X-Forwarded-For` header of requests from these proxies.
    #[must_use]
    pub fn with_trusted_proxies(self, proxies: TrustedProxies) -> Self {
        Self { proxies: Arc::new(proxies), ..self }
    }

    /// Returns the audience for which callers must create Kubernetes tokens; `None` for the API
    /// server's own.
    pub(super) fn audience(&self) -> Option<&str> {
        self.reviews.as_ref()?.audiences().first().map(String::as_str)
    }

    /// Returns the client address of a request, behind trusted proxies.
    pub(super) fn resolve_address(&self, extensions: &Extensions, headers: &HeaderMap) -> IpAddr {
        let info = extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
        self.proxies.client_address(peer, headers)
    }

    /// Evicts the rate limiters of callers and addresses that have been idle.
    pub fn evict_idle(&self) {
        self.limits.evict_idle();
    }

    /// Clears the cached reviews, so that the API server reviews again.
    #[cfg(test)]
    pub(super) fn clear_cached_reviews(&self) {
        if let Some(reviews) = &self.reviews {
            reviews.clear();
        }
    }

    /// Authenticates a request by its `Authorization` header.
    async fn authenticate_request(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<Caller, ApiError> {
        let token = if self.requires_token() { bearer_token(headers)? } else { "" };
        self.authenticate(token, from).await
    }

    /// Reports whether callers must send a token.
    #[must_use]
    pub(super) fn requires_token(&self) -> bool {
        self.reviews.is_some()
    }

    /// Authenticates a token; without authentication, returns an anonymous caller.
    pub(super) async fn authenticate(&self, token: &str, from: IpAddr) -> Result<Caller, ApiError> {
        let Some(reviews) = &self.reviews else {
            return Ok(Caller {
                name: "anonymous".into(),
                address: from,
                identity: CallerIdentity::Anonymous,
                token: None,
            });
        };
        if token.is_empty() || token.len() > MAX_TOKEN_LEN {
            return Err(ApiError::unauthorized(
                "the token is empty or too long: see /docs for how to authenticate",
            ));
        }
        let (name, identity) = self.resolve_identity(reviews, token, from).await?;
        Ok(Caller { name, address: from, identity, token: Some(BearerToken(token.into())) })
    }

    async fn resolve_identity(
        &self,
        reviews: &ReviewClient,
        token: &str,
        from: IpAddr,
    ) -> Result<(String, CallerIdentity), ApiError> {
        if token.starts_with(tokens::TOKEN_PREFIX) {
            return match self.tokens.verify(token, Timestamp::now()) {
                Ok((name, entry)) => {
                    Ok((format!("token:{name}"), CallerIdentity::Token { entry: Box::new(entry) }))
                }
                Err(tokens::TokenRejection::SecretUnavailable) => Err(tokens_unavailable()),
                Err(why) => {
                    self.limits.count_invalid_api_token(from)?;
                    let expired = why == tokens::TokenRejection::Expired;
                    Err(ApiError::unauthorized(if expired {
                        "the API token has expired"
                    } else {
                        "the API token is not valid"
                    }))
                }
            };
        }
        match token_format::find_defect(token, Timestamp::now()) {
            Some(TokenDefect::Malformed) => {
                return Err(ApiError::unauthorized(
                    "the token is malformed: see /docs for how to authenticate",
                ));
            }
            Some(TokenDefect::Expired) => {
                return Err(ApiError::unauthorized("the token has expired"));
            }
            None => {}
        }
        let print = reviews.fingerprint(token);
        let user = if let Some(known) = reviews.cached_review(&print).await {
            known
        } else {
            self.limits.count_unknown_token(&print, from).await?;
            let user = reviews.review_token(token).await?;
            self.limits.record_token_validity(print, user.is_some()).await;
            user
        };
        let user = user.ok_or_else(|| unknown_token(token, reviews.audiences()))?;
        Ok((
            format!("user:{}", user.username.as_deref().unwrap_or_default()),
            CallerIdentity::User(user),
        ))
    }

    /// Records the caller's name for the access log and counts the call against its rate limit.
    pub(super) fn admit(&self, caller: &Caller, extensions: &Extensions) -> Result<(), ApiError> {
        if let Some(who) = extensions.get::<CallerName>() {
            // Set once: a call has one caller.
            let _ = who.0.set(caller.name.clone());
        }
        self.limits.count_call(&caller.name)
    }

    /// Checks a permission of the caller in the namespace. The error names the missing permission.
    pub async fn authorize(
        &self,
        caller: &Caller,
        deed: Permission,
        namespace: &str,
    ) -> Result<(), ApiError> {
        if self.allows(caller, deed, Some(namespace)).await? {
            return Ok(());
        }
        Err(forbidden(caller, deed, &format!("in the namespace {namespace}")))
    }

    /// Returns the namespaces in which the caller has the permission. A user of Kubernetes needs it
    /// in all namespaces; otherwise the error requires a namespace in the request.
    pub async fn namespace_scope(
        &self,
        caller: &Caller,
        deed: Permission,
    ) -> Result<NamespaceScope, ApiError> {
        if let CallerIdentity::Token { entry } = &caller.identity
            && entry.namespaces.iter().all(|name| name != ALL_NAMESPACES)
        {
            return Ok(NamespaceScope::Only(entry.namespaces.iter().cloned().collect()));
        }
        if self.allows(caller, deed, None).await? {
            return Ok(NamespaceScope::All);
        }
        Err(forbidden(caller, deed, "in all namespaces: specify one with ?namespace="))
    }

    /// Checks that the caller may list the cluster's nodes. The error names the missing permission.
    pub(super) async fn authorize_node_list(&self, caller: &Caller) -> Result<(), ApiError> {
        let deed = Permission { verb: "list", resource: "nodes" };
        if self.allows(caller, deed, None).await? {
            return Ok(());
        }
        Err(match caller.identity {
            CallerIdentity::Token { .. } => {
                let words = "may not list nodes: this requires an API token for all namespaces, or one created with --nodes";
                ApiError::new(StatusCode::FORBIDDEN, format!("{} {words}", caller.name))
            }
            _ => {
                ApiError::new(StatusCode::FORBIDDEN, format!("{} may not list nodes", caller.name))
            }
        })
    }

    /// Reports whether the caller has the permission in the namespace, or in all namespaces if
    /// `None`.
    pub async fn allows(
        &self,
        caller: &Caller,
        deed: Permission,
        namespace: Option<&str>,
    ) -> Result<bool, ApiError> {
        Ok(match &caller.identity {
            CallerIdentity::Anonymous => true,
            CallerIdentity::Token { entry } => {
                let all = entry.namespaces.iter().any(|name| name == ALL_NAMESPACES);
                let named = namespace
                    .is_some_and(|wanted| entry.namespaces.iter().any(|name| name == wanted));
                let place = all || named || deed.resource == "nodes" && entry.nodes;
                place && (deed.is_read() || !entry.read_only)
            }
            CallerIdentity::User(user) => match &self.reviews {
                Some(reviews) => {
                    reviews
                        .review_access((&caller.name, user), deed, namespace, &self.limits)
                        .await?
                }
                None => false,
            },
        })
    }

    /// Authenticates the caller's token again and returns the caller with its current identity;
    /// `None` if the token is no longer valid.
    async fn reauthenticate(&self, caller: &Caller) -> Result<Option<Caller>, ApiError> {
        let (Some(reviews), Some(BearerToken(token))) = (&self.reviews, &caller.token) else {
            return Ok(Some(caller.clone()));
        };
        let identity = match &caller.identity {
            CallerIdentity::Token { .. } => match self.tokens.verify(token, Timestamp::now()) {
                Ok((_, entry)) => Some(CallerIdentity::Token { entry: Box::new(entry) }),
                Err(tokens::TokenRejection::SecretUnavailable) => return Err(tokens_unavailable()),
                Err(_) => None,
            },
            _ => reviews.review_token(token).await?.map(CallerIdentity::User),
        };
        Ok(identity.map(|identity| Caller { identity, ..caller.clone() }))
    }
}

/// Returns the error while the Secret of API tokens cannot be read: revoked tokens cannot be
/// distinguished from valid ones then.
fn tokens_unavailable() -> ApiError {
    let words = "API tokens are temporarily not accepted: the server cannot read the Secret that contains them";
    ApiError::retry_after(StatusCode::SERVICE_UNAVAILABLE, words, 5)
}

/// Returns the error for a token that the API server did not authenticate, with the command that
/// creates a valid one.
fn unknown_token(token: &str, audiences: &[String]) -> ApiError {
    let Some(ours) = audiences.first() else {
        return ApiError::unauthorized("the token is not valid in this cluster, or has expired");
    };
    let make = format!("kubectl create token NAME --audience {ours}");
    ApiError::unauthorized(&match token_format::mismatched_audiences(token, audiences) {
        Some(theirs) => format!(
            "the token is for the audience {theirs}; this server requires the audience {ours}: {make}"
        ),
        None => format!(
            "the token is not valid in this cluster, is not for the audience {ours}, or has expired: {make}"
        ),
    })
}

fn forbidden(caller: &Caller, deed: Permission, place: &str) -> ApiError {
    let Permission { verb, resource } = deed;
    ApiError::new(
        StatusCode::FORBIDDEN,
        format!("{} may not {verb} {resource} {place}", caller.name),
    )
}

/// Returns the bearer token of the request's only `Authorization` header.
fn bearer_token(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let how = "send a token: -H \"Authorization: Bearer $TOKEN\"";
    let value = all.next().ok_or_else(|| ApiError::unauthorized(how))?;
    if all.next().is_some() {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "the request has more than one Authorization header",
        ));
    }
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let token = text
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    token
        .filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN_LEN)
        .ok_or_else(|| ApiError::unauthorized(how))
}

/// Client address of a request, as the outermost layer has determined it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallerAddress(pub(super) IpAddr);

/// Returns the client address of a request; 0.0.0.0 if no layer has set one.
pub(super) fn caller_address(extensions: &Extensions) -> IpAddr {
    extensions.get::<CallerAddress>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |from| from.0)
}

impl<S> FromRequestParts<S> for Caller
where
    Auth: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let auth = Auth::from_ref(state);
        let caller =
            auth.authenticate_request(&parts.headers, caller_address(&parts.extensions)).await?;
        auth.admit(&caller, &parts.extensions)?;
        Ok(caller)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["Bearer abc"], Ok("abc"))]
    #[case(&["bearer  abc "], Ok("abc"))]
    #[case(&[], Err(401))]
    #[case(&["Basic abc"], Err(401))]
    #[case(&["Bearer "], Err(401))]
    #[case(&["Bearer"], Err(401))]
    #[case(&["Bearer a", "Bearer b"], Err(400))]
    fn bearer_token_is_parsed_from_one_header(
        #[case] values: &[&'static str],
        #[case] expected: Result<&str, u16>,
    ) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        assert_eq!(bearer_token(&headers).map_err(|error| error.code.as_u16()), expected);
    }

    fn caller(namespaces: &[&str], read_only: bool) -> Caller {
        let entry = TokenEntry {
            sha256: String::new(),
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            read_only,
            nodes: false,
            expires_at: None,
        };
        let identity = CallerIdentity::Token { entry: Box::new(entry) };
        Caller {
            name: "token:ci".into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            identity,
            token: None,
        }
    }

    #[tokio::test]
    async fn api_token_permissions() {
        let auth = Auth::new(None, ApiTokens::default(), 5);
        let may = async |caller: &Caller, verb, resource, namespace| {
            auth.allows(caller, Permission { verb, resource }, namespace).await.unwrap()
        };
        let shop = caller(&["shop"], false);
        assert!(may(&shop, "create", "prewarmtasks", Some("shop")).await);
        assert!(!may(&shop, "create", "prewarmtasks", Some("bank")).await);
        assert!(!may(&shop, "list", "prewarmtasks", None).await);
        assert!(!may(&shop, "list", "nodes", None).await);
        let mut seer = caller(&["shop"], true);
        if let CallerIdentity::Token { entry } = &mut seer.identity {
            entry.nodes = true;
        }
        assert!(
            may(&seer, "list", "nodes", None).await
                && !may(&seer, "list", "prewarmtasks", None).await
        );
        let reader = caller(&["*"], true);
        assert!(
            may(&reader, "list", "prewarmtasks", None).await
                && may(&reader, "get", "prewarmtasks", Some("bank")).await
        );
        assert!(may(&reader, "list", "nodes", None).await);
        assert!(!may(&reader, "patch", "prewarmtasks", Some("bank")).await);
        let list = Permission { verb: "list", resource: "prewarmtasks" };
        assert_eq!(
            auth.namespace_scope(&shop, list).await.unwrap(),
            NamespaceScope::Only(["shop".to_owned()].into())
        );
        assert_eq!(auth.namespace_scope(&reader, list).await.unwrap(), NamespaceScope::All);
    }

    /// Debug output of a caller must not contain a credential.
    #[tokio::test]
    async fn debug_output_contains_no_token() {
        let cluster = crate::api::fake_cluster::FakeCluster::default();
        cluster.add_user("very-secret", "anna", &["prewarmer"]);
        let auth = Auth::new(Some(cluster.client()), ApiTokens::default(), 5)
            .with_audiences(vec!["prewarmer".into()]);
        let caller = auth.authenticate("very-secret", [10, 0, 0, 1].into()).await.unwrap();
        assert_eq!(caller.name, "user:anna");
        let text = format!("{caller:?} {:?}", Revalidation::new(caller.clone()));
        assert!(text.contains("(redacted)") && !text.contains("very-secret"), "{text}");
    }

    #[tokio::test]
    async fn tokens_for_another_audience_are_refused() {
        let cluster = crate::api::fake_cluster::FakeCluster::default();
        cluster.add_user("meant", "anna", &["prewarmer"]);
        cluster.add_user("whole", "anna", &[crate::api::fake_cluster::API_SERVER_AUDIENCE]);
        let auth = |audiences: &[&str]| {
            let audiences = audiences.iter().map(|one| (*one).to_owned()).collect();
            Auth::new(Some(cluster.client()), ApiTokens::default(), 5).with_audiences(audiences)
        };
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ours = auth(&["prewarmer"]);
        assert!(ours.authenticate("meant", from).await.is_ok());
        let refused = ours.authenticate("whole", from).await.unwrap_err();
        assert_eq!(refused.code, StatusCode::UNAUTHORIZED);
        assert!(refused.message().contains("--audience prewarmer"), "{}", refused.message());
        let servers = auth(&[]);
        assert!(
            servers.authenticate("whole", from).await.is_ok()
                && servers.authenticate("meant", from).await.is_err()
        );
        let both = auth(&["prewarmer", crate::api::fake_cluster::API_SERVER_AUDIENCE]);
        assert!(
            both.authenticate("whole", from).await.is_ok()
                && both.authenticate("meant", from).await.is_ok()
        );
    }

    #[test]
    fn identity_key_differs_for_a_new_token_of_the_same_name() {
        let (one, other) = (caller(&["shop"], false), caller(&["shop"], false));
        let with = |caller: &Caller, sha256: &str| {
            let mut caller = caller.clone();
            if let CallerIdentity::Token { entry } = &mut caller.identity {
                entry.sha256 = sha256.into();
            }
            caller.identity_key()
        };
        assert_eq!(with(&one, "AB12"), with(&other, "ab12"));
        assert_ne!(with(&one, "ab12"), with(&other, "cd34"));
    }
}

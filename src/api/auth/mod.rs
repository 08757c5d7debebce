//! Who calls, and what he may do.
//!
//! Kubernetes is the access control: a bearer token of Kubernetes is reviewed by
//! the API server, and so is whether its owner may do to `PrewarmTask`s what he
//! asks for. Beside that there are API tokens, from a Secret.

mod follow;
mod limits;
mod origin;
mod proxies;
mod reviews;
mod shape;
mod standing;
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

pub use self::{
    follow::follow,
    proxies::Proxies,
    reviews::Deed,
    tokens::{ALL_NAMESPACES, TokenEntry, Tokens, digest, generate, is_name},
};
use self::{limits::Limits, reviews::Reviews, shape::Hopeless};
pub(super) use self::{
    origin::{is_foreign, is_own},
    standing::Standing,
};
use super::{error::ApiError, front::Who};
use crate::metrics::Metrics;

/// Longest token that is looked at: those of service accounts are 1 to 2 KB.
const MAX_TOKEN: usize = 8 * 1024;
/// Digits of an API token's digest that tell it from an earlier one of its name.
const HOLDER: usize = 16;

/// What a caller is known as.
#[derive(Debug, Clone)]
enum Identity {
    /// Nobody asks.
    Anybody,
    /// A user of Kubernetes.
    User(Arc<UserInfo>),
    /// An API token.
    Token { entry: Box<TokenEntry> },
}

/// A token, as it was sent. It is printed nowhere.
#[derive(Clone)]
struct Bearer(Arc<str>);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For logs, and for what is counted: `user:NAME`, `token:NAME` or `anybody`.
    pub name: String,
    /// Where from.
    pub from: IpAddr,
    identity: Identity,
    token: Option<Bearer>,
}

impl Caller {
    /// Who holds what is kept for a caller, such as Idempotency-Keys. Whoever gets a name that somebody else had before is
    /// somebody else.
    pub(super) fn holder(&self) -> String {
        let of = match &self.identity {
            Identity::Anybody => String::new(),
            Identity::User(user) => user.uid.clone().unwrap_or_default(),
            Identity::Token { entry } => entry.sha256.to_ascii_lowercase().chars().take(HOLDER).collect(),
        };
        format!("{}#{of}", self.name)
    }
}

/// The namespaces in which a caller may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// All of them.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Visible {
    /// Whether the namespace is one of them.
    #[must_use]
    pub fn has(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(namespace),
        }
    }
}

/// Knows callers. Clones share what they know.
#[derive(Clone)]
pub struct Auth {
    /// None where nobody is asked.
    reviews: Option<Reviews>,
    tokens: Tokens,
    limits: Arc<Limits>,
    proxies: Arc<Proxies>,
}

impl Auth {
    /// With `rate` calls a second for each caller, and twice as many at once. Without a client, nobody is asked who he is.
    #[must_use]
    pub fn new(client: Option<Client>, tokens: Tokens, rate: u32, metrics: Arc<Metrics>) -> Self {
        Self {
            reviews: client.map(|client| Reviews::new(client, metrics)),
            tokens,
            limits: Arc::new(Limits::new(rate)),
            proxies: Arc::default(),
        }
    }

    /// Takes tokens of Kubernetes for one of these audiences only; for the API server's own where there are none.
    #[must_use]
    pub fn for_audiences(self, audiences: Vec<String>) -> Self {
        Self { reviews: self.reviews.map(|reviews| reviews.for_audiences(audiences)), ..self }
    }

    /// Believes what these proxies say of the addresses of callers.
    #[must_use]
    pub fn behind(self, proxies: Proxies) -> Self {
        Self { proxies: Arc::new(proxies), ..self }
    }

    /// The audience that a token of Kubernetes is to be made for; none where it is the API server's own.
    pub(super) fn audience(&self) -> Option<&str> {
        self.reviews.as_ref()?.audiences().first().map(String::as_str)
    }

    /// The address of the caller behind trusted proxies.
    pub(super) fn address(&self, extensions: &Extensions, headers: &HeaderMap) -> IpAddr {
        let info = extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
        self.proxies.caller(peer, headers)
    }

    /// Forgets callers who have not called for long.
    pub fn forget(&self) {
        self.limits.forget();
    }

    /// Has the API server asked anew.
    #[cfg(test)]
    pub(super) fn forget_answers(&self) {
        if let Some(reviews) = &self.reviews {
            reviews.forget();
        }
    }

    /// Who it is.
    async fn identify(&self, headers: &HeaderMap, from: IpAddr) -> Result<Caller, ApiError> {
        let token = if self.asks() { bearer(headers)? } else { "" };
        self.known(token, from).await
    }

    /// Whether callers are asked who they are at all.
    #[must_use]
    pub(super) fn asks(&self) -> bool {
        self.reviews.is_some()
    }

    /// Whose token it is.
    pub(super) async fn known(&self, token: &str, from: IpAddr) -> Result<Caller, ApiError> {
        let Some(reviews) = &self.reviews else {
            return Ok(Caller { name: "anybody".into(), from, identity: Identity::Anybody, token: None });
        };
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(ApiError::unauthorized("there is no such token"));
        }
        let (name, identity) = self.look_up(reviews, token, from).await?;
        Ok(Caller { name, from, identity, token: Some(Bearer(token.into())) })
    }

    async fn look_up(&self, reviews: &Reviews, token: &str, from: IpAddr) -> Result<(String, Identity), ApiError> {
        if token.starts_with(tokens::PREFIX) {
            return match self.tokens.check(token, Timestamp::now()) {
                Ok((name, entry)) => Ok((format!("token:{name}"), Identity::Token { entry: Box::new(entry) })),
                Err(tokens::Refused::OutOfReach) => Err(out_of_reach()),
                Err(why) => {
                    self.limits.wrong(from)?;
                    let expired = why == tokens::Refused::Expired;
                    Err(ApiError::unauthorized(if expired {
                        "the API token has expired"
                    } else {
                        "there is no such API token"
                    }))
                }
            };
        }
        match shape::hopeless(token, Timestamp::now()) {
            Some(Hopeless::Malformed) => return Err(ApiError::unauthorized("this is no token: see /docs")),
            Some(Hopeless::Expired) => return Err(ApiError::unauthorized("the token has expired")),
            None => {}
        }
        let print = reviews.print(token);
        let user = if let Some(known) = reviews.known(&print).await {
            known
        } else {
            self.limits.unknown(&print, from).await?;
            let user = reviews.user(token).await?;
            self.limits.note(print, user.is_some()).await;
            user
        };
        let user = user.ok_or_else(|| unknown(token, reviews.audiences()))?;
        Ok((format!("user:{}", user.username.as_deref().unwrap_or_default()), Identity::User(user)))
    }

    /// Lets a caller in: notes for the log who it is, and counts the call.
    pub(super) fn admit(&self, caller: &Caller, extensions: &Extensions) -> Result<(), ApiError> {
        if let Some(who) = extensions.get::<Who>() {
            // Filled once: a call has one caller.
            let _ = who.0.set(caller.name.clone());
        }
        self.limits.call(&caller.name)
    }

    /// Whether he may do that in the namespace. The error says what right is missing.
    pub async fn authorize(&self, caller: &Caller, deed: Deed, namespace: &str) -> Result<(), ApiError> {
        if self.allows(caller, deed, Some(namespace)).await? {
            return Ok(());
        }
        Err(forbidden(caller, deed, &format!("in the namespace {namespace}")))
    }

    /// The namespaces in which he may do that. A user of Kubernetes may in all of them, or is told to name one.
    pub async fn visible(&self, caller: &Caller, deed: Deed) -> Result<Visible, ApiError> {
        if let Identity::Token { entry } = &caller.identity
            && entry.namespaces.iter().all(|name| name != ALL_NAMESPACES)
        {
            return Ok(Visible::Only(entry.namespaces.iter().cloned().collect()));
        }
        if self.allows(caller, deed, None).await? {
            return Ok(Visible::All);
        }
        Err(forbidden(caller, deed, "in all namespaces: name one by ?namespace="))
    }

    /// Whether a caller may list the cluster's nodes. The error says what is missing.
    pub(super) async fn nodes(&self, caller: &Caller) -> Result<(), ApiError> {
        let deed = Deed { verb: "list", resource: "nodes" };
        if self.allows(caller, deed, None).await? {
            return Ok(());
        }
        Err(match caller.identity {
            Identity::Token { .. } => {
                let words = "may not list nodes: that takes an API token for all namespaces, or one made with --nodes";
                ApiError::new(StatusCode::FORBIDDEN, format!("{} {words}", caller.name))
            }
            _ => ApiError::new(StatusCode::FORBIDDEN, format!("{} may not list nodes", caller.name)),
        })
    }

    /// Whether he may; in every namespace where none is named.
    pub async fn allows(&self, caller: &Caller, deed: Deed, namespace: Option<&str>) -> Result<bool, ApiError> {
        Ok(match &caller.identity {
            Identity::Anybody => true,
            Identity::Token { entry } => {
                let all = entry.namespaces.iter().any(|name| name == ALL_NAMESPACES);
                let named = namespace.is_some_and(|wanted| entry.namespaces.iter().any(|name| name == wanted));
                let place = all || named || deed.resource == "nodes" && entry.nodes;
                place && (deed.is_read() || !entry.read_only)
            }
            Identity::User(user) => match &self.reviews {
                Some(reviews) => reviews.may((&caller.name, user), deed, namespace, &self.limits).await?,
                None => false,
            },
        })
    }

    /// A caller who was let in before, with the identity that the token has now; none where the token is not good any more.
    async fn renewed(&self, caller: &Caller) -> Result<Option<Caller>, ApiError> {
        let (Some(reviews), Some(Bearer(token))) = (&self.reviews, &caller.token) else {
            return Ok(Some(caller.clone()));
        };
        let identity = match &caller.identity {
            Identity::Token { .. } => match self.tokens.check(token, Timestamp::now()) {
                Ok((_, entry)) => Some(Identity::Token { entry: Box::new(entry) }),
                Err(tokens::Refused::OutOfReach) => return Err(out_of_reach()),
                Err(_) => None,
            },
            _ => reviews.user(token).await?.map(Identity::User),
        };
        Ok(identity.map(|identity| Caller { identity, ..caller.clone() }))
    }
}

/// Revoked tokens cannot be told from good ones.
fn out_of_reach() -> ApiError {
    let words = "API tokens are not accepted at the moment: this server cannot read the Secret that they are in";
    ApiError::later(StatusCode::SERVICE_UNAVAILABLE, words, 5)
}

/// What to do about a token that the API server does not know.
fn unknown(token: &str, audiences: &[String]) -> ApiError {
    let Some(ours) = audiences.first() else {
        return ApiError::unauthorized("the token is none of this cluster, or has expired");
    };
    let make = format!("kubectl create token NAME --audience {ours}");
    ApiError::unauthorized(&match shape::other_audience(token, audiences) {
        Some(theirs) => format!("the token is for the audience {theirs}; this server takes those for {ours}: {make}"),
        None => format!("the token is none of this cluster, is not for the audience {ours}, or has expired: {make}"),
    })
}

fn forbidden(caller: &Caller, deed: Deed, place: &str) -> ApiError {
    let Deed { verb, resource } = deed;
    ApiError::new(StatusCode::FORBIDDEN, format!("{} may not {verb} {resource} {place}", caller.name))
}

/// The token of the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let how = "send a token: -H \"Authorization: Bearer $TOKEN\"";
    let value = all.next().ok_or_else(|| ApiError::unauthorized(how))?;
    if all.next().is_some() {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "there is more than one Authorization header"));
    }
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let token = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    token.filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN).ok_or_else(|| ApiError::unauthorized(how))
}

/// The address of the caller of a request, as the first layer has found it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallerAddress(pub(super) IpAddr);

/// Where a request comes from.
pub(super) fn peer(extensions: &Extensions) -> IpAddr {
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
        let caller = auth.identify(&parts.headers, peer(&parts.extensions)).await?;
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
    fn headers(#[case] values: &[&'static str], #[case] expected: Result<&str, u16>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        assert_eq!(bearer(&headers).map_err(|error| error.code.as_u16()), expected);
    }

    fn caller(namespaces: &[&str], read_only: bool) -> Caller {
        let entry = TokenEntry {
            sha256: String::new(),
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            read_only,
            nodes: false,
            expires_at: None,
        };
        let identity = Identity::Token { entry: Box::new(entry) };
        Caller { name: "token:ci".into(), from: IpAddr::V4(Ipv4Addr::LOCALHOST), identity, token: None }
    }

    #[tokio::test]
    async fn what_tokens_may() {
        let auth = Auth::new(None, Tokens::default(), 5, Arc::new(Metrics::new().unwrap()));
        let may = async |caller: &Caller, verb, resource, namespace| {
            auth.allows(caller, Deed { verb, resource }, namespace).await.unwrap()
        };
        let shop = caller(&["shop"], false);
        assert!(may(&shop, "create", "prewarmtasks", Some("shop")).await);
        assert!(!may(&shop, "create", "prewarmtasks", Some("bank")).await);
        assert!(!may(&shop, "list", "prewarmtasks", None).await);
        assert!(!may(&shop, "list", "nodes", None).await);
        let mut seer = caller(&["shop"], true);
        if let Identity::Token { entry } = &mut seer.identity {
            entry.nodes = true;
        }
        assert!(may(&seer, "list", "nodes", None).await && !may(&seer, "list", "prewarmtasks", None).await);
        let reader = caller(&["*"], true);
        assert!(
            may(&reader, "list", "prewarmtasks", None).await && may(&reader, "get", "prewarmtasks", Some("bank")).await
        );
        assert!(may(&reader, "list", "nodes", None).await);
        assert!(!may(&reader, "patch", "prewarmtasks", Some("bank")).await);
        let list = Deed { verb: "list", resource: "prewarmtasks" };
        assert_eq!(auth.visible(&shop, list).await.unwrap(), Visible::Only(["shop".to_owned()].into()));
        assert_eq!(auth.visible(&reader, list).await.unwrap(), Visible::All);
    }

    /// What is printed of a caller, or of an error about one, must not be a credential.
    #[tokio::test]
    async fn tokens_are_not_printed() {
        let cluster = crate::api::fake::FakeCluster::default();
        cluster.user("very-secret", "anna", &["prewarmer"]);
        let metrics = Arc::new(Metrics::new().unwrap());
        let auth =
            Auth::new(Some(cluster.client()), Tokens::default(), 5, metrics).for_audiences(vec!["prewarmer".into()]);
        let caller = auth.known("very-secret", [10, 0, 0, 1].into()).await.unwrap();
        assert_eq!(caller.name, "user:anna");
        let text = format!("{caller:?} {:?}", Standing::new(caller.clone()));
        assert!(text.contains("(redacted)") && !text.contains("very-secret"), "{text}");
    }

    #[tokio::test]
    async fn tokens_for_another_audience_are_refused() {
        let cluster = crate::api::fake::FakeCluster::default();
        cluster.user("meant", "anna", &["prewarmer"]);
        cluster.user("whole", "anna", &[crate::api::fake::SERVER]);
        let auth = |audiences: &[&str]| {
            let audiences = audiences.iter().map(|one| (*one).to_owned()).collect();
            let metrics = Arc::new(Metrics::new().unwrap());
            Auth::new(Some(cluster.client()), Tokens::default(), 5, metrics).for_audiences(audiences)
        };
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ours = auth(&["prewarmer"]);
        assert!(ours.known("meant", from).await.is_ok());
        let refused = ours.known("whole", from).await.unwrap_err();
        assert_eq!(refused.code, StatusCode::UNAUTHORIZED);
        assert!(refused.message().contains("--audience prewarmer"), "{}", refused.message());
        let servers = auth(&[]);
        assert!(servers.known("whole", from).await.is_ok() && servers.known("meant", from).await.is_err());
        let both = auth(&["prewarmer", crate::api::fake::SERVER]);
        assert!(both.known("whole", from).await.is_ok() && both.known("meant", from).await.is_ok());
    }

    #[test]
    fn a_name_that_is_given_anew_holds_nothing_of_the_old_one() {
        let (one, other) = (caller(&["shop"], false), caller(&["shop"], false));
        let with = |caller: &Caller, sha256: &str| {
            let mut caller = caller.clone();
            if let Identity::Token { entry } = &mut caller.identity {
                entry.sha256 = sha256.into();
            }
            caller.holder()
        };
        assert_eq!(with(&one, "AB12"), with(&other, "ab12"));
        assert_ne!(with(&one, "ab12"), with(&other, "cd34"));
    }
}

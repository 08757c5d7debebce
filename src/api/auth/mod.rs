//! Who calls, and what he may do.
//!
//! Kubernetes is the access control: a bearer token of Kubernetes is reviewed by
//! the API server, and so is whether its owner may do to `PrewarmTask`s what he
//! asks for. Beside that there are API tokens, from a Secret.

mod reviews;
mod tokens;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, FromRef, FromRequestParts},
    http::{Extensions, HeaderMap, StatusCode, header, request::Parts},
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::Client;

use self::reviews::Reviews;
pub use self::{
    reviews::Deed,
    tokens::{ALL_NAMESPACES, TokenEntry, Tokens, digest, generate, is_name},
};
use super::{error::ApiError, front::Who};
use crate::metrics::Metrics;

/// Tokens that are not known yet, from one address in a second; and at once. Each costs a request to the API server. Behind a proxy
/// all callers have one address: with answers believed for 10 s this is room for 500 of them.
const GUESSES: (u32, u32) = (50, 200);
/// Longest token that is looked at: those of service accounts are 1 to 2 KB.
const MAX_TOKEN: usize = 8 * 1024;

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

/// Who a caller is, when he is asked once more.
enum Again {
    /// Nobody is asked, or nobody could answer.
    Same,
    /// His token is not good any more.
    Nobody,
    /// This.
    Now(Identity),
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For logs, and for what is counted: `user:NAME`, `token:NAME` or `anybody`.
    pub name: String,
    /// Where from.
    pub from: IpAddr,
    identity: Identity,
    token: Option<Arc<str>>,
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
    calls: Arc<DefaultKeyedRateLimiter<String>>,
    guesses: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

fn quota(per_second: u32, burst: u32) -> Quota {
    let positive = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(positive(per_second)).allow_burst(positive(burst))
}

impl Auth {
    /// With `rate` calls a second for each caller, and twice as many at once. Without a client, nobody is asked who he is.
    #[must_use]
    pub fn new(client: Option<Client>, tokens: Tokens, rate: u32, metrics: Arc<Metrics>) -> Self {
        Self {
            reviews: client.map(|client| Reviews::new(client, metrics)),
            tokens,
            calls: Arc::new(RateLimiter::keyed(quota(rate, rate.saturating_mul(2)))),
            guesses: Arc::new(RateLimiter::keyed(quota(GUESSES.0, GUESSES.1))),
        }
    }

    /// Forgets callers who have not called for long.
    pub fn forget(&self) {
        self.calls.retain_recent();
        self.guesses.retain_recent();
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
        Ok(Caller { name, from, identity, token: Some(token.into()) })
    }

    async fn look_up(&self, reviews: &Reviews, token: &str, from: IpAddr) -> Result<(String, Identity), ApiError> {
        if token.starts_with(tokens::PREFIX) {
            return match self.tokens.check(token, Timestamp::now()) {
                Ok((name, entry)) => Ok((format!("token:{name}"), Identity::Token { entry: Box::new(entry) })),
                Err(why) => {
                    self.guess(from)?;
                    let expired = why == tokens::Refused::Expired;
                    Err(ApiError::unauthorized(if expired {
                        "the API token has expired"
                    } else {
                        "there is no such API token"
                    }))
                }
            };
        }
        let user = if let Some(known) = reviews.known(token).await {
            known
        } else {
            self.guess(from)?;
            reviews.user(token).await?
        };
        let user = user.ok_or_else(|| ApiError::unauthorized("the token is none of this cluster, or has expired"))?;
        Ok((format!("user:{}", user.username.as_deref().unwrap_or_default()), Identity::User(user)))
    }

    fn guess(&self, from: IpAddr) -> Result<(), ApiError> {
        let refused = |not_until: governor::NotUntil<_>| too_many(not_until.wait_time_from(self.guesses.clock().now()));
        self.guesses.check_key(&from).map_err(refused)
    }

    /// Lets a caller in: notes for the log who it is, and counts the call.
    pub(super) fn admit(&self, caller: &Caller, extensions: &Extensions) -> Result<(), ApiError> {
        if let Some(who) = extensions.get::<Who>() {
            // Filled once: a call has one caller.
            let _ = who.0.set(caller.name.clone());
        }
        self.count(caller)
    }

    /// Counts a call.
    fn count(&self, caller: &Caller) -> Result<(), ApiError> {
        let refused = |not_until: governor::NotUntil<_>| too_many(not_until.wait_time_from(self.calls.clock().now()));
        self.calls.check_key(&caller.name).map_err(refused)
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

    /// Whether he may; in every namespace where none is named.
    pub async fn allows(&self, caller: &Caller, deed: Deed, namespace: Option<&str>) -> Result<bool, ApiError> {
        Ok(match &caller.identity {
            Identity::Anybody => true,
            Identity::Token { entry } => {
                let all = entry.namespaces.iter().any(|name| name == ALL_NAMESPACES);
                let named = namespace.is_some_and(|wanted| entry.namespaces.iter().any(|name| name == wanted));
                let place = all || named || deed.resource == "nodes";
                place && (deed.is_read() || !entry.read_only)
            }
            Identity::User(user) => match &self.reviews {
                Some(reviews) => reviews.may(user, deed, namespace).await?,
                None => false,
            },
        })
    }

    /// Whether a caller who was let in before is still who he was, and may still do that.
    pub async fn still_allows(&self, caller: &Caller, deed: Deed, namespace: &str) -> bool {
        match self.again(caller).await {
            Again::Same => true,
            Again::Nobody => false,
            Again::Now(identity) => {
                let caller = Caller { identity, ..caller.clone() };
                self.allows(&caller, deed, Some(namespace)).await.unwrap_or(true)
            }
        }
    }

    /// Whether the token of a caller who was let in before is still good.
    pub(super) async fn is_still_known(&self, caller: &Caller) -> bool {
        !matches!(self.again(caller).await, Again::Nobody)
    }

    /// Who a caller is now.
    async fn again(&self, caller: &Caller) -> Again {
        let (Some(reviews), Some(token)) = (&self.reviews, &caller.token) else { return Again::Same };
        let again = match &caller.identity {
            Identity::Token { .. } => {
                let found = self.tokens.check(token, Timestamp::now()).ok();
                found.map(|(_, entry)| Identity::Token { entry: Box::new(entry) })
            }
            // That the API server does not answer is no reason to turn him out.
            _ => match reviews.user(token).await {
                Ok(user) => user.map(Identity::User),
                Err(_) => return Again::Same,
            },
        };
        again.map_or(Again::Nobody, Again::Now)
    }
}

fn too_many(wait: Duration) -> ApiError {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    ApiError::later(StatusCode::TOO_MANY_REQUESTS, format!("too many calls: try again in {seconds} s"), seconds)
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

/// Where a request comes from.
pub(super) fn peer(extensions: &Extensions) -> IpAddr {
    let info = extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip())
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
        assert!(may(&shop, "list", "nodes", None).await);
        let reader = caller(&["*"], true);
        assert!(
            may(&reader, "list", "prewarmtasks", None).await && may(&reader, "get", "prewarmtasks", Some("bank")).await
        );
        assert!(!may(&reader, "patch", "prewarmtasks", Some("bank")).await);
        let list = Deed { verb: "list", resource: "prewarmtasks" };
        assert_eq!(auth.visible(&shop, list).await.unwrap(), Visible::Only(["shop".to_owned()].into()));
        assert_eq!(auth.visible(&reader, list).await.unwrap(), Visible::All);
    }

    #[test]
    fn calls_are_limited_by_caller() {
        let auth = Auth::new(None, Tokens::default(), 5, Arc::new(Metrics::new().unwrap()));
        let (one, mut other) = (caller(&[], false), caller(&[], false));
        other.name = "token:other".into();
        // However slow the machine is, it is not so slow that a thousand are let in.
        let refused: Vec<ApiError> = (0..1000).filter_map(|_| auth.count(&one).err()).collect();
        assert!(refused.len() <= 990 && refused[0].code == StatusCode::TOO_MANY_REQUESTS, "{}", refused.len());
        assert!(auth.count(&other).is_ok());
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let taken = (0..100 * GUESSES.1).take_while(|_| auth.guess(from).is_ok()).count();
        assert!(taken >= GUESSES.1 as usize && taken < 100 * GUESSES.1 as usize, "{taken}");
    }
}

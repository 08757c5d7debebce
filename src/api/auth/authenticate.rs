//! Authentication of callers by their tokens.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::ConnectInfo,
    http::{Extensions, HeaderMap, StatusCode},
};
use jiff::Timestamp;
use kube::Client;

use super::{
    caller::{BearerToken, Caller, CallerIdentity, CallerName},
    limits::AuthLimits,
    proxies::TrustedProxies,
    reviews::ReviewClient,
    token_format::{self, TokenDefect},
    tokens::{ApiTokens, TOKEN_PREFIX, TokenRejection},
};
use crate::api::error::ApiError;

/// Maximum length of a token in bytes; longer ones are rejected. Tokens of service accounts have 1
/// to 2 KB.
pub(super) const MAX_TOKEN_LEN: usize = 8 * 1024;

/// Authenticator and authorizer of callers. Clones share tokens, cached reviews and rate limits.
#[derive(Clone)]
pub struct Auth {
    /// Client of the API server's reviews; `None` without authentication.
    pub(super) reviews: Option<ReviewClient>,
    tokens: ApiTokens,
    pub(super) limits: Arc<AuthLimits>,
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
    pub(in crate::api) fn audience(&self) -> Option<&str> {
        self.reviews.as_ref()?.audiences().first().map(String::as_str)
    }

    /// Returns the client address of a request, behind trusted proxies.
    pub(in crate::api) fn resolve_address(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> IpAddr {
        let info = extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
        self.proxies.client_address(peer, headers)
    }

    /// Evicts the rate limiters of callers and addresses that have been idle.
    pub fn evict_idle(&self) {
        self.limits.evict_idle();
    }

    /// Clears the cached reviews, so that the API server reviews again.
    pub fn clear_cached_reviews(&self) {
        if let Some(reviews) = &self.reviews {
            reviews.clear();
        }
    }

    /// Reports whether callers must send a token.
    #[must_use]
    pub(in crate::api) fn requires_token(&self) -> bool {
        self.reviews.is_some()
    }

    /// Authenticates a token; without authentication, returns an anonymous caller.
    pub(in crate::api) async fn authenticate(
        &self,
        token: &str,
        from: IpAddr,
    ) -> Result<Caller, ApiError> {
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
        if token.starts_with(TOKEN_PREFIX) {
            return match self.tokens.verify(token, Timestamp::now()) {
                Ok((name, entry)) => {
                    Ok((format!("token:{name}"), CallerIdentity::Token { entry: Box::new(entry) }))
                }
                Err(TokenRejection::SecretUnavailable) => Err(tokens_unavailable()),
                Err(why) => {
                    self.limits.count_invalid_api_token(from)?;
                    let expired = why == TokenRejection::Expired;
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
    pub(in crate::api) fn admit(
        &self,
        caller: &Caller,
        extensions: &Extensions,
    ) -> Result<(), ApiError> {
        if let Some(who) = extensions.get::<CallerName>() {
            // Set once: a call has one caller.
            let _ = who.0.set(caller.name.clone());
        }
        self.limits.count_call(&caller.name)
    }

    /// Authenticates the caller's token again and returns the caller with its current identity;
    /// `None` if the token is no longer valid.
    pub(super) async fn reauthenticate(&self, caller: &Caller) -> Result<Option<Caller>, ApiError> {
        let (Some(reviews), Some(BearerToken(token))) = (&self.reviews, &caller.token) else {
            return Ok(Some(caller.clone()));
        };
        let identity = match &caller.identity {
            CallerIdentity::Token { .. } => match self.tokens.verify(token, Timestamp::now()) {
                Ok((_, entry)) => Some(CallerIdentity::Token { entry: Box::new(entry) }),
                Err(TokenRejection::SecretUnavailable) => return Err(tokens_unavailable()),
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

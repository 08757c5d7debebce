//! Reviews of Kubernetes tokens (`TokenReview`) and permissions (`SubjectAccessReview`) by the API
//! server, with a short-lived cache.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Client, Resource, api::PostParams, core::Request};
use moka::future::Cache;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{
    fingerprint::{Fingerprint, FingerprintKey},
    limits::AuthLimits,
};
use crate::api::error::ApiError;

/// Lifetime of a cached review: the maximum time for which a revoked permission still takes effect.
const REVIEW_TTL: Duration = Duration::from_secs(10);
/// Maximum size of the cache of users in bytes. A user from a directory may have hundreds of
/// groups, about 10 KB: 16 MiB hold a thousand such users, or 40,000 service accounts.
const MAX_USERS_BYTES: u64 = 16 << 20;
/// Maximum number of cached unauthenticated tokens, and of cached access reviews, of some hundred
/// bytes each. They are separate from the users, so that a flood of invalid tokens does not evict
/// users.
const MAX_CACHED_REVIEWS: u64 = 10_000;
/// Timeout of one review, including the wait for a permit.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of concurrent reviews. More would only slow down an overloaded API server.
const MAX_CONCURRENT_REVIEWS: usize = 64;
/// API group of tasks and schedules.
const API_GROUP: &str = "prewarm.io";

/// Verb on a resource that a caller needs permission for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permission {
    /// Kubernetes verb, such as `create`.
    pub verb: &'static str,
    /// Plural resource name, such as `prewarmtasks`.
    pub resource: &'static str,
}

impl Permission {
    /// Reports whether the verb is `get`, `list` or `watch`.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    fn group(self) -> &'static str {
        if self.resource == "nodes" { "" } else { API_GROUP }
    }
}

type AccessQuery = (Fingerprint, Permission, String);

/// Client of the API server's review endpoints. Clones share the caches.
#[derive(Clone)]
pub(super) struct ReviewClient {
    client: Client,
    audiences: Arc<[String]>,
    fingerprint_key: FingerprintKey,
    users: Cache<Fingerprint, Arc<UserInfo>>,
    unauthenticated: Cache<Fingerprint, ()>,
    access: Cache<AccessQuery, bool>,
    permits: Arc<Semaphore>,
}

/// Reason why a token has no user.
#[derive(Debug)]
enum ReviewMiss {
    Unauthenticated,
    Error(ApiError),
}

impl ReviewClient {
    pub(super) fn new(client: Client) -> Self {
        let weight = |_: &Fingerprint, user: &Arc<UserInfo>| {
            u32::try_from(200 + serde_json::to_vec(&**user).map_or(0, |text| text.len()))
                .unwrap_or(u32::MAX)
        };
        Self {
            client,
            audiences: Arc::default(),
            fingerprint_key: FingerprintKey::default(),
            users: Cache::builder()
                .max_capacity(MAX_USERS_BYTES)
                .weigher(weight)
                .time_to_live(REVIEW_TTL)
                .build(),
            unauthenticated: Cache::builder()
                .max_capacity(MAX_CACHED_REVIEWS)
                .time_to_live(REVIEW_TTL)
                .build(),
            access: Cache::builder()
                .max_capacity(MAX_CACHED_REVIEWS)
                .time_to_live(REVIEW_TTL)
                .build(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_REVIEWS)),
        }
    }

    /// Accepts only tokens for one of these audiences. An empty list stands for the API server's
    /// own audience.
    pub(super) fn with_audiences(self, audiences: Vec<String>) -> Self {
        Self { audiences: audiences.into(), ..self }
    }

    /// Returns the audiences of which a token needs one.
    pub(super) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub(super) fn fingerprint(&self, token: &str) -> Fingerprint {
        self.fingerprint_key.fingerprint(token.as_bytes())
    }

    /// Returns the cached review of a token, if any: its user, or `None` for an unauthenticated
    /// token.
    pub(super) async fn cached_review(&self, print: &Fingerprint) -> Option<Option<Arc<UserInfo>>> {
        if let Some(user) = self.users.get(print).await {
            return Some(Some(user));
        }
        self.unauthenticated.get(print).await.map(|()| None)
    }

    /// Reviews a token and returns its user; `None` if the API server does not authenticate it.
    pub(super) async fn review_token(
        &self,
        token: &str,
    ) -> Result<Option<Arc<UserInfo>>, ApiError> {
        let print = self.fingerprint(token);
        if self.unauthenticated.get(&print).await.is_some() {
            return Ok(None);
        }
        let ask = async {
            let audiences = Some(self.audiences.to_vec()).filter(|audiences| !audiences.is_empty());
            let review = TokenReview {
                spec: TokenReviewSpec { token: token.to_owned(), audiences },
                ..TokenReview::default()
            };
            let answer = self.create_review(&review).await.map_err(ReviewMiss::Error)?;
            authenticated_user(answer.status.unwrap_or_default(), &self.audiences)
                .map(Arc::new)
                .ok_or(ReviewMiss::Unauthenticated)
        };
        match self.users.try_get_with(print, ask).await {
            Ok(user) => Ok(Some(user)),
            Err(missed) => match &*missed {
                ReviewMiss::Unauthenticated => {
                    self.unauthenticated.insert(print, ()).await;
                    Ok(None)
                }
                ReviewMiss::Error(error) => Err(error.clone()),
            },
        }
    }

    /// Reports whether the caller has the permission in the namespace, or in all namespaces if
    /// `None`.
    pub(super) async fn review_access(
        &self,
        (name, user): (&str, &UserInfo),
        deed: Permission,
        namespace: Option<&str>,
        limits: &AuthLimits,
    ) -> Result<bool, ApiError> {
        let who = serde_json::to_vec(user).unwrap_or_default();
        let question = (
            self.fingerprint_key.fingerprint(&who),
            deed,
            namespace.unwrap_or_default().to_owned(),
        );
        let ask = async {
            limits.count_access_review(name)?;
            let extra =
                user.extra.clone().map(|extra| extra.into_iter().collect::<BTreeMap<_, _>>());
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: user.username.clone(),
                    groups: user.groups.clone(),
                    uid: user.uid.clone(),
                    extra,
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(deed.group().into()),
                        resource: Some(deed.resource.into()),
                        verb: Some(deed.verb.into()),
                        namespace: namespace.map(str::to_owned),
                        ..ResourceAttributes::default()
                    }),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            Ok(self.create_review(&review).await?.status.is_some_and(|status| status.allowed))
        };
        self.access
            .try_get_with(question, ask)
            .await
            .map_err(|error: Arc<ApiError>| (*error).clone())
    }

    /// Sends one review to the API server and returns its result, within [`REVIEW_TIMEOUT`].
    async fn create_review<K>(&self, review: &K) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let asked = async {
            // The semaphore is never closed, so this cannot fail.
            let _room = self.permits.acquire().await.ok();
            let text = serde_json::to_vec(review).map_err(kube::Error::SerdeError)?;
            let request = Request::new(K::url_path(&(), None)).create(&PostParams::default(), text);
            // Read as text: the client would log a response that it cannot parse, and the response
            // contains the token.
            let answer =
                self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
            serde_json::from_str(&answer).map_err(kube::Error::SerdeError)
        };
        match tokio::time::timeout(REVIEW_TIMEOUT, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(review_unavailable(&error)),
            Err(_) => Err(review_unavailable(&"request timed out")),
        }
    }

    /// Clears the caches.
    pub(super) fn clear(&self) {
        self.users.invalidate_all();
        self.unauthenticated.invalidate_all();
        self.access.invalidate_all();
    }
}

/// Returns the user of an authenticated token if the token is for one of the audiences. A status
/// without audiences means that the token is valid for the API server only: not every authenticator
/// supports audiences.
fn authenticated_user(status: TokenReviewStatus, audiences: &[String]) -> Option<UserInfo> {
    let theirs = status.audiences.unwrap_or_default();
    let meant = audiences.is_empty() || theirs.iter().any(|one| audiences.contains(one));
    let user =
        status.user.filter(|user| user.username.as_deref().is_some_and(|name| !name.is_empty()));
    user.filter(|_| status.authenticated == Some(true) && meant)
}

/// Returns the error for a failed review: a missing permission of the server or an unreachable API
/// server is not an error of the caller.
fn review_unavailable(error: &dyn std::fmt::Display) -> ApiError {
    tracing::warn!(%error, "review of a token or permission by the API server failed");
    ApiError::retry_after(
        StatusCode::SERVICE_UNAVAILABLE,
        "the cluster's API server could not review the token or permission: retry later",
        2,
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Some(true), "anna", &["prewarmer"], &["prewarmer"], true)]
    #[case(Some(true), "anna", &["other", "prewarmer"], &["prewarmer", "more"], true)]
    #[case(Some(true), "anna", &["other"], &["prewarmer"], false)]
    // An authenticator without support for audiences: the token is for the API server.
    #[case(Some(true), "anna", &[], &["prewarmer"], false)]
    #[case(Some(true), "anna", &[], &[], true)]
    #[case(Some(true), "anna", &["https://kubernetes.default.svc"], &[], true)]
    #[case(Some(true), "", &["prewarmer"], &["prewarmer"], false)]
    #[case(Some(false), "anna", &["prewarmer"], &["prewarmer"], false)]
    #[case(None, "anna", &["prewarmer"], &["prewarmer"], false)]
    fn review_status_determines_the_user(
        #[case] authenticated: Option<bool>,
        #[case] name: &str,
        #[case] theirs: &[&str],
        #[case] ours: &[&str],
        #[case] good: bool,
    ) {
        let texts = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let status = TokenReviewStatus {
            authenticated,
            audiences: Some(texts(theirs)),
            user: Some(UserInfo { username: Some(name.into()), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        };
        assert_eq!(authenticated_user(status, &texts(ours)).is_some(), good);
    }
}

//! Who a bearer token of Kubernetes is, and what he may do: asked of the API server, and remembered for a moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Client, Resource, api::PostParams, core::Request};
use moka::future::Cache;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::limits::Limits;
use crate::{api::error::ApiError, metrics::Metrics};

/// How long an answer is believed: so long may a right that was taken away still be used.
const BELIEVED: Duration = Duration::from_secs(10);
/// Bytes of users that are remembered. A user of a directory may have hundreds of groups, some 10 KB: 16 MiB hold a thousand of
/// those, and 40,000 service accounts.
const MAX_USERS: u64 = 16 << 20;
/// Tokens that are remembered as nobody's, and answers about rights, of some hundred bytes each. Apart from the users, so that a
/// flood of guesses displaces none of them.
const MAX_ANSWERS: u64 = 10_000;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that wait for answers at once. When the API server is slow, more would only make it slower.
const MAX_AT_ONCE: usize = 64;
/// The group of tasks and schedules.
const GROUP: &str = "prewarm.io";

/// What is to be done to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Deed {
    /// The verb of Kubernetes.
    pub verb: &'static str,
    /// The plural of the kind.
    pub resource: &'static str,
}

impl Deed {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    fn group(self) -> &'static str {
        if self.resource == "nodes" { "" } else { GROUP }
    }
}

/// What is remembered of a text in its place.
pub(super) type Fingerprint = [u8; 32];

/// Makes fingerprints. They are keyed by chance: those of one process tell nothing to whoever reads the memory of another.
#[derive(Clone)]
pub(super) struct Fingerprints([u8; 32]);

impl Default for Fingerprints {
    fn default() -> Self {
        Self(rand::random())
    }
}

impl Fingerprints {
    pub(super) fn of(&self, text: &[u8]) -> Fingerprint {
        Sha256::new().chain_update(self.0).chain_update(text).finalize().into()
    }
}

type Question = (Fingerprint, Deed, String);

/// Asks the API server. Clones share what it has answered.
#[derive(Clone)]
pub(super) struct Reviews {
    client: Client,
    metrics: Arc<Metrics>,
    audiences: Arc<[String]>,
    prints: Fingerprints,
    users: Cache<Fingerprint, Arc<UserInfo>>,
    nobody: Cache<Fingerprint, ()>,
    rights: Cache<Question, bool>,
    room: Arc<Semaphore>,
}

/// Whose a token is not.
#[derive(Debug)]
enum Missed {
    Nobody,
    Error(ApiError),
}

impl Reviews {
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        let weight = |_: &Fingerprint, user: &Arc<UserInfo>| {
            u32::try_from(200 + serde_json::to_vec(&**user).map_or(0, |text| text.len())).unwrap_or(u32::MAX)
        };
        Self {
            client,
            metrics,
            audiences: Arc::default(),
            prints: Fingerprints::default(),
            users: Cache::builder().max_capacity(MAX_USERS).weigher(weight).time_to_live(BELIEVED).build(),
            nobody: Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(BELIEVED).build(),
            rights: Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(BELIEVED).build(),
            room: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        }
    }

    /// Takes tokens for one of these audiences only; for the API server's own where there are none.
    pub(super) fn for_audiences(self, audiences: Vec<String>) -> Self {
        Self { audiences: audiences.into(), ..self }
    }

    /// The audiences that tokens must be for.
    pub(super) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub(super) fn print(&self, token: &str) -> Fingerprint {
        self.prints.of(token.as_bytes())
    }

    /// What is remembered of a token: nothing, or the answer.
    pub(super) async fn known(&self, print: &Fingerprint) -> Option<Option<Arc<UserInfo>>> {
        if let Some(user) = self.users.get(print).await {
            return Some(Some(user));
        }
        self.nobody.get(print).await.map(|()| None)
    }

    /// Whose token it is; nobody's where there is none.
    pub(super) async fn user(&self, token: &str) -> Result<Option<Arc<UserInfo>>, ApiError> {
        let print = self.print(token);
        if self.nobody.get(&print).await.is_some() {
            return Ok(None);
        }
        let ask = async {
            let audiences = Some(self.audiences.to_vec()).filter(|audiences| !audiences.is_empty());
            let review =
                TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences }, ..TokenReview::default() };
            let answer = self.ask("tokenreviews", &review).await.map_err(Missed::Error)?;
            accepted(answer.status.unwrap_or_default(), &self.audiences).map(Arc::new).ok_or(Missed::Nobody)
        };
        match self.users.try_get_with(print, ask).await {
            Ok(user) => Ok(Some(user)),
            Err(missed) => match &*missed {
                Missed::Nobody => {
                    self.nobody.insert(print, ()).await;
                    Ok(None)
                }
                Missed::Error(error) => Err(error.clone()),
            },
        }
    }

    /// Whether a caller of this name may; in every namespace where none is named.
    pub(super) async fn may(
        &self,
        (name, user): (&str, &UserInfo),
        deed: Deed,
        namespace: Option<&str>,
        limits: &Limits,
    ) -> Result<bool, ApiError> {
        let who = serde_json::to_vec(user).unwrap_or_default();
        let question = (self.prints.of(&who), deed, namespace.unwrap_or_default().to_owned());
        let ask = async {
            limits.question(name)?;
            let extra = user.extra.clone().map(|extra| extra.into_iter().collect::<BTreeMap<_, _>>());
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
            Ok(self.ask("subjectaccessreviews", &review).await?.status.is_some_and(|status| status.allowed))
        };
        self.rights.try_get_with(question, ask).await.map_err(|error: Arc<ApiError>| (*error).clone())
    }

    /// Asks the API server one question, within [`PATIENCE`].
    async fn ask<K>(&self, resource: &str, review: &K) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let asked = async {
            // The semaphore is never closed.
            let _room = self.room.acquire().await.ok();
            self.metrics.kube_requests.with_label_values(&["create", resource]).inc();
            let text = serde_json::to_vec(review).map_err(kube::Error::SerdeError)?;
            let request = Request::new(K::url_path(&(), None)).create(&PostParams::default(), text);
            // As text: an answer that cannot be read is logged by the client, and the token stands in it.
            let answer = self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
            serde_json::from_str(&answer).map_err(kube::Error::SerdeError)
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(unavailable(&"no answer in time")),
        }
    }

    /// Forgets all answers.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.users.invalidate_all();
        self.nobody.invalidate_all();
        self.rights.invalidate_all();
    }
}

/// Whom the API server says that a token belongs to, if it is for one of the audiences. Where the answer names none, the token is
/// good for the API server itself and no other: not every authenticator knows of audiences.
fn accepted(status: TokenReviewStatus, audiences: &[String]) -> Option<UserInfo> {
    let theirs = status.audiences.unwrap_or_default();
    let meant = audiences.is_empty() || theirs.iter().any(|one| audiences.contains(one));
    let user = status.user.filter(|user| user.username.as_deref().is_some_and(|name| !name.is_empty()));
    user.filter(|_| status.authenticated == Some(true) && meant)
}

/// That we may not ask, or cannot, is not the caller's fault.
fn unavailable(error: &dyn std::fmt::Display) -> ApiError {
    tracing::warn!(%error, "the API server did not say who a caller is, or what he may do");
    ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "the cluster's API server did not say who you are", 2)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Some(true), "anna", &["prewarmer"], &["prewarmer"], true)]
    #[case(Some(true), "anna", &["other", "prewarmer"], &["prewarmer", "more"], true)]
    #[case(Some(true), "anna", &["other"], &["prewarmer"], false)]
    // An authenticator that knows no audiences: the token is the API server's.
    #[case(Some(true), "anna", &[], &["prewarmer"], false)]
    #[case(Some(true), "anna", &[], &[], true)]
    #[case(Some(true), "anna", &["https://kubernetes.default.svc"], &[], true)]
    #[case(Some(true), "", &["prewarmer"], &["prewarmer"], false)]
    #[case(Some(false), "anna", &["prewarmer"], &["prewarmer"], false)]
    #[case(None, "anna", &["prewarmer"], &["prewarmer"], false)]
    fn whom_a_review_names(
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
        assert_eq!(accepted(status, &texts(ours)).is_some(), good);
    }
}

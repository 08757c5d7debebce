//! Who a bearer token of Kubernetes is, and what he may do: asked of the API server, and remembered for a moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use moka::future::Cache;
use sha2::{Digest, Sha256};

use crate::{api::error::ApiError, metrics::Metrics};

/// How long an answer is believed: so long may a right that was taken away still be used.
const BELIEVED: Duration = Duration::from_secs(10);
/// Answers remembered at most, of some hundred bytes each.
const MAX_ANSWERS: u64 = 10_000;
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

type Question = ([u8; 32], Deed, String);

/// Asks the API server. Clones share what it has answered.
#[derive(Clone)]
pub(super) struct Reviews {
    client: Client,
    metrics: Arc<Metrics>,
    users: Cache<[u8; 32], Option<Arc<UserInfo>>>,
    rights: Cache<Question, bool>,
}

impl Reviews {
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            metrics,
            users: Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(BELIEVED).build(),
            rights: Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(BELIEVED).build(),
        }
    }

    /// What is remembered of a token: nothing, or the answer.
    pub(super) async fn known(&self, token: &str) -> Option<Option<Arc<UserInfo>>> {
        self.users.get(&fingerprint(token.as_bytes())).await
    }

    /// Whose token it is; nobody's where there is none.
    pub(super) async fn user(&self, token: &str) -> Result<Option<Arc<UserInfo>>, ApiError> {
        let ask = async {
            self.count("tokenreviews");
            let review = TokenReview {
                spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
                ..TokenReview::default()
            };
            let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await;
            let status = answer.map_err(|error| unavailable(&error))?.status.unwrap_or_default();
            Ok(status.user.filter(|_| status.authenticated == Some(true)).map(Arc::new))
        };
        self.users
            .try_get_with(fingerprint(token.as_bytes()), ask)
            .await
            .map_err(|error: Arc<ApiError>| (*error).clone())
    }

    /// Whether he may; in every namespace where none is named.
    pub(super) async fn may(&self, user: &UserInfo, deed: Deed, namespace: Option<&str>) -> Result<bool, ApiError> {
        let who = serde_json::to_vec(user).unwrap_or_default();
        let question = (fingerprint(&who), deed, namespace.unwrap_or_default().to_owned());
        let ask = async {
            self.count("subjectaccessreviews");
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
            let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await;
            Ok(answer.map_err(|error| unavailable(&error))?.status.is_some_and(|status| status.allowed))
        };
        self.rights.try_get_with(question, ask).await.map_err(|error: Arc<ApiError>| (*error).clone())
    }

    fn count(&self, resource: &str) {
        self.metrics.kube_requests.with_label_values(&["create", resource]).inc();
    }
}

fn fingerprint(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// That we may not ask, or cannot, is not the caller's fault.
fn unavailable(error: &kube::Error) -> ApiError {
    tracing::warn!(%error, "the API server did not say who a caller is, or what he may do");
    ApiError::later(axum::http::StatusCode::SERVICE_UNAVAILABLE, "the cluster's API server did not say who you are", 2)
}

//! `Idempotency-Key`: a call that is repeated makes no second task, whichever replica it comes to.
//!
//! Before the task a Lease is created whose name follows from the caller, the
//! namespace and the key, and which holds the task's name: of two calls one
//! creates it, and the other reads there which task is meant.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api as KubeApi, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Api, auth::Caller, error::ApiError};
use crate::{schedule::random_task_name, task::PrewarmTaskSpec};

/// Longest key.
const MAX_KEY: usize = 255;
/// How long a key is remembered at least.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// How often what is older is looked for.
const SWEEP: Duration = Duration::from_secs(1800);
/// Marks the Leases.
const LABEL: &str = "prewarm.io/idempotency";
/// On a Lease: the SHA-256 of what was asked for.
const DIGEST_ANNOTATION: &str = "prewarm.io/request-digest";

/// The key that a call carries.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= MAX_KEY);
    let expected = || ApiError::bad_field("Idempotency-Key", format!("expected 1 to {MAX_KEY} visible characters"));
    text.map(Some).ok_or_else(expected)
}

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    crate::hex(&hash.finalize())
}

/// The name of the task that is meant by the key, and whether it was meant before.
pub(super) async fn claim(
    api: &Api,
    caller: &Caller,
    namespace: &str,
    key: &str,
    spec: &PrewarmTaskSpec,
) -> Result<(String, bool), ApiError> {
    let asked = digest(&[namespace, &serde_json::to_string(spec).unwrap_or_default()]);
    let name = format!("{}-idem-{}", api.settings.object_name, &digest(&[&caller.holder(), namespace, key])[..40]);
    let task = random_task_name(Timestamp::now());
    let leases = KubeApi::<Lease>::namespaced(api.client.clone(), &api.settings.namespace);
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: owner(api, &leases).await?.map(|owner| vec![owner]),
            labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
            annotations: Some([(DIGEST_ANNOTATION.to_owned(), asked.clone())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec { holder_identity: Some(task.clone()), ..LeaseSpec::default() }),
    };
    api.count("create", "leases");
    let known = match leases.create(&PostParams::default(), &lease).await {
        Ok(_) => return Ok((task, false)),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            api.count("get", "leases");
            leases.get(&name).await?
        }
        Err(error) => return Err(error.into()),
    };
    if known.annotations().get(DIGEST_ANNOTATION) != Some(&asked) {
        let words = "this Idempotency-Key was used for another task: use another key";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, words));
    }
    let holder = known.spec.and_then(|spec| spec.holder_identity).unwrap_or(task);
    Ok((holder, true))
}

/// The Lease of the leader: with it the keys go, when we are uninstalled.
async fn owner(api: &Api, leases: &KubeApi<Lease>) -> Result<Option<OwnerReference>, ApiError> {
    api.count("get", "leases");
    let lease = leases.get_opt(&api.settings.object_name).await?;
    Ok(lease.and_then(|lease| lease.owner_ref(&())))
}

/// Forgets old keys until `stop`. Runs on the leader only.
pub async fn sweep(client: Client, namespace: String, stop: CancellationToken) {
    let leases = KubeApi::<Lease>::namespaced(client, &namespace);
    loop {
        match leases.list(&ListParams::default().labels(LABEL)).await {
            Ok(list) => {
                let now = Timestamp::now();
                let old = |lease: &&Lease| {
                    lease.creation_timestamp().is_some_and(|time| now.duration_since(time.0) > REMEMBERED)
                };
                for lease in list.items.iter().filter(old) {
                    if let Err(error) = leases.delete(&lease.name_any(), &DeleteParams::default()).await {
                        tracing::debug!(%error, "an old Idempotency-Key could not be forgotten");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "old Idempotency-Keys could not be looked for"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_apart() {
        assert_ne!(digest(&["a", "bc"]), digest(&["ab", "c"]));
        assert_eq!(digest(&["a"]), digest(&["a"]));
    }
}

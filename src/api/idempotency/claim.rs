//! Claim of a key, and the task that is created with it.

use axum::http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api as KubeApi, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use prewarmer_core::{
    schedule::random_task_name,
    task::{PrewarmTask, PrewarmTaskSpec},
};
use prewarmer_kube::api_error::ApiErrorKind;
use sha2::{Digest, Sha256};

use super::leases::{CALLER_LABEL, KEY_LABEL};
use crate::api::{Api, auth::Caller, error::ApiError, service::create_or_get};

/// Annotation of a Lease: SHA-256 of the requested namespace and spec.
const DIGEST_ANNOTATION: &str = "prewarm.io/request-digest";
/// Annotation of a Lease: the task was created.
const CREATED_ANNOTATION: &str = "prewarm.io/task-made";

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    prewarmer_core::hex(&hash.finalize())
}

/// Result of claiming a key.
enum KeyClaim {
    /// Lease created by this call.
    New(Lease),
    /// Lease created by an earlier call.
    Existing(Lease),
}

/// Creates the task of a key, or returns the one that an earlier call created, in which case the
/// flag is true. Concurrent calls get the same task. Errors: 422 when the key was used for another
/// request, 409 when its task was deleted.
pub(in crate::api) async fn create_or_get_by_key(
    api: &Api,
    caller: &Caller,
    namespace: &str,
    key: &str,
    spec: PrewarmTaskSpec,
) -> Result<(PrewarmTask, bool), ApiError> {
    let asked = digest(&[namespace, &serde_json::to_string(&spec).unwrap_or_default()]);
    let leases = KubeApi::<Lease>::namespaced(api.client.clone(), &api.settings.namespace);
    let (lease, first) = match claim_key(api, &leases, caller, (namespace, key), &asked).await? {
        KeyClaim::New(lease) => (lease, true),
        KeyClaim::Existing(lease) => (lease, false),
    };
    if lease.annotations().get(DIGEST_ANNOTATION) != Some(&asked) {
        let words = "this Idempotency-Key was used for a different request: use another key";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, words));
    }
    let name =
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
    if !first && lease.annotations().contains_key(CREATED_ANNOTATION) {
        let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
        let task = tasks.get_opt(&name).await?.ok_or_else(|| task_deleted_error(&name))?;
        return Ok((task, true));
    }
    let made = create_or_get(api, namespace, &name, spec, caller, true).await;
    match made.map_err(ApiError::from) {
        Ok(task) => {
            mark_created(&leases, lease).await;
            Ok((task, !first))
        }
        Err(error) if first && error.code.is_client_error() => {
            release_key(api, &leases, caller, &lease).await;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

fn task_deleted_error(name: &str) -> ApiError {
    let words = format!(
        "the task {name}, created with this Idempotency-Key, was deleted: use another key for a new task"
    );
    ApiError::conflict(words, "deleted")
}

/// Returns the digest of the caller as the value of a label.
fn caller_digest(caller: &Caller) -> String {
    digest(&[&caller.identity_key()]).chars().take(40).collect()
}

async fn claim_key(
    api: &Api,
    leases: &KubeApi<Lease>,
    caller: &Caller,
    (namespace, key): (&str, &str),
    asked: &str,
) -> Result<KeyClaim, ApiError> {
    let hash: String = digest(&[&caller.identity_key(), namespace, key]).chars().take(40).collect();
    let (name, whose) =
        (format!("{}-idem-{hash}", api.settings.object_prefix), caller_digest(caller));
    let get = async || leases.get_opt(&name).await;
    if let Err(full) = api.budgets.idempotency_keys.reserve(leases, &whose).await {
        // A key that is already stored needs no further capacity.
        return get().await?.map(KeyClaim::Existing).ok_or(full);
    }
    let made = async {
        let lease = key_lease(api, leases, (&name, &whose), asked).await?;
        Ok::<_, ApiError>(leases.create(&PostParams::default(), &lease).await)
    };
    match made.await {
        Ok(Ok(lease)) => return Ok(KeyClaim::New(lease)),
        Ok(Err(error)) if ApiErrorKind::of(&error) == ApiErrorKind::AlreadyExists => {}
        Ok(Err(error)) => {
            api.budgets.idempotency_keys.release(&whose).await;
            return Err(error.into());
        }
        Err(error) => {
            api.budgets.idempotency_keys.release(&whose).await;
            return Err(error);
        }
    }
    api.budgets.idempotency_keys.release(&whose).await;
    let busy = || {
        ApiError::retry_after(
            StatusCode::SERVICE_UNAVAILABLE,
            "an earlier call with this Idempotency-Key was rejected just now: try again",
            1,
        )
    };
    get().await?.map(KeyClaim::Existing).ok_or_else(busy)
}

/// Returns the Lease that stores a key of a caller and the digest of the call.
async fn key_lease(
    api: &Api,
    leases: &KubeApi<Lease>,
    (name, caller): (&str, &str),
    digest: &str,
) -> Result<Lease, ApiError> {
    let labels =
        [(KEY_LABEL.to_owned(), "true".to_owned()), (CALLER_LABEL.to_owned(), caller.to_owned())];
    Ok(Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: owner_reference(api, leases).await?.map(|owner| vec![owner]),
            labels: Some(labels.into()),
            annotations: Some([(DIGEST_ANNOTATION.to_owned(), digest.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(random_task_name(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    })
}

/// Annotates the Lease after the task was created. When that fails, the next call with the key
/// still finds the task, as long as it exists.
async fn mark_created(leases: &KubeApi<Lease>, mut lease: Lease) {
    lease.annotations_mut().insert(CREATED_ANNOTATION.to_owned(), "true".to_owned());
    match leases.replace(&lease.name_any(), &PostParams::default(), &lease).await {
        // Another call with the key has written the annotation.
        Ok(_) => {}
        Err(error) if ApiErrorKind::of(&error).is_conflict() => {}
        Err(error) => {
            tracing::warn!(%error, "failed to annotate the Lease of an Idempotency-Key after its task was created");
        }
    }
}

/// Deletes the Lease of a key whose task was rejected, so that the key can be used again. The
/// preconditions keep the Lease when another call with the key has created the task meanwhile.
async fn release_key(api: &Api, leases: &KubeApi<Lease>, caller: &Caller, lease: &Lease) {
    let preconditions = Preconditions {
        uid: lease.metadata.uid.clone(),
        resource_version: lease.metadata.resource_version.clone(),
    };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match leases.delete(&lease.name_any(), &params).await {
        Ok(_) => api.budgets.idempotency_keys.release(&caller_digest(caller)).await,
        Err(error) => {
            tracing::debug!(%error, "failed to delete the Lease of an Idempotency-Key whose task was rejected");
        }
    }
}

/// Returns an owner reference to the leader's Lease: when Prewarmer is uninstalled, the keys are
/// garbage-collected with it.
async fn owner_reference(
    api: &Api,
    leases: &KubeApi<Lease>,
) -> Result<Option<OwnerReference>, ApiError> {
    let lease = leases.get_opt(&api.settings.object_prefix).await?;
    Ok(lease.and_then(|lease| lease.owner_ref(&())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_separates_its_parts() {
        assert_ne!(digest(&["a", "bc"]), digest(&["ab", "c"]));
        assert_eq!(digest(&["a"]), digest(&["a"]));
    }
}

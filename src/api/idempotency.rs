//! `Idempotency-Key`: a repeated call creates no second task, on whichever replica it arrives.
//!
//! A Lease is created before the task. Its name is derived from the caller, the namespace and the
//! key, and it holds the task's name: of two concurrent calls one creates the Lease, and the other
//! reads the task's name from it. After the task is created, the Lease is annotated, so that a call
//! that is repeated after the deletion of the task does not create it again.
//!
//! The Leases are in Prewarmer's own namespace, where no quota of the caller applies. This module
//! therefore bounds their number, per caller and in total.

use std::{
    collections::HashMap,
    pin::pin,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, StatusCode};
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api as KubeApi, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    core::PartialObjectMeta,
};
use prewarmer_core::{
    schedule::random_task_name,
    task::{PrewarmTask, PrewarmTaskSpec},
};
use prewarmer_kube::{
    api_error::ApiErrorKind,
    list::{NO_LIMIT, list_metadata_pages},
};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Api, auth::Caller, error::ApiError, service};

/// Longest key, in characters.
const MAX_KEY: usize = 255;
/// Largest number of stored keys in total: Leases of about 1 KB each, at most 20 MB in etcd.
const MAX_STORED_KEYS: usize = 20_000;
/// Minimum time for which a key is stored.
const KEY_TTL: SignedDuration = SignedDuration::from_hours(24);
/// Interval between deletions of expired keys.
const GC_INTERVAL: Duration = Duration::from_secs(1800);
/// Interval after which the keys are counted again. Between two counts a replica adds only the keys
/// that it created itself.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(600);
/// `Retry-After` for a caller with too many keys, in seconds.
const RETRY_AFTER: u64 = 600;
/// Label of the Leases of keys.
const KEY_LABEL: &str = "prewarm.io/idempotency";
/// Label of a Lease: digest of the caller that owns the key.
const CALLER_LABEL: &str = "prewarm.io/idempotency-caller";
/// Annotation of a Lease: SHA-256 of the requested namespace and spec.
const DIGEST_ANNOTATION: &str = "prewarm.io/request-digest";
/// Annotation of a Lease: the task was created.
const CREATED_ANNOTATION: &str = "prewarm.io/task-made";

/// Number of stored keys per caller, and their limit.
pub(super) struct KeyQuota {
    caller_limit: usize,
    counts: Mutex<KeyCounts>,
}

#[derive(Default)]
struct KeyCounts {
    by_caller: HashMap<String, usize>,
    total: usize,
    counted_at: Option<Instant>,
}

impl KeyCounts {
    fn add(&mut self, caller: &str) {
        self.total = self.total.saturating_add(1);
        let count = self.by_caller.entry(caller.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    fn remove(&mut self, caller: &str) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.by_caller.get_mut(caller) {
            *count = count.saturating_sub(1);
        }
    }

    /// Checks that the caller may store one more key. Error 429 at the caller's limit or the total
    /// limit. Pure: no client, no clock, no I/O.
    fn check_capacity(&self, caller: &str, own: usize) -> Result<(), ApiError> {
        let later = |words: String| {
            Err(ApiError::retry_after(StatusCode::TOO_MANY_REQUESTS, words, RETRY_AFTER))
        };
        if self.by_caller.get(caller).copied().unwrap_or_default() >= own {
            return later(format!(
                "you have used {own} Idempotency-Keys within a day, the limit of one caller: try again later"
            ));
        }
        if self.total >= MAX_STORED_KEYS {
            return later(format!(
                "{MAX_STORED_KEYS} Idempotency-Keys were used within a day, the limit of this server: try again later"
            ));
        }
        Ok(())
    }
}

impl KeyQuota {
    pub(super) fn new(own: usize) -> Self {
        Self { caller_limit: own, counts: Mutex::default() }
    }

    /// Reserves one key for the caller. Counts the stored keys first when the last count is too
    /// old.
    async fn reserve(&self, leases: &KubeApi<Lease>, caller: &str) -> Result<(), ApiError> {
        let mut known = self.counts.lock().await;
        if known.counted_at.is_none_or(|at| at.elapsed() >= RECOUNT_INTERVAL) {
            let mut counted =
                KeyCounts { counted_at: Some(Instant::now()), ..KeyCounts::default() };
            delete_matching(leases, |lease| {
                counted.add(lease.labels().get(CALLER_LABEL).map_or("", String::as_str));
                None
            })
            .await?;
            *known = counted;
        }
        known.check_capacity(caller, self.caller_limit)?;
        known.add(caller);
        Ok(())
    }

    async fn release(&self, caller: &str) {
        self.counts.lock().await.remove(caller);
    }
}

/// Calls a function for the Lease of every key, page by page, and deletes the Leases whose name it
/// returns.
async fn delete_matching(
    leases: &KubeApi<Lease>,
    mut select: impl FnMut(&PartialObjectMeta<Lease>) -> Option<String>,
) -> kube::Result<()> {
    let params = ListParams::default().labels(KEY_LABEL);
    let mut pages = pin!(list_metadata_pages(leases, params, NO_LIMIT));
    while let Some(page) = pages.try_next().await? {
        for name in page.iter().filter_map(&mut select) {
            if let Err(error) = leases.delete(&name, &DeleteParams::default()).await {
                tracing::debug!(%error, "failed to delete the Lease of an expired Idempotency-Key");
            }
        }
    }
    Ok(())
}

/// Returns the `Idempotency-Key` of a call. Error 400 when it is empty, too long, or not visible
/// ASCII.
pub(super) fn key_from_headers(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let value = headers.get("idempotency-key");
    value.map(|value| check_key(value.to_str().unwrap_or_default())).transpose()
}

/// Returns the key if it is valid. Error 400 when it is empty, too long, or not visible ASCII.
pub(super) fn check_key(key: &str) -> Result<&str, ApiError> {
    let visible = |c: u8| c == b'\t' || c == b' ' || c.is_ascii_graphic();
    if !key.is_empty() && key.len() <= MAX_KEY && key.bytes().all(visible) {
        return Ok(key);
    }
    let expected = format!("expected 1 to {MAX_KEY} visible characters");
    Err(ApiError::invalid_field("Idempotency-Key", expected))
}

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
pub(super) async fn create_or_get_by_key(
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
    let made = service::tasks::create_or_get(api, namespace, &name, spec, caller, true).await;
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
    let labels =
        [(KEY_LABEL.to_owned(), "true".to_owned()), (CALLER_LABEL.to_owned(), whose.clone())];
    let made = async {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                owner_references: owner_reference(api, leases).await?.map(|owner| vec![owner]),
                labels: Some(labels.into()),
                annotations: Some([(DIGEST_ANNOTATION.to_owned(), asked.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(random_task_name(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
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

/// Deletes expired keys periodically until `stop` is cancelled. Runs on the leader only.
pub async fn collect_expired_keys(client: Client, namespace: String, stop: CancellationToken) {
    let leases = KubeApi::<Lease>::namespaced(client, &namespace);
    loop {
        let now = Timestamp::now();
        let swept = delete_matching(&leases, |lease| {
            let old =
                lease.creation_timestamp().is_some_and(|time| now.duration_since(time.0) > KEY_TTL);
            old.then(|| lease.name_any())
        });
        match stop.run_until_cancelled(swept).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "failed to list the Leases of Idempotency-Keys");
            }
            None => return,
        }
        if stop.run_until_cancelled(tokio::time::sleep(GC_INTERVAL)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_separates_its_parts() {
        assert_ne!(digest(&["a", "bc"]), digest(&["ab", "c"]));
        assert_eq!(digest(&["a"]), digest(&["a"]));
    }

    #[test]
    fn keys_are_limited_per_caller_and_in_total() {
        let mut known = KeyCounts::default();
        for _ in 0..3 {
            assert!(known.check_capacity("a", 3).is_ok());
            known.add("a");
        }
        assert_eq!(known.check_capacity("a", 3).unwrap_err().code, StatusCode::TOO_MANY_REQUESTS);
        assert!(known.check_capacity("b", 3).is_ok());
        known.remove("a");
        assert!(known.check_capacity("a", 3).is_ok());
        (0..MAX_STORED_KEYS).for_each(|index| known.add(&format!("c{index}")));
        assert_eq!(known.check_capacity("b", 3).unwrap_err().code, StatusCode::TOO_MANY_REQUESTS);
    }
}

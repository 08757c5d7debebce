//! `Idempotency-Key`: a call that is repeated makes no second task, whichever replica it comes to.
//!
//! Before the task a Lease is created whose name follows from the caller, the
//! namespace and the key, and which holds the task's name: of two calls one
//! creates it, and the other reads there which task is meant. When the task has
//! been made, that is noted on the Lease: a call that is repeated after the
//! task was deleted does not make it anew.
//!
//! Leases are objects in our own namespace, where no quota of a caller's counts
//! them: how many each caller has, and all together, is bounded here.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, StatusCode};
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
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Api, auth::Caller, error::ApiError, tasks};
use crate::{
    schedule::random_task_name,
    task::{PrewarmTask, PrewarmTaskSpec},
};

/// Longest key.
const MAX_KEY: usize = 255;
/// Keys that are remembered in all: Leases of about 1 KB each, so 20 MB of etcd at the most.
const MAX_KEYS: usize = 20_000;
/// How long a key is remembered at least.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// How often what is older is looked for.
const SWEEP: Duration = Duration::from_secs(1800);
/// How long the number of keys is believed before they are counted again: between two counts a replica knows of those that it
/// has made itself.
const COUNTED: Duration = Duration::from_secs(600);
/// Leases in a page.
const PAGE: u32 = 500;
/// When a caller with too many keys is asked to come again, in seconds.
const LATER: u64 = 600;
/// Marks the Leases.
const LABEL: &str = "prewarm.io/idempotency";
/// On a Lease: whose key it is, as a digest.
const CALLER_LABEL: &str = "prewarm.io/idempotency-caller";
/// On a Lease: the SHA-256 of what was asked for.
const DIGEST_ANNOTATION: &str = "prewarm.io/request-digest";
/// On a Lease: the task has been made.
const MADE_ANNOTATION: &str = "prewarm.io/task-made";

/// How many keys there are, of each caller.
pub(super) struct Keys {
    own: usize,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    counts: HashMap<String, usize>,
    total: usize,
    counted: Option<Instant>,
}

impl Known {
    fn add(&mut self, caller: &str) {
        self.total = self.total.saturating_add(1);
        let count = self.counts.entry(caller.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    fn remove(&mut self, caller: &str) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.counts.get_mut(caller) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether a caller may have one more. *Pure.*
    fn room(&self, caller: &str, own: usize) -> Result<(), ApiError> {
        let later = |words: String| Err(ApiError::later(StatusCode::TOO_MANY_REQUESTS, words, LATER));
        if self.counts.get(caller).copied().unwrap_or_default() >= own {
            return later(format!(
                "you have used {own} Idempotency-Keys within a day, which is all that one caller may use"
            ));
        }
        if self.total >= MAX_KEYS {
            return later(format!(
                "{MAX_KEYS} Idempotency-Keys were used within a day, which is all that are remembered"
            ));
        }
        Ok(())
    }
}

impl Keys {
    pub(super) fn new(own: usize) -> Self {
        Self { own, known: Mutex::default() }
    }

    /// Counts one more key of the caller's, unless there are too many.
    async fn take(&self, leases: &KubeApi<Lease>, caller: &str) -> Result<(), ApiError> {
        let mut known = self.known.lock().await;
        if known.counted.is_none_or(|at| at.elapsed() >= COUNTED) {
            let mut counted = Known { counted: Some(Instant::now()), ..Known::default() };
            each(leases, |lease| {
                counted.add(lease.labels().get(CALLER_LABEL).map_or("", String::as_str));
                None
            })
            .await?;
            *known = counted;
        }
        known.room(caller, self.own)?;
        known.add(caller);
        Ok(())
    }

    async fn give_back(&self, caller: &str) {
        self.known.lock().await.remove(caller);
    }
}

/// Looks at the Leases of all keys, page by page, and deletes those that `look` returns the name of.
async fn each(
    leases: &KubeApi<Lease>,
    mut look: impl FnMut(&PartialObjectMeta<Lease>) -> Option<String>,
) -> kube::Result<()> {
    let mut params = ListParams::default().labels(LABEL).limit(PAGE);
    loop {
        let page = leases.list_metadata(&params).await?;
        for name in page.items.iter().filter_map(&mut look) {
            if let Err(error) = leases.delete(&name, &DeleteParams::default()).await {
                tracing::debug!(%error, "an old Idempotency-Key could not be forgotten");
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

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

/// What is known of a key.
enum Claim {
    /// This call is the first with it.
    First(Lease),
    /// Another call was.
    Known(Lease),
}

/// The task that is meant by the key, and whether an earlier call has made it. Calls at the same moment get the same task.
pub(super) async fn obtain(
    api: &Api,
    caller: &Caller,
    namespace: &str,
    key: &str,
    spec: PrewarmTaskSpec,
) -> Result<(PrewarmTask, bool), ApiError> {
    let asked = digest(&[namespace, &serde_json::to_string(&spec).unwrap_or_default()]);
    let leases = KubeApi::<Lease>::namespaced(api.client.clone(), &api.settings.namespace);
    let (lease, first) = match claim(api, &leases, caller, (namespace, key), &asked).await? {
        Claim::First(lease) => (lease, true),
        Claim::Known(lease) => (lease, false),
    };
    if lease.annotations().get(DIGEST_ANNOTATION) != Some(&asked) {
        let words = "this Idempotency-Key was used for another task: use another key";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, words));
    }
    let name = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
    if !first && lease.annotations().contains_key(MADE_ANNOTATION) {
        let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), namespace);
        api.count("get", "prewarmtasks");
        let task = tasks.get_opt(&name).await?.ok_or_else(|| deleted(&name))?;
        return Ok((task, true));
    }
    match tasks::obtain(api, namespace, &name, spec, caller, true).await {
        Ok(task) => {
            note_made(api, &leases, lease).await;
            Ok((task, !first))
        }
        Err(error) if first && error.code.is_client_error() => {
            forget(api, &leases, caller, &lease).await;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

fn deleted(name: &str) -> ApiError {
    let words =
        format!("the task {name}, which this Idempotency-Key has made, was deleted: use another key for a new task");
    ApiError::conflict(words, "deleted")
}

/// Whose key it is, as a label's value.
fn owner_of(caller: &Caller) -> String {
    digest(&[&caller.holder()]).chars().take(40).collect()
}

async fn claim(
    api: &Api,
    leases: &KubeApi<Lease>,
    caller: &Caller,
    (namespace, key): (&str, &str),
    asked: &str,
) -> Result<Claim, ApiError> {
    let hash: String = digest(&[&caller.holder(), namespace, key]).chars().take(40).collect();
    let (name, whose) = (format!("{}-idem-{hash}", api.settings.object_name), owner_of(caller));
    let get = async || {
        api.count("get", "leases");
        leases.get_opt(&name).await
    };
    if let Err(full) = api.bounds.keys.take(leases, &whose).await {
        // A key that is known is not one more.
        return get().await?.map(Claim::Known).ok_or(full);
    }
    let labels = [(LABEL.to_owned(), "true".to_owned()), (CALLER_LABEL.to_owned(), whose.clone())];
    let made = async {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                owner_references: owner(api, leases).await?.map(|owner| vec![owner]),
                labels: Some(labels.into()),
                annotations: Some([(DIGEST_ANNOTATION.to_owned(), asked.to_owned())].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec { holder_identity: Some(random_task_name(Timestamp::now())), ..LeaseSpec::default() }),
        };
        api.count("create", "leases");
        Ok::<_, ApiError>(leases.create(&PostParams::default(), &lease).await)
    };
    match made.await {
        Ok(Ok(lease)) => return Ok(Claim::First(lease)),
        Ok(Err(kube::Error::Api(status))) if status.reason == "AlreadyExists" => {}
        Ok(Err(error)) => {
            api.bounds.keys.give_back(&whose).await;
            return Err(error.into());
        }
        Err(error) => {
            api.bounds.keys.give_back(&whose).await;
            return Err(error);
        }
    }
    api.bounds.keys.give_back(&whose).await;
    let busy = || ApiError::later(StatusCode::SERVICE_UNAVAILABLE, "the call with this key was refused just now", 1);
    get().await?.map(Claim::Known).ok_or_else(busy)
}

/// Notes that the task was made. Where that fails the next call with the key finds the task itself, as long as it is there.
async fn note_made(api: &Api, leases: &KubeApi<Lease>, mut lease: Lease) {
    lease.annotations_mut().insert(MADE_ANNOTATION.to_owned(), "true".to_owned());
    api.count("update", "leases");
    match leases.replace(&lease.name_any(), &PostParams::default(), &lease).await {
        // Another call with the key has noted it.
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::warn!(%error, "it could not be noted that the task of an Idempotency-Key was made"),
    }
}

/// Forgets a key whose task was refused: it can be used again. Not where another call with it has made the task meanwhile.
async fn forget(api: &Api, leases: &KubeApi<Lease>, caller: &Caller, lease: &Lease) {
    let preconditions =
        Preconditions { uid: lease.metadata.uid.clone(), resource_version: lease.metadata.resource_version.clone() };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    api.count("delete", "leases");
    match leases.delete(&lease.name_any(), &params).await {
        Ok(_) => api.bounds.keys.give_back(&owner_of(caller)).await,
        Err(error) => tracing::debug!(%error, "the Idempotency-Key of a task that was refused could not be forgotten"),
    }
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
        let now = Timestamp::now();
        let swept = each(&leases, |lease| {
            let old = lease.creation_timestamp().is_some_and(|time| now.duration_since(time.0) > REMEMBERED);
            old.then(|| lease.name_any())
        });
        match stop.run_until_cancelled(swept).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "old Idempotency-Keys could not be looked for"),
            None => return,
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

    #[test]
    fn keys_are_bounded_for_each_caller_and_in_all() {
        let mut known = Known::default();
        for _ in 0..3 {
            assert!(known.room("a", 3).is_ok());
            known.add("a");
        }
        assert_eq!(known.room("a", 3).unwrap_err().code, StatusCode::TOO_MANY_REQUESTS);
        assert!(known.room("b", 3).is_ok());
        known.remove("a");
        assert!(known.room("a", 3).is_ok());
        (0..MAX_KEYS).for_each(|index| known.add(&format!("c{index}")));
        assert_eq!(known.room("b", 3).unwrap_err().code, StatusCode::TOO_MANY_REQUESTS);
    }
}

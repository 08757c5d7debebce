//! Lookup of tasks and schedules that another replica created a moment ago and that this replica's
//! watch may not have delivered yet.
//!
//! The lookup waits for the watch first, which costs no request. Only then it queries the API
//! server, and only for namespaces that the caller may read. Concurrent lookups of the same
//! object share one query.

use std::{fmt::Debug, sync::Arc, time::Duration};

use axum::http::StatusCode;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use kube::{Api as KubeApi, Resource, api::ListParams, core::NamespaceResourceScope};
use moka::future::Cache;
use prewarmer_core::{schedule::PrewarmSchedule, task::PrewarmTask};
use prewarmer_kube::store::TaskEntry;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    auth::{Caller, NamespaceScope, Permission},
    components::ApiInner,
    error::ApiError,
    permissions::{GET_SCHEDULE, GET_TASK},
};

/// Time to wait for the watch. It lags by some milliseconds, and by more than a second in an
/// overloaded cluster.
const WATCH_WAIT: Duration = Duration::from_secs(1);
/// Calls that wait for the watch concurrently. Further calls do not wait.
const MAX_WAITING: usize = 256;
/// Time to live of a cached result of the API server. Repeated lookups of an object that does
/// not exist are served from it.
const RESULT_TTL: Duration = Duration::from_secs(3);
/// Largest number of cached results, of a few KB each when there is an object.
const MAX_RESULTS: u64 = 1000;
/// Rate limit of these queries for all callers together: per second, and as a burst.
const PER_SECOND: u32 = 10;
const BURST: u32 = 20;
/// Largest number of namespaces that are queried one by one. For more, one list of all namespaces
/// is cheaper.
const MAX_NAMESPACES: usize = 4;

/// Age below which an object may not have reached this replica's store yet.
const MAX_WATCH_LAG: SignedDuration = SignedDuration::from_secs(60);

/// Namespaces in which an object is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LookupScope {
    All,
    Only(Vec<String>),
}

/// Kind of the objects that are looked up.
pub(super) trait RecentKind: Send + Sync + Sized + 'static {
    /// Object as the API server returns it.
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static;
    /// Permission to read the object.
    const GET: Permission;
    /// Name of the kind in messages.
    const NAME: &'static str;

    /// Returns the objects of a name that the store has.
    fn by_name(api: &ApiInner, name: &str) -> Vec<Arc<Self>>;

    /// Subscribes to changes of the store.
    fn changes(api: &ApiInner) -> watch::Receiver<u64>;

    /// Puts an object into the store.
    fn store(api: &ApiInner, object: Self::Object) -> Arc<Self>;
}

impl RecentKind for TaskEntry {
    type Object = PrewarmTask;
    const GET: Permission = GET_TASK;
    const NAME: &'static str = "task";

    fn by_name(api: &ApiInner, name: &str) -> Vec<Arc<Self>> {
        api.catalog.by_name(name)
    }

    fn changes(api: &ApiInner) -> watch::Receiver<u64> {
        api.catalog.changes()
    }

    fn store(api: &ApiInner, task: PrewarmTask) -> Arc<Self> {
        api.catalog.put_entry(&task)
    }
}

impl RecentKind for PrewarmSchedule {
    type Object = Self;
    const GET: Permission = GET_SCHEDULE;
    const NAME: &'static str = "schedule";

    fn by_name(api: &ApiInner, name: &str) -> Vec<Arc<Self>> {
        api.schedules.by_name(name)
    }

    fn changes(api: &ApiInner) -> watch::Receiver<u64> {
        api.schedules.changes()
    }

    fn store(api: &ApiInner, schedule: Self) -> Arc<Self> {
        api.schedules.put(schedule.clone());
        Arc::new(schedule)
    }
}

/// Results of lookups, by name and scope.
type Results<K> = Cache<(String, LookupScope), Arc<Vec<Arc<K>>>>;

/// Lookup of recently created objects of one kind. Clones share its cache and its limits.
pub(super) struct RecentObjects<K: RecentKind> {
    results: Results<K>,
    requests: Arc<DefaultDirectRateLimiter>,
    waiting: Arc<Semaphore>,
}

impl<K: RecentKind> Clone for RecentObjects<K> {
    fn clone(&self) -> Self {
        Self {
            results: self.results.clone(),
            requests: Arc::clone(&self.requests),
            waiting: Arc::clone(&self.waiting),
        }
    }
}

impl<K: RecentKind> Default for RecentObjects<K> {
    fn default() -> Self {
        let positive =
            |number| std::num::NonZeroU32::new(number).unwrap_or(std::num::NonZeroU32::MIN);
        let quota = Quota::per_second(positive(PER_SECOND)).allow_burst(positive(BURST));
        Self {
            results: Cache::builder().max_capacity(MAX_RESULTS).time_to_live(RESULT_TTL).build(),
            requests: Arc::new(RateLimiter::direct(quota)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }
}

impl<K: RecentKind> RecentObjects<K> {
    /// Returns the objects named `id`: in `namespace` when it is given (the caller must be
    /// authorized for it already), otherwise in the namespaces that the caller may read. Error 503
    /// when the rate limit is exceeded.
    pub(super) async fn find(
        &self,
        api: &ApiInner,
        caller: &Caller,
        id: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<K>>, ApiError> {
        let Some(scope) = lookup_scope(api, caller, K::GET, namespace).await? else {
            return Ok(Vec::new());
        };
        let key = (id.to_owned(), scope);
        if let Some(known) = self.results.get(&key).await {
            return Ok(known.to_vec());
        }
        let heard = self.wait_for_watch(api, id).await;
        if !heard.is_empty() {
            return Ok(heard);
        }
        if key.1 == LookupScope::Only(Vec::new()) {
            return Ok(heard);
        }
        let ask = async {
            if self.requests.check().is_err() {
                let words =
                    format!("the {} may not have reached this replica yet: try again", K::NAME);
                return Err(ApiError::retry_after(StatusCode::SERVICE_UNAVAILABLE, words, 1));
            }
            query_api_server::<K>(api, id, &key.1).await.map(Arc::new)
        };
        let found = self.results.try_get_with(key.clone(), ask).await;
        let found = found.map_err(|error: Arc<ApiError>| (*error).clone())?;
        if !found.is_empty() {
            // The store has the object now. A cached one would outlive its deletion.
            self.results.invalidate(&key).await;
        }
        Ok(found.to_vec())
    }

    /// Waits for a limited time until the watch has delivered the object.
    async fn wait_for_watch(&self, api: &ApiInner, id: &str) -> Vec<Arc<K>> {
        let mut changes = K::changes(api);
        let heard = K::by_name(api, id);
        let Ok(_place) = self.waiting.try_acquire() else { return heard };
        if !heard.is_empty() {
            return heard;
        }
        let brought = async {
            while changes.changed().await.is_ok() {
                let heard = K::by_name(api, id);
                if !heard.is_empty() {
                    return heard;
                }
            }
            Vec::new()
        };
        timeout(WATCH_WAIT, brought).await.unwrap_or_default()
    }
}

/// Reports whether the generated name of a task or schedule contains a time so close to `now` that
/// the object may not have reached the store yet.
pub(super) fn is_recent_name(id: &str, now: Timestamp) -> bool {
    let id = id.strip_prefix("scheduled-").unwrap_or(id);
    let time = id.strip_prefix("task-").and_then(|rest| rest.get(..15));
    let time = time.and_then(|text| DateTime::strptime("%Y%m%d-%H%M%S", text).ok());
    let time = time.and_then(|time| time.to_zoned(TimeZone::UTC).ok()).map(|time| time.timestamp());
    time.is_some_and(|time| now.duration_since(time).abs() < MAX_WATCH_LAG)
}

/// Returns the namespaces in which an object may be looked up for a caller. `None` when the caller may
/// not read the only watched namespace. An empty list means that the lookup may only wait for the
/// watch.
async fn lookup_scope(
    api: &ApiInner,
    caller: &Caller,
    get: Permission,
    namespace: Option<&str>,
) -> Result<Option<LookupScope>, ApiError> {
    let only = |name: &str| Some(LookupScope::Only(vec![name.to_owned()]));
    if let Some(namespace) = namespace {
        return Ok(only(namespace));
    }
    if let Some(watched) = &api.settings.watched_namespace {
        return Ok(if api.auth.allows(caller, get, Some(watched)).await? {
            only(watched)
        } else {
            None
        });
    }
    match api.auth.namespace_scope(caller, get).await {
        Ok(NamespaceScope::All) => Ok(Some(LookupScope::All)),
        Ok(NamespaceScope::Only(names)) if names.len() > MAX_NAMESPACES => {
            Ok(Some(LookupScope::All))
        }
        Ok(NamespaceScope::Only(names)) => Ok(Some(LookupScope::Only(names.into_iter().collect()))),
        Err(error) if error.code == StatusCode::FORBIDDEN => {
            // Kubernetes cannot list the namespaces that a user may read. The default namespace and
            // the watch remain.
            let usual = api.default_namespace();
            let may = api.auth.allows(caller, get, Some(usual)).await?;
            Ok(Some(LookupScope::Only(if may { vec![usual.to_owned()] } else { Vec::new() })))
        }
        Err(error) => Err(error),
    }
}

async fn query_api_server<K: RecentKind>(
    api: &ApiInner,
    id: &str,
    scope: &LookupScope,
) -> Result<Vec<Arc<K>>, ApiError> {
    let mut found: Vec<K::Object> = Vec::new();
    match scope {
        LookupScope::All => {
            let objects = KubeApi::<K::Object>::all(api.client.clone());
            // Served from the API server's watch cache, which is ahead of this replica's watch.
            let this = ListParams::default().fields(&format!("metadata.name={id}")).match_any();
            found.extend(objects.list(&this).await?);
        }
        LookupScope::Only(names) => {
            for name in names {
                let objects = KubeApi::<K::Object>::namespaced(api.client.clone(), name);
                found.extend(objects.get_opt(id).await?);
            }
        }
    }
    Ok(found.into_iter().map(|object| K::store(api, object)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_names_are_recognized() {
        let now: Timestamp = "2026-11-21T10:00:30Z".parse().unwrap();
        for (name, expected) in [
            ("task-20261121-100000-0badcafe", true),
            ("scheduled-task-20261121-100000-0badcafe", true),
            ("task-20261121-095900-0badcafe", false),
            ("nightly", false),
            ("task-2026", false),
            ("task-20269921-100000-x", false),
        ] {
            assert_eq!(is_recent_name(name, now), expected, "{name}");
        }
    }
}

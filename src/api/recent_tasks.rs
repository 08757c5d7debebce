//! Lookup of tasks that another replica created a moment ago and that this replica's watch may not
//! have delivered yet.
//!
//! The lookup waits for the watch first, which costs no request. Only then it queries the API
//! server, and only for namespaces that the caller may read. Concurrent lookups of the same task
//! share one query.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kube::{Api as KubeApi, api::ListParams};
use moka::future::Cache;
use prewarmer_core::task::PrewarmTask;
use prewarmer_kube::store::TaskEntry;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    auth::{Caller, NamespaceScope},
    components::ApiInner,
    error::ApiError,
    permissions::GET_TASK,
};
use crate::task_view;

/// Time to wait for the watch. It lags by some milliseconds, and by more than a second in an
/// overloaded cluster.
const WATCH_WAIT: Duration = Duration::from_secs(1);
/// Calls that wait for the watch concurrently. Further calls do not wait.
const MAX_WAITING: usize = 256;
/// Time to live of a cached result of the API server. Repeated lookups of a task that does not
/// exist are served from it.
const RESULT_TTL: Duration = Duration::from_secs(3);
/// Largest number of cached results, of a few KB each when there is a task.
const MAX_RESULTS: u64 = 1000;
/// Rate limit of these queries for all callers together: per second, and as a burst.
const PER_SECOND: u32 = 10;
const BURST: u32 = 20;
/// Largest number of namespaces that are queried one by one. For more, one list of all namespaces
/// is cheaper.
const MAX_NAMESPACES: usize = 4;

/// Namespaces in which a task is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LookupScope {
    All,
    Only(Vec<String>),
}

/// Lookup of recently created tasks. Clones share its cache and its limits.
#[derive(Clone)]
pub(super) struct RecentTasks {
    results: Cache<(String, LookupScope), Arc<Vec<Arc<TaskEntry>>>>,
    requests: Arc<DefaultDirectRateLimiter>,
    waiting: Arc<Semaphore>,
}

impl Default for RecentTasks {
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

impl RecentTasks {
    /// Returns the tasks named `id`: in `namespace` when it is given (the caller must be authorized
    /// for it already), otherwise in the namespaces that the caller may read. Error 503 when the
    /// rate limit is exceeded.
    pub(super) async fn find(
        &self,
        api: &ApiInner,
        caller: &Caller,
        id: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<TaskEntry>>, ApiError> {
        let Some(scope) = lookup_scope(api, caller, namespace).await? else {
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
                let words = "the task may not have reached this replica yet: try again";
                return Err(ApiError::retry_after(StatusCode::SERVICE_UNAVAILABLE, words, 1));
            }
            query_api_server(api, id, &key.1).await.map(Arc::new)
        };
        let found = self.results.try_get_with(key.clone(), ask).await;
        found.map(|found| found.to_vec()).map_err(|error: Arc<ApiError>| (*error).clone())
    }

    /// Waits for a limited time until the watch has delivered the task.
    async fn wait_for_watch(&self, api: &ApiInner, id: &str) -> Vec<Arc<TaskEntry>> {
        let mut changes = api.catalog.changes();
        let heard = api.catalog.by_name(id);
        let Ok(_place) = self.waiting.try_acquire() else { return heard };
        if !heard.is_empty() {
            return heard;
        }
        let brought = async {
            while changes.changed().await.is_ok() {
                let heard = api.catalog.by_name(id);
                if !heard.is_empty() {
                    return heard;
                }
            }
            Vec::new()
        };
        timeout(WATCH_WAIT, brought).await.unwrap_or_default()
    }
}

/// Returns the namespaces in which a task may be looked up for a caller. `None` when the caller may
/// not read the only watched namespace. An empty list means that the lookup may only wait for the
/// watch.
async fn lookup_scope(
    api: &ApiInner,
    caller: &Caller,
    namespace: Option<&str>,
) -> Result<Option<LookupScope>, ApiError> {
    let only = |name: &str| Some(LookupScope::Only(vec![name.to_owned()]));
    if let Some(namespace) = namespace {
        return Ok(only(namespace));
    }
    if let Some(watched) = &api.settings.watched_namespace {
        return Ok(if api.auth.allows(caller, GET_TASK, Some(watched)).await? {
            only(watched)
        } else {
            None
        });
    }
    match api.auth.namespace_scope(caller, GET_TASK).await {
        Ok(NamespaceScope::All) => Ok(Some(LookupScope::All)),
        Ok(NamespaceScope::Only(names)) if names.len() > MAX_NAMESPACES => {
            Ok(Some(LookupScope::All))
        }
        Ok(NamespaceScope::Only(names)) => Ok(Some(LookupScope::Only(names.into_iter().collect()))),
        Err(error) if error.code == StatusCode::FORBIDDEN => {
            // Kubernetes cannot list the namespaces that a user may read. The default namespace and
            // the watch remain.
            let usual = api.default_namespace();
            let may = api.auth.allows(caller, GET_TASK, Some(usual)).await?;
            Ok(Some(LookupScope::Only(if may { vec![usual.to_owned()] } else { Vec::new() })))
        }
        Err(error) => Err(error),
    }
}

async fn query_api_server(
    api: &ApiInner,
    id: &str,
    scope: &LookupScope,
) -> Result<Vec<Arc<TaskEntry>>, ApiError> {
    let mut found: Vec<PrewarmTask> = Vec::new();
    match scope {
        LookupScope::All => {
            let tasks = KubeApi::<PrewarmTask>::all(api.client.clone());
            // Served from the API server's watch cache, which is ahead of this replica's watch.
            let this = ListParams::default().fields(&format!("metadata.name={id}")).match_any();
            found.extend(tasks.list(&this).await?);
        }
        LookupScope::Only(names) => {
            for name in names {
                let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), name);
                found.extend(tasks.get_opt(id).await?);
            }
        }
    }
    for task in &found {
        api.catalog.put(task);
    }
    let entry = |task| Arc::new(TaskEntry::from_task(task, task_view::render));
    Ok(found.iter().map(entry).collect())
}

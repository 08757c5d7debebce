//! Tasks that were made a moment ago, by another replica: this one's watch may not have brought them yet.
//!
//! The watch is waited for first, which costs nothing. Only then is the API server asked, and only of namespaces that the caller
//! may read: one question for all who ask about the same task at the same time.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kube::{Api as KubeApi, api::ListParams};
use moka::future::Cache;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Api,
    auth::{Caller, Visible},
    error::ApiError,
    tasks::GET,
};
use crate::{catalog::Entry, task::PrewarmTask};

/// How long the watch is waited for: it is behind by some milliseconds, and by more than a second where the cluster is in distress.
const WAIT: Duration = Duration::from_secs(1);
/// Calls that wait for the watch at once; further ones do not.
const MAX_WAITING: usize = 256;
/// How long an answer of the API server holds: whoever asks again for a task that does not exist is answered from it.
const HOLDS: Duration = Duration::from_secs(3);
/// Answers that are kept, of a few KB where there is a task.
const MAX_ANSWERS: u64 = 1000;
/// Requests of this kind in a second, for all callers together, and at once.
const PER_SECOND: u32 = 10;
const AT_ONCE: u32 = 20;
/// Namespaces that are asked one by one; for more, one list of all is cheaper.
const MAX_PLACES: usize = 4;

/// Where a task is looked for: in these namespaces, or in all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    All,
    Only(Vec<String>),
}

/// Finds them. Clones share what was found.
#[derive(Clone)]
pub(super) struct Recent {
    answers: Cache<(String, Scope), Arc<Vec<Arc<Entry>>>>,
    requests: Arc<DefaultDirectRateLimiter>,
    waiting: Arc<Semaphore>,
}

impl Default for Recent {
    fn default() -> Self {
        let positive = |number| std::num::NonZeroU32::new(number).unwrap_or(std::num::NonZeroU32::MIN);
        let quota = Quota::per_second(positive(PER_SECOND)).allow_burst(positive(AT_ONCE));
        Self {
            answers: Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(HOLDS).build(),
            requests: Arc::new(RateLimiter::direct(quota)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }
}

impl Recent {
    /// The tasks of that name, in the namespace if one is named (of which the caller was authorised before), and else where the
    /// caller may read.
    pub(super) async fn find(
        &self,
        api: &Api,
        caller: &Caller,
        id: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<Entry>>, ApiError> {
        let Some(scope) = scope(api, caller, namespace).await? else { return Ok(Vec::new()) };
        let key = (id.to_owned(), scope);
        if let Some(known) = self.answers.get(&key).await {
            return Ok(known.to_vec());
        }
        let heard = self.wait(api, id).await;
        if !heard.is_empty() {
            return Ok(heard);
        }
        if key.1 == Scope::Only(Vec::new()) {
            return Ok(heard);
        }
        let ask = async {
            if self.requests.check().is_err() {
                let words = "a task that was made a moment ago is not known here yet: try again";
                return Err(ApiError::later(StatusCode::SERVICE_UNAVAILABLE, words, 1));
            }
            ask(api, id, &key.1).await.map(Arc::new)
        };
        let found = self.answers.try_get_with(key.clone(), ask).await;
        found.map(|found| found.to_vec()).map_err(|error: Arc<ApiError>| (*error).clone())
    }

    /// Waits until the watch has brought the task.
    async fn wait(&self, api: &Api, id: &str) -> Vec<Arc<Entry>> {
        let mut changes = api.catalog.changes();
        let heard = api.catalog.named(id);
        let Ok(_place) = self.waiting.try_acquire() else { return heard };
        if !heard.is_empty() {
            return heard;
        }
        let brought = async {
            while changes.changed().await.is_ok() {
                let heard = api.catalog.named(id);
                if !heard.is_empty() {
                    return heard;
                }
            }
            Vec::new()
        };
        timeout(WAIT, brought).await.unwrap_or_default()
    }
}

/// Where a task may be looked for in the name of a caller; nowhere where he may read nothing that can be found out at little cost.
async fn scope(api: &Api, caller: &Caller, namespace: Option<&str>) -> Result<Option<Scope>, ApiError> {
    let only = |name: &str| Some(Scope::Only(vec![name.to_owned()]));
    if let Some(namespace) = namespace {
        return Ok(only(namespace));
    }
    if let Some(watched) = &api.settings.watched {
        return Ok(if api.auth.allows(caller, GET, Some(watched)).await? { only(watched) } else { None });
    }
    match api.auth.visible(caller, GET).await {
        Ok(Visible::All) => Ok(Some(Scope::All)),
        Ok(Visible::Only(names)) if names.len() > MAX_PLACES => Ok(Some(Scope::All)),
        Ok(Visible::Only(names)) => Ok(Some(Scope::Only(names.into_iter().collect()))),
        Err(error) if error.code == StatusCode::FORBIDDEN => {
            // Which namespaces a user may read cannot be asked; that of tasks that name none, and the watch, remain.
            let usual = api.default_namespace();
            let may = api.auth.allows(caller, GET, Some(usual)).await?;
            Ok(Some(Scope::Only(if may { vec![usual.to_owned()] } else { Vec::new() })))
        }
        Err(error) => Err(error),
    }
}

async fn ask(api: &Api, id: &str, scope: &Scope) -> Result<Vec<Arc<Entry>>, ApiError> {
    let mut found: Vec<PrewarmTask> = Vec::new();
    match scope {
        Scope::All => {
            api.count("list", "prewarmtasks");
            let tasks = KubeApi::<PrewarmTask>::all(api.client.clone());
            // From the API server's memory, which the watch is behind of.
            let this = ListParams::default().fields(&format!("metadata.name={id}")).match_any();
            found.extend(tasks.list(&this).await?);
        }
        Scope::Only(names) => {
            for name in names {
                api.count("get", "prewarmtasks");
                let tasks = KubeApi::<PrewarmTask>::namespaced(api.client.clone(), name);
                found.extend(tasks.get_opt(id).await?);
            }
        }
    }
    for task in &found {
        api.catalog.put(task);
    }
    Ok(found.iter().map(|task| Arc::new(Entry::of(task))).collect())
}

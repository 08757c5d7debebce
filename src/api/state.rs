//! State that the handlers share.

use std::sync::Arc;

use axum::extract::FromRef;
use prewarmer_core::schedule::PrewarmSchedule;
use prewarmer_kube::store::TaskEntry;

use super::{
    auth::Auth, budgets::CallerBudgets, components::ApiInner, node_cache::NodeCache,
    plan_cache::PlanCache, recent_objects::RecentObjects,
};

/// State that the handlers share. Clones share it.
#[derive(Clone)]
pub struct Api {
    inner: Arc<ApiInner>,
    pub(super) plans: PlanCache,
    pub(super) recent_tasks: RecentObjects<TaskEntry>,
    pub(super) recent_schedules: RecentObjects<PrewarmSchedule>,
    pub(super) budgets: Arc<CallerBudgets>,
}

impl std::ops::Deref for Api {
    type Target = ApiInner;

    fn deref(&self) -> &ApiInner {
        &self.inner
    }
}

/// State of the router.
#[derive(Clone)]
pub(super) struct RouterState {
    pub(super) api: Api,
    pub(super) nodes: NodeCache,
}

impl FromRef<RouterState> for Api {
    fn from_ref(state: &RouterState) -> Self {
        state.api.clone()
    }
}

impl FromRef<RouterState> for Auth {
    fn from_ref(state: &RouterState) -> Self {
        state.api.auth.clone()
    }
}

impl FromRef<RouterState> for NodeCache {
    fn from_ref(state: &RouterState) -> Self {
        state.nodes.clone()
    }
}

impl Api {
    /// Creates the shared state from its components.
    #[must_use]
    pub fn new(inner: ApiInner) -> Self {
        let bounds = Arc::new(CallerBudgets::new(inner.settings.limits));
        Self {
            inner: Arc::new(inner),
            plans: PlanCache::default(),
            recent_tasks: RecentObjects::default(),
            recent_schedules: RecentObjects::default(),
            budgets: bounds,
        }
    }

    /// Removes the rate limits of callers and addresses that have not called recently.
    pub fn evict_idle(&self) {
        self.auth.evict_idle();
        self.budgets.evict_idle();
    }
}

//! Cache of the plans of tasks.

use std::sync::Arc;

use kube::{Api as KubeApi, api::ListParams};
use moka::future::Cache;
use prewarmer_core::task::{PrewarmPlan, PrewarmPlanSpec};
use prewarmer_kube::store::TaskEntry;

use super::{components::ApiInner, error::ApiError};

/// Maximum number of cached plans, of at most 250 KB each with 5,000 nodes.
const MAX_PLANS: u64 = 32;

/// Cache of plans. Plans are immutable, so entries never become stale.
#[derive(Clone)]
pub(super) struct PlanCache(Cache<Box<str>, Arc<PrewarmPlanSpec>>);

impl Default for PlanCache {
    fn default() -> Self {
        Self(Cache::new(MAX_PLANS))
    }
}

impl PlanCache {
    /// Returns the plan of a task; `None` before the task is planned.
    pub(super) async fn get(
        &self,
        api: &ApiInner,
        entry: &TaskEntry,
    ) -> Result<Option<Arc<PrewarmPlanSpec>>, ApiError> {
        if entry.detail().node_states.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.0.get(&entry.uid).await {
            return Ok(Some(known));
        }
        let plans = KubeApi::<PrewarmPlan>::namespaced(api.client.clone(), &entry.key.namespace);
        let name = format!("metadata.name=plan-{}", entry.uid);
        let found = plans.list(&ListParams::default().fields(&name)).await?.items.pop();
        let Some(plan) = found.map(|plan| Arc::new(plan.spec)) else { return Ok(None) };
        self.0.insert(entry.uid.clone(), Arc::clone(&plan)).await;
        Ok(Some(plan))
    }
}

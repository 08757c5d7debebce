//! Data of the node grid: the node names once, and one state letter per node with each update.

use std::sync::Arc;

use kube::{Api as KubeApi, api::ListParams};
use moka::future::Cache;
use prewarmer_kube::store::{TaskDetail, TaskEntry};

use prewarmer_core::task::{
    BatchPolicy, PrewarmPlan, PrewarmPlanSpec, Status, batches::divide_into_batches,
};

use crate::api::{Api, error::ApiError};

/// Maximum number of cached plans, of at most 250 KB each with 5,000 nodes.
const MAX_PLANS: u64 = 32;

/// Cache of plans. Plans are immutable, so entries never become stale.
#[derive(Clone)]
pub(in crate::api) struct PlanCache(Cache<Box<str>, Arc<PrewarmPlanSpec>>);

impl Default for PlanCache {
    fn default() -> Self {
        Self(Cache::new(MAX_PLANS))
    }
}

impl PlanCache {
    /// Returns the plan of a task; `None` before the task is planned.
    pub(in crate::api) async fn get(
        &self,
        api: &Api,
        entry: &TaskEntry,
    ) -> Result<Option<Arc<PrewarmPlanSpec>>, ApiError> {
        if entry.detail.node_states.is_empty() {
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

/// Returns the state letters of the grid: those of `nodeStates`, with `a` for nodes of the current
/// batch that are being warmed. Pure: no client, no clock, no I/O.
pub(super) fn node_letters(detail: &TaskDetail, status: Status, at_once: usize) -> String {
    let mut letters = detail.node_states.as_bytes().to_vec();
    if status == Status::Running {
        let current = divide_into_batches(&letters, detail.policy, at_once).current_batch;
        let range = current.map(|batch| batch.nodes).unwrap_or_default();
        let waiting = |letters: &[u8], index: &usize| letters.get(*index) == Some(&b'.');
        // With the rolling policy, the first waiting nodes of the window are being warmed.
        let most = if detail.policy == BatchPolicy::Rolling { at_once } else { usize::MAX };
        let at_work: Vec<usize> =
            range.filter(|index| waiting(&letters, index)).take(most).collect();
        for index in at_work {
            letters[index] = b'a';
        }
    }
    String::from_utf8_lossy(&letters).into_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("ss......", BatchPolicy::Barrier, 4, "ssaa....")]
    #[case("s.......", BatchPolicy::Rolling, 3, "saaa....")]
    #[case("sf1s....", BatchPolicy::Barrier, 4, "sf1saaaa")]
    #[case("ssssssss", BatchPolicy::Barrier, 4, "ssssssss")]
    fn nodes_of_the_current_batch_are_marked(
        #[case] states: &str,
        #[case] policy: BatchPolicy,
        #[case] at_once: usize,
        #[case] shown: &str,
    ) {
        let detail = TaskDetail { node_states: states.into(), policy, ..TaskDetail::default() };
        assert_eq!(node_letters(&detail, Status::Running, at_once), shown);
        assert_eq!(node_letters(&detail, Status::Cancelled, at_once), states);
    }
}

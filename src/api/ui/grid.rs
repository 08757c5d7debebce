//! The nodes of a task, for the grid: names once, and a letter for each as it changes.

use std::sync::Arc;

use kube::{Api as KubeApi, api::ListParams};
use moka::future::Cache;

use crate::{
    api::{Api, error::ApiError},
    catalog::{Detail, Entry, Status},
    task::{BatchPolicy, PrewarmPlan, PrewarmPlanSpec, batches::batches},
};

/// Plans that are kept, of 250 KB at the most with 5,000 nodes.
const KEPT: u64 = 32;

/// The plans that were looked at. A plan never changes.
#[derive(Clone)]
pub(in crate::api) struct Plans(Cache<Box<str>, Arc<PrewarmPlanSpec>>);

impl Default for Plans {
    fn default() -> Self {
        Self(Cache::new(KEPT))
    }
}

impl Plans {
    /// The plan of a task; none before its nodes were chosen.
    pub(super) async fn of(&self, api: &Api, entry: &Entry) -> Result<Option<Arc<PrewarmPlanSpec>>, ApiError> {
        if entry.detail.states.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.0.get(&entry.uid).await {
            return Ok(Some(known));
        }
        let plans = KubeApi::<PrewarmPlan>::namespaced(api.client.clone(), &entry.key.namespace);
        api.count("list", "prewarmplans");
        let name = format!("metadata.name=plan-{}", entry.uid);
        let found = plans.list(&ListParams::default().fields(&name)).await?.items.pop();
        let Some(plan) = found.map(|plan| Arc::new(plan.spec)) else { return Ok(None) };
        self.0.insert(entry.uid.clone(), Arc::clone(&plan)).await;
        Ok(Some(plan))
    }
}

/// The letters of the grid: those of the status, and `a` for nodes that are at work. *Pure.*
pub(super) fn letters(detail: &Detail, status: Status, at_once: usize) -> String {
    let mut letters = detail.states.as_bytes().to_vec();
    if status == Status::Running {
        let current = batches(&letters, detail.policy, at_once).current;
        let range = current.map(|batch| batch.nodes).unwrap_or_default();
        let waiting = |letters: &[u8], index: &usize| letters.get(*index) == Some(&b'.');
        // In a sliding window, those at work are the first that wait.
        let most = if detail.policy == BatchPolicy::Rolling { at_once } else { usize::MAX };
        let at_work: Vec<usize> = range.filter(|index| waiting(&letters, index)).take(most).collect();
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
    fn who_is_at_work(#[case] states: &str, #[case] policy: BatchPolicy, #[case] at_once: usize, #[case] shown: &str) {
        let detail = Detail { states: states.into(), policy, ..Detail::default() };
        assert_eq!(letters(&detail, Status::Running, at_once), shown);
        assert_eq!(letters(&detail, Status::Cancelled, at_once), states);
    }
}

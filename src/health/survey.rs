//! Which nodes to prefer where a task wants fewer than there are: those where its images' repositories run today, then those
//! with the most room for pods.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use futures::future::BoxFuture;
use kube::{Client, ResourceExt, api::ListParams};
use tokio::{sync::Mutex, time::Instant};

use super::{Candidate, Check, Examination};
use crate::{
    image::Reference,
    node::{bytes, millis},
    reduced::ScheduledPod,
    scope::scoped,
    task::plan::{Findings, Rank},
};

/// Pods per page: about 2.5 MB of JSON.
const PAGE: u32 = 500;
/// Pods looked at, at most: 100 MB of JSON, read in pages. Beyond it, nodes are judged by those.
const MAX_PODS: usize = 20_000;
/// A look counts for this long: tasks that begin together share one.
const FRESH: Duration = Duration::from_secs(30);

/// Looks at the pods of the cluster.
pub struct Survey {
    client: Client,
    namespace: Option<String>,
    last: Mutex<Option<(Instant, Usage)>>,
}

/// What pods take, and where they run.
#[derive(Debug, Default)]
struct Usage {
    nodes: HashMap<String, Taken>,
    /// By namespace: the nodes on which each repository runs.
    running: HashMap<String, HashMap<String, HashSet<String>>>,
}

#[derive(Debug, Default)]
struct Taken {
    cpu_millis: u64,
    memory: u64,
    pods: u64,
}

impl Survey {
    /// A survey of all namespaces, or of one.
    #[must_use]
    pub fn new(client: Client, namespace: Option<String>) -> Self {
        Self { client, namespace, last: Mutex::new(None) }
    }

    async fn look(&self) -> Result<Usage, String> {
        let pods = scoped::<ScheduledPod>(&self.client, self.namespace.as_deref());
        let mut params = ListParams::default().limit(PAGE).fields("status.phase!=Succeeded,status.phase!=Failed");
        let (mut usage, mut seen) = (Usage::default(), 0_usize);
        loop {
            let page = pods.list(&params).await.map_err(|error| error.to_string())?;
            seen = seen.saturating_add(page.items.len());
            page.items.iter().for_each(|pod| usage.add(pod));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if seen < MAX_PODS => params = params.continue_token(&token),
                _ => return Ok(usage),
            }
        }
    }
}

impl Check for Survey {
    fn name(&self) -> &'static str {
        "room on nodes"
    }

    fn examine<'a>(&'a self, examination: &'a Examination) -> BoxFuture<'a, Result<Findings, String>> {
        Box::pin(async move {
            let Some(namespace) = &examination.choose_for else { return Ok(Findings::default()) };
            let mut last = self.last.lock().await;
            let fresh = last.take().filter(|(at, _)| at.elapsed() < FRESH);
            let (at, usage) = match fresh {
                Some(known) => known,
                None => (Instant::now(), self.look().await?),
            };
            let rank = usage.rank(namespace, &examination.images, &examination.nodes);
            *last = Some((at, usage));
            Ok(Findings { rank, ..Findings::default() })
        })
    }
}

impl Usage {
    fn add(&mut self, pod: &ScheduledPod) {
        if pod.spec.node_name.is_empty() {
            return;
        }
        let taken = self.nodes.entry(pod.spec.node_name.clone()).or_default();
        taken.pods = taken.pods.saturating_add(1);
        for container in &pod.spec.containers {
            let request = |name: &str| container.resources.requests.get(name);
            taken.cpu_millis = taken.cpu_millis.saturating_add(request("cpu").map_or(0, |amount| millis(&amount.0)));
            let memory = request("memory").and_then(|amount| bytes(&amount.0)).unwrap_or(0);
            taken.memory = taken.memory.saturating_add(memory);
        }
        let repositories = self.running.entry(pod.namespace().unwrap_or_default()).or_default();
        for image in pod.spec.containers.iter().filter_map(|container| container.image.parse::<Reference>().ok()) {
            repositories.entry(repository(&image)).or_default().insert(pod.spec.node_name.clone());
        }
    }

    fn rank(&self, namespace: &str, images: &[Reference], nodes: &[Candidate]) -> BTreeMap<String, Rank> {
        let running = self.running.get(namespace);
        let places: Vec<&HashSet<String>> =
            images.iter().filter_map(|image| running?.get(&repository(image))).collect();
        let rank = |node: &Candidate| {
            let runs = places.iter().filter(|place| place.contains(&node.name)).count();
            Rank { runs: u32::try_from(runs).unwrap_or(u32::MAX), free: free(node, self.nodes.get(&node.name)) }
        };
        nodes.iter().map(|node| (node.name.clone(), rank(node))).collect()
    }
}

fn repository(image: &Reference) -> String {
    format!("{}/{}", image.registry(), image.repository())
}

/// The part of a node that is free, in thousandths, of whatever it has least of.
fn free(node: &Candidate, taken: Option<&Taken>) -> u32 {
    let nothing = Taken::default();
    let taken = taken.unwrap_or(&nothing);
    let part = |has: u64, taken: u64| has.saturating_sub(taken).saturating_mul(1000).checked_div(has).unwrap_or(0);
    let parts = [part(node.cpu_millis, taken.cpu_millis), part(node.memory, taken.memory), part(node.pods, taken.pods)];
    u32::try_from(parts.into_iter().min().unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, image: &str, cpu: &str) -> ScheduledPod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": node,
            "containers": [{"image": image, "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}, {"image": "proxy:1"}]}}))
        .unwrap()
    }

    fn node(name: &str) -> Candidate {
        Candidate { name: name.into(), cpu_millis: 4000, memory: 16 << 30, pods: 110, ..Candidate::default() }
    }

    #[test]
    fn where_it_runs_comes_first_and_then_room() {
        let mut usage = Usage::default();
        usage.add(&pod("b", "web:1", "3"));
        usage.add(&pod("c", "other:1", "500m"));
        let images = ["web:2", "proxy:2"].map(|image| image.parse().unwrap());
        let rank = usage.rank("shop", &images, &["a", "b", "c"].map(node));
        assert_eq!((rank["b"], rank["c"].runs, rank["a"].runs), (Rank { runs: 2, free: 250 }, 1, 0));
        assert!(rank["b"] > rank["c"] && rank["c"] > rank["a"]);
        let elsewhere = usage.rank("bank", &images, &["a", "b", "c"].map(node));
        assert!(elsewhere["a"] > elsewhere["c"] && elsewhere["c"] > elsewhere["b"]);
    }
}

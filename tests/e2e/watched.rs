//! What a user who looks closely sees of the Jobs of a namespace.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::harness::{Cluster, Namespace};
use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};

/// Follows the Jobs of a namespace: the most that were alive at once, and how often each node got one.
pub struct Watched {
    most: Arc<AtomicUsize>,
    most_on_a_node: Arc<AtomicUsize>,
    made: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl Watched {
    pub async fn new(cluster: &Cluster, namespace: &Namespace) -> Self {
        let api = Api::<Job>::namespaced(cluster.client().await, &namespace.name);
        let watched = Self { most: Arc::default(), most_on_a_node: Arc::default(), made: Arc::default() };
        let (most, made) = (Arc::clone(&watched.most), Arc::clone(&watched.made));
        let most_on_a_node = Arc::clone(&watched.most_on_a_node);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut ready = Some(ready);
            let mut alive: BTreeMap<String, String> = BTreeMap::new();
            let mut stream = std::pin::pin!(watcher(api, Config::default()).default_backoff());
            while let Some(event) = stream.next().await {
                match event {
                    Ok(Event::Apply(job) | Event::InitApply(job)) => {
                        let node = job.annotations()["prewarm.io/node-name"].clone();
                        if has_ended(&job) {
                            alive.remove(&job.name_any());
                        } else {
                            alive.insert(job.name_any(), node.clone());
                        }
                        let here = alive.values().filter(|other| **other == node).count();
                        most_on_a_node.fetch_max(here, Ordering::Relaxed);
                        let mut made = made.lock().unwrap();
                        let uids: &mut Vec<String> = made.entry(node).or_default();
                        let uid = job.uid().unwrap();
                        if !uids.contains(&uid) {
                            uids.push(uid);
                        }
                    }
                    Ok(Event::Delete(job)) => {
                        alive.remove(&job.name_any());
                    }
                    Ok(Event::InitDone) => {
                        ready.take().map(|ready| ready.send(()));
                    }
                    Ok(Event::Init) | Err(_) => {}
                }
                most.fetch_max(alive.len(), Ordering::Relaxed);
            }
        });
        is_ready.await.unwrap();
        watched
    }

    /// The most that were alive at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// The most that were alive at once on one node.
    pub fn most_on_a_node(&self) -> usize {
        self.most_on_a_node.load(Ordering::Relaxed)
    }

    /// How many Jobs each node has had.
    pub fn jobs_per_node(&self) -> BTreeMap<String, usize> {
        self.made.lock().unwrap().iter().map(|(node, uids)| (node.clone(), uids.len())).collect()
    }
}

fn has_ended(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

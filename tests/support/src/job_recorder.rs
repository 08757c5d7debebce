//! Records the Jobs of a namespace by a watch.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};
use prewarmer_api::annotations::NODE_ANNOTATION;

use crate::{cluster::Cluster, namespace::Namespace};

/// Records Jobs of a namespace: the maximum number of active Jobs, and the UIDs created for each
/// node.
pub struct JobRecorder {
    max_active: Arc<AtomicUsize>,
    max_active_per_node: Arc<AtomicUsize>,
    created: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl JobRecorder {
    /// Starts to record; returns after the first list of Jobs.
    pub async fn new(cluster: &Cluster, namespace: &Namespace) -> Self {
        let api = Api::<Job>::namespaced(cluster.client().await, &namespace.name);
        let watched = Self {
            max_active: Arc::default(),
            max_active_per_node: Arc::default(),
            created: Arc::default(),
        };
        let (most, made) = (Arc::clone(&watched.max_active), Arc::clone(&watched.created));
        let max_active_per_node = Arc::clone(&watched.max_active_per_node);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut ready = Some(ready);
            let mut alive: BTreeMap<String, String> = BTreeMap::new();
            let mut stream = std::pin::pin!(watcher(api, Config::default()).default_backoff());
            while let Some(event) = stream.next().await {
                match event {
                    Ok(Event::Apply(job) | Event::InitApply(job)) => {
                        let node = job.annotations()[NODE_ANNOTATION].clone();
                        if has_ended(&job) {
                            alive.remove(&job.name_any());
                        } else {
                            alive.insert(job.name_any(), node.clone());
                        }
                        let here = alive.values().filter(|other| **other == node).count();
                        max_active_per_node.fetch_max(here, Ordering::Relaxed);
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

    /// Returns the maximum number of Jobs active at the same time.
    pub fn max_active(&self) -> usize {
        self.max_active.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of Jobs active at the same time on one node.
    pub fn max_active_per_node(&self) -> usize {
        self.max_active_per_node.load(Ordering::Relaxed)
    }

    /// Returns the number of Jobs created for each node.
    pub fn jobs_per_node(&self) -> BTreeMap<String, usize> {
        self.created.lock().unwrap().iter().map(|(node, uids)| (node.clone(), uids.len())).collect()
    }
}

fn has_ended(job: &Job) -> bool {
    let conditions =
        job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions
        .iter()
        .any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

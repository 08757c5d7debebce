//! The namespaces' annotations, for opting in and out.

use std::{collections::BTreeMap, sync::Arc};

use dashmap::DashMap;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};
use tokio_util::sync::CancellationToken;

use crate::workload::PREFIX;

/// Annotations of ours on namespaces. Clones share one map.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    annotations: Arc<DashMap<String, BTreeMap<String, String>>>,
}

impl Namespaces {
    /// A namespace's annotations; none where the namespace is not known (yet).
    #[must_use]
    pub fn annotations(&self, namespace: &str) -> BTreeMap<String, String> {
        self.annotations.get(namespace).map(|found| found.clone()).unwrap_or_default()
    }

    /// Notes what a namespace carries.
    pub fn set(&self, namespace: String, annotations: &BTreeMap<String, String>) {
        let ours: BTreeMap<_, _> = annotations
            .iter()
            .filter(|(key, _)| key.starts_with(PREFIX))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if ours.is_empty() {
            self.annotations.remove(&namespace);
        } else {
            self.annotations.insert(namespace, ours);
        }
    }

    /// Follows the cluster until `stop`. A namespace that vanished while the watch was interrupted keeps its entry: nothing
    /// can be admitted to it any more.
    pub async fn follow(self, client: Client, stop: CancellationToken) {
        let api = Api::<PartialObjectMeta<Namespace>>::all(client);
        let mut stream = std::pin::pin!(watcher(api, Config::default()).default_backoff());
        while let Some(Some(event)) = stop.run_until_cancelled(stream.next()).await {
            match event {
                Ok(Event::Apply(namespace) | Event::InitApply(namespace)) => {
                    self.set(namespace.name_any(), namespace.annotations());
                }
                Ok(Event::Delete(namespace)) => {
                    self.annotations.remove(&namespace.name_any());
                }
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "the watch of namespaces was interrupted; it is taken up again"),
            }
        }
    }
}

//! Watch of the kubelet's events.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use moka::future::Cache;
use prewarmer_core::{
    pod_start::{
        classify::{self, WorkerPull},
        event::{self, FIELD_SELECTOR, ImageEvent},
    },
    workload_watch::ImageRefs,
};
use prewarmer_kube::{
    metrics::ObjectErrorMetrics,
    object_error::{WorkKind, catch_panic},
};
use tokio_util::sync::CancellationToken;

use super::{
    PodStartMetrics,
    metrics::{COLD, WARM},
};
use crate::scope::scoped;

/// Maximum number of stored pulls, about 150 bytes each: 100 images on 1,000 nodes. The cache evicts
/// the excess.
const MAX_WORKER_PULLS: u64 = 100_000;
/// Time after which an unused pull is dropped.
const WORKER_PULL_TTL: Duration = Duration::from_secs(24 * 3600);
/// Delay after an error.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// Dependencies of the watch.
pub(crate) struct PodStartWatcher {
    /// Client for events.
    pub client: Client,
    /// Only namespace to watch; `None` for all.
    pub namespace: Option<String>,
    /// Images that watched workloads need.
    pub image_refs: ImageRefs,
    /// Metrics of panics.
    pub object_errors: ObjectErrorMetrics,
    /// Metrics of pod starts.
    pub metrics: PodStartMetrics,
}

/// Counts pod starts until `stop`. Earlier events are not counted, since the previous leader has
/// counted them.
pub(crate) async fn run(own: PodStartWatcher, stop: CancellationToken) {
    let events = scoped::<Event>(&own.client, own.namespace.as_deref());
    let counter = PodStartCounter {
        worker_pulls: Cache::builder()
            .max_capacity(MAX_WORKER_PULLS)
            .time_to_live(WORKER_PULL_TTL)
            .build(),
        image_refs: own.image_refs,
        object_errors: own.object_errors,
        metrics: own.metrics,
    };
    let mut version = None;
    while !stop.is_cancelled() {
        let round = counter.watch_once(&events, &mut version);
        match stop.run_until_cancelled(round).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the watch of kubelet events failed; retrying");
                // The resource version is too old or was rejected; the watch restarts from the
                // current one.
                version = None;
                let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
            }
        }
    }
}

struct PodStartCounter {
    worker_pulls: Cache<u64, WorkerPull>,
    image_refs: ImageRefs,
    object_errors: ObjectErrorMetrics,
    metrics: PodStartMetrics,
}

fn pull_key(pulled: &ImageEvent) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pulled.node, &pulled.image).hash(&mut hasher);
    hasher.finish()
}

impl PodStartCounter {
    /// Runs one watch until the API server ends it.
    async fn watch_once(
        &self,
        events: &Api<Event>,
        version: &mut Option<String>,
    ) -> kube::Result<()> {
        let from = if let Some(version) = version.take() {
            version
        } else {
            let list = events.list(&ListParams::default().fields(FIELD_SELECTOR).limit(1)).await?;
            list.metadata.resource_version.unwrap_or_default()
        };
        *version = Some(from.clone());
        let mut stream = std::pin::pin!(
            events.watch(&WatchParams::default().fields(FIELD_SELECTOR), &from).await?
        );
        while let Some(event) = stream.next().await {
            match event? {
                // A repeated event is the restart of a container, not the start of a pod.
                WatchEvent::Added(event) => {
                    version.clone_from(&event.metadata.resource_version);
                    let read = || event::parse_event(&event, Timestamp::now());
                    let name = event.metadata.name.as_deref().unwrap_or_default();
                    if let Some(Some(pulled)) =
                        catch_panic(&self.object_errors, WorkKind::PodStart, name, read)
                    {
                        self.count(&pulled).await;
                    }
                }
                WatchEvent::Modified(event) | WatchEvent::Deleted(event) => {
                    version.clone_from(&event.metadata.resource_version);
                }
                WatchEvent::Bookmark(mark) => *version = Some(mark.metadata.resource_version),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
        Ok(())
    }

    async fn count(&self, pulled: &ImageEvent) {
        let place = pull_key(pulled);
        if pulled.by_worker {
            if let Some(took) = pulled.pull_duration {
                self.worker_pulls
                    .insert(place, WorkerPull { at: pulled.at, pull_duration: took })
                    .await;
            }
            return;
        }
        if !self.image_refs.contains(&pulled.namespace, &pulled.image) {
            return;
        }
        // Only the first container on the node benefits; later ones would have found the image in
        // any case.
        let start = classify::classify(pulled, self.worker_pulls.remove(&place).await);
        self.metrics.pod_starts.with_label_values(&[if start.warm { WARM } else { COLD }]).inc();
        if let Some(lead) = start.lead {
            self.metrics.lead_time.observe(lead.as_secs_f64());
        }
        if let Some(saved) = start.saved {
            self.metrics.seconds_saved.inc_by(saved.as_secs_f64());
        }
    }
}

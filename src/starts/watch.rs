//! Follows the kubelet's events.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
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
use tokio_util::sync::CancellationToken;

use super::{
    event::{self, Pulled},
    judge::{self, Warmed},
};
use crate::{
    metrics::Metrics,
    rollout::Wanted,
    scope::scoped,
    supervise::{Work, contain},
};

/// The events that tell of an image: the API server leaves all others out.
const FIELDS: &str = "reason=Pulled,involvedObject.kind=Pod";
/// Pulls that are remembered, of some 150 bytes each: 100 images on 1,000 nodes. The oldest unused go first.
const MAX_WARMED: u64 = 100_000;
/// What nobody has used for so long was pulled for nobody.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// After an error.
const PAUSE: Duration = Duration::from_secs(5);

/// What is needed to watch.
pub struct Watcher {
    /// To read with.
    pub client: Client,
    /// The only namespace looked at, where set.
    pub namespace: Option<String>,
    /// The images that count.
    pub wanted: Wanted,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Counts until `stop`. Events from before are not counted: whoever led then has done so.
pub async fn run(own: Watcher, stop: CancellationToken) {
    let events = scoped::<Event>(&own.client, own.namespace.as_deref());
    let counter = Counter {
        warmed: Cache::builder().max_capacity(MAX_WARMED).time_to_live(REMEMBERED).build(),
        wanted: own.wanted,
        metrics: own.metrics,
    };
    let mut version = None;
    while !stop.is_cancelled() {
        let round = counter.follow(&events, &mut version);
        match stop.run_until_cancelled(round).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the kubelets' events could not be watched; it is tried again");
                // Too long ago, or refused: from now on, then.
                version = None;
                let _ = stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }
}

struct Counter {
    warmed: Cache<u64, Warmed>,
    wanted: Wanted,
    metrics: Arc<Metrics>,
}

fn place(pulled: &Pulled) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pulled.node, &pulled.image).hash(&mut hasher);
    hasher.finish()
}

impl Counter {
    /// One watch, until the API server ends it.
    async fn follow(&self, events: &Api<Event>, version: &mut Option<String>) -> kube::Result<()> {
        let from = if let Some(version) = version.take() {
            version
        } else {
            self.metrics.kube_requests.with_label_values(&["list", "events"]).inc();
            let list = events.list(&ListParams::default().fields(FIELDS).limit(1)).await?;
            list.metadata.resource_version.unwrap_or_default()
        };
        *version = Some(from.clone());
        self.metrics.kube_requests.with_label_values(&["watch", "events"]).inc();
        let mut stream = std::pin::pin!(events.watch(&WatchParams::default().fields(FIELDS), &from).await?);
        while let Some(event) = stream.next().await {
            match event? {
                // What is said again is the restart of a container, not the start of a pod.
                WatchEvent::Added(event) => {
                    version.clone_from(&event.metadata.resource_version);
                    let read = || event::read(&event, Timestamp::now());
                    let name = event.metadata.name.as_deref().unwrap_or_default();
                    if let Some(Some(pulled)) = contain(&self.metrics, Work::PodStart, name, read) {
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

    async fn count(&self, pulled: &Pulled) {
        let place = place(pulled);
        if pulled.worker {
            if let Some(took) = pulled.took {
                self.warmed.insert(place, Warmed { at: pulled.at, took }).await;
            }
            return;
        }
        if !self.wanted.has(&pulled.namespace, &pulled.image) {
            return;
        }
        // The first container on the node has the benefit; those after it would have found the image anyway.
        let start = judge::judge(pulled, self.warmed.remove(&place).await);
        self.metrics.pod_starts.with_label_values(&[if start.warm { "warm" } else { "cold" }]).inc();
        if let Some(lead) = start.lead {
            self.metrics.lead_time.observe(lead.as_secs_f64());
        }
        if let Some(saved) = start.saved {
            self.metrics.seconds_saved.inc_by(saved.as_secs_f64());
        }
    }
}

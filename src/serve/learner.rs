//! Learns of the tasks and schedules that exist: for the catalog, and so that replicas and restarts do not ask twice.

use std::{collections::HashSet, fmt::Debug, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ObjectMeta,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{Catalog, Key, Schedules},
    intake::{REWRITTEN_ANNOTATION, WatchHints, workloads_of},
    metrics::Metrics,
    schedule::PrewarmSchedule,
    scope::scoped,
    supervise::{Work, contain},
    surroundings::Surroundings,
    task::{ORIGIN_LABEL, PREFIX, PrewarmTask},
};

/// Objects per page of a first list.
const PAGE: u32 = 250;
/// A watch that was interrupted says nothing when it stands again. When nothing was heard for so long, a list tells.
const RELIST: Duration = Duration::from_secs(60);

/// What is done with what a watch tells.
pub(super) trait Reader: Send + 'static {
    /// What is watched.
    type Kind: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static;
    /// It is so.
    fn put(&self, object: Self::Kind);
    /// It is no more.
    fn remove(&self, object: &Self::Kind);
    /// Only these are.
    fn keep_only(&self, listed: &HashSet<Key>);
    /// The watch does not stand.
    fn interrupted(&self) {}
}

/// Tasks, and where they are written down.
pub(super) struct Tasks {
    pub(super) hints: WatchHints,
    pub(super) around: Surroundings,
    pub(super) catalog: Catalog,
}

impl Reader for Tasks {
    type Kind = PrewarmTask;

    fn put(&self, task: PrewarmTask) {
        self.catalog.put(&task);
        if task.labels().get(ORIGIN_LABEL).is_none_or(|origin| origin != "admission") {
            return;
        }
        self.hints.ledger().learn(&task, Instant::now());
        if task.annotations().contains_key(REWRITTEN_ANNOTATION) {
            let namespace = task.namespace().unwrap_or_default();
            let titles = workloads_of(&task);
            for (kind, name) in titles.iter().filter_map(|title| title.split_once('/')) {
                self.around.note_rewritten(&namespace, kind, name);
            }
        }
    }

    fn remove(&self, task: &PrewarmTask) {
        self.catalog.remove(task);
        self.hints.ledger().removed(task);
    }

    fn keep_only(&self, listed: &HashSet<Key>) {
        self.catalog.keep_only(listed);
    }

    fn interrupted(&self) {
        self.catalog.interrupted();
    }
}

impl Reader for Schedules {
    type Kind = PrewarmSchedule;

    fn put(&self, schedule: PrewarmSchedule) {
        Self::put(self, schedule);
    }

    fn remove(&self, schedule: &PrewarmSchedule) {
        Self::remove(self, schedule);
    }

    fn keep_only(&self, listed: &HashSet<Key>) {
        Self::keep_only(self, listed);
    }
}

/// Where there is something to learn.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) client: Client,
    /// In all namespaces without.
    pub(super) namespace: Option<String>,
    /// Counted up when a first list is there.
    pub(super) ready: watch::Sender<usize>,
    pub(super) metrics: Arc<Metrics>,
}

/// Learns until `stop`.
pub(super) async fn learn<R: Reader>(reader: R, place: Place, stop: CancellationToken) {
    let Place { client, namespace, ready, metrics } = place;
    let kind = R::Kind::plural(&()).into_owned();
    let api: Api<DeserializeGuard<R::Kind>> = scoped(&client, namespace.as_deref());
    let start = || Box::pin(watcher(api.clone(), watcher::Config::default().page_size(PAGE)).default_backoff());
    let (mut stream, mut first, mut listed) = (start(), true, HashSet::new());
    let mut interrupted: Option<Instant> = None;
    loop {
        let patience = async {
            match interrupted {
                Some(since) => tokio::time::sleep_until(since + RELIST).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            () = stop.cancelled() => return,
            () = patience => {
                interrupted = None;
                stream = start();
                continue;
            }
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(%kind, %error, "a watch was interrupted; it is taken up again");
                interrupted.get_or_insert_with(Instant::now);
                reader.interrupted();
                continue;
            }
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(object))) => {
                let meta = object.meta();
                listed.insert(Key::new(
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.name.as_deref().unwrap_or_default(),
                ));
                put(&reader, &metrics, object);
            }
            Some(Ok(Event::Apply(object))) => put(&reader, &metrics, object),
            Some(Ok(Event::Delete(object))) => {
                if let Ok(object) = &object.0 {
                    reader.remove(object);
                }
            }
            Some(Ok(Event::InitDone)) => {
                reader.keep_only(&std::mem::take(&mut listed));
                if std::mem::take(&mut first) {
                    ready.send_modify(|count| *count += 1);
                }
            }
        }
        interrupted = None;
    }
}

/// One object that cannot be read, or that the reader fails over, must not wedge the stream.
fn put<R: Reader>(reader: &R, metrics: &Metrics, object: DeserializeGuard<R::Kind>) {
    match object.0 {
        Ok(mut object) => {
            strip(object.meta_mut());
            let name = format!(
                "{} {}/{}",
                R::Kind::kind(&()),
                text(object.meta().namespace.as_ref()),
                text(object.meta().name.as_ref())
            );
            contain(metrics, Work::Catalog, name, || reader.put(object));
        }
        Err(invalid) => {
            metrics.unreadable.with_label_values(&[&R::Kind::plural(&())]).inc();
            tracing::warn!(kind = %R::Kind::kind(&()), namespace = invalid.metadata.namespace, name = invalid.metadata.name, error = %invalid.error, "this cannot be read");
        }
    }
}

/// Drops what nobody reads and anybody may fill: annotations of others have up to 256 KiB.
fn strip(meta: &mut ObjectMeta) {
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| key.starts_with(PREFIX));
    }
}

fn text(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

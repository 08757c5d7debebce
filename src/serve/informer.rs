//! Informers of tasks and schedules. They feed the stores, and the deduplication index, so that
//! neither another replica nor a restarted one creates a task twice.

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

use prewarmer_core::{
    intake::{REWRITTEN_ANNOTATION, workloads_of},
    schedule::PrewarmSchedule,
    task::{ORIGIN_LABEL, PREFIX, PrewarmTask},
};

use crate::{
    cluster_context::ClusterContextStore,
    intake::WatchHints,
    metrics::Metrics,
    scope::scoped,
    store::{NamespacedName, ScheduleStore, TaskStore},
    supervise::{WorkKind, catch_panic},
};

/// Page size of a list, in objects.
const PAGE_SIZE: u32 = 250;
/// Time after an interruption without any watch event after which the objects are listed again: a
/// watch that is established again does not report that.
const RELIST_AFTER: Duration = Duration::from_secs(60);

/// Index that is updated by watch events.
pub(super) trait Index: Send + 'static {
    /// Watched resource.
    type Kind: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static;
    /// Inserts or updates an object.
    fn apply(&self, object: Self::Kind);
    /// Removes a deleted object.
    fn remove(&self, object: &Self::Kind);
    /// Removes the objects that a complete list does not contain.
    fn retain_listed(&self, listed: &HashSet<NamespacedName>);
    /// Records that the watch was interrupted.
    fn interrupted(&self) {}
}

/// Indexes that are updated by watch events of tasks.
pub(super) struct TaskIndexes {
    pub(super) hints: WatchHints,
    pub(super) context: ClusterContextStore,
    pub(super) store: TaskStore,
}

impl Index for TaskIndexes {
    type Kind = PrewarmTask;

    fn apply(&self, task: PrewarmTask) {
        self.store.put(&task);
        if task.labels().get(ORIGIN_LABEL).is_none_or(|origin| origin != "admission") {
            return;
        }
        self.hints.dedup_index().observe(&task, Instant::now().into_std());
        if task.annotations().contains_key(REWRITTEN_ANNOTATION) {
            let namespace = task.namespace().unwrap_or_default();
            let titles = workloads_of(&task);
            for (kind, name) in titles.iter().filter_map(|title| title.split_once('/')) {
                self.context.mark_rewritten(&namespace, kind, name);
            }
        }
    }

    fn remove(&self, task: &PrewarmTask) {
        self.store.remove(task);
        self.hints.dedup_index().observe_deletion(task);
    }

    fn retain_listed(&self, listed: &HashSet<NamespacedName>) {
        self.store.retain_listed(listed);
    }

    fn interrupted(&self) {
        self.store.mark_interrupted();
    }
}

impl Index for ScheduleStore {
    type Kind = PrewarmSchedule;

    fn apply(&self, schedule: PrewarmSchedule) {
        Self::put(self, schedule);
    }

    fn remove(&self, schedule: &PrewarmSchedule) {
        Self::remove(self, schedule);
    }

    fn retain_listed(&self, listed: &HashSet<NamespacedName>) {
        Self::retain_listed(self, listed);
    }
}

/// Dependencies of an informer.
#[derive(Clone)]
pub(super) struct InformerContext {
    pub(super) client: Client,
    /// Watched namespace; `None`: all namespaces.
    pub(super) namespace: Option<String>,
    /// Counter that is incremented when the first list is complete.
    pub(super) synced: watch::Sender<usize>,
    pub(super) metrics: Arc<Metrics>,
}

/// Lists and watches objects and updates the index, until `stop`.
pub(super) async fn run<R: Index>(reader: R, place: InformerContext, stop: CancellationToken) {
    let InformerContext { client, namespace, synced: ready, metrics } = place;
    let kind = R::Kind::plural(&()).into_owned();
    let api: Api<DeserializeGuard<R::Kind>> = scoped(&client, namespace.as_deref());
    let start = || {
        Box::pin(
            watcher(api.clone(), watcher::Config::default().page_size(PAGE_SIZE)).default_backoff(),
        )
    };
    let (mut stream, mut first, mut listed) = (start(), true, HashSet::new());
    let mut interrupted: Option<Instant> = None;
    loop {
        let relist_due = async {
            match interrupted {
                Some(since) => tokio::time::sleep_until(since + RELIST_AFTER).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            () = stop.cancelled() => return,
            () = relist_due => {
                interrupted = None;
                stream = start();
                continue;
            }
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(%kind, %error, "watch interrupted; it is re-established");
                interrupted.get_or_insert_with(Instant::now);
                reader.interrupted();
                continue;
            }
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(object))) => {
                let meta = object.meta();
                listed.insert(NamespacedName::new(
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.name.as_deref().unwrap_or_default(),
                ));
                apply_object(&reader, &metrics, object);
            }
            Some(Ok(Event::Apply(object))) => apply_object(&reader, &metrics, object),
            Some(Ok(Event::Delete(object))) => {
                if let Ok(object) = &object.0 {
                    reader.remove(object);
                }
            }
            Some(Ok(Event::InitDone)) => {
                reader.retain_listed(&std::mem::take(&mut listed));
                if std::mem::take(&mut first) {
                    ready.send_modify(|count| *count += 1);
                }
            }
        }
        interrupted = None;
    }
}

/// Updates the index with one object. An object that cannot be decoded, or on which the index
/// panics, is logged and does not stop the informer.
fn apply_object<R: Index>(reader: &R, metrics: &Metrics, object: DeserializeGuard<R::Kind>) {
    match object.0 {
        Ok(mut object) => {
            strip_annotations(object.meta_mut());
            let name = format!(
                "{} {}/{}",
                R::Kind::kind(&()),
                text_or_empty(object.meta().namespace.as_ref()),
                text_or_empty(object.meta().name.as_ref())
            );
            catch_panic(metrics, WorkKind::Store, name, || reader.apply(object));
        }
        Err(invalid) => {
            metrics.unreadable_objects.with_label_values(&[&R::Kind::plural(&())]).inc();
            tracing::warn!(kind = %R::Kind::kind(&()), namespace = invalid.metadata.namespace, name = invalid.metadata.name, error = %invalid.error, "object could not be decoded; it is ignored");
        }
    }
}

/// Removes annotations that are not read, to save memory: annotations of other programs have up to
/// 256 KiB.
fn strip_annotations(meta: &mut ObjectMeta) {
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| key.starts_with(PREFIX));
    }
}

fn text_or_empty(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

//! Informers of tasks and schedules, which every replica runs. They feed the stores, the
//! deduplication index, so that neither another replica nor a restarted one creates a task twice,
//! and the leader's controller.

use std::{collections::HashSet, fmt::Debug, ops::ControlFlow, sync::Arc};

use kube::{
    Resource, ResourceExt,
    api::ObjectMeta,
    core::DeserializeGuard,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::Instant};

use prewarmer_core::{
    annotations::REWRITTEN_ANNOTATION,
    controller::{WatchChange, task_of},
    intake::workloads_of,
    schedule::PrewarmSchedule,
    task::{ORIGIN_LABEL, PREFIX, PrewarmTask},
};
use prewarmer_kube::{
    informer::{EventHandler, object_name},
    metrics::ObjectErrorMetrics,
    object_error::{WorkKind, catch_panic, report_undecodable},
    store::{NamespacedName, ScheduleStore, TaskStore},
};

use crate::{
    cluster_context::ClusterContextStore,
    controller::{TaskFeed, TaskSubscription},
    intake::WatchHints,
};

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
    fn apply(&self, object: &Self::Kind);
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

    fn apply(&self, task: &PrewarmTask) {
        self.store.put(task);
        if task.labels().get(ORIGIN_LABEL).is_none_or(|origin| origin != "admission") {
            return;
        }
        self.hints.dedup_index().observe(task, Instant::now().into_std());
        if task.annotations().contains_key(REWRITTEN_ANNOTATION) {
            let namespace = task.namespace().unwrap_or_default();
            let titles = workloads_of(task);
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

    fn apply(&self, schedule: &PrewarmSchedule) {
        Self::put(self, schedule.clone());
    }

    fn remove(&self, schedule: &PrewarmSchedule) {
        Self::remove(self, schedule);
    }

    fn retain_listed(&self, listed: &HashSet<NamespacedName>) {
        Self::retain_listed(self, listed);
    }
}

/// Handler that updates an index. Objects that cannot be decoded keep their last state.
pub(super) struct IndexHandler<R: Index> {
    index: R,
    listed: HashSet<NamespacedName>,
    /// Counter that is incremented when the first list is complete.
    synced: Option<watch::Sender<usize>>,
    object_errors: ObjectErrorMetrics,
}

impl<R: Index> IndexHandler<R> {
    pub(super) fn new(
        index: R,
        synced: watch::Sender<usize>,
        object_errors: &ObjectErrorMetrics,
    ) -> Self {
        let (synced, object_errors) = (Some(synced), object_errors.clone());
        Self { index, listed: HashSet::new(), synced, object_errors }
    }

    fn apply(&self, object: &mut DeserializeGuard<R::Kind>) {
        match &mut object.0 {
            Ok(object) => {
                strip_annotations(object.meta_mut());
                self.index.apply(object);
            }
            Err(invalid) => {
                let kind = R::Kind::plural(&());
                report_undecodable(&kind, &invalid.metadata, &invalid.error, &self.object_errors);
            }
        }
    }

    fn update(&mut self, event: &mut Event<DeserializeGuard<R::Kind>>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                self.listed.insert(NamespacedName::new(&namespace, &name));
                self.apply(object);
            }
            Event::Apply(object) => self.apply(object),
            Event::Delete(object) => {
                if let Ok(object) = &object.0 {
                    self.index.remove(object);
                }
            }
            Event::InitDone => {
                self.index.retain_listed(&std::mem::take(&mut self.listed));
                if let Some(synced) = self.synced.take() {
                    synced.send_modify(|count| *count += 1);
                }
            }
        }
    }
}

impl<R: Index> EventHandler for IndexHandler<R> {
    type Object = DeserializeGuard<R::Kind>;
    type Change = ();

    fn handle(&mut self, mut event: Event<Self::Object>) -> Option<()> {
        self.update(&mut event);
        None
    }

    async fn deliver(&mut self, (): ()) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn interrupted(&mut self, _error: &watcher::Error) {
        self.index.interrupted();
    }
}

/// Handler of tasks: updates the indexes, and delivers every change to the controller while this
/// replica leads, so that each replica watches tasks once.
pub(super) struct TaskHandler {
    indexes: IndexHandler<TaskIndexes>,
    subscriptions: watch::Receiver<Option<TaskSubscription>>,
    /// Controller of the current term.
    controller: Option<TaskSubscription>,
    /// Tasks of the list in progress that the controller gets.
    listed: Option<Vec<Arc<PrewarmTask>>>,
}

impl TaskHandler {
    pub(super) fn new(indexes: IndexHandler<TaskIndexes>, feed: &TaskFeed) -> Self {
        Self { indexes, subscriptions: feed.subscriptions(), controller: None, listed: None }
    }
}

impl EventHandler for TaskHandler {
    type Object = DeserializeGuard<PrewarmTask>;
    type Change = WatchChange<Arc<PrewarmTask>>;

    fn handle(&mut self, mut event: Event<Self::Object>) -> Option<Self::Change> {
        // A panic of an index must not keep the task from the controller.
        let object_errors = self.indexes.object_errors.clone();
        let object = format!("prewarmtasks {}", object_name(&event));
        catch_panic(&object_errors, WorkKind::Store, object, || {
            self.indexes.update(&mut event);
        });
        self.controller.as_ref()?;
        match event {
            Event::Init => self.listed = Some(Vec::new()),
            Event::InitApply(task) => {
                if let Some(listed) = &mut self.listed {
                    listed.push(task_of(task).0);
                }
            }
            Event::InitDone => return self.listed.take().map(WatchChange::Restarted),
            Event::Apply(task) => return Some(WatchChange::Applied(task_of(task).0)),
            Event::Delete(task) => return Some(WatchChange::Deleted(task_of(task).0)),
        }
        None
    }

    async fn deliver(&mut self, change: Self::Change) -> ControlFlow<()> {
        if let Some(controller) = &self.controller
            && controller.send(change).await.is_break()
        {
            self.controller = None;
        }
        ControlFlow::Continue(())
    }

    fn interrupted(&mut self, error: &watcher::Error) {
        self.indexes.interrupted(error);
    }

    /// Resolves when a controller has subscribed: it needs all tasks.
    async fn list_requested(&mut self) {
        loop {
            if self.subscriptions.changed().await.is_err() {
                return std::future::pending().await;
            }
            self.controller.clone_from(&self.subscriptions.borrow_and_update());
            self.listed = None;
            if self.controller.is_some() {
                return;
            }
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

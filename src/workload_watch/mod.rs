//! Watches of all workloads, as the authoritative source behind hints.
//!
//! Input: watches of all kinds with a pod template except pods, reduced to the images that each
//! workload needs. Output: hints for changes that admission did not report (the webhook was not
//! available, a namespace opted in, a later webhook changed the object); marks on tasks that no
//! workload needs any more; knowledge of rewritten images. Every replica watches, so that a new
//! leader knows the changes before its term, including those that the previous leader did not
//! handle; only the leader acts. May call `cluster_context`, `intake` and `workload`.
//!
//! Pods without a controller are not watched: their images are already being pulled.

mod dynamic_workload;
mod metrics;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::ControlFlow,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, ResourceExt, api::ListParams, core::ApiResource, runtime::watcher::Event};
use prewarmer_core::{
    intake::{ConfirmedHint, OfferOutcome, dedup_keys_of_all},
    workload::{ObjectView, Policy, WarmDecision, WorkloadKind, rewritten_images},
    workload_watch::{
        ImageRefs, image_refs,
        index::{WorkloadId, WorkloadIndex},
        progress,
    },
};
use prewarmer_kube::{
    informer::{EventHandler, Informer},
    list::{NO_LIMIT, list_pages},
    object_error::{WorkKind, catch_panic},
};
use tokio::{
    sync::{
        mpsc::{Receiver, Sender, channel},
        watch,
    },
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use self::dynamic_workload::DynamicWorkload;
pub(crate) use self::metrics::WorkloadWatchMetrics;
use crate::{
    cluster_context::ClusterContextStore,
    intake::{WatchHints, mark_obsolete},
    metrics::Metrics,
    runtime_now,
    supervise::{ComponentFailure, ComponentSet},
};

/// Time after the hint window in which hints are expected to create a task for a change: the
/// webhook's timeout, the lookup, and the requests.
const SETTLE_DELAY: Duration = Duration::from_secs(3);
/// Interval at which all namespaces with open tasks are checked for obsolete tasks, in case an
/// event was missed.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Time for which a replica that does not lead keeps changes without a task: four times the time
/// that a new leader needs to start.
const FOLLOWER_RETENTION: Duration = Duration::from_secs(60);
/// Objects per page of a list: a large template has 20 KB.
const PAGE_SIZE: u32 = 100;
/// Maximum number of events in the queue.
const QUEUE_CAPACITY: usize = 500;
/// Number of pods listed to detect rewritten images: enough to find one that is not being deleted.
const MAX_COMPARED_PODS: u32 = 20;

/// Dependencies of the workload watch.
#[derive(Clone)]
pub(crate) struct WorkloadWatcher {
    /// Client for watches and lists.
    pub client: Client,
    /// Policy that evaluates workloads.
    pub policy: Arc<Policy>,
    /// Cluster context.
    pub context: ClusterContextStore,
    /// Destination of hints, and index of open tasks.
    pub hints: WatchHints,
    /// Time during which hints are collected.
    pub window: Duration,
    /// Store of the images that workloads need.
    pub image_refs: ImageRefs,
    /// Metrics of panics and of objects that cannot be decoded.
    pub metrics: Arc<Metrics>,
    /// Metrics of the workload watch.
    pub workload_watch_metrics: WorkloadWatchMetrics,
}

/// Event of a watch.
enum WorkloadEvent {
    /// An object exists. `first`: it existed when the watch started.
    Applied {
        kind: usize,
        object: Box<ObjectView>,
        first: bool,
    },
    Deleted {
        kind: usize,
        namespace: String,
        name: String,
    },
    /// A list is complete and contains these objects only.
    ListCompleted {
        kind: usize,
        all: HashSet<(String, String)>,
    },
}

/// Watches until `stop`. The cluster context and the existing tasks must be known before the call.
/// The error names a watch that ended early.
pub(crate) async fn run(
    own: WorkloadWatcher,
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<(), ComponentFailure> {
    let (sender, inbox) = channel(QUEUE_CAPACITY);
    // The state before the start is not a change.
    let _ = own.context.take_changed_namespaces();
    let kinds: Vec<Arc<WorkloadKind>> =
        own.policy.kinds.iter().filter(|kind| !kind.is_pod()).cloned().collect();
    let mut watches = ComponentSet::default();
    for (index, kind) in kinds.iter().enumerate() {
        let follow = watch_kind(own.clone(), Arc::clone(kind), index, sender.clone(), stop.clone());
        watches.spawn("workload watch: informer", follow);
    }
    let state = WorkloadReconciler {
        settle: own.window + SETTLE_DELAY,
        index: WorkloadIndex::new(own.image_refs.clone()),
        watcher: own,
        kinds,
        listed: HashSet::new(),
        pending: HashMap::new(),
        obsolete_checks: HashMap::new(),
        sender,
        is_leader: leads,
    };
    let failure = tokio::select! {
        () = state.run(inbox, stop.clone()) => None,
        failure = watches.next_failure() => Some(failure).filter(|_| !stop.is_cancelled()),
    };
    if let Some(failure) = failure {
        return Err(failure);
    }
    let _ = watches.join_all().await;
    Ok(())
}

async fn watch_kind(
    own: WorkloadWatcher,
    kind: Arc<WorkloadKind>,
    index: usize,
    sender: Sender<WorkloadEvent>,
    stop: CancellationToken,
) {
    let api = dynamic_api(&own, own.policy.watch_namespace.as_deref(), &kind.api_resource());
    // A configured kind may not be installed (yet).
    let informer = Informer::new(api, &kind.plural, WorkKind::Workload, &own.metrics.object_errors)
        .optional(kind.is_custom());
    let handler = WorkloadHandler { kind, index, first: true, all: HashSet::new(), sender };
    informer.run(handler, stop).await;
}

/// Handler of the workloads of one kind.
struct WorkloadHandler {
    kind: Arc<WorkloadKind>,
    index: usize,
    /// `true` during the first list.
    first: bool,
    /// Namespaces and names of the list in progress.
    all: HashSet<(String, String)>,
    sender: Sender<WorkloadEvent>,
}

impl EventHandler for WorkloadHandler {
    type Object = DynamicWorkload;
    type Change = WorkloadEvent;

    fn handle(&mut self, event: Event<DynamicWorkload>) -> Option<WorkloadEvent> {
        match event {
            Event::Init => {
                self.all = HashSet::new();
                None
            }
            Event::InitApply(object) => {
                self.all.insert((object.namespace().unwrap_or_default(), object.name_any()));
                applied_event(&self.kind, self.index, object, self.first)
            }
            Event::InitDone => {
                self.first = false;
                let all = std::mem::take(&mut self.all);
                Some(WorkloadEvent::ListCompleted { kind: self.index, all })
            }
            Event::Apply(object) => applied_event(&self.kind, self.index, object, false),
            Event::Delete(object) => {
                let namespace = object.namespace().unwrap_or_default();
                let name = object.name_any();
                Some(WorkloadEvent::Deleted { kind: self.index, namespace, name })
            }
        }
    }

    async fn deliver(&mut self, event: WorkloadEvent) -> ControlFlow<()> {
        match self.sender.send(event).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

fn applied_event(
    kind: &WorkloadKind,
    index: usize,
    object: DynamicWorkload,
    first: bool,
) -> Option<WorkloadEvent> {
    let name = object.name_any();
    match kind.parse_value(object.object) {
        Ok(object) => Some(WorkloadEvent::Applied { kind: index, object: Box::new(object), first }),
        Err(error) => {
            tracing::debug!(kind = kind.kind, name, %error, "the object cannot be parsed");
            None
        }
    }
}

fn dynamic_api(
    watcher: &WorkloadWatcher,
    namespace: Option<&str>,
    resource: &ApiResource,
) -> Api<DynamicWorkload> {
    match namespace {
        Some(namespace) => Api::namespaced_with(watcher.client.clone(), namespace, resource),
        None => Api::all_with(watcher.client.clone(), resource),
    }
}

struct WorkloadReconciler {
    watcher: WorkloadWatcher,
    settle: Duration,
    kinds: Vec<Arc<WorkloadKind>>,
    index: WorkloadIndex,
    /// Kinds that were listed completely.
    listed: HashSet<usize>,
    /// Changes that are checked after hints have had time to create a task.
    pending: HashMap<WorkloadId, PendingChange>,
    /// Namespaces whose tasks are to be checked, with the time of the check.
    obsolete_checks: HashMap<String, Instant>,
    sender: Sender<WorkloadEvent>,
    is_leader: watch::Receiver<bool>,
}

/// Change to be checked.
struct PendingChange {
    due_at: Instant,
    observed_at: Instant,
    hint: ConfirmedHint,
}

impl WorkloadReconciler {
    async fn run(mut self, mut inbox: Receiver<WorkloadEvent>, stop: CancellationToken) {
        let mut changes = self.watcher.context.subscribe();
        let mut all = runtime_now() + self.settle;
        loop {
            let soonest = self
                .pending
                .values()
                .map(|due| due.due_at)
                .chain(self.obsolete_checks.values().copied())
                .min();
            let next = soonest.unwrap_or(all).min(all);
            tokio::select! {
                () = stop.cancelled() => return,
                news = inbox.recv() => match news {
                    Some(news) => {
                        self.handle(news);
                        while let Ok(news) = inbox.try_recv() {
                            self.handle(news);
                        }
                    }
                    None => return,
                },
                Ok(()) = changes.changed() => self.list_changed_namespaces(&stop),
                Ok(()) = self.is_leader.changed() => all = runtime_now(),
                () = sleep_until(next.into()) => {}
            }
            let now = runtime_now();
            if now >= all {
                all = now + CHECK_INTERVAL;
                let due = |namespace: String| (namespace, now);
                self.obsolete_checks.extend(
                    self.watcher
                        .hints
                        .dedup_index()
                        .namespaces_with_open_tasks()
                        .into_iter()
                        .map(due),
                );
            }
            self.offer_due_hints(now);
            self.mark_obsolete_tasks(now);
        }
    }

    fn handle(&mut self, news: WorkloadEvent) {
        match news {
            WorkloadEvent::Applied { kind, object, first } => self.apply(kind, *object, first),
            WorkloadEvent::Deleted { kind, namespace, name } => {
                self.remove(WorkloadId { kind, namespace, name });
            }
            WorkloadEvent::ListCompleted { kind, all } => {
                self.listed.insert(kind);
                for namespace in self.index.retain_listed(kind, &all, runtime_now()) {
                    self.schedule_obsolete_check(namespace);
                }
            }
        }
    }

    /// Removes an object that needs no images any more.
    fn remove(&mut self, id: WorkloadId) {
        self.pending.remove(&id);
        if self.index.remove(&id, runtime_now()) {
            self.schedule_obsolete_check(id.namespace);
        }
    }

    /// Schedules a check of the namespace's tasks after its changes have settled.
    fn schedule_obsolete_check(&mut self, namespace: String) {
        self.obsolete_checks.entry(namespace).or_insert(runtime_now() + self.settle);
    }

    fn apply(&mut self, kind_index: usize, object: ObjectView, first: bool) {
        let (watcher, kind) = (&self.watcher, &Arc::clone(&self.kinds[kind_index]));
        let metadata = &object.metadata;
        let id = WorkloadId {
            kind: kind_index,
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        };
        let consider = || watcher.policy.evaluate(kind, &object, &id.namespace, &watcher.context);
        let name = format!("{} {}/{}", kind.kind, id.namespace, id.name);
        let verdict =
            match catch_panic(&watcher.metrics.object_errors, WorkKind::Workload, name, consider) {
                None | Some((WarmDecision::Ignored(_), _)) => return self.remove(id),
                Some((verdict, _)) => verdict,
            };
        let workloads = verdict.workloads();
        let keys = dedup_keys_of_all(&workloads);
        let old = first && !progress::is_in_progress(kind, &object, Timestamp::now());
        let before = self.index.get(&id).map(<[_]>::to_vec);
        if before.as_ref() != Some(&keys) {
            self.index.insert(id.clone(), keys.clone(), image_refs::image_hashes(&workloads), old);
            if !old {
                let kept = match self.pending.remove(&id) {
                    Some(earlier) => earlier.hint.into_previous_keys(),
                    None => before.unwrap_or_default(),
                };
                if !keys.is_empty() {
                    let hint = ConfirmedHint::from_stored(
                        &id.namespace,
                        Timestamp::now(),
                        workloads,
                        kept,
                    );
                    let now = runtime_now();
                    self.pending.insert(
                        id.clone(),
                        PendingChange { due_at: now + self.settle, observed_at: now, hint },
                    );
                }
                self.schedule_obsolete_check(id.namespace.clone());
            }
        }
        if *self.is_leader.borrow()
            && progress::is_complete(kind, &object)
            && self.index.take_comparison(&id)
        {
            tokio::spawn(detect_rewritten_images(
                self.watcher.clone(),
                Arc::clone(kind),
                kind_index,
                object,
                self.sender.clone(),
            ));
        }
    }

    /// Checks changes that are due. The leader offers hints for those without a task; other
    /// replicas wait for the leader.
    fn offer_due_hints(&mut self, now: Instant) {
        let leads = *self.is_leader.borrow();
        let ripe: Vec<(WorkloadId, PendingChange)> =
            self.pending.extract_if(|_, due| due.due_at <= now).collect();
        for (id, due) in ripe {
            // The hint may have created a task at about the time when this replica saw the change.
            let since = due.observed_at.checked_sub(self.settle).unwrap_or(due.observed_at);
            if self.watcher.hints.dedup_index().covers_or_attempted(due.hint.new_keys(), since, now)
            {
                continue;
            }
            if leads {
                let (kind, namespace, name) = (&self.kinds[id.kind].kind, &id.namespace, &id.name);
                match self.watcher.hints.offer(due.hint.clone()) {
                    // The queue is full; the hint is offered again later.
                    OfferOutcome::Limited | OfferOutcome::Dropped => {
                        self.pending.insert(id, PendingChange { due_at: now + self.settle, ..due });
                    }
                    _ => {
                        tracing::info!(
                            kind,
                            namespace,
                            name,
                            "created a hint for a change missed by admission"
                        );
                        self.watcher.workload_watch_metrics.recovered.inc();
                    }
                }
            } else if now.duration_since(due.observed_at) < FOLLOWER_RETENTION {
                self.pending.insert(id, PendingChange { due_at: now + self.settle, ..due });
            }
        }
    }

    /// Marks tasks that no workload of their namespace needs any more.
    fn mark_obsolete_tasks(&mut self, now: Instant) {
        if !self.built_in_kinds_listed() {
            self.obsolete_checks.values_mut().for_each(|at| *at = (*at).max(now + self.settle));
            return;
        }
        let ripe: Vec<String> = self
            .obsolete_checks
            .extract_if(|_, at| *at <= now)
            .map(|(namespace, _)| namespace)
            .collect();
        // A later leader checks all namespaces.
        for namespace in ripe.into_iter().filter(|_| *self.is_leader.borrow()) {
            let ledger = self.watcher.hints.dedup_index();
            let since = now.checked_sub(self.settle).unwrap_or(now);
            let (wanted, leaving) = self.index.needed_keys(&namespace, since);
            if leaving {
                self.obsolete_checks.insert(namespace.clone(), now + self.settle);
            }
            for (task, asked) in ledger.unneeded_tasks(&namespace, &wanted) {
                if !self.all_kinds_listed(&asked.workloads) {
                    continue;
                }
                if now.duration_since(asked.first_seen()) < self.settle {
                    self.obsolete_checks.insert(namespace.clone(), now + self.settle);
                    continue;
                }
                let there = asked
                    .workloads
                    .iter()
                    .any(|title| self.index.contains(&self.kinds, &namespace, title));
                let why = if there {
                    "its workloads now require other images"
                } else {
                    "its workloads were deleted"
                };
                let watcher = self.watcher.clone();
                ledger.invalidate(&task);
                tokio::spawn(async move {
                    mark_obsolete(&watcher.client, &task, why).await;
                });
            }
        }
    }

    /// Reports whether all workloads, as `Kind/name`, are of kinds that are watched and listed.
    fn all_kinds_listed(&self, workloads: &BTreeSet<String>) -> bool {
        let kind = |title: &String| {
            title.split_once('/').map_or(String::new(), |(kind, _)| kind.to_owned())
        };
        let seen = |name: String| {
            (0..self.kinds.len()).any(|n| self.kinds[n].kind == name && self.listed.contains(&n))
        };
        !workloads.is_empty() && workloads.iter().map(kind).all(seen)
    }

    /// Reports whether all built-in kinds are listed. Before that, an image without a known
    /// workload may still be needed.
    fn built_in_kinds_listed(&self) -> bool {
        (0..self.kinds.len()).all(|n| self.kinds[n].is_custom() || self.listed.contains(&n))
    }

    /// Lists the workloads of namespaces whose annotations have changed.
    fn list_changed_namespaces(&self, stop: &CancellationToken) {
        for namespace in self.watcher.context.take_changed_namespaces() {
            if !self.watcher.policy.covers_namespace(&namespace) {
                continue;
            }
            for (index, kind) in self.kinds.iter().enumerate() {
                let (watcher, kind, namespace) =
                    (self.watcher.clone(), kind.clone(), namespace.clone());
                let (sender, stop) = (self.sender.clone(), stop.clone());
                tokio::spawn(async move {
                    stop.run_until_cancelled(list_namespace(
                        watcher, kind, index, namespace, sender,
                    ))
                    .await;
                });
            }
        }
    }
}

async fn list_namespace(
    watcher: WorkloadWatcher,
    kind: Arc<WorkloadKind>,
    index: usize,
    namespace: String,
    sender: Sender<WorkloadEvent>,
) {
    let api = dynamic_api(&watcher, Some(&namespace), &kind.api_resource());
    let mut pages = pin!(list_pages(&api, ListParams::default().limit(PAGE_SIZE), NO_LIMIT));
    loop {
        let page = match pages.try_next().await {
            Ok(Some(page)) => page,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(kind = kind.plural, namespace, %error, "workloads could not be listed again");
                return;
            }
        };
        for object in page {
            if let Some(news) = applied_event(&kind, index, object, false)
                && sender.send(news).await.is_err()
            {
                return;
            }
        }
    }
}

/// Compares a template with one of its pods, to detect images rewritten by another webhook.
async fn detect_rewritten_images(
    watcher: WorkloadWatcher,
    kind: Arc<WorkloadKind>,
    index: usize,
    object: ObjectView,
    sender: Sender<WorkloadEvent>,
) {
    let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
    let pods = watcher.policy.kinds.iter().find(|kind| kind.is_pod()).cloned();
    let (Some(pods), false) = (pods, object.selector.is_empty()) else { return };
    let selector: Vec<String> =
        object.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let params = ListParams::default().labels(&selector.join(",")).limit(MAX_COMPARED_PODS);
    let Ok(page) =
        dynamic_api(&watcher, Some(&namespace), &pods.api_resource()).list(&params).await
    else {
        return;
    };
    let views = page.items.into_iter().filter_map(|pod| pods.parse_value(pod.object).ok());
    let alive = views.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
    let Some(pairs) =
        alive.map(|pod| rewritten_images(&object, &pod)).filter(|pairs| !pairs.is_empty())
    else {
        return;
    };
    if watcher.context.mark_rewritten(&namespace, &kind.kind, &name) {
        let (template, pod) = &pairs[0];
        tracing::info!(
            kind = kind.kind,
            namespace,
            name,
            template,
            pod,
            "another webhook rewrites the images of the workload; it is warmed with the helper pull method from now on"
        );
        // A closed channel means that the watch has stopped.
        let _ = sender
            .send(WorkloadEvent::Applied { kind: index, object: Box::new(object), first: false })
            .await;
    }
}

//! Watches of plans, nodes, Jobs and pods, and the subscription to tasks. Each object is reduced to the needed fields on
//! arrival and then dropped.

use std::{collections::BTreeMap, fmt::Debug, marker::PhantomData, ops::ControlFlow, sync::Arc};

use kube::{Api, Client, Resource, ResourceExt, core::DeserializeGuard, runtime::watcher::Event};
use prewarmer_core::{
    controller::{
        ControllerSettings, Observation, WatchChange, WatchSource, WorkerNamespace, classify_job,
        classify_plan, classify_pod,
    },
    labels::{self, MANAGED_BY},
    node::{Interner, NodeInfo},
    slim::{SlimJob, SlimNode, SlimPod},
    task::PrewarmPlan,
    worker::{TASK_NAMESPACE_ANNOTATION, provenance::AllowedNamespaces},
};
use prewarmer_kube::{
    informer::{EventHandler, Informer, decode},
    metrics::ObjectErrorMetrics,
    object_error::WorkKind,
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::{initial_list::InitialList, task_feed::TaskFeed};
use crate::{
    scope::scoped,
    supervise::{ComponentFailure, ComponentSet},
};

/// Handle of the running watches.
pub(super) struct Watches {
    /// Number of watches.
    pub(super) count: usize,
    parts: ComponentSet,
}

impl Watches {
    /// Waits until one watch has stopped, and returns the cause.
    pub(super) async fn failed(&mut self) -> ComponentFailure {
        self.parts.next_failure().await
    }

    /// Waits until all watches have stopped.
    pub(super) async fn stopped(&mut self) {
        let _ = self.parts.join_all().await;
    }
}

/// Starts all watches. Workers are watched in the namespaces of tasks, and in Prewarmer's own
/// namespace if workers may be created there.
pub(super) fn start(
    client: &Client,
    settings: &ControllerSettings,
    tasks: &TaskFeed,
    events: &Sender<Observation>,
    object_errors: &ObjectErrorMetrics,
    stop: &CancellationToken,
) -> Watches {
    let mut watch = WatchSpawner {
        client: client.clone(),
        events: events.clone(),
        object_errors: object_errors.clone(),
        texts: Arc::new(Interner::default()),
        stop: stop.clone(),
        // The subscription to tasks is the first watch.
        count: 1,
        parts: ComponentSet::default(),
    };
    let namespace = settings.namespace.as_deref();
    let in_own = settings.worker_namespace != WorkerNamespace::Workload;
    let allowed = AllowedNamespaces { own: in_own.then(|| settings.own_namespace.clone()) };
    // Each list is delivered after the list of the owners. An owner that is not in the cache then
    // does not exist.
    let tasks_listed = InitialList::default();
    tasks.subscribe(events.clone(), tasks_listed.clone(), stop.clone());
    watch.spawn_plan_watch(namespace, &tasks_listed);
    watch.spawn_node_watch();
    watch.spawn_worker_watches(namespace, None, &allowed, &tasks_listed);
    // Prewarmer's namespace may contain workers of another installation that serves another
    // namespace.
    let own = settings.own_namespace.as_str();
    if let Some(served) = namespace.filter(|served| in_own && *served != own) {
        watch.spawn_worker_watches(Some(own), Some(served), &allowed, &tasks_listed);
    }
    Watches { count: watch.count, parts: watch.parts }
}

struct WatchSpawner {
    client: Client,
    events: Sender<Observation>,
    object_errors: ObjectErrorMetrics,
    /// Texts that nodes and pods share.
    texts: Arc<Interner>,
    stop: CancellationToken,
    count: usize,
    parts: ComponentSet,
}

impl WatchSpawner {
    fn spawn_plan_watch(&mut self, namespace: Option<&str>, tasks_listed: &InitialList) {
        let source = WatchSource { kind: "prewarmplans", namespace: namespace.map(str::to_owned) };
        let api = scoped::<DeserializeGuard<PrewarmPlan>>(&self.client, namespace);
        let object_errors = self.object_errors.clone();
        self.spawn(
            "controller: plan watch",
            self.informer(api, "prewarmplans"),
            (tasks_listed, &InitialList::default()),
            move |guarded| decode(guarded, &object_errors).map(classify_plan),
            move |change| Observation::Plan(source.clone(), change),
        );
    }

    fn spawn_node_watch(&mut self) {
        let texts = Arc::clone(&self.texts);
        self.spawn(
            "controller: node watch",
            self.informer(Api::<SlimNode>::all(self.client.clone()), "nodes"),
            (&InitialList::completed(), &InitialList::default()),
            move |node: SlimNode| Some(NodeInfo::new(&node, &texts)),
            Observation::Node,
        );
    }

    /// Starts the watches of Jobs and pods in a namespace, or in all. With `only_for`, workers of
    /// tasks in other namespaces are ignored.
    fn spawn_worker_watches(
        &mut self,
        namespace: Option<&str>,
        only_for: Option<&str>,
        allowed: &AllowedNamespaces,
        tasks_listed: &InitialList,
    ) {
        let ours = labels::selector(MANAGED_BY);
        let source = |kind| WatchSource { kind, namespace: namespace.map(str::to_owned) };
        let (jobs, pods, jobs_listed) = (source("jobs"), source("pods"), InitialList::default());
        let only_for = only_for.map(str::to_owned);
        let concerns_us = move |annotations: &BTreeMap<String, String>| {
            only_for.is_none() || annotations.get(TASK_NAMESPACE_ANNOTATION) == only_for.as_ref()
        };
        let job = {
            let (allowed, concerns_us) = (allowed.clone(), concerns_us.clone());
            move |job: SlimJob| concerns_us(job.annotations()).then(|| classify_job(&job, &allowed))
        };
        let (allowed, texts) = (allowed.clone(), Arc::clone(&self.texts));
        let pod = move |pod: SlimPod| {
            concerns_us(pod.annotations()).then(|| classify_pod(&pod, &allowed, &texts))
        };
        self.spawn(
            "controller: Job watch",
            self.informer(scoped::<SlimJob>(&self.client, namespace), "jobs").labels(&ours),
            (tasks_listed, &jobs_listed),
            job,
            move |change| Observation::Job(jobs.clone(), change),
        );
        self.spawn(
            "controller: pod watch",
            self.informer(scoped::<SlimPod>(&self.client, namespace), "pods").labels(&ours),
            (&jobs_listed, &InitialList::default()),
            pod,
            move |change| Observation::Pod(pods.clone(), change),
        );
    }

    fn informer<K>(&self, api: Api<K>, resource: &'static str) -> Informer<K>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        Informer::new(api, resource, WorkKind::Watch, &self.object_errors)
    }

    /// Starts an informer after the list of `after` was delivered, and releases `listed` after its
    /// own. `reduce` returns `None` for an object that is ignored.
    fn spawn<K, T>(
        &mut self,
        part: &'static str,
        informer: Informer<K>,
        (after, listed): (&InitialList, &InitialList),
        reduce: impl Fn(K) -> Option<T> + Send + 'static,
        wrap: impl Fn(WatchChange<T>) -> Observation + Send + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        let (after, stop) = (after.clone(), self.stop.clone());
        let handler = ReducingHandler {
            reduce,
            wrap,
            list: Vec::new(),
            events: self.events.clone(),
            listed: listed.clone(),
            object: PhantomData::<fn(K)>,
        };
        self.count = self.count.saturating_add(1);
        self.parts.spawn(part, async move {
            if stop.run_until_cancelled(after.completion()).await.is_some() {
                informer.run(handler, stop).await;
            }
        });
    }
}

/// Handler that reduces each object to what the controller needs.
struct ReducingHandler<K, T, R, W> {
    reduce: R,
    wrap: W,
    /// Objects of the list in progress.
    list: Vec<T>,
    events: Sender<Observation>,
    listed: InitialList,
    object: PhantomData<fn(K)>,
}

impl<K, T, R, W> EventHandler for ReducingHandler<K, T, R, W>
where
    K: 'static,
    T: Send + 'static,
    R: Fn(K) -> Option<T> + Send + 'static,
    W: Fn(WatchChange<T>) -> Observation + Send + 'static,
{
    type Object = K;
    type Change = WatchChange<T>;

    fn handle(&mut self, event: Event<K>) -> Option<WatchChange<T>> {
        match event {
            Event::Init => self.list.clear(),
            Event::InitApply(object) => self.list.extend((self.reduce)(object)),
            Event::InitDone => return Some(WatchChange::Restarted(std::mem::take(&mut self.list))),
            Event::Apply(object) => return (self.reduce)(object).map(WatchChange::Applied),
            Event::Delete(object) => return (self.reduce)(object).map(WatchChange::Deleted),
        }
        None
    }

    async fn deliver(&mut self, change: WatchChange<T>) -> ControlFlow<()> {
        let is_list = matches!(change, WatchChange::Restarted(_));
        if self.events.send((self.wrap)(change)).await.is_err() {
            return ControlFlow::Break(());
        }
        if is_list {
            self.listed.complete();
        }
        ControlFlow::Continue(())
    }
}

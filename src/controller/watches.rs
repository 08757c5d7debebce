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
    let namespace = settings.namespace.as_deref();
    let ours = labels::selector(MANAGED_BY);
    // The subscription to tasks is the first watch.
    let mut watch = WatchSpawner {
        events: events.clone(),
        stop: stop.clone(),
        count: 1,
        parts: ComponentSet::default(),
    };
    let texts = Arc::new(Interner::default());
    let nodes = {
        let texts = Arc::clone(&texts);
        move |node: SlimNode| Some(NodeInfo::new(&node, &texts))
    };
    let elsewhere = settings.worker_namespace != WorkerNamespace::Workload;
    let places = AllowedNamespaces { own: elsewhere.then(|| settings.own_namespace.clone()) };
    // Each list is delivered after the list of the owners. An owner that is not in the cache then
    // does not exist.
    let (tasks_listed, none) = (InitialList::default(), InitialList::completed());
    tasks.subscribe(events.clone(), tasks_listed.clone(), stop.clone());
    let plans = WatchSource { kind: "prewarmplans", namespace: namespace.map(str::to_owned) };
    let api = scoped::<DeserializeGuard<PrewarmPlan>>(client, namespace);
    let of_plans = object_errors.clone();
    let plan = move |guarded| decode(guarded, &of_plans).map(classify_plan);
    let wrap = move |change| Observation::Plan(plans.clone(), change);
    watch.spawn(
        "controller: plan watch",
        Informer::new(api, "prewarmplans", WorkKind::Watch, object_errors),
        (&tasks_listed, &InitialList::default()),
        plan,
        wrap,
    );
    let api = Api::<SlimNode>::all(client.clone());
    watch.spawn(
        "controller: node watch",
        Informer::new(api, "nodes", WorkKind::Watch, object_errors),
        (&none, &InitialList::default()),
        nodes,
        Observation::Node,
    );
    let own = namespace
        .filter(|watched| elsewhere && *watched != settings.own_namespace)
        .map(|_| settings.own_namespace.as_str());
    for place in [Some(namespace), own.map(Some)].into_iter().flatten() {
        let source = |kind| WatchSource { kind, namespace: place.map(str::to_owned) };
        let (jobs, pods, jobs_listed) = (source("jobs"), source("pods"), InitialList::default());
        // Prewarmer's namespace may contain workers of another installation that serves another
        // namespace.
        let watched = namespace.filter(|_| place != namespace).map(str::to_owned);
        let concerns_us = move |annotations: &BTreeMap<String, String>| {
            watched.is_none() || annotations.get(TASK_NAMESPACE_ANNOTATION) == watched.as_ref()
        };
        let job = {
            let (places, concerns_us) = (places.clone(), concerns_us.clone());
            move |job: SlimJob| concerns_us(job.annotations()).then(|| classify_job(&job, &places))
        };
        let (places, texts) = (places.clone(), Arc::clone(&texts));
        let pod = move |pod: SlimPod| {
            concerns_us(pod.annotations()).then(|| classify_pod(&pod, &places, &texts))
        };
        let api = scoped::<SlimJob>(client, place);
        let wrap = move |change| Observation::Job(jobs.clone(), change);
        watch.spawn(
            "controller: Job watch",
            Informer::new(api, "jobs", WorkKind::Watch, object_errors).labels(&ours),
            (&tasks_listed, &jobs_listed),
            job,
            wrap,
        );
        let api = scoped::<SlimPod>(client, place);
        let wrap = move |change| Observation::Pod(pods.clone(), change);
        watch.spawn(
            "controller: pod watch",
            Informer::new(api, "pods", WorkKind::Watch, object_errors).labels(&ours),
            (&jobs_listed, &InitialList::default()),
            pod,
            wrap,
        );
    }
    Watches { count: watch.count, parts: watch.parts }
}

struct WatchSpawner {
    events: Sender<Observation>,
    stop: CancellationToken,
    count: usize,
    parts: ComponentSet,
}

impl WatchSpawner {
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

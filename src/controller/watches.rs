//! Watches of tasks, plans, nodes, Jobs and pods. Each object is reduced to the needed fields on
//! arrival and then dropped.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use prewarmer_core::{
    controller::{
        ControllerSettings, Observation, OwnedPlan, Ownership, WatchChange, WatchSource,
        WorkerNamespace, classify_job, classify_plan, classify_pod, task_of,
    },
    node::{Interner, NodeInfo},
    slim::{SlimJob, SlimNode, SlimPod},
    task::{PrewarmPlan, PrewarmTask},
    worker::{MANAGED_BY, TASK_NAMESPACE_ANNOTATION, provenance::AllowedNamespaces},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    scope::scoped,
    supervise::{ComponentFailure, ComponentSet, WorkKind, catch_panic},
};

/// Objects per page of an initial list. Nodes are large, about 15 KB each.
const LIST_PAGE_SIZE: u32 = 100;

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
    events: &Sender<Observation>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Watches {
    let namespace = settings.namespace.as_deref();
    let ours = watcher::Config::default()
        .page_size(LIST_PAGE_SIZE)
        .labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let all = watcher::Config::default().page_size(LIST_PAGE_SIZE);
    let mut watch = WatchSpawner {
        events: events.clone(),
        metrics: Arc::clone(metrics),
        stop: stop.clone(),
        count: 0,
        parts: ComponentSet::default(),
    };
    let texts = Arc::new(Interner::default());
    let nodes = {
        let texts = Arc::clone(&texts);
        move |node: SlimNode, _| Some(NodeInfo::new(&node, &texts))
    };
    let elsewhere = settings.worker_namespace != WorkerNamespace::Workload;
    let places = AllowedNamespaces { own: elsewhere.then(|| settings.own_namespace.clone()) };
    // Each list is delivered after the list of the owners. An owner that is not in the cache then
    // does not exist.
    let (tasks_listed, none) = (InitialList::default(), InitialList::completed());
    let plans = WatchSource { kind: "prewarmplans", namespace: namespace.map(str::to_owned) };
    let api = scoped::<DeserializeGuard<PrewarmTask>>(client, namespace);
    let (of_tasks, of_plans) = (Arc::clone(metrics), Arc::clone(metrics));
    let task = move |guarded, presence| Some(decode_task(guarded, presence, &of_tasks));
    watch.spawn(
        "controller: task watch",
        api,
        all.clone(),
        (&none, &tasks_listed),
        task,
        Observation::Task,
    );
    let api = scoped::<DeserializeGuard<PrewarmPlan>>(client, namespace);
    let plan = move |guarded, _| decode_plan(guarded, &of_plans);
    let wrap = move |change| Observation::Plan(plans.clone(), change);
    watch.spawn(
        "controller: plan watch",
        api,
        all.clone(),
        (&tasks_listed, &InitialList::default()),
        plan,
        wrap,
    );
    let api = Api::<SlimNode>::all(client.clone());
    watch.spawn(
        "controller: node watch",
        api,
        all,
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
            move |job: SlimJob, _| {
                concerns_us(job.annotations()).then(|| classify_job(&job, &places))
            }
        };
        let (places, texts) = (places.clone(), Arc::clone(&texts));
        let pod = move |pod: SlimPod, _| {
            concerns_us(pod.annotations()).then(|| classify_pod(&pod, &places, &texts))
        };
        let api = scoped::<SlimJob>(client, place);
        let wrap = move |change| Observation::Job(jobs.clone(), change);
        watch.spawn(
            "controller: Job watch",
            api,
            ours.clone(),
            (&tasks_listed, &jobs_listed),
            job,
            wrap,
        );
        let api = scoped::<SlimPod>(client, place);
        let wrap = move |change| Observation::Pod(pods.clone(), change);
        watch.spawn(
            "controller: pod watch",
            api,
            ours.clone(),
            (&jobs_listed, &InitialList::default()),
            pod,
            wrap,
        );
    }
    Watches { count: watch.count, parts: watch.parts }
}

/// Returns the plan of a watch event, or `None` if it cannot be decoded.
fn decode_plan(
    guarded: DeserializeGuard<PrewarmPlan>,
    metrics: &Metrics,
) -> Option<Ownership<OwnedPlan>> {
    match guarded.0 {
        Ok(plan) => Some(classify_plan(plan)),
        Err(invalid) => {
            tracing::warn!(name = invalid.metadata.name, error = %invalid.error, "PrewarmPlan cannot be decoded");
            metrics.unreadable_objects.with_label_values(&["prewarmplans"]).inc();
            None
        }
    }
}

/// State of an object in a watch event: present or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ObjectPresence {
    Present,
    Deleted,
}

/// Returns the task of a watch event. An error is logged and counted, unless the task is deleted,
/// which needs no decoding.
fn decode_task(
    guarded: DeserializeGuard<PrewarmTask>,
    presence: ObjectPresence,
    metrics: &Metrics,
) -> Arc<PrewarmTask> {
    let (task, error) = task_of(guarded);
    if let (Some(error), ObjectPresence::Present) = (error, presence) {
        let (name, namespace) = (&task.metadata.name, &task.metadata.namespace);
        tracing::warn!(name, namespace, error, "PrewarmTask cannot be decoded");
        metrics.unreadable_objects.with_label_values(&["prewarmtasks"]).inc();
    }
    task
}

/// Barrier that is released when a watch has delivered its first list.
#[derive(Debug, Clone, Default)]
struct InitialList(CancellationToken);

impl InitialList {
    /// Returns a barrier that is released already, for watches without a predecessor.
    fn completed() -> Self {
        let listed = Self::default();
        listed.0.cancel();
        listed
    }
}

struct WatchSpawner {
    events: Sender<Observation>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    count: usize,
    parts: ComponentSet,
}

impl WatchSpawner {
    fn spawn<K, T: Send + 'static>(
        &mut self,
        part: &'static str,
        api: Api<K>,
        config: watcher::Config,
        (after, listed): (&InitialList, &InitialList),
        reduce: impl Fn(K, ObjectPresence) -> Option<T> + Send + 'static,
        wrap: impl Fn(WatchChange<T>) -> Observation + Send + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let (events, metrics, stop) =
            (self.events.clone(), Arc::clone(&self.metrics), self.stop.clone());
        let kind = K::plural(&K::DynamicType::default()).into_owned();
        let (after, listed) = (after.clone(), listed.clone());
        let contained = (Arc::clone(&metrics), kind.clone());
        // A panic while reducing one object must not affect other objects.
        let reduce = move |object: K, presence: ObjectPresence| {
            let (metrics, kind) = &contained;
            let name =
                format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any());
            catch_panic(metrics, WorkKind::Watch, name, || reduce(object, presence)).flatten()
        };
        let work = async move {
            after.0.cancelled().await;
            let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
            let mut list = Vec::new();
            while let Some(event) = stream.next().await {
                let change = match event {
                    Ok(Event::Init) => {
                        list = Vec::new();
                        continue;
                    }
                    Ok(Event::InitApply(object)) => {
                        list.extend(reduce(object, ObjectPresence::Present));
                        continue;
                    }
                    Ok(Event::InitDone) => Some(WatchChange::Restarted(std::mem::take(&mut list))),
                    Ok(Event::Apply(object)) => {
                        reduce(object, ObjectPresence::Present).map(WatchChange::Applied)
                    }
                    Ok(Event::Delete(object)) => {
                        reduce(object, ObjectPresence::Deleted).map(WatchChange::Deleted)
                    }
                    Err(error) => {
                        tracing::warn!(%kind, %error, "watch interrupted; restarting it");
                        continue;
                    }
                };
                let is_list = matches!(change, Some(WatchChange::Restarted(_)));
                if let Some(change) = change
                    && events.send(wrap(change)).await.is_err()
                {
                    return;
                }
                if is_list {
                    listed.0.cancel();
                }
            }
        };
        self.count = self.count.saturating_add(1);
        self.parts.spawn(part, async move {
            stop.run_until_cancelled(work).await;
        });
    }
}

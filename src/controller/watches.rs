//! The watches. Each object is reduced as it arrives; none is kept whole.

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
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::{
    Settings, WorkerNamespace,
    foreign::Stranger,
    observation::{Change, Observation, OwnedPlan, SeenPod, Sighting, Source},
    run::UNREADABLE,
    world::plan_name,
};
use crate::{
    metrics::Metrics,
    node::{Facts, Interner},
    reduced::{ReducedJob, ReducedNode, ReducedPod},
    scope::scoped,
    supervise::{Failure, Parts, Work, contain},
    task::{OBSOLETE_ANNOTATION, PrewarmPlan, PrewarmTask},
    worker::{
        MANAGED_BY, PodFacts, TASK_NAMESPACE_ANNOTATION, TASK_UID_LABEL, WorkerFacts,
        provenance::{self, Places, Rejection},
    },
};

/// Objects per page of a first list: nodes are large, about 15 KB each.
const PAGE: u32 = 100;

/// Words of an error about an object that are kept, in characters.
const MAX_ERROR: usize = 300;

/// The watches at work.
pub(super) struct Watches {
    /// How many there are.
    pub(super) count: usize,
    parts: Parts,
}

impl Watches {
    /// Waits until one has ended.
    pub(super) async fn failed(&mut self) -> Failure {
        self.parts.failed().await
    }

    /// Waits until all have ended.
    pub(super) async fn ended(&mut self) {
        let _ = self.parts.ended().await;
    }
}

/// Starts all watches. Workers are looked for where tasks are, and in our own namespace where they may go there.
pub(super) fn start(
    client: &Client,
    settings: &Settings,
    events: &Sender<Observation>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Watches {
    let namespace = settings.namespace.as_deref();
    let ours = watcher::Config::default().page_size(PAGE).labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let all = watcher::Config::default().page_size(PAGE);
    let mut watch = Watch {
        events: events.clone(),
        metrics: Arc::clone(metrics),
        stop: stop.clone(),
        count: 0,
        parts: Parts::default(),
    };
    let texts = Arc::new(Interner::default());
    let nodes = {
        let texts = Arc::clone(&texts);
        move |node: ReducedNode, _| Some(Facts::new(&node, &texts))
    };
    let elsewhere = settings.worker_namespace != WorkerNamespace::Workload;
    let places = Places { own: elsewhere.then(|| settings.own_namespace.clone()) };
    // Each list comes after that of the owners, so that an object whose owner is not known is one whose owner is not there.
    let (tasks_listed, none) = (Listed::default(), Listed::already());
    let plans = Source { kind: "prewarmplans", namespace: namespace.map(str::to_owned) };
    let api = scoped::<DeserializeGuard<PrewarmTask>>(client, namespace);
    let (of_tasks, of_plans) = (Arc::clone(metrics), Arc::clone(metrics));
    let task = move |guarded, presence| Some(task(guarded, presence, &of_tasks));
    watch.spawn("controller: task watch", api, all.clone(), (&none, &tasks_listed), task, Observation::Task);
    let api = scoped::<DeserializeGuard<PrewarmPlan>>(client, namespace);
    let plan = move |guarded: DeserializeGuard<PrewarmPlan>, _| match guarded.0 {
        Ok(read) => Some(plan(read)),
        Err(invalid) => {
            tracing::warn!(name = invalid.metadata.name, error = %invalid.error, "a PrewarmPlan cannot be read");
            of_plans.unreadable.with_label_values(&["prewarmplans"]).inc();
            None
        }
    };
    let wrap = move |change| Observation::Plan(plans.clone(), change);
    watch.spawn("controller: plan watch", api, all.clone(), (&tasks_listed, &Listed::default()), plan, wrap);
    let api = Api::<ReducedNode>::all(client.clone());
    watch.spawn("controller: node watch", api, all, (&none, &Listed::default()), nodes, Observation::Node);
    let own = namespace
        .filter(|watched| elsewhere && *watched != settings.own_namespace)
        .map(|_| settings.own_namespace.as_str());
    for place in [Some(namespace), own.map(Some)].into_iter().flatten() {
        let source = |kind| Source { kind, namespace: place.map(str::to_owned) };
        let (jobs, pods, jobs_listed) = (source("jobs"), source("pods"), Listed::default());
        // In our own namespace may be workers of another installation, for another namespace.
        let watched = namespace.filter(|_| place != namespace).map(str::to_owned);
        let concerns_us = move |annotations: &BTreeMap<String, String>| {
            watched.is_none() || annotations.get(TASK_NAMESPACE_ANNOTATION) == watched.as_ref()
        };
        let job = {
            let (places, concerns_us) = (places.clone(), concerns_us.clone());
            move |job: ReducedJob, _| concerns_us(job.annotations()).then(|| see_job(&job, &places))
        };
        let (places, texts) = (places.clone(), Arc::clone(&texts));
        let pod = move |pod: ReducedPod, _| concerns_us(pod.annotations()).then(|| see_pod(&pod, &places, &texts));
        let api = scoped::<ReducedJob>(client, place);
        let wrap = move |change| Observation::Job(jobs.clone(), change);
        watch.spawn("controller: Job watch", api, ours.clone(), (&tasks_listed, &jobs_listed), job, wrap);
        let api = scoped::<ReducedPod>(client, place);
        let wrap = move |change| Observation::Pod(pods.clone(), change);
        watch.spawn("controller: pod watch", api, ours.clone(), (&jobs_listed, &Listed::default()), pod, wrap);
    }
    Watches { count: watch.count, parts: watch.parts }
}

/// Whether an object is there, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    There,
    Gone,
}

/// A task that cannot be read is one that fails, and says so: one malformed object must not wedge the stream. That it is gone is
/// known without reading it.
pub(super) fn task(guarded: DeserializeGuard<PrewarmTask>, presence: Presence, metrics: &Metrics) -> Arc<PrewarmTask> {
    let (mut task, unreadable) = match guarded.0 {
        Ok(task) => (task, None),
        Err(invalid) => {
            let (name, namespace) = (&invalid.metadata.name, &invalid.metadata.namespace);
            if presence == Presence::There {
                tracing::warn!(name, namespace, error = %invalid.error, "a PrewarmTask cannot be read");
                metrics.unreadable.with_label_values(&["prewarmtasks"]).inc();
            }
            let task = PrewarmTask { metadata: invalid.metadata, ..PrewarmTask::default() };
            (task, Some(invalid.error.chars().take(MAX_ERROR).collect()))
        }
    };
    // Nobody reads them, and they are half of an ended task.
    task.metadata.managed_fields = None;
    let annotations = task.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| key == OBSOLETE_ANNOTATION);
    annotations.extend(unreadable.map(|error| (UNREADABLE.to_owned(), error)));
    Arc::new(task)
}

/// A plan is named after its task, which owns it.
pub(super) fn plan(plan: PrewarmPlan) -> Sighting<OwnedPlan> {
    let (namespace, name) = (plan.namespace().unwrap_or_default(), plan.name_any());
    match provenance::owning_task(&plan.metadata) {
        Some(owner) if plan_name(&owner.uid) == name => {
            let (task, task_uid) = (owner.name.clone(), owner.uid.clone());
            Sighting::Ours(OwnedPlan { namespace, task, task_uid, spec: Arc::new(plan.spec) })
        }
        owner => {
            let reason = if owner.is_some() { Rejection::Name } else { Rejection::Owner };
            Sighting::Foreign(Stranger::new(&namespace, &name, "", reason))
        }
    }
}

fn stranger<T>(object: &impl ResourceExt, reason: Rejection) -> Sighting<T> {
    let uid = object.labels().get(TASK_UID_LABEL).map_or("", String::as_str);
    Sighting::Foreign(Stranger::new(&object.namespace().unwrap_or_default(), &object.name_any(), uid, reason))
}

pub(super) fn see_job(job: &ReducedJob, places: &Places) -> Sighting<WorkerFacts> {
    match provenance::of_job(job, places) {
        Ok(worker) => Sighting::Ours(worker),
        Err(reason) => stranger(job, reason),
    }
}

pub(super) fn see_pod(pod: &ReducedPod, places: &Places, texts: &Interner) -> Sighting<Box<SeenPod>> {
    match provenance::of_pod(pod, places) {
        Ok(claim) => {
            let pulls = provenance::pulls(pod);
            Sighting::Ours(Box::new(SeenPod { facts: PodFacts::new(pod, texts), claim, pulls }))
        }
        Err(reason) => stranger(pod, reason),
    }
}

/// Whether a watch has delivered its first list.
#[derive(Debug, Clone, Default)]
struct Listed(CancellationToken);

impl Listed {
    /// For what waits for none.
    fn already() -> Self {
        let listed = Self::default();
        listed.0.cancel();
        listed
    }
}

struct Watch {
    events: Sender<Observation>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    count: usize,
    parts: Parts,
}

impl Watch {
    fn spawn<K, T: Send + 'static>(
        &mut self,
        part: &'static str,
        api: Api<K>,
        config: watcher::Config,
        (after, listed): (&Listed, &Listed),
        reduce: impl Fn(K, Presence) -> Option<T> + Send + 'static,
        wrap: impl Fn(Change<T>) -> Observation + Send + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let (events, metrics, stop) = (self.events.clone(), Arc::clone(&self.metrics), self.stop.clone());
        let kind = K::plural(&K::DynamicType::default()).into_owned();
        let (after, listed) = (after.clone(), listed.clone());
        let contained = (Arc::clone(&metrics), kind.clone());
        // One object over which reading fails must not take the others with it.
        let reduce = move |object: K, presence: Presence| {
            let (metrics, kind) = &contained;
            let name = format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any());
            contain(metrics, Work::Watch, name, || reduce(object, presence)).flatten()
        };
        let work = async move {
            after.0.cancelled().await;
            let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
            let mut list = Vec::new();
            while let Some(event) = stream.next().await {
                let change = match event {
                    Ok(Event::Init) => {
                        metrics.kube_requests.with_label_values(&["list", &kind]).inc();
                        list = Vec::new();
                        continue;
                    }
                    Ok(Event::InitApply(object)) => {
                        list.extend(reduce(object, Presence::There));
                        continue;
                    }
                    Ok(Event::InitDone) => {
                        metrics.kube_requests.with_label_values(&["watch", &kind]).inc();
                        Some(Change::Replace(std::mem::take(&mut list)))
                    }
                    Ok(Event::Apply(object)) => reduce(object, Presence::There).map(Change::Put),
                    Ok(Event::Delete(object)) => reduce(object, Presence::Gone).map(Change::Drop),
                    Err(error) => {
                        tracing::warn!(%kind, %error, "a watch was interrupted; it is taken up again");
                        continue;
                    }
                };
                let is_list = matches!(change, Some(Change::Replace(_)));
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

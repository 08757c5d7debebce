//! The watches. Each object is reduced as it arrives; none is kept whole.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use futures::{StreamExt, future};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc::Sender, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Settings, WorkerNamespace,
    foreign::Stranger,
    observation::{Change, Observation, OwnedPlan, SeenPod, Sighting, Source},
    world::plan_name,
};
use crate::{
    metrics::Metrics,
    node::{Facts, Interner},
    reduced::{ReducedJob, ReducedNode, ReducedPod},
    scope::scoped,
    task::{PrewarmPlan, PrewarmTask, PrewarmTaskSpec},
    worker::{
        MANAGED_BY, PodFacts, TASK_NAMESPACE_ANNOTATION, TASK_UID_LABEL, WorkerFacts,
        provenance::{self, Places, Rejection},
    },
};

/// Objects per page of a first list: nodes are large, about 15 KB each.
const PAGE: u32 = 100;

/// The watches at work.
pub(super) struct Watches {
    /// How many there are.
    pub(super) count: usize,
    tasks: Vec<JoinHandle<()>>,
}

impl Watches {
    /// Waits until all have ended.
    pub(super) async fn ended(self) {
        future::join_all(self.tasks).await;
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
    let watch = Watch { events: events.clone(), metrics: Arc::clone(metrics), stop: stop.clone() };
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
    let mut tasks = vec![
        watch.spawn(
            scoped::<DeserializeGuard<PrewarmTask>>(client, namespace),
            all.clone(),
            (&none, &tasks_listed),
            task,
            Observation::Task,
        ),
        watch.spawn(
            scoped::<PrewarmPlan>(client, namespace),
            all.clone(),
            (&tasks_listed, &Listed::default()),
            |p, _| Some(plan(p)),
            move |c| Observation::Plan(plans.clone(), c),
        ),
        watch.spawn(
            Api::<ReducedNode>::all(client.clone()),
            all,
            (&none, &Listed::default()),
            nodes,
            Observation::Node,
        ),
    ];
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
        tasks.push(watch.spawn(
            scoped::<ReducedJob>(client, place),
            ours.clone(),
            (&tasks_listed, &jobs_listed),
            job,
            move |c| Observation::Job(jobs.clone(), c),
        ));
        tasks.push(watch.spawn(
            scoped::<ReducedPod>(client, place),
            ours.clone(),
            (&jobs_listed, &Listed::default()),
            pod,
            move |c| Observation::Pod(pods.clone(), c),
        ));
    }
    Watches { count: tasks.len(), tasks }
}

/// Whether an object is there, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    Gone,
}

/// A task that cannot be read is left alone: one malformed object must not wedge the stream. That it is gone is known without reading it.
fn task(guarded: DeserializeGuard<PrewarmTask>, presence: Presence) -> Option<Arc<PrewarmTask>> {
    match guarded.0 {
        Ok(mut task) => {
            // Nobody reads them, and they are half of an ended task.
            task.metadata.managed_fields = None;
            Some(Arc::new(task))
        }
        Err(invalid) if presence == Presence::Gone => {
            let spec = PrewarmTaskSpec::default();
            Some(Arc::new(PrewarmTask { metadata: invalid.metadata, spec, status: None }))
        }
        Err(invalid) => {
            tracing::warn!(name = invalid.metadata.name, error = %invalid.error, "a PrewarmTask cannot be read");
            None
        }
    }
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
}

impl Watch {
    fn spawn<K, T: Send + 'static>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        (after, listed): (&Listed, &Listed),
        reduce: impl Fn(K, Presence) -> Option<T> + Send + 'static,
        wrap: impl Fn(Change<T>) -> Observation + Send + 'static,
    ) -> JoinHandle<()>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let (events, metrics, stop) = (self.events.clone(), Arc::clone(&self.metrics), self.stop.clone());
        let kind = K::plural(&K::DynamicType::default()).into_owned();
        let (after, listed) = (after.clone(), listed.clone());
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
        tokio::spawn(async move {
            stop.run_until_cancelled(work).await;
        })
    }
}

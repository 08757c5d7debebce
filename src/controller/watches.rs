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
    observation::{Change, Observation, OwnedPlan, SeenPod, Source},
};
use crate::{
    metrics::Metrics,
    node::{Facts, Interner},
    reduced::{ReducedJob, ReducedNode, ReducedPod},
    scope::scoped,
    task::{PrewarmPlan, PrewarmTask},
    worker::{MANAGED_BY, PodFacts, TASK_NAMESPACE_ANNOTATION, WorkerFacts},
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
        move |node: ReducedNode| Some(Facts::new(&node, &texts))
    };
    let mut tasks = vec![
        watch.spawn(scoped::<DeserializeGuard<PrewarmTask>>(client, namespace), all.clone(), task, Observation::Task),
        watch.spawn(scoped::<PrewarmPlan>(client, namespace), all.clone(), |p| Some(plan(p)), Observation::Plan),
        watch.spawn(Api::<ReducedNode>::all(client.clone()), all, nodes, Observation::Node),
    ];
    let elsewhere = settings.worker_namespace != WorkerNamespace::Workload;
    let own = namespace
        .filter(|watched| elsewhere && *watched != settings.own_namespace)
        .map(|_| settings.own_namespace.as_str());
    for place in [Some(namespace), own.map(Some)].into_iter().flatten() {
        let source = |kind| Source { kind, namespace: place.map(str::to_owned) };
        let (jobs, pods) = (source("jobs"), source("pods"));
        // Of what others have put into our own namespace, nothing is ours to judge.
        let watched = namespace.map(str::to_owned);
        let is_ours = move |annotations: &BTreeMap<String, String>| {
            watched.is_none() || annotations.get(TASK_NAMESPACE_ANNOTATION) == watched.as_ref()
        };
        let job = {
            let is_ours = is_ours.clone();
            move |job: ReducedJob| is_ours(job.annotations()).then(|| WorkerFacts::from(&job))
        };
        let texts = Arc::clone(&texts);
        let pod = move |pod: ReducedPod| {
            let seen = || SeenPod { facts: PodFacts::new(&pod, &texts), worker: WorkerFacts::of_pod(&pod) };
            is_ours(pod.annotations()).then(|| Box::new(seen()))
        };
        tasks.push(
            watch.spawn(scoped::<ReducedJob>(client, place), ours.clone(), job, move |c| {
                Observation::Job(jobs.clone(), c)
            }),
        );
        tasks.push(
            watch.spawn(scoped::<ReducedPod>(client, place), ours.clone(), pod, move |c| {
                Observation::Pod(pods.clone(), c)
            }),
        );
    }
    Watches { count: tasks.len(), tasks }
}

/// A task that cannot be read is left alone: one malformed object must not wedge the stream.
fn task(guarded: DeserializeGuard<PrewarmTask>) -> Option<Arc<PrewarmTask>> {
    match guarded.0 {
        Ok(mut task) => {
            // Nobody reads them, and they are half of an ended task.
            task.metadata.managed_fields = None;
            Some(Arc::new(task))
        }
        Err(invalid) => {
            tracing::warn!(name = invalid.metadata.name, error = %invalid.error, "a PrewarmTask cannot be read");
            None
        }
    }
}

fn plan(plan: PrewarmPlan) -> OwnedPlan {
    OwnedPlan {
        task_uid: plan.owner_references().first().map(|owner| owner.uid.clone()).unwrap_or_default(),
        spec: Arc::new(plan.spec),
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
        reduce: impl Fn(K) -> Option<T> + Send + 'static,
        wrap: impl Fn(Change<T>) -> Observation + Send + 'static,
    ) -> JoinHandle<()>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let (events, metrics, stop) = (self.events.clone(), Arc::clone(&self.metrics), self.stop.clone());
        let kind = K::plural(&K::DynamicType::default()).into_owned();
        let work = async move {
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
                        list.extend(reduce(object));
                        continue;
                    }
                    Ok(Event::InitDone) => {
                        metrics.kube_requests.with_label_values(&["watch", &kind]).inc();
                        Some(Change::Replace(std::mem::take(&mut list)))
                    }
                    Ok(Event::Apply(object)) => reduce(object).map(Change::Put),
                    Ok(Event::Delete(object)) => reduce(object).map(Change::Drop),
                    Err(error) => {
                        tracing::warn!(%kind, %error, "a watch was interrupted; it is taken up again");
                        continue;
                    }
                };
                if let Some(change) = change
                    && events.send(wrap(change)).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::spawn(async move {
            stop.run_until_cancelled(work).await;
        })
    }
}

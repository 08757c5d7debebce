//! The five watches. Each object is reduced as it arrives; none is kept whole.

use std::{fmt::Debug, sync::Arc};

use futures::{Future, StreamExt, future};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
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

use super::{effects::Done, world::OwnedPlan};
use crate::{
    metrics::Metrics,
    node::Facts,
    task::{PrewarmPlan, PrewarmTask},
    worker::{JobFacts, MANAGED_BY, PodFacts},
};

/// Objects per page of a first list: nodes are large, about 15 KB each.
const PAGE: u32 = 100;

/// A change of one kind.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// New or changed.
    Put(T),
    /// Gone.
    Drop(T),
    /// All there is: after a first or renewed list.
    Replace(Vec<T>),
}

/// What the controller hears.
pub(super) enum Observation {
    Task(Change<Arc<PrewarmTask>>),
    Plan(Change<OwnedPlan>),
    Node(Change<Facts>),
    Job(Change<JobFacts>),
    Pod(Change<PodFacts>),
    /// An effect has ended.
    Done(Done),
}

/// Starts all watches; the future ends when they have.
pub(super) fn start(
    client: &Client,
    namespace: Option<&str>,
    events: &Sender<Observation>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let ours = watcher::Config::default().page_size(PAGE).labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let all = watcher::Config::default().page_size(PAGE);
    let watch = Watch { events: events.clone(), metrics: Arc::clone(metrics), stop: stop.clone() };
    let watches = [
        watch.spawn(scoped::<DeserializeGuard<PrewarmTask>>(client, namespace), all.clone(), task, Observation::Task),
        watch.spawn(scoped::<PrewarmPlan>(client, namespace), all.clone(), |p| Some(plan(p)), Observation::Plan),
        watch.spawn(Api::<Node>::all(client.clone()), all, |node| Some(Facts::from(&node)), Observation::Node),
        watch.spawn(scoped::<Job>(client, namespace), ours.clone(), |job| Some(JobFacts::from(&job)), Observation::Job),
        watch.spawn(scoped::<Pod>(client, namespace), ours, |pod| Some(PodFacts::from(&pod)), Observation::Pod),
    ];
    async move {
        future::join_all(watches).await;
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A task that cannot be read is left alone: one malformed object must not wedge the stream.
fn task(guarded: DeserializeGuard<PrewarmTask>) -> Option<Arc<PrewarmTask>> {
    match guarded.0 {
        Ok(task) => Some(Arc::new(task)),
        Err(invalid) => {
            tracing::warn!(name = invalid.metadata.name, error = %invalid.error, "a PrewarmTask cannot be read");
            None
        }
    }
}

fn plan(plan: PrewarmPlan) -> OwnedPlan {
    OwnedPlan {
        namespace: plan.namespace().unwrap_or_default(),
        name: plan.name_any(),
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
    ) -> tokio::task::JoinHandle<()>
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

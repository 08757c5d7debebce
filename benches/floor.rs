//! Baseline for the cost of warming nodes: creates each batch of workers in parallel, waits for it
//! and deletes it by collection, Jobs in the background after their pods, which is the smallest
//! number of API writes (docs/develop/kubernetes-facts.md). Its workers have the pull method of the server that it
//! is compared with (docs/measurements.md). Prints the time in milliseconds.
//!
//! usage: floor Job|Pod Helper|ImageVolume NODES IMAGES BATCH

use std::{collections::BTreeSet, fmt::Debug, time::Duration};

use anyhow::Context;
use futures::{FutureExt, StreamExt, future::try_join_all};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    core::NamespaceResourceScope,
    runtime::watcher::{Config, Event, watcher},
};

use prewarmer_core::{
    task::{PrewarmTaskSpec, PullMethod, WorkerKind, validate::validate},
    worker::{Assignment, TASK_UID_LABEL, WorkerObject, WorkerSettings, build},
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

const USAGE: &str = "usage: floor Job|Pod Helper|ImageVolume NODES IMAGES BATCH";
const NAMESPACE: &str = "default";
const UID: &str = "floor";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kind, method, nodes, images, batch] = words.as_slice() else { anyhow::bail!(USAGE) };
    let number = |text: &String| text.parse::<usize>().context(USAGE);
    let (nodes, images, batch) = (number(nodes)?, number(images)?, number(batch)?);
    let kind = match kind.as_str() {
        "Job" => WorkerKind::Job,
        "Pod" => WorkerKind::Pod,
        _ => anyhow::bail!(USAGE),
    };
    let method = match method.as_str() {
        "Helper" => PullMethod::Helper,
        "ImageVolume" => PullMethod::ImageVolume,
        _ => anyhow::bail!(USAGE),
    };
    let client = Client::try_default().await?;
    let fake = ListParams::default().labels("type=fake").limit(u32::try_from(nodes)?);
    let list = Api::<Node>::all(client.clone()).list(&fake).await?;
    let names: Vec<String> = list.iter().map(ResourceExt::name_any).collect();
    anyhow::ensure!(names.len() == nodes, "the cluster has {} fake nodes", names.len());
    let workers = workers(kind, method, &names, images)?;
    let begun = Instant::now();
    match kind {
        WorkerKind::Job => {
            let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
            run(&Api::namespaced(client, NAMESPACE), jobs(workers), batch, Some(&pods)).await?;
        }
        WorkerKind::Pod => {
            run(&Api::namespaced(client, NAMESPACE), pods(workers), batch, None).await?;
        }
    }
    println!("{}", begun.elapsed().as_millis());
    Ok(())
}

fn workers(
    kind: WorkerKind,
    method: PullMethod,
    nodes: &[String],
    images: usize,
) -> anyhow::Result<Vec<WorkerObject>> {
    let images = (0..images).map(|image| format!("app-{image}:1")).collect();
    let spec = PrewarmTaskSpec { worker: kind, ..PrewarmTaskSpec::new(images) };
    let task = validate(&spec).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let asked: Vec<usize> = (0..task.images.len()).collect();
    let settings = WorkerSettings {
        image_pull_policy: prewarmer_core::task::PullPolicy::default(),
        owner: None,
        service_account: None,
        image: "registry.example/helper:1".into(),
        priority_class: None,
        ttl: Duration::from_secs(3600),
        images_per_pod: task.images.len(),
    };
    let one = |node: &String| {
        let at = Assignment {
            namespace: NAMESPACE,
            // The workers have no owner, because there is no task.
            task_namespace: "",
            task: "floor",
            task_uid: UID,
            batch: 0,
            node,
            attempt: 0,
            part: 0,
            images: &asked,
            method,
        };
        build(&task, &at, &settings)
    };
    Ok(nodes.iter().map(one).collect())
}

fn jobs(workers: Vec<WorkerObject>) -> Vec<Job> {
    let job = |worker| if let WorkerObject::Job(job) = worker { Some(*job) } else { None };
    workers.into_iter().filter_map(job).collect()
}

fn pods(workers: Vec<WorkerObject>) -> Vec<Pod> {
    let pod = |worker| if let WorkerObject::Pod(pod) = worker { Some(*pod) } else { None };
    workers.into_iter().filter_map(pod).collect()
}

/// Completion of a worker.
trait Ended {
    fn has_ended(&self) -> bool;
}

impl Ended for Job {
    fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.completion_time.is_some())
    }
}

impl Ended for Pod {
    fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Succeeded"))
    }
}

/// Warms the nodes of the workers batch by batch. `dependents` are the pods of Jobs.
async fn run<K>(
    api: &Api<K>,
    workers: Vec<K>,
    batch: usize,
    dependents: Option<&Api<Pod>>,
) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Ended,
    K: Clone + Debug + DeserializeOwned + serde::Serialize + Send + Sync + 'static,
{
    let ours = format!("{TASK_UID_LABEL}={UID}");
    let mut events = std::pin::pin!(watcher(api.clone(), Config::default().labels(&ours)));
    let (mut ended, mut there) = (BTreeSet::new(), BTreeSet::new());
    let mut all = 0;
    let post = PostParams::default();
    for chunk in workers.chunks(batch) {
        try_join_all(chunk.iter().map(|worker| api.create(&post, worker).boxed())).await?;
        all += chunk.len();
        while ended.len() < all {
            note(events.next().await, &mut ended, &mut there)?;
        }
        let (delete, matching) = (DeleteParams::background(), ListParams::default().labels(&ours));
        if let Some(pods) = dependents {
            pods.delete_collection(&delete, &matching).await?;
        }
        api.delete_collection(&delete, &matching).await?;
    }
    while !there.is_empty() {
        note(events.next().await, &mut ended, &mut there)?;
    }
    Ok(())
}

type Seen<K> = Option<Result<Event<K>, kube::runtime::watcher::Error>>;

fn note<K: Resource + Ended>(
    seen: Seen<K>,
    ended: &mut BTreeSet<String>,
    there: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    match seen.context("the watch ended")?? {
        Event::Apply(worker) | Event::InitApply(worker) => {
            if worker.has_ended() {
                ended.insert(worker.name_any());
            }
            there.insert(worker.name_any());
        }
        Event::Delete(worker) => {
            there.remove(&worker.name_any());
        }
        Event::Init | Event::InitDone => {}
    }
    Ok(())
}

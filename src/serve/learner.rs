//! Learns of the tasks that exist, so that replicas and restarts do not ask twice.

use futures::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    intake::{HintSender, REWRITTEN_ANNOTATION, workloads_of},
    scope::scoped,
    surroundings::Surroundings,
    task::PrewarmTask,
};

/// Where it is written down.
pub(super) struct Learner {
    pub(super) hints: HintSender,
    pub(super) around: Surroundings,
    /// Counted up when the first list is there.
    pub(super) ready: watch::Sender<usize>,
}

impl Learner {
    pub(super) async fn learn(self, client: Client, namespace: Option<String>, stop: CancellationToken) {
        type Guarded = DeserializeGuard<PrewarmTask>;
        let api: Api<Guarded> = scoped(&client, namespace.as_deref());
        let config = watcher::Config::default().labels("prewarm.io/origin=admission");
        let mut first = true;
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        while let Some(Some(event)) = stop.run_until_cancelled(stream.next()).await {
            match event {
                Ok(Event::Apply(task) | Event::InitApply(task)) => self.note(&task),
                Ok(Event::Delete(DeserializeGuard(Ok(task)))) => self.hints.ledger().removed(&task),
                Ok(Event::InitDone) if std::mem::take(&mut first) => self.ready.send_modify(|count| *count += 1),
                Ok(Event::Delete(_) | Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "the watch of tasks was interrupted; it is taken up again"),
            }
        }
    }

    fn note(&self, task: &DeserializeGuard<PrewarmTask>) {
        let Ok(task) = &task.0 else { return };
        self.hints.ledger().learn(task, Instant::now());
        if task.annotations().contains_key(REWRITTEN_ANNOTATION) {
            let namespace = task.namespace().unwrap_or_default();
            let titles = workloads_of(task);
            for (kind, name) in titles.iter().filter_map(|title| title.split_once('/')) {
                self.around.note_rewritten(&namespace, kind, name);
            }
        }
    }
}

//! Informers of the kinds, and lists of single namespaces.

use std::{collections::HashSet, ops::ControlFlow, pin::pin, sync::Arc};

use futures::TryStreamExt;
use kube::{ResourceExt, api::ListParams, runtime::watcher::Event};
use prewarmer_core::workload::WorkloadKind;
use prewarmer_kube::{
    informer::{EventHandler, Informer},
    list::{NO_LIMIT, list_pages},
    object_error::WorkKind,
};
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::{
    dynamic_workload::DynamicWorkload,
    event::{WorkloadEvent, applied_event},
    watcher::{WorkloadWatcher, dynamic_api},
};

/// Objects per page of a list: a large template has 20 KB.
const PAGE_SIZE: u32 = 100;

/// Watches the workloads of a kind until `stop`.
pub(super) async fn watch_kind(
    own: WorkloadWatcher,
    kind: Arc<WorkloadKind>,
    index: usize,
    sender: Sender<WorkloadEvent>,
    stop: CancellationToken,
) {
    let api = dynamic_api(&own, own.policy.watch_namespace.as_deref(), &kind.api_resource());
    // A configured kind may not be installed (yet).
    let informer = Informer::new(api, &kind.plural, WorkKind::Workload, &own.object_errors)
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

/// Lists the workloads of a kind in a namespace, and sends each as changed.
pub(super) async fn list_namespace(
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

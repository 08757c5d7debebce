//! Detection of images that another webhook rewrites.

use std::sync::Arc;

use kube::api::ListParams;
use prewarmer_core::workload::{ObjectView, WorkloadKind, rewritten_images};
use tokio::sync::mpsc::Sender;

use super::{
    event::WorkloadEvent,
    watcher::{WorkloadWatcher, dynamic_api},
};

/// Number of pods listed to detect rewritten images: enough to find one that is not being deleted.
const MAX_COMPARED_PODS: u32 = 20;

/// Compares a template with one of its pods, to detect images rewritten by another webhook.
pub(super) async fn detect_rewritten_images(
    watcher: WorkloadWatcher,
    kind: Arc<WorkloadKind>,
    index: usize,
    object: ObjectView,
    sender: Sender<WorkloadEvent>,
) {
    let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
    let pods = watcher.policy.kinds.iter().find(|kind| kind.is_pod()).cloned();
    let (Some(pods), false) = (pods, object.selector.is_empty()) else { return };
    let selector: Vec<String> =
        object.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let params = ListParams::default().labels(&selector.join(",")).limit(MAX_COMPARED_PODS);
    let Ok(page) =
        dynamic_api(&watcher, Some(&namespace), &pods.api_resource()).list(&params).await
    else {
        return;
    };
    let views = page.items.into_iter().filter_map(|pod| pods.parse_value(pod.object).ok());
    let alive = views.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
    let Some(pairs) =
        alive.map(|pod| rewritten_images(&object, &pod)).filter(|pairs| !pairs.is_empty())
    else {
        return;
    };
    if watcher.context.mark_rewritten(&namespace, &kind.kind, &name) {
        let (template, pod) = &pairs[0];
        tracing::info!(
            kind = kind.kind,
            namespace,
            name,
            template,
            pod,
            "another webhook rewrites the images of the workload; it is warmed with the helper pull method from now on"
        );
        // A closed channel means that the watch has stopped.
        let _ = sender
            .send(WorkloadEvent::Applied { kind: index, object: Box::new(object), first: false })
            .await;
    }
}

//! Reads the object that a claim names from the API server: whether it was stored, and what it asks for.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use kube::{
    Client, Resource,
    api::GetParams,
    core::{DynamicObject, Request},
};

use super::queue::{Lookup, Seen};
use crate::{metrics::Metrics, surroundings::Surroundings, workload::Policy};

/// One lookup may take this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Objects of this size are read on a thread of their own: that takes milliseconds.
const LARGE: usize = 256 * 1024;

/// What is needed to look an object up.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) client: Client,
    pub(super) policy: Arc<Policy>,
    pub(super) around: Surroundings,
    pub(super) metrics: Arc<Metrics>,
}

/// Looks an object up once. A panic counts as an answer that did not come.
pub(super) async fn look(reader: Reader, lookup: Lookup) -> (u64, Seen) {
    let id = lookup.id;
    let seen = std::panic::AssertUnwindSafe(read(reader, lookup)).catch_unwind().await;
    (id, seen.unwrap_or(Seen::Missing))
}

async fn read(reader: Reader, lookup: Lookup) -> Seen {
    reader.metrics.kube_requests.with_label_values(&["get", &lookup.kind.plural]).inc();
    match tokio::time::timeout(PATIENCE, get(&reader.client, &lookup)).await {
        Ok(Ok(text)) if text.len() >= LARGE => {
            let reading = tokio::task::spawn_blocking(move || consider(&reader, &lookup, &text));
            reading.await.unwrap_or(Seen::Missing)
        }
        Ok(Ok(text)) => consider(&reader, &lookup, &text),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            let Lookup { namespace, name, kind, .. } = &lookup;
            tracing::warn!(
                kind = kind.kind,
                namespace,
                name,
                error = status.message,
                "no right to read an admitted object: no task is made of its review"
            );
            Seen::Forbidden
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, namespace = lookup.namespace, name = lookup.name, "an admitted object is not stored");
            Seen::Missing
        }
        Err(_) => Seen::Missing,
    }
}

async fn get(client: &Client, lookup: &Lookup) -> kube::Result<String> {
    let url = DynamicObject::url_path(&lookup.kind.resource(), Some(&lookup.namespace));
    let request = Request::new(url).get(&lookup.name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await
}

/// Reads what is stored: a webhook after ours may have changed what was admitted.
fn consider(reader: &Reader, lookup: &Lookup, text: &str) -> Seen {
    let Ok(object) = lookup.kind.read(text) else { return Seen::Missing };
    let (verdict, _) = reader.policy.consider(&lookup.kind, &object, &lookup.namespace, &reader.around);
    let metadata = object.metadata;
    if metadata.name != lookup.name || metadata.namespace != lookup.namespace {
        return Seen::Missing;
    }
    Seen::Stored { uid: metadata.uid, version: metadata.resource_version, workloads: verdict.workloads() }
}

//! Lookups: read the object that a hint names from the API server, and return whether it exists and
//! which workloads it contains.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use kube::{
    Client, Resource,
    api::GetParams,
    core::{DynamicObject, Request},
};
use prewarmer_core::{
    intake::queue::{Lookup, LookupResult},
    workload::{Policy, WarmDecision},
};
use prewarmer_kube::api_error::ApiErrorKind;

use crate::cluster_context::ClusterContextStore;

/// Timeout of one lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Size in bytes from which objects are parsed on a blocking thread, because that takes
/// milliseconds.
const LARGE_OBJECT_BYTES: usize = 256 * 1024;

/// Dependencies of a lookup.
#[derive(Clone)]
pub(super) struct LookupContext {
    pub(super) client: Client,
    pub(super) policy: Arc<Policy>,
    pub(super) context: ClusterContextStore,
}

/// Looks up one object once. A panic counts as a missing object.
pub(super) async fn look_up(reader: LookupContext, lookup: Lookup) -> (u64, LookupResult) {
    let id = lookup.id;
    let seen = std::panic::AssertUnwindSafe(read_object(reader, lookup)).catch_unwind().await;
    (id, seen.unwrap_or(LookupResult::Missing))
}

async fn read_object(reader: LookupContext, lookup: Lookup) -> LookupResult {
    match tokio::time::timeout(LOOKUP_TIMEOUT, get_object(&reader.client, &lookup)).await {
        Ok(Ok(text)) if text.len() >= LARGE_OBJECT_BYTES => {
            let reading =
                tokio::task::spawn_blocking(move || evaluate_object(&reader, &lookup, &text));
            reading.await.unwrap_or(LookupResult::Missing)
        }
        Ok(Ok(text)) => evaluate_object(&reader, &lookup, &text),
        Ok(Err(kube::Error::Api(status))) if ApiErrorKind::of_status(&status).is_forbidden() => {
            let Lookup { namespace, name, kind, .. } = &lookup;
            tracing::warn!(
                kind = kind.kind,
                namespace,
                name,
                error = status.message,
                "no permission to get an admitted object: its hint is discarded"
            );
            LookupResult::Forbidden
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, namespace = lookup.namespace, name = lookup.name, "cannot get an admitted object");
            LookupResult::Missing
        }
        Err(_) => LookupResult::Missing,
    }
}

async fn get_object(client: &Client, lookup: &Lookup) -> kube::Result<String> {
    let url = DynamicObject::url_path(&lookup.kind.api_resource(), Some(&lookup.namespace));
    let request = Request::new(url)
        .get(&lookup.name, &GetParams::default())
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await
}

/// Evaluates the stored object: a webhook that runs after ours may have changed the admitted one.
fn evaluate_object(reader: &LookupContext, lookup: &Lookup, text: &str) -> LookupResult {
    let Ok(mut object) = lookup.kind.parse_text(text) else { return LookupResult::Missing };
    if lookup.kind.is_pod() && !lookup.is_placed_by_name {
        // The node that the scheduler has chosen since then.
        object.clear_node_names();
    }
    let (verdict, _) =
        reader.policy.evaluate(&lookup.kind, &object, &lookup.namespace, &reader.context);
    let metadata = object.metadata;
    if metadata.name != lookup.name || metadata.namespace != lookup.namespace {
        return LookupResult::Missing;
    }
    let (uid, version) = (metadata.uid, metadata.resource_version);
    match verdict {
        WarmDecision::IfRecurring(owner, workloads) => {
            LookupResult::Stored { uid, version, workloads, recurs_for: Some(owner) }
        }
        other => {
            LookupResult::Stored { uid, version, workloads: other.workloads(), recurs_for: None }
        }
    }
}

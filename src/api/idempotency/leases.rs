//! Leases in which keys are stored.

use std::pin::pin;

use futures::TryStreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api as KubeApi,
    api::{DeleteParams, ListParams},
    core::PartialObjectMeta,
};
use prewarmer_kube::list::{NO_LIMIT, list_metadata_pages};

/// Label of the Leases of keys.
pub(super) const KEY_LABEL: &str = "prewarm.io/idempotency";
/// Label of a Lease: digest of the caller that owns the key.
pub(super) const CALLER_LABEL: &str = "prewarm.io/idempotency-caller";

/// Calls a function for the Lease of every key, page by page, and deletes the Leases whose name it
/// returns.
pub(super) async fn delete_matching(
    leases: &KubeApi<Lease>,
    mut select: impl FnMut(&PartialObjectMeta<Lease>) -> Option<String>,
) -> kube::Result<()> {
    let params = ListParams::default().labels(KEY_LABEL);
    let mut pages = pin!(list_metadata_pages(leases, params, NO_LIMIT));
    while let Some(page) = pages.try_next().await? {
        for name in page.iter().filter_map(&mut select) {
            if let Err(error) = leases.delete(&name, &DeleteParams::default()).await {
                tracing::debug!(%error, "failed to delete the Lease of an expired Idempotency-Key");
            }
        }
    }
    Ok(())
}

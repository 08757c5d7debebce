//! Deletion of workers by collection, with a small response. Used by `effect_client`.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, Uri, header::ACCEPT};
use http_body_util::BodyExt;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Client, Resource,
    api::{DeleteParams, ListParams, Request},
    client::Body,
    core::Status,
};
use prewarmer_core::{
    controller::{Propagation, WorkersDeletion},
    task::WorkerKind,
    worker::{BATCH_LABEL, MANAGED_BY, TASK_UID_LABEL},
};

use super::objects::propagation_params;

/// Form of the response, which contains every deleted object otherwise: 6 KB for a Job of ten
/// images, and 11 KB for its pod. A table without the objects has 0.3 KB for each. The second form
/// is for a server that renders no tables.
const ACCEPTED: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Number of bytes of a response that are read so that the connection can be used again: the table
/// of 200 objects, twice the largest batch. The status of the response states the result, because
/// the API server sends it after the deletions.
const MAX_READ: usize = 64 * 1024;
/// Number of characters of a response that is no status of the API server, in the error.
const MAX_MESSAGE_CHARS: usize = 1024;

/// Deletes the workers of a task, or of one of its batches, and their pods.
///
/// Jobs in the background are deleted after their pods, which have ended: a second request in place
/// of one write of kube-controller-manager for each pod, which by default sends 20 requests per
/// second. After a crash between the two requests, the Jobs are found again and deleted.
pub(super) async fn delete_workers(
    client: &Client,
    task_uid: &str,
    deletion: &WorkersDeletion,
) -> kube::Result<()> {
    let WorkersDeletion { kind, namespace, batch, propagation } = deletion;
    let batch = batch.map(|batch| format!(",{BATCH_LABEL}={batch}")).unwrap_or_default();
    let labels = format!("{}={},{TASK_UID_LABEL}={task_uid}{batch}", MANAGED_BY.0, MANAGED_BY.1);
    let how = propagation_params(*propagation);
    let (jobs, pods) = (Job::url_path(&(), Some(namespace)), Pod::url_path(&(), Some(namespace)));
    match (kind, propagation) {
        (WorkerKind::Pod, _) => delete(client, pods, &labels, &how).await,
        (WorkerKind::Job, Propagation::Foreground) => delete(client, jobs, &labels, &how).await,
        (WorkerKind::Job, Propagation::Background) => {
            delete(client, pods, &labels, &how).await?;
            delete(client, jobs, &labels, &how).await
        }
    }
}

/// Deletes the objects with these labels.
async fn delete(
    client: &Client,
    url: String,
    labels: &str,
    how: &DeleteParams,
) -> kube::Result<()> {
    let matching = ListParams::default().labels(labels);
    let mut request = Request::new(url)
        .delete_collection(how, &matching)
        .map_err(kube::Error::BuildRequest)?
        .map(Body::from);
    let uri: Uri = format!("{}&includeObject=None", request.uri())
        .parse()
        .map_err(|error: http::uri::InvalidUri| kube::Error::Service(Box::new(error)))?;
    *request.uri_mut() = uri;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
    let response = client.send(request).await?;
    let code = response.status();
    let text = read_at_most(response, MAX_READ).await?;
    if code.is_success() { Ok(()) } else { Err(failure(&text, code.as_u16())) }
}

/// Reads the body up to a number of bytes, and drops the rest with the connection.
async fn read_at_most(response: Response<Body>, most: usize) -> kube::Result<Bytes> {
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    while text.len() < most {
        let Some(frame) = body.frame().await else { break };
        if let Some(data) = frame?.data_ref() {
            text.extend_from_slice(data.get(..most.saturating_sub(text.len())).unwrap_or(data));
        }
    }
    Ok(text.freeze())
}

/// Returns the error of a response that is not a success. Its body can come from a proxy.
fn failure(text: &[u8], code: u16) -> kube::Error {
    let status = serde_json::from_slice::<Status>(text).unwrap_or_else(|_| {
        let message: String =
            String::from_utf8_lossy(text).trim().chars().take(MAX_MESSAGE_CHARS).collect();
        Status::failure(&message, "Unreadable").with_code(code)
    });
    kube::Error::Api(status.boxed())
}

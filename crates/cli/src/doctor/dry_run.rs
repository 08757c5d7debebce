//! Creation of sample objects by dry run: nothing is stored.

use http::Request;
use kube::{Client, client::Body, core::Status};
use prewarmer_core::{
    task::{PREFIX, PrewarmTaskSpec, PullMethod, validate::validate},
    worker::{Assignment, WorkerSettings, build},
};
use prewarmer_kube::api_error::ApiErrorKind;
use serde_json::{Value, json};

use super::{
    results::{DryRunResult, QueryResult},
    settings::DoctorSettings,
};

/// Value of the invalid annotation, which the webhook's warning repeats.
pub(super) const SAMPLE_MARKER: &str = "prewarmer-doctor";

/// Creates an object by dry run. An error means that the caller may not create it, or that its
/// namespace does not exist.
async fn dry_run(client: &Client, path: &str, object: &Value) -> QueryResult<DryRunResult> {
    let asked = async {
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let request = Request::post(format!("{path}?dryRun=All"))
            .header("content-type", "application/json")
            .body(Body::from(body))
            .map_err(kube::Error::HttpError)?;
        let response = client.send(request).await?;
        let code = response.status();
        let warnings = response.headers().get_all("warning").iter();
        let warnings: Vec<String> =
            warnings.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        let body = response.into_body().collect_bytes().await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = answer["message"].as_str().unwrap_or_default().to_owned();
        if code.is_success() {
            return Ok(DryRunResult::Accepted(warnings));
        }
        let status = Status { code: code.as_u16(), message, ..Status::default() };
        match ApiErrorKind::of_status(&status) {
            ApiErrorKind::NotFound => Err(kube::Error::Api(Box::new(status))),
            // "User ... cannot create resource ..." concerns the caller; a policy's refusal
            // concerns the object.
            kind if kind.is_forbidden() && status.message.contains("cannot create resource") => {
                Err(kube::Error::Api(Box::new(status)))
            }
            _ => Ok(DryRunResult::Refused(status.message)),
        }
    };
    QueryResult::from_result(asked.await)
}

/// Creates a workload by dry run, so that the API server calls the webhook. Its invalid annotation
/// makes the webhook return a warning.
pub(super) async fn sample_review(client: &Client, namespace: &str) -> QueryResult<DryRunResult> {
    let workload = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": SAMPLE_MARKER, "annotations": {format!("{PREFIX}batch-size"): SAMPLE_MARKER}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": SAMPLE_MARKER}},
            "template": {
                "metadata": {"labels": {"app": SAMPLE_MARKER}},
                "spec": {"containers": [{"name": "c", "image": "prewarmer.invalid/doctor:0"}]},
            },
        },
    });
    dry_run(client, &format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &workload).await
}

/// Creates the pod of a worker by dry run, built as the server builds it.
pub(super) async fn sample_worker(
    client: &Client,
    namespace: &str,
    asked: &DoctorSettings,
) -> QueryResult<DryRunResult> {
    let spec = PrewarmTaskSpec::new(vec!["prewarmer.invalid/doctor:0".into()]);
    let Ok(task) = validate(&spec) else {
        return QueryResult::Failed("the sample task is not valid".into());
    };
    let settings = WorkerSettings {
        image_pull_policy: prewarmer_core::task::PullPolicy::default(),
        owner: None,
        service_account: None,
        image: asked.worker_image.clone(),
        priority_class: None,
        ttl: std::time::Duration::from_secs(60),
        images_per_pod: 1,
    };
    let at = Assignment {
        namespace,
        task_namespace: "",
        task: SAMPLE_MARKER,
        task_uid: SAMPLE_MARKER,
        batch: 0,
        node: SAMPLE_MARKER,
        attempt: 0,
        part: 0,
        images: &[0],
        method: PullMethod::Helper,
    };
    let mut pod = build(&task, &at, &settings).to_pod();
    // Without these labels, because a policy reserves them to the server.
    pod.metadata
        .labels
        .iter_mut()
        .for_each(|labels| labels.retain(|label, _| !label.starts_with(PREFIX)));
    let object = serde_json::to_value(&pod).unwrap_or_default();
    dry_run(client, &format!("/api/v1/namespaces/{namespace}/pods"), &object).await
}

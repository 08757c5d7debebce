//! Whether workers in our own namespace would have credentials, asked once at the beginning.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};

use super::{Settings, WorkerNamespace};
use crate::{
    task::{PrewarmTaskSpec, PullMethod, validate::validate},
    worker::{Assignment, build},
};

/// The controller begins without an answer that takes longer.
const LONGEST: Duration = Duration::from_secs(3);
/// The name of what is never stored.
const SAMPLE: &str = "prewarmer-start";

/// Warns where the pods that pull for tasks of other namespaces get image pull secrets: from their service account, or from whatever
/// changes pods. Then tasks that name no credentials would pull with ours.
pub(super) async fn warn(client: &Client, settings: &Settings) {
    if settings.worker_namespace == WorkerNamespace::Workload {
        return;
    }
    let namespace = &settings.own_namespace;
    match tokio::time::timeout(LONGEST, secrets(client, settings)).await {
        Err(_) => {}
        Ok(Ok(secrets)) if secrets.is_empty() => {}
        Ok(Ok(secrets)) => tracing::warn!(
            namespace,
            secrets = secrets.join(","),
            "workers in this namespace get image pull secrets, and pull with them for tasks of all namespaces: remove \
             imagePullSecrets from their service account, or name one without by --worker-service-account"
        ),
        Ok(Err(error)) => tracing::warn!(
            namespace,
            %error,
            "workers in this namespace are refused: see --worker-service-account and the policies of the namespace"
        ),
    }
}

/// The image pull secrets of a worker there, as the API server would store it: a dry run.
async fn secrets(client: &Client, settings: &Settings) -> kube::Result<Vec<String>> {
    let Ok(task) = validate(&PrewarmTaskSpec::new(vec!["prewarmer.invalid/start:0".into()])) else {
        return Ok(Vec::new());
    };
    let at = Assignment {
        namespace: &settings.own_namespace,
        task_namespace: "",
        task: SAMPLE,
        uid: SAMPLE,
        batch: 0,
        node: SAMPLE,
        attempt: 0,
        part: 0,
        asked: &[0],
        method: PullMethod::Helper,
    };
    // As a bare pod: what makes a Job's pods is asked about the Job first.
    let mut pod = build(&task, &at, &settings.worker).to_pod();
    if let Some(spec) = &mut pod.spec {
        spec.active_deadline_seconds = Some(60);
    }
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let made = Api::<Pod>::namespaced(client.clone(), &settings.own_namespace).create(&dry, &pod).await?;
    let secrets = made.spec.and_then(|spec| spec.image_pull_secrets).unwrap_or_default();
    Ok(secrets.into_iter().map(|secret| secret.name).collect())
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::{super::tests::settings, *};

    #[tokio::test]
    async fn what_the_api_server_adds_is_seen() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/prewarmer/pods");
            assert!(request.uri().query().unwrap_or_default().contains("dryRun=All"), "{}", request.uri());
            let body = request.into_body().collect_bytes().await.unwrap();
            let mut pod: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(pod["spec"]["serviceAccountName"], "worker");
            pod["spec"]["imagePullSecrets"] = json!([{"name": "of-the-account"}]);
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(pod.to_string().into_bytes())))
        });
        let mut settings = settings();
        settings.worker.service_account = Some("worker".into());
        let found = secrets(&Client::new(service, "prewarmer"), &settings).await.unwrap();
        assert_eq!(found, ["of-the-account"]);
    }
}

//! Startup check for pull credentials of workers in Prewarmer's own namespace.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};
use prewarmer_core::{
    controller::{ControllerSettings, WorkerNamespace},
    task::{PrewarmTaskSpec, PullMethod, validate::validate},
    worker::{Assignment, build},
};

/// Maximum duration of the check. The controller starts without its result afterwards.
const MAX_CHECK_TIME: Duration = Duration::from_secs(3);
/// Name in the dry run. No object of this name is stored.
const SAMPLE_NAME: &str = "prewarmer-start";

/// Logs a warning when workers in Prewarmer's own namespace get image pull secrets, from their
/// service account or from a mutating webhook. Tasks of other namespaces that name no credentials
/// would then pull with these secrets.
pub(super) async fn warn_about_pull_secrets(client: &Client, settings: &ControllerSettings) {
    if settings.worker_namespace == WorkerNamespace::Workload {
        return;
    }
    let namespace = &settings.own_namespace;
    match tokio::time::timeout(MAX_CHECK_TIME, worker_pull_secrets(client, settings)).await {
        Err(_) => {}
        Ok(Ok(secrets)) if secrets.is_empty() => {}
        Ok(Ok(secrets)) => tracing::warn!(
            namespace,
            secrets = secrets.join(","),
            "workers in this namespace get image pull secrets and use them for tasks of all namespaces: remove \
             imagePullSecrets from their service account, or set --worker-service-account to one without them"
        ),
        Ok(Err(error)) => tracing::warn!(
            namespace,
            %error,
            "API server rejects workers in this namespace: check --worker-service-account and the namespace's policies"
        ),
    }
}

/// Returns the image pull secrets of a worker pod as the API server would store it, determined by a
/// dry run.
async fn worker_pull_secrets(
    client: &Client,
    settings: &ControllerSettings,
) -> kube::Result<Vec<String>> {
    let Ok(task) = validate(&PrewarmTaskSpec::new(vec!["prewarmer.invalid/start:0".into()])) else {
        return Ok(Vec::new());
    };
    let at = Assignment {
        namespace: &settings.own_namespace,
        task_namespace: "",
        task: SAMPLE_NAME,
        task_uid: SAMPLE_NAME,
        batch: 0,
        node: SAMPLE_NAME,
        attempt: 0,
        part: 0,
        images: &[0],
        method: PullMethod::Helper,
    };
    // A dry run of a Job would only show the admission of the Job, not of the pods created for it.
    let pod = build(&task, &at, &settings.worker).to_pod();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let made =
        Api::<Pod>::namespaced(client.clone(), &settings.own_namespace).create(&dry, &pod).await?;
    let secrets = made.spec.and_then(|spec| spec.image_pull_secrets).unwrap_or_default();
    Ok(secrets.into_iter().map(|secret| secret.name).collect())
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use prewarmer_core::controller::sample_settings;

    use super::*;

    #[tokio::test]
    async fn pull_secrets_added_by_the_api_server_are_found() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/prewarmer/pods");
            assert!(
                request.uri().query().unwrap_or_default().contains("dryRun=All"),
                "{}",
                request.uri()
            );
            let body = request.into_body().collect_bytes().await.unwrap();
            let mut pod: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(pod["spec"]["serviceAccountName"], "worker");
            pod["spec"]["imagePullSecrets"] = json!([{"name": "of-the-account"}]);
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(
                pod.to_string().into_bytes(),
            )))
        });
        let mut settings = sample_settings();
        settings.worker.service_account = Some("worker".into());
        let found =
            worker_pull_secrets(&Client::new(service, "prewarmer"), &settings).await.unwrap();
        assert_eq!(found, ["of-the-account"]);
    }
}

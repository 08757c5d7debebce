//! Reading of workloads and of their cluster context.

use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler, core::v1::Namespace, node::v1::RuntimeClass,
};
use kube::{
    Api,
    api::{DynamicObject, ListParams},
};
use prewarmer_core::workload::Policy;
use serde_json::{Value, json};

use super::{client::ClusterClient, error::CommandError, resolve::FetchedWorkload};

/// Reads a workload of the cluster and its cluster context. Context that the caller may not read is
/// omitted.
pub(super) async fn fetch_workload(
    context: &ClusterClient,
    api_version: &str,
    kind: &str,
    name: &str,
) -> Result<FetchedWorkload, CommandError> {
    let policy = Policy::default();
    let known = policy.kinds.find_by_api_version(api_version, kind);
    let resource = known
        .map(|kind| kind.api_resource())
        .ok_or_else(|| CommandError::Usage(format!("{kind} is not a supported workload kind")))?;
    let (client, namespace) = (&context.client, context.namespace.as_str());
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let stored = objects.get(name).await?;
    let mut object = serde_json::to_value(&stored).unwrap_or_default();
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    let mut around = Vec::new();
    let namespaces = Api::<Namespace>::all(client.clone());
    around.extend(
        namespaces.get(namespace).await.ok().and_then(|one| serde_json::to_value(one).ok()),
    );
    let scalers = Api::<HorizontalPodAutoscaler>::namespaced(client.clone(), namespace);
    let scalers =
        scalers.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    around.extend(scalers.iter().filter_map(|one| serde_json::to_value(one).ok()));
    let classes = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    let class =
        |at: &&str| object.pointer(&format!("{at}/runtimeClassName")).and_then(Value::as_str);
    if let Some(class) = classes.iter().find_map(class) {
        let found = Api::<RuntimeClass>::all(client.clone()).get(class).await;
        around.extend(found.ok().and_then(|one| serde_json::to_value(one).ok()));
    }
    Ok(FetchedWorkload { object, context: around })
}

//! `prewarmer extract`: what would be warmed, from manifests and without a cluster.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{ToSchema, openapi::schema::Schema};

use super::{Credentials, Placement, Policy, Verdict, Workload};
use crate::{
    surroundings::{Scheduling, Surroundings},
    task::{Amount, PrewarmTaskSpec},
};

/// The namespace of documents that name none, where nothing says another.
pub const DEFAULT_NAMESPACE: &str = "default";

fn nodes_schema() -> Schema {
    Amount::schema("How many of the matching nodes: a number, `all`, or a percentage.")
}

/// What one pod template would have warmed.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Extracted {
    /// `Kind/name`.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// `wanted`, `opted_out`, `nothing` or `ignored`.
    pub verdict: &'static str,
    /// Why it is ignored, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The images.
    pub images: Vec<String>,
    /// The nodes, in the words of a pod: `nodeSelector`, `nodeAffinity`, `tolerations`.
    #[schema(value_type = Object)]
    pub placement: Placement,
    /// The credentials: `imagePullSecrets`, `serviceAccountName`.
    #[schema(value_type = Object)]
    pub credentials: Credentials,
    /// How many of the matching nodes: a number, `all`, or a percentage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = nodes_schema)]
    pub nodes: Option<Amount>,
    /// What made no sense, as kubectl would print it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<String>,
    /// The task that would be made, if any.
    #[serde(skip)]
    pub spec: Option<Box<PrewarmTaskSpec>>,
}

/// Reads JSON or YAML, several documents and `List`s too. Namespaces, runtime classes and autoscalers among them count, as
/// they would in a cluster, beside what is `known` of one. The second list names the documents that are no workload. The error names the document that
/// could not be read. Documents that name no namespace are in `namespace`.
pub fn extract_documents(
    text: &str,
    policy: &Policy,
    known: &Surroundings,
    namespace: &str,
) -> Result<(Vec<Extracted>, Vec<String>), String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| format!("this is neither YAML nor JSON: {error}"))?;
    let mut objects = Vec::new();
    for document in documents {
        flatten(document, &mut objects);
    }
    let around = known.copy();
    for object in &objects {
        surround(object, &around, namespace);
    }
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    for (index, object) in objects.into_iter().enumerate() {
        if word(&object, "/kind").is_empty() {
            return Err(format!("object {} is none of Kubernetes: it has no kind", index + 1));
        }
        let title = format!("{}/{}", word(&object, "/kind"), word(&object, "/metadata/name"));
        match policy.kinds.find(&word(&object, "/apiVersion"), &word(&object, "/kind")) {
            None => skipped.push(title),
            Some(kind) => {
                let view = kind.read_value(object).map_err(|error| format!("{title}: {error}"))?;
                let named = Some(view.metadata.namespace.as_str()).filter(|name| !name.is_empty());
                let namespace = named.unwrap_or(namespace);
                let (verdict, warnings) = policy.consider(kind, &view, namespace, &around);
                found.extend(entries(&title, namespace, verdict, warnings));
            }
        }
    }
    Ok((found, skipped))
}

fn word(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Documents, and the items of `List`s; an empty document is none.
fn flatten(document: Value, into: &mut Vec<Value>) {
    let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match document {
        Value::Null => {}
        Value::Object(mut fields) if is_list && fields.get("items").is_some_and(Value::is_array) => {
            if let Some(Value::Array(items)) = fields.remove("items") {
                for item in items {
                    flatten(item, into);
                }
            }
        }
        document => into.push(document),
    }
}

fn surround(object: &Value, around: &Surroundings, default: &str) {
    let name = word(object, "/metadata/name");
    let at = |path: &str| object.pointer(path).cloned().unwrap_or_default();
    match word(object, "/kind").as_str() {
        "Namespace" => {
            let annotations = Deserialize::deserialize(at("/metadata/annotations")).unwrap_or_default();
            around.set_namespace(&name, annotations);
        }
        "RuntimeClass" => {
            let node_selector = Deserialize::deserialize(at("/scheduling/nodeSelector")).unwrap_or_default();
            let tolerations = Deserialize::deserialize(at("/scheduling/tolerations")).unwrap_or_default();
            around.set_runtime_class(&name, Some(Scheduling { node_selector, tolerations }));
        }
        "HorizontalPodAutoscaler" => {
            let namespace = Some(word(object, "/metadata/namespace")).filter(|name| !name.is_empty());
            let target = word(object, "/spec/scaleTargetRef/kind");
            let workload =
                (namespace.unwrap_or_else(|| default.into()), target, word(object, "/spec/scaleTargetRef/name"));
            let most = at("/spec/maxReplicas").as_u64().and_then(|most| u32::try_from(most).ok());
            around.set_most_replicas(workload, most);
        }
        _ => {}
    }
}

fn entries(title: &str, namespace: &str, verdict: Verdict, warnings: Vec<String>) -> Vec<Extracted> {
    let (word, reason) = (verdict.as_str(), if let Verdict::Ignored(why) = verdict { Some(why) } else { None });
    let entry = |workload: Option<Workload>, warnings: Vec<String>| {
        let nodes = workload.as_ref().map(|workload| workload.options.nodes.clone());
        let images = |workload: &Workload| workload.images.iter().map(|image| image.as_written().to_owned()).collect();
        let spec = workload.as_ref().filter(|workload| !workload.images.is_empty());
        let spec = spec.map(|workload| Box::new(PrewarmTaskSpec { images: images(workload), ..workload.group_spec() }));
        let workload = workload.unwrap_or_default();
        Extracted {
            workload: title.to_owned(),
            namespace: namespace.to_owned(),
            verdict: word,
            reason,
            images: images(&workload),
            placement: workload.placement,
            credentials: workload.credentials,
            nodes,
            warnings,
            spec,
        }
    };
    let mut workloads = verdict.workloads().into_iter();
    let first = entry(workloads.next(), warnings);
    std::iter::once(first).chain(workloads.map(|workload| entry(Some(workload), Vec::new()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_and_lists() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: web, namespace: shop}\n  spec: {template: {spec: {containers: [{name: c, image: 'nginx:1'}]}}}\n---\n";
        let (found, skipped) =
            extract_documents(text, &Policy::default(), &Surroundings::default(), DEFAULT_NAMESPACE).unwrap();
        assert_eq!(skipped, ["ConfigMap/c"]);
        assert_eq!((found[0].workload.as_str(), found[0].verdict), ("Deployment/web", "wanted"));
        assert_eq!(found[0].images, ["nginx:1"]);
        assert_eq!(found[0].namespace, "shop");
    }

    #[test]
    fn what_surrounds_a_workload_counts_wherever_it_stands() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {runtimeClassName: kata, containers: [{name: c, image: a}]}\n---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: kata}\nscheduling: {nodeSelector: {kata: 'yes'}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {prewarm.io/priority: '9', prewarm.io/nodes: '7'}}\n";
        let (found, skipped) =
            extract_documents(text, &Policy::default(), &Surroundings::default(), DEFAULT_NAMESPACE).unwrap();
        assert_eq!(found[0].placement.node_selector["kata"], "yes");
        assert_eq!(found[0].nodes, Some(Amount::Count(7)));
        assert_eq!(skipped.len(), 2);
    }

    #[test]
    fn the_output_of_helm() {
        let text = "---\n# Source: shop/templates/sa.yaml\n---\n# Source: shop/templates/web.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: RELEASE-NAME-web\n  labels:\n    app.kubernetes.io/managed-by: Helm\nspec:\n  replicas: 1\n  template:\n    spec:\n      containers:\n        - name: web\n          image: \"shop/web:1.0\"\n          imagePullPolicy: IfNotPresent\n---\n# Source: shop/templates/job.yaml\napiVersion: batch/v1\nkind: Job\nmetadata:\n  name: \"RELEASE-NAME-migrate\"\n  annotations:\n    \"helm.sh/hook\": pre-install\nspec:\n  template:\n    spec:\n      containers:\n        - {name: migrate, image: 'shop/migrate:1.0'}\n";
        let (found, skipped) =
            extract_documents(text, &Policy::default(), &Surroundings::default(), DEFAULT_NAMESPACE).unwrap();
        assert_eq!((found.len(), skipped.len()), (2, 0));
        assert_eq!((&found[0].images[0], &found[1].images[0]), (&"shop/web:1.0".into(), &"shop/migrate:1.0".into()));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(
            extract_documents("{}", &Policy::default(), &Surroundings::default(), DEFAULT_NAMESPACE)
                .unwrap_err()
                .contains("no kind")
        );
        assert!(extract_documents("{", &Policy::default(), &Surroundings::default(), DEFAULT_NAMESPACE).is_err());
    }
}

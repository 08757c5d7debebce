//! `prewarmer extract`: what would be warmed, from manifests and without a cluster.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Credentials, ObjectView, Placement, Workload};
use crate::{image::Reference, task::Amount};

/// What one document would have warmed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Extracted {
    /// `Kind/name`.
    pub workload: String,
    /// Its namespace, where the document says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Whether it is opted out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub opted_out: bool,
    /// The images.
    pub images: Vec<String>,
    /// The nodes.
    pub placement: Placement,
    /// The credentials.
    pub credentials: Credentials,
    /// How many of the matching nodes.
    pub nodes: Amount,
    /// What made no sense.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Reads JSON or YAML, several documents and `List`s too. The second list names the documents that are no workload. The
/// error names the document that could not be read.
pub fn extract_documents(text: &str) -> Result<(Vec<Extracted>, Vec<String>), String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| format!("this is neither YAML nor JSON: {error}"))?;
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    for document in documents {
        visit(document, &mut found, &mut skipped)?;
    }
    Ok((found, skipped))
}

fn visit(document: Value, found: &mut Vec<Extracted>, skipped: &mut Vec<String>) -> Result<(), String> {
    if document.is_null() {
        return Ok(());
    }
    let items = document.get("items").and_then(Value::as_array).cloned();
    if let (Some("List"), Some(items)) = (document.get("kind").and_then(Value::as_str), items) {
        return items.into_iter().try_for_each(|item| visit(item, found, skipped));
    }
    let text = |path: &str| document.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let title = format!("{}/{}", text("/kind"), text("/metadata/name"));
    let namespace = text("/metadata/namespace");
    let view: ObjectView = serde_json::from_value(document).map_err(|error| format!("{title}: {error}"))?;
    match Workload::read(&view, &namespace, &BTreeMap::new()) {
        None => skipped.push(title),
        Some(workload) => found.push(Extracted {
            workload: title,
            namespace,
            opted_out: workload.enabled == Some(false),
            images: workload.images.iter().map(Reference::as_written).map(str::to_owned).collect(),
            placement: workload.placement,
            credentials: workload.credentials,
            nodes: workload.options.nodes,
            warnings: workload.warnings,
        }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_and_lists() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: web, namespace: shop}\n  spec: {template: {spec: {containers: [{name: c, image: 'nginx:1'}]}}}\n---\n";
        let (found, skipped) = extract_documents(text).unwrap();
        assert_eq!(skipped, ["ConfigMap/c"]);
        assert_eq!(found[0].workload, "Deployment/web");
        assert_eq!(found[0].images, ["nginx:1"]);
        assert_eq!(found[0].namespace, "shop");
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(extract_documents("{").is_err());
    }
}

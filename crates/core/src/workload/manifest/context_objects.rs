//! Objects of a manifest that decide together with its workloads.

use std::{collections::BTreeMap, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::context::{ClusterContext, ManifestContext, RuntimeClassScheduling};
use crate::task::PREFIX;

/// Namespaces, runtime classes and autoscalers of a manifest.
#[derive(Debug, Default)]
pub(super) struct ContextObjects {
    namespaces: BTreeMap<String, Arc<BTreeMap<String, String>>>,
    runtime_classes: BTreeMap<String, RuntimeClassScheduling>,
    autoscalers: Vec<Autoscaler>,
}

#[derive(Debug)]
struct Autoscaler {
    /// Empty for the default namespace.
    namespace: String,
    kind: String,
    name: String,
    max_replicas: u32,
}

impl ContextObjects {
    /// Adds an object, if it is of one of these kinds.
    pub(super) fn add(&mut self, api_version: &str, kind: &str, object: &Value) {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let name = string_at(object, "/metadata/name");
        match (group, kind) {
            ("", "Namespace") => {
                let annotations: BTreeMap<String, Value> =
                    parse_at(object, "/metadata/annotations");
                let ours = annotations.into_iter().filter(|(key, _)| key.starts_with(PREFIX));
                let texts = ours.filter_map(|(key, value)| match value {
                    Value::String(text) => Some((key, text)),
                    _ => None,
                });
                self.namespaces.insert(name, Arc::new(texts.collect()));
            }
            ("node.k8s.io", "RuntimeClass") => {
                let scheduling = RuntimeClassScheduling {
                    node_selector: parse_at(object, "/scheduling/nodeSelector"),
                    tolerations: parse_at(object, "/scheduling/tolerations"),
                };
                self.runtime_classes.insert(name, scheduling);
            }
            ("autoscaling", "HorizontalPodAutoscaler") => {
                let most = object.pointer("/spec/maxReplicas").and_then(Value::as_u64);
                let Some(max_replicas) = most.and_then(|most| u32::try_from(most).ok()) else {
                    return;
                };
                self.autoscalers.push(Autoscaler {
                    namespace: string_at(object, "/metadata/namespace"),
                    kind: string_at(object, "/spec/scaleTargetRef/kind"),
                    name: string_at(object, "/spec/scaleTargetRef/name"),
                    max_replicas,
                });
            }
            _ => {}
        }
    }

    /// Returns the context of these objects, which override those of `base`. Objects without a
    /// namespace are in `default`.
    pub(super) fn over<'a>(
        self,
        base: &'a dyn ClusterContext,
        default: &str,
    ) -> ManifestContext<'a> {
        let mut context = ManifestContext::new(base);
        context.namespaces = self.namespaces;
        context.runtime_classes = self.runtime_classes;
        for Autoscaler { namespace, kind, name, max_replicas } in self.autoscalers {
            let namespace = if namespace.is_empty() { default.to_owned() } else { namespace };
            context.max_replicas.insert((namespace, kind, name), max_replicas);
        }
        context
    }
}

pub(super) fn string_at(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn parse_at<T: DeserializeOwned + Default>(object: &Value, path: &str) -> T {
    let value = object.pointer(path).and_then(|value| T::deserialize(value).ok());
    value.unwrap_or_default()
}

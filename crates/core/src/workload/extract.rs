//! Extraction of images from manifests without a cluster, for `prewarmer extract` and the REST API.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::{ClusterContext, EmptyContext, ManifestContext, RuntimeClassScheduling};
use super::{Placement, Policy, PullCredentials, WarmDecision, Workload};
use crate::task::{Amount, PrewarmTaskSpec};

/// Default namespace of documents without one.
pub const DEFAULT_NAMESPACE: &str = "default";

#[cfg(feature = "openapi")]
fn nodes_schema() -> utoipa::openapi::schema::Schema {
    Amount::schema("Number of matching nodes to warm: a number, `all`, or a percentage.")
}

/// Images, placement and credentials of one pod template.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Extracted {
    /// Workload as `Kind/name`.
    pub workload: String,
    /// Namespace of the workload.
    pub namespace: String,
    /// Decision: `wanted`, `opted_out`, `nothing` or `ignored`.
    pub verdict: &'static str,
    /// Reason why the workload is ignored; absent for other verdicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Images to warm.
    pub images: Vec<String>,
    /// Placement with the fields of a pod spec: `nodeSelector`, `nodeAffinity`, `tolerations`.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub placement: Placement,
    /// Pull credentials: `imagePullSecrets`, `serviceAccountName`.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub credentials: PullCredentials,
    /// Number of matching nodes to warm: a number, `all`, or a percentage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(schema_with = nodes_schema))]
    pub nodes: Option<Amount>,
    /// Warnings about invalid values, with the texts that kubectl prints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub warnings: Vec<String>,
    /// Spec of the task that would be created, if any.
    #[serde(skip)]
    pub spec: Option<Box<PrewarmTaskSpec>>,
}

/// Limits for reading a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestLimits {
    /// Maximum number of objects, including those in `List`s.
    pub objects: usize,
    /// Maximum number of pod templates.
    pub templates: usize,
    /// Maximum number of images in all templates.
    pub images: usize,
    /// Maximum number of YAML values, including those repeated by aliases. One value takes about
    /// 100 bytes.
    pub values: usize,
    /// Maximum time.
    pub max_duration: Duration,
}

impl ManifestLimits {
    /// Limits for callers of a server. The output of a large chart has a hundred objects and ten
    /// thousand values.
    pub const SERVER: Self = Self {
        objects: 500,
        templates: 200,
        images: 1000,
        values: 60_000,
        max_duration: Duration::from_secs(2),
    };
    /// Limits for the command line on a local machine.
    pub const LOCAL: Self = Self {
        objects: 100_000,
        templates: 100_000,
        images: 1_000_000,
        values: 1_000_000,
        max_duration: Duration::from_secs(600),
    };
}

/// Error of an extraction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// The manifest or an object in it cannot be parsed.
    #[error("{0}")]
    Unreadable(String),
    /// A limit is exceeded; contains the limit and its unit.
    #[error("the manifest has more than {0} {1}; split it into smaller manifests")]
    TooMany(usize, &'static str),
    /// The time limit is exceeded.
    #[error("reading the manifest took more than {} s; split it into smaller manifests", .0.as_secs())]
    TooSlow(Duration),
}

/// Parsed objects of a manifest.
#[derive(Debug)]
pub struct ParsedManifest {
    objects: Vec<Value>,
    bounds: ManifestLimits,
    started_at: Instant,
}

impl ParsedManifest {
    /// Parses JSON or YAML with several documents and `List`s. The error names the document that
    /// cannot be parsed.
    pub fn parse(text: &str, bounds: ManifestLimits) -> Result<Self, ExtractError> {
        let begun = Instant::now();
        let ManifestLimits { values, .. } = bounds;
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_nodes: values,
                max_events: values.saturating_mul(3),
                max_aliases: values / 10,
                max_anchors: values / 10,
                max_recorded_anchor_events: values,
                max_recorded_anchor_bytes: text.len().saturating_mul(2),
                max_total_scalar_bytes: text.len().saturating_mul(2),
                max_total_property_interpolation_work: text.len().saturating_mul(4),
                max_merge_keys: values / 100,
            },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: values },
        };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| {
                ExtractError::Unreadable(format!("the manifest is neither YAML nor JSON: {error}"))
            })?;
        let mut objects = Vec::new();
        for document in documents {
            collect_objects(document, &mut objects);
            if objects.len() > bounds.objects {
                return Err(ExtractError::TooMany(bounds.objects, "objects"));
            }
        }
        let manifest = Self { objects, bounds, started_at: begun };
        manifest.check_time_limit()?;
        Ok(manifest)
    }

    fn check_time_limit(&self) -> Result<(), ExtractError> {
        if self.started_at.elapsed() > self.bounds.max_duration {
            Err(ExtractError::TooSlow(self.bounds.max_duration))
        } else {
            Ok(())
        }
    }

    /// Returns the namespaces of its workloads. Workloads without a namespace are in `default`.
    #[must_use]
    pub fn namespaces(&self, policy: &Policy, default: &str) -> BTreeSet<String> {
        let workloads = self.objects.iter().filter(|one| {
            policy
                .kinds
                .find_by_api_version(&string_at(one, "/apiVersion"), &string_at(one, "/kind"))
                .is_some()
        });
        workloads
            .map(|object| {
                Some(string_at(object, "/metadata/namespace")).filter(|name| !name.is_empty())
            })
            .map(|named| named.unwrap_or_else(|| default.to_owned()))
            .collect()
    }

    /// Evaluates all workloads of the manifest. Namespaces, runtime classes and autoscalers in the
    /// manifest are used as in a cluster and override those of `known`. The second list contains
    /// the documents that are not workloads, as `Kind/name`.
    pub fn extract(
        mut self,
        policy: &Policy,
        known: &dyn ClusterContext,
        default: &str,
    ) -> Result<(Vec<Extracted>, Vec<String>), ExtractError> {
        let mut context = ManifestContext::new(known);
        for object in &self.objects {
            add_to_context(object, &mut context, default);
        }
        let (mut found, mut skipped, mut images) = (Vec::new(), Vec::new(), 0_usize);
        for (index, object) in std::mem::take(&mut self.objects).into_iter().enumerate() {
            self.check_time_limit()?;
            if string_at(&object, "/kind").is_empty() {
                let words = format!(
                    "object {} is not a Kubernetes object: it has no kind",
                    index.saturating_add(1)
                );
                return Err(ExtractError::Unreadable(words));
            }
            let title =
                format!("{}/{}", string_at(&object, "/kind"), string_at(&object, "/metadata/name"));
            match policy.kinds.find_by_api_version(
                &string_at(&object, "/apiVersion"),
                &string_at(&object, "/kind"),
            ) {
                None => skipped.push(title),
                Some(kind) => {
                    let unreadable = |error| ExtractError::Unreadable(format!("{title}: {error}"));
                    let view = kind.parse_value(object).map_err(unreadable)?;
                    let named =
                        Some(view.metadata.namespace.as_str()).filter(|name| !name.is_empty());
                    let namespace = named.unwrap_or(default);
                    let (verdict, warnings) = policy.evaluate(kind, &view, namespace, &context);
                    let entries = extracted(&title, namespace, verdict, warnings);
                    images =
                        images.saturating_add(entries.iter().map(|entry| entry.images.len()).sum());
                    found.extend(entries);
                    if found.len() > self.bounds.templates {
                        return Err(ExtractError::TooMany(self.bounds.templates, "pod templates"));
                    }
                    if images > self.bounds.images {
                        return Err(ExtractError::TooMany(self.bounds.images, "images"));
                    }
                }
            }
        }
        Ok((found, skipped))
    }
}

/// Parses a manifest and evaluates its workloads without a cluster, with the limits for a local
/// machine.
pub fn extract_documents(
    text: &str,
    policy: &Policy,
    namespace: &str,
) -> Result<(Vec<Extracted>, Vec<String>), ExtractError> {
    ParsedManifest::parse(text, ManifestLimits::LOCAL)?.extract(policy, &EmptyContext, namespace)
}

fn string_at(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Collects the documents and the items of `List`s. Empty documents are skipped.
fn collect_objects(document: Value, into: &mut Vec<Value>) {
    let is_list =
        document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match document {
        Value::Null => {}
        Value::Object(mut fields)
            if is_list && fields.get("items").is_some_and(Value::is_array) =>
        {
            if let Some(Value::Array(items)) = fields.remove("items") {
                for item in items {
                    collect_objects(item, into);
                }
            }
        }
        document => into.push(document),
    }
}

fn add_to_context(object: &Value, context: &mut ManifestContext<'_>, default: &str) {
    let name = string_at(object, "/metadata/name");
    let at = |path: &str| object.pointer(path).cloned().unwrap_or_default();
    match string_at(object, "/kind").as_str() {
        "Namespace" => {
            let annotations =
                Deserialize::deserialize(at("/metadata/annotations")).unwrap_or_default();
            context.namespaces.insert(name, Arc::new(annotations));
        }
        "RuntimeClass" => {
            let node_selector =
                Deserialize::deserialize(at("/scheduling/nodeSelector")).unwrap_or_default();
            let tolerations =
                Deserialize::deserialize(at("/scheduling/tolerations")).unwrap_or_default();
            context
                .runtime_classes
                .insert(name, RuntimeClassScheduling { node_selector, tolerations });
        }
        "HorizontalPodAutoscaler" => {
            let namespace =
                Some(string_at(object, "/metadata/namespace")).filter(|name| !name.is_empty());
            let target = string_at(object, "/spec/scaleTargetRef/kind");
            let workload = (
                namespace.unwrap_or_else(|| default.into()),
                target,
                string_at(object, "/spec/scaleTargetRef/name"),
            );
            let most = at("/spec/maxReplicas").as_u64().and_then(|most| u32::try_from(most).ok());
            if let Some(most) = most {
                context.max_replicas.insert(workload, most);
            }
        }
        _ => {}
    }
}

fn extracted(
    title: &str,
    namespace: &str,
    verdict: WarmDecision,
    warnings: Vec<String>,
) -> Vec<Extracted> {
    let (word, reason) =
        (verdict.as_str(), if let WarmDecision::Ignored(why) = verdict { Some(why) } else { None });
    let entry = |workload: Option<Workload>, warnings: Vec<String>| {
        let nodes = workload.as_ref().map(|workload| workload.options.nodes.clone());
        let images = |workload: &Workload| {
            workload.images.iter().map(|image| image.as_written().to_owned()).collect()
        };
        let spec = workload.as_ref().filter(|workload| !workload.images.is_empty());
        let spec = spec.map(|workload| {
            Box::new(PrewarmTaskSpec { images: images(workload), ..workload.task_spec() })
        });
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
    std::iter::once(first)
        .chain(workloads.map(|workload| entry(Some(workload), Vec::new())))
        .collect()
}

#[cfg(test)]
mod tests;

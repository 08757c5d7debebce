//! Extraction of images from manifests without a cluster, for `prewarmer extract` and the REST API.

use std::collections::BTreeMap;

use serde::Serialize;

use super::context::{ClusterContext, EmptyContext};
use super::manifest::{
    DocumentError, DocumentWarning, ExtractError, Finding, ManifestLimits, ParsedManifest,
    ReadWorkload,
};
use super::policy::images_never_pulled;
use super::{Placement, Policy, PullCredentials, WarmDecision, Workload};
use crate::task::{Amount, PrewarmTaskSpec, PullPolicy};

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
    /// Decision: `wanted`, `opted_out`, `one_shot`, `nothing` or `ignored`.
    pub verdict: &'static str,
    /// Reason why the workload is ignored or counts as one-shot; absent for other verdicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Images to warm.
    pub images: Vec<String>,
    /// Pull policies of images that differ from those of their tags, `Always` or `IfNotPresent`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false, value_type = BTreeMap<String, String>))]
    pub pull_policies: BTreeMap<String, PullPolicy>,
    /// Images that are not warmed, because all of their containers have `imagePullPolicy: Never`. The
    /// first entry of an object has those of all its pod templates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub never_pulled: Vec<String>,
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
    /// Specs of the tasks that would be created: one, and one for each further pull policy.
    #[serde(skip)]
    pub specs: Vec<PrewarmTaskSpec>,
}

/// Result of an extraction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extraction {
    /// Workloads, one entry for each pod template.
    pub workloads: Vec<Extracted>,
    /// Objects that are not workloads, as `Kind/name`.
    pub skipped: Vec<String>,
    /// Documents and objects that cannot be read.
    pub errors: Vec<Finding<DocumentError>>,
    /// Findings about what can be read.
    pub warnings: Vec<Finding<DocumentWarning>>,
}

impl ParsedManifest {
    /// Evaluates all workloads of the manifest. Namespaces, runtime classes and autoscalers in the
    /// manifest are used as in a cluster and override those of `known`. Objects without a namespace
    /// are in `default`.
    pub fn extract(
        mut self,
        policy: &Policy,
        known: &dyn ClusterContext,
        default: &str,
    ) -> Result<Extraction, ExtractError> {
        let context = self.take_context(known, default);
        let (mut found, mut images) = (Vec::new(), 0_usize);
        for workload in std::mem::take(&mut self.workloads) {
            self.check_time_limit()?;
            let ReadWorkload { title, kind, view } = workload;
            let named = Some(view.metadata.namespace.as_str()).filter(|name| !name.is_empty());
            let namespace = named.unwrap_or(default);
            let (verdict, warnings) = policy.evaluate(&kind, &view, namespace, &context);
            let verdict = verdict.without_history();
            let mut never_pulled = match &verdict {
                WarmDecision::Warm(_) | WarmDecision::NoImages => images_never_pulled(&view),
                _ => Vec::new(),
            };
            let mut entries = extracted(&title, namespace, verdict, warnings);
            let is_warmed = |image: &String| entries.iter().any(|one| one.images.contains(image));
            never_pulled.retain(|image| !is_warmed(image));
            if let Some(first) = entries.first_mut() {
                first.never_pulled = never_pulled;
            }
            images = images.saturating_add(entries.iter().map(|entry| entry.images.len()).sum());
            found.extend(entries);
            if found.len() > self.limits.templates {
                return Err(ExtractError::TooMany(self.limits.templates, "pod templates"));
            }
            if images > self.limits.images {
                return Err(ExtractError::TooMany(self.limits.images, "images"));
            }
        }
        let Self { skipped, errors, warnings, .. } = self;
        Ok(Extraction { workloads: found, skipped, errors, warnings })
    }
}

/// Parses a manifest and evaluates its workloads without a cluster, with the limits for a local
/// machine.
pub fn extract_documents(
    text: &str,
    policy: &Policy,
    namespace: &str,
) -> Result<Extraction, ExtractError> {
    let mut manifest = ParsedManifest::new(ManifestLimits::LOCAL);
    manifest.read("", text.as_bytes(), &policy.kinds)?;
    manifest.extract(policy, &EmptyContext, namespace)
}

fn extracted(
    title: &str,
    namespace: &str,
    verdict: WarmDecision,
    warnings: Vec<String>,
) -> Vec<Extracted> {
    let word = verdict.as_str();
    let reason = match verdict {
        WarmDecision::Ignored(why) => Some(why),
        WarmDecision::OneShot(why) => Some(why.message()),
        _ => None,
    };
    let entry = |workload: Option<Workload>, warnings: Vec<String>| {
        let nodes = workload.as_ref().map(|workload| workload.options.nodes.clone());
        let workload = workload.unwrap_or_default();
        let policies = workload
            .images_with_overrides()
            .filter_map(|(image, policy)| Some((image.as_written().to_owned(), policy?)))
            .collect();
        Extracted {
            workload: title.to_owned(),
            namespace: namespace.to_owned(),
            verdict: word,
            reason,
            specs: workload.task_specs(),
            images: workload.images.iter().map(|image| image.as_written().to_owned()).collect(),
            pull_policies: policies,
            never_pulled: Vec::new(),
            placement: workload.placement,
            credentials: workload.credentials,
            nodes,
            warnings,
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

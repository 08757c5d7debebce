//! What a workload tells us: images, placement, credentials, annotations. *Pure.*
//!
//! In: the JSON of an object with a pod template, and its namespace's
//! annotations. Out: a [`Workload`], with warnings for what makes no sense.
//! Read through a thin view: fields that are not looked at cost nothing and may
//! have any shape. May call `image` and `task`.

mod annotations;
mod extract;
mod view;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration};
use serde::Serialize;

pub use annotations::{Options, PREFIX};
pub use extract::{Extracted, extract_documents};
pub use view::{ObjectView, Owner};

use crate::image::Reference;

/// Where a workload's pods may run, in the words of a pod spec.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a node must carry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeSelector>,
    /// Accepted taints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// What a workload's pods pull with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Secrets of its namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Its service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
}

/// What a workload asks to have warmed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name, or the prefix that its name is made from.
    pub name: String,
    /// Its images, each once, in the order of the template.
    pub images: Vec<Reference>,
    /// Where its pods may run.
    pub placement: Placement,
    /// What its pods pull with.
    pub credentials: Credentials,
    /// What its annotations say.
    pub options: Options,
    /// Opted in or out, where something says so.
    pub enabled: Option<bool>,
    /// What made no sense, for the user to read.
    pub warnings: Vec<String>,
}

impl Workload {
    /// Reads an object. `None`: a kind without a pod template that we know.
    #[must_use]
    pub fn read(
        object: &ObjectView,
        namespace: &str,
        namespace_annotations: &BTreeMap<String, String>,
    ) -> Option<Self> {
        let template = object.template()?;
        let layers = [template.annotations, &object.metadata.annotations, namespace_annotations];
        let mut warnings = Vec::new();
        let found = annotations::read(&layers, object.replicas(), &mut warnings);
        let written = template.spec.images(&found.exclude_containers).chain(found.images.iter().map(String::as_str));
        let mut images: Vec<Reference> = Vec::new();
        for text in written {
            match text.parse::<Reference>() {
                Ok(reference) if images.contains(&reference) => {}
                Ok(reference) => images.push(reference),
                Err(error) => warnings.push(format!("prewarmer: image {text:?} is not warmed: {error}")),
            }
        }
        Some(Self {
            kind: object.kind.clone(),
            namespace: namespace.to_owned(),
            name: object.metadata.name_or_prefix().to_owned(),
            images,
            placement: placement(template.spec),
            credentials: template.spec.credentials(),
            options: if object.kind == "DaemonSet" { found.options.on_all_nodes() } else { found.options },
            enabled: found.enabled,
            warnings,
        })
    }

    /// Whether an update leaves all that we act on as it was.
    #[must_use]
    pub fn same_work(&self, old: &Self) -> bool {
        self.images == old.images
            && self.placement == old.placement
            && self.credentials == old.credentials
            && self.enabled == old.enabled
            && self.options == old.options
    }
}

/// A pod that names its node is placed by that name.
fn placement(spec: &view::PodSpecView) -> Placement {
    let by_name = |node: &String| NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.clone()]),
            }]),
            match_expressions: None,
        }],
    };
    Placement {
        node_selector: spec.node_selector.clone(),
        node_affinity: spec.node_name.as_ref().map(by_name).or_else(|| spec.required_affinity()),
        tolerations: spec.tolerations.clone(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn read(object: Value) -> Option<Workload> {
        let view: ObjectView = serde_json::from_value(object).unwrap();
        Workload::read(&view, "shop", &BTreeMap::new())
    }

    fn deployment(template: &Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
               "spec": {"replicas": 3, "template": template}})
    }

    fn names(workload: &Workload) -> Vec<&str> {
        workload.images.iter().map(Reference::as_written).collect()
    }

    #[test]
    fn every_place_that_names_an_image() {
        let workload = read(deployment(&json!({"spec": {
            "initContainers": [{"name": "i", "image": "init:1"}],
            "containers": [{"name": "c", "image": "web:1"}, {"name": "d", "image": "docker.io/library/web:1"}],
            "ephemeralContainers": [{"name": "e", "image": "debug:1"}],
            "volumes": [{"name": "v", "image": {"reference": "data:1"}}, {"name": "w", "emptyDir": {}}],
        }})))
        .unwrap();
        assert_eq!(names(&workload), ["init:1", "web:1", "debug:1", "data:1"]);
    }

    #[rstest]
    #[case(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": {"containers": [{"image": "a"}]}}), "p-")]
    #[case(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}), "j")]
    #[case(json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}}}), "c")]
    #[case(json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r"}, "spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}), "r")]
    fn kinds(#[case] object: Value, #[case] name: &str) {
        let workload = read(object).unwrap();
        assert_eq!((names(&workload), workload.name.as_str()), (vec!["a"], name));
    }

    #[rstest]
    #[case(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}))]
    #[case(json!({"apiVersion": "example.io/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": {"spec": {}}}}))]
    #[case(json!({"apiVersion": "apps/v1", "kind": "Deployment"}))]
    fn no_workload_of_ours(#[case] object: Value) {
        assert_eq!(read(object), None);
    }

    #[test]
    fn null_lists_and_unknown_fields_do_no_harm() {
        let workload = read(deployment(&json!({"metadata": {"annotations": null}, "spec": {
            "containers": null, "volumes": null, "nodeSelector": null, "tolerations": null, "new": {"field": [1]},
            "imagePullSecrets": null, "affinity": null,
        }})));
        assert_eq!(workload.unwrap().images, []);
    }

    #[rstest]
    #[case("UPPER/case:x")]
    #[case("a//b")]
    #[case(":tag")]
    fn a_bad_reference_is_a_warning(#[case] image: &str) {
        let workload =
            read(deployment(&json!({"spec": {"containers": [{"image": image}, {"image": "good:1"}]}}))).unwrap();
        assert_eq!(names(&workload), ["good:1"]);
        assert!(workload.warnings[0].contains(image), "{:?}", workload.warnings);
    }

    #[test]
    fn placement_and_credentials() {
        let workload = read(deployment(&json!({"spec": {
            "containers": [{"image": "a"}], "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}}},
            "imagePullSecrets": [{"name": "s"}], "serviceAccountName": "robot",
        }})))
        .unwrap();
        assert_eq!(workload.placement.node_selector["pool"], "gpu");
        assert_eq!(workload.placement.tolerations.len(), 1);
        assert_eq!(workload.placement.node_affinity.unwrap().node_selector_terms.len(), 1);
        assert_eq!(workload.credentials.image_pull_secrets, ["s"]);
        assert_eq!(workload.credentials.service_account_name.as_deref(), Some("robot"));
    }

    #[test]
    fn a_pod_with_a_node_is_placed_by_name() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                         "spec": {"nodeName": "n1", "containers": [{"image": "a"}]}});
        let affinity = read(pod).unwrap().placement.node_affinity.unwrap();
        assert_eq!(affinity.node_selector_terms[0].match_fields.as_ref().unwrap()[0].values.as_ref().unwrap(), &["n1"]);
    }
}

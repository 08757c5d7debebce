//! Used fields of an object with a pod template.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    fields::{RESTARTED_AT, lenient, list, number},
    job::JobProgress,
    metadata::MetadataView,
    pod_spec::TemplateView,
};

/// Maximum number of pod templates read from one object (items of `[*]` in a configured path).
pub(in crate::workload) const MAX_TEMPLATES: usize = 100;

/// Used fields of an object.
#[derive(Debug, Clone, Default)]
pub struct ObjectView {
    /// Metadata of the object.
    pub metadata: MetadataView,
    /// Rollout status.
    pub status: StatusView,
    /// Requested replicas, if specified.
    pub replicas: Option<i64>,
    /// Labels that select the object's pods, if specified.
    pub selector: BTreeMap<String, String>,
    /// Fields of a Job that decide when its pods start.
    pub(in crate::workload) job: JobProgress,
    pub(in crate::workload) templates: Vec<TemplateView>,
    /// Paths of values that should be pod templates and cannot be parsed, with the error.
    pub(in crate::workload) invalid_templates: Vec<String>,
    /// Set if the object has more than [`MAX_TEMPLATES`] templates.
    pub(super) templates_truncated: bool,
}

impl ObjectView {
    /// Returns the number of images in all templates, including duplicates.
    #[must_use]
    pub fn image_count(&self) -> usize {
        self.templates.iter().map(|template| template.spec.images(&[]).count()).sum()
    }

    /// Reports whether `nodeName` is set in any template.
    #[must_use]
    pub fn is_placed_by_name(&self) -> bool {
        self.templates.iter().any(|template| !template.spec.node_name.is_empty())
    }

    /// Removes `nodeName` from all templates.
    pub fn clear_node_names(&mut self) {
        for template in &mut self.templates {
            template.spec.node_name.clear();
        }
    }

    /// Reports whether `kubectl rollout restart` has changed the object from `old`. Its new pods
    /// resolve tags again, although no image changes.
    #[must_use]
    pub fn is_restart_of(&self, old: &Self) -> bool {
        let restarts = |object: &Self| -> Vec<Option<String>> {
            let annotations =
                object.templates.iter().map(|template| &template.metadata.annotations);
            annotations.map(|annotations| annotations.get(RESTARTED_AT).cloned()).collect()
        };
        let now = restarts(self);
        now.iter().any(Option::is_some) && now != restarts(old)
    }

    /// Reports whether this object and `old` result in the same decision and the same workloads in the
    /// same cluster context.
    #[must_use]
    pub fn is_same_workload(&self, old: &Self) -> bool {
        let (new, before) = (&self.metadata, &old.metadata);
        self.templates == old.templates
            && self.invalid_templates == old.invalid_templates
            && self.job == old.job
            && new.name_or_prefix() == before.name_or_prefix()
            && new.annotations == before.annotations
            && new.labels == before.labels
            && new.owner_references == before.owner_references
            && new.deletion_timestamp.is_some() == before.deletion_timestamp.is_some()
    }

    /// Reports whether an image of a template satisfies the condition.
    pub(in crate::workload) fn has_image(&self, condition: impl Fn(&str) -> bool) -> bool {
        self.templates
            .iter()
            .any(|template| template.spec.images(&[]).any(|(image, _)| condition(image)))
    }

    /// Reports whether containers, volumes or templates were skipped because of a limit.
    pub(in crate::workload) fn is_truncated(&self) -> bool {
        self.templates_truncated
            || self.templates.iter().any(|template| template.spec.is_truncated())
    }
}

/// Rollout status with the fields of all kinds; `None` for fields that a kind does not have.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusView {
    /// Generation that the controller has observed.
    #[serde(deserialize_with = "number")]
    pub observed_generation: Option<i64>,
    /// Number of pods.
    #[serde(deserialize_with = "number")]
    pub replicas: Option<i64>,
    /// Number of pods of the newest template.
    #[serde(deserialize_with = "number")]
    pub updated_replicas: Option<i64>,
    /// Number of pods that have been ready for `minReadySeconds`.
    #[serde(deserialize_with = "number")]
    pub available_replicas: Option<i64>,
    /// Conditions set by the controller.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<ConditionView>,
    /// Number of nodes that should run a pod of a `DaemonSet`.
    #[serde(deserialize_with = "number")]
    pub desired_number_scheduled: Option<i64>,
    /// Number of nodes that run a pod of the newest template.
    #[serde(deserialize_with = "number")]
    pub updated_number_scheduled: Option<i64>,
    /// Number of running pods of a Job.
    #[serde(deserialize_with = "number")]
    pub active: Option<i64>,
    /// Start time of a Job, RFC 3339; empty before it starts.
    #[serde(deserialize_with = "lenient")]
    pub start_time: String,
}

/// Condition of an object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConditionView {
    /// Reason, such as `ProgressDeadlineExceeded`.
    #[serde(deserialize_with = "lenient")]
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::workload::WorkloadKinds;

    fn deployment() -> Value {
        json!({"metadata": {"name": "web", "resourceVersion": "1", "labels": {"a": "b"}},
            "spec": {"replicas": 2, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "app:1"}]}}},
            "status": {"replicas": 1}})
    }

    fn view(object: &Value) -> ObjectView {
        let kinds = WorkloadKinds::default();
        let kind = kinds.find_by_api_version("apps/v1", "Deployment").unwrap();
        kind.parse_value(object.clone()).unwrap()
    }

    #[rstest]
    #[case("/metadata/resourceVersion", json!("2"))]
    #[case("/metadata/labels/a", json!("c"))]
    #[case("/spec/template/metadata/labels/a", json!("c"))]
    #[case("/spec/template/spec/containers/0", json!({"name": "c", "image": "app:1", "env": []}))]
    #[case("/status/replicas", json!(2))]
    fn other_changes_leave_the_workload_the_same(#[case] path: &str, #[case] value: Value) {
        let mut changed = deployment();
        *changed.pointer_mut(path).unwrap() = value;
        assert!(view(&changed).is_same_workload(&view(&deployment())));
    }

    #[rstest]
    #[case("/metadata/name", json!("api"))]
    #[case("/metadata/labels", json!({"app.kubernetes.io/managed-by": "prewarmer"}))]
    #[case("/metadata", json!({"name": "web", "annotations": {"prewarm.io/nodes": "9"}}))]
    #[case("/metadata", json!({"name": "web", "deletionTimestamp": "2026-11-30T10:00:00Z"}))]
    #[case("/metadata", json!({"name": "web", "ownerReferences": [{"kind": "X", "name": "x"}]}))]
    #[case("/spec/replicas", json!(3))]
    #[case("/spec/template/metadata", json!({"annotations": {"prewarm.io/enabled": "false"}}))]
    #[case("/spec/template/metadata",
        json!({"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}))]
    #[case("/spec/template/spec/containers/0/image", json!("app:2"))]
    #[case("/spec/template/spec/containers/0/name", json!("d"))]
    #[case("/spec/template/spec/containers/0",
        json!({"name": "c", "image": "app:1", "imagePullPolicy": "Always"}))]
    #[case("/spec/template/spec",
        json!({"containers": [{"name": "c", "image": "app:1"}], "serviceAccountName": "sa"}))]
    #[case("/spec/template", json!(null))]
    fn changes_that_decide_are_found(#[case] path: &str, #[case] value: Value) {
        let mut changed = deployment();
        *changed.pointer_mut(path).unwrap() = value;
        assert!(!view(&changed).is_same_workload(&view(&deployment())));
    }
}

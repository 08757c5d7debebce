//! Used fields of an object's metadata.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::fields::{lenient, list, managed_by, number, ours};

/// Used fields of an object's metadata.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataView {
    /// Name; empty in a pod template.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) generate_name: String,
    /// Namespace; empty if the manifest does not set it.
    #[serde(deserialize_with = "lenient")]
    pub namespace: String,
    /// UID; empty before the API server sets it.
    #[serde(deserialize_with = "lenient")]
    pub uid: String,
    /// Resource version in the API server.
    #[serde(deserialize_with = "lenient")]
    pub resource_version: String,
    /// Generation of the spec.
    #[serde(deserialize_with = "number")]
    pub generation: Option<i64>,
    /// Label `app.kubernetes.io/managed-by`, if present; other labels are skipped.
    #[serde(deserialize_with = "managed_by")]
    pub labels: BTreeMap<String, String>,
    /// Annotations with the prefix `prewarm.io/`, and the time of the last restart by kubectl; others
    /// are skipped.
    #[serde(deserialize_with = "ours")]
    pub annotations: BTreeMap<String, String>,
    /// Owner references.
    #[serde(deserialize_with = "list")]
    pub owner_references: Vec<Owner>,
    /// Creation time, RFC 3339.
    pub creation_timestamp: Option<String>,
    /// Deletion time, RFC 3339; set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
}

impl MetadataView {
    /// Returns the name, or the prefix from which the API server generates one.
    #[must_use]
    pub fn name_or_prefix(&self) -> &str {
        if self.name.is_empty() { &self.generate_name } else { &self.name }
    }

    /// Returns the owner reference of the controller.
    #[must_use]
    pub fn controller(&self) -> Option<&Owner> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

/// Owner reference.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// API group and version of the owner.
    #[serde(deserialize_with = "lenient")]
    pub api_version: String,
    /// Kind of the owner.
    #[serde(deserialize_with = "lenient")]
    pub kind: String,
    /// Name of the owner.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    #[serde(deserialize_with = "lenient")]
    controller: bool,
}

impl Owner {
    /// Returns the API group; empty for the core group.
    pub(in crate::workload) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    #[cfg(test)]
    pub(crate) fn sample(api_version: &str, kind: &str, name: &str) -> Self {
        Self {
            api_version: api_version.into(),
            kind: kind.into(),
            name: name.into(),
            controller: true,
        }
    }
}

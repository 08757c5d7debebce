//! Kinds with a pod template, and the location of the template in each.

use std::sync::Arc;

use kube::core::{ApiResource, GroupVersionKind};

use super::Owner;

/// Location of the pod template in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TemplateLocation {
    /// The object is a pod.
    Pod,
    /// `spec.template`.
    Template,
    /// `spec.jobTemplate.spec.template`.
    JobTemplate,
    /// Paths from a setting, in its order.
    Paths(Vec<Vec<PathStep>>),
}

/// Maximum number of paths of one kind. A kind has a template for each role of its pods, such as
/// launcher and worker.
const MAX_PATHS: usize = 10;

/// Step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathStep {
    /// Field of an object.
    Field(String),
    /// Every item of a list.
    EachItem,
}

/// Kind with a pod template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadKind {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Resource name in URLs and webhook rules, such as `deployments`.
    pub plural: String,
    pub(super) location: TemplateLocation,
}

/// Error of a setting that names a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// Text that is not `GROUP/VERSION/KIND[/PLURAL]=PATH`.
    #[error("expected GROUP/VERSION/KIND=PATH, such as argoproj.io/v1alpha1/Rollout=spec.template")]
    Format,
    /// Path of the pod template that cannot be parsed.
    #[error(
        "invalid path {0:?}: expected fields separated by dots, with [*] for every item, and + \
         between several paths"
    )]
    Path(String),
    /// More than the maximum number of paths.
    #[error("expected at most {MAX_PATHS} paths of pod templates, separated by +")]
    TooManyPaths,
    /// One path is contained in another.
    #[error(
        "path {0:?} is listed twice or is part of another path: expected separate pod templates"
    )]
    Overlap(String),
}

/// Group, version, kind, resource and template location.
const BUILT_IN: &[(&str, &str, &str, &str, TemplateLocation)] = &[
    ("apps", "v1", "Deployment", "deployments", TemplateLocation::Template),
    ("apps", "v1", "StatefulSet", "statefulsets", TemplateLocation::Template),
    ("apps", "v1", "DaemonSet", "daemonsets", TemplateLocation::Template),
    ("apps", "v1", "ReplicaSet", "replicasets", TemplateLocation::Template),
    ("", "v1", "ReplicationController", "replicationcontrollers", TemplateLocation::Template),
    ("batch", "v1", "Job", "jobs", TemplateLocation::Template),
    ("batch", "v1", "CronJob", "cronjobs", TemplateLocation::JobTemplate),
    ("", "v1", "Pod", "pods", TemplateLocation::Pod),
];

impl WorkloadKind {
    /// Parses a setting: `GROUP/VERSION/KIND[/PLURAL]=PATH[+PATH...]`. Fields of a path are
    /// separated by dots; `[*]` after a field selects every item of a list, such as
    /// `ray.io/v1/RayCluster=spec.headGroupSpec.template+spec.workerGroupSpecs[*].template`.
    pub fn parse(text: &str) -> Result<Self, KindError> {
        let (name, path) = text.split_once('=').ok_or(KindError::Format)?;
        let parts: Vec<&str> = name.split('/').map(str::trim).collect();
        let (group, version, kind, plural) = match parts[..] {
            [group, version, kind] => (group, version, kind, None),
            [group, version, kind, plural] => (group, version, kind, Some(plural)),
            _ => return Err(KindError::Format),
        };
        let word =
            |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
        let names = [group, version, kind].into_iter().chain(plural);
        if !names.clone().all(word) || names.clone().any(str::is_empty) || !group.contains('.') {
            return Err(KindError::Format);
        }
        let guessed = || ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)).plural;
        Ok(Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.map_or_else(guessed, str::to_owned),
            location: TemplateLocation::Paths(parse_paths(path)?),
        })
    }

    /// Returns the API version with its group: `apps/v1`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Returns the `ApiResource` with which a client addresses objects of this kind.
    #[must_use]
    pub fn api_resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// Reports whether the kind comes from a setting.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        matches!(self.location, TemplateLocation::Paths(_))
    }

    /// Reports whether a setting names pod templates at other places than `spec.template`.
    #[must_use]
    pub fn has_templates_elsewhere(&self) -> bool {
        let common = ["spec", "template"].map(|field| PathStep::Field(field.to_owned()));
        match &self.location {
            TemplateLocation::Paths(paths) => paths.iter().any(|path| *path != common),
            _ => false,
        }
    }

    /// Reports whether objects of this kind are Jobs.
    pub(super) fn is_job(&self) -> bool {
        self.group == "batch" && self.kind == "Job" && !self.is_custom()
    }

    /// Reports whether objects of this kind are pods. Their images are already being pulled when
    /// they are seen.
    #[must_use]
    pub fn is_pod(&self) -> bool {
        self.location == TemplateLocation::Pod
    }
}

fn parse_paths(text: &str) -> Result<Vec<Vec<PathStep>>, KindError> {
    let mut paths: Vec<Vec<PathStep>> = Vec::new();
    for path in text.split('+').map(str::trim) {
        if paths.len() == MAX_PATHS {
            return Err(KindError::TooManyPaths);
        }
        let steps = parse_path(path)?;
        if paths.iter().any(|other| other.starts_with(&steps) || steps.starts_with(other)) {
            return Err(KindError::Overlap(path.to_owned()));
        }
        paths.push(steps);
    }
    Ok(paths)
}

fn parse_path(path: &str) -> Result<Vec<PathStep>, KindError> {
    let mut steps = Vec::new();
    for part in path.trim_start_matches('.').split('.') {
        let (field, each) = part.strip_suffix("[*]").map_or((part, false), |field| (field, true));
        if field.is_empty() || field.contains(['[', ']', '*']) {
            return Err(KindError::Path(path.to_owned()));
        }
        steps.push(PathStep::Field(field.into()));
        if each {
            steps.push(PathStep::EachItem);
        }
    }
    Ok(steps)
}

/// All kinds whose objects are warmed: the built-in kinds and those from settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadKinds(Vec<Arc<WorkloadKind>>);

impl Default for WorkloadKinds {
    fn default() -> Self {
        Self::with_custom(Vec::new())
    }
}

impl WorkloadKinds {
    /// Returns the built-in kinds and `further`.
    #[must_use]
    pub fn with_custom(further: Vec<WorkloadKind>) -> Self {
        let built_in = BUILT_IN.iter().map(|(group, version, kind, plural, place)| WorkloadKind {
            group: (*group).into(),
            version: (*version).into(),
            kind: (*kind).into(),
            plural: (*plural).into(),
            location: place.clone(),
        });
        Self(built_in.chain(further).map(Arc::new).collect())
    }

    /// Returns the kind with this API version and name.
    #[must_use]
    pub fn find_by_api_version(&self, api_version: &str, kind: &str) -> Option<&Arc<WorkloadKind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.find_by_gvk(group, version, kind)
    }

    /// Returns the kind with this group, version and name.
    #[must_use]
    pub fn find_by_gvk(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Option<&Arc<WorkloadKind>> {
        self.0
            .iter()
            .find(|known| known.kind == kind && known.group == group && known.version == version)
    }

    /// Iterates over all kinds.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<WorkloadKind>> {
        self.0.iter()
    }

    /// Iterates over the kinds from settings.
    pub fn custom(&self) -> impl Iterator<Item = &Arc<WorkloadKind>> {
        self.iter().filter(|kind| kind.is_custom())
    }

    /// Reports whether a kind has this name, in any group.
    #[must_use]
    pub fn contains_name(&self, kind: &str) -> bool {
        self.iter().any(|known| known.kind == kind)
    }

    /// Reports whether objects of this owner need no own task: the owner is a known kind and is
    /// evaluated itself, or it is the Node of a static pod.
    #[must_use]
    pub fn covers_owner(&self, owner: &Owner) -> bool {
        let group = owner.group();
        let known = |kind: &Arc<WorkloadKind>| {
            kind.kind == owner.kind && kind.group == group && !kind.is_pod()
        };
        self.iter().any(known) || (group.is_empty() && owner.kind == "Node")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("argoproj.io/v1alpha1/Rollout=spec.template", "rollouts", 2)]
    #[case(
        "jobset.x-k8s.io/v1alpha2/JobSet=.spec.replicatedJobs[*].template.spec.template",
        "jobsets",
        6
    )]
    #[case("example.io/v1/Proxy/proxies=spec.pod", "proxies", 2)]
    #[case("example.io/v1/Policy=spec.pod", "policies", 2)]
    #[case(
        "ray.io/v1/RayCluster=spec.headGroupSpec.template + spec.workerGroupSpecs[*].template",
        "rayclusters",
        7
    )]
    fn parses_settings(#[case] text: &str, #[case] plural: &str, #[case] length: usize) {
        let kind = WorkloadKind::parse(text).unwrap();
        let TemplateLocation::Paths(paths) = &kind.location else { panic!("paths") };
        assert_eq!((kind.plural.as_str(), paths.concat().len()), (plural, length));
        assert_eq!(text.split_once('=').unwrap().0.split('/').nth(2), Some(kind.kind.as_str()));
    }

    #[rstest]
    #[case("Rollout")]
    #[case("Rollout=spec")]
    #[case("apps/v1/Deployment=spec.template")]
    #[case("argoproj.io/v1alpha1/Rollout=")]
    #[case("argoproj.io/v1alpha1/Rollout=spec..template")]
    #[case("argoproj.io/v1alpha1/Rollout=spec.list[0].template")]
    #[case("argoproj.io//Rollout=spec.template")]
    #[case("argo'proj.io/v1/Rollout=spec.template")]
    #[case("ray.io/v1/RayCluster=spec.head+")]
    #[case("ray.io/v1/RayCluster=spec.head+spec.head")]
    #[case("ray.io/v1/RayCluster=spec.head.template+spec.head")]
    #[case("ray.io/v1/RayCluster=a+b+c+d+e+f+g+h+i+j+k")]
    fn rejects_invalid_settings(#[case] text: &str) {
        assert!(WorkloadKind::parse(text).unwrap_err().to_string().contains("expected"));
    }

    #[test]
    fn owners_of_known_kinds_are_covered() {
        let kinds = WorkloadKinds::with_custom(vec![
            WorkloadKind::parse("argoproj.io/v1alpha1/Rollout=spec.template").unwrap(),
        ]);
        let knows = |api_version: &str, kind: &str| {
            kinds.covers_owner(&Owner::sample(api_version, kind, "x"))
        };
        assert!(
            knows("apps/v1", "ReplicaSet") && knows("batch/v1", "CronJob") && knows("v1", "Node")
        );
        assert!(knows("v1", "ReplicationController") && knows("argoproj.io/v1beta1", "Rollout"));
        assert!(!knows("v1", "Pod") && !knows("sparkoperator.k8s.io/v1", "SparkApplication"));
    }
}

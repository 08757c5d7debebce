//! Which kinds carry a pod template, and where they keep it.

use std::sync::Arc;

use kube::core::{ApiResource, GroupVersionKind};

use super::Owner;

/// How a kind keeps its pod template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The object is a pod itself.
    Pod,
    /// `spec.template`.
    Template,
    /// `spec.jobTemplate.spec.template`.
    JobTemplate,
    /// Wherever a setting says.
    Path(Vec<Step>),
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a field.
    Field(String),
    /// Into every item of a list.
    Each,
}

/// A kind whose objects make pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Name of the resource in URLs and rules, such as `deployments`.
    pub plural: String,
    pub(super) place: Place,
}

/// Group, version, kind, resource, and where the template is.
const BUILT_IN: &[(&str, &str, &str, &str, Place)] = &[
    ("apps", "v1", "Deployment", "deployments", Place::Template),
    ("apps", "v1", "StatefulSet", "statefulsets", Place::Template),
    ("apps", "v1", "DaemonSet", "daemonsets", Place::Template),
    ("apps", "v1", "ReplicaSet", "replicasets", Place::Template),
    ("", "v1", "ReplicationController", "replicationcontrollers", Place::Template),
    ("batch", "v1", "Job", "jobs", Place::Template),
    ("batch", "v1", "CronJob", "cronjobs", Place::JobTemplate),
    ("", "v1", "Pod", "pods", Place::Pod),
];

impl Kind {
    /// Reads a setting: `GROUP/VERSION/KIND[/PLURAL]=PATH`. In the path, fields are separated by dots, and `[*]` behind one
    /// means every item of the list, such as `jobset.x-k8s.io/v1alpha2/JobSet=spec.replicatedJobs[*].template.spec.template`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected GROUP/VERSION/KIND=PATH, such as argoproj.io/v1alpha1/Rollout=spec.template";
        let (name, path) = text.split_once('=').ok_or(expected)?;
        let parts: Vec<&str> = name.split('/').map(str::trim).collect();
        let (group, version, kind, plural) = match parts[..] {
            [group, version, kind] => (group, version, kind, None),
            [group, version, kind, plural] => (group, version, kind, Some(plural)),
            _ => return Err(expected.into()),
        };
        let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
        let names = [group, version, kind].into_iter().chain(plural);
        if !names.clone().all(word) || names.clone().any(str::is_empty) || !group.contains('.') {
            return Err(expected.into());
        }
        let guessed = || ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)).plural;
        Ok(Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.map_or_else(guessed, str::to_owned),
            place: Place::Path(steps(path.trim())?),
        })
    }

    /// `apps/v1`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// What a client needs to ask for objects of the kind.
    #[must_use]
    pub fn resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// Whether the kind is known by a setting alone.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        matches!(self.place, Place::Path(_))
    }

    /// Whether its objects are pods: what they need is being pulled already.
    #[must_use]
    pub fn is_pod(&self) -> bool {
        self.place == Place::Pod
    }
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for part in path.trim_start_matches('.').split('.') {
        let (field, each) = part.strip_suffix("[*]").map_or((part, false), |field| (field, true));
        if field.is_empty() || field.contains(['[', ']', '*']) {
            return Err(format!("{path:?} is no path: expected fields with dots between them, [*] for every item"));
        }
        steps.push(Step::Field(field.into()));
        if each {
            steps.push(Step::Each);
        }
    }
    Ok(steps)
}

/// All kinds that count: the built-in ones, and those of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds(Vec<Arc<Kind>>);

impl Default for Kinds {
    fn default() -> Self {
        Self::with(Vec::new())
    }
}

impl Kinds {
    /// The built-in kinds, and further ones.
    #[must_use]
    pub fn with(further: Vec<Kind>) -> Self {
        let built_in = BUILT_IN.iter().map(|(group, version, kind, plural, place)| Kind {
            group: (*group).into(),
            version: (*version).into(),
            kind: (*kind).into(),
            plural: (*plural).into(),
            place: place.clone(),
        });
        Self(built_in.chain(further).map(Arc::new).collect())
    }

    /// The kind of this name and version.
    #[must_use]
    pub fn find(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.find_in(group, version, kind)
    }

    /// The kind of this group, version and name.
    #[must_use]
    pub fn find_in(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.0.iter().find(|known| known.kind == kind && known.group == group && known.version == version)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.0.iter()
    }

    /// Those that settings have added.
    pub fn custom(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.iter().filter(|kind| kind.is_custom())
    }

    /// Whether a kind of this name is among them, of whatever group.
    #[must_use]
    pub fn names(&self, kind: &str) -> bool {
        self.iter().any(|known| known.kind == kind)
    }

    /// Whether what the owner makes adds nothing: the owner itself comes by here, or is the Node of a static pod.
    #[must_use]
    pub fn knows(&self, owner: &Owner) -> bool {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let known = |kind: &Arc<Kind>| kind.kind == owner.kind && kind.group == group && !kind.is_pod();
        self.iter().any(known) || (group.is_empty() && owner.kind == "Node")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("argoproj.io/v1alpha1/Rollout=spec.template", "rollouts", 2)]
    #[case("jobset.x-k8s.io/v1alpha2/JobSet=.spec.replicatedJobs[*].template.spec.template", "jobsets", 6)]
    #[case("example.io/v1/Proxy/proxies=spec.pod", "proxies", 2)]
    #[case("example.io/v1/Policy=spec.pod", "policies", 2)]
    fn settings(#[case] text: &str, #[case] plural: &str, #[case] length: usize) {
        let kind = Kind::parse(text).unwrap();
        let Place::Path(steps) = &kind.place else { panic!("a path") };
        assert_eq!((kind.plural.as_str(), steps.len()), (plural, length));
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
    fn nonsense(#[case] text: &str) {
        assert!(Kind::parse(text).unwrap_err().contains("expected"));
    }

    #[test]
    fn owners() {
        let kinds = Kinds::with(vec![Kind::parse("argoproj.io/v1alpha1/Rollout=spec.template").unwrap()]);
        let knows = |api_version: &str, kind: &str| kinds.knows(&Owner::sample(api_version, kind, "x"));
        assert!(knows("apps/v1", "ReplicaSet") && knows("batch/v1", "CronJob") && knows("v1", "Node"));
        assert!(knows("v1", "ReplicationController") && knows("argoproj.io/v1beta1", "Rollout"));
        assert!(!knows("v1", "Pod") && !knows("sparkoperator.k8s.io/v1", "SparkApplication"));
    }
}

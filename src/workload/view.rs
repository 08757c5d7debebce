//! A thin view of objects with a pod template: what we act on, and nothing else.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    Credentials,
    kinds::{Kind, Place, Step},
};
use crate::{task::PREFIX, worker::MANAGED_BY};

/// `null` counts as absent, as the API server reads it.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// A list in which `null` counts as absent too.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let items = Option::<Vec<Option<T>>>::deserialize(from)?;
    Ok(items.unwrap_or_default().into_iter().flatten().collect())
}

/// The entries of a map whose keys are chosen, and nothing of the others: `last-applied-configuration` alone is often half of an
/// object.
struct Chosen<F>(F);

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Chosen<F> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if (self.0)(&key) {
                found.insert(key.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

fn ours<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(Chosen(|key: &str| key.starts_with(PREFIX)))
}

fn managed_by<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(Chosen(|key: &str| key == MANAGED_BY.0))
}

/// A whole number, also where it was written as text (Argo Rollouts' `observedGeneration`); none for anything else.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(i64),
        Text(String),
        Other(IgnoredAny),
    }
    Ok(match Option::<Written>::deserialize(from)? {
        Some(Written::Number(number)) => Some(number),
        Some(Written::Text(text)) => text.parse().ok(),
        Some(Written::Other(_)) | None => None,
    })
}

/// An object, as far as we look at it.
#[derive(Debug, Clone, Default)]
pub struct ObjectView {
    /// Name, labels, annotations, owners.
    pub metadata: MetadataView,
    /// How far its rollout is.
    pub status: StatusView,
    /// The replicas that it asks for, where it says.
    pub replicas: Option<i64>,
    /// The labels of its pods, where it says.
    pub selector: BTreeMap<String, String>,
    pub(super) templates: Vec<TemplateView>,
    /// What stood where a template should be, and was none.
    pub(super) unreadable: Vec<String>,
}

/// The part of an object's metadata that we look at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataView {
    /// Its name; empty in a template.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    #[serde(deserialize_with = "lenient")]
    generate_name: String,
    /// Its namespace; empty where the manifest leaves it to the client.
    #[serde(deserialize_with = "lenient")]
    pub namespace: String,
    /// Its UID; empty before the API server has given it one.
    #[serde(deserialize_with = "lenient")]
    pub uid: String,
    /// Its version in the API server.
    #[serde(deserialize_with = "lenient")]
    pub resource_version: String,
    /// The generation of its spec.
    #[serde(deserialize_with = "number")]
    pub generation: Option<i64>,
    /// The label that says whose it is, where it has one.
    #[serde(deserialize_with = "managed_by")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of ours.
    #[serde(deserialize_with = "ours")]
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    #[serde(deserialize_with = "list")]
    pub owner_references: Vec<Owner>,
    /// When it was made, RFC 3339.
    pub creation_timestamp: Option<String>,
    /// Set on an object that is being deleted.
    pub deletion_timestamp: Option<String>,
}

impl MetadataView {
    /// The name, or the prefix that the API server will make a name from.
    #[must_use]
    pub fn name_or_prefix(&self) -> &str {
        if self.name.is_empty() { &self.generate_name } else { &self.name }
    }

    /// The owner that controls the object.
    #[must_use]
    pub fn controller(&self) -> Option<&Owner> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

/// An owner reference.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// Group and version of the owner.
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

#[cfg(test)]
impl Owner {
    pub(crate) fn sample(api_version: &str, kind: &str, name: &str) -> Self {
        Self { api_version: api_version.into(), kind: kind.into(), name: name.into(), controller: true }
    }
}

/// How far a rollout is, in the words of each kind; none where the kind has no such word.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusView {
    /// The generation that the controller has seen.
    #[serde(deserialize_with = "number")]
    pub observed_generation: Option<i64>,
    /// Pods there are.
    #[serde(deserialize_with = "number")]
    pub replicas: Option<i64>,
    /// Pods of the newest template.
    #[serde(deserialize_with = "number")]
    pub updated_replicas: Option<i64>,
    /// Pods that have been ready for long enough.
    #[serde(deserialize_with = "number")]
    pub available_replicas: Option<i64>,
    /// What its controller says of it.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<ConditionView>,
    /// Nodes that should have a pod of a `DaemonSet`.
    #[serde(deserialize_with = "number")]
    pub desired_number_scheduled: Option<i64>,
    /// Nodes that have one of the newest template.
    #[serde(deserialize_with = "number")]
    pub updated_number_scheduled: Option<i64>,
    /// Pods of a Job at work.
    #[serde(deserialize_with = "number")]
    pub active: Option<i64>,
    /// When a Job was begun.
    #[serde(deserialize_with = "lenient")]
    pub start_time: String,
}

/// A condition.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConditionView {
    /// Why it is as it is, in a word.
    #[serde(deserialize_with = "lenient")]
    pub reason: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodWire {
    #[serde(deserialize_with = "lenient")]
    metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    spec: PodSpecView,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TemplateWire {
    #[serde(deserialize_with = "lenient")]
    metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    spec: SpecWire,
    #[serde(deserialize_with = "lenient")]
    status: StatusView,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecWire {
    #[serde(deserialize_with = "number")]
    replicas: Option<i64>,
    #[serde(deserialize_with = "number")]
    parallelism: Option<i64>,
    selector: Option<SelectorWire>,
    template: Option<TemplateView>,
    job_template: Option<Box<TemplateWire>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SelectorWire {
    Labels {
        #[serde(rename = "matchLabels")]
        match_labels: BTreeMap<String, String>,
    },
    /// A `ReplicationController`'s.
    Plain(BTreeMap<String, String>),
    Other(IgnoredAny),
}

/// A pod template.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct TemplateView {
    #[serde(deserialize_with = "lenient")]
    pub(super) metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    pub(super) spec: PodSpecView,
    /// How many pods are made from it: the product of every `replicas` and `parallelism` on the way to it.
    #[serde(skip)]
    pub(super) replicas: u32,
}

/// A pod spec, as far as we look at it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpecView {
    #[serde(deserialize_with = "list")]
    containers: Vec<ContainerView>,
    #[serde(deserialize_with = "list")]
    init_containers: Vec<ContainerView>,
    #[serde(deserialize_with = "list")]
    ephemeral_containers: Vec<ContainerView>,
    #[serde(deserialize_with = "list")]
    volumes: Vec<VolumeView>,
    #[serde(deserialize_with = "lenient")]
    pub(super) node_selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "lenient")]
    affinity: AffinityView,
    #[serde(deserialize_with = "list")]
    pub(super) tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "lenient")]
    pub(super) node_name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) runtime_class_name: String,
    #[serde(deserialize_with = "lenient")]
    os: NameView,
    #[serde(deserialize_with = "list")]
    image_pull_secrets: Vec<NameView>,
    #[serde(deserialize_with = "lenient")]
    service_account_name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerView {
    #[serde(deserialize_with = "lenient")]
    name: String,
    #[serde(deserialize_with = "lenient")]
    image: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct VolumeView {
    #[serde(deserialize_with = "lenient")]
    image: ImageVolumeView,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ImageVolumeView {
    #[serde(deserialize_with = "lenient")]
    reference: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NameView {
    #[serde(deserialize_with = "lenient")]
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityView {
    #[serde(deserialize_with = "lenient")]
    node_affinity: NodeAffinityView,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinityView {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

impl PodSpecView {
    /// Every image named, without those of `excluded` containers.
    pub(super) fn images<'a>(&'a self, excluded: &'a [String]) -> impl Iterator<Item = &'a str> {
        let containers = self.init_containers.iter().chain(&self.containers).chain(&self.ephemeral_containers);
        let volumes = self.volumes.iter().map(|volume| volume.image.reference.as_str());
        containers
            .filter(|container| !excluded.contains(&container.name))
            .map(|container| container.image.as_str())
            .chain(volumes)
            .filter(|image| !image.is_empty())
    }

    /// The images of containers, by the container's name.
    pub(super) fn by_container(&self) -> impl Iterator<Item = (&str, &str)> {
        let containers = self.init_containers.iter().chain(&self.containers);
        containers.map(|container| (container.name.as_str(), container.image.as_str()))
    }

    pub(super) fn required_affinity(&self) -> Option<NodeSelector> {
        self.affinity.node_affinity.required_during_scheduling_ignored_during_execution.clone()
    }

    pub(super) fn credentials(&self) -> Credentials {
        let account = &self.service_account_name;
        let secrets = self.image_pull_secrets.iter().filter(|secret| !secret.name.is_empty());
        Credentials {
            image_pull_secrets: secrets.map(|secret| secret.name.clone()).collect(),
            service_account_name: (!account.is_empty()).then(|| account.clone()),
        }
    }

    /// Whether its pods are for Windows nodes, where we pull nothing.
    pub(super) fn is_windows(&self) -> bool {
        let selected = ["kubernetes.io/os", "beta.kubernetes.io/os"].map(|label| self.node_selector.get(label));
        self.os.name == "windows" || selected.into_iter().flatten().any(|os| os == "windows")
    }
}

impl Kind {
    /// Reads an object of this kind.
    pub fn read(&self, json: &str) -> Result<ObjectView, serde_json::Error> {
        match &self.place {
            Place::Pod => serde_json::from_str(json).map(of_pod),
            Place::Template | Place::JobTemplate => serde_json::from_str(json).map(of_template),
            Place::Path(steps) => of_path(serde_json::from_str(json)?, steps),
        }
    }

    /// As [`Self::read`], from what was parsed already.
    pub fn read_value(&self, object: Value) -> Result<ObjectView, serde_json::Error> {
        match &self.place {
            Place::Pod => serde_json::from_value(object).map(of_pod),
            Place::Template | Place::JobTemplate => serde_json::from_value(object).map(of_template),
            Place::Path(steps) => of_path(object, steps),
        }
    }
}

fn of_pod(wire: PodWire) -> ObjectView {
    let metadata = MetadataView { annotations: wire.metadata.annotations.clone(), ..MetadataView::default() };
    let template = TemplateView { metadata, spec: wire.spec, replicas: 1 };
    ObjectView { metadata: wire.metadata, templates: vec![template], ..ObjectView::default() }
}

fn of_template(wire: TemplateWire) -> ObjectView {
    let SpecWire { replicas, parallelism, selector, template, job_template } = wire.spec;
    let inner = job_template.map(|job| job.spec);
    let (template, within) = match inner {
        Some(job) => (job.template, job.parallelism),
        None => (template, None),
    };
    let count = [replicas, parallelism, within].into_iter().flatten().fold(1, i64::saturating_mul);
    let selector = match selector {
        Some(SelectorWire::Labels { match_labels }) => match_labels,
        Some(SelectorWire::Plain(labels)) => labels,
        Some(SelectorWire::Other(_)) | None => BTreeMap::new(),
    };
    ObjectView {
        metadata: wire.metadata,
        status: wire.status,
        replicas: replicas.or(parallelism),
        selector,
        templates: template.into_iter().map(|t| TemplateView { replicas: bounded(count), ..t }).collect(),
        unreadable: Vec::new(),
    }
}

fn of_path(object: Value, steps: &[Step]) -> Result<ObjectView, serde_json::Error> {
    let wire = Outer::deserialize(&object)?;
    let mut view = ObjectView { metadata: wire.metadata, status: wire.status, ..ObjectView::default() };
    view.replicas = object.pointer("/spec/replicas").and_then(Value::as_i64);
    if let Some(labels) = object.pointer("/spec/selector/matchLabels") {
        view.selector = BTreeMap::deserialize(labels).unwrap_or_default();
    }
    walk(object, steps, &mut String::new(), 1, &mut view);
    Ok(view)
}

/// What every object has.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Outer {
    #[serde(deserialize_with = "lenient")]
    metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    status: StatusView,
}

fn walk(value: Value, steps: &[Step], at: &mut String, replicas: i64, view: &mut ObjectView) {
    match (steps.split_first(), value) {
        (None, Value::Null) => {}
        (None, value) => match template(value) {
            Ok(found) => view.templates.push(TemplateView { replicas: bounded(replicas), ..found }),
            Err(error) => view.unreadable.push(format!("{at}: {error}")),
        },
        (Some((Step::Field(name), rest)), Value::Object(mut fields)) => {
            let count = |field: &str| fields.get(field).and_then(Value::as_i64).unwrap_or(1);
            let replicas = replicas.saturating_mul(count("replicas")).saturating_mul(count("parallelism"));
            let Some(value) = fields.remove(name) else { return };
            let length = at.len();
            at.push_str(if at.is_empty() { "" } else { "." });
            at.push_str(name);
            walk(value, rest, at, replicas, view);
            at.truncate(length);
        }
        (Some((Step::Each, rest)), Value::Array(items)) => {
            for item in items {
                walk(item, rest, at, replicas, view);
            }
        }
        // What is not there, or not what the setting takes it for, names no image.
        (Some(_), _) => {}
    }
}

/// A pod template, or a pod spec without the wrapping (predictors of `KServe`).
fn template(value: Value) -> Result<TemplateView, serde_json::Error> {
    if value.get("spec").is_none() && value.get("containers").is_some() {
        return Ok(TemplateView { spec: serde_json::from_value(value)?, ..TemplateView::default() });
    }
    serde_json::from_value(value)
}

/// Counts below zero are the API server's to refuse.
fn bounded(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

//! Partial view of objects with a pod template: only the fields that are used.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    PullCredentials,
    kinds::{PathStep, TemplateLocation, WorkloadKind},
};
use crate::{task::PREFIX, worker::MANAGED_BY};

/// Maximum number of items read from one list or map; the rest is skipped. etcd stores objects of
/// at most 1.5 MiB, and a pod with more than a thousand containers fits on hardly any node. Without
/// this limit, 8 MiB of `{},` would become 400 MB of containers.
pub(super) const MAX_ITEMS: usize = 1000;
/// Maximum number of pod templates read from one object (items of `[*]` in a configured path).
pub(super) const MAX_TEMPLATES: usize = 100;
/// Maximum size of the required node affinity, in bytes of JSON. A term for each of a thousand
/// nodes has 60 KB.
const MAX_AFFINITY: usize = 64 * 1024;

/// Deserializes `null` as the default value, like the API server.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// Visitor for the first [`MAX_ITEMS`] items of a list and one more, which shows that the list is
/// longer.
struct BoundedListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for BoundedListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() <= MAX_ITEMS {
            match seq.next_element::<Option<T>>()? {
                Some(item) => items.extend(item),
                None => return Ok(items),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items)
    }
}

/// Deserializes a bounded list; `null` is an empty list.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(BoundedListVisitor(PhantomData))
}

/// Visitor for the map entries whose keys are selected. Other entries are skipped:
/// `last-applied-configuration` alone is often half of an object.
struct FilteredMapVisitor<F>(F);

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for FilteredMapVisitor<F> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if found.len() < MAX_ITEMS && (self.0)(&key) {
                found.insert(key.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

fn ours<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(FilteredMapVisitor(|key: &str| key.starts_with(PREFIX)))
}

fn managed_by<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(FilteredMapVisitor(|key: &str| key == MANAGED_BY.0))
}

fn strings<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(FilteredMapVisitor(|_: &str| true))
}

/// Number and text of a value of any shape. Other values are skipped without buffering, since they
/// may have megabytes.
#[derive(Default)]
struct Scalar {
    number: Option<i64>,
    text: Option<String>,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::default())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar { number: Some(number), text: None })
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar { number: i64::try_from(number).ok(), text: None })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar { number: text.parse().ok(), text: Some(text.to_owned()) })
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::default())
    }
}

/// Deserializes an integer, also from text (`observedGeneration` of Argo Rollouts); `None` for any
/// other value.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    Ok(Scalar::deserialize(from)?.number)
}

/// Labels of a selector: `matchLabels`, or the map of a `ReplicationController`.
#[derive(Default)]
struct SelectorLabels(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for SelectorLabels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SelectorVisitor { nested: false })
    }
}

/// `nested` is set within `matchLabels`.
struct SelectorVisitor {
    nested: bool,
}

impl<'de> DeserializeSeed<'de> for SelectorVisitor {
    type Value = SelectorLabels;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<SelectorLabels, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SelectorVisitor {
    type Value = SelectorLabels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a label selector")
    }

    fn visit_unit<E>(self) -> Result<SelectorLabels, E> {
        Ok(SelectorLabels::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SelectorLabels, A::Error> {
        let (mut plain, mut labels) = (BTreeMap::new(), None);
        while let Some(key) = map.next_key::<String>()? {
            if key == "matchLabels" && !self.nested {
                labels = Some(map.next_value_seed(Self { nested: true })?);
            } else if let Some(text) = map.next_value::<Scalar>()?.text
                && plain.len() < MAX_ITEMS
            {
                plain.insert(key, text);
            }
        }
        Ok(labels.unwrap_or(SelectorLabels(plain)))
    }
}

/// Deserializes a node affinity with a size limit: in memory it takes ten times the size of its
/// JSON.
fn affinity<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NodeSelector>, D::Error> {
    let Some(raw) = Option::<Box<RawValue>>::deserialize(from)? else { return Ok(None) };
    if raw.get().len() > MAX_AFFINITY {
        return Err(D::Error::custom(format!(
            "the required node affinity has more than {MAX_AFFINITY} bytes"
        )));
    }
    serde_json::from_str(raw.get()).map_err(D::Error::custom)
}

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
    pub(super) templates: Vec<TemplateView>,
    /// Paths of values that should be pod templates and cannot be parsed, with the error.
    pub(super) invalid_templates: Vec<String>,
    /// Set if the object has more than [`MAX_TEMPLATES`] templates.
    templates_truncated: bool,
}

impl ObjectView {
    /// Returns the number of images in all templates, including duplicates.
    #[must_use]
    pub fn image_count(&self) -> usize {
        self.templates.iter().map(|template| template.spec.images(&[]).count()).sum()
    }

    /// Reports whether containers, volumes or templates were skipped because of a limit.
    pub(super) fn is_truncated(&self) -> bool {
        self.templates_truncated
            || self.templates.iter().any(|template| template.spec.is_truncated())
    }
}

/// Used fields of an object's metadata.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataView {
    /// Name; empty in a pod template.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    #[serde(deserialize_with = "lenient")]
    generate_name: String,
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
    /// Annotations with the prefix `prewarm.io/`; others are skipped.
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
#[derive(Debug, Clone, Default, Deserialize)]
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

#[cfg(test)]
impl Owner {
    pub(crate) fn sample(api_version: &str, kind: &str, name: &str) -> Self {
        Self {
            api_version: api_version.into(),
            kind: kind.into(),
            name: name.into(),
            controller: true,
        }
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
    selector: Option<SelectorLabels>,
    template: Option<TemplateView>,
    job_template: Option<Box<TemplateWire>>,
}

/// Pod template.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct TemplateView {
    #[serde(deserialize_with = "lenient")]
    pub(super) metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    pub(super) spec: PodSpecView,
    /// Number of pods created from it: the product of every `replicas` and `parallelism` on the
    /// path to it.
    #[serde(skip)]
    pub(super) replicas: u32,
}

/// Used fields of a pod spec.
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
    #[serde(deserialize_with = "strings")]
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
    #[serde(deserialize_with = "affinity")]
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

impl PodSpecView {
    /// Iterates over all images, without those of the `excluded` containers.
    pub(super) fn images<'a>(&'a self, excluded: &'a [String]) -> impl Iterator<Item = &'a str> {
        let containers =
            self.init_containers.iter().chain(&self.containers).chain(&self.ephemeral_containers);
        let volumes = self.volumes.iter().map(|volume| volume.image.reference.as_str());
        containers
            .filter(|container| !excluded.contains(&container.name))
            .map(|container| container.image.as_str())
            .chain(volumes)
            .filter(|image| !image.is_empty())
    }

    /// Reports whether items were skipped because of a limit.
    fn is_truncated(&self) -> bool {
        let containers = [&self.init_containers, &self.containers, &self.ephemeral_containers];
        self.volumes.len() > MAX_ITEMS || containers.iter().any(|list| list.len() > MAX_ITEMS)
    }

    /// Iterates over the names of containers and their images.
    pub(super) fn images_by_container(&self) -> impl Iterator<Item = (&str, &str)> {
        let containers = self.init_containers.iter().chain(&self.containers);
        containers.map(|container| (container.name.as_str(), container.image.as_str()))
    }

    pub(super) fn required_affinity(&self) -> Option<NodeSelector> {
        self.affinity.node_affinity.required_during_scheduling_ignored_during_execution.clone()
    }

    pub(super) fn credentials(&self) -> PullCredentials {
        let account = &self.service_account_name;
        let secrets = self.image_pull_secrets.iter().filter(|secret| !secret.name.is_empty());
        PullCredentials {
            image_pull_secrets: secrets.map(|secret| secret.name.clone()).collect(),
            service_account_name: (!account.is_empty()).then(|| account.clone()),
        }
    }

    /// Reports whether the pods run on Windows nodes, which are not supported.
    pub(super) fn is_windows(&self) -> bool {
        let selected = ["kubernetes.io/os", "beta.kubernetes.io/os"]
            .map(|label| self.node_selector.get(label));
        self.os.name == "windows" || selected.into_iter().flatten().any(|os| os == "windows")
    }
}

impl WorkloadKind {
    /// Parses an object of this kind from text.
    pub fn parse_text(&self, json: &str) -> Result<ObjectView, serde_json::Error> {
        match &self.location {
            TemplateLocation::Pod => serde_json::from_str(json).map(view_from_pod),
            TemplateLocation::Template | TemplateLocation::JobTemplate => {
                serde_json::from_str(json).map(view_from_template)
            }
            TemplateLocation::Path(steps) => {
                let outer = serde_json::from_str(json)?;
                view_from_path(outer, &mut serde_json::Deserializer::from_str(json), steps)
            }
        }
    }

    /// Parses an object of this kind from parsed JSON.
    pub fn parse_value(&self, object: Value) -> Result<ObjectView, serde_json::Error> {
        match &self.location {
            TemplateLocation::Pod => serde_json::from_value(object).map(view_from_pod),
            TemplateLocation::Template | TemplateLocation::JobTemplate => {
                serde_json::from_value(object).map(view_from_template)
            }
            TemplateLocation::Path(steps) => {
                view_from_path(ObjectHeader::deserialize(&object)?, &object, steps)
            }
        }
    }
}

fn view_from_pod(wire: PodWire) -> ObjectView {
    let metadata =
        MetadataView { annotations: wire.metadata.annotations.clone(), ..MetadataView::default() };
    let template = TemplateView { metadata, spec: wire.spec, replicas: 1 };
    ObjectView { metadata: wire.metadata, templates: vec![template], ..ObjectView::default() }
}

fn view_from_template(wire: TemplateWire) -> ObjectView {
    let SpecWire { replicas, parallelism, selector, template, job_template } = wire.spec;
    let inner = job_template.map(|job| job.spec);
    let (template, within) = match inner {
        Some(job) => (job.template, job.parallelism),
        None => (template, None),
    };
    let count = [replicas, parallelism, within].into_iter().flatten().fold(1, i64::saturating_mul);
    ObjectView {
        metadata: wire.metadata,
        status: wire.status,
        replicas: replicas.or(parallelism),
        selector: selector.unwrap_or_default().0,
        templates: template
            .into_iter()
            .map(|t| TemplateView { replicas: clamp_count(count), ..t })
            .collect(),
        invalid_templates: Vec::new(),
        templates_truncated: false,
    }
}

fn view_from_path<'de, D>(
    outer: ObjectHeader,
    object: D,
    steps: &[PathStep],
) -> Result<ObjectView, D::Error>
where
    D: Deserializer<'de>,
{
    let ObjectHeader { metadata, status, spec } = outer;
    let mut view = ObjectView {
        metadata,
        status,
        replicas: spec.replicas,
        selector: spec.selector.0,
        ..ObjectView::default()
    };
    TemplateSeed { steps, path: &mut String::new(), view: &mut view }.deserialize(object)?;
    Ok(view)
}

/// Fields of every object of a configured kind.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectHeader {
    #[serde(deserialize_with = "lenient")]
    metadata: MetadataView,
    #[serde(deserialize_with = "lenient")]
    status: StatusView,
    #[serde(deserialize_with = "lenient")]
    spec: SpecHeader,
}

/// Spec fields of most workloads.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SpecHeader {
    #[serde(deserialize_with = "number")]
    replicas: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    selector: SelectorLabels,
}

/// Seed that follows a configured path to the templates during deserialization. Fields outside the
/// path are skipped and never allocated.
struct TemplateSeed<'w> {
    steps: &'w [PathStep],
    path: &'w mut String,
    view: &'w mut ObjectView,
}

impl<'de> DeserializeSeed<'de> for TemplateSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if !self.steps.is_empty() {
            return from.deserialize_any(self);
        }
        let Some(raw) = Option::<Box<RawValue>>::deserialize(from)? else { return Ok(()) };
        match parse_template(raw.get()) {
            Ok(found) => self.view.templates.push(TemplateView { replicas: 1, ..found }),
            Err(error) => self.view.invalid_templates.push(format!("{}: {error}", self.path)),
        }
        Ok(())
    }
}

/// Missing values and values of another shape than the path expects have no templates.
impl<'de> Visitor<'de> for TemplateSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Some((PathStep::EachItem, rest)) = self.steps.split_first() {
            while self.view.templates.len().saturating_add(self.view.invalid_templates.len())
                < MAX_TEMPLATES
            {
                let item =
                    TemplateSeed { steps: rest, path: &mut *self.path, view: &mut *self.view };
                if seq.next_element_seed(item)?.is_none() {
                    return Ok(());
                }
            }
            self.view.templates_truncated |= seq.next_element::<IgnoredAny>()?.is_some();
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((PathStep::Field(name), rest)) = self.steps.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        let (first, mut count) = (self.view.templates.len(), 1_i64);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == name.as_str() {
                let length = self.path.len();
                self.path.push_str(if length == 0 { "" } else { "." });
                self.path.push_str(name);
                map.next_value_seed(TemplateSeed {
                    steps: rest,
                    path: &mut *self.path,
                    view: &mut *self.view,
                })?;
                self.path.truncate(length);
            } else if matches!(&*key, "replicas" | "parallelism") {
                count = count.saturating_mul(map.next_value::<Scalar>()?.number.unwrap_or(1));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        for template in self.view.templates.iter_mut().skip(first) {
            template.replicas = clamp_count(count.saturating_mul(template.replicas.into()));
        }
        Ok(())
    }
}

/// Parses a pod template, or a pod spec without a template around it (predictors of `KServe`).
fn parse_template(text: &str) -> Result<TemplateView, serde_json::Error> {
    fn there<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        IgnoredAny::deserialize(from).map(|_| true)
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct TemplateShape {
        #[serde(deserialize_with = "there")]
        spec: bool,
        #[serde(deserialize_with = "there")]
        containers: bool,
    }
    let shape: TemplateShape = serde_json::from_str(text).unwrap_or_default();
    if !shape.spec && shape.containers {
        return Ok(TemplateView { spec: serde_json::from_str(text)?, ..TemplateView::default() });
    }
    serde_json::from_str(text)
}

/// Converts a count; the API server rejects negative ones.
fn clamp_count(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

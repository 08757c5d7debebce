//! A thin view of objects with a pod template: what we act on, and nothing else.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    Credentials,
    kinds::{Kind, Place, Step},
};
use crate::{task::PREFIX, worker::MANAGED_BY};

/// Items that are read of one list or map; the rest is skipped. Objects of at most 1.5 MiB pass through etcd, and one with more
/// than a thousand containers has nodes of its own to fear; without a bound, 8 MiB of `{},` would become 400 MB of containers.
pub(super) const MAX_ITEMS: usize = 1000;
/// Pod templates that are read of one object (the items of a `[*]` in the path of a setting).
pub(super) const MAX_TEMPLATES: usize = 100;
/// Longest required node affinity, in bytes of JSON: a term for each of a thousand nodes has 60 KB.
const MAX_AFFINITY: usize = 64 * 1024;

/// `null` counts as absent, as the API server reads it.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// The first [`MAX_ITEMS`] items of a list, and one more by which a longer one is known.
struct Items<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
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

/// A bounded list in which `null` counts as absent too.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(Items(PhantomData))
}

/// The entries of a map whose keys are chosen, and nothing of the others: `last-applied-configuration` alone is often half of an
/// object.
struct Chosen<F>(F);

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Chosen<F> {
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
    from.deserialize_any(Chosen(|key: &str| key.starts_with(PREFIX)))
}

fn managed_by<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(Chosen(|key: &str| key == MANAGED_BY.0))
}

fn strings<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(Chosen(|_: &str| true))
}

/// A value of any shape, of which a number and a text are kept. Nothing is buffered: the value may be megabytes.
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

/// A whole number, also where it was written as text (Argo Rollouts' `observedGeneration`); none for anything else.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    Ok(Scalar::deserialize(from)?.number)
}

/// The labels that a selector names: `matchLabels`, or a `ReplicationController`'s map.
#[derive(Default)]
struct Selector(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SelectorVisitor { nested: false })
    }
}

/// `nested`: within `matchLabels`.
struct SelectorVisitor {
    nested: bool,
}

impl<'de> DeserializeSeed<'de> for SelectorVisitor {
    type Value = Selector;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Selector, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SelectorVisitor {
    type Value = Selector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a selector of labels")
    }

    fn visit_unit<E>(self) -> Result<Selector, E> {
        Ok(Selector::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Selector, A::Error> {
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
        Ok(labels.unwrap_or(Selector(plain)))
    }
}

/// A node affinity, unless it is too large: it would become ten times its size.
fn affinity<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NodeSelector>, D::Error> {
    let Some(raw) = Option::<Box<RawValue>>::deserialize(from)? else { return Ok(None) };
    if raw.get().len() > MAX_AFFINITY {
        return Err(D::Error::custom(format!("the required node affinity has more than {MAX_AFFINITY} bytes")));
    }
    serde_json::from_str(raw.get()).map_err(D::Error::custom)
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
    /// Whether there are more templates than are read.
    more_templates: bool,
}

impl ObjectView {
    /// How many images are named, not counting how often.
    #[must_use]
    pub fn named_images(&self) -> usize {
        self.templates.iter().map(|template| template.spec.images(&[]).count()).sum()
    }

    /// Whether it has more containers, volumes or templates than are read.
    pub(super) fn is_cut(&self) -> bool {
        self.more_templates || self.templates.iter().any(|template| template.spec.is_cut())
    }
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
    selector: Option<Selector>,
    template: Option<TemplateView>,
    job_template: Option<Box<TemplateWire>>,
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

    /// Whether it has more than is read.
    fn is_cut(&self) -> bool {
        let containers = [&self.init_containers, &self.containers, &self.ephemeral_containers];
        self.volumes.len() > MAX_ITEMS || containers.iter().any(|list| list.len() > MAX_ITEMS)
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
            Place::Path(steps) => {
                let outer = serde_json::from_str(json)?;
                of_path(outer, &mut serde_json::Deserializer::from_str(json), steps)
            }
        }
    }

    /// As [`Self::read`], from what was parsed already.
    pub fn read_value(&self, object: Value) -> Result<ObjectView, serde_json::Error> {
        match &self.place {
            Place::Pod => serde_json::from_value(object).map(of_pod),
            Place::Template | Place::JobTemplate => serde_json::from_value(object).map(of_template),
            Place::Path(steps) => of_path(Outer::deserialize(&object)?, &object, steps),
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
    ObjectView {
        metadata: wire.metadata,
        status: wire.status,
        replicas: replicas.or(parallelism),
        selector: selector.unwrap_or_default().0,
        templates: template.into_iter().map(|t| TemplateView { replicas: bounded(count), ..t }).collect(),
        unreadable: Vec::new(),
        more_templates: false,
    }
}

fn of_path<'de, D>(outer: Outer, object: D, steps: &[Step]) -> Result<ObjectView, D::Error>
where
    D: Deserializer<'de>,
{
    let Outer { metadata, status, spec } = outer;
    let mut view =
        ObjectView { metadata, status, replicas: spec.replicas, selector: spec.selector.0, ..ObjectView::default() };
    Walk { steps, at: &mut String::new(), view: &mut view }.deserialize(object)?;
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
    #[serde(deserialize_with = "lenient")]
    spec: OuterSpec,
}

/// What many specs have.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OuterSpec {
    #[serde(deserialize_with = "number")]
    replicas: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    selector: Selector,
}

/// Walks to the templates while the object is read: what is beside the path is skipped and never held.
struct Walk<'w> {
    steps: &'w [Step],
    at: &'w mut String,
    view: &'w mut ObjectView,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if !self.steps.is_empty() {
            return from.deserialize_any(self);
        }
        let Some(raw) = Option::<Box<RawValue>>::deserialize(from)? else { return Ok(()) };
        match template(raw.get()) {
            Ok(found) => self.view.templates.push(TemplateView { replicas: 1, ..found }),
            Err(error) => self.view.unreadable.push(format!("{}: {error}", self.at)),
        }
        Ok(())
    }
}

/// What is not there, or not what the setting takes it for, names no image.
impl<'de> Visitor<'de> for Walk<'_> {
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
        if let Some((Step::Each, rest)) = self.steps.split_first() {
            while self.view.templates.len().saturating_add(self.view.unreadable.len()) < MAX_TEMPLATES {
                let item = Walk { steps: rest, at: &mut *self.at, view: &mut *self.view };
                if seq.next_element_seed(item)?.is_none() {
                    return Ok(());
                }
            }
            self.view.more_templates |= seq.next_element::<IgnoredAny>()?.is_some();
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Field(name), rest)) = self.steps.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        let (first, mut count) = (self.view.templates.len(), 1_i64);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == name.as_str() {
                let length = self.at.len();
                self.at.push_str(if length == 0 { "" } else { "." });
                self.at.push_str(name);
                map.next_value_seed(Walk { steps: rest, at: &mut *self.at, view: &mut *self.view })?;
                self.at.truncate(length);
            } else if matches!(&*key, "replicas" | "parallelism") {
                count = count.saturating_mul(map.next_value::<Scalar>()?.number.unwrap_or(1));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        for template in self.view.templates.iter_mut().skip(first) {
            template.replicas = bounded(count.saturating_mul(template.replicas.into()));
        }
        Ok(())
    }
}

/// A pod template, or a pod spec without the wrapping (predictors of `KServe`).
fn template(text: &str) -> Result<TemplateView, serde_json::Error> {
    fn there<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        IgnoredAny::deserialize(from).map(|_| true)
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Shape {
        #[serde(deserialize_with = "there")]
        spec: bool,
        #[serde(deserialize_with = "there")]
        containers: bool,
    }
    let shape: Shape = serde_json::from_str(text).unwrap_or_default();
    if !shape.spec && shape.containers {
        return Ok(TemplateView { spec: serde_json::from_str(text)?, ..TemplateView::default() });
    }
    serde_json::from_str(text)
}

/// Counts below zero are the API server's to refuse.
fn bounded(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

//! Deserialization of single fields, with limits: `null` counts as absent, and what is not used is
//! skipped without allocation.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use k8s_openapi::api::core::v1::NodeSelector;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::super::pull_policy::DeclaredPolicy;
use crate::{task::PREFIX, worker::MANAGED_BY};

/// Maximum number of items read from one list or map; the rest is skipped. etcd stores objects of
/// at most 1.5 MiB, and a pod with more than a thousand containers fits on hardly any node. Without
/// this limit, 8 MiB of `{},` would become 400 MB of containers.
pub(in crate::workload) const MAX_ITEMS: usize = 1000;

/// Maximum size of the required node affinity, in bytes of JSON. A term for each of a thousand
/// nodes has 60 KB.
const MAX_AFFINITY: usize = 64 * 1024;

/// Text that is borrowed from the input where it contains no escape.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

/// A derived newtype would hide the keys of maps from the paths of errors.
impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

/// Deserializes `null` as the default value, like the API server.
pub(super) fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// Annotation of a pod template that `kubectl rollout restart` sets to the current time.
pub(super) const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

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
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
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
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            if found.len() < MAX_ITEMS && (self.0)(&key) {
                found.insert(key.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

pub(super) fn ours<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(FilteredMapVisitor(|key: &str| {
        key.starts_with(PREFIX) || key == RESTARTED_AT
    }))
}

pub(super) fn managed_by<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(FilteredMapVisitor(|key: &str| key == MANAGED_BY.0))
}

pub(super) fn strings<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_any(FilteredMapVisitor(|_: &str| true))
}

/// Number, text and truth of a value of any shape. Other values are skipped without buffering, since they
/// may have megabytes.
#[derive(Default)]
pub(super) struct Scalar<'a> {
    pub(super) number: Option<i64>,
    text: Option<Cow<'a, str>>,
    is_true: bool,
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, is_true: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar { is_true, ..Scalar::default() })
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar { number: Some(number), ..Scalar::default() })
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar { number: i64::try_from(number).ok(), ..Scalar::default() })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        let number = text.parse().ok();
        Ok(Scalar { number, text: Some(Cow::Owned(text.to_owned())), is_true: false })
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        let number = text.parse().ok();
        Ok(Scalar { number, text: Some(Cow::Borrowed(text)), is_true: false })
    }

    fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::default())
    }
}

/// Deserializes an integer, also from text (`observedGeneration` of Argo Rollouts); `None` for any
/// other value.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    Ok(Scalar::deserialize(from)?.number)
}

/// Deserializes `true`; any other value counts as `false`.
pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(Scalar::deserialize(from)?.is_true)
}

/// Deserializes a pull policy; a value of any other shape counts as absent.
pub(super) fn pull_policy<'de, D: Deserializer<'de>>(from: D) -> Result<DeclaredPolicy, D::Error> {
    let text = Scalar::deserialize(from)?.text;
    Ok(text.map_or(DeclaredPolicy::ByTag, |text| DeclaredPolicy::from_name(&text)))
}

/// Labels of a selector: `matchLabels`, or the map of a `ReplicationController`.
#[derive(Default)]
pub(super) struct SelectorLabels(pub(super) BTreeMap<String, String>);

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
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            if key == "matchLabels" && !self.nested {
                labels = Some(map.next_value_seed(Self { nested: true })?);
            } else if let Some(text) = map.next_value::<Scalar<'de>>()?.text
                && plain.len() < MAX_ITEMS
            {
                plain.insert(key.into_owned(), text.into_owned());
            }
        }
        Ok(labels.unwrap_or(SelectorLabels(plain)))
    }
}

/// Deserializes a node affinity with a size limit: in memory it takes ten times the size of its
/// JSON.
pub(super) fn affinity<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<NodeSelector>, D::Error> {
    let Some(raw) = Option::<Box<RawValue>>::deserialize(from)? else { return Ok(None) };
    if raw.get().len() > MAX_AFFINITY {
        return Err(D::Error::custom(format!(
            "the required node affinity has more than {MAX_AFFINITY} bytes"
        )));
    }
    serde_json::from_str(raw.get()).map_err(D::Error::custom)
}

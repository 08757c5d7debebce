//! Reading of a review and the objects in it in one pass over its bytes.
//!
//! The API server writes kind, operation and namespace before the objects. An object is therefore
//! parsed at its place, into the view of its kind, or skipped if it is not handled.

use std::{borrow::Cow, fmt};

use crate::workload::{ObjectSeed, Policy};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
};

use super::review::{AdmissionRequest, AdmissionReview, ParseError, ReviewKind, ReviewedValue};

impl<'a> AdmissionReview<'a> {
    /// Parses the body of a request together with the objects that `policy` handles, in one pass. A
    /// review that this pass cannot read, such as one with an invalid object, is parsed as by
    /// [`Self::parse`].
    pub fn parse_workload(bytes: &'a [u8], policy: &Policy) -> Result<Self, ParseError> {
        match read_in_one_pass(bytes, policy) {
            Ok(review) => review.checked(),
            Err(_) => Self::parse(bytes),
        }
    }
}

/// Parses a review with the objects that `policy` handles.
fn read_in_one_pass<'a>(
    bytes: &'a [u8],
    policy: &Policy,
) -> serde_json::Result<AdmissionReview<'a>> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let review = ReviewSeed(policy).deserialize(&mut json)?;
    json.end()?;
    Ok(review)
}

/// Text that is borrowed from the input where it contains no escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Value or `null`, which counts as a value when repeated fields are refused.
#[derive(Deserialize)]
struct Nullable<T>(Option<T>);

/// Stores the value of a field, which must not be repeated.
fn store<T, E: Error>(field: &mut Option<T>, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom("repeated field")),
    }
}

fn required<T, E: Error>(field: Option<T>, name: &'static str) -> Result<T, E> {
    field.ok_or_else(|| E::missing_field(name))
}

struct ReviewSeed<'p>(&'p Policy);

impl<'de> DeserializeSeed<'de> for ReviewSeed<'_> {
    type Value = AdmissionReview<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReviewSeed<'_> {
    type Value = AdmissionReview<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AdmissionReview")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut api_version, mut kind, mut request) = (None, None, None);
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            match &*key {
                "apiVersion" => store(&mut api_version, map.next_value::<Text<'de>>()?.0)?,
                "kind" => store(&mut kind, map.next_value::<Text<'de>>()?.0)?,
                "request" => store(&mut request, map.next_value_seed(RequestSeed(self.0))?)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(AdmissionReview {
            api_version: required(api_version, "apiVersion")?,
            kind: required(kind, "kind")?,
            request: required(request, "request")?,
        })
    }
}

struct RequestSeed<'p>(&'p Policy);

impl<'de> DeserializeSeed<'de> for RequestSeed<'_> {
    type Value = AdmissionRequest<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

/// Fields of a request that were read so far.
#[derive(Default)]
struct ReadFields<'a> {
    uid: Option<Cow<'a, str>>,
    kind: Option<ReviewKind<'a>>,
    sub_resource: Option<Nullable<Text<'a>>>,
    namespace: Option<Cow<'a, str>>,
    operation: Option<Cow<'a, str>>,
    dry_run: Option<Nullable<bool>>,
    object: Option<ReviewedValue<'a>>,
    old_object: Option<ReviewedValue<'a>>,
}

impl<'de> Visitor<'de> for RequestSeed<'_> {
    type Value = AdmissionRequest<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AdmissionRequest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut read = ReadFields::default();
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            match &*key {
                "uid" => store(&mut read.uid, map.next_value::<Text<'de>>()?.0)?,
                "kind" => store(&mut read.kind, map.next_value()?)?,
                "subResource" => store(&mut read.sub_resource, map.next_value()?)?,
                "namespace" => store(&mut read.namespace, map.next_value::<Text<'de>>()?.0)?,
                "operation" => store(&mut read.operation, map.next_value::<Text<'de>>()?.0)?,
                "dryRun" => store(&mut read.dry_run, map.next_value()?)?,
                "object" => {
                    let value = read.next_object(&mut map, self.0)?;
                    store(&mut read.object, value)?;
                }
                "oldObject" => {
                    let value = read.next_old_object(&mut map, self.0)?;
                    store(&mut read.old_object, value)?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(AdmissionRequest {
            uid: required(read.uid, "uid")?,
            kind: required(read.kind, "kind")?,
            sub_resource: read.sub_resource.and_then(|Nullable(name)| name).map(|Text(name)| name),
            namespace: read.namespace.unwrap_or_default(),
            operation: required(read.operation, "operation")?,
            dry_run: read.dry_run.and_then(|Nullable(value)| value),
            object: read.object.unwrap_or_default(),
            old_object: read.old_object.unwrap_or_default(),
        })
    }
}

impl<'de> ReadFields<'de> {
    /// Reads the new object. It stays text if a field that decides about it follows.
    fn next_object<A: MapAccess<'de>>(
        &self,
        map: &mut A,
        policy: &Policy,
    ) -> Result<ReviewedValue<'de>, A::Error> {
        let (Some(kind), Some(operation), Some(namespace)) =
            (&self.kind, &self.operation, &self.namespace)
        else {
            return map.next_value();
        };
        let sub_resource = self.sub_resource.as_ref().and_then(|Nullable(name)| name.as_ref());
        let sub_resource = sub_resource.map(|Text(name)| &**name);
        let Some(kind) = kind.workload_kind(policy, operation, sub_resource, namespace) else {
            map.next_value::<IgnoredAny>()?;
            return Ok(ReviewedValue::Absent);
        };
        let view = map.next_value_seed(ObjectSeed(kind))?;
        Ok(view.into())
    }

    /// Reads the old object. It is skipped if nothing depends on it.
    fn next_old_object<A: MapAccess<'de>>(
        &self,
        map: &mut A,
        policy: &Policy,
    ) -> Result<ReviewedValue<'de>, A::Error> {
        let (Some(name), Some(namespace), Some(object)) =
            (&self.kind, &self.namespace, &self.object)
        else {
            return map.next_value();
        };
        let view = match (object, name.find(policy)) {
            (ReviewedValue::Raw(_), _) => return map.next_value(),
            (ReviewedValue::View(new), Some(kind)) if policy.handles(kind, new, namespace) => {
                map.next_value_seed(ObjectSeed(kind))?
            }
            _ => map.next_value::<IgnoredAny>().map(|_| None)?,
        };
        Ok(view.into())
    }
}

#[cfg(test)]
mod tests;

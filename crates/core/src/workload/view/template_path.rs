//! Templates at a configured path of an object.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    super::kinds::PathStep,
    fields::Scalar,
    object::{MAX_TEMPLATES, ObjectView},
    pod_spec::TemplateView,
};

/// Seed that follows a configured path to the templates during deserialization. Fields outside the
/// path are skipped and never allocated.
pub(super) struct TemplateSeed<'w> {
    pub(super) steps: &'w [PathStep],
    pub(super) path: &'w mut String,
    pub(super) view: &'w mut ObjectView,
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
pub(super) fn clamp_count(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

//! Templates at a configured path of an object.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    super::kinds::PathStep,
    fields::{Scalar, Text},
    object::{MAX_TEMPLATES, ObjectView},
    pod_spec::TemplateView,
};

/// Rest of a configured path, from the current value.
#[derive(Debug, Clone, Copy)]
pub(super) struct RemainingPath<'k> {
    /// Position of the path in the setting.
    pub(super) index: usize,
    /// Steps to the templates.
    pub(super) steps: &'k [PathStep],
}

/// Templates that were found at the configured paths.
#[derive(Debug, Default)]
pub(super) struct FoundTemplates {
    /// Templates, with the position of their path in the setting.
    templates: Vec<(usize, TemplateView)>,
    /// Paths of values that should be pod templates and cannot be parsed.
    invalid: Vec<String>,
    truncated: bool,
}

impl FoundTemplates {
    /// Adds the templates to a view, in the order of the setting, which does not depend on the
    /// order of fields in the object.
    pub(super) fn add_to(mut self, view: &mut ObjectView) {
        self.templates.sort_by_key(|(index, _)| *index);
        view.templates = self.templates.into_iter().map(|(_, template)| template).collect();
        view.invalid_templates = self.invalid;
        view.templates_truncated = self.truncated;
    }

    fn is_full(&self) -> bool {
        self.templates.len().saturating_add(self.invalid.len()) >= MAX_TEMPLATES
    }
}

/// Seed that follows configured paths to the templates during deserialization. Fields outside the
/// paths are skipped and never allocated.
pub(super) struct TemplateSeed<'w> {
    pub(super) paths: &'w [RemainingPath<'w>],
    pub(super) path: &'w mut String,
    pub(super) found: &'w mut FoundTemplates,
}

/// Returns the rest of the paths that start with this step.
fn after<'k>(
    paths: &[RemainingPath<'k>],
    step: impl Fn(&PathStep) -> bool,
) -> Vec<RemainingPath<'k>> {
    let rest = |path: &RemainingPath<'k>| {
        let (first, steps) = path.steps.split_first()?;
        step(first).then_some(RemainingPath { index: path.index, steps })
    };
    paths.iter().filter_map(rest).collect()
}

impl<'de> DeserializeSeed<'de> for TemplateSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Some(RemainingPath { index, .. }) =
            self.paths.iter().find(|path| path.steps.is_empty())
        else {
            return from.deserialize_any(self);
        };
        let Some(raw) = Option::<Box<RawValue>>::deserialize(from)? else { return Ok(()) };
        match parse_template(raw.get()) {
            Ok(found) => {
                self.found.templates.push((*index, TemplateView { replicas: 1, ..found }));
            }
            Err(field) => self.found.invalid.push(format!("{}{field}", self.path)),
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
        let Self { paths, path, found } = self;
        let paths = after(paths, |step| *step == PathStep::EachItem);
        if !paths.is_empty() {
            while !found.is_full() {
                let item = TemplateSeed { paths: &paths, path: &mut *path, found: &mut *found };
                if seq.next_element_seed(item)?.is_none() {
                    return Ok(());
                }
            }
            found.truncated |= seq.next_element::<IgnoredAny>()?.is_some();
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (first, mut count) = (self.found.templates.len(), 1_i64);
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            let named = |step: &PathStep| matches!(step, PathStep::Field(name) if *name == *key);
            let paths = after(self.paths, named);
            if !paths.is_empty() {
                let length = self.path.len();
                self.path.push_str(if length == 0 { "" } else { "." });
                self.path.push_str(&key);
                map.next_value_seed(TemplateSeed {
                    paths: &paths,
                    path: &mut *self.path,
                    found: &mut *self.found,
                })?;
                self.path.truncate(length);
            } else if matches!(&*key, "replicas" | "parallelism") {
                count = count.saturating_mul(map.next_value::<Scalar<'de>>()?.number.unwrap_or(1));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        for (_, template) in self.found.templates.iter_mut().skip(first) {
            template.replicas = clamp_count(count.saturating_mul(template.replicas.into()));
        }
        Ok(())
    }
}

/// Parses a pod template, or a pod spec without a template around it (predictors of `KServe`). The
/// error is the path of the invalid field, such as `.spec.containers[0].image`.
fn parse_template(text: &str) -> Result<TemplateView, String> {
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
        return Ok(TemplateView { spec: parse(text)?, ..TemplateView::default() });
    }
    parse(text)
}

fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, String> {
    let parsed = serde_json::from_str(text);
    parsed.or_else(|_| {
        // The path of an invalid field costs another pass.
        let mut json = serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            match error.path().to_string() {
                path if path == "." => String::new(),
                path => format!(".{path}"),
            }
        })
    })
}

/// Converts a count; the API server rejects negative ones.
pub(super) fn clamp_count(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

//! Parsing of an object of a kind into its view.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    super::kinds::{PathStep, TemplateLocation, WorkloadKind},
    fields::{SelectorLabels, flag, lenient, number},
    job::JobProgress,
    metadata::MetadataView,
    object::{ObjectView, StatusView},
    pod_spec::{PodSpecView, TemplateView},
    template_path::{FoundTemplates, RemainingPath, TemplateSeed, clamp_count},
};

/// Error of one field, with its path.
pub(in crate::workload) type FieldError = serde_path_to_error::Error<serde_json::Error>;

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
    #[serde(deserialize_with = "number")]
    completions: Option<i64>,
    #[serde(deserialize_with = "flag")]
    suspend: bool,
    selector: Option<SelectorLabels>,
    template: Option<TemplateView>,
    job_template: Option<Box<TemplateWire>>,
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

impl WorkloadKind {
    /// Parses an object of this kind from text.
    pub fn parse_text(&self, json: &str) -> Result<ObjectView, serde_json::Error> {
        match &self.location {
            TemplateLocation::Pod => serde_json::from_str(json).map(view_from_pod),
            TemplateLocation::Template | TemplateLocation::JobTemplate => {
                serde_json::from_str(json).map(view_from_template)
            }
            TemplateLocation::Paths(paths) => {
                let outer = serde_json::from_str(json)?;
                view_from_paths(outer, &mut serde_json::Deserializer::from_str(json), paths)
            }
        }
    }

    /// Parses an object of this kind from parsed JSON. The error contains the path of the invalid
    /// field. Slower than [`Self::parse_value`].
    pub(in crate::workload) fn parse_located(
        &self,
        object: &Value,
    ) -> Result<ObjectView, FieldError> {
        match &self.location {
            TemplateLocation::Pod => located(object).map(view_from_pod),
            TemplateLocation::Template | TemplateLocation::JobTemplate => {
                located(object).map(view_from_template)
            }
            TemplateLocation::Paths(paths) => {
                let mut track = serde_path_to_error::Track::new();
                let tracked = serde_path_to_error::Deserializer::new(object, &mut track);
                let view = view_from_paths(located(object)?, tracked, paths);
                view.map_err(|error| FieldError::new(track.path(), error))
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
            TemplateLocation::Paths(paths) => {
                view_from_paths(ObjectHeader::deserialize(&object)?, &object, paths)
            }
        }
    }
}

/// Seed that deserializes an object of a kind as part of a larger text; `null` is no object.
#[derive(Debug, Clone, Copy)]
pub struct ObjectSeed<'k>(pub &'k WorkloadKind);

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = Option<ObjectView>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = Option<ObjectView>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        let view = match &self.0.location {
            TemplateLocation::Pod => view_from_pod(PodWire::deserialize(from)?),
            TemplateLocation::Template | TemplateLocation::JobTemplate => {
                view_from_template(TemplateWire::deserialize(from)?)
            }
            TemplateLocation::Paths(_) => {
                // Metadata and templates of configured kinds are parsed one after the other.
                let raw = <&RawValue>::deserialize(from)?;
                self.0.parse_text(raw.get()).map_err(D::Error::custom)?
            }
        };
        Ok(Some(view))
    }
}

/// Deserializes a value. The error contains the path of the invalid field.
fn located<'de, T: Deserialize<'de>>(object: &'de Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(object)
}

fn view_from_pod(wire: PodWire) -> ObjectView {
    let metadata =
        MetadataView { annotations: wire.metadata.annotations.clone(), ..MetadataView::default() };
    let template = TemplateView { metadata, spec: wire.spec, replicas: 1 };
    ObjectView { metadata: wire.metadata, templates: vec![template], ..ObjectView::default() }
}

fn view_from_template(wire: TemplateWire) -> ObjectView {
    let SpecWire { replicas, parallelism, completions, suspend, selector, template, job_template } =
        wire.spec;
    // `suspend` of a CronJob holds its Jobs, and not the pods of one Job.
    let (template, within, job) = match job_template.map(|job| job.spec) {
        Some(job) => (job.template, job.parallelism, JobProgress::default()),
        None => (template, None, JobProgress { completions, parallelism, is_suspended: suspend }),
    };
    let count = [replicas, parallelism, within].into_iter().flatten().fold(1, i64::saturating_mul);
    ObjectView {
        metadata: wire.metadata,
        status: wire.status,
        replicas: replicas.or(parallelism),
        selector: selector.unwrap_or_default().0,
        job,
        templates: template
            .into_iter()
            .map(|t| TemplateView { replicas: clamp_count(count), ..t })
            .collect(),
        invalid_templates: Vec::new(),
        templates_truncated: false,
    }
}

fn view_from_paths<'de, D>(
    outer: ObjectHeader,
    object: D,
    paths: &[Vec<PathStep>],
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
    let paths: Vec<RemainingPath<'_>> =
        paths.iter().enumerate().map(|(index, steps)| RemainingPath { index, steps }).collect();
    let mut found = FoundTemplates::default();
    let seed = TemplateSeed { paths: &paths, path: &mut String::new(), found: &mut found };
    seed.deserialize(object)?;
    found.add_to(&mut view);
    Ok(view)
}

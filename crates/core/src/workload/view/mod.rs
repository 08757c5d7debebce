//! Partial view of objects with a pod template: only the fields that are used.

mod fields;
mod job;
mod metadata;
mod object;
mod parse;
mod pod_spec;
mod template_path;

pub(super) use self::{
    fields::MAX_ITEMS,
    object::MAX_TEMPLATES,
    pod_spec::{PodSpecView, TemplateView},
};
pub use self::{
    metadata::{MetadataView, Owner},
    object::{ConditionView, ObjectView, StatusView},
    parse::ObjectSeed,
};

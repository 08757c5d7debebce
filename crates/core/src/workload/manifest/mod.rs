//! Reading of manifests as kubectl reads them: text in several encodings, YAML and JSON, documents
//! and lists, within limits. An error in one document does not affect the others.
//!
//! Input: bytes. Output: values with their places, errors and warnings. May use `kinds`, `view` and `context`.

mod context_objects;
mod documents;
mod encoding;
mod field_type;
mod hints;
mod locate;
mod parse;
mod path;
mod problem;
mod reader;
mod repair;
mod syntax;
#[cfg(test)]
mod tests;
mod value;

pub use problem::{DocumentError, DocumentWarning, Finding, Place};
pub(super) use reader::ReadWorkload;
pub use reader::{ExtractError, ManifestLimits, ParsedManifest};

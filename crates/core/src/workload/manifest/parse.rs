//! Parsing of one document, YAML or JSON, into values.

use std::borrow::Cow;

use serde::de::DeserializeSeed;
use serde_json::{Value, value::RawValue};
use serde_saphyr::{NonFiniteFloatPolicy, Options, options::DuplicateKeyPolicy};

use super::{
    documents::{DocumentText, has_content},
    locate::lines_of,
    path::FieldPath,
    problem::DocumentError,
    repair::{is_repairable, repair},
    syntax::{document_error, parser_error},
    value::{MAX_DEPTH, ReadState, ValueSeed, max_text},
};

/// Document that was read, or the reason why it cannot be.
pub(super) struct Parsed<'t> {
    /// Value, or the error with the line in the file.
    pub(super) value: Result<Value, (DocumentError, Option<usize>)>,
    /// Path of the error; empty if there is none.
    pub(super) path: FieldPath,
    /// Keys that are repeated.
    pub(super) repeated: Vec<FieldPath>,
    text: Cow<'t, str>,
    first_line: usize,
}

impl<'t> Parsed<'t> {
    fn new(
        value: Result<Value, (DocumentError, Option<usize>)>,
        state: ReadState,
        text: Cow<'t, str>,
        first_line: usize,
    ) -> Self {
        let path = if value.is_err() { state.path } else { FieldPath::default() };
        Self { value, path, repeated: state.repeated, text, first_line }
    }

    /// Returns the lines of fields in the file.
    pub(super) fn lines_of(&self, paths: &[FieldPath]) -> Vec<Option<usize>> {
        let lines = lines_of(&self.text, paths).into_iter();
        lines.map(|line| Some(absolute_line(self.first_line, line?))).collect()
    }

    /// Returns the first line of the document that contains more than a comment.
    pub(super) fn first_line(&self) -> usize {
        let content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let before = self.text.lines().position(content).unwrap_or_default();
        self.first_line.saturating_add(before)
    }
}

fn absolute_line(first: usize, line: usize) -> usize {
    first.saturating_add(line.saturating_sub(1))
}

/// Parses a document, and passes it to `each`. JSON objects that follow one another without a
/// separator are documents of their own, as in kubectl. Stops at an error of `each`.
pub(super) fn parse_document<'t, E>(
    document: DocumentText<'t>,
    max_values: usize,
    mut each: impl FnMut(Parsed<'t>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut rest, mut first_line) = (document.text, document.first_line);
    loop {
        let json = rest.trim_start_matches(|one: char| one.is_whitespace() || one == '\u{FEFF}');
        let before = rest.get(..rest.len().saturating_sub(json.len())).unwrap_or_default();
        let Some(json) = first_json_object(json) else { break };
        first_line = first_line.saturating_add(before.matches('\n').count());
        each(parse_json(json, first_line, max_values))?;
        first_line = first_line.saturating_add(json.matches('\n').count());
        rest = rest.get(before.len().saturating_add(json.len())..).unwrap_or_default();
    }
    if has_content(rest) {
        each(parse_yaml(rest, first_line, max_values))?;
    }
    Ok(())
}

/// Returns the JSON object at the start of a text.
fn first_json_object(text: &str) -> Option<&str> {
    if !text.starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.next()?.ok().map(RawValue::get)
}

fn parse_json(text: &str, first_line: usize, max_values: usize) -> Parsed<'_> {
    let mut state = ReadState::new(text.len(), max_values);
    let value = ValueSeed(&mut state).deserialize(&mut serde_json::Deserializer::from_str(text));
    let value = value.map_err(|error| {
        let invalid = || DocumentError::Syntax { what: "the JSON is not valid", template: false };
        let cause = state.exceeded.take().unwrap_or_else(invalid);
        (cause, Some(absolute_line(first_line, error.line())))
    });
    Parsed::new(value, state, Cow::Borrowed(text), first_line)
}

fn parse_yaml(text: &str, first_line: usize, max_values: usize) -> Parsed<'_> {
    let mut text = Cow::Borrowed(text);
    loop {
        let mut state = ReadState::new(text.len(), max_values);
        let options = options(text.len(), max_values);
        let value = serde_saphyr::with_deserializer_from_str_with_options(&text, options, |from| {
            ValueSeed(&mut state).deserialize(from)
        });
        let error = match value {
            Ok(value) => return Parsed::new(Ok(value), state, text, first_line),
            Err(error) => error,
        };
        if matches!(text, Cow::Borrowed(_))
            && parser_error(&error).is_some_and(is_repairable)
            && let Some(repaired) = repair(&text)
        {
            text = Cow::Owned(repaired);
            continue;
        }
        let line = error.location().and_then(|at| usize::try_from(at.line()).ok());
        let line = line.filter(|line| *line > 0).map(|line| absolute_line(first_line, line));
        let cause = state.exceeded.take();
        let cause =
            cause.unwrap_or_else(|| document_error(&error, max_values, text.contains("{{")));
        return Parsed::new(Err((cause, line)), state, text, first_line);
    }
}

/// Returns the options for a document of `size` bytes. YAML 1.1 applies, as in kubectl: `yes` is a
/// boolean, and `0644` is octal.
fn options(size: usize, max_values: usize) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: max_values,
            max_events: max_values.saturating_mul(3),
            max_depth: MAX_DEPTH.saturating_add(1),
            max_aliases: max_values / 10,
            max_anchors: max_values / 10,
            max_recorded_anchor_events: max_values,
            max_recorded_anchor_bytes: max_text(size),
            max_total_scalar_bytes: max_text(size),
            max_merge_keys: max_values / 10,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: max_values },
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        legacy_octal_numbers: true,
        emit_comments: false,
        with_snippet: false,
    }
}

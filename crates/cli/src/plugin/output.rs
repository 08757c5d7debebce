//! Standard output of the plugin.

use std::io::Write;

use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use super::{args::OutputFormat, error::CommandError};
use crate::terminal;

/// Writes text to standard output. A closed pipe is not an error.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::Failed(error.to_string()))
        }
        _ => Ok(()),
    }
}

fn serialization_error(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::Failed(format!("cannot serialize the output: {error}"))
}

/// Output format and colours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub(super) format: Option<OutputFormat>,
    pub(super) colour: bool,
}

impl Output {
    pub(super) fn new(format: Option<OutputFormat>) -> Self {
        Self { format, colour: terminal::wants_colour(&std::io::stdout()) }
    }

    /// Reports whether objects are printed instead of text.
    pub(super) fn wants_objects(self) -> bool {
        matches!(self.format, Some(OutputFormat::Json | OutputFormat::Yaml | OutputFormat::Name))
    }

    pub(super) fn is_wide(self) -> bool {
        self.format == Some(OutputFormat::Wide)
    }

    /// Prints objects as JSON, YAML or names; several as a `List`, as kubectl does.
    pub(super) fn print_objects<K>(self, objects: &[K], listed: bool) -> Result<(), CommandError>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        if self.format == Some(OutputFormat::Name) {
            let group = K::group(&());
            let name = |object: &K| object.meta().name.clone().unwrap_or_default();
            let kind = K::kind(&()).to_lowercase();
            let lines: Vec<String> =
                objects.iter().map(|object| format!("{kind}.{group}/{}\n", name(object))).collect();
            return print(&lines.concat());
        }
        let values: Result<Vec<Value>, _> = objects.iter().map(serde_json::to_value).collect();
        let mut values = values.map_err(|error| serialization_error(&error))?;
        let whole = match values.len() {
            1 if !listed => values.remove(0),
            _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": values}),
        };
        self.print_value(&whole)
    }

    /// Prints a value as YAML where that is selected, otherwise as JSON.
    pub(super) fn print_value(self, value: &Value) -> Result<(), CommandError> {
        let text = if self.format == Some(OutputFormat::Yaml) {
            serde_saphyr::to_string(value).map_err(|error| serialization_error(&error))?
        } else {
            serde_json::to_string_pretty(value).map_err(|error| serialization_error(&error))? + "\n"
        };
        print(&text)
    }

    /// Prints the operation on an object as kubectl does, or the object itself.
    pub(super) fn print_operation<K>(self, object: &K, what: &str) -> Result<(), CommandError>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        if self.wants_objects() {
            return self.print_objects(std::slice::from_ref(object), false);
        }
        let name = object.meta().name.as_deref().unwrap_or_default();
        print(&format!("{}.{}/{name} {what}\n", K::kind(&()).to_lowercase(), K::group(&())))
    }
}

//! Standard output.

use std::io::Write;

use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Failure, args::Format};
use crate::terminal;

/// Writes a text. That nobody reads on is no error.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Failed(error.to_string())),
        _ => Ok(()),
    }
}

fn unwritable(error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(format!("the answer cannot be written: {error}"))
}

/// How to print, and whether in colour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    pub(super) format: Option<Format>,
    pub(super) colour: bool,
}

impl Out {
    pub(super) fn new(format: Option<Format>) -> Self {
        Self { format, colour: terminal::wants_colour(&std::io::stdout()) }
    }

    /// Whether objects are wanted rather than words for people.
    pub(super) fn wants_objects(self) -> bool {
        matches!(self.format, Some(Format::Json | Format::Yaml | Format::Name))
    }

    pub(super) fn is_wide(self) -> bool {
        self.format == Some(Format::Wide)
    }

    /// Writes objects as JSON, YAML or names; several as a `List`, as kubectl does.
    pub(super) fn objects<K>(self, objects: &[K], listed: bool) -> Result<(), Failure>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        if self.format == Some(Format::Name) {
            let group = K::group(&());
            let name = |object: &K| object.meta().name.clone().unwrap_or_default();
            let kind = K::kind(&()).to_lowercase();
            let lines: Vec<String> =
                objects.iter().map(|object| format!("{kind}.{group}/{}\n", name(object))).collect();
            return say(&lines.concat());
        }
        let values: Result<Vec<Value>, _> = objects.iter().map(serde_json::to_value).collect();
        let mut values = values.map_err(|error| unwritable(&error))?;
        let whole = match values.len() {
            1 if !listed => values.remove(0),
            _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": values}),
        };
        self.value(&whole)
    }

    /// Writes a value as YAML where that is wanted, and else as JSON.
    pub(super) fn value(self, value: &Value) -> Result<(), Failure> {
        let text = if self.format == Some(Format::Yaml) {
            serde_saphyr::to_string(value).map_err(|error| unwritable(&error))?
        } else {
            serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))? + "\n"
        };
        say(&text)
    }

    /// Says what was done to an object, as kubectl does; or prints the object.
    pub(super) fn done<K>(self, object: &K, what: &str) -> Result<(), Failure>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        if self.wants_objects() {
            return self.objects(std::slice::from_ref(object), false);
        }
        let name = object.meta().name.as_deref().unwrap_or_default();
        say(&format!("{}.{}/{name} {what}\n", K::kind(&()).to_lowercase(), K::group(&())))
    }
}

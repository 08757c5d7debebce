//! Reference of all settings, written from the arguments of `serve`: a Markdown table for the
//! documentation, and the JSON schema of `settings` for the chart.

use std::{any::Any, path::PathBuf};

use clap::{Arg, ArgMatches, Args, Command};
use prewarmer_core::settings::{Number, Setting, Span, Text};
use serde_json::{Map, Value, json};

/// Settings that the chart sets from other values, or that its objects fix. They are no values of
/// `settings` in the chart.
pub(super) const SET_BY_CHART: [&str; 16] = [
    "config",
    "components",
    "webhookAddr",
    "webhookUrl",
    "apiAddr",
    "serverPort",
    "healthAddr",
    "serviceName",
    "namespace",
    "workerImage",
    "watchNamespace",
    "instance",
    "tlsCertFile",
    "tlsKeyFile",
    "tlsCaFile",
    "kinds",
];
/// JSON pointer to the schema of the settings in the schema of the chart's values.
const SETTINGS: &str = "/properties/settings";
/// Note in the generated part of the schema.
const GENERATED: &str = "Written by `make generate` from the settings of the server; do not edit.";

/// Arguments of `settings`.
#[derive(Debug, Args)]
pub struct ReferenceArgs {
    /// Schema of the chart's values (JSON). It is printed with the schema of the settings in
    /// `properties.settings`, in place of the table.
    #[arg(long, value_name = "FILE")]
    pub chart_schema: Option<PathBuf>,
}

/// Failure of `settings --chart-schema`.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The file cannot be read.
    #[error("{}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] std::io::Error),
    /// The file is not JSON.
    #[error("{}: {}", .0.display(), .1)]
    Parse(PathBuf, #[source] serde_json::Error),
    /// An argument that is no setting does not accept any text.
    #[error("arguments of serve: {0}")]
    Arguments(#[from] clap::Error),
    /// The file has no object at `properties.settings`.
    #[error("{}: properties.settings: expected an object", .0.display())]
    NoSettings(PathBuf),
}

/// Returns the text of `settings` for the arguments of `serve`.
pub(super) fn print(serve: &Command, args: &ReferenceArgs) -> Result<String, ReferenceError> {
    let Some(path) = &args.chart_schema else { return Ok(markdown_table(serve)) };
    let text =
        std::fs::read_to_string(path).map_err(|error| ReferenceError::Read(path.clone(), error))?;
    let parse = |error| ReferenceError::Parse(path.clone(), error);
    let mut schema: Value = serde_json::from_str(&text).map_err(parse)?;
    match schema.pointer_mut(SETTINGS) {
        Some(settings @ Value::Object(_)) => *settings = chart_settings(serve)?,
        _ => return Err(ReferenceError::NoSettings(path.clone())),
    }
    Ok(serde_json::to_string_pretty(&schema).map_err(parse)? + "\n")
}

/// Returns all settings as a Markdown table: flag, variable, default and meaning.
fn markdown_table(serve: &Command) -> String {
    let mut lines =
        vec!["| flag | variable | default | meaning |".to_owned(), "|---|---|---|---|".to_owned()];
    for argument in serve.get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        let code = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
        let variable =
            argument.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let meaning = meaning(argument).replace('|', "\\|");
        lines.push(format!(
            "| `--{flag}` | {} | {} | {meaning} |",
            code(variable),
            code(default(argument).unwrap_or_default())
        ));
    }
    lines.join("\n") + "\n"
}

/// Returns the JSON schema of the settings that are values of the chart.
fn chart_settings(serve: &Command) -> Result<Value, clap::Error> {
    let matches = with_every_argument(serve)?;
    let arguments: Vec<&Arg> = serve
        .get_arguments()
        .filter(|argument| !SET_BY_CHART.contains(&camel_case(argument).as_str()))
        .collect();
    let properties: Map<String, Value> = arguments
        .iter()
        .map(|argument| {
            let mut schema = value_schema(argument, &matches);
            schema["description"] = json!(chart_description(argument, &arguments));
            (camel_case(argument), schema)
        })
        .collect();
    Ok(json!({
        "$comment": GENERATED,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    }))
}

/// Parses a command line that sets every argument, which makes the types of the settings visible:
/// clap does not expose the parser of an argument. Parsers of settings accept any text.
fn with_every_argument(serve: &Command) -> Result<ArgMatches, clap::Error> {
    let flags = serve.get_arguments().filter_map(Arg::get_long);
    let words = flags.map(|flag| format!("--{flag}=x"));
    serve.clone().no_binary_name(true).try_get_matches_from(words)
}

/// Returns the JSON schema of the values that a setting may have in YAML, with its default.
fn value_schema(argument: &Arg, matches: &ArgMatches) -> Value {
    let id = argument.get_id().as_str();
    let mut schema = declared(matches, id, Number::schema)
        .or_else(|| declared(matches, id, Span::schema))
        .or_else(|| declared(matches, id, Text::schema))
        .or_else(|| choices(argument))
        .unwrap_or_else(|| json!({"type": "string"}));
    match default(argument) {
        Some(text) => schema["default"] = typed(&schema, text),
        None => accept_empty(&mut schema),
    }
    schema
}

/// Returns the schema of a setting if it has the type `T`.
fn declared<T>(matches: &ArgMatches, id: &str, schema: fn(&T) -> Value) -> Option<Value>
where
    T: Any + Clone + Send + Sync,
{
    let setting = matches.try_get_one::<Setting<T>>(id).ok().flatten()?;
    Some(schema(&setting.value_type))
}

/// Returns the schema of a setting with a fixed set of values. Booleans may be in quotes.
fn choices(argument: &Arg) -> Option<Value> {
    let values = argument.get_possible_values();
    let names: Vec<&str> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
    match names[..] {
        [] => None,
        ["true", "false"] => Some(json!({"enum": [true, false, "true", "false"]})),
        _ => Some(json!({"enum": names})),
    }
}

/// Makes a schema accept the empty text, which means that the setting is not set.
fn accept_empty(schema: &mut Value) {
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.push(json!(""));
    }
    if let Some(Value::String(pattern)) = schema.get_mut("pattern") {
        pattern.insert_str(0, "^$|");
    }
}

/// Returns the default as the type that a user writes in YAML: number, boolean or text.
fn typed(schema: &Value, text: String) -> Value {
    let scalar: Option<Value> = serde_json::from_str(&text).ok();
    let number = schema.get("minimum").is_some();
    let boolean = schema["enum"][0].is_boolean();
    scalar
        .filter(|value| number && value.is_u64() || boolean && value.is_boolean())
        .unwrap_or(Value::String(text))
}

/// Returns the default, where the argument has one.
fn default(argument: &Arg) -> Option<String> {
    let values = argument.get_default_values();
    let texts: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

/// Returns the help of an argument, which is its doc comment.
fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or_else(|| argument.get_help());
    help.map(ToString::to_string).unwrap_or_default().replace('\n', " ")
}

/// Returns the help of an argument as plain text, with the names of chart values in place of flags.
fn chart_description(argument: &Arg, values: &[&Arg]) -> String {
    let mut text = meaning(argument).replace('`', "");
    let mut named: Vec<(&str, String)> =
        values.iter().filter_map(|value| Some((value.get_long()?, camel_case(value)))).collect();
    // A flag may be the beginning of another one.
    named.sort_by_key(|(flag, _)| std::cmp::Reverse(flag.len()));
    for (flag, name) in named {
        text = text.replace(&format!("--{flag}"), &name);
    }
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

/// Returns the name of an argument in the settings file and in the chart: `api_rate` is `apiRate`.
pub(crate) fn camel_case(argument: &Arg) -> String {
    let mut name = String::new();
    for word in argument.get_id().as_str().split('_') {
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if !name.is_empty() => name.push(first.to_ascii_uppercase()),
            Some(first) => name.push(first),
            None => {}
        }
        name.extend(letters);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::serve_command;

    /// Schema of the chart's values, as it is in the repository.
    const CHART_SCHEMA: &str = include_str!("../../deploy/chart/values.schema.json");

    fn schema_of(name: &str) -> Value {
        chart_settings(&serve_command()).unwrap()["properties"][name].clone()
    }

    #[test]
    fn settings_table_is_complete_and_current() {
        let serve = serve_command();
        let table = markdown_table(&serve);
        assert_eq!(table.lines().count(), serve.get_arguments().count() + 2);
        assert!(
            table.contains("| `--known-for` | `KNOWN_FOR` | `10m` | Time for which an image"),
            "{table}"
        );
        assert!(
            include_str!("../../docs/settings.md").contains(&table),
            "docs/settings.md is not current: run make generate"
        );
    }

    #[test]
    fn the_chart_schema_is_current() {
        let schema: Value = serde_json::from_str(CHART_SCHEMA).unwrap();
        assert!(
            schema.pointer(SETTINGS) == Some(&chart_settings(&serve_command()).unwrap()),
            "deploy/chart/values.schema.json is not current: run make generate"
        );
    }

    #[test]
    fn every_setting_is_a_value_of_the_chart_or_set_by_it() {
        let serve = serve_command();
        let mut all: Vec<String> = serve.get_arguments().map(camel_case).collect();
        let settings = chart_settings(&serve).unwrap();
        let known = settings["properties"].as_object().unwrap().keys().map(String::as_str);
        let mut covered: Vec<&str> = known.chain(SET_BY_CHART).collect();
        all.sort();
        covered.sort_unstable();
        assert_eq!(covered, all);
    }

    #[test]
    fn only_settings_are_inserted_into_a_chart_schema() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values.schema.json");
        let args = ReferenceArgs { chart_schema: Some(path.clone()) };
        let given = json!({"properties": {"replicas": {"type": "integer"}, "settings": {}}});
        std::fs::write(&path, given.to_string()).unwrap();
        let printed: Value =
            serde_json::from_str(&print(&serve_command(), &args).unwrap()).unwrap();
        assert_eq!(printed["properties"]["replicas"], given["properties"]["replicas"]);
        assert_eq!(printed["properties"]["settings"], chart_settings(&serve_command()).unwrap());
        std::fs::write(&path, "{}").unwrap();
        let problem = print(&serve_command(), &args).unwrap_err().to_string();
        assert!(problem.ends_with("properties.settings: expected an object"), "{problem}");
    }

    #[test]
    fn bounds_choices_and_defaults_are_in_the_schema() {
        let rate = schema_of("apiRate");
        assert_eq!((&rate["minimum"], &rate["maximum"]), (&json!(1), &json!(1_000_000)));
        assert_eq!(rate["default"], json!(50));
        assert_eq!(schema_of("ui")["enum"], json!([true, false, "true", "false"]));
        assert_eq!(schema_of("ui")["default"], json!(true));
        assert_eq!(schema_of("defaultMode")["enum"], json!(["OptOut", "OptIn"]));
        assert_eq!(schema_of("logFormat")["enum"], json!(["text", "json", ""]));
        assert!(schema_of("knownFor")["pattern"].as_str().unwrap().contains("ms|s|m|h"));
        assert!(schema_of("maxImageSize")["pattern"].as_str().unwrap().starts_with("^$|"));
        assert_eq!(schema_of("clientCaFile")["type"], json!("string"));
    }

    #[test]
    fn descriptions_name_values_of_the_chart() {
        let description = schema_of("breakerBatchSize")["description"].clone();
        assert_eq!(
            description,
            "Largest batch size of tasks with more than breakerNodes nodes, 1 to 100,000."
        );
        let longer = schema_of("maxConcurrentTasksPerNamespace")["description"].clone();
        assert!(!longer.as_str().unwrap().contains("--"), "{longer}");
    }

    /// Returns a number with commas between thousands, as texts write it.
    fn with_commas(number: u32) -> String {
        let digits = number.to_string();
        let groups: Vec<&str> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .map(|group| std::str::from_utf8(group).unwrap())
            .collect();
        groups.join(",")
    }

    #[test]
    fn help_states_the_range_of_every_number() {
        let serve = serve_command();
        let matches = with_every_argument(&serve).unwrap();
        let mut numbers = 0;
        for argument in serve.get_arguments() {
            let id = argument.get_id().as_str();
            let Ok(Some(setting)) = matches.try_get_one::<Setting<Number>>(id) else { continue };
            let range = &setting.value_type.0;
            let stated = format!("{} to {}", range.start(), with_commas(*range.end()));
            assert!(meaning(argument).contains(&stated), "{id}: {stated}");
            numbers += 1;
        }
        assert!(numbers > 20, "{numbers}");
    }
}

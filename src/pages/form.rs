//! Form values and their conversion to the body of a REST call. Pure: no client, no clock, no I/O.

use std::collections::BTreeMap;

use prewarmer::api::pages::{ApiError, Detail};
use serde_json::{Map, Value, json};

/// Field of a form.
pub(super) struct FormField {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) hint: &'static str,
    pub(super) placeholder: &'static str,
    /// Options of a select field, the first of which is the default; empty for a text field.
    pub(super) choices: &'static [&'static str],
    kind: FieldKind,
}

/// Conversion of a field's text to JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldKind {
    Text,
    /// Integer, or a text such as `25%`.
    Amount,
    /// `key=value` pairs, separated by commas or line breaks.
    Labels,
    /// List of texts, separated by commas or line breaks.
    List,
}

const fn field(
    name: &'static str,
    label: &'static str,
    placeholder: &'static str,
    hint: &'static str,
    kind: FieldKind,
) -> FormField {
    FormField { name, label, hint, placeholder, choices: &[], kind }
}

const fn choice(
    name: &'static str,
    label: &'static str,
    choices: &'static [&'static str],
) -> FormField {
    FormField { name, label, hint: "", placeholder: "", choices, kind: FieldKind::Text }
}

/// Fields of a task that are always visible.
static MAIN_FIELDS: [FormField; 4] = [
    field(
        "namespace",
        "Namespace",
        "default namespace",
        "Namespace of the task; its pull secrets can be used",
        FieldKind::Text,
    ),
    field(
        "nodeSelector",
        "Node selector",
        "disk=ssd, zone=a",
        "Labels of the nodes; if empty, all nodes without taints",
        FieldKind::Labels,
    ),
    field(
        "nodes",
        "Number of nodes",
        "all",
        "all, auto, a number or a percentage",
        FieldKind::Amount,
    ),
    field("batchSize", "Batch size", "10", "1 to 100, or a percentage", FieldKind::Amount),
];

/// Advanced fields of a task, hidden at first.
static ADVANCED_FIELDS: [FormField; 14] = [
    choice("batchPolicy", "Batch policy", &["Barrier", "Rolling", "Doubling"]),
    field("priority", "Priority", "5", "1 to 10; higher values first", FieldKind::Amount),
    field("maxRetries", "Retries", "0", "0 to 5 for each failed node", FieldKind::Amount),
    choice("retryStrategy", "Retry strategy", &["linear", "exponential"]),
    field("retryDelay", "Retry delay", "30", "seconds before the first retry", FieldKind::Amount),
    field("timeout", "Timeout per node", "10m", "", FieldKind::Text),
    field("deadline", "Deadline of the task", "none", "such as 1h", FieldKind::Text),
    field(
        "successThreshold",
        "Success threshold",
        "90%",
        "percentage of nodes that must become warm",
        FieldKind::Text,
    ),
    field(
        "imagePullSecrets",
        "Image pull secrets",
        "",
        "names of Secrets in the namespace",
        FieldKind::List,
    ),
    field(
        "serviceAccountName",
        "Service account",
        "",
        "its image pull secrets are used",
        FieldKind::Text,
    ),
    choice("imagePullPolicy", "Image pull policy", &["", "IfNotPresent", "Always"]),
    choice("worker", "Worker kind", &["Job", "Pod"]),
    choice("pullMethod", "Pull method", &["Auto", "ImageVolume", "Helper"]),
    field(
        "webhookUrl",
        "Webhook URL",
        "https://…",
        "receives a JSON POST when the task ends",
        FieldKind::Text,
    ),
];

/// Fields of a schedule in addition to those of its task.
static SCHEDULE_FIELDS: [FormField; 6] = [
    field("name", "Name", "nightly", "", FieldKind::Text),
    field(
        "cronExpr",
        "Cron expression",
        "30 2 * * *",
        "minute, hour, day of the month, month, day of the week; or @daily",
        FieldKind::Text,
    ),
    field("timezone", "Time zone", "UTC", "such as Europe/Berlin", FieldKind::Text),
    choice("overlapPolicy", "Overlap policy", &["skip", "allow", "queue"]),
    field("timeoutSeconds", "Execution timeout", "none", "seconds", FieldKind::Amount),
    field("description", "Description", "", "", FieldKind::Text),
];

/// Submitted values of a form, with validation errors.
#[derive(Debug, Default)]
pub(super) struct PageForm {
    values: BTreeMap<String, String>,
    problems: Vec<Detail>,
}

#[allow(clippy::unused_self, reason = "templates call these as methods of the form")]
impl PageForm {
    pub(super) fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        Self { values: pairs.into_iter().collect(), problems: Vec::new() }
    }

    /// Adds the validation errors of a rejected REST call.
    pub(super) fn with_errors(mut self, error: &ApiError) -> Self {
        if error.details().is_empty() {
            self.problems.push(Detail::new("", error.message()));
        }
        self.problems.extend(error.details().iter().map(without_task_prefix));
        self
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.values.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn main_fields(&self) -> &'static [FormField] {
        &MAIN_FIELDS
    }

    pub(super) fn advanced_fields(&self) -> &'static [FormField] {
        &ADVANCED_FIELDS
    }

    pub(super) fn schedule_fields(&self) -> &'static [FormField] {
        &SCHEDULE_FIELDS
    }

    /// Reports whether an advanced field has a value other than its default, or an error.
    pub(super) fn has_advanced_values(&self) -> bool {
        let said = |field: &FormField| {
            let text = self.get(field.name);
            !text.is_empty() && field.choices.first() != Some(&text)
        };
        ADVANCED_FIELDS.iter().any(|field| said(field) || self.has_errors(field.name))
    }

    /// Returns the error messages of a field.
    pub(super) fn errors(&self, name: &str) -> Vec<&str> {
        self.problems
            .iter()
            .filter(|one| is_within_field(&one.field, name))
            .map(|one| one.message.as_str())
            .collect()
    }

    pub(super) fn has_errors(&self, name: &str) -> bool {
        !self.errors(name).is_empty()
    }

    /// Returns the errors that belong to no field of the form.
    pub(super) fn other_errors(&self) -> Vec<String> {
        let fields = MAIN_FIELDS.iter().chain(&ADVANCED_FIELDS).chain(&SCHEDULE_FIELDS);
        let placed: Vec<&str> = fields.map(|field| field.name).chain(["images"]).collect();
        let others = self
            .problems
            .iter()
            .filter(|one| !placed.iter().any(|name| is_within_field(&one.field, name)));
        others.map(ToString::to_string).collect()
    }

    /// Builds the body of the call that creates a task.
    pub(super) fn task_body(&self) -> Value {
        let mut body = self.to_json(MAIN_FIELDS.iter().chain(&ADVANCED_FIELDS));
        let images: Vec<&str> = self
            .get("images")
            .split(['\n', ','])
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        body.insert("images".into(), json!(images));
        Value::Object(body)
    }

    /// Builds the body of the call that creates a schedule.
    pub(super) fn schedule_body(&self) -> Value {
        let mut body = self.to_json(SCHEDULE_FIELDS.iter());
        let mut task = self.task_body();
        if let Some(namespace) = task.as_object_mut().and_then(|task| task.remove("namespace")) {
            body.insert("namespace".into(), namespace);
        }
        body.insert("taskConfig".into(), task);
        Value::Object(body)
    }

    /// Converts the non-empty fields to JSON; empty ones keep their default.
    fn to_json<'a>(&self, fields: impl Iterator<Item = &'a FormField>) -> Map<String, Value> {
        let said = fields
            .map(|field| (field, self.get(field.name).trim()))
            .filter(|(_, text)| !text.is_empty());
        said.map(|(field, text)| (field.name.to_owned(), field_value(field.kind, text))).collect()
    }
}

/// Maps the field path of an error to the field's name in the form.
fn without_task_prefix(detail: &Detail) -> Detail {
    Detail::new(detail.field.trim_start_matches("taskConfig."), detail.message.clone())
}

/// Reports whether an error path is that of the field or of one of its elements.
fn is_within_field(path: &str, name: &str) -> bool {
    path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with(['[', '.']))
}

fn field_value(kind: FieldKind, text: &str) -> Value {
    let items = || text.split(['\n', ',']).map(str::trim).filter(|item| !item.is_empty());
    match kind {
        FieldKind::Text => json!(text),
        FieldKind::Amount => {
            text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
        }
        FieldKind::List => json!(items().collect::<Vec<_>>()),
        FieldKind::Labels => {
            let pair = |item: &str| {
                let (key, value) = item.split_once('=').unwrap_or((item, ""));
                (key.trim().to_owned(), json!(value.trim()))
            };
            Value::Object(items().map(pair).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::tests::pages_api;

    fn form(pairs: &[(&str, &str)]) -> PageForm {
        PageForm::from_pairs(
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    #[tokio::test]
    async fn every_field_is_accepted_by_the_rest_api() {
        let sample = |kind: FieldKind| match kind {
            FieldKind::Amount => "5",
            FieldKind::Labels => "a=b",
            FieldKind::List | FieldKind::Text => "x",
        };
        let mut pairs = vec![("images", "nginx:1.27\n redis:7 ")];
        pairs.extend(MAIN_FIELDS.iter().chain(&ADVANCED_FIELDS).chain(&SCHEDULE_FIELDS).map(
            |field| {
                let good = match field.name {
                    "timeout" | "deadline" => "5m",
                    "successThreshold" => "50%",
                    "webhookUrl" => "https://hooks.example.com/x",
                    "cronExpr" => "@daily",
                    "timezone" => "Europe/Berlin",
                    _ => field.choices.last().copied().unwrap_or(sample(field.kind)),
                };
                (field.name, good)
            },
        ));
        let form = form(&pairs);
        let api = pages_api();
        let task = api.parse_task(form.task_body()).unwrap();
        assert_eq!(task.images, ["nginx:1.27", "redis:7"]);
        assert_eq!(task.node_selector.unwrap()["a"], "b");
        let body = form.schedule_body();
        assert_eq!(body["namespace"], "x");
        assert_eq!(api.parse_schedule(body).unwrap().schedule, "@daily");
    }

    #[tokio::test]
    async fn errors_are_assigned_to_their_fields() {
        let asked = form(&[("images", "UPPER/x"), ("nodes", "some"), ("cronExpr", "x")]);
        let wrong = pages_api().parse_schedule(asked.schedule_body()).unwrap_err();
        let form = asked.with_errors(&ApiError::invalid_fields(wrong));
        assert!(
            form.has_errors("images") && form.has_errors("nodes") && form.has_errors("cronExpr"),
            "{form:?}"
        );
        assert!(!form.has_errors("node") && !form.has_advanced_values());
        assert!(form.other_errors().is_empty(), "{:?}", form.other_errors());
        let form =
            form.with_errors(&ApiError::new(axum::http::StatusCode::FORBIDDEN, "you may not"));
        assert!(form.other_errors().contains(&"you may not".to_owned()));
    }
}

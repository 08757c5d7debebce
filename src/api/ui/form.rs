//! Forms: what was typed, and from that the body of a REST call. *Pure.*

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::error::{ApiError, Detail};

/// A field of a form.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) hint: &'static str,
    pub(super) placeholder: &'static str,
    /// Where there are some, one is chosen; the first is meant where nothing is said.
    pub(super) choices: &'static [&'static str],
    kind: Kind,
}

/// How a text becomes JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// A whole number, or a text such as `25%`.
    Amount,
    /// `key=value`, with commas or lines between.
    Labels,
    /// Words, with commas or lines between.
    List,
}

const fn field(
    name: &'static str,
    label: &'static str,
    placeholder: &'static str,
    hint: &'static str,
    kind: Kind,
) -> Field {
    Field { name, label, hint, placeholder, choices: &[], kind }
}

const fn choice(name: &'static str, label: &'static str, choices: &'static [&'static str]) -> Field {
    Field { name, label, hint: "", placeholder: "", choices, kind: Kind::Text }
}

/// What is asked first.
static MAIN: [Field; 4] = [
    field("namespace", "Namespace", "the server's own", "Its pull secrets can be used", Kind::Text),
    field(
        "nodeSelector",
        "Only nodes with labels",
        "disk=ssd, zone=a",
        "All nodes without taints, where nothing is said",
        Kind::Labels,
    ),
    field("nodes", "How many of them", "all", "all, auto, a number or a percentage", Kind::Amount),
    field("batchSize", "How many at once", "10", "1 to 100, or a percentage", Kind::Amount),
];

/// What is asked by those who want to know.
static MORE: [Field; 14] = [
    choice("batchPolicy", "Batches", &["Barrier", "Rolling", "Doubling"]),
    field("priority", "Priority", "5", "1 to 10; higher goes first", Kind::Amount),
    field("maxRetries", "Further tries", "0", "0 to 5, for a node that failed", Kind::Amount),
    choice("retryStrategy", "Time between tries", &["linear", "exponential"]),
    field("retryDelay", "Before the first further try", "30", "seconds", Kind::Amount),
    field("timeout", "A node may take", "10m", "", Kind::Text),
    field("deadline", "The whole may take", "no limit", "such as 1h", Kind::Text),
    field("successThreshold", "Enough are", "90%", "the share of nodes that must be warm", Kind::Text),
    field("imagePullSecrets", "Pull secrets", "", "Secrets of the namespace", Kind::List),
    field("serviceAccountName", "Service account", "", "whose pull secrets count", Kind::Text),
    choice("imagePullPolicy", "A tag that is there", &["IfNotPresent", "Always"]),
    choice("worker", "Pulled by", &["Job", "Pod"]),
    choice("pullMethod", "Method", &["Auto", "ImageVolume", "Helper"]),
    field("webhookUrl", "Tell the end to", "https://…", "a POST of JSON", Kind::Text),
];

/// What a schedule asks beside its task.
static SCHEDULE: [Field; 6] = [
    field("name", "Name", "nightly", "", Kind::Text),
    field(
        "cronExpr",
        "When",
        "30 2 * * *",
        "minute, hour, day of the month, month, day of the week; or @daily",
        Kind::Text,
    ),
    field("timezone", "Time zone", "UTC", "such as Europe/Berlin", Kind::Text),
    choice("overlapPolicy", "While one is at work", &["skip", "allow", "queue"]),
    field("timeoutSeconds", "A run may take", "no limit", "seconds", Kind::Amount),
    field("description", "What it is for", "", "", Kind::Text),
];

/// What was typed, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Form {
    typed: BTreeMap<String, String>,
    problems: Vec<Detail>,
}

#[allow(clippy::unused_self, reason = "templates ask a form for its fields")]
impl Form {
    pub(super) fn of(pairs: Vec<(String, String)>) -> Self {
        Self { typed: pairs.into_iter().collect(), problems: Vec::new() }
    }

    /// The same, with what a call has refused.
    pub(super) fn refused(mut self, error: &ApiError) -> Self {
        if error.details().is_empty() {
            self.problems.push(Detail { field: String::new(), message: error.message().to_owned() });
        }
        self.problems.extend(error.details().iter().map(plain));
        self
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.typed.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn main(&self) -> &'static [Field] {
        &MAIN
    }

    pub(super) fn more(&self) -> &'static [Field] {
        &MORE
    }

    pub(super) fn schedule(&self) -> &'static [Field] {
        &SCHEDULE
    }

    /// Whether something was said that is out of sight at first.
    pub(super) fn has_more(&self) -> bool {
        let said = |field: &Field| {
            let text = self.get(field.name);
            !text.is_empty() && field.choices.first() != Some(&text)
        };
        MORE.iter().any(|field| said(field) || self.is_wrong(field.name))
    }

    /// What is wrong with a field.
    pub(super) fn wrong(&self, name: &str) -> Vec<&str> {
        self.problems.iter().filter(|one| is_of(&one.field, name)).map(|one| one.message.as_str()).collect()
    }

    pub(super) fn is_wrong(&self, name: &str) -> bool {
        !self.wrong(name).is_empty()
    }

    /// What is wrong with no field that has a place of its own.
    pub(super) fn wrong_elsewhere(&self) -> Vec<String> {
        let fields = MAIN.iter().chain(&MORE).chain(&SCHEDULE);
        let placed: Vec<&str> = fields.map(|field| field.name).chain(["images"]).collect();
        let others = self.problems.iter().filter(|one| !placed.iter().any(|name| is_of(&one.field, name)));
        others.map(ToString::to_string).collect()
    }

    /// The body of a call that makes a task.
    pub(super) fn task(&self) -> Value {
        let mut body = self.fields(MAIN.iter().chain(&MORE));
        let images: Vec<&str> =
            self.get("images").split(['\n', ',']).map(str::trim).filter(|line| !line.is_empty()).collect();
        body.insert("images".into(), json!(images));
        Value::Object(body)
    }

    /// The body of a call that makes a schedule.
    pub(super) fn schedule_body(&self) -> Value {
        let mut body = self.fields(SCHEDULE.iter());
        let mut task = self.task();
        if let Some(namespace) = task.as_object_mut().and_then(|task| task.remove("namespace")) {
            body.insert("namespace".into(), namespace);
        }
        body.insert("taskConfig".into(), task);
        Value::Object(body)
    }

    /// What was said; what is left empty takes its default.
    fn fields<'a>(&self, fields: impl Iterator<Item = &'a Field>) -> Map<String, Value> {
        let said = fields.map(|field| (field, self.get(field.name).trim())).filter(|(_, text)| !text.is_empty());
        said.map(|(field, text)| (field.name.to_owned(), value(field.kind, text))).collect()
    }
}

/// A problem of a call, by the field's name in the form.
fn plain(detail: &Detail) -> Detail {
    Detail { field: detail.field.trim_start_matches("taskConfig.").to_owned(), message: detail.message.clone() }
}

/// Whether the path of a problem leads into this field.
fn is_of(path: &str, name: &str) -> bool {
    path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with(['[', '.']))
}

fn value(kind: Kind, text: &str) -> Value {
    let items = || text.split(['\n', ',']).map(str::trim).filter(|item| !item.is_empty());
    match kind {
        Kind::Text => json!(text),
        Kind::Amount => text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number)),
        Kind::List => json!(items().collect::<Vec<_>>()),
        Kind::Labels => {
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
    use crate::{
        api::{request, schedule_request},
        notify::Guard,
    };

    fn form(pairs: &[(&str, &str)]) -> Form {
        Form::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn every_field_is_one_of_the_api() {
        let sample = |kind: Kind| match kind {
            Kind::Amount => "5",
            Kind::Labels => "a=b",
            Kind::List | Kind::Text => "x",
        };
        let mut pairs = vec![("images", "nginx:1.27\n redis:7 ")];
        pairs.extend(MAIN.iter().chain(&MORE).chain(&SCHEDULE).map(|field| {
            let good = match field.name {
                "timeout" | "deadline" => "5m",
                "successThreshold" => "50%",
                "webhookUrl" => "https://hooks.example.com/x",
                "cronExpr" => "@daily",
                "timezone" => "Europe/Berlin",
                _ => field.choices.last().copied().unwrap_or(sample(field.kind)),
            };
            (field.name, good)
        }));
        let form = form(&pairs);
        let task = request::read(form.task(), &Guard::default()).unwrap();
        assert_eq!(task.spec.images, ["nginx:1.27", "redis:7"]);
        assert_eq!(task.spec.node_selector.unwrap()["a"], "b");
        let schedule = schedule_request::read(form.schedule_body(), &Guard::default()).unwrap();
        assert_eq!((schedule.spec.schedule.as_str(), schedule.namespace.as_deref()), ("@daily", Some("x")));
    }

    #[test]
    fn what_is_wrong_stands_beside_its_field() {
        let asked = form(&[("images", "UPPER/x"), ("nodes", "some"), ("cronExpr", "x")]);
        let wrong = schedule_request::read(asked.schedule_body(), &Guard::default()).unwrap_err();
        let form = asked.refused(&ApiError::bad(wrong));
        assert!(form.is_wrong("images") && form.is_wrong("nodes") && form.is_wrong("cronExpr"), "{form:?}");
        assert!(!form.is_wrong("node") && !form.has_more());
        assert!(form.wrong_elsewhere().is_empty(), "{:?}", form.wrong_elsewhere());
        let form = form.refused(&ApiError::new(axum::http::StatusCode::FORBIDDEN, "you may not"));
        assert!(form.wrong_elsewhere().contains(&"you may not".to_owned()));
    }
}

//! Kubernetes rules for the parts of a spec that are copied to pods, so that an error is reported
//! when the task is created and not for every worker. As in
//! `k8s.io/apimachinery/pkg/util/validation` and `k8s.io/kubernetes/pkg/apis/core/validation`.

use http::Uri;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration,
};

use super::{
    FieldError, Notification, PrewarmTaskSpec,
    bounds::{MAX_LABEL_VALUE, MAX_NAME},
};
use crate::dns;

/// Longest URL of a notification, in bytes: the length that browsers and proxies commonly accept.
const MAX_URL: usize = 2048;
/// Formats of notifications.
pub const FORMATS: [&str; 5] = ["json", "cloudevents", "slack", "dingtalk", "alertmanager"];

/// Checks placement, credentials and notifications.
pub(super) fn check_rules(spec: &PrewarmTaskSpec, problems: &mut Vec<FieldError>) {
    for (key, value) in spec.node_selector.iter().flatten() {
        let field = format!("spec.nodeSelector[{key}]");
        label_key(&field, key, problems);
        label_value(&field, value, problems);
    }
    if let Some(affinity) = &spec.node_affinity {
        node_affinity(affinity, problems);
    }
    for (index, one) in spec.tolerations.iter().flatten().enumerate() {
        toleration(&format!("spec.tolerations[{index}]"), one, problems);
    }
    for (index, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        object_name(&format!("spec.imagePullSecrets[{index}].name"), &secret.name, problems);
    }
    if let Some(account) = &spec.service_account_name {
        object_name("spec.serviceAccountName", account, problems);
    }
    for (index, one) in spec.notify.iter().flatten().enumerate() {
        notification(&format!("spec.notify[{index}]"), one, problems);
    }
}

fn node_affinity(affinity: &NodeSelector, problems: &mut Vec<FieldError>) {
    if affinity.node_selector_terms.is_empty() {
        problems.push(FieldError::new(
            "spec.nodeAffinity.nodeSelectorTerms",
            "",
            "must have at least one term",
        ));
    }
    for (index, one) in affinity.node_selector_terms.iter().enumerate() {
        node_selector_term(&format!("spec.nodeAffinity.nodeSelectorTerms[{index}]"), one, problems);
    }
}

fn node_selector_term(at: &str, term: &NodeSelectorTerm, problems: &mut Vec<FieldError>) {
    for (index, rule) in term.match_expressions.iter().flatten().enumerate() {
        let at = format!("{at}.matchExpressions[{index}]");
        label_key(&format!("{at}.key"), &rule.key, problems);
        requirement(&at, rule, problems);
    }
    for (index, rule) in term.match_fields.iter().flatten().enumerate() {
        let at = format!("{at}.matchFields[{index}]");
        if rule.key != "metadata.name" {
            problems.push(FieldError::new(
                &format!("{at}.key"),
                &rule.key,
                "expected metadata.name, the only supported field",
            ));
        }
        // Pods allow one node name here. Tasks allow many: a term for each would need as many
        // kilobytes more.
        let some = rule.values.as_ref().is_some_and(|values| !values.is_empty());
        if !matches!(rule.operator.as_str(), "In" | "NotIn") || !some {
            let reason = "expected In or NotIn, with at least one value";
            problems.push(FieldError::new(&format!("{at}.operator"), &rule.operator, reason));
        }
    }
}

fn requirement(at: &str, rule: &NodeSelectorRequirement, problems: &mut Vec<FieldError>) {
    let values = rule.values.as_deref().unwrap_or_default();
    let wrong = match rule.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => Some("In and NotIn need at least one value"),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            Some("Exists and DoesNotExist take no values")
        }
        "Gt" | "Lt"
            if values.len() != 1 || values.iter().any(|value| value.parse::<i64>().is_err()) =>
        {
            Some("Gt and Lt need exactly one value, a whole number")
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => None,
        other => {
            let reason = "expected In, NotIn, Exists, DoesNotExist, Gt or Lt";
            return problems.push(FieldError::new(&format!("{at}.operator"), other, reason));
        }
    };
    if let Some(reason) = wrong {
        problems.push(FieldError::new(&format!("{at}.values"), &values.join(","), reason));
    }
    if matches!(rule.operator.as_str(), "In" | "NotIn") {
        for (index, value) in values.iter().enumerate() {
            label_value(&format!("{at}.values[{index}]"), value, problems);
        }
    }
}

fn toleration(at: &str, one: &Toleration, problems: &mut Vec<FieldError>) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (key, operator, value, effect) =
        (text(&one.key), text(&one.operator), text(&one.value), text(&one.effect));
    let mut wrong = |field: &str, value: &str, reason: &str| {
        problems.push(FieldError::new(&format!("{at}.{field}"), value, reason));
    };
    match operator.as_str() {
        "Exists" if !value.is_empty() => {
            wrong("value", &value, "must be empty when operator is Exists");
        }
        "" | "Equal" if key.is_empty() => {
            wrong("operator", &operator, "must be Exists when key is empty");
        }
        "" | "Equal" | "Exists" => {}
        other => wrong("operator", other, "expected Exists or Equal"),
    }
    if !matches!(effect.as_str(), "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        wrong("effect", &effect, "expected NoSchedule, PreferNoSchedule or NoExecute");
    }
    if one.toleration_seconds.is_some() && effect != "NoExecute" {
        wrong("effect", &effect, "must be NoExecute when tolerationSeconds is set");
    }
    if !key.is_empty() {
        label_key(&format!("{at}.key"), &key, problems);
    }
    label_value(&format!("{at}.value"), &value, problems);
}

fn notification(at: &str, one: &Notification, problems: &mut Vec<FieldError>) {
    match (&one.url, &one.url_from) {
        (Some(text), None) => notification_url(&format!("{at}.url"), text, problems),
        (None, Some(source)) => {
            let secret = &source.secret_key_ref;
            object_name(&format!("{at}.urlFrom.secretKeyRef.name"), &secret.name, problems);
            secret_key(&format!("{at}.urlFrom.secretKeyRef.key"), &secret.key, problems);
        }
        _ => problems.push(FieldError::new(at, "", "expected exactly one of url and urlFrom")),
    }
    if let Some(format) = one.format.as_deref().filter(|format| !FORMATS.contains(format)) {
        let reason = format!("expected one of {}", FORMATS.join(", "));
        problems.push(FieldError::new(&format!("{at}.format"), format, &reason));
    }
    if let Some(secret) = &one.secret_ref {
        object_name(&format!("{at}.secretRef.name"), &secret.name, problems);
    }
}

/// Checks the URL of a notification. The problem never repeats the value: it may contain a token,
/// and more users can read problems than specs.
fn notification_url(field: &str, text: &str, problems: &mut Vec<FieldError>) {
    let url: Option<Uri> = text.parse().ok();
    let good = url.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
    });
    if text.len() > MAX_URL {
        problems.push(FieldError::new(
            field,
            "",
            &format!("must have at most {MAX_URL} characters"),
        ));
    } else if !good {
        let reason = "expected an http or https URL, such as https://hooks.example/x";
        problems.push(FieldError::new(field, "", reason));
    }
}

/// Checks a key of a Secret's data, as `IsConfigMapKey` of apimachinery does.
fn secret_key(field: &str, key: &str, problems: &mut Vec<FieldError>) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || key.len() > MAX_NAME || !key.chars().all(good) || matches!(key, "." | "..")
    {
        let reason = "not a valid Secret key: expected at most 253 letters, digits, dashes, underscores and dots";
        problems.push(FieldError::new(field, key, reason));
    }
}

/// Checks a label key, `[PREFIX/]NAME`.
fn label_key(field: &str, key: &str, problems: &mut Vec<FieldError>) {
    let (prefix, name) =
        key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_qualified_name(name) || prefix.is_some_and(|prefix| !dns::is_subdomain(prefix)) {
        let reason = "not a valid label key: expected [PREFIX/]NAME, such as topology.kubernetes.io/zone, with a name of at most 63 \
                      letters, digits, dashes, dots and underscores";
        problems.push(FieldError::new(field, key, reason));
    }
}

fn label_value(field: &str, value: &str, problems: &mut Vec<FieldError>) {
    if !value.is_empty() && !is_qualified_name(value) {
        let reason = "not a valid label value: expected at most 63 letters, digits, dashes, dots and underscores, beginning and \
                      ending with a letter or digit";
        problems.push(FieldError::new(field, value, reason));
    }
}

fn object_name(field: &str, name: &str, problems: &mut Vec<FieldError>) {
    if !dns::is_subdomain(name) {
        let reason = "not a valid object name: expected lower-case letters, digits, dashes and dots, beginning and ending with \
                      a letter or digit";
        problems.push(FieldError::new(field, name, reason));
    }
}

fn is_qualified_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() <= MAX_LABEL_VALUE
        && ends(text.chars().next())
        && ends(text.chars().last())
        && text.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn fields(spec: &Value) -> Vec<String> {
        let mut whole = json!({"images": ["a"]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let mut problems = Vec::new();
        check_rules(&serde_json::from_value(whole).unwrap(), &mut problems);
        problems.into_iter().map(|problem| problem.field).collect()
    }

    fn affinity(rule: &Value) -> Value {
        json!({"nodeAffinity": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}})
    }

    #[rstest]
    #[case(json!({"nodeSelector": {"pool": "gpu", "example.com/zone": ""}}))]
    #[case(affinity(&json!({"key": "zone", "operator": "In", "values": ["a", "b"]})))]
    #[case(affinity(&json!({"key": "cpus", "operator": "Gt", "values": ["-4"]})))]
    #[case(json!({"nodeAffinity": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}))]
    #[case(json!({"nodeAffinity": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n", "m"]}]}]}}))]
    #[case(json!({"tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]}))]
    #[case(json!({"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}]}))]
    #[case(json!({"imagePullSecrets": [{"name": "a.b-c"}], "serviceAccountName": "robot"}))]
    #[case(json!({"notify": [{"url": "https://x.example/y", "format": "slack", "secretRef": {"name": "s"}}]}))]
    #[case(json!({"notify": [{"urlFrom": {"secretKeyRef": {"name": "s", "key": "url.txt"}}}]}))]
    fn valid_specs_are_accepted(#[case] spec: Value) {
        assert!(fields(&spec).is_empty());
    }

    #[rstest]
    #[case(json!({"nodeSelector": {"-pool": "gpu"}}), &["spec.nodeSelector[-pool]"])]
    #[case(json!({"nodeSelector": {"pool": "g pu"}}), &["spec.nodeSelector[pool]"])]
    #[case(json!({"nodeAffinity": {"nodeSelectorTerms": []}}), &["spec.nodeAffinity.nodeSelectorTerms"])]
    #[case(affinity(&json!({"key": "", "operator": "Has"})), &[".matchExpressions[0].key", ".matchExpressions[0].operator"])]
    #[case(affinity(&json!({"key": "zone", "operator": "In"})), &[".matchExpressions[0].values"])]
    #[case(affinity(&json!({"key": "zone", "operator": "Exists", "values": ["a"]})), &[".matchExpressions[0].values"])]
    #[case(affinity(&json!({"key": "zone", "operator": "Lt", "values": ["a"]})), &[".matchExpressions[0].values"])]
    #[case(affinity(&json!({"key": "zone", "operator": "In", "values": ["a", "b c"]})), &[".matchExpressions[0].values[1]"])]
    #[case(json!({"nodeAffinity": {"nodeSelectorTerms": [{"matchFields": [{"key": "spec.x", "operator": "Gt", "values": []}]}]}}), &[".matchFields[0].key", ".matchFields[0].operator"])]
    #[case(json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}), &["spec.tolerations[0].value"])]
    #[case(json!({"tolerations": [{"value": "b"}]}), &["spec.tolerations[0].operator"])]
    #[case(json!({"tolerations": [{"key": "a", "operator": "Is", "effect": "Never"}]}), &["spec.tolerations[0].operator", "spec.tolerations[0].effect"])]
    #[case(json!({"tolerations": [{"key": "a", "value": "b", "tolerationSeconds": 3}]}), &["spec.tolerations[0].effect"])]
    #[case(json!({"imagePullSecrets": [{"name": ""}, {"name": "Up"}]}), &["spec.imagePullSecrets[0].name", "spec.imagePullSecrets[1].name"])]
    #[case(json!({"serviceAccountName": "a_b"}), &["spec.serviceAccountName"])]
    #[case(json!({"notify": [{"url": "ftp://x", "format": "fax", "secretRef": {"name": ""}}]}), &["spec.notify[0].url", "spec.notify[0].format", "spec.notify[0].secretRef.name"])]
    #[case(json!({"notify": [{"format": "json"}]}), &["spec.notify[0]"])]
    #[case(json!({"notify": [{"url": "https://x.example/", "urlFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}), &["spec.notify[0]"])]
    #[case(json!({"notify": [{"urlFrom": {"secretKeyRef": {"name": "S", "key": "a/b"}}}]}), &["spec.notify[0].urlFrom.secretKeyRef.name", "spec.notify[0].urlFrom.secretKeyRef.key"])]
    #[case(json!({"notify": [{"url": format!("https://x.example/{}", "a".repeat(2048))}]}), &["spec.notify[0].url"])]
    fn invalid_fields_are_reported(#[case] spec: Value, #[case] expected: &[&str]) {
        let found = fields(&spec);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert!(found.iter().zip(expected).all(|(field, end)| field.ends_with(end)), "{found:?}");
    }
}

//! Remedies for objects whose kind or API version is not that of a workload.

use serde_json::Value;

use super::{super::kinds::WorkloadKinds, problem::DocumentWarning};

/// Kinds that Kubernetes no longer serves in an API version: API version, kinds, the Kubernetes
/// version that removed it, current API version.
const REMOVED: &[(&str, &[&str], &str, &str)] = &[
    ("extensions/v1beta1", &["Deployment", "DaemonSet", "ReplicaSet"], "1.16", "apps/v1"),
    ("apps/v1beta1", &["Deployment", "StatefulSet"], "1.16", "apps/v1"),
    ("apps/v1beta2", &["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"], "1.16", "apps/v1"),
    ("batch/v2alpha1", &["CronJob"], "1.21", "batch/v1"),
    ("batch/v1beta1", &["CronJob"], "1.25", "batch/v1"),
];
/// Maximum number of paths in a hint.
const MAX_PATHS: usize = 5;
/// Maximum number of values that are searched for pod templates in one object.
const MAX_SEARCHED: usize = 20_000;
/// Longest name of a kind, version or field in a suggested setting, in characters.
const MAX_NAME: usize = 253;

/// Returns the remedy for an object that is skipped because of its kind or API version.
pub(super) fn skipped_warning(
    kinds: &WorkloadKinds,
    api_version: &str,
    kind: &str,
    title: &str,
    object: &Value,
) -> Option<DocumentWarning> {
    let title = title.to_owned();
    if api_version.is_empty() {
        return Some(DocumentWarning::NoApiVersion(title));
    }
    let removed = REMOVED
        .iter()
        .find(|(version, names, ..)| *version == api_version && names.contains(&kind));
    if let Some((_, _, removed, current)) = removed {
        let (api_version, current) = (api_version.to_owned(), (*current).to_owned());
        return Some(DocumentWarning::RemovedVersion { title, api_version, removed, current });
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let same_kind = |group_matters: bool| {
        kinds.iter().find(|known| known.kind == kind && (!group_matters || known.group == group))
    };
    // A group with a dot may define a kind with the name of a built-in one.
    if let Some(known) = same_kind(group.contains('.')) {
        let (api_version, known) = (api_version.to_owned(), known.api_version());
        return Some(DocumentWarning::OtherVersion { title, api_version, known });
    }
    let name = |text: &str| is_name(text, &['.', '-']) && !text.is_empty();
    let (group, version) = api_version.split_once('/')?;
    if !group.contains('.') || ![group, version, kind].into_iter().all(name) {
        return None;
    }
    let paths = pod_template_paths(object);
    let setting = format!("{group}/{version}/{kind}={}", paths.join("+"));
    (!paths.is_empty()).then_some(DocumentWarning::UnknownKind { title, setting })
}

fn is_name(text: &str, further: &[char]) -> bool {
    let good = |one: char| one.is_ascii_alphanumeric() || further.contains(&one);
    text.len() <= MAX_NAME && text.chars().all(good)
}

/// Returns the paths of an object's pod templates, in the form of `--kinds`: of the objects whose
/// `spec` has containers with images, and of other objects with such containers.
fn pod_template_paths(object: &Value) -> Vec<String> {
    let (mut paths, mut searched) = (Vec::new(), 0);
    search(object, &mut Vec::new(), &mut paths, &mut searched);
    paths
}

fn search(value: &Value, path: &mut Vec<String>, paths: &mut Vec<String>, searched: &mut usize) {
    *searched = searched.saturating_add(1);
    if *searched > MAX_SEARCHED || paths.len() >= MAX_PATHS {
        return;
    }
    match value {
        Value::Object(fields) if has_containers(fields.get("containers")) => {
            let (last, template) = match path.split_last() {
                Some((last, template)) => (last.as_str(), template),
                None => return,
            };
            // `spec` at the top of the object is a pod spec itself.
            let steps = if last == "spec" && !template.is_empty() { template } else { path };
            let found = steps.join(".").replace(".[*]", "[*]");
            let within = |outer: &str, inner: &str| {
                let rest = inner.strip_prefix(outer);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            if !paths.iter().any(|path| within(path, &found) || within(&found, path)) {
                paths.push(found);
            }
        }
        Value::Object(fields) => {
            for (key, inner) in fields.iter().filter(|(key, _)| is_name(key, &['-', '_'])) {
                path.push(key.clone());
                search(inner, path, paths, searched);
                path.pop();
            }
        }
        // `--kinds` has no form for a list in a list.
        Value::Array(items) if path.last().is_some_and(|last| last != "[*]") => {
            path.push("[*]".into());
            for item in items {
                search(item, path, paths, searched);
            }
            path.pop();
        }
        _ => {}
    }
}

fn has_containers(value: Option<&Value>) -> bool {
    let first = value.and_then(Value::as_array).and_then(|items| items.first());
    first.is_some_and(|first| first.get("image").is_some_and(Value::is_string))
}

//! Manifests of a complete installation. Pure: no client, no clock, no I/O.
//!
//! The chart (`deploy/chart`) defines the objects. `deploy/prewarmer.yaml` is the chart rendered
//! with its defaults and is embedded in the binary. This module replaces namespace, images and
//! kinds in it with those of the arguments.

use clap::Args;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use prewarmer_core::{
    schedule::PrewarmSchedule,
    settings::DEFAULT_NAMESPACE,
    task::{PrewarmPlan, PrewarmTask, bounds},
    workload::WorkloadKind,
};

/// JSON pointer to the schema of the spec in a custom resource definition.
const SPEC_SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
/// JSON pointer from the schema of a schedule's spec to the schema of the task's spec.
const TASK_TEMPLATE_SCHEMA: &str = "/properties/taskTemplate/properties/spec";

/// Chart rendered with its defaults.
const INSTALL: &str = include_str!("../deploy/prewarmer.yaml");
/// Image of the server in [`INSTALL`].
const IMAGE: &str = concat!("prewarmer:", env!("CARGO_PKG_VERSION"));
/// Image of the worker helper in [`INSTALL`].
const WORKER_IMAGE: &str = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION"));
/// `ClusterRole`s in [`INSTALL`] that permit reading workloads, with their verbs.
const WORKLOAD_ROLES: [(&str, &[&str]); 2] =
    [("prewarmer-webhook", &["get"]), ("prewarmer-controller", &["list", "watch"])];

/// Arguments of `manifests`.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Namespace to install into.
    #[arg(long, default_value = "prewarmer")]
    pub namespace: String,
    /// Image of the server.
    #[arg(long, default_value = concat!("prewarmer:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// Image of the helper.
    #[arg(long, default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
    /// Further workload kinds, as in `serve`. They are passed to the server, which also gets
    /// permission to read them.
    #[arg(long, default_value = "")]
    pub kinds: String,
}

/// Error of parsing the embedded manifests, of `--kinds`, or of writing YAML.
pub type ManifestError = Box<dyn std::error::Error + Send + Sync>;

/// Returns the custom resource definitions as YAML.
pub fn crds() -> Result<String, ManifestError> {
    to_yaml(&crd_objects()?)
}

/// Returns all objects of an installation as YAML for `kubectl apply`.
pub fn install(args: &ManifestArgs) -> Result<String, ManifestError> {
    let kinds = parse_kinds(args)?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(INSTALL)?;
    let mut objects: Vec<Value> = documents.into_iter().filter(Value::is_object).collect();
    for object in &mut objects {
        apply_args(object, args, &kinds);
    }
    to_yaml(&objects)
}

/// Applies the arguments to one object: namespace, images and kinds.
fn apply_args(object: &mut Value, args: &ManifestArgs, kinds: &[WorkloadKind]) {
    let (kind, name) = (object["kind"].clone(), object["metadata"]["name"].clone());
    if kind == "Namespace" {
        object["metadata"]["name"] = json!(args.namespace);
    }
    if kind == "ClusterRole"
        && let Some((_, verbs)) = WORKLOAD_ROLES.iter().find(|(role, _)| name == *role)
        && let Some(rules) = object["rules"].as_array_mut()
    {
        rules.extend(kinds.iter().map(
            |kind| json!({"apiGroups": [kind.group], "resources": [kind.plural], "verbs": verbs}),
        ));
    }
    if kind == "Deployment"
        && !args.kinds.is_empty()
        && let Some(words) =
            object["spec"]["template"]["spec"]["containers"][0]["args"].as_array_mut()
    {
        words.push(json!(format!("--kinds={}", args.kinds)));
    }
    replace_defaults(object, args);
}

/// Replaces the default namespace and images in all fields of a value.
fn replace_defaults(value: &mut Value, args: &ManifestArgs) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "namespace" && text == DEFAULT_NAMESPACE => {
                        text.clone_from(&args.namespace);
                    }
                    other => replace_defaults(other, args),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace_defaults(item, args)),
        Value::String(text) if text == IMAGE => text.clone_from(&args.image),
        Value::String(text) => {
            *text = text.replace(WORKER_IMAGE, &args.worker_image).replace(
                &format!("system:serviceaccount:{DEFAULT_NAMESPACE}:"),
                &format!("system:serviceaccount:{}:", args.namespace),
            );
        }
        _ => {}
    }
}

fn parse_kinds(args: &ManifestArgs) -> Result<Vec<WorkloadKind>, ManifestError> {
    let kind = |text: &str| {
        WorkloadKind::parse(text)
            .map_err(|expected| format!("--kinds: {text:?}: {expected}").into())
    };
    prewarmer_core::comma_separated(&args.kinds).map(kind).collect()
}

fn to_yaml(objects: &[Value]) -> Result<String, ManifestError> {
    let mut text = String::from("# Generated by `make generate`; do not edit.\n");
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object)?);
    }
    Ok(text)
}

fn crd_objects() -> Result<Vec<Value>, ManifestError> {
    let mut schedules = serde_json::to_value(PrewarmSchedule::crd())?;
    remove_transition_rules(&mut schedules);
    let mut tasks = serde_json::to_value(PrewarmTask::crd())?;
    let mut plans = serde_json::to_value(PrewarmPlan::crd())?;
    tasks.pointer_mut(SPEC_SCHEMA).into_iter().for_each(bounds::add_task_bounds);
    plans.pointer_mut(SPEC_SCHEMA).into_iter().for_each(bounds::add_plan_bounds);
    schedules
        .pointer_mut(&format!("{SPEC_SCHEMA}{TASK_TEMPLATE_SCHEMA}"))
        .into_iter()
        .for_each(bounds::add_task_bounds);
    let mut definitions = vec![tasks, plans, schedules];
    definitions.iter_mut().for_each(replace_unsigned_formats);
    Ok(definitions)
}

/// Removes the validation rules that refer to `oldSelf`: the fields of a task are immutable, those
/// of the task template of a schedule are not.
fn remove_transition_rules(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(rules)) = fields.get_mut("x-kubernetes-validations") {
                rules.retain(|rule| {
                    !rule["rule"].as_str().is_some_and(|text| text.contains("oldSelf"))
                });
                if rules.is_empty() {
                    fields.remove("x-kubernetes-validations");
                }
            }
            fields.values_mut().for_each(remove_transition_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_transition_rules),
        _ => {}
    }
}

/// Replaces the format `uint32`, which schemars writes, with `int32`. The API server supports
/// `int32` and `int64` only and warns about others; all values fit in `int32`.
fn replace_unsigned_formats(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("format").and_then(Value::as_str) == Some("uint32") {
                fields.insert("format".into(), json!("int32"));
            }
            fields.values_mut().for_each(replace_unsigned_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(replace_unsigned_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ManifestArgs {
        ManifestArgs {
            namespace: "infra".into(),
            image: "r.example/p:1".into(),
            worker_image: "r.example/h:1".into(),
            kinds: "argoproj.io/v1alpha1/Rollout=spec.template".into(),
        }
    }

    #[test]
    fn all_defaults_are_replaced() {
        let text = install(&args()).unwrap();
        for gone in [IMAGE, WORKER_IMAGE, "namespace: prewarmer", "serviceaccount:prewarmer:"] {
            assert!(INSTALL.contains(gone), "{gone} is not in the rendered chart");
            assert!(!text.contains(gone), "{gone}");
        }
        for there in [
            "image: r.example/p:1",
            "r.example/h:1",
            "serviceaccount:infra:prewarmer",
            "- rollouts",
            "--kinds=argoproj.io",
        ] {
            assert!(text.contains(there), "{there}\n{text}");
        }
        assert!(install(&ManifestArgs { kinds: "Rollout".into(), ..args() }).is_err());
    }
}

//! Evaluation of the custom resource definitions.

use std::collections::BTreeSet;

use kube::CustomResourceExt;
use prewarmer_core::{
    schedule::PrewarmSchedule,
    task::{PrewarmPlan, PrewarmTask},
};
use serde_json::Value;

use crate::doctor::{
    finding::{Finding, Severity, finding, ok, unavailable},
    requests::CRD_NAMES,
    results::ClusterResults,
};

/// Returns the finding about definitions that an earlier installation has left. Checked before an
/// installation.
pub(super) fn existing_definitions(answers: &ClusterResults) -> Finding {
    let there: Vec<&str> = answers
        .definitions
        .iter()
        .filter(|(_, seen)| seen.found().is_some())
        .map(|(name, _)| name.as_str())
        .collect();
    if there.is_empty() {
        return ok("definitions", "none installed yet");
    }
    let remedy = "an upgrade keeps them; set crds.install=false for a second installation";
    finding(
        Severity::Warning,
        "definitions",
        format!("already installed: {}", there.join(", ")),
        remedy,
    )
}

/// Collects the paths of all fields of a schema.
fn collect_fields(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        collect_fields(field, &path, into);
        collect_fields(&field["items"], &path, into);
        into.insert(path);
    }
}

fn schema_fields(definition: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
        collect_fields(&version["schema"]["openAPIV3Schema"], "", &mut all);
    }
    all
}

pub(super) fn expected(name: &str) -> Value {
    let definition = match name {
        "prewarmtasks.prewarm.io" => PrewarmTask::crd(),
        "prewarmplans.prewarm.io" => PrewarmPlan::crd(),
        _ => PrewarmSchedule::crd(),
    };
    serde_json::to_value(definition).unwrap_or_default()
}

pub(super) fn definitions(answers: &ClusterResults) -> Vec<Finding> {
    let area = "definitions";
    let mut findings = Vec::new();
    for name in CRD_NAMES {
        let Some(seen) = answers.definitions.get(name) else { continue };
        if let Some(unseen) = unavailable(area, seen, "read custom resource definitions") {
            return vec![unseen];
        }
        let Some(found) = seen.found() else {
            let remedy = "install the chart with crds.install=true, or apply deploy/crds.yaml";
            findings.push(finding(Severity::Bad, area, format!("{name} is missing"), remedy));
            continue;
        };
        let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
        let established =
            conditions.clone().any(|c| c["type"] == "Established" && c["status"] == "True");
        let missing: Vec<String> = schema_fields(&expected(name))
            .difference(&schema_fields(found))
            .take(3)
            .cloned()
            .collect();
        if !established {
            let remedy = format!("see the conditions: kubectl describe crd {name}");
            findings.push(finding(
                Severity::Bad,
                area,
                format!("{name} is not established"),
                remedy,
            ));
        } else if !missing.is_empty() {
            let found =
                format!("{name} is older than this program; missing: {}", missing.join(", "));
            findings.push(finding(
                Severity::Bad,
                area,
                found,
                "upgrade the chart, or apply deploy/crds.yaml",
            ));
        }
    }
    if findings.is_empty() {
        vec![ok(area, "all three are installed and current")]
    } else {
        findings
    }
}

//! Comparison of what is extracted from an object with the Kubernetes type of its kind.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Pod, PodSpec, PodTemplate, ReplicationController},
};
use prewarmer_core::{
    image::ImageRef,
    workload::{EmptyContext, MAX_IMAGES, ObjectView, WarmDecision, Workload, WorkloadKind},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{POLICY, SKIPPING_POLICY};

/// Items of a list that are read; objects with more are not compared.
const MAX_ITEMS: usize = 1000;
/// Size up to which a required node affinity is read, in bytes of JSON.
const MAX_AFFINITY: usize = 64 * 1024;

/// Checks that images, node selector and pull credentials extracted from an object are those of its
/// Kubernetes type. Objects that the type cannot be decoded from are not compared, nor those whose
/// decision depends on annotations: images that they add or exclude.
pub(super) fn compare(object: &Value) {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (version, kind_name) = (text("apiVersion"), text("kind"));
    let Some(spec) = pod_spec(version, kind_name, object) else { return };
    let Some(kind) = POLICY.kinds.find_by_api_version(version, kind_name) else {
        // A PodTemplate is a template of no workload: nothing creates pods from it.
        assert_eq!(kind_name, "PodTemplate", "{version}");
        return;
    };
    if is_beyond_limits(&spec) {
        return;
    }
    let view = kind.parse_text(&object.to_string());
    let view = view.unwrap_or_else(|error| panic!("{error}: {object}"));
    let wanted = images(&spec);
    assert_eq!(view.image_count(), wanted.len(), "{object}");
    let (decision, _) = POLICY.evaluate(kind, &view, "shop", &EmptyContext);
    check_one_shot(kind, &view, &decision, object);
    let is_plain =
        ["/metadata", "/spec/template/metadata", "/spec/jobTemplate/spec/template/metadata"]
            .iter()
            .all(|at| {
                !object
                    .pointer(at)
                    .is_some_and(|at| at["annotations"].to_string().contains("prewarm.io/"))
            });
    if !is_plain {
        return;
    }
    let valid: BTreeSet<String> = wanted
        .iter()
        .filter_map(|image| image.parse::<ImageRef>().ok())
        .map(|image| image.normalized().to_owned())
        .collect();
    if valid.len() > MAX_IMAGES {
        return;
    }
    match decision {
        WarmDecision::Ignored(_) => {}
        WarmDecision::Warm(workloads) => {
            let [workload] = workloads.as_slice() else { panic!("several: {object}") };
            let found = workload.images.iter().map(|image| image.normalized().to_owned()).collect();
            assert_eq!(valid, found, "{object}");
            check_fields(workload, &spec);
        }
        WarmDecision::NoImages => assert_eq!(valid, BTreeSet::new(), "{object}"),
        WarmDecision::OptedOut => panic!("opted out without an annotation: {object}"),
        WarmDecision::OneShot(_) | WarmDecision::IfRecurring(..) => {
            panic!("one-shot although the policy warms all: {object}")
        }
    }
}

/// Checks the decision of a policy that skips one-shot objects: only Jobs and pods differ, Jobs by the
/// fields of their Kubernetes type.
fn check_one_shot(kind: &WorkloadKind, view: &ObjectView, warmed: &WarmDecision, object: &Value) {
    let (decision, _) = SKIPPING_POLICY.evaluate(kind, view, "shop", &EmptyContext);
    let is_one_shot = match decision {
        WarmDecision::OneShot(_) => true,
        WarmDecision::IfRecurring(_, workloads) => {
            assert_eq!(WarmDecision::Warm(workloads), *warmed, "{object}");
            true
        }
        other => {
            assert_eq!(other, *warmed, "{object}");
            false
        }
    };
    if !is_one_shot {
        return;
    }
    assert!(matches!(warmed, WarmDecision::Warm(_) | WarmDecision::NoImages), "{object}");
    if kind.is_pod() {
        return;
    }
    let Some(spec) = decode::<Job>(object).and_then(|job| job.spec) else {
        panic!("one-shot, and neither a pod nor a Job: {object}")
    };
    assert!(spec.suspend != Some(true) && spec.parallelism != Some(0), "{object}");
    let is_placed = spec.template.spec.is_some_and(|pod| pod.node_name.is_some());
    let at_once = spec.parallelism.unwrap_or(1);
    assert!(is_placed || spec.completions.is_none_or(|count| count <= at_once), "{object}");
}

/// Checks the node selector and the pull credentials of a workload.
fn check_fields(workload: &Workload, spec: &PodSpec) {
    let selector = spec.node_selector.clone().unwrap_or_default();
    assert_eq!(workload.placement.node_selector, selector);
    let account = spec.service_account_name.clone().filter(|name| !name.is_empty());
    assert_eq!(workload.credentials.service_account_name, account);
    let secrets = spec.image_pull_secrets.iter().flatten();
    let secrets = secrets.map(|secret| secret.name.clone()).filter(|name| !name.is_empty());
    assert_eq!(workload.credentials.image_pull_secrets, secrets.collect::<Vec<_>>());
}

/// Decodes an object of a type, unless it has another API version or kind.
fn decode<T: DeserializeOwned>(object: &Value) -> Option<T> {
    serde_json::from_value(object.clone()).ok()
}

/// Returns the pod spec of an object, by its Kubernetes type.
fn pod_spec(version: &str, kind: &str, object: &Value) -> Option<PodSpec> {
    match (version, kind) {
        ("v1", "Pod") => decode::<Pod>(object)?.spec,
        ("v1", "PodTemplate") => decode::<PodTemplate>(object)?.template?.spec,
        ("v1", "ReplicationController") => {
            decode::<ReplicationController>(object)?.spec?.template?.spec
        }
        ("apps/v1", "Deployment") => decode::<Deployment>(object)?.spec.template.spec,
        ("apps/v1", "StatefulSet") => decode::<StatefulSet>(object)?.spec.template.spec,
        ("apps/v1", "DaemonSet") => decode::<DaemonSet>(object)?.spec.template.spec,
        ("apps/v1", "ReplicaSet") => decode::<ReplicaSet>(object)?.spec.template?.spec,
        ("batch/v1", "Job") => decode::<Job>(object)?.spec?.template.spec,
        ("batch/v1", "CronJob") => decode::<CronJob>(object)?.spec.job_template.spec?.template.spec,
        _ => None,
    }
}

/// Returns the images of all containers and image volumes, duplicates included.
fn images(spec: &PodSpec) -> Vec<&str> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let containers = containers.filter_map(|container| container.image.as_deref());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.filter_map(|container| container.image.as_deref());
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
    let volumes = volumes.filter_map(|image| image.reference.as_deref());
    containers.chain(ephemeral).chain(volumes).filter(|image| !image.is_empty()).collect()
}

fn is_beyond_limits(spec: &PodSpec) -> bool {
    let lists = [
        spec.containers.len(),
        spec.init_containers.as_ref().map_or(0, Vec::len),
        spec.ephemeral_containers.as_ref().map_or(0, Vec::len),
        spec.volumes.as_ref().map_or(0, Vec::len),
        spec.image_pull_secrets.as_ref().map_or(0, Vec::len),
        spec.node_selector.as_ref().map_or(0, std::collections::BTreeMap::len),
    ];
    let affinity = serde_json::to_string(&spec.affinity).map_or(0, |text| text.len());
    lists.iter().any(|length| *length > MAX_ITEMS) || affinity > MAX_AFFINITY
}

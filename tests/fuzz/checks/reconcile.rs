//! One task reconciled with nodes, workers and a plan that other users have modified.

use prewarmer_core::controller::{ControllerHarness, SimulatedResponse};
use serde_json::{Value, json};

/// Source of choices, taken from the fuzzer's bytes.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    /// Returns true once in `of` values; false when no bytes are left.
    fn one_in(&mut self, of: u8) -> bool {
        !self.0.is_empty() && self.byte() % of == of - 1
    }

    fn pick<'v, T>(&mut self, from: &'v [T]) -> &'v T {
        &from[usize::from(self.byte()) % from.len()]
    }

    /// Returns a value that another user may have written.
    fn value(&mut self) -> Value {
        match self.byte() % 4 {
            0 => json!(self.pick(&NUMBERS)),
            1 => json!("x".repeat(usize::from(self.byte()) * 40)),
            _ => json!(self.pick(&TEXTS)),
        }
    }
}

const NUMBERS: [i64; 9] = [0, 1, 2, 5, 100, 255, 65_536, 4_294_967_295, i64::MAX];
const TEXTS: [&str; 40] = [
    "",
    "0",
    "1",
    "5",
    "-1",
    "999",
    "255",
    "65535",
    "65536",
    "4294967295",
    "18446744073709551616",
    "0,1,2",
    "0,0,0",
    "2,999",
    ",",
    "n0",
    "n1",
    "n9",
    "shop",
    "bank",
    "uid-t",
    "uid-x",
    "t",
    "all",
    "auto",
    "100%",
    "0%",
    "24h",
    "1s",
    "0s",
    "168h",
    "0.0000001ms",
    "5124095576030430h59m",
    "99999999999999999999h",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2026-01-01T00:00:00Z",
    "\u{202e}\u{0}\u{1f4a3}",
    "429 Too Many Requests, retry-after: 99999999999999s",
    "failed to pull: not found",
];
/// Fields of a task's spec.
const SPEC: [&str; 21] = [
    "images",
    "nodeSelector",
    "nodeAffinity",
    "tolerations",
    "nodes",
    "batchSize",
    "batchPolicy",
    "timeout",
    "deadline",
    "priority",
    "failurePolicy",
    "retry",
    "successThreshold",
    "imagePullSecrets",
    "serviceAccountName",
    "retain",
    "worker",
    "pullMethod",
    "ttlSecondsAfterFinished",
    "suspend",
    "cancel",
];
const STATUS: [&str; 12] = [
    "phase",
    "conditions",
    "totalNodes",
    "succeededNodes",
    "failedNodeCount",
    "totalBatches",
    "batchEnds",
    "images",
    "nodeStates",
    "startTime",
    "completionTime",
    "failedNodes",
];
/// JSON pointers to fields of a worker, pod, node or plan that another user may have written.
const METADATA: [&str; 16] = [
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/uid",
    "/metadata/creationTimestamp",
    "/metadata/deletionTimestamp",
    "/metadata/ownerReferences/0/uid",
    "/metadata/ownerReferences/0/name",
    "/metadata/labels/prewarm.io~1task-uid",
    "/metadata/labels/prewarm.io~1batch",
    "/metadata/labels/prewarm.io~1attempt",
    "/metadata/labels/prewarm.io~1part",
    "/metadata/annotations/prewarm.io~1images",
    "/metadata/annotations/prewarm.io~1node-name",
    "/metadata/annotations/prewarm.io~1task-namespace",
    "/spec/nodes/0",
    "/spec/atOnce",
];

/// Reconciles a task built from the bytes, with nodes, workers and a plan that other users have
/// modified. Nothing may panic, whether the panic would be caught or not.
pub fn reconcile(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let mut reconciler = ControllerHarness::new();
    for n in 0..choices.byte() % 5 {
        reconciler.deliver(&node(&mut choices, n));
    }
    reconciler.deliver(&task(&mut choices, "t"));
    if choices.one_in(4) {
        reconciler.deliver(&task(&mut choices, "x"));
    }
    for _ in 0..8 {
        let mut made = Vec::new();
        reconciler.round(|asked| {
            let answer = *choices.pick(&[
                SimulatedResponse::Applied,
                SimulatedResponse::Applied,
                SimulatedResponse::Applied,
                SimulatedResponse::ResponseLost,
                SimulatedResponse::TransientError,
                SimulatedResponse::PermanentError,
                SimulatedResponse::Unstorable,
            ]);
            if let (Some(object), SimulatedResponse::Applied | SimulatedResponse::ResponseLost) =
                (&asked.object, answer)
            {
                made.push(object.clone());
            }
            answer
        });
        for mut object in made {
            if let Some(pod) = pod_of(&mut choices, &object) {
                reconciler.deliver(&pod);
            }
            write_into(&mut choices, &mut object);
            if object["kind"] == "Job" && choices.one_in(3) {
                object["status"] = json!({"conditions": [{"type": choices.pick(&["Complete", "Failed"]), "status": "True",
                    "reason": choices.value(), "message": choices.value()}]});
            }
            reconciler.deliver(&object);
        }
        if choices.one_in(4) {
            let stored = reconciler.tasks().next().cloned();
            if let Some(mut task) = stored {
                let field = *choices.pick(&STATUS);
                task["status"][field] = choices.value();
                task["metadata"]["resourceVersion"] = choices.value();
                reconciler.deliver(&task);
            }
        }
        if choices.one_in(4) {
            let n = choices.byte() % 5;
            reconciler.deliver(&node(&mut choices, n));
        }
    }
    assert_eq!(reconciler.internal_errors(), 0);
}

/// Overwrites up to three fields of `METADATA`.
fn write_into(choices: &mut Choices<'_>, object: &mut Value) {
    for _ in 0..choices.byte() % 4 {
        let place = *choices.pick(&METADATA);
        let value = choices.value();
        if let Some(place) = object.pointer_mut(place) {
            *place = value;
        }
    }
}

fn task(choices: &mut Choices<'_>, name: &str) -> Value {
    let images = usize::from(choices.byte() % 70) + 1;
    let mut spec = json!({"images": (0..images).map(|n| format!("image-{n}:1")).collect::<Vec<_>>(), "timeout": "60s",
        "failurePolicy": choices.pick(&["Skip", "Retry"]), "worker": choices.pick(&["Job", "Pod"]),
        "batchPolicy": choices.pick(&["Barrier", "Rolling", "Doubling"]), "batchSize": 2});
    for _ in 0..choices.byte() % 4 {
        let field = *choices.pick(&SPEC);
        spec[field] = match field {
            "images" | "tolerations" | "imagePullSecrets" => json!([choices.value()]),
            "retry" => {
                json!({"limit": choices.pick(&NUMBERS), "delay": choices.pick(&TEXTS), "strategy": "Exponential"})
            }
            "suspend" | "cancel" => json!(choices.one_in(2)),
            _ => choices.value(),
        };
    }
    let mut status = json!({});
    for _ in 0..choices.byte() % 3 {
        let field = *choices.pick(&STATUS);
        status[field] = choices.value();
    }
    json!({"kind": "PrewarmTask", "apiVersion": "prewarm.io/v1alpha1", "spec": spec, "status": status,
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "1",
            "creationTimestamp": choices.pick(&["2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])}})
}

fn node(choices: &mut Choices<'_>, n: u8) -> Value {
    let mut images = Vec::new();
    for _ in 0..choices.byte() % 3 {
        images.push(json!({"names": [choices.value()], "sizeBytes": 1}));
    }
    let ready = if choices.one_in(5) { "False" } else { "True" };
    let time =
        choices.pick(&["2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"]);
    json!({"kind": "Node", "metadata": {"name": format!("n{n}"), "uid": format!("node-{n}"), "labels": {"zone": choices.pick(&TEXTS)}},
        "status": {"images": images, "nodeInfo": {"kubeletVersion": choices.pick(&["v1.36.0", "", "v.", "v99999999999.1"]),
            "containerRuntimeVersion": choices.pick(&["containerd://2.1.0", "x", ""]), "architecture": "amd64", "bootID": "b",
            "operatingSystem": "linux", "machineID": "m", "kernelVersion": "", "osImage": "", "systemUUID": "",
            "kubeProxyVersion": ""},
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": time, "lastHeartbeatTime": time}]}})
}

/// Returns the pod that the Job controller creates for a worker Job, or a worker pod with a status.
fn pod_of(choices: &mut Choices<'_>, worker: &Value) -> Option<Value> {
    let template = if worker["kind"] == "Job" { &worker["spec"]["template"] } else { worker };
    if worker["kind"] == "PrewarmPlan" || choices.one_in(4) {
        return None;
    }
    let mut pod = template.clone();
    pod["kind"] = json!("Pod");
    if worker["kind"] == "Job" {
        let name = worker["metadata"]["name"].as_str().unwrap_or_default();
        pod["metadata"]["name"] = json!(format!("{name}-pod"));
        pod["metadata"]["namespace"] = worker["metadata"]["namespace"].clone();
        pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(name);
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": worker["metadata"]["uid"], "controller": true}]);
    }
    let mut statuses = Vec::new();
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        let reason = *choices.pick(&[
            "ErrImagePull",
            "ImagePullBackOff",
            "ContainerCreating",
            "InvalidImageName",
            "Strange",
        ]);
        let state = if choices.one_in(2) {
            json!({"terminated": {"exitCode": 0, "reason": "Completed"}})
        } else {
            json!({"waiting": {"reason": reason, "message": choices.value()}})
        };
        let name = if choices.one_in(8) {
            json!(choices.pick(&["image-999", "image-65536", "x"]))
        } else {
            container["name"].clone()
        };
        statuses.push(
            json!({"name": name, "image": "", "imageID": choices.pick(&TEXTS), "ready": false, "restartCount": 0,
            "state": state}),
        );
    }
    let phase = *choices.pick(&["Pending", "Running", "Succeeded", "Failed", "Unknown"]);
    pod["status"] = json!({"phase": phase, "reason": choices.pick(&TEXTS), "message": choices.pick(&TEXTS),
        "containerStatuses": statuses});
    write_into(choices, &mut pod);
    Some(pod)
}

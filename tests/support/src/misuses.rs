//! Changes that give a worker more access, which the admission policies of an installation deny.

use serde_json::{Value, json};

/// JSON pointer of a field and the value to set there.
pub type Misuse = (String, Value);

/// Returns changes that a thief of the token could try in a worker of this kind (`Pod` or `Job`).
pub fn worker_misuses(kind: &str, by_helper: bool) -> Vec<Misuse> {
    let spec = if kind == "Job" { "/spec/template/spec" } else { "/spec" };
    let mut all = pod_misuses(spec);
    all.extend(container_misuses(&format!("{spec}/containers/0")));
    all.extend(volume_misuses(spec, by_helper));
    all.extend(metadata_misuses("/metadata"));
    if kind == "Job" {
        all.extend(job_misuses());
        all.extend(
            metadata_misuses("/spec/template/metadata")
                .into_iter()
                .filter(|(path, _)| !path.ends_with("ownerReferences")),
        );
    } else {
        all.push((format!("{spec}/activeDeadlineSeconds"), Value::Null));
        all.push((format!("{spec}/activeDeadlineSeconds"), json!(10_000_000)));
    }
    all
}

fn pod_misuses(spec: &str) -> Vec<Misuse> {
    let set = |key: &str, value: Value| (format!("{spec}/{key}"), value);
    vec![
        set("hostNetwork", json!(true)),
        set("hostPID", json!(true)),
        set("hostIPC", json!(true)),
        set("shareProcessNamespace", json!(true)),
        set("hostUsers", json!(true)),
        set("automountServiceAccountToken", json!(true)),
        set("nodeName", json!("")),
        set("restartPolicy", json!("OnFailure")),
        set("terminationGracePeriodSeconds", json!(3600)),
        set("priorityClassName", json!("system-node-critical")),
        set("priorityClassName", json!("")),
        set("priorityClassName", Value::Null),
        set("runtimeClassName", json!("fence")),
        set("hostAliases", json!([{"ip": "10.0.0.1", "hostnames": ["registry"]}])),
        set("dnsConfig", json!({"nameservers": ["10.0.0.1"]})),
        set("dnsPolicy", json!("Default")),
        set("hostname", json!("db-0")),
        set("subdomain", json!("db")),
        set("setHostnameAsFQDN", json!(true)),
        set("readinessGates", json!([{"conditionType": "example.com/ready"}])),
        set("resources", json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2"}})),
        set("securityContext/runAsUser", json!(0)),
        set("securityContext/runAsGroup", json!(0)),
        set("securityContext/runAsNonRoot", json!(false)),
        set("securityContext/supplementalGroups", json!([0])),
        set("securityContext/fsGroup", json!(0)),
        set("securityContext/seccompProfile", json!({"type": "Unconfined"})),
        set("securityContext/appArmorProfile", json!({"type": "Unconfined"})),
        set("securityContext/seLinuxOptions", json!({"type": "spc_t"})),
        set("securityContext/seLinuxOptions", json!({"user": "system_u"})),
        set("securityContext/sysctls", json!([{"name": "kernel.shm_rmid_forced", "value": "1"}])),
        set("securityContext/windowsOptions", json!({"runAsUserName": "ContainerAdministrator"})),
    ]
}

fn container_misuses(container: &str) -> Vec<Misuse> {
    let set = |key: &str, value: Value| (format!("{container}/{key}"), value);
    let dropped = json!({"drop": ["ALL"]});
    vec![
        set("command", json!(["/bin/sh", "-c", "id"])),
        set("command", json!(["/prewarmer-helper", "install", "/x"])),
        set("args", json!(["x"])),
        set(
            "env",
            json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
        ),
        set("envFrom", json!([{"secretRef": {"name": "s"}}])),
        set("lifecycle", json!({"postStart": {"exec": {"command": ["id"]}}})),
        set("livenessProbe", json!({"exec": {"command": ["id"]}})),
        set("startupProbe", json!({"httpGet": {"host": "10.0.0.1", "port": 80}})),
        set("ports", json!([{"containerPort": 80, "hostPort": 80}])),
        set("stdin", json!(true)),
        set("tty", json!(true)),
        set("volumeMounts/0/mountPath", json!("/bin")),
        set("volumeMounts/0/mountPropagation", json!("HostToContainer")),
        set("volumeMounts/0/subPath", json!("a")),
        set(
            "securityContext",
            json!({"privileged": true, "readOnlyRootFilesystem": true, "capabilities": dropped}),
        ),
        set("securityContext/allowPrivilegeEscalation", json!(true)),
        set("securityContext/readOnlyRootFilesystem", json!(false)),
        set("securityContext/capabilities", json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})),
        set("securityContext/capabilities", json!({"drop": ["NET_RAW"]})),
        set("securityContext/runAsUser", json!(0)),
        set("securityContext/runAsGroup", json!(0)),
        set("securityContext/seccompProfile", json!({"type": "Unconfined"})),
        set("securityContext/appArmorProfile", json!({"type": "Unconfined"})),
        set("securityContext/seLinuxOptions", json!({"type": "spc_t"})),
        set("securityContext/windowsOptions", json!({"runAsUserName": "ContainerAdministrator"})),
        set("resources/requests", json!({"cpu": "50m", "memory": "1Mi"})),
        set("resources/requests/memory", json!("20Mi")),
        set("resources/requests/ephemeral-storage", json!("100Gi")),
        set("resources/limits/cpu", json!("4")),
        set("resources/limits/memory", json!("16Gi")),
        set("resources", json!({})),
        set("resources", json!({"limits": {"cpu": "100m", "memory": "32Mi"}})),
        set(
            "resources",
            json!({
                "requests": {"cpu": "1m", "memory": "1Mi", "example.com/gpu": "1"},
                "limits": {"cpu": "100m", "memory": "32Mi", "example.com/gpu": "1"},
            }),
        ),
    ]
}

fn volume_misuses(spec: &str, by_helper: bool) -> Vec<Misuse> {
    let (one_more, first) = (format!("{spec}/volumes/-"), format!("{spec}/volumes/0"));
    let token = json!({"sources": [{"serviceAccountToken": {"path": "t"}}]});
    let mut all = vec![
        (one_more.clone(), json!({"name": "h", "hostPath": {"path": "/"}})),
        (one_more.clone(), json!({"name": "image-h", "hostPath": {"path": "/"}})),
        (one_more.clone(), json!({"name": "s", "secret": {"secretName": "x"}})),
        (one_more.clone(), json!({"name": "image-s", "configMap": {"name": "x"}})),
        (one_more.clone(), json!({"name": "t", "projected": token})),
        (one_more.clone(), json!({"name": "e", "emptyDir": {}})),
        (one_more.clone(), json!({"name": "c", "persistentVolumeClaim": {"claimName": "x"}})),
    ];
    if by_helper {
        all.extend([
            (first.clone(), json!({"name": "helper", "image": {"reference": "evil.example/x:1"}})),
            (first.clone(), json!({"name": "helper", "emptyDir": {}})),
            (first.clone(), json!({"name": "helper", "emptyDir": {"sizeLimit": "10Gi"}})),
            (
                first,
                json!({"name": "helper", "emptyDir": {"sizeLimit": "16Mi", "medium": "Memory"}}),
            ),
            (format!("{spec}/initContainers/0/command"), json!(["/prewarmer-helper", "ok"])),
            (format!("{spec}/initContainers/0/image"), json!("evil.example/prewarmer-helper:1")),
            (format!("{spec}/initContainers/0/restartPolicy"), json!("Always")),
            (format!("{spec}/initContainers/0/resources/requests/cpu"), json!("100m")),
            (format!("{spec}/initContainers/0/securityContext/runAsUser"), json!(0)),
        ]);
    } else {
        all.extend([
            (one_more, json!({"name": "helper", "image": {"reference": "evil.example/x:1"}})),
            // A program of the image itself under the helper's name.
            (format!("{spec}/containers/0/image"), json!("evil.example/prewarmer-helper:1")),
        ]);
    }
    all
}

fn metadata_misuses(meta: &str) -> Vec<Misuse> {
    let set = |key: &str, value: Value| (format!("{meta}/{key}"), value);
    let owner = |version: &str, kind: &str, controller: bool| json!([{"apiVersion": version, "kind": kind, "name": "x", "uid": "u-1", "controller": controller}]);
    vec![
        set("labels", json!({"a": "b"})),
        // A Service, a NetworkPolicy or a ReplicaSet could select it.
        set("labels/app", json!("web")),
        set("finalizers", json!(["example.com/stay"])),
        set(
            "annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/image-0": "unconfined"}),
        ),
        set("annotations", json!({"k8s.v1.cni.cncf.io/networks": "host-net"})),
        set("ownerReferences", Value::Null),
        set("ownerReferences", owner("apps/v1", "ReplicaSet", true)),
        set("ownerReferences", owner("coordination.k8s.io/v1", "Lease", true)),
        set("ownerReferences", owner("prewarm.io/v1alpha1", "PrewarmTask", false)),
    ]
}

fn job_misuses() -> Vec<Misuse> {
    let set = |key: &str, value: Value| (format!("/spec/{key}"), value);
    let rule = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    vec![
        set("suspend", json!(true)),
        set("parallelism", json!(5)),
        set("parallelism", json!(0)),
        set("completions", json!(5)),
        set("backoffLimit", json!(3)),
        set("activeDeadlineSeconds", Value::Null),
        set("activeDeadlineSeconds", json!(10_000_000)),
        set("ttlSecondsAfterFinished", Value::Null),
        set("ttlSecondsAfterFinished", json!(100_000_000)),
        set("managedBy", json!("example.com/other")),
        set("podFailurePolicy", json!({"rules": [rule]})),
    ]
}

/// Applies each change to a valid worker and passes all results to `create`, which creates them as
/// a dry run. Returns the number of objects denied by a policy, and a description of each that was
/// not.
pub fn try_misuses(
    good: &Value,
    misuses: &[Misuse],
    create: impl Fn(&Value) -> String,
) -> (usize, Vec<String>) {
    let name = |index: usize| format!("misuse-{index:03}");
    let changed = |(index, (path, value)): (usize, &Misuse)| {
        let mut bad = good.clone();
        bad["metadata"]["name"] = json!(name(index));
        set_pointer(&mut bad, path, value.clone());
        bad
    };
    let items: Vec<Value> = misuses.iter().enumerate().map(changed).collect();
    let said = create(&json!({"apiVersion": "v1", "kind": "List", "items": items}));
    let mut others = Vec::new();
    for (index, (path, value)) in misuses.iter().enumerate() {
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(&name(index))).collect();
        if !lines.iter().any(|line| line.contains("ValidatingAdmissionPolicy")) {
            others.push(format!("{path} = {value}: {lines:?}"));
        }
    }
    (misuses.len() - others.len(), others)
}

/// Sets the value at a JSON pointer. `-` appends an element; a null value is set as null.
pub fn set_pointer(object: &mut Value, path: &str, value: Value) {
    let mut place = object;
    for part in path.split('/').skip(1) {
        place = match part.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) if part == "-" => {
                let list = place.as_array_mut().unwrap();
                list.push(Value::Null);
                list.last_mut().unwrap()
            }
            Err(_) => &mut place[part],
        };
    }
    *place = value;
}

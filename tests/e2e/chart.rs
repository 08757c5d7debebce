//! Chart as Helm and the API server validate it. `installed.rs` tests an installation.

use std::path::Path;

use prewarmer_test_support::cluster::{CHART, Cluster};
use serde_json::{Map, Value, json};

use crate::TestCluster;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Kinds of other projects that the chart can render. The definitions created here accept every
/// field: the test only verifies that the API server accepts the kind and the name.
const THIRD_PARTY_KINDS: [(&str, &str, &str, &str); 5] = [
    ("cert-manager.io", "v1", "Certificate", "certificates"),
    ("cert-manager.io", "v1", "Issuer", "issuers"),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
];

#[tokio::test(flavor = "multi_thread")]
async fn chart_passes_helm_lint() {
    let cluster = Cluster::shared();
    for set in ["full", "namespaced", "minimal"] {
        let (fine, said) = cluster.try_helm(&[
            "lint",
            "--strict",
            CHART,
            "-f",
            &format!("{ROOT}/tests/chart/{set}.yaml"),
        ]);
        assert!(fine && !said.contains("[WARNING]"), "{set}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_values_are_rejected_by_name() {
    let cluster = Cluster::shared();
    for (value, named) in [
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("replicas=0", "/replicas"),
        ("replicaCount=3", "replicaCount"),
        ("settings.coaleseWindow=2s", "coaleseWindow"),
        ("settings.webhookAddr=0.0.0.0:1", "webhookAddr"),
        ("settings.maxWorkers=20000", "/settings/maxWorkers"),
        ("settings.maxWorkers=many", "/settings/maxWorkers"),
        ("settings.diskCheck=maybe", "/settings/diskCheck"),
        ("settings.coalesceWindow=2", "/settings/coalesceWindow"),
        ("settings.knownFor=2d", "/settings/knownFor"),
        ("settings.defaultMode=sometimes", "/settings/defaultMode"),
        ("settings.egressDeny=nowhere", "/settings/egressDeny"),
        ("settings.notifyPorts=https", "/settings/notifyPorts"),
        ("settings.prometheusThreshold=0.9", "/settings/prometheusThreshold"),
        ("settings.allowedRegistries=https://r.example", "/settings/allowedRegistries"),
        ("certificates.mode=magic", "/certificates/mode"),
        ("certificates.mode=secret", "name the Secret"),
        ("api.ingress.enabled=true", "name the host"),
        ("api.httpRoute.enabled=true", "name the gateway"),
        ("kinds[0]=Rollout", "/kinds/0"),
        ("image.digest=sha256:1", "/image/digest"),
        ("watchNamespace=Team A", "/watchNamespace"),
        ("priorityClasses.worker=5", "/priorityClasses/worker"),
    ] {
        let (taken, said) = cluster.try_helm(&["template", "prewarmer", CHART, "--set", value]);
        assert!(!taken && said.contains(named), "{value}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_may_be_in_quotes() {
    let cluster = Cluster::shared();
    for value in ["settings.maxWorkers=500", "settings.diskCheck=true", "settings.logFormat="] {
        for option in ["--set", "--set-string"] {
            let (taken, said) = cluster.try_helm(&["template", "prewarmer", CHART, option, value]);
            assert!(taken, "{option} {value}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_settings_are_accepted() {
    let cluster = Cluster::shared();
    let schema = std::fs::read_to_string(format!("{CHART}/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let settings = schema["properties"]["settings"]["properties"].as_object().unwrap();
    let defaults: Map<String, Value> = settings
        .iter()
        .filter_map(|(name, schema)| Some((name.clone(), schema.get("default")?.clone())))
        .collect();
    let unusual = json!({
        "allowedRegistries": "registry.example.com:5000/team, docker.io/library,[::1]:5000/a",
        "apiCorsOrigins": "https://portal.example.com, http://[::1]:80,*",
        "apiRate": 1_000_000,
        "coalesceWindow": "1.5s",
        "defaultDeadline": "1h30m",
        "egressDeny": "10.0.0.0/8, fd00::/8,",
        "maxImageSize": 1_000_000,
        "notifyPorts": "80,9000 - 9100",
        "prometheusThreshold": "< -1e-3",
        "prometheusUrl": "http://prometheus.monitoring:9090",
        "tokenAudience": "https://kubernetes.default.svc,prewarmer",
        "trustedProxies": "10.0.0.0/8, 192.0.2.1,fd00::1",
    });
    for settings in [json!(defaults), unusual] {
        let values = format!("settings={settings}");
        let (taken, said) =
            cluster.try_helm(&["template", "prewarmer", CHART, "--set-json", &values]);
        assert!(taken, "{settings}: {said}");
    }
}

/// Applies the output of `make generate` as a dry run to the real API server, which compiles the
/// expressions of the policies.
#[tokio::test(flavor = "multi_thread")]
async fn api_server_accepts_rendered_chart() {
    let cluster = Cluster::shared();
    for name in ["prewarmer", "team-a"] {
        // Another run on this cluster may have created them.
        let _ = cluster.try_kubectl(&["create", "namespace", name], "");
    }
    let definitions = THIRD_PARTY_KINDS.map(|(group, version, kind, plural)| {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let protected = "api-approved.kubernetes.io";
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}"), "annotations": {protected: "unapproved, for a test"}},
            "spec": {
                "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
                "versions": [{"name": version, "served": true, "storage": true, "schema": schema}],
            },
        })
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": definitions});
    cluster.kubectl(&["apply", "--server-side", "-f", "-"], &list.to_string());
    let names = THIRD_PARTY_KINDS.map(|(group, _, _, plural)| format!("crd/{plural}.{group}"));
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=30s"];
    wait.extend(names.iter().map(String::as_str));
    cluster.kubectl(&wait, "");
    for file in [
        "deploy/prewarmer.yaml",
        "tests/chart/full.txt",
        "tests/chart/namespaced.txt",
        "tests/chart/minimal.txt",
    ] {
        let text = std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        // The test verifies names and values of fields, not field ownership.
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        let (taken, said) = cluster.try_kubectl(&apply, &text);
        assert!(taken && !said.contains("Warning"), "{file}: {said}");
    }
    let base = cluster.kubectl(&["kustomize", &format!("{ROOT}/deploy")], "");
    assert!(base.contains("kind: ValidatingAdmissionPolicyBinding"), "{base}");
}

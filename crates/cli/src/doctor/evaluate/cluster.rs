//! Evaluation of the cluster: version, clocks and nodes.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use crate::doctor::{
    finding::{Finding, Severity, finding, ok, unavailable},
    results::ClusterResults,
};

/// Oldest supported Kubernetes version: `ValidatingAdmissionPolicy` and match conditions are stable
/// since then.
const MIN_KUBERNETES_VERSION: (u32, u32) = (1, 30);
/// Largest tolerated difference of clocks. Larger ones falsify durations; with some minutes,
/// certificates are not yet valid.
const MAX_CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn server(answers: &ClusterResults) -> Finding {
    let area = "kubernetes";
    let Some(server) = answers.server.found() else {
        return unavailable(area, &answers.server, "read the version").unwrap_or_else(|| {
            finding(
                Severity::Bad,
                area,
                "no version reported",
                "check that this is a Kubernetes API server",
            )
        });
    };
    if server.version < MIN_KUBERNETES_VERSION {
        let found = format!("{} is not supported", server.text);
        return finding(
            Severity::Bad,
            area,
            found,
            format!(
                "upgrade to Kubernetes {}.{} or newer",
                MIN_KUBERNETES_VERSION.0, MIN_KUBERNETES_VERSION.1
            ),
        );
    }
    ok(area, server.text.clone())
}

pub(super) fn clocks(answers: &ClusterResults) -> Option<Finding> {
    let (theirs, ours) = answers.server.found()?.clocks?;
    let apart = theirs.duration_since(ours).abs();
    // The time in the header is in whole seconds.
    if apart <= MAX_CLOCK_DIFFERENCE {
        return Some(ok("clocks", "the clocks of the API server and this machine agree"));
    }
    let found =
        format!("the clocks of the API server and this machine differ by {} s", apart.as_secs());
    Some(finding(
        Severity::Warning,
        "clocks",
        found,
        "synchronize both by NTP: certificates and durations depend on them",
    ))
}

pub(super) fn nodes(answers: &ClusterResults) -> Vec<Finding> {
    let area = "nodes";
    let Some(nodes) = answers.nodes.found() else {
        return unavailable(area, &answers.nodes, "list nodes").into_iter().collect();
    };
    let volumes = nodes.iter().filter(|node| node.supports_image_volumes()).count();
    let linux = nodes.iter().filter(|node| &*node.os != "windows").count();
    let mut findings = Vec::new();
    if nodes.is_empty() {
        findings.push(finding(
            Severity::Warning,
            area,
            "the cluster has no nodes",
            "add nodes: images are pulled to existing nodes only",
        ));
        return findings;
    }
    let helper = linux - volumes;
    findings.push(ok(
        area,
        format!("{linux} Linux nodes: {volumes} pull by image volumes, {helper} by the helper (older kubelet or runtime)"),
    ));
    let windows = nodes.len() - linux;
    if windows > 0 {
        let found = format!("{windows} Windows nodes");
        findings.push(finding(
            Severity::Warning,
            area,
            found,
            "images are pulled to Linux nodes only",
        ));
    }
    let architectures: BTreeSet<&str> = nodes.iter().map(|node| &*node.architecture).collect();
    let other: Vec<&str> =
        architectures.into_iter().filter(|name| !matches!(*name, "amd64" | "arm64")).collect();
    if !other.is_empty() {
        let found = format!("unsupported architectures: {}", other.join(", "));
        let remedy = "the helper is built for amd64 and arm64: build it for these too, or exclude the nodes by nodeSelector";
        findings.push(finding(Severity::Warning, area, found, remedy));
    }
    findings
}

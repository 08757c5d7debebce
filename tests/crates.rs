//! Boundaries between the crates: dependencies point one way, and decisions cannot do I/O.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, path::Path, process::Command};

/// Crates that do I/O or serve it. Decisions must not depend on them.
const IO_CRATES: [&str; 12] = [
    "axum",
    "hyper",
    "kube-client",
    "kube-runtime",
    "mio",
    "prometheus",
    "reqwest",
    "rustls",
    "socket2",
    "tokio",
    "tower",
    "tracing-subscriber",
];

/// Returns the names of all crates that a crate of the workspace is built from, with all its
/// features and its tests.
fn dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .args(["tree", "--locked", "--offline", "--all-features", "--prefix=none", "--format={p}"])
        .args(["--edges=normal,build,dev", "--package", package])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn own(package: &str) -> BTreeSet<String> {
    let all = dependencies(package);
    all.into_iter().filter(|name| name.starts_with("prewarmer") && name != package).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn dependencies_between_crates_point_one_way() {
    assert_eq!(own("prewarmer-api"), names(&[]));
    assert_eq!(own("prewarmer-core"), names(&["prewarmer-api"]));
    assert_eq!(own("prewarmer-kube"), names(&["prewarmer-api", "prewarmer-core"]));
    assert_eq!(own("prewarmer-cli"), names(&["prewarmer-api", "prewarmer-core", "prewarmer-kube"]));
    assert_eq!(own("prewarmer-fleet"), names(&["prewarmer-api"]));
    assert_eq!(
        own("prewarmer-effect"),
        names(&["prewarmer-api", "prewarmer-fleet", "prewarmer-kube"])
    );
    assert_eq!(own("prewarmer-helper"), names(&[]));
    assert_eq!(own("prewarmer-test-support"), names(&["prewarmer-api"]));
}

#[test]
fn decisions_are_built_without_a_client_a_server_and_a_runtime() {
    for package in ["prewarmer-api", "prewarmer-core"] {
        let all = dependencies(package);
        let found: Vec<&str> = IO_CRATES.into_iter().filter(|name| all.contains(*name)).collect();
        assert!(found.is_empty(), "{package} depends on {found:?}");
    }
}

#[test]
fn code_for_clients_is_built_without_a_server() {
    let all = dependencies("prewarmer-kube");
    for name in ["axum", "askama", "clap", "moka", "rcgen", "reqwest", "rustls", "utoipa"] {
        assert!(!all.contains(name), "prewarmer-kube depends on {name}");
    }
}

#[test]
fn the_helper_is_built_from_the_standard_library_alone() {
    assert_eq!(dependencies("prewarmer-helper"), names(&["prewarmer-helper"]));
}

/// `prometheus` is a dependency of `prewarmer-kube` with the feature `runtime` only.
#[test]
fn the_plugin_links_no_server() {
    let all = dependencies("prewarmer-cli");
    for name in ["axum", "askama", "rcgen", "moka", "prometheus", "utoipa"] {
        assert!(!all.contains(name), "prewarmer-cli depends on {name}");
    }
}

//! The test cluster itself: it must leave nothing behind, however a test ends.

#![allow(clippy::unwrap_used)] // helpers of tests are not themselves tests to clippy

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The promise of `--owner`: no process is left this long after the owner's end.
const GRACE: Duration = Duration::from_secs(20);

fn cluster(words: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster");
    Command::new(script).args(words).stdin(Stdio::null()).output().unwrap()
}

fn alive(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
        && !fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default().contains(") Z ")
}

#[test]
fn ends_with_its_owner_even_by_kill_9() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("c");
    let path = folder.to_str().unwrap();
    // The owner is never waited for: what is left of it then still has its process id.
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let started = cluster(&["start", path, "--fake-nodes", "5", "--owner", &owner.id().to_string(), "--purge"]);
    let said = String::from_utf8_lossy(&started.stderr).into_owned();

    let status = cluster(&["status", path]);
    let mut processes = Vec::new();
    for file in fs::read_dir(folder.join("pids")).into_iter().flatten() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        processes.push(text.split(' ').next().unwrap().to_owned());
    }
    owner.kill().unwrap();
    assert!(started.status.success(), "{said}");
    let seen = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success() && seen.contains("5 of 5"), "{seen}");
    assert!(processes.len() >= 6, "etcd, three of Kubernetes, kwok and the watchdog run: {seen}");

    let begun = Instant::now();
    while folder.exists() || processes.iter().any(|process| alive(process)) {
        assert!(
            begun.elapsed() < GRACE,
            "still there: {:?}",
            processes.iter().filter(|p| alive(p)).collect::<Vec<_>>()
        );
        sleep(Duration::from_millis(200));
    }
    owner.wait().unwrap();
}

#[test]
fn never_touches_a_folder_that_it_did_not_make() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious");
    fs::write(&file, "").unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(!cluster(&["start", path, "--fake-nodes", "1"]).status.success());
    assert!(cluster(&["stop", path, "--purge"]).status.success());
    assert!(file.exists());
}

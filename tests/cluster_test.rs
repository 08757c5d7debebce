//! Test cluster: no process and no file remains, however a test ends.

#![allow(clippy::unwrap_used)] // helpers of tests are not themselves tests to clippy

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use prewarmer_test_support::not_run::not_run;

/// Maximum time from the owner's end until all processes have ended, as promised by `--owner`.
const GRACE: Duration = Duration::from_secs(20);

fn cluster(words: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster");
    Command::new(script).args(words).stdin(Stdio::null()).output().unwrap()
}

fn is_running(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
        && !fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default().contains(") Z ")
}

#[test]
fn cluster_ends_with_killed_owner() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("c");
    let path = folder.to_str().unwrap();
    // The test does not wait for the owner before the end, so that its process ID stays in use by
    // the zombie.
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let started = cluster(&[
        "start",
        path,
        "--fake-nodes",
        "5",
        "--owner",
        &owner.id().to_string(),
        "--purge",
    ]);
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
    assert!(
        processes.len() >= 6,
        "expected etcd, three Kubernetes processes, kwok and the watchdog: {seen}"
    );

    let begun = Instant::now();
    while folder.exists() || processes.iter().any(|process| is_running(process)) {
        assert!(
            begun.elapsed() < GRACE,
            "still running: {:?}",
            processes.iter().filter(|p| is_running(p)).collect::<Vec<_>>()
        );
        sleep(Duration::from_millis(200));
    }
    owner.wait().unwrap();
}

/// A killed process whose first thread has ended is a zombie, although its other threads still run
/// and hold its ports. A program that binds them next fails.
#[test]
fn process_with_running_threads_has_not_ended() {
    // The first thread ends 100 ms after the start; the second one runs for a minute.
    let script = "import ctypes, threading, time\n\
                  threading.Thread(target=time.sleep, args=(60,)).start()\n\
                  time.sleep(0.1)\n\
                  ctypes.CDLL(None).pthread_exit(None)";
    let Ok(mut child) = Command::new("python3").args(["-c", script]).spawn() else {
        not_run("process_with_running_threads_has_not_ended", "python3 is not installed");
        return;
    };
    let pid = child.id().to_string();
    let begun = Instant::now();
    while !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
        assert!(begun.elapsed() < GRACE, "the first thread has not ended");
        sleep(Duration::from_millis(20));
    }
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/lib/processes.sh");
    let is_running = || {
        let ask = format!("source {}; start_time {pid}", library.display());
        Command::new("bash").args(["-c", &ask]).output().unwrap().status.success()
    };
    let with_threads = is_running();
    child.kill().unwrap();
    while fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() > 1 {
        assert!(begun.elapsed() < GRACE, "the killed process has not ended");
        sleep(Duration::from_millis(20));
    }
    // Not waited for yet, so it is a zombie without threads.
    let without_threads = is_running();
    child.wait().unwrap();
    assert!(with_threads, "a process with a running thread counts as ended");
    assert!(!without_threads, "a zombie counts as running");
}

#[test]
fn cluster_keeps_other_directories() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious");
    fs::write(&file, "").unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(!cluster(&["start", path, "--fake-nodes", "1"]).status.success());
    assert!(cluster(&["stop", path, "--purge"]).status.success());
    assert!(file.exists());
}

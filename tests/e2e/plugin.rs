//! `kubectl prewarm`: each command as kubectl runs it, on a terminal and in a pipe, with every exit
//! code.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use prewarmer_api::task::{Phase, PrewarmTask, PrewarmTaskStatus};
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT, deployment, pod_spec, workload},
    namespace::Namespace,
    server::Server,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Exit code and output of a command.
#[derive(Debug)]
struct CommandOutput {
    code: i32,
    out: String,
    err: String,
}

impl CommandOutput {
    /// Asserts success and returns the standard output.
    fn success(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Asserts the exit code and returns the error, which is a single line.
    fn failure(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        let line = self
            .err
            .lines()
            .find(|line| line.starts_with("error: "))
            .unwrap_or_default()
            .to_owned();
        assert!(!line.is_empty() && !self.err.contains("panicked"), "{self:?}");
        line
    }
}

fn run(mut command: Command, input: &str) -> CommandOutput {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Returns a PATH on which kubectl finds the plugin, which `cargo build --workspace` puts next to
/// the server.
fn path_with_plugin() -> String {
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_prewarmer")).parent().unwrap();
    assert!(folder.join("kubectl-prewarm").is_file(), "run cargo build --workspace first");
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

/// Builds a `kubectl prewarm` command; kubectl finds the plugin on the PATH.
fn kubectl_prewarm(cluster: &Cluster, words: &[&str]) -> Command {
    let path = path_with_plugin();
    let mut command = Command::new(cluster.var("KUBECTL"));
    command
        .env("KUBECONFIG", cluster.var("KUBECONFIG"))
        .env("PATH", path)
        .arg("prewarm")
        .args(words);
    command
}

fn prewarm(namespace: &Namespace, words: &[&str]) -> CommandOutput {
    let words = [words, &["-n", &namespace.name]].concat();
    run(kubectl_prewarm(namespace.cluster, &words), "")
}

/// Returns the name of the first task in the output.
fn task_name(text: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("prewarmtask.prewarm.io/"))
        .unwrap_or_default();
    line.split(' ').next().unwrap_or_default().to_owned()
}

const FAKE_NODE_ARGS: [&str; 2] = ["--node-selector", "type=fake"];

#[tokio::test(flavor = "multi_thread")]
async fn run_with_image_arguments() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let run = [
        &["run", "registry.example/a:1", "redis:7", "--nodes", "12", "--batch-size", "4", "--wait"],
        &FAKE_NODE_ARGS[..],
    ]
    .concat();
    let text = prewarm(&namespace, &run).success();
    let name = task_name(&text);
    assert!(text.contains(&format!("{name}: Running ")) && text.contains("/12 nodes: "), "{text}");
    assert!(text.contains(&format!("{name} completed: warm on 12 of 12 nodes in ")), "{text}");
    assert!(!text.contains('\x1b'), "output in a pipe has colours: {text:?}");
    let list = prewarm(&namespace, &["ls"]).success();
    assert!(list.starts_with("NAME") && list.contains("Completed   12/12"), "{list}");
    let everywhere =
        self::run(kubectl_prewarm(cluster, &["ls", "-A", "-l", "prewarm.io/origin=user"]), "")
            .success();
    assert!(everywhere.starts_with("NAMESPACE") && everywhere.contains(&name), "{everywhere}");
    assert_eq!(
        prewarm(&namespace, &["ls", "--phase", "failed"]).err,
        format!("no tasks found in namespace {}\n", namespace.name)
    );
    assert_eq!(
        prewarm(&namespace, &["get", &name, "-o", "name"]).success(),
        format!("prewarmtask.prewarm.io/{name}\n")
    );
    let object: Value =
        serde_json::from_str(&prewarm(&namespace, &["get", &name, "-o", "json"]).success())
            .unwrap();
    assert_eq!(object["kind"], "PrewarmTask");
    let status: PrewarmTaskStatus = serde_json::from_value(object["status"].clone()).unwrap();
    assert_eq!(status.succeeded_nodes, 12, "{status:#?}");
    assert_eq!(status.batch_ends.len(), 3, "{status:#?}");
    let listed: Value =
        serde_json::from_str(&prewarm(&namespace, &["ls", "-o", "json"]).success()).unwrap();
    assert_eq!(listed["kind"], "List");
    assert_eq!(listed["items"][0]["metadata"]["name"], name);
    assert!(
        prewarm(&namespace, &["get", &name, "-o", "yaml"])
            .success()
            .contains("kind: PrewarmTask\n")
    );
    let wide = prewarm(&namespace, &["ls", "-o", "wide"]).success();
    assert!(
        wide.contains("ORIGIN")
            && wide.contains("registry.example/a:1,redis:7")
            && wide.contains("3/3"),
        "{wide}"
    );
    let shown = prewarm(&namespace, &["get", &name]).success();
    assert!(shown.contains("Batches:     size 4, Barrier") && shown.contains("WARM ON"), "{shown}");
    assert!(prewarm(&namespace, &["explain", &name]).success().contains("Nothing failed."));
    let warm = prewarm(&namespace, &["nodes", "registry.example/a:1", "-l", "type=fake"]).success();
    assert!(
        warm.contains("warmed ")
            && warm.ends_with("registry.example/a:1: warm on 12 of 120 nodes\n"),
        "{warm}"
    );
    let cold = prewarm(
        &namespace,
        &["nodes", "registry.example/a:1", "-l", "type=fake", "--cold", "-o", "name"],
    )
    .success();
    assert_eq!(cold.lines().count(), 108);
    assert!(prewarm(&namespace, &["nodes"]).success().starts_with("NODE"));
    let over = prewarm(&namespace, &["cancel", &name]).failure(1);
    assert!(over.ends_with("has already ended: it is completed"), "{over}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_and_retry_failures() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-bad");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let run = [
        &[
            "run",
            "registry.example/picky:1",
            "--batch-size",
            "100",
            "--success-threshold",
            "100%",
            "--wait",
        ],
        &FAKE_NODE_ARGS[..],
    ];
    let said = prewarm(&namespace, &run.concat());
    let name = task_name(&said.out);
    assert!(said.out.contains("failed: warm on 108 of 120 nodes"), "{said:?}");
    assert!(
        said.out.contains("(ImageNotFound): the registry has no such repository or tag")
            && said.out.contains("remedy: "),
        "{said:?}"
    );
    assert!(said.failure(1).contains("explain"));
    let why = prewarm(&namespace, &["explain", &name]).success();
    assert!(
        why.contains("Remedy: correct the reference.") && why.contains("Message: ErrImagePull"),
        "{why}"
    );
    let one = prewarm(&namespace, &["explain", &name, "--node", "node-0007"]).success();
    assert!(one.contains("failed on node-0007 (") && !one.contains("node-0017"), "{one}");
    let again = prewarm(&namespace, &["retry", &name, "--wait"]);
    assert!(
        again.out.contains(&format!("for the 12 nodes that {name} has not warmed")),
        "{again:?}"
    );
    assert!(again.out.contains("failed: warm on 0 of 12 nodes"), "{again:?}");
    again.failure(1);
    assert!(prewarm(&namespace, &["watch", &name]).failure(1).contains("did not complete"));
}

/// A one-shot Job is warmed on demand, and by admission only where it opts in.
#[tokio::test(flavor = "multi_thread")]
async fn explain_states_why_a_workload_is_not_warmed() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-once");
    let mut pod = pod_spec(&["registry.example/once:1"]);
    pod["restartPolicy"] = json!("Never");
    let job = workload("batch/v1", "Job", "once", &json!({"template": {"spec": pod}}));
    namespace.apply(&job);
    let why = prewarm(&namespace, &["explain", "job/once"]).success();
    assert!(why.starts_with("Job/once is not warmed: no_further_completions: "), "{why}");
    assert!(why.contains("annotate it with prewarm.io/enabled: \"true\""), "{why}");
    let task = prewarm(&namespace, &["run", "job/once", "--dry-run"]).success();
    assert!(task.contains("registry.example/once:1"), "{task}");
    namespace.kubectl(&["annotate", "job/once", "prewarm.io/enabled=true"], "");
    let why = prewarm(&namespace, &["explain", "job/once"]).success();
    assert!(why.starts_with("Job/once is warmed (nodes: 100): registry.example/once:1."), "{why}");
    prewarm(&namespace, &["explain", "job/once", "--node", "node-0001"]).failure(2);
    prewarm(&namespace, &["explain", "job/missing"]).failure(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_cancel_and_wait_timeout() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-watch");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let run =
        [&["run", "registry.example/a:1", "--batch-size", "1", "-o", "name"], &FAKE_NODE_ARGS[..]]
            .concat();
    let name = task_name(&prewarm(&namespace, &run).success());
    let late = prewarm(&namespace, &["watch", &name, "--wait-timeout", "2s"]).failure(3);
    assert!(late.contains("not ended within 2s; the task continues"), "{late}");
    assert!(prewarm(&namespace, &["retry", &name]).failure(1).contains("has not ended"));
    let begun = || async { (namespace.status(&name).succeeded_nodes > 0).then_some(()) };
    namespace.eventually("the first warm node", TASK_TIMEOUT, begun).await;
    // On a terminal the plugin shows a progress bar; `script` provides a terminal.
    let mut command = Command::new("script");
    let words = format!("kubectl-prewarm watch {name} -n {} --wait-timeout 3s", namespace.name);
    let path = path_with_plugin();
    command
        .args(["-qec", &words, "/dev/null"])
        .env("PATH", path)
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR");
    let seen = self::run(command, "");
    assert_eq!(seen.code, 3, "{seen:?}");
    assert!(
        seen.out.contains("/120 ") && seen.out.contains('\x1b') && seen.out.contains("batch "),
        "{seen:?}"
    );
    assert_eq!(seen.out.lines().filter(|line| line.starts_with("error")).count(), 1, "{seen:?}");
    let follow = std::thread::spawn({
        let mut command =
            kubectl_prewarm(cluster, &["watch", &name, "-n", &namespace.name, "-o", "json"]);
        command.stdin(Stdio::null());
        move || self::run(command, "")
    });
    assert!(prewarm(&namespace, &["cancel", &name]).success().ends_with("is being cancelled\n"));
    let followed = follow.join().unwrap();
    assert_eq!(followed.code, 1, "{followed:?}");
    let last: PrewarmTask = serde_json::from_str(followed.out.lines().last().unwrap()).unwrap();
    assert_eq!(last.phase(), Phase::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_with_workloads_and_manifests() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-run");
    let mut object = deployment("web", 0, &["registry.example/web:1"]);
    object["spec"]["template"]["metadata"]["annotations"] = json!({"prewarm.io/priority": "9"});
    namespace.apply(&object);
    let plan = |words: &[&str]| -> Value {
        let text = prewarm(&namespace, &[words, &["--dry-run", "-o", "json"]].concat()).success();
        serde_json::from_str(&text).unwrap()
    };
    let task = plan(&["run", "deploy/web", "--batch-size", "25%"]);
    assert_eq!(task["spec"]["images"], json!(["registry.example/web:1"]));
    assert_eq!(task["spec"]["priority"], 9);
    assert_eq!(task["spec"]["batchSize"], "25%");
    assert_eq!(task["metadata"]["namespace"], namespace.name);
    let manifest = serde_json::to_string(&object).unwrap();
    let both = format!(
        "{manifest}\n---\n{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {{\"name\": \"x\"}}}}"
    );
    let words = ["run", "-f", "-", "nginx:1.27", "--dry-run", "-n", &namespace.name];
    let printed = run(kubectl_prewarm(cluster, &words), &both).success();
    assert_eq!(printed.matches("kind: PrewarmTask").count(), 2, "{printed}");
    namespace.kubectl(&["apply", "--dry-run=server", "-f", "-"], &printed);
    for (words, code, expected) in [
        (&["run", "deploy/none"][..], 1, "deployments.apps \"none\" not found"),
        (&["run", "UPPER case"], 2, "is neither an image nor KIND/NAME"),
        (&["run", "nginx", "--batch-size", "0", "--timeout", "soon"], 2, "spec.batchSize"),
        (&["run", "-f", "/nowhere"], 1, "/nowhere: no such file or directory"),
        (&["run", "nginx", "deploy/web", "--name", "x"], 2, "--name requires a single task"),
        (&["get", "none"], 1, "prewarmtasks.prewarm.io \"none\" not found"),
    ] {
        let line = prewarm(&namespace, words).failure(code);
        assert!(line.contains(expected), "{words:?}: {line}");
    }
    for words in
        [&["run"][..], &["nonsense"], &["ls", "-o", "xml"], &["run", "a", "--priority", "11"]]
    {
        assert_eq!(prewarm(&namespace, words).code, 2, "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schedule_commands() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-cron");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let words = [
        "schedule",
        "create",
        "nightly",
        "registry.example/a:1",
        "--cron",
        "30 2 * * *",
        "--time-zone",
        "Europe/Berlin",
        "--nodes",
        "3",
    ];
    let made = prewarm(&namespace, &[&words[..], &FAKE_NODE_ARGS].concat()).success();
    assert!(
        made.contains("nightly created\n  next: ") && made.matches("02:30 CE").count() == 3,
        "{made}"
    );
    let wrong = prewarm(
        &namespace,
        &["schedule", "create", "bad", "a:1", "--cron", "x", "--time-zone", "Mars/Olympus"],
    );
    assert!(
        wrong.err.contains("spec.timeZone") && wrong.err.contains("spec.schedule"),
        "{wrong:?}"
    );
    wrong.failure(2);
    let ran = prewarm(&namespace, &["schedule", "trigger", "nightly", "--wait"]).success();
    assert!(ran.contains("completed: warm on 3 of 3 nodes"), "{ran}");
    let recorded = || async {
        let text = prewarm(&namespace, &["schedule", "history", "nightly"]).success();
        (text.contains("success") && text.contains("manual")).then_some(())
    };
    namespace.eventually("the execution in the history", TASK_TIMEOUT, recorded).await;
    assert!(
        prewarm(&namespace, &["schedule", "disable", "nightly"])
            .success()
            .ends_with("nightly disabled\n")
    );
    let list = prewarm(&namespace, &["schedule", "ls"]).success();
    assert!(list.contains("false") && list.contains("success, "), "{list}");
    assert!(
        prewarm(&namespace, &["schedule", "enable", "nightly"])
            .success()
            .ends_with("nightly enabled\n")
    );
    assert!(prewarm(&namespace, &["schedule", "ls", "nightly"]).success().contains("true"));
    assert!(
        prewarm(&namespace, &["schedule", "delete", "nightly"])
            .success()
            .ends_with("nightly deleted\n")
    );
    assert!(
        prewarm(&namespace, &["schedule", "trigger", "nightly"]).failure(1).contains("not found")
    );
}

/// Verifies that a caller without permissions gets a one-line error from every command.
#[tokio::test(flavor = "multi_thread")]
async fn commands_without_permissions() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-eve");
    namespace.kubectl(&["create", "serviceaccount", "eve"], "");
    let eve = namespace.kubectl(&["create", "token", "eve"], "").trim().to_owned();
    let file = tempfile::NamedTempFile::new().unwrap();
    let set = |words: &[&str]| {
        let config = format!("--kubeconfig={}", file.path().display());
        cluster.kubectl(&[&["config", &config], words].concat(), "");
    };
    std::fs::copy(cluster.var("KUBECONFIG"), file.path()).unwrap();
    set(&["set-credentials", "eve", &format!("--token={eve}")]);
    set(&["set-context", "--current", "--user=eve"]);
    let as_eve = |words: &[&str]| {
        let file = file.path().to_str().unwrap();
        run(
            kubectl_prewarm(
                cluster,
                &[words, &["-n", &namespace.name, "--kubeconfig", file]].concat(),
            ),
            "",
        )
    };
    for words in [
        &["ls"][..],
        &["get", "x"],
        &["run", "nginx"],
        &["run", "deploy/web"],
        &["cancel", "x"],
        &["retry", "x"],
        &["watch", "x"],
        &["nodes"],
        &["schedule", "ls"],
        &["schedule", "trigger", "x"],
    ] {
        let said = as_eve(words);
        assert_eq!(said.err.lines().count(), 1, "{words:?}: {said:?}");
        assert!(said.failure(1).contains("not permitted: "), "{words:?}");
    }
    set(&["set-credentials", "eve", "--token=wrong"]);
    assert!(as_eve(&["ls"]).failure(1).contains("rejected your credentials"));
    let mut nowhere = kubectl_prewarm(cluster, &["ls"]);
    nowhere.env("KUBECONFIG", "/nowhere").env("HOME", "/nowhere");
    assert!(run(nowhere, "").failure(1).contains("no kubeconfig"));
    let unknown = run(kubectl_prewarm(cluster, &["ls", "--context", "none"]), "").failure(1);
    assert!(unknown.contains("none"), "{unknown}");
}

/// Verifies the output for kubectl's own completion and for shells.
#[test]
fn completions_and_the_manual_page() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-tab");
    namespace.apply_task("nightly-one", &json!({"images": ["a:1"], "suspend": true}));
    let words = |line: &[&str]| {
        run(kubectl_prewarm(cluster, &[&["__complete"], line].concat()), "").success()
    };
    assert!(words(&["sch"]).starts_with("schedule\n:4"));
    assert_eq!(words(&["-n", &namespace.name, "get", "ni"]), "nightly-one\n:4\n");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(kubectl_prewarm(cluster, &["completion", shell]), "").success();
        assert!(script.contains("kubectl-prewarm") && script.contains("retry"), "{shell}");
    }
    let bash = run(kubectl_prewarm(cluster, &["completion", "bash"]), "").success();
    let mut check = Command::new("bash");
    check.arg("-n");
    assert_eq!(run(check, &bash).code, 0);
    assert!(
        run(kubectl_prewarm(cluster, &["completion", "kubectl"]), "")
            .success()
            .starts_with("#!/bin/sh\n")
    );
    let page = run(kubectl_prewarm(cluster, &["man"]), "").success();
    assert!(page.contains(".TH kubectl-prewarm") && page.contains("SCHEDULE TRIGGER"), "{page}");
}

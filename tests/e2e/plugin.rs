//! `kubectl prewarm`: each command, as kubectl calls it, on a terminal and into a pipe, with every exit code.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    admission::{HELPER, deployment},
    harness::{Cluster, Namespace, Server},
};

/// What a call came to.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    /// What it printed, where it went well.
    fn good(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// The error, which is one line, where it ended with this code.
    fn bad(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        let line = self.err.lines().find(|line| line.starts_with("error: ")).unwrap_or_default().to_owned();
        assert!(!line.is_empty() && !self.err.contains("panicked"), "{self:?}");
        line
    }
}

fn run(mut command: Command, input: &str) -> Said {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// `kubectl prewarm`, by kubectl's own search on the PATH.
fn kubectl(cluster: &Cluster, words: &[&str]) -> Command {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_kubectl-prewarm"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(cluster.var("KUBECTL"));
    command.env("KUBECONFIG", cluster.var("KUBECONFIG")).env("PATH", path).arg("prewarm").args(words);
    command
}

fn prewarm(namespace: &Namespace, words: &[&str]) -> Said {
    let words = [words, &["-n", &namespace.name]].concat();
    run(kubectl(namespace.cluster, &words), "")
}

/// The one task that a call has named.
fn name_of(text: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix("prewarmtask.prewarm.io/")).unwrap_or_default();
    line.split(' ').next().unwrap_or_default().to_owned()
}

const FAKE: [&str; 2] = ["--node-selector", "type=fake"];

#[tokio::test(flavor = "multi_thread")]
async fn images_from_the_command_line() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let run = [&["run", "registry.example/a:1", "redis:7", "--nodes", "12", "--batch-size", "4", "--wait"], &FAKE[..]]
        .concat();
    let text = prewarm(&namespace, &run).good();
    let name = name_of(&text);
    assert!(text.contains(&format!("{name}: Running ")) && text.contains("/12 nodes: "), "{text}");
    assert!(text.contains(&format!("{name} completed: warm on 12 of 12 nodes in ")), "{text}");
    assert!(!text.contains('\x1b'), "a pipe gets no colours: {text:?}");
    let list = prewarm(&namespace, &["ls"]).good();
    assert!(list.starts_with("NAME") && list.contains("Completed   12/12"), "{list}");
    let everywhere = self::run(kubectl(cluster, &["ls", "-A", "-l", "prewarm.io/origin=user"]), "").good();
    assert!(everywhere.starts_with("NAMESPACE") && everywhere.contains(&name), "{everywhere}");
    assert_eq!(
        prewarm(&namespace, &["ls", "--phase", "failed"]).err,
        format!("there are no tasks in the namespace {}\n", namespace.name)
    );
    assert_eq!(prewarm(&namespace, &["get", &name, "-o", "name"]).good(), format!("prewarmtask.prewarm.io/{name}\n"));
    let object: Value = serde_json::from_str(&prewarm(&namespace, &["get", &name, "-o", "json"]).good()).unwrap();
    assert_eq!((&object["kind"], &object["status"]["succeededNodes"]), (&json!("PrewarmTask"), &json!(12)));
    assert_eq!(object["status"]["batchEnds"].as_array().unwrap().len(), 3, "{object}");
    let listed: Value = serde_json::from_str(&prewarm(&namespace, &["ls", "-o", "json"]).good()).unwrap();
    assert_eq!((&listed["kind"], &listed["items"][0]["metadata"]["name"]), (&json!("List"), &json!(name)));
    assert!(prewarm(&namespace, &["get", &name, "-o", "yaml"]).good().contains("kind: PrewarmTask\n"));
    let wide = prewarm(&namespace, &["ls", "-o", "wide"]).good();
    assert!(wide.contains("ORIGIN") && wide.contains("registry.example/a:1,redis:7") && wide.contains("3/3"), "{wide}");
    let shown = prewarm(&namespace, &["get", &name]).good();
    assert!(shown.contains("Batches:     4 at once, Barrier") && shown.contains("WARM ON"), "{shown}");
    assert!(prewarm(&namespace, &["explain", &name]).good().contains("Nothing failed."));
    let warm = prewarm(&namespace, &["nodes", "registry.example/a:1", "-l", "type=fake"]).good();
    assert!(warm.contains("warmed ") && warm.ends_with("registry.example/a:1: warm on 12 of 120 nodes\n"), "{warm}");
    let cold =
        prewarm(&namespace, &["nodes", "registry.example/a:1", "-l", "type=fake", "--cold", "-o", "name"]).good();
    assert_eq!(cold.lines().count(), 108);
    assert!(prewarm(&namespace, &["nodes"]).good().starts_with("NODE"));
    let over = prewarm(&namespace, &["cancel", &name]).bad(1);
    assert!(over.ends_with("has ended already: it is completed"), "{over}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_explained_and_tried_again() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-bad");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let run = [
        &["run", "registry.example/picky:1", "--batch-size", "100", "--success-threshold", "100%", "--wait"],
        &FAKE[..],
    ];
    let said = prewarm(&namespace, &run.concat());
    let name = name_of(&said.out);
    assert!(said.out.contains("failed: warm on 108 of 120 nodes"), "{said:?}");
    assert!(
        said.out.contains("(ImageNotFound): the registry does not know") && said.out.contains("what to do: "),
        "{said:?}"
    );
    assert!(said.bad(1).contains("explain"));
    let why = prewarm(&namespace, &["explain", &name]).good();
    assert!(why.contains("What to do: correct the reference.") && why.contains("The node said: ErrImagePull"), "{why}");
    let one = prewarm(&namespace, &["explain", &name, "--node", "node-0007"]).good();
    assert!(one.contains("failed on node-0007 (") && !one.contains("node-0017"), "{one}");
    let again = prewarm(&namespace, &["retry", &name, "--wait"]);
    assert!(again.out.contains(&format!("for the 12 nodes of {name} that are not warm")), "{again:?}");
    assert!(again.out.contains("failed: warm on 0 of 12 nodes"), "{again:?}");
    again.bad(1);
    assert!(prewarm(&namespace, &["watch", &name]).bad(1).contains("did not complete"));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_cancelling_and_running_out_of_patience() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-watch");
    let _server = Server::start(cluster, &namespace, HELPER).await;
    let run = [&["run", "registry.example/a:1", "--batch-size", "1", "-o", "name"], &FAKE[..]].concat();
    let name = name_of(&prewarm(&namespace, &run).good());
    let late = prewarm(&namespace, &["watch", &name, "--wait-timeout", "2s"]).bad(3);
    assert!(late.contains("not ended within 2s; the task goes on"), "{late}");
    assert!(prewarm(&namespace, &["retry", &name]).bad(1).contains("has not ended"));
    let begun = || async {
        let task = namespace.get("prewarmtasks").pop()?;
        (task["status"]["succeededNodes"].as_u64()? > 0).then_some(())
    };
    namespace.eventually("the first node is warm", crate::admission::LONG, begun).await;
    // On a terminal, a bar; the terminal that `script` makes is one.
    let mut command = Command::new("script");
    let words = format!("kubectl-prewarm watch {name} -n {} --wait-timeout 3s", namespace.name);
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_kubectl-prewarm")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    command.args(["-qec", &words, "/dev/null"]).env("PATH", path).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let seen = self::run(command, "");
    assert_eq!(seen.code, 3, "{seen:?}");
    assert!(seen.out.contains("/120 ") && seen.out.contains('\x1b') && seen.out.contains("batch "), "{seen:?}");
    assert_eq!(seen.out.lines().filter(|line| line.starts_with("error")).count(), 1, "{seen:?}");
    let follow = std::thread::spawn({
        let mut command = kubectl(cluster, &["watch", &name, "-n", &namespace.name, "-o", "json"]);
        command.stdin(Stdio::null());
        move || self::run(command, "")
    });
    assert!(prewarm(&namespace, &["cancel", &name]).good().ends_with("is being cancelled\n"));
    let followed = follow.join().unwrap();
    assert_eq!(followed.code, 1, "{followed:?}");
    let last: Value = serde_json::from_str(followed.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["status"]["phase"], "Cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_by_name_and_from_a_manifest() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-run");
    let mut object = deployment("web", 0, &["registry.example/web:1"]);
    object["spec"]["template"]["metadata"]["annotations"] = json!({"prewarm.io/priority": "9"});
    namespace.apply(&object);
    let plan = |words: &[&str]| -> Value {
        let text = prewarm(&namespace, &[words, &["--dry-run", "-o", "json"]].concat()).good();
        serde_json::from_str(&text).unwrap()
    };
    let task = plan(&["run", "deploy/web", "--batch-size", "25%"]);
    assert_eq!((&task["spec"]["images"], &task["spec"]["priority"]), (&json!(["registry.example/web:1"]), &json!(9)));
    assert_eq!((&task["spec"]["batchSize"], &task["metadata"]["namespace"]), (&json!("25%"), &json!(namespace.name)));
    let manifest = serde_json::to_string(&object).unwrap();
    let both = format!(
        "{manifest}\n---\n{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {{\"name\": \"x\"}}}}"
    );
    let words = ["run", "-f", "-", "nginx:1.27", "--dry-run", "-n", &namespace.name];
    let printed = run(kubectl(cluster, &words), &both).good();
    assert_eq!(printed.matches("kind: PrewarmTask").count(), 2, "{printed}");
    namespace.kubectl(&["apply", "--dry-run=server", "-f", "-"], &printed);
    for (words, code, expected) in [
        (&["run", "deploy/none"][..], 1, "deployments.apps \"none\" not found"),
        (&["run", "UPPER case"], 2, "is neither an image nor KIND/NAME"),
        (&["run", "nginx", "--batch-size", "0", "--timeout", "soon"], 2, "spec.batchSize"),
        (&["run", "-f", "/nowhere"], 2, "/nowhere: "),
        (&["run", "nginx", "deploy/web", "--name", "x"], 2, "--name is for one task"),
        (&["get", "none"], 1, "prewarmtasks.prewarm.io \"none\" not found"),
    ] {
        let line = prewarm(&namespace, words).bad(code);
        assert!(line.contains(expected), "{words:?}: {line}");
    }
    for words in [&["run"][..], &["nonsense"], &["ls", "-o", "xml"], &["run", "a", "--priority", "11"]] {
        assert_eq!(prewarm(&namespace, words).code, 2, "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_by_hand() {
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
    let made = prewarm(&namespace, &[&words[..], &FAKE].concat()).good();
    assert!(made.contains("nightly created\n  next: ") && made.matches("02:30 CE").count() == 3, "{made}");
    let wrong =
        prewarm(&namespace, &["schedule", "create", "bad", "a:1", "--cron", "x", "--time-zone", "Mars/Olympus"]);
    assert!(wrong.err.contains("spec.timeZone") && wrong.err.contains("spec.schedule"), "{wrong:?}");
    wrong.bad(2);
    let ran = prewarm(&namespace, &["schedule", "trigger", "nightly", "--wait"]).good();
    assert!(ran.contains("completed: warm on 3 of 3 nodes"), "{ran}");
    let recorded = || async {
        let text = prewarm(&namespace, &["schedule", "history", "nightly"]).good();
        (text.contains("success") && text.contains("hand")).then_some(())
    };
    namespace.eventually("the run in the history", crate::admission::LONG, recorded).await;
    assert!(prewarm(&namespace, &["schedule", "disable", "nightly"]).good().ends_with("nightly disabled\n"));
    let list = prewarm(&namespace, &["schedule", "ls"]).good();
    assert!(list.contains("false") && list.contains("success, "), "{list}");
    assert!(prewarm(&namespace, &["schedule", "enable", "nightly"]).good().ends_with("nightly enabled\n"));
    assert!(prewarm(&namespace, &["schedule", "ls", "nightly"]).good().contains("true"));
    assert!(prewarm(&namespace, &["schedule", "delete", "nightly"]).good().ends_with("nightly deleted\n"));
    assert!(prewarm(&namespace, &["schedule", "trigger", "nightly"]).bad(1).contains("not found"));
}

/// Whoever may do nothing is told so in one line, whatever the command.
#[tokio::test(flavor = "multi_thread")]
async fn without_rights() {
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
        run(kubectl(cluster, &[words, &["-n", &namespace.name, "--kubeconfig", file]].concat()), "")
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
        assert!(said.bad(1).contains("you have not the right: "), "{words:?}");
    }
    set(&["set-credentials", "eve", "--token=wrong"]);
    assert!(as_eve(&["ls"]).bad(1).contains("does not know you"));
    let mut nowhere = kubectl(cluster, &["ls"]);
    nowhere.env("KUBECONFIG", "/nowhere").env("HOME", "/nowhere");
    assert!(run(nowhere, "").bad(1).contains("no kubeconfig"));
    let unknown = run(kubectl(cluster, &["ls", "--context", "none"]), "").bad(1);
    assert!(unknown.contains("none"), "{unknown}");
}

/// kubectl's own completion comes by here, and shells read what is printed for them.
#[test]
fn completions_and_the_manual_page() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("plugin-tab");
    namespace.apply_task("nightly-one", &json!({"images": ["a:1"], "suspend": true}));
    let words = |line: &[&str]| run(kubectl(cluster, &[&["__complete"], line].concat()), "").good();
    assert!(words(&["sch"]).starts_with("schedule\n:4"));
    assert_eq!(words(&["-n", &namespace.name, "get", "ni"]), "nightly-one\n:4\n");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(kubectl(cluster, &["completion", shell]), "").good();
        assert!(script.contains("kubectl-prewarm") && script.contains("retry"), "{shell}");
    }
    let bash = run(kubectl(cluster, &["completion", "bash"]), "").good();
    let mut check = Command::new("bash");
    check.arg("-n");
    assert_eq!(run(check, &bash).code, 0);
    assert!(run(kubectl(cluster, &["completion", "kubectl"]), "").good().starts_with("#!/bin/sh\n"));
    let page = run(kubectl(cluster, &["man"]), "").good();
    assert!(page.contains(".TH kubectl-prewarm") && page.contains("SCHEDULE TRIGGER"), "{page}");
}

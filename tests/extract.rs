//! Tests of the program `prewarmer extract`: its files, output, messages and exit codes.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use prewarmer_test_support::process::Ended;

/// Directory of one test, deleted at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("extract-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{prewarm.io/enabled: 'true'}}}}\nspec: {{containers: [{{name: c, image: '{name}:1'}}]}}\n"
    )
}

/// Returns the workloads with their images; the output must be JSON.
fn workloads(ended: &Ended) -> Vec<String> {
    let found: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let line = |one: &serde_json::Value| {
        let text = |field: &str| one[field].as_str().unwrap().to_owned();
        format!("{}/{}", text("namespace"), text("workload"))
    };
    found.as_array().unwrap().iter().map(line).collect()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prewarmer"));
    command
        .arg("extract")
        .args(arguments)
        .env_remove("KINDS")
        .env_remove("DEFAULT_MODE")
        .env_remove("ONE_SHOT");
    command
}

fn run(arguments: &[&str]) -> Ended {
    command(arguments).output().unwrap().into()
}

fn run_with_input(arguments: &[&str], input: &[u8]) -> Ended {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program stops reading at its limit, which closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

#[test]
fn bad_document_is_named_and_the_others_are_printed() {
    let directory = Directory::new("bad");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    let file = directory.write(
        "all.yaml",
        format!(
            "{}---\nkind: Pod\nspec: a: b\n---\n{}---\n{service}",
            pod("p"),
            pod("q").replace("'q:1'", "7")
        ),
    );
    let other = directory.write("other.yaml", pod("o"));
    let ended = run(&["-f", &file, "-f", &other]);
    assert_eq!(workloads(&ended), ["default/Pod/p", "default/Pod/o"]);
    let lines: Vec<&str> = ended.err.lines().collect();
    assert_eq!(
        lines,
        [
            "Service/s: not a workload, skipped".to_owned(),
            format!(
                "prewarmer: {file}: document 2, line 7: unexpected colon: the indentation is wrong, or a value with \": \" needs quotes"
            ),
            format!(
                "prewarmer: {file}: document 3, line 12: spec.containers[0].image: expected text, found the number 7: put it in quotes"
            ),
        ]
    );
    assert_eq!(ended.code, 1);
}

#[test]
fn files_directories_and_standard_input_are_read() {
    let directory = Directory::new("files");
    directory.write("d/b.yml", pod("b"));
    directory.write("d/a.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"image":"a"}]}}"#);
    directory.write("d/readme.txt", "no manifest");
    directory.write("d/deep/c.yaml", pod("c"));
    let text = directory.write("pod.txt", pod("t"));
    let folder = directory.path("d");
    let both = format!("{folder},{text}");
    let ended = run(&["-f", &both]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(workloads(&ended), ["default/Pod/a", "default/Pod/b", "default/Pod/t"]);
    let ended = run(&["-R", "-f", &folder, "-n", "shop"]);
    assert_eq!(workloads(&ended), ["shop/Pod/a", "shop/Pod/b", "shop/Pod/c"]);
    let ended = run_with_input(&["-f", "-", "--file", &text], pod("i").as_bytes());
    assert_eq!((ended.code, workloads(&ended).len()), (0, 2));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = Directory::new("names");
    let good = directory.write("good.yaml", pod("p"));
    directory.write("empty/deep/p.yaml", pod("p"));
    let (missing, empty) = (directory.path("missing.yaml"), directory.path("empty"));
    let url = "https://example.com/pod.yaml";
    let ended = run(&["-f", &missing, "-f", &empty, "-f", url, "-f", &good]);
    assert_eq!((ended.code, workloads(&ended).len()), (1, 1));
    let expected = [
        format!("prewarmer: {missing}: no such file or directory\n"),
        format!(
            "prewarmer: {empty}: the directory contains no file with the extension .yaml, .yml or .json; subdirectories are read with -R\n"
        ),
        format!(
            "prewarmer: {url}: URLs are not read; pipe the text instead: curl -fsSL {url} | ... -f -\n"
        ),
    ];
    assert_eq!(ended.err, expected.concat());
    let ended = run_with_input(&["-f", "-", "-f", "-"], pod("p").as_bytes());
    assert_eq!((ended.code, workloads(&ended).len()), (1, 1));
    assert!(ended.err.contains("standard input can be read only once"), "{}", ended.err);
    let ended = run_with_input(&["-f", "-"], b"# nothing\n");
    assert_eq!((ended.code, ended.out.as_str()), (0, "[]\n"));
    assert_eq!(ended.err, "warning: the manifest contains no object\n");
}

#[test]
fn formats_of_the_output() {
    let directory = Directory::new("formats");
    let file = directory.write("p.yaml", pod("p"));
    let json: serde_json::Value =
        serde_json::from_str(&run(&["-f", &file, "-o", "json"]).out).unwrap();
    let yaml: serde_json::Value =
        serde_saphyr::from_str(&run(&["-f", &file, "-o", "yaml"]).out).unwrap();
    assert_eq!(json, yaml);
    assert_eq!(json[0]["images"], serde_json::json!(["p:1"]));
    let ended = run(&["-f", &file, "-o", "table"]);
    assert_eq!(
        ended.out,
        "NAMESPACE   WORKLOAD   VERDICT   NODES   IMAGES\ndefault     Pod/p      wanted    100     p:1\n"
    );
}

#[test]
fn pull_policies_are_printed_where_they_are_not_those_of_the_tags() {
    let directory = Directory::new("policies");
    let container = |image: &str, policy: &str| {
        format!("{{name: c-{policy}, image: '{image}', imagePullPolicy: {policy}}}")
    };
    let pod = |containers: &[String]| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, annotations: {{prewarm.io/enabled: 'true'}}}}\nspec: {{containers: [{}]}}\n",
            containers.join(", ")
        )
    };
    let all = [
        container("app:1", "Always"),
        container("app:2", "IfNotPresent"),
        container("local:1", "Never"),
    ];
    let found = run(&["-f", &directory.write("mixed.yaml", pod(&all))]);
    let found: serde_json::Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!(found[0]["images"], serde_json::json!(["app:1", "app:2"]));
    assert_eq!(found[0]["pullPolicies"], serde_json::json!({"app:1": "Always"}));
    assert_eq!(found[0]["neverPulled"], serde_json::json!(["local:1"]));
    let file = directory.write("never.yaml", pod(&all[2..]));
    let ended = run(&["-f", &file, "-o", "table"]);
    assert!(ended.out.contains("imagePullPolicy Never: local:1"), "{}", ended.out);
    assert_eq!(ended.code, 0);
}

#[test]
fn one_shot_pods_and_jobs_are_printed_with_the_reason() {
    let directory = Directory::new("once");
    let plain = pod("p").replace(", annotations: {prewarm.io/enabled: 'true'}", "");
    let file = directory.write("p.yaml", plain);
    let found: serde_json::Value = serde_json::from_str(&run(&["-f", &file]).out).unwrap();
    assert_eq!(found[0]["verdict"], "one_shot");
    assert_eq!(found[0]["images"], serde_json::json!([]));
    let reason = found[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("bare_pod: ") && reason.contains("prewarm.io/enabled"), "{reason}");
    let table = run(&["-f", &file, "-o", "table"]).out;
    assert!(table.contains(reason) && table.contains("one_shot"), "{table}");
    let ended = run(&["-f", &file, "--one-shot", "Warm"]);
    assert!(ended.out.contains("p:1") && ended.out.contains("wanted"), "{}", ended.out);
    assert_eq!(run(&["-f", &file, "--one-shot", "maybe"]).code, 2);
}

#[test]
fn settings_and_their_hints() {
    let directory = Directory::new("kinds");
    let job = "apiVersion: kubeflow.org/v2beta1\nkind: MPIJob\nmetadata: {name: m}\nspec:\n  mpiReplicaSpecs:\n    Launcher:\n      template: {spec: {containers: [{image: 'launcher:1'}]}}\n    Worker:\n      replicas: 2\n      template: {spec: {containers: [{image: 'worker:1'}]}}\n";
    let file = directory.write("mpi.yaml", job);
    let ended = run(&["-f", &file]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "[]\n"));
    let setting = "--kinds=kubeflow.org/v2beta1/MPIJob=spec.mpiReplicaSpecs.Launcher.template+spec.mpiReplicaSpecs.Worker.template";
    assert!(ended.err.contains(setting), "{}", ended.err);
    let ended = run(&["-f", &file, setting]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(ended.out.contains("launcher:1") && ended.out.contains("worker:1"), "{}", ended.out);
    for arguments in [
        &["-f", &file, "--kinds=a.b/v1/C=x+x"][..],
        &["-f", &file, "-n", "not a name"],
        &["-f", &file, "-o", "xml"],
        &[],
    ] {
        assert_eq!(run(arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn input_without_end_is_read_up_to_the_limit() {
    let line = "# a comment that fills the file\n";
    let large = line.repeat((21 << 20) / line.len());
    let ended = run_with_input(&["-f", "-"], large.as_bytes());
    assert_eq!(ended.code, 1);
    assert_eq!(
        ended.err,
        "prewarmer: standard input: the manifest has more than 20971520 bytes; split it into smaller manifests\n"
    );
    let fits = pod("p") + &line.repeat((19 << 20) / line.len());
    let ended = run_with_input(&["-f", "-"], fits.as_bytes());
    assert_eq!((ended.code, workloads(&ended).len()), (0, 1));
}

#[test]
fn windows_files_are_read() {
    let directory = Directory::new("windows");
    let text = pod("p").replace('\n', "\r\n");
    let bytes: Vec<u8> =
        [0xFEFF].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let file = directory.write("utf16.yaml", bytes);
    let ended = run(&["-f", &file]);
    assert_eq!((ended.code, workloads(&ended).len()), (0, 1));
}

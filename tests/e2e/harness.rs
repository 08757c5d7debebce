//! Shared fixtures of tests that need a cluster: the cluster, a namespace and a server per test,
//! and waits that report the observed state when they fail.

use std::{
    fs::File,
    future::Future,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Number of fake nodes of a cluster that the tests start.
const FAKE_NODES: &str = "120";
/// Number of real nodes of such a cluster: one for all tests, and one whose disk is filled.
const REAL_NODES: &str = "2";
/// Script that starts and stops clusters.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster");
/// Interval between checks of a wait.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Helper image of an installation, the only one that the admission policies accept.
pub const INSTALLED_HELPER: &str = "registry.example/helper:1";

/// Path of the chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/chart");

/// Test cluster.
pub struct Cluster {
    dir: PathBuf,
    env: Vec<(String, String)>,
    crds: OnceLock<()>,
}

impl Cluster {
    /// Returns the cluster of `PREWARMER_TEST_CLUSTER`, or starts one that ends with this process.
    pub fn shared() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| {
            if let Ok(dir) = std::env::var("PREWARMER_TEST_CLUSTER") {
                Self::from_dir(dir.into())
            } else {
                let own = tempfile::tempdir().unwrap().keep();
                Self::start(&own, FAKE_NODES, REAL_NODES);
                Self::from_dir(own)
            }
        })
    }

    /// Starts a cluster for one test that would disturb others. It ends with the process.
    pub fn dedicated(fake_nodes: usize) -> &'static Self {
        let dir = tempfile::tempdir().unwrap().keep();
        Self::start(&dir, &fake_nodes.to_string(), "0");
        Box::leak(Box::new(Self::from_dir(dir)))
    }

    /// Starts a cluster, whose watchdog deletes its directory after this process has ended.
    fn start(dir: &Path, fake_nodes: &str, real_nodes: &str) {
        let owner = std::process::id().to_string();
        let status = Command::new(SCRIPT)
            .arg("start")
            .arg(dir)
            .args([
                "--fake-nodes",
                fake_nodes,
                "--real-nodes",
                real_nodes,
                "--owner",
                &owner,
                "--purge",
            ])
            .status();
        assert!(status.unwrap().success(), "the test cluster did not start; see the output above");
    }

    /// Kills the API server without shutdown and starts it again.
    pub fn crash_apiserver(&self) {
        let output = Command::new(SCRIPT).arg("crash-apiserver").arg(&self.dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Kills a real node without shutdown.
    pub fn kill_node(&self, name: &str) {
        let output =
            Command::new(SCRIPT).arg("kill-node").arg(&self.dir).arg(name).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn from_dir(dir: PathBuf) -> Self {
        let text = std::fs::read_to_string(dir.join("env")).unwrap();
        let pair = |line: &str| {
            let (key, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((key.to_owned(), value.trim_matches('\'').to_owned()))
        };
        Self { dir, env: text.lines().filter_map(pair).collect(), crds: OnceLock::new() }
    }

    pub fn var(&self, name: &str) -> &str {
        self.env.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Creates a client for the runtime of the calling test.
    pub async fn client(&self) -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let file = Kubeconfig::read_from(self.var("KUBECONFIG")).unwrap();
        let config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// Runs kubectl and returns its output; panics if it fails.
    pub fn kubectl(&self, words: &[&str], input: &str) -> String {
        let (ok, text) = self.try_kubectl(words, input);
        assert!(ok, "kubectl {words:?}: {text}");
        text
    }

    /// Runs kubectl; returns whether it succeeded, and its output.
    pub fn try_kubectl(&self, words: &[&str], input: &str) -> (bool, String) {
        use std::io::Write;
        let mut child = Command::new(self.var("KUBECTL"))
            .env("KUBECONFIG", self.var("KUBECONFIG"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Creates a namespace that is deleted when the value is dropped.
    pub fn namespace(&'static self, prefix: &str) -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name], "");
        self.crds.get_or_init(|| {
            let crds = Command::new(env!("CARGO_BIN_EXE_prewarmer")).arg("crds").output().unwrap();
            self.kubectl(
                &["apply", "--server-side", "--force-conflicts", "-f", "-"],
                &String::from_utf8_lossy(&crds.stdout),
            );
            let wait = ["wait", "--for=condition=Established", "--timeout=30s"];
            self.kubectl(
                &[
                    &wait[..],
                    &[
                        "crd/prewarmtasks.prewarm.io",
                        "crd/prewarmplans.prewarm.io",
                        "crd/prewarmschedules.prewarm.io",
                    ],
                ]
                .concat(),
                "",
            );
        });
        Namespace { cluster: self, name }
    }

    /// Returns the registry of the real node. Returns `None`, with a message on standard error, if
    /// the machine cannot run a real node.
    pub fn registry(&self, test: &str) -> Option<&str> {
        let registry = self.var("REGISTRY");
        if registry.is_empty() {
            let why = self.var("REAL_NODES_REASON");
            eprintln!("NOT RUN: {test}: this cluster has no real node: {why}");
            return None;
        }
        Some(registry)
    }

    /// Runs Helm on this cluster; returns whether it succeeded, and its output.
    pub fn try_helm(&self, words: &[&str]) -> (bool, String) {
        let helm = Path::new(self.var("BIN")).join("helm");
        let output = Command::new(helm)
            .env("KUBECONFIG", self.var("KUBECONFIG"))
            .args(words)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    }

    /// Runs Helm and returns its output; panics if it fails.
    pub fn helm(&self, words: &[&str]) -> String {
        let (ok, text) = self.try_helm(words);
        assert!(ok, "helm {words:?}: {text}");
        text
    }

    /// Writes a kubeconfig for an account of a namespace and returns its path.
    fn kubeconfig_of(&self, namespace: &Namespace, account: &str) -> String {
        let token = namespace.kubectl(&["create", "token", account], "");
        let mut config: serde_json::Value =
            serde_json::from_str(&self.kubectl(&["config", "view", "--raw", "-o", "json"], ""))
                .unwrap();
        config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
        let file = self.dir.join(format!("kubeconfig-{}-{account}", namespace.name));
        std::fs::write(&file, config.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn crane(&self, words: &[&str]) {
        let output =
            Command::new(Path::new(self.var("BIN")).join("crane")).args(words).output().unwrap();
        assert!(
            output.status.success(),
            "crane {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Pushes an image that contains one file, which is the entry point if `entrypoint` is set.
    pub fn push(&self, reference: &str, file: &Path, entrypoint: bool) {
        let work = tempfile::tempdir_in(&self.dir).unwrap();
        let tar = work.path().join("layer.tar");
        let status = Command::new("tar")
            .arg("-C")
            .arg(file.parent().unwrap())
            .arg("-cf")
            .arg(&tar)
            .arg(file.file_name().unwrap())
            .status();
        assert!(status.unwrap().success());
        self.crane(&["append", "--insecure", "-f", tar.to_str().unwrap(), "-t", reference]);
        if entrypoint {
            let program = format!("/{}", file.file_name().unwrap().to_str().unwrap());
            self.crane(&[
                "mutate",
                "--insecure",
                "--entrypoint",
                &program,
                reference,
                "-t",
                reference,
            ]);
        }
    }

    /// Pushes an image that contains only a file of unique content.
    pub fn push_data(&self, reference: &str) {
        let work = tempfile::tempdir_in(&self.dir).unwrap();
        let file = work.path().join("data");
        std::fs::write(&file, reference).unwrap();
        self.push(reference, &file, false);
    }

    /// Builds and pushes the static helper once; returns its reference.
    pub fn push_helper(&self, registry: &str) -> String {
        static HELPER: OnceLock<String> = OnceLock::new();
        HELPER
            .get_or_init(|| {
                let work = tempfile::tempdir_in(&self.dir).unwrap();
                let program = work.path().join("prewarmer-helper");
                let status = Command::new("make")
                    .current_dir(env!("CARGO_MANIFEST_DIR"))
                    .args(["-s", "helper", &format!("HELPER={}", program.display())])
                    .status();
                assert!(status.unwrap().success(), "the helper could not be built");
                let reference = format!("{registry}/prewarmer-helper:test");
                self.push(&reference, &program, true);
                reference
            })
            .clone()
    }
}

/// Namespace of one test.
pub struct Namespace {
    pub cluster: &'static Cluster,
    pub name: String,
}

impl Namespace {
    pub fn kubectl(&self, words: &[&str], input: &str) -> String {
        self.cluster.kubectl(&[&["-n", &self.name], words].concat(), input)
    }

    pub fn apply(&self, manifest: &serde_json::Value) -> String {
        self.kubectl(&["apply", "-f", "-"], &manifest.to_string())
    }

    /// Returns reason and message of the events of pods with this name prefix.
    pub fn events(&self, pods: &str) -> Vec<String> {
        let of = |event: &serde_json::Value| {
            event["involvedObject"]["name"].as_str().is_some_and(|name| name.starts_with(pods))
        };
        let text = |event: &serde_json::Value| format!("{} {}", event["reason"], event["message"]);
        self.get("events").iter().filter(|event| of(event)).map(text).collect()
    }

    /// Applies a `PrewarmTask`.
    pub fn apply_task(&self, name: &str, spec: &serde_json::Value) {
        self.apply(&serde_json::json!({
            "apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "metadata": {"name": name}, "spec": spec,
        }));
    }

    /// Returns all objects of a kind as JSON.
    pub fn get(&self, kind: &str) -> Vec<serde_json::Value> {
        let text = self.kubectl(&["get", kind, "-o", "json"], "");
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Waits until `look` returns a value; panics after `limit` with the state of the namespace.
    pub async fn eventually<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn() -> F,
    ) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(
                begun.elapsed() < limit,
                "timed out after {limit:?} waiting for: {what}\n{}",
                self.diagnosis()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until a task has ended; returns its status.
    pub async fn wait_until_ended(&self, task: &str, limit: Duration) -> serde_json::Value {
        self.eventually(&format!("the end of task {task}"), limit, || async {
            let text = self.kubectl(&["get", "prewarmtask", task, "-o", "json"], "");
            let task: serde_json::Value = serde_json::from_str(&text).unwrap();
            let ended =
                ["Completed", "Failed", "Cancelled"].contains(&task["status"]["phase"].as_str()?);
            ended.then(|| task["status"].clone())
        })
        .await
    }

    fn diagnosis(&self) -> String {
        let show =
            |words: &[&str]| self.cluster.try_kubectl(&[&["-n", &self.name], words].concat(), "").1;
        let events = show(&["get", "events", "--sort-by=.lastTimestamp"]);
        let events: Vec<&str> = events.lines().rev().take(15).collect();
        format!(
            "{}\n{}\nlast events:\n{}",
            show(&["get", "prewarmtasks,jobs,pods"]),
            show(&[
                "get",
                "prewarmtasks",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}: {.status.conditions}{\"\\n\"}{end}"
            ]),
            events.join("\n")
        )
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.cluster.try_kubectl(&["delete", "namespace", &self.name, "--wait=false"], "");
    }
}

/// `prewarmer serve` process that watches one namespace.
pub struct Server {
    child: Child,
    args: Vec<String>,
    kubeconfig: String,
    log: PathBuf,
    health: String,
    webhook: String,
    api: String,
}

impl Server {
    pub async fn start(cluster: &Cluster, namespace: &Namespace, worker_image: &str) -> Self {
        Self::with_args(cluster, namespace, namespace, &[&format!("--worker-image={worker_image}")])
            .await
    }

    /// Starts a server in the namespace `own` with additional arguments.
    pub async fn with_args(
        cluster: &Cluster,
        namespace: &Namespace,
        own: &Namespace,
        words: &[&str],
    ) -> Self {
        let mut more = vec![format!("--instance={}", namespace.name)];
        more.extend(words.iter().map(|word| (*word).to_owned()));
        Self::spawn_ready(cluster, namespace, &own.name, &more, cluster.var("KUBECONFIG")).await
    }

    /// Starts a server in the namespace `own` that watches all namespaces, as an installation does.
    /// Only for clusters that no other test shares.
    pub async fn watching_all_namespaces(
        cluster: &Cluster,
        own: &Namespace,
        kubeconfig: &str,
        words: &[&str],
    ) -> Self {
        let mut more = vec!["--watch-namespace=".to_owned()];
        more.extend(words.iter().map(|word| (*word).to_owned()));
        Self::spawn_ready(cluster, own, &own.name, &more, kubeconfig).await
    }

    /// Starts a server that uses another kubeconfig.
    pub async fn with_kubeconfig(
        cluster: &Cluster,
        namespace: &Namespace,
        kubeconfig: &str,
        words: &[&str],
    ) -> Self {
        let mut more = vec![format!("--instance={}", namespace.name)];
        more.extend(words.iter().map(|word| (*word).to_owned()));
        Self::spawn_ready(cluster, namespace, &namespace.name, &more, kubeconfig).await
    }

    /// Starts another replica of [`Self::start`]. With registration by URL, only the leader is
    /// ready.
    pub fn standby(cluster: &Cluster, namespace: &Namespace, worker_image: &str) -> Self {
        let more =
            [format!("--instance={}", namespace.name), format!("--worker-image={worker_image}")];
        Self::spawn(cluster, namespace, &namespace.name, &more, cluster.var("KUBECONFIG"))
    }

    /// Starts a replica that the API server reaches through the address `front`; does not wait
    /// until it is ready.
    pub fn behind_front(
        cluster: &Cluster,
        namespace: &Namespace,
        front: &str,
        words: &[&str],
    ) -> Self {
        let mut more = vec![format!("--instance={}", namespace.name)];
        more.extend(words.iter().map(|word| (*word).to_owned()));
        Self::spawn_at(
            cluster,
            namespace,
            &namespace.name,
            &more,
            cluster.var("KUBECONFIG"),
            Some(front),
        )
    }

    /// Starts the front and controller processes with only the permissions of the installed service
    /// accounts, as `prewarmer manifests` installs them. `install` is the namespace of the
    /// installation, `namespace` the watched one.
    pub async fn installed(
        cluster: &Cluster,
        install: &Namespace,
        namespace: &Namespace,
    ) -> (Self, Self) {
        Self::installed_as(cluster, install, namespace, None).await
    }

    /// Does the same for an installation whose names have a suffix.
    pub async fn installed_as(
        cluster: &Cluster,
        install: &Namespace,
        namespace: &Namespace,
        instance: Option<&str>,
    ) -> (Self, Self) {
        let account =
            instance.map_or_else(|| "prewarmer".to_owned(), |suffix| format!("prewarmer-{suffix}"));
        let words = |components: &str| {
            let mut more = vec![
                format!("--worker-image={INSTALLED_HELPER}"),
                format!("--worker-priority-class={account}-worker"),
            ];
            more.push(format!("--components={components}"));
            more.extend(instance.map(|suffix| format!("--instance={suffix}")));
            more
        };
        let own = install.name.as_str();
        let config = cluster.kubeconfig_of(install, &account);
        let front = Self::spawn(cluster, namespace, own, &words("admission,api"), &config);
        let config = cluster.kubeconfig_of(install, &format!("{account}-controller"));
        let controller = Self::spawn_at(
            cluster,
            namespace,
            own,
            &words("controller"),
            &config,
            Some(front.webhook()),
        );
        front.wait_until_ready().await;
        controller.wait_until_ready().await;
        (front, controller)
    }

    async fn spawn_ready(
        cluster: &Cluster,
        namespace: &Namespace,
        own: &str,
        more: &[String],
        kubeconfig: &str,
    ) -> Self {
        let server = Self::spawn(cluster, namespace, own, more, kubeconfig);
        server.wait_until_ready().await;
        server
    }

    fn spawn(
        cluster: &Cluster,
        namespace: &Namespace,
        own: &str,
        more: &[String],
        kubeconfig: &str,
    ) -> Self {
        Self::spawn_at(cluster, namespace, own, more, kubeconfig, None)
    }

    fn spawn_at(
        cluster: &Cluster,
        namespace: &Namespace,
        own: &str,
        more: &[String],
        kubeconfig: &str,
        front: Option<&str>,
    ) -> Self {
        let (webhook, health, api) = (free_address(), free_address(), free_address());
        let mut words = vec![
            "serve".to_owned(),
            format!("--webhook-addr={webhook}"),
            format!("--webhook-url=https://{}", front.unwrap_or(&webhook)),
            format!("--health-addr={health}"),
            format!("--api-addr={api}"),
            format!("--namespace={own}"),
            "--admission-retain=0s".to_owned(),
            "--log-format=text".to_owned(),
        ];
        let watched = format!("--watch-namespace={}", namespace.name);
        for default in ["--coalesce-window=200ms", "--api-tls=false", &watched] {
            let flag = default.split('=').next().unwrap();
            if !more.iter().any(|word| word.starts_with(flag)) {
                words.push(default.to_owned());
            }
        }
        words.extend_from_slice(more);
        let log = cluster.dir.join(format!(
            "server-{}-{}.log",
            namespace.name,
            webhook.rsplit(':').next().unwrap()
        ));
        let child = spawn_process(&words, kubeconfig, &log);
        Self { child, args: words, kubeconfig: kubeconfig.to_owned(), log, health, webhook, api }
    }

    /// Returns the address of the REST API.
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Returns the address of the probes and metrics.
    pub fn health(&self) -> &str {
        &self.health
    }

    /// Returns the address of the webhook.
    pub fn webhook(&self) -> &str {
        &self.webhook
    }

    pub async fn wait_until_ready(&self) {
        let begun = Instant::now();
        while !self.get("/readyz").starts_with("HTTP/1.1 200") {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "the server is not ready:\n{}",
                self.log()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        // The API server sees the webhook configuration only after its own watch delivers it.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// Sends a GET to the health listener; returns the raw response, or an empty string on failure.
    pub fn get(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let ask = || {
            let mut stream = std::net::TcpStream::connect(&self.health)?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            std::io::Result::Ok(text)
        };
        ask().unwrap_or_default()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills the process without shutdown.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the process gracefully; returns the time that it took.
    pub fn terminate(&mut self) -> Duration {
        let begun = Instant::now();
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        begun.elapsed()
    }

    /// Requests a graceful stop and does not wait for it.
    pub fn request_stop(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }

    /// Suspends the process, like a suspended machine.
    pub fn freeze(&self) {
        self.send_signal("-STOP");
    }

    /// Resumes the process after [`Self::freeze`].
    pub fn thaw(&self) {
        self.send_signal("-CONT");
    }

    fn send_signal(&self, signal: &str) {
        assert!(
            Command::new("kill")
                .args([signal, &self.child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Returns the resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.proc_status("VmRSS:")
    }

    /// Returns the anonymous resident memory, in KiB. It excludes the pages of the program file,
    /// which is large in a debug build.
    pub fn anonymous_kib(&self) -> u64 {
        self.proc_status("RssAnon:")
    }

    /// Returns the number of threads.
    pub fn thread_count(&self) -> u64 {
        self.proc_status("Threads:")
    }

    /// Returns the number of open file descriptors.
    pub fn descriptor_count(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count() as u64
    }

    /// Returns a number from `/proc/PID/status`.
    fn proc_status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Starts the process again; does not wait until it is ready.
    pub fn start_again(&mut self) {
        self.child = spawn_process(&self.args, &self.kubeconfig, &self.log);
    }

    /// Returns the number of answered admission reviews of workloads.
    pub fn review_count(&self) -> u64 {
        let text = self.get("/metrics");
        let counts = text
            .lines()
            .filter(|line| line.starts_with("prewarm_admission_duration_seconds_count"));
        let of_workloads = counts.filter(|line| !line.contains("PrewarmTask"));
        of_workloads.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Reports whether this server is the leader.
    pub fn is_leader(&self) -> bool {
        self.get("/metrics").contains("\nprewarm_leader 1\n")
    }

    /// Starts the process again after [`Self::kill`] or [`Self::terminate`], and waits until it is
    /// ready.
    pub async fn restart(&mut self) {
        self.start_again();
        self.wait_until_ready().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        for signal in ["-TERM", "-CONT"] {
            let _ = Command::new("kill").args([signal, &id]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

fn spawn_process(words: &[String], kubeconfig: &str, log: &Path) -> Child {
    let file = File::options().create(true).append(true).open(log).unwrap();
    let program = std::env::var("PREWARMER_TEST_PROGRAM")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_prewarmer").into());
    let mut command = Command::new(program);
    command
        .args(words)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    command.spawn().unwrap()
}

/// Returns an address on which no process listens. The port is not an ephemeral one: the kernel
/// could assign that to another connection before the server binds it.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + std::process::id() % 90 * 100;
    loop {
        let address = format!("127.0.0.1:{}", first + NEXT.fetch_add(1, Ordering::Relaxed) % 1000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

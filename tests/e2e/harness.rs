//! What tests that need a cluster share: the cluster, a namespace each, a
//! server of their own, and waits that say what was seen when they fail.

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

/// Fake nodes of a cluster that the tests start themselves.
const FAKE_NODES: &str = "120";
/// Real nodes of such a cluster: one for all tests, and one whose disk is filled.
const REAL_NODES: &str = "2";
/// What starts and stops clusters.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster");
/// How often a wait looks.
const LOOK: Duration = Duration::from_millis(200);

/// The helper of an installation: the fence knows no other.
pub const INSTALLED_HELPER: &str = "registry.example/helper:1";

/// The chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/chart");

/// The cluster that all tests of a process share.
pub struct Cluster {
    dir: PathBuf,
    env: Vec<(String, String)>,
    crds: OnceLock<()>,
}

impl Cluster {
    /// The cluster of `PREWARMER_TEST_CLUSTER`, or one that this process starts and that ends with it.
    pub fn shared() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| {
            if let Ok(dir) = std::env::var("PREWARMER_TEST_CLUSTER") {
                Self::at(dir.into())
            } else {
                let own = tempfile::tempdir().unwrap().keep();
                Self::start(&own, FAKE_NODES, REAL_NODES);
                Self::at(own)
            }
        })
    }

    /// A cluster for one test that is not good to it; ends with the process.
    pub fn own(fake_nodes: usize) -> &'static Self {
        let dir = tempfile::tempdir().unwrap().keep();
        Self::start(&dir, &fake_nodes.to_string(), "0");
        Box::leak(Box::new(Self::at(dir)))
    }

    /// The cluster's watchdog removes the folder after this process.
    fn start(dir: &Path, fake_nodes: &str, real_nodes: &str) {
        let owner = std::process::id().to_string();
        let status = Command::new(SCRIPT)
            .arg("start")
            .arg(dir)
            .args(["--fake-nodes", fake_nodes, "--real-nodes", real_nodes, "--owner", &owner, "--purge"])
            .status();
        assert!(status.unwrap().success(), "the test cluster did not start: see above");
    }

    /// Kills the API server as a power cut would, and starts it again.
    pub fn crash_apiserver(&self) {
        let output = Command::new(SCRIPT).arg("crash-apiserver").arg(&self.dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Kills a real node as a power cut would.
    pub fn kill_node(&self, name: &str) {
        let output = Command::new(SCRIPT).arg("kill-node").arg(&self.dir).arg(name).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn at(dir: PathBuf) -> Self {
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

    /// A client for the calling test's own runtime.
    pub async fn client(&self) -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let file = Kubeconfig::read_from(self.var("KUBECONFIG")).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// Runs kubectl; what it printed, or a panic with it.
    pub fn kubectl(&self, words: &[&str], input: &str) -> String {
        let (ok, text) = self.try_kubectl(words, input);
        assert!(ok, "kubectl {words:?}: {text}");
        text
    }

    /// Runs kubectl; whether it succeeded, and all that it printed.
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

    /// A new namespace, removed at the end.
    pub fn namespace(&'static self, prefix: &str) -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
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
                    &["crd/prewarmtasks.prewarm.io", "crd/prewarmplans.prewarm.io", "crd/prewarmschedules.prewarm.io"],
                ]
                .concat(),
                "",
            );
        });
        Namespace { cluster: self, name }
    }

    /// The registry of the real node. `None`, with a word on standard error, where the machine can have no real node.
    pub fn registry(&self, test: &str) -> Option<&str> {
        let registry = self.var("REGISTRY");
        if registry.is_empty() {
            let why = self.var("REAL_NODES_REASON");
            eprintln!("NOT RUN: {test}: this cluster has no real node: {why}");
            return None;
        }
        Some(registry)
    }

    /// Runs Helm on this cluster; whether it succeeded, and all that it printed.
    pub fn try_helm(&self, words: &[&str]) -> (bool, String) {
        let helm = Path::new(self.var("BIN")).join("helm");
        let output = Command::new(helm).env("KUBECONFIG", self.var("KUBECONFIG")).args(words).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Runs Helm; what it printed, or a panic with it.
    pub fn helm(&self, words: &[&str]) -> String {
        let (ok, text) = self.try_helm(words);
        assert!(ok, "helm {words:?}: {text}");
        text
    }

    /// A file by which an account of a namespace reaches the API server.
    fn kubeconfig_of(&self, namespace: &Namespace, account: &str) -> String {
        let token = namespace.kubectl(&["create", "token", account], "");
        let mut config: serde_json::Value =
            serde_json::from_str(&self.kubectl(&["config", "view", "--raw", "-o", "json"], "")).unwrap();
        config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
        let file = self.dir.join(format!("kubeconfig-{}-{account}", namespace.name));
        std::fs::write(&file, config.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn crane(&self, words: &[&str]) {
        let output = Command::new(Path::new(self.var("BIN")).join("crane")).args(words).output().unwrap();
        assert!(output.status.success(), "crane {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Pushes an image that holds one file and, unless it is the entry point, no program.
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
            self.crane(&["mutate", "--insecure", "--entrypoint", &program, reference, "-t", reference]);
        }
    }

    /// Pushes an image with nothing but a file of unique content.
    pub fn push_data(&self, reference: &str) {
        let work = tempfile::tempdir_in(&self.dir).unwrap();
        let file = work.path().join("data");
        std::fs::write(&file, reference).unwrap();
        self.push(reference, &file, false);
    }

    /// Builds the static helper and pushes it, once.
    pub fn helper(&self, registry: &str) -> String {
        static HELPER: OnceLock<String> = OnceLock::new();
        HELPER
            .get_or_init(|| {
                let work = tempfile::tempdir_in(&self.dir).unwrap();
                let program = work.path().join("prewarmer-helper");
                let status = Command::new("make")
                    .current_dir(env!("CARGO_MANIFEST_DIR"))
                    .args(["-s", "helper", &format!("HELPER={}", program.display())])
                    .status();
                assert!(status.unwrap().success(), "the helper did not build");
                let reference = format!("{registry}/prewarmer-helper:test");
                self.push(&reference, &program, true);
                reference
            })
            .clone()
    }
}

/// A namespace of one test.
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

    /// What the kubelet has said of the pods whose names begin so: reason and message.
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

    /// All objects of a kind, as JSON.
    pub fn get(&self, kind: &str) -> Vec<serde_json::Value> {
        let text = self.kubectl(&["get", kind, "-o", "json"], "");
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Waits until `look` finds something; says what there was instead if it never does.
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
            assert!(begun.elapsed() < limit, "not within {limit:?}: {what}\n{}", self.diagnosis());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for a task's end; its status.
    pub async fn ended(&self, task: &str, limit: Duration) -> serde_json::Value {
        self.eventually(&format!("the end of task {task}"), limit, || async {
            let text = self.kubectl(&["get", "prewarmtask", task, "-o", "json"], "");
            let task: serde_json::Value = serde_json::from_str(&text).unwrap();
            let ended = ["Completed", "Failed", "Cancelled"].contains(&task["status"]["phase"].as_str()?);
            ended.then(|| task["status"].clone())
        })
        .await
    }

    fn diagnosis(&self) -> String {
        let show = |words: &[&str]| self.cluster.try_kubectl(&[&["-n", &self.name], words].concat(), "").1;
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

/// A `prewarmer serve` that looks at one namespace.
pub struct Server {
    child: Child,
    words: Vec<String>,
    kubeconfig: String,
    log: PathBuf,
    health: String,
    webhook: String,
    api: String,
}

impl Server {
    pub async fn start(cluster: &Cluster, namespace: &Namespace, worker_image: &str) -> Self {
        Self::with(cluster, namespace, namespace, &[&format!("--worker-image={worker_image}")]).await
    }

    /// A server that lives in the namespace `own`, with more words on its command line.
    pub async fn with(cluster: &Cluster, namespace: &Namespace, own: &Namespace, words: &[&str]) -> Self {
        let mut more = vec![format!("--instance={}", namespace.name)];
        more.extend(words.iter().map(|word| (*word).to_owned()));
        Self::run(cluster, namespace, &own.name, &more, cluster.var("KUBECONFIG")).await
    }

    /// A server that looks at every namespace, as an installation does, and lives in the namespace `own`. For clusters that no
    /// other test shares.
    pub async fn everywhere(cluster: &Cluster, own: &Namespace, kubeconfig: &str, words: &[&str]) -> Self {
        let mut more = vec!["--watch-namespace=".to_owned()];
        more.extend(words.iter().map(|word| (*word).to_owned()));
        Self::run(cluster, own, &own.name, &more, kubeconfig).await
    }

    /// A server that reaches the API server by way of another kubeconfig.
    pub async fn through(cluster: &Cluster, namespace: &Namespace, kubeconfig: &str, words: &[&str]) -> Self {
        let mut more = vec![format!("--instance={}", namespace.name)];
        more.extend(words.iter().map(|word| (*word).to_owned()));
        Self::run(cluster, namespace, &namespace.name, &more, kubeconfig).await
    }

    /// A further replica of [`Self::start`]. Registered by URL, only the one that leads is ready.
    pub fn standby(cluster: &Cluster, namespace: &Namespace, worker_image: &str) -> Self {
        let more = [format!("--instance={}", namespace.name), format!("--worker-image={worker_image}")];
        Self::spawn(cluster, namespace, &namespace.name, &more, cluster.var("KUBECONFIG"))
    }

    /// A replica that the API server reaches by way of `front`, an address; ready or not.
    pub fn behind(cluster: &Cluster, namespace: &Namespace, front: &str, words: &[&str]) -> Self {
        let mut more = vec![format!("--instance={}", namespace.name)];
        more.extend(words.iter().map(|word| (*word).to_owned()));
        Self::spawn_at(cluster, namespace, &namespace.name, &more, cluster.var("KUBECONFIG"), Some(front))
    }

    /// Front and controller with the rights of the installed service accounts and nobody else's, in the way that `prewarmer
    /// manifests` installs them. `install` is the namespace of the installation, `namespace` the one that they look at.
    pub async fn installed(cluster: &Cluster, install: &Namespace, namespace: &Namespace) -> (Self, Self) {
        Self::installed_as(cluster, install, namespace, None).await
    }

    /// The same, of an installation whose names have a suffix.
    pub async fn installed_as(
        cluster: &Cluster,
        install: &Namespace,
        namespace: &Namespace,
        instance: Option<&str>,
    ) -> (Self, Self) {
        let account = instance.map_or_else(|| "prewarmer".to_owned(), |suffix| format!("prewarmer-{suffix}"));
        let words = |components: &str| {
            let mut more =
                vec![format!("--worker-image={INSTALLED_HELPER}"), format!("--worker-priority-class={account}-worker")];
            more.push(format!("--components={components}"));
            more.extend(instance.map(|suffix| format!("--instance={suffix}")));
            more
        };
        let own = install.name.as_str();
        let config = cluster.kubeconfig_of(install, &account);
        let front = Self::spawn(cluster, namespace, own, &words("admission,api"), &config);
        let config = cluster.kubeconfig_of(install, &format!("{account}-controller"));
        let controller = Self::spawn_at(cluster, namespace, own, &words("controller"), &config, Some(front.webhook()));
        front.ready().await;
        controller.ready().await;
        (front, controller)
    }

    async fn run(cluster: &Cluster, namespace: &Namespace, own: &str, more: &[String], kubeconfig: &str) -> Self {
        let server = Self::spawn(cluster, namespace, own, more, kubeconfig);
        server.ready().await;
        server
    }

    fn spawn(cluster: &Cluster, namespace: &Namespace, own: &str, more: &[String], kubeconfig: &str) -> Self {
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
        let log = cluster.dir.join(format!("server-{}-{}.log", namespace.name, webhook.rsplit(':').next().unwrap()));
        let child = spawn(&words, kubeconfig, &log);
        Self { child, words, kubeconfig: kubeconfig.to_owned(), log, health, webhook, api }
    }

    /// Where its REST API is.
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Where its health and its metrics are.
    pub fn health(&self) -> &str {
        &self.health
    }

    /// Where it serves admission.
    pub fn webhook(&self) -> &str {
        &self.webhook
    }

    pub async fn ready(&self) {
        let begun = Instant::now();
        while !self.get("/readyz").starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < Duration::from_secs(30), "the server is not ready:\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
        // The API server learns of the webhook by a watch of its own.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// Asks the health listener; the raw answer, or nothing.
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

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end; how long it took.
    pub fn terminate(&mut self) -> Duration {
        let begun = Instant::now();
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        begun.elapsed()
    }

    /// Asks it to end, and waits for nothing.
    pub fn signal(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }

    /// Stops it where it stands, as a suspended machine would.
    pub fn freeze(&self) {
        self.send("-STOP");
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.send("-CONT");
    }

    fn send(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Its resident memory, in KiB.
    pub fn resident(&self) -> u64 {
        self.status_of("VmRSS:")
    }

    /// Of its resident memory what is no file, in KiB: without the pages of the program, of which a debug build has many.
    pub fn anonymous(&self) -> u64 {
        self.status_of("RssAnon:")
    }

    /// Its threads.
    pub fn threads(&self) -> u64 {
        self.status_of("Threads:")
    }

    /// Its open file descriptors.
    pub fn descriptors(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count() as u64
    }

    /// A number of `/proc/PID/status`.
    fn status_of(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Starts it again at once, ready or not.
    pub fn revive(&mut self) {
        self.child = spawn(&self.words, &self.kubeconfig, &self.log);
    }

    /// How many reviews of workloads it has answered.
    pub fn reviews(&self) -> u64 {
        let text = self.get("/metrics");
        let counts = text.lines().filter(|line| line.starts_with("prewarm_admission_duration_seconds_count"));
        let of_workloads = counts.filter(|line| !line.contains("PrewarmTask"));
        of_workloads.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.get("/metrics").contains("\nprewarm_leader 1\n")
    }

    /// Starts it again after [`Self::kill`] or [`Self::terminate`].
    pub async fn restart(&mut self) {
        self.revive();
        self.ready().await;
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

fn spawn(words: &[String], kubeconfig: &str, log: &Path) -> Child {
    let file = File::options().create(true).append(true).open(log).unwrap();
    let program = std::env::var("PREWARMER_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_prewarmer").into());
    let mut command = Command::new(program);
    command.args(words).env("KUBECONFIG", kubeconfig).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    command.spawn().unwrap()
}

/// An address that nobody listens on. Not one that the system gives away: it would give it to the next connection as well,
/// before the server gets to it.
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

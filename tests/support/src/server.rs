//! Server under test.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use crate::{cluster::Cluster, fixtures::INSTALLED_HELPER, namespace::Namespace, wait};

/// `prewarmer serve` process that watches one namespace.
pub struct Server {
    child: Child,
    program: &'static str,
    args: Vec<String>,
    kubeconfig: String,
    log: PathBuf,
    health: String,
    webhook: String,
    api: String,
}

fn arguments(first: String, words: &[&str]) -> Vec<String> {
    [first].into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
}

impl Server {
    /// Starts a server for a namespace, and in it; waits until it is ready, as do the other
    /// constructors that are `async`.
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
        let more = arguments(format!("--instance={}", namespace.name), words);
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
        let more = arguments("--watch-namespace=".to_owned(), words);
        Self::spawn_ready(cluster, own, &own.name, &more, kubeconfig).await
    }

    /// Starts a server that uses another kubeconfig.
    pub async fn with_kubeconfig(
        cluster: &Cluster,
        namespace: &Namespace,
        kubeconfig: &str,
        words: &[&str],
    ) -> Self {
        let more = arguments(format!("--instance={}", namespace.name), words);
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
        let more = arguments(format!("--instance={}", namespace.name), words);
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
        let log = cluster.dir.join("logs").join(format!(
            "server-{}-{}.log",
            namespace.name,
            webhook.rsplit(':').next().unwrap()
        ));
        let child = spawn_process(cluster.program, &words, kubeconfig, &log);
        Self {
            child,
            program: cluster.program,
            args: words,
            kubeconfig: kubeconfig.to_owned(),
            log,
            health,
            webhook,
            api,
        }
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

    /// Waits until the server is ready; panics with its log after 30 s.
    pub async fn wait_until_ready(&self) {
        let ready = async || self.get("/readyz").starts_with("HTTP/1.1 200").then_some(());
        let is_ready = wait::until(Duration::from_secs(30), ready).await.is_some();
        assert!(is_ready, "the server is not ready:\n{}", self.log());
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

    /// Returns what the process has written to standard error so far.
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

    /// Returns the number of voluntary context switches of all threads: how often a thread has waited
    /// for an event or a timer. Threads that have ended are not counted.
    pub fn voluntary_switches(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
            let count =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            count.trim().parse::<u64>().ok()
        };
        threads.filter_map(of_thread).sum()
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
        self.child = spawn_process(self.program, &self.args, &self.kubeconfig, &self.log);
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

fn spawn_process(program: &str, words: &[String], kubeconfig: &str, log: &Path) -> Child {
    let file = File::options().create(true).append(true).open(log).unwrap();
    let program = std::env::var("PREWARMER_TEST_PROGRAM").unwrap_or_else(|_| program.to_owned());
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

//! Test cluster, and the programs that use it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{namespace::Namespace, not_run::not_run};

/// Number of fake nodes of a cluster that the tests start.
const FAKE_NODES: &str = "120";
/// Number of real nodes of such a cluster: one for all tests, and one whose disk is filled.
const REAL_NODES: &str = "2";
/// Script that starts and stops clusters.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/cluster");
/// Path of the chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/chart");

/// Test cluster.
pub struct Cluster {
    pub(crate) dir: PathBuf,
    pub(crate) program: &'static str,
    env: Vec<(String, String)>,
    crds: OnceLock<()>,
    /// Reference of the helper in the registry of this cluster, after it was pushed.
    pub(crate) helper: OnceLock<String>,
    /// Reports whether this process started the cluster, whose directory is deleted with it.
    is_own: bool,
    kept_logs: OnceLock<()>,
}

impl Cluster {
    /// Returns the cluster of `PREWARMER_TEST_CLUSTER`, or starts one that ends with this process.
    /// `program` is the path of the `prewarmer` program under test.
    pub fn shared_for(program: &'static str) -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| {
            if let Ok(dir) = std::env::var("PREWARMER_TEST_CLUSTER") {
                Self::from_dir(dir.into(), program, false)
            } else {
                let own = tempfile::tempdir().unwrap().keep();
                Self::start(&own, FAKE_NODES, REAL_NODES);
                Self::from_dir(own, program, true)
            }
        })
    }

    /// Starts a cluster for one test that would disturb others. It ends with the process. `program`
    /// is the path of the `prewarmer` program under test.
    pub fn dedicated_for(
        program: &'static str,
        fake_nodes: usize,
        real_nodes: usize,
    ) -> &'static Self {
        let dir = tempfile::tempdir().unwrap().keep();
        Self::start(&dir, &fake_nodes.to_string(), &real_nodes.to_string());
        Box::leak(Box::new(Self::from_dir(dir, program, true)))
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

    fn from_dir(dir: PathBuf, program: &'static str, is_own: bool) -> Self {
        let text = std::fs::read_to_string(dir.join("env")).unwrap();
        let pair = |line: &str| {
            let (key, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((key.to_owned(), value.trim_matches('\'').to_owned()))
        };
        Self {
            dir,
            program,
            env: text.lines().filter_map(pair).collect(),
            crds: OnceLock::new(),
            helper: OnceLock::new(),
            is_own,
            kept_logs: OnceLock::new(),
        }
    }

    /// Copies the logs of a cluster that ends with this process to a directory that remains, and
    /// prints its path and the last lines of components that have ended. Repeated calls do nothing.
    /// `cluster with` does the same for its cluster.
    pub(crate) fn keep_logs(&self) {
        if !self.is_own {
            return;
        }
        self.kept_logs.get_or_init(|| {
            match Command::new(SCRIPT).arg("keep-logs").arg(&self.dir).output() {
                Ok(output) => eprintln!("{}", String::from_utf8_lossy(&output.stderr)),
                Err(error) => eprintln!("the cluster's logs are lost: {error}"),
            }
        });
    }

    /// Returns a variable of the cluster's environment, or an empty string if it is not set.
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
            let crds = Command::new(self.program).arg("crds").output().unwrap();
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
            not_run(test, &format!("this cluster has no real node: {why}"));
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
    pub fn kubeconfig_of(&self, namespace: &Namespace, account: &str) -> String {
        let token = namespace.kubectl(&["create", "token", account], "");
        let mut config: serde_json::Value =
            serde_json::from_str(&self.kubectl(&["config", "view", "--raw", "-o", "json"], ""))
                .unwrap();
        config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
        let file = self.dir.join(format!("kubeconfig-{}-{account}", namespace.name));
        std::fs::write(&file, config.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

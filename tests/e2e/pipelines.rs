//! Pipeline examples of `docs/ci`, with a token created as `docs/ci.md` describes, and through a
//! proxy that fails some of their calls.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use futures::future::join_all;
use prewarmer_test_support::{
    cluster::Cluster,
    fixtures::{HELPER, TASK_TIMEOUT},
    namespace::Namespace,
    rest::RestClient,
    server::Server,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::TestCluster;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Returns the shell scripts of the examples.
fn scripts() -> Vec<(&'static str, String)> {
    let text = |name: &str| std::fs::read_to_string(Path::new(ROOT).join("docs/ci").join(name));
    let yaml = |name: &str| serde_saphyr::from_str::<Value>(&text(name).unwrap()).unwrap();
    let script = |value: &Value| value.as_str().unwrap().to_owned();
    let hook = yaml("argocd-hook.yaml");
    let github = yaml("github-actions.yml");
    let groovy = text("Jenkinsfile").unwrap();
    vec![
        ("gitlab-ci.yml", script(&yaml("gitlab-ci.yml")["prewarm"]["script"][0])),
        ("github-actions.yml", script(&github["jobs"]["prewarm"]["steps"][0]["run"])),
        ("argocd-hook.yaml", script(&hook["spec"]["template"]["spec"]["containers"][0]["args"][0])),
        ("tekton-task.yaml", script(&yaml("tekton-task.yaml")["spec"]["steps"][0]["script"])),
        // Groovy reads `\\` as `\`.
        ("Jenkinsfile", groovy.split("'''").nth(1).unwrap().replace("\\\\", "\\")),
    ]
}

/// Variables that the examples require.
struct Pipeline<'a> {
    url: String,
    token: String,
    ca: String,
    namespace: &'a str,
    seconds: &'a str,
}

impl Pipeline<'_> {
    /// Runs a script; returns whether it succeeded, and its output.
    async fn run(&self, name: &str, script: &str, image: &str) -> (bool, String) {
        let output = Command::new("sh")
            .args(["-c", script])
            .env("PREWARMER_URL", &self.url)
            .env("PREWARMER_TOKEN", &self.token)
            .env("PREWARMER_CA", &self.ca)
            .env("PREWARM_SECONDS", self.seconds)
            .env("NAMESPACE", self.namespace)
            .env("IMAGE", image)
            .env("KEY", format!("{name}-{image}"))
            .output()
            .await
            .unwrap();
        (output.status.success(), text_of(&output))
    }
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// Runs the commands by which `docs/ci.md` creates the token and fetches the CA, for the namespace
/// of the test in place of `shop`, in which Prewarmer is not installed. Returns the token and the
/// content of `ca.crt`.
async fn follow_the_page(cluster: &Cluster, own: &Namespace, shop: &Namespace) -> (String, String) {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/ci.md")).unwrap();
    let block = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(block.contains("--namespaces shop "), "{block}");
    let folder = tempfile::tempdir().unwrap();
    let programs = [cluster.var("KUBECTL"), env!("CARGO_BIN_EXE_prewarmer")];
    let programs = programs.map(|program| PathBuf::from(program).parent().unwrap().to_owned());
    let path = std::env::join_paths(
        programs.into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let output = Command::new("sh")
        .args([
            "-euc",
            &block.replace("--namespaces shop ", &format!("--namespaces {} ", shop.name)),
        ])
        .current_dir(folder.path())
        .env("PATH", path.unwrap())
        .env("KUBECONFIG", cluster.var("KUBECONFIG"))
        .env("K8S_NAMESPACE", &own.name)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    let said = text_of(&output);
    let token = said.lines().find(|line| line.starts_with("prw_ci_")).expect(&said).to_owned();
    (token, std::fs::read_to_string(folder.path().join("ca.crt")).unwrap())
}

/// Verifies each example over TLS: a completed task, a failed one, a rejected call and a step that
/// is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn ci_examples_work_as_documented() {
    let cluster = Cluster::dedicated(20);
    let (own, shop) = (cluster.namespace("own"), cluster.namespace("shop"));
    let words = [&*format!("--worker-image={HELPER}"), "--api-tls=true"];
    let server =
        Server::watching_all_namespaces(cluster, &own, cluster.var("KUBECONFIG"), &words).await;
    let (token, ca) = follow_the_page(cluster, &own, &shop).await;
    let caller = RestClient::with_ca(
        &format!("https://{}", server.api()),
        &base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &ca),
        &token,
    );
    let path = format!("/tasks?namespace={}", shop.name);
    let known = || async { (caller.get(&path).await.code == 200).then_some(()) };
    shop.eventually("acceptance of the API token", TASK_TIMEOUT, known).await;
    let url = format!("https://{}", server.api());
    let pipeline = Pipeline { url, token, ca, namespace: &shop.name, seconds: "120" };
    let scripts = scripts();
    let image = "registry.example/shop/web:1";
    let missing = "registry.example/shop/missing:1";
    let steps = &pipeline;
    let runs = scripts.iter().map(|(name, script)| async move {
        let (good, said) = steps.run(name, script, image).await;
        assert!(good && said.contains(": completed, 100.0 %"), "{name}: {said}");
        let (good, said) = steps.run(name, script, missing).await;
        assert!(!good && said.contains(": failed, 0.0 %"), "{name}: {said}");
        assert!(said.contains("ImageNotFound: 20"), "{name}: {said}");
        let (good, said) = steps.run(name, script, "UPPER/x").await;
        assert!(!good && said.contains("rejected: ") && said.contains(" 400"), "{name}: {said}");
    });
    join_all(runs).await;
    let tasks = 2 * scripts.len();
    assert_eq!(shop.tasks().len(), tasks);
    let (name, script) = &scripts[0];
    assert!(pipeline.run(name, script, image).await.0);
    assert_eq!(shop.tasks().len(), tasks, "a repeated step created a second task");
    // An unknown CA is permanent, so it is not tried again until the limit.
    let begun = Instant::now();
    let unverified = Pipeline { ca: String::new(), ..pipeline };
    let (good, said) = unverified.run(name, script, image).await;
    assert!(!good && said.contains("certificate"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// Response of the proxy in place of the server's.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// The connection is reset.
    Reset,
    /// The response has this status.
    Status(u16),
}

/// Serves a proxy to the server's plain HTTP listener, which fails the first connections as listed
/// (`None`: forwarded), and the others as `rest`. Returns its URL.
async fn failing_proxy(
    server: &Server,
    first: &'static [Option<Failure>],
    rest: Option<Failure>,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = server.api().to_owned();
    tokio::spawn(async move {
        for index in 0.. {
            let Ok((mut client, _)) = listener.accept().await else { return };
            let target = target.clone();
            tokio::spawn(async move {
                match first.get(index).copied().unwrap_or(rest) {
                    None => {
                        let mut server = TcpStream::connect(target).await.unwrap();
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                    Some(Failure::Reset) => {
                        // Closing a socket with unread bytes sends a reset.
                        let _ = client.readable().await;
                    }
                    Some(Failure::Status(code)) => {
                        let mut request = [0; 4096];
                        let _ = client.read(&mut request).await;
                        let answer = format!(
                            "HTTP/1.1 {code} Busy\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{{\"error\":\"no\"}}\n"
                        );
                        let _ = client.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    url
}

/// Verifies that failed calls are repeated, without a second task, and that the time until a script
/// gives up is limited.
#[tokio::test(flavor = "multi_thread")]
async fn ci_examples_repeat_failed_calls() {
    const FAILURES: &[Option<Failure>] = &[
        Some(Failure::Status(503)),
        None,
        Some(Failure::Reset),
        Some(Failure::Status(429)),
        Some(Failure::Status(503)),
    ];
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("pipelines");
    let server = Server::start(cluster, &namespace, HELPER).await;
    let caller = RestClient::editor(&server, &namespace);
    let pipeline = |url: String, seconds| Pipeline {
        url,
        token: caller.bearer_token().to_owned(),
        ca: String::new(),
        namespace: &namespace.name,
        seconds,
    };
    // The task covers all nodes, including real ones, whose registry reports the image as not
    // found; success on nine tenths of the nodes is enough.
    let registry = Some(cluster.var("REGISTRY"))
        .filter(|address| !address.is_empty())
        .unwrap_or("registry.example");
    let image = format!("{registry}/shop/web:1");
    let scripts = scripts();
    let (steps, server, image) = (&pipeline, &server, image.as_str());
    let runs = scripts.iter().map(|(name, script)| async move {
        let busy = steps(failing_proxy(server, FAILURES, None).await, "120");
        let (good, said) = busy.run(name, script, image).await;
        assert!(good && said.contains(": completed, "), "{name}: {said}");
        assert_eq!(said.matches("trying again after: ").count(), 4, "{name}: {said}");
        // The task is created, and then no call succeeds.
        let down = failing_proxy(server, &[None], Some(Failure::Status(503))).await;
        let begun = Instant::now();
        let (good, said) = steps(down, "4").run(name, script, "slow:1").await;
        assert!(!good && said.contains("no usable response: "), "{name}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(40), "{name}: {:?}", begun.elapsed());
    });
    join_all(runs).await;
    assert_eq!(namespace.tasks().len(), 2 * scripts.len(), "a repeated call created a second task");
}

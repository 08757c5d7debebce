//! Failure reasons, produced by a real kubelet and containerd as far as they can be provoked.

use std::{io::Write, path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Path as UrlPath,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use prewarmer_api::task::PrewarmTaskStatus;
use prewarmer_test_support::{
    cluster::Cluster,
    namespace::{Namespace, first_reason},
    server::Server,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::TestCluster;

const TIMEOUT: Duration = Duration::from_secs(90);
/// Size of an image, in bytes, that exceeds the disk of the last real node's containerd
/// (tests/cluster).
const OVERSIZED_IMAGE_BYTES: usize = 80 << 20;

/// Registry that rejects requests in different ways. It stops with the test, which also ends pulls
/// that wait for it.
struct Registry {
    address: String,
    task: JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start_rejecting_registry() -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router =
        Router::new().route("/v2/", any(|| async { "{}" })).route("/v2/{*path}", any(reject));
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Registry { address, task }
}

async fn reject(UrlPath(path): UrlPath<String>) -> Response {
    match path.split('/').next().unwrap_or_default() {
        "private" => (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"r\"")])
            .into_response(),
        "limited" => (StatusCode::TOO_MANY_REQUESTS, "toomanyrequests: slow down").into_response(),
        "broken" => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        "foreign" => {
            let digest = format!("sha256:{}", "0".repeat(64));
            let mainframe = json!({"architecture": "s390x", "os": "linux"});
            let manifest = "application/vnd.oci.image.manifest.v1+json";
            let entry =
                json!({"mediaType": manifest, "digest": digest, "size": 2, "platform": mainframe});
            let index = "application/vnd.oci.image.index.v1+json";
            let body =
                json!({"schemaVersion": 2, "mediaType": index, "manifests": [entry]}).to_string();
            ([(header::CONTENT_TYPE, index)], body).into_response()
        }
        "silent" => std::future::pending().await,
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Starts a registry with an untrusted, self-signed certificate.
async fn start_untrusted_registry() -> Registry {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The client aborts the handshake, which is the behaviour under test.
            let _ = acceptor.accept(stream).await;
        }
    });
    Registry { address, task }
}

/// Configures the node's containerd to use TLS for a loopback address, for which it would use plain
/// HTTP.
fn require_tls(cluster: &Cluster, address: &str) {
    let folder = Path::new(cluster.var("CLUSTER_DIR")).join("real1/certs.d").join(address);
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!(
        "server = \"https://{address}\"\n[host.\"https://{address}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    );
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
}

async fn run_on_node(
    namespace: &Namespace,
    node: &str,
    name: &str,
    spec: Value,
) -> PrewarmTaskStatus {
    let mut spec = spec;
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    namespace.apply_task(name, &spec);
    namespace.wait_until_ended(name, TIMEOUT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_failures_map_to_reasons() {
    let cluster = Cluster::shared();
    let Some(registry) = cluster.registry("kubelet_failures_map_to_reasons") else { return };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let namespace = cluster.namespace("reasons");
    let _server = Server::start(cluster, &namespace, &cluster.push_helper(registry)).await;
    let (refusing, untrusted) =
        (start_rejecting_registry().await, start_untrusted_registry().await);
    require_tls(cluster, &untrusted.address);
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (good, large) = (
        format!("{registry}/good:{}", namespace.name),
        format!("{registry}/large:{}", namespace.name),
    );
    cluster.push_data(&good);
    push_incompressible(cluster, &large);
    let of = |name: &str| format!("{}/{name}:1", refusing.address);
    let expected = [
        (format!("{registry}/absent:1"), "ImageNotFound"),
        (of("private"), "Unauthorized"),
        (of("foreign"), "PlatformMismatch"),
        (of("limited"), "RateLimited"),
        (of("broken"), "RegistryUnreachable"),
        (format!("{}/x:1", untrusted.address), "TLS"),
        (format!("{closed}/x:1"), "RegistryUnreachable"),
    ];
    for method in ["Helper", "ImageVolume"] {
        let mut images: Vec<&str> = expected.iter().map(|(image, _)| image.as_str()).collect();
        images.push(&good);
        let spec = json!({"images": images, "timeout": "20s", "pullMethod": method, "imagePullPolicy": "Always"});
        let status = run_on_node(&namespace, "real1", &method.to_lowercase(), spec).await;
        let reason = |image: &String| {
            let failure = status.failed_nodes.iter().find(|failure| failure.image == *image);
            failure.map_or("none", |failure| failure.reason.as_str())
        };
        let found: Vec<(&String, &str)> =
            expected.iter().map(|(image, _)| (image, reason(image))).collect();
        let wanted: Vec<(&String, &str)> =
            expected.iter().map(|(image, reason)| (image, *reason)).collect();
        assert_eq!(found, wanted, "{method}: {status:#?}");
        assert_eq!(status.images[expected.len()].succeeded, 1, "the available image: {status:#?}");
    }
    let status = run_on_node(
        &namespace,
        "real1",
        "silent",
        json!({"images": [of("silent")], "timeout": "6s"}),
    )
    .await;
    assert_eq!(first_reason(&status), Some("Timeout"), "{status:#?}");
    let status =
        run_on_node(&namespace, "real2", "large", json!({"images": [large], "timeout": "20s"}))
            .await;
    assert_eq!(first_reason(&status), Some("NotEnoughDisk"), "{status:#?}");
}

/// Pushes an image that compresses badly.
fn push_incompressible(cluster: &Cluster, reference: &str) {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("noise");
    let (mut file, mut seed) = (std::fs::File::create(&path).unwrap(), 1_u64);
    let mut block = vec![0_u8; 1 << 20];
    for _ in 0..OVERSIZED_IMAGE_BYTES / block.len() {
        for byte in &mut block {
            // A linear congruential generator (Knuth's MMIX) is random enough to defeat gzip.
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = seed.to_be_bytes()[0];
        }
        file.write_all(&block).unwrap();
    }
    cluster.push(reference, &path, false);
}

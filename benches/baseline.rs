//! Lower bounds for the cost of a webhook: a server of hyper and rustls that reads the body of each
//! request and answers a constant (`echo`), or that also parses the body into a
//! `serde_json::Value` (`parse`). Runtime, allocator and TLS provider are those of Prewarmer.
//! tests/measure/webhook.sh compares them with the webhook.
//!
//! usage: baseline echo|parse PORT CERTIFICATES

use std::{convert::Infallible, path::Path, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "usage: baseline echo|parse PORT CERTIFICATES";
const ANSWER: &str = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":true}}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mode, port, certificates] = words.as_slice() else { anyhow::bail!(USAGE) };
    anyhow::ensure!(matches!(mode.as_str(), "echo" | "parse"), USAGE);
    let parses = mode == "parse";
    let acceptor = acceptor(Path::new(certificates))?;
    let listener = TcpListener::bind(("127.0.0.1", port.parse().context(USAGE)?)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, acceptor, parses).await {
                eprintln!("{error:#}");
            }
        });
    }
}

fn acceptor(folder: &Path) -> anyhow::Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_file_iter(folder.join("tls.crt"))?;
    let key = PrivateKeyDer::from_pem_file(folder.join("tls.key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates.collect::<Result<_, _>>()?, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, parses: bool) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = TokioIo::new(acceptor.accept(stream).await?);
    let service = service_fn(move |request| async move {
        Ok::<_, Infallible>(answer(request, parses).await.unwrap_or_else(|error| {
            let mut response = Response::new(Full::from(error.to_string()));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }))
    });
    http1::Builder::new().serve_connection(stream, service).await?;
    Ok(())
}

async fn answer(request: Request<Incoming>, parses: bool) -> anyhow::Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    if parses {
        let review: Value = serde_json::from_slice(&body)?;
        anyhow::ensure!(review["request"]["uid"].is_string(), "not an AdmissionReview");
    }
    let answer = Full::from(ANSWER);
    Ok(Response::builder().header(header::CONTENT_TYPE, "application/json").body(answer)?)
}

//! Load generator that sends admission reviews over TLS on several connections. Prints requests per
//! second, requests per second of the server's processor time, and latencies.
//!
//! usage: load ADDRESS CA.pem REVIEW.json PID SECONDS CONNECTIONS...

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, task::JoinSet, time::Instant};
use tokio_rustls::TlsConnector;

const USAGE: &str = "usage: load ADDRESS CA.pem REVIEW.json PID SECONDS CONNECTIONS...";
/// Unit of processor time in Linux: hundredths of a second (`getconf CLK_TCK`), on every
/// architecture that Kubernetes supports.
const TICKS_PER_SECOND: f64 = 100.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, ca, review, pid, seconds, connections @ ..] = words.as_slice() else {
        anyhow::bail!(USAGE)
    };
    let review = Bytes::from(std::fs::read(review).context(review.clone())?);
    let connector = connector(ca)?;
    let time = Duration::from_secs(seconds.parse().context(USAGE)?);
    println!(
        "review: {} bytes; HTTP/1.1, keep-alive, TLS 1.3; {} s each",
        review.len(),
        time.as_secs()
    );
    println!("connections  requests/s  requests/CPU-s  p50 ms  p99 ms  max ms");
    for connections in connections {
        let connections: usize = connections.parse().context(USAGE)?;
        let before = processor_time(pid)?;
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(one(
                address.clone(),
                connector.clone(),
                review.clone(),
                Instant::now() + time,
            ));
        }
        let mut latencies = Vec::new();
        while let Some(result) = tasks.join_next().await {
            latencies.extend(result??);
        }
        let spent = processor_time(pid)? - before;
        latencies.sort_unstable();
        let at = |percent: usize| {
            latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1000.0
        };
        let rate = latencies.len() as u64 / time.as_secs();
        #[allow(clippy::cast_precision_loss, reason = "counts of requests are small")]
        let per_cpu = latencies.len() as f64 / spent;
        println!(
            "{connections:>11}  {rate:>10}  {per_cpu:>14.0}  {:>6.2}  {:>6.2}  {:>6.2}",
            at(50),
            at(99),
            at(100)
        );
    }
    Ok(())
}

/// Returns the processor time of a process in seconds.
fn processor_time(pid: &str) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("PID of the server")?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // proc_pid_stat(5): utime and stime are the fields 14 and 15; the first field after the name is
    // field 3.
    let ticks = |at: usize| {
        fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("proc_pid_stat")
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn connector(ca: &str) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Sends reviews on one connection until `end`, and returns their latencies.
async fn one(
    address: String,
    tls: TlsConnector,
    review: Bytes,
    end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let host = address.rsplit_once(':').context(USAGE)?.0.to_owned();
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let stream = tls.connect(ServerName::try_from(host)?, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let request = Request::post("/admit/workloads")
            .header(header::HOST, &address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(review.clone()))?;
        let begun = Instant::now();
        let response = sender.send_request(request).await?;
        anyhow::ensure!(
            response.status() == StatusCode::OK,
            "unexpected status {}",
            response.status()
        );
        response.into_body().collect().await?;
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

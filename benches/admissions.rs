//! Load generator that creates Deployments at a fixed rate through the API server, which calls the
//! webhook for each. Prints the latency of the creations as a client sees it; the API server's own
//! metrics contain that of the webhook (docs/measurements.md).
//!
//! Their images are a few in rotation, as in rollouts of the same services: the first creations
//! with an image cause a task, the rest find it covered.
//!
//! usage: admissions NAMESPACE DEPLOYMENTS RATE

use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

const USAGE: &str = "usage: admissions NAMESPACE DEPLOYMENTS RATE";
/// Different images of all Deployments together; each Deployment has one of them, and one that all
/// share.
const IMAGES: usize = 50;
/// Creations that may be open at the same time. At 100 per second each may take 640 ms before the
/// load falls behind its rate.
const MAX_OPEN: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [namespace, count, rate] = words.as_slice() else { anyhow::bail!(USAGE) };
    let count: usize = count.parse().context(USAGE)?;
    let rate: u32 = rate.parse().context(USAGE)?;
    anyhow::ensure!(count > 0 && rate > 0, USAGE);
    let api = Api::<Deployment>::namespaced(Client::try_default().await?, namespace);
    let begun = Instant::now();
    let mut latencies = stream::iter(0..count)
        .map(|index| create(&api, index, begun + scheduled(index, rate)))
        .buffer_unordered(MAX_OPEN)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?;
    let took = begun.elapsed();
    latencies.sort_unstable();
    let at =
        |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "{count} Deployments in {:.1} s: p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
        took.as_secs_f64(),
        at(50),
        at(99),
        at(100)
    );
    Ok(())
}

/// Returns the time at which the creation `index` is due, after the first.
fn scheduled(index: usize, rate: u32) -> Duration {
    Duration::from_secs(1) * u32::try_from(index).unwrap_or(u32::MAX) / rate
}

/// Creates a Deployment when it is due, and returns the latency of the creation.
async fn create(api: &Api<Deployment>, index: usize, due: Instant) -> anyhow::Result<Duration> {
    sleep_until(due).await;
    let deployment = deployment(index)?;
    let begun = Instant::now();
    api.create(&PostParams::default(), &deployment)
        .await
        .with_context(|| format!("creating Deployment load-{index}"))?;
    Ok(begun.elapsed())
}

fn deployment(index: usize) -> anyhow::Result<Deployment> {
    let name = format!("load-{index}");
    let labels = json!({"app": name});
    let image = format!("registry.example/shop/service-{}:1", index % IMAGES);
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            // Otherwise kube-controller-manager writes three times for each, on the same processors.
            "paused": true,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {"type": "fake"},
                    "containers": [
                        {"name": "service", "image": image},
                        {"name": "proxy", "image": "registry.example/shop/proxy:1"},
                    ],
                },
            },
        },
    }))?)
}

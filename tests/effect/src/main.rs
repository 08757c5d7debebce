//! Simulates the nodes of a cluster on a real API server, and runs traces on them.

use std::{collections::BTreeMap, future::Future};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use kube::Client;
use prewarmer_effect::{
    bench::{
        api_requests::{self, Writes},
        execute::Executor,
        figures::{Figures, oracle},
    },
    connect::{
        nodes::{Machine, node_name},
        run::{Handle, Run, RunFigures, create_nodes, delete_nodes},
    },
    trace::{Kind, Trace},
};
use prewarmer_fleet::{
    Fleet, NodeId, NodeSettings,
    image::{Catalog, CatalogSettings},
    registry::{Registries, RegistrySettings},
    store::Disk,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// Simulates the nodes of a cluster on a real API server.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create nodes in the cluster of KUBECONFIG, simulate them until SIGINT or SIGTERM, and delete
    /// them
    Nodes(NodesArguments),
    /// Run a trace on simulated nodes, and print its figures as JSON
    Run(RunArguments),
}

#[derive(Debug, clap::Args)]
struct FleetArguments {
    /// Number of nodes
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated seconds of one second
    #[arg(long, default_value_t = 1)]
    acceleration: u32,
    /// Bandwidth of each node, in bytes per second
    #[arg(long, default_value_t = 1_250_000_000)]
    node_bandwidth: u64,
    /// Bandwidth of the registry, in bytes per second
    #[arg(long, default_value_t = 1_250_000_000)]
    registry_bandwidth: u64,
}

#[derive(Debug, clap::Args)]
struct NodesArguments {
    #[command(flatten)]
    fleet: FleetArguments,
    /// Capacity of each disk, in bytes
    #[arg(long, default_value_t = 100_000_000_000)]
    disk: u64,
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    #[command(flatten)]
    fleet: FleetArguments,
    /// Trace
    #[arg(long)]
    trace: Kind,
    /// Namespace of the workloads, which must exist
    #[arg(long)]
    namespace: String,
    /// Annotation of each workload, as KEY=VALUE; may be repeated
    #[arg(long = "annotation", value_parser = pair)]
    annotations: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Nodes(arguments) => simulate(&arguments).await,
        Command::Run(arguments) => run_trace(&arguments).await,
    }
}

/// Returns a fleet with these machines.
fn fleet(arguments: &FleetArguments, machines: &[Machine]) -> (Fleet, Vec<NodeId>) {
    let mut registry = RegistrySettings::new("");
    registry.bandwidth = arguments.registry_bandwidth;
    let catalog = Catalog::new(arguments.seed, CatalogSettings::default());
    let mut fleet = Fleet::new(arguments.seed, catalog, Registries::new(registry));
    let add = |machine: &Machine| {
        let standard = NodeSettings::default();
        fleet.add_node(NodeSettings {
            bandwidth: arguments.node_bandwidth,
            disk: Disk { capacity: machine.disk, ..standard.disk },
            ..standard
        })
    };
    let nodes = machines.iter().map(add).collect();
    (fleet, nodes)
}

/// Creates the nodes, simulates them while `work` runs, and deletes them. Returns the fleet, the
/// figures and the result of the work. Fails if a request of a kubelet has failed.
async fn with_fleet<T, F: Future<Output = anyhow::Result<T>>>(
    arguments: &FleetArguments,
    machines: &[Machine],
    fleet: Fleet,
    nodes: &[NodeId],
    work: impl FnOnce(Client, Handle) -> F,
) -> anyhow::Result<(Fleet, RunFigures, T)> {
    let client = Client::try_default().await.context("no cluster; set KUBECONFIG")?;
    let named: Vec<(String, Machine)> = machines
        .iter()
        .enumerate()
        .map(|(position, machine)| (node_name(position), machine.clone()))
        .collect();
    create_nodes(&client, named).await?;
    let names = nodes.iter().copied().enumerate().map(|(at, node)| (node, node_name(at)));
    let (run, handle) = Run::new(client.clone(), fleet, names, arguments.acceleration);
    let mut running = tokio::spawn(run.run());
    let work = work(client.clone(), handle.clone());
    let result = tokio::select! {
        ended = &mut running => {
            ended??;
            anyhow::bail!("the simulation ended before the work");
        }
        result = work => result,
    };
    // The last handle: the run ends.
    drop(handle);
    let (fleet, figures) = running.await??;
    delete_nodes(&client).await?;
    anyhow::ensure!(
        figures.writes.failed == 0,
        "{} requests of kubelets failed, the last with: {}",
        figures.writes.failed,
        figures.writes.last_error.as_deref().unwrap_or_default()
    );
    Ok((fleet, figures, result?))
}

async fn simulate(arguments: &NodesArguments) -> anyhow::Result<()> {
    let machine = Machine { disk: arguments.disk, ..Machine::default() };
    let machines = vec![machine; arguments.fleet.nodes];
    let (fleet, nodes) = fleet(&arguments.fleet, &machines);
    let until_stopped = |_: Client, _: Handle| async {
        println!("the nodes are ready");
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => {}
            result = tokio::signal::ctrl_c() => result?,
        }
        Ok(())
    };
    let (mut fleet, run, ()) =
        with_fleet(&arguments.fleet, &machines, fleet, &nodes, until_stopped).await?;
    let starts = fleet.take_starts();
    let figures = Figures::new(&fleet, &starts);
    println!("{}", json!({"figures": figures.to_json(), "run": run_json(&run)}));
    Ok(())
}

async fn run_trace(arguments: &RunArguments) -> anyhow::Result<()> {
    let trace = Trace::new(arguments.trace, arguments.fleet.seed, arguments.fleet.nodes);
    let (mut fleet, nodes) = fleet(&arguments.fleet, &trace.machines);
    for (image, layers) in &trace.images {
        let reference = image.parse().with_context(|| format!("image {image}"))?;
        fleet.catalog_mut().insert(&reference, layers);
    }
    let annotations: BTreeMap<String, String> = arguments.annotations.iter().cloned().collect();
    let namespace = arguments.namespace.clone();
    let positions = nodes.clone();
    let steps = &trace;
    let work = |client: Client, handle: Handle| async move {
        let before = writes(&client).await?;
        let executor = Executor::new(client.clone(), namespace, handle, annotations, positions);
        let longest_delay = executor.run(steps).await?;
        let after = writes(&client).await?;
        anyhow::Ok((longest_delay, api_requests::since(&before, &after)))
    };
    let (mut fleet, run, (longest_delay, requests)) =
        with_fleet(&arguments.fleet, &trace.machines, fleet, &nodes, work).await?;
    let starts = fleet.take_starts();
    let figures = Figures::new(&fleet, &starts);
    println!(
        "{}",
        json!({
            "trace": arguments.trace.as_str(), "nodes": arguments.fleet.nodes,
            "seed": arguments.fleet.seed, "acceleration": arguments.fleet.acceleration,
            "annotations": arguments.annotations, "figures": figures.to_json(),
            "oracle": oracle(&figures, &starts).to_json(), "writes": requests,
            "longestStepDelayMillis": u64::try_from(longest_delay.as_millis()).unwrap_or(u64::MAX),
            "run": run_json(&run),
        })
    );
    Ok(())
}

/// Returns the numbers of writing requests that the API server has answered.
async fn writes(client: &Client) -> anyhow::Result<Writes> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    Ok(api_requests::writes(&client.request_text(request).await?))
}

/// Returns what shows whether the simulation kept up.
fn run_json(run: &RunFigures) -> serde_json::Value {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "requests": run.writes.succeeded, "outdated": run.writes.outdated,
        "repeated": run.writes.repeated, "longestDelayMillis": millis(run.writes.longest_delay),
        "longestLagMillis": millis(run.longest_lag), "unreadablePods": run.unreadable_pods,
    })
}

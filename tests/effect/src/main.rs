//! Simulates the nodes of a cluster on a real API server, and runs traces on them.

use std::{fs::OpenOptions, future::Future, io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use prewarmer_effect::{
    bench::{
        api_requests::Requests,
        execute::{Executed, Executor},
        figures::{Figures, oracle},
        policy::Policy,
        record::Record,
    },
    connect::{
        nodes::{Machine, node_name},
        registration::{create_nodes, delete_nodes},
        requests,
        run::{Handle, Run, RunError, RunFigures},
    },
    trace::{Kind, Scale, Trace},
};
use prewarmer_fleet::{
    Fleet, NodeId, NodeSettings,
    image::{Catalog, CatalogSettings, LayerSize},
    registry::{Registries, RegistrySettings},
    store::Disk,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinError,
};

/// Time between the creation of nodes and namespace and the first step, in which informers learn of
/// them.
const SETTLING: Duration = Duration::from_secs(5);
/// Maximum number of nodes: the names have four digits.
const MAX_NODES: i64 = 9_999;
/// Image of the helper of a server that `tests/measure/server.sh` starts, and its size: a static
/// program of 1 MB (deploy/images.sh), of which gzip leaves about a half.
const HELPER: (&str, LayerSize) =
    ("registry.example/helper:1", LayerSize { compressed: 500_000, unpacked: 1_000_000 });
/// Name of the computed policy that knows the future.
const ORACLE: &str = "oracle";

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
    /// Run a trace on simulated nodes under a policy, and write one line for each figure
    Bench(BenchArguments),
}

#[derive(Debug, clap::Args)]
struct FleetArguments {
    /// Number of nodes, 1 to 9,999
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=MAX_NODES))]
    nodes: u16,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated seconds of one second. The control plane and Prewarmer are not accelerated, so that
    /// their delays count as many times as long
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
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
struct BenchArguments {
    #[command(flatten)]
    fleet: FleetArguments,
    /// Trace
    #[arg(long)]
    trace: Kind,
    /// Length of the trace
    #[arg(long, default_value = "full")]
    scale: Scale,
    /// Policy. With `none` no server may run; its run also gives the figures of a policy that knows
    /// the future
    #[arg(long)]
    policy: Policy,
    /// Namespace of the workloads, which is created and deleted
    #[arg(long, default_value = "effect")]
    namespace: String,
    /// File to which the lines are appended; standard output without it
    #[arg(long)]
    record: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = Arguments::parse().command;
    let client = Client::try_default().await.context("no cluster; set KUBECONFIG")?;
    match command {
        Command::Nodes(arguments) => simulate(client, &arguments).await,
        Command::Bench(arguments) => bench(client, &arguments).await,
    }
}

/// Returns a fleet with these machines, and the numbers of the nodes by position.
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

/// Waits for SIGINT or SIGTERM.
async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}

/// Results of a run after its end.
struct Ended<T> {
    fleet: Fleet,
    figures: RunFigures,
    /// Nodes that could not be created.
    failed_nodes: u64,
    /// Result of the work.
    result: T,
}

/// Creates the nodes, simulates them while `work` runs, and deletes them, whatever happens. Fails if
/// the simulation ends before the work, the work fails, or SIGINT or SIGTERM arrives before its end.
async fn with_fleet<T, F: Future<Output = anyhow::Result<T>>>(
    client: &Client,
    acceleration: u32,
    machines: &[Machine],
    (fleet, nodes): (Fleet, Vec<NodeId>),
    work: impl FnOnce(Handle, Vec<NodeId>) -> F,
) -> anyhow::Result<Ended<T>> {
    let objects = machines.iter().cloned().enumerate();
    let objects = objects.map(|(position, machine)| (node_name(position), machine));
    let failed_nodes = create_nodes(client, objects).await;
    let names = nodes.iter().copied().enumerate().map(|(at, node)| (node, node_name(at)));
    let (run, handle) = Run::new(client.clone(), fleet, names, acceleration);
    let mut running = tokio::spawn(run.run());
    // The work has the only handle: the run ends with it.
    let result = tokio::select! {
        biased;
        result = work(handle, nodes) => match running.await {
            Ok(Ok(ended)) => result.map(|result| (ended, result)),
            ended => Err(early_end(ended)),
        },
        ended = &mut running => Err(early_end(ended)),
        stop = stopped() => {
            running.abort();
            Err(stop.err().unwrap_or_else(|| anyhow::anyhow!("interrupted")))
        }
    };
    if let Err(error) = delete_nodes(client).await {
        eprintln!("the nodes remain: {error}; delete them: kubectl delete nodes -l type=fleet");
    }
    let ((fleet, figures), result) = result?;
    Ok(Ended { fleet, figures, failed_nodes: failed_nodes.count(), result })
}

/// Returns the error of a simulation that has ended before its work, or with an error.
fn early_end<T>(ended: Result<Result<T, RunError>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(_)) => anyhow::anyhow!("the simulation ended before the work"),
        Ok(Err(error)) => anyhow::Error::new(error).context("the simulation failed"),
        Err(error) => anyhow::Error::new(error).context("the simulation panicked"),
    }
}

async fn simulate(client: Client, arguments: &NodesArguments) -> anyhow::Result<()> {
    let machine = Machine { disk: arguments.disk, ..Machine::default() };
    let machines = vec![machine; usize::from(arguments.fleet.nodes)];
    let fleet = fleet(&arguments.fleet, &machines);
    let until_stopped = |handle: Handle, _| async move {
        println!("the nodes are ready");
        stopped().await?;
        drop(handle);
        Ok(())
    };
    let acceleration = arguments.fleet.acceleration;
    let ended = with_fleet(&client, acceleration, &machines, fleet, until_stopped).await?;
    let figures = Figures::new(&ended.fleet, &ended.figures.simulation);
    println!(
        "{} pods started, {} of them with all images on the node; {} bytes from the registry, {} of \
         them in vain; {} failed requests and nodes",
        figures.starts,
        figures.warm,
        figures.downloaded,
        figures.in_vain,
        ended.figures.writes.failed.count().saturating_add(ended.failed_nodes),
    );
    Ok(())
}

async fn bench(client: Client, arguments: &BenchArguments) -> anyhow::Result<()> {
    let settings = &arguments.fleet;
    let nodes = usize::from(settings.nodes);
    let trace = Trace::new(arguments.trace, arguments.scale, settings.seed, nodes);
    let (mut fleet, nodes) = fleet(settings, &trace.machines);
    fleet.catalog_mut().insert(&HELPER.0.parse()?, &[HELPER.1]);
    for (image, layers) in &trace.images {
        let reference = image.parse().with_context(|| format!("image {image}"))?;
        fleet.catalog_mut().insert(&reference, layers);
    }
    create_namespace(&client, &arguments.namespace, arguments.policy).await?;
    let work = |handle, nodes| execute(&client, &arguments.namespace, handle, nodes, &trace);
    let machines = &trace.machines;
    let ended = with_fleet(&client, settings.acceleration, machines, (fleet, nodes), work).await;
    delete_namespace(&client, &arguments.namespace).await;
    let Ended { fleet, figures: run, failed_nodes, result: (executed, requests) } = ended?;
    arguments.policy.check(requests.tasks())?;

    let figures = Figures::new(&fleet, &run.simulation);
    let (kind, policy) = (arguments.trace, arguments.policy.as_str());
    let mut record = Record::default();
    record.line(&[
        &"size",
        &kind.as_str(),
        &settings.nodes,
        &arguments.scale.as_str(),
        &trace.duration.as_secs(),
        &settings.seed,
        &settings.acceleration,
    ]);
    record.figures(kind, policy, &figures);
    record.requests(kind, policy, &requests);
    let failed_steps = executed.failures.count().saturating_add(failed_nodes);
    record.quality(kind, policy, &run, failed_steps, executed.longest_delay);
    if arguments.policy == Policy::None {
        record.figures(kind, ORACLE, &oracle(&figures, &run.simulation.starts));
    }
    write(arguments, &record)
}

/// Runs a trace. Returns what its steps and all clients of the API server have done meanwhile.
async fn execute(
    client: &Client,
    namespace: &str,
    handle: Handle,
    nodes: Vec<NodeId>,
    trace: &Trace,
) -> anyhow::Result<(Executed, Requests)> {
    tokio::time::sleep(SETTLING).await;
    let before = read_requests(client).await?;
    let executor = Executor::new(client.clone(), namespace.to_owned(), handle, nodes);
    let executed = executor.run(trace).await;
    Ok((executed, read_requests(client).await?.since(&before)))
}

/// Returns the numbers of requests that the API server has answered.
async fn read_requests(client: &Client) -> anyhow::Result<Requests> {
    let request = || async {
        let request = http::Request::get("/metrics").body(Vec::new());
        client.request_text(request.map_err(kube::Error::HttpError)?).await
    };
    let metrics = requests::send(|| (), request).await;
    Ok(Requests::read(&metrics.context("the metrics of the API server were not read")?))
}

/// Creates the namespace of the workloads with the annotations of a policy. Fails if it exists, since
/// its objects would change the figures.
async fn create_namespace(client: &Client, name: &str, policy: Policy) -> anyhow::Result<()> {
    let annotations = policy.annotations().iter();
    let annotations = annotations.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(annotations.collect()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let (namespaces, params) = (Api::<Namespace>::all(client.clone()), PostParams::default());
    let created = requests::send(|| (), || namespaces.create(&params, &namespace)).await;
    let hint = || format!("namespace {name} was not created; delete it, or use --namespace");
    created.map(|_| ()).with_context(hint)
}

async fn delete_namespace(client: &Client, name: &str) {
    let (namespaces, params) = (Api::<Namespace>::all(client.clone()), DeleteParams::default());
    if let Err(error) = requests::send(|| (), || namespaces.delete(name, &params)).await {
        eprintln!("namespace {name} remains: {error}");
    }
}

/// Appends a record to its file, or prints it.
fn write(arguments: &BenchArguments, record: &Record) -> anyhow::Result<()> {
    let Some(path) = &arguments.record else {
        print!("{}", record.as_str());
        return Ok(());
    };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(record.as_str().as_bytes()));
    written.with_context(|| format!("{} was not written", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.command)
    }

    #[test]
    fn arguments_are_consistent_and_accept_those_of_the_script() {
        Arguments::command().debug_assert();
        let line = "effect bench --trace node-upgrade --policy all --scale small --nodes 50 --seed 7 \
                    --record out.tsv";
        let Ok(Command::Bench(bench)) = parse(line) else { panic!("{line}") };
        assert_eq!((bench.trace, bench.policy), (Kind::NodeUpgrade, Policy::All));
        assert_eq!((bench.scale, bench.fleet.nodes, bench.fleet.seed), (Scale::Small, 50, 7));
        assert_eq!(bench.record, Some(PathBuf::from("out.tsv")));
    }

    #[test]
    fn the_number_of_nodes_is_bounded() {
        for nodes in ["0", "10000", "-1", "x"] {
            assert!(parse(&format!("effect nodes --nodes {nodes}")).is_err(), "{nodes}");
        }
        assert!(parse("effect nodes --nodes 9999").is_ok());
    }

    #[test]
    fn machines_have_their_disks_and_positions() {
        let arguments = parse("effect nodes --nodes 2");
        let Ok(Command::Nodes(arguments)) = arguments else { panic!("{arguments:?}") };
        let machines = vec![Machine::default(); usize::from(arguments.fleet.nodes)];
        let (fleet, nodes) = fleet(&arguments.fleet, &machines);
        assert_eq!(nodes, [NodeId(0), NodeId(1)]);
        assert!(fleet.store(NodeId(1)).is_some() && fleet.store(NodeId(2)).is_none());
    }
}

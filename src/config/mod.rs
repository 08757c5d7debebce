//! Every setting, once: flags, environment variables and a file, in that order of strength.
//!
//! The command line is read as text and checked as a whole, so that all
//! mistakes are reported at once.

mod check;
mod components;
mod doctor;
mod limits;

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use http::Uri;
use ipnet::IpNet;

use self::check::Check;
pub use self::{
    components::Components,
    doctor::{Doctor, DoctorArgs},
    limits::LimitArgs,
};
use crate::{
    controller::{Limits, WorkerNamespace},
    egress::{DEFAULT_PORTS, Ports},
    health::{DiskSettings, PrometheusSettings},
    intake::Rates,
    server::certificates::Lifetimes,
    task::plan::Breaker,
    workload::{DefaultMode, Kinds},
};

/// Longest window of intake: longer, and workloads wait for their images again.
const MAX_WINDOW: Duration = Duration::from_secs(60);
/// Longest life of a record: by then the kubelet may have deleted the image.
const MAX_KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Longest `retain` of admission's tasks.
const MAX_RETAIN: Duration = Duration::from_secs(3600);
/// The namespace of an installation, where nothing says another.
pub const DEFAULT_NAMESPACE: &str = "prewarmer";
/// Oldest that a connection may become.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(24 * 3600);
/// Where a pod finds the name of its namespace.
const POD_NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Pulls container images to nodes before the pods that need them.
#[derive(Debug, Parser)]
#[command(name = "prewarmer", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: webhook, intake and controller.
    Serve(Box<ServeArgs>),
    /// Print the custom resource definitions.
    Crds,
    /// Print a complete install, for `kubectl apply --server-side -f -`.
    Manifests(ManifestArgs),
    /// Print what would be warmed for the workloads in a manifest, without a cluster.
    Extract(ExtractArgs),
    /// Print the `OpenAPI` document of the REST API.
    Openapi,
    /// Print the settings of `serve`, as a table in Markdown.
    Settings,
    /// Look at a cluster, and say what is wrong and what to do.
    Doctor(DoctorArgs),
    /// API tokens, for callers of the REST API who have no access to Kubernetes.
    #[command(subcommand)]
    Token(TokenCommand),
}

/// What the names of an installation's objects are, or begin with.
pub(crate) fn object_name(instance: Option<&str>) -> String {
    instance.map_or_else(|| "prewarmer".into(), |suffix| format!("prewarmer-{suffix}"))
}

/// What to do with API tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token: itself on standard error, once; on standard output the Secret that makes it good, for
    /// `kubectl apply --server-side --field-manager=NAME -f -`.
    Create(TokenArgs),
}

/// What `token create` takes.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Name of the token, for logs: lower-case letters, digits and dashes.
    pub name: String,
    /// Namespaces that it is good for, separated by commas; `*` for all.
    #[arg(long, default_value = DEFAULT_NAMESPACE)]
    pub namespaces: String,
    /// It may look, and change nothing.
    #[arg(long)]
    pub read_only: bool,
    /// It may list the cluster's nodes; one for all namespaces may anyway.
    #[arg(long)]
    pub nodes: bool,
    /// How long it is good, such as `720h`; for ever by default.
    #[arg(long)]
    pub expires_in: Option<String>,
    /// Namespace of the installation.
    #[arg(long, env = "K8S_NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Suffix of the installation's names, as of `serve`.
    #[arg(long, env = "PREWARMER_INSTANCE")]
    pub instance: Option<String>,
}

/// What `manifests` takes.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Namespace to install into.
    #[arg(long, default_value = "prewarmer")]
    pub namespace: String,
    /// The server's image.
    #[arg(long, default_value = concat!("prewarmer:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// The helper's image.
    #[arg(long, default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
    /// Further kinds, as of `serve`; the server gets them, and the rights to read them.
    #[arg(long, default_value = "")]
    pub kinds: String,
}

/// Which workloads count, as text.
#[derive(Debug, Args, Clone)]
pub struct PolicyArgs {
    /// `OptOut`: all but opted-out workloads are warmed; `OptIn`: only opted-in ones.
    #[arg(long, env = "DEFAULT_MODE", default_value = "OptOut")]
    pub default_mode: String,
    /// Further kinds with a pod template, separated by commas: `GROUP/VERSION/KIND[/PLURAL]=PATH`, such as
    /// `argoproj.io/v1alpha1/Rollout=spec.template`; `[*]` in the path stands for every item of a list.
    #[arg(long, env = "KINDS", default_value = "")]
    pub kinds: String,
    /// System namespaces that count all the same, separated by commas.
    #[arg(long, env = "INCLUDE_NAMESPACES", default_value = "")]
    pub include_namespaces: String,
    /// The least that `nodes: auto` comes to.
    #[arg(long, env = "AUTO_NODES", default_value = "100")]
    pub auto_nodes: String,
}

/// What `extract` takes.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Which workloads count.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The manifest, YAML or JSON; `-` for standard input.
    #[arg(short, long)]
    pub file: String,
}

/// What `serve` takes, as text.
#[derive(Debug, Args, Clone)]
pub struct ServeArgs {
    /// File of settings (YAML; keys are the flags in camel case). Flags and environment variables are stronger.
    #[arg(long, env = "PREWARMER_CONFIG")]
    pub config: Option<PathBuf>,
    /// The parts that this process runs, separated by commas: `admission` (the webhook), `api` (REST and the pages),
    /// `controller` (works on tasks, registers the webhook, makes the CA). Each part must run somewhere.
    #[arg(long, env = "COMPONENTS", default_value = "admission,api,controller")]
    pub components: String,
    /// `true`: start beside an older installation that looks at the same namespaces; both then work on the same tasks.
    #[arg(long, env = "ALLOW_OVERLAP", default_value = "false")]
    pub allow_overlap: String,
    /// Address of the TLS listener for admission.
    #[arg(long, env = "WEBHOOK_ADDR", default_value = "0.0.0.0:8443")]
    pub webhook_addr: String,
    /// Register the admission configuration by this URL, such as `https://127.0.0.1:9443`, instead of by Service.
    #[arg(long, env = "WEBHOOK_URL")]
    pub webhook_url: Option<String>,
    /// Address of the REST API; `none` for no REST API. By default `0.0.0.0` and `--server-port`.
    #[arg(long, env = "API_ADDR")]
    pub api_addr: Option<String>,
    /// Port of the REST API where `--api-addr` is not given.
    #[arg(long, env = "SERVER_PORT", default_value = "8080")]
    pub server_port: String,
    /// `false`: REST over plain HTTP, for a proxy in front that speaks TLS.
    #[arg(long, env = "API_TLS", default_value = "true")]
    pub api_tls: String,
    /// Who may call REST: `kubernetes` (bearer tokens of Kubernetes, and API tokens), or `none` (everybody), which needs a
    /// loopback `--api-addr`.
    #[arg(long, env = "AUTH", default_value = "kubernetes")]
    pub auth: String,
    /// Audiences that a Kubernetes token must be for, separated by commas; it must be for one of them. Empty: the API server's own.
    #[arg(long, env = "TOKEN_AUDIENCE", default_value = "prewarmer")]
    pub token_audience: String,
    /// Proxies in front of REST whose `X-Forwarded-For` is believed, separated by commas: networks or addresses, such as
    /// `10.0.0.0/8`.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "")]
    pub trusted_proxies: String,
    /// Further names of the server in self-made certificates, separated by commas: host names or addresses by which REST is
    /// called.
    #[arg(long, env = "API_NAMES", default_value = "")]
    pub api_names: String,
    /// Calls of REST that each caller may make in a second, and twice as many at once.
    #[arg(long, env = "API_RATE", default_value = "50")]
    pub api_rate: String,
    /// Watches and live pages that each caller may have open at once. 4,096 are open at once in all.
    #[arg(long, env = "API_WATCHES", default_value = "32")]
    pub api_watches: String,
    /// `Idempotency-Key`s of each caller that are remembered, for a day. 20,000 are remembered in all.
    #[arg(long, env = "API_IDEMPOTENCY_KEYS", default_value = "5000")]
    pub api_idempotency_keys: String,
    /// Connections of one address, in percent of those that a listener takes (webhook 1,000, REST 4,096, health 256). Behind a
    /// Service, a load balancer or an Ingress many callers share an address; `100` for no share.
    #[arg(long, env = "CONNECTIONS_PER_ADDRESS", default_value = "50")]
    pub connections_per_address: String,
    /// Origins of web pages that may call REST, separated by commas, such as `https://portal.example.com`; `*` for all.
    #[arg(long, env = "API_CORS_ORIGINS", default_value = "")]
    pub api_cors_origins: String,
    /// `false`: no pages for people at `/ui` of the REST listener.
    #[arg(long, env = "UI", default_value = "true")]
    pub ui: String,
    /// Addresses beside the public internet to which the end of a task may be told: networks separated by commas, such as
    /// `10.0.0.0/8,fd00::/8`.
    #[arg(long, env = "NOTIFY_ALLOW", default_value = "")]
    pub notify_allow: String,
    /// Ports that the end of a task may be told at: ports and ranges separated by commas, such as `443,9000-9100`.
    #[arg(long, env = "NOTIFY_PORTS", default_value = DEFAULT_PORTS)]
    pub notify_ports: String,
    /// Messages about ends of tasks that each namespace may send in a minute, redirects included.
    #[arg(long, env = "NOTIFY_RATE", default_value = "120")]
    pub notify_rate: String,
    /// Addresses that neither notifications nor `--disk-check` may connect to, whatever else allows them: networks separated by
    /// commas. Metadata services of clouds, `168.63.129.16` among them, are denied without it.
    #[arg(long, env = "EGRESS_DENY", default_value = "")]
    pub egress_deny: String,
    /// Name of the Service by which the API server reaches the webhook.
    #[arg(long, env = "SERVICE_NAME", default_value = "prewarmer-webhook")]
    pub service_name: String,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    #[arg(long, env = "HEALTH_ADDR", default_value = "0.0.0.0:9090")]
    pub health_addr: String,
    /// Namespace of the own Secret and Lease; the pod's own where there is one, else `prewarmer`.
    #[arg(long, env = "K8S_NAMESPACE")]
    pub namespace: Option<String>,
    /// Image of the helper that runs on nodes.
    #[arg(long, env = "WORKER_IMAGE", default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
    /// Priority class of worker pods.
    #[arg(long, env = "WORKER_PRIORITY_CLASS")]
    pub worker_priority_class: Option<String>,
    /// Which workloads count.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Seconds that admission of a workload may wait for the webhook, 1 to 30.
    #[arg(long, env = "WEBHOOK_TIMEOUT_SECONDS", default_value = "1")]
    pub webhook_timeout_seconds: String,
    /// How old a connection to the webhook may become, so that those of the API server come to all replicas; `0s`: any age.
    #[arg(long, env = "WEBHOOK_CONNECTION_AGE", default_value = "5m")]
    pub webhook_connection_age: String,
    /// Callers of the webhook must show a certificate that one of these CAs (PEM) has signed.
    #[arg(long, env = "CLIENT_CA_FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// With `--client-ca-file`: names, separated by commas, of which a caller's certificate must have one.
    #[arg(long, env = "CLIENT_NAMES", default_value = "")]
    pub client_names: String,
    /// How long hints from admission are collected into one task.
    #[arg(long, env = "COALESCE_WINDOW", default_value = "1s")]
    pub coalesce_window: String,
    /// Objects that are looked up in a second because a review named them, in all namespaces together; ten times as many at
    /// once after a pause. Those beyond wait, and what waits too long is found by the watch of workloads.
    #[arg(long, env = "LOOKUP_RATE", default_value = "100")]
    pub lookup_rate: String,
    /// The same in each namespace.
    #[arg(long, env = "NAMESPACE_LOOKUP_RATE", default_value = "50")]
    pub namespace_lookup_rate: String,
    /// Tasks that admission creates in a second, in all namespaces together; ten times as many at once after a pause.
    #[arg(long, env = "CREATION_RATE", default_value = "50")]
    pub creation_rate: String,
    /// The same in each namespace.
    #[arg(long, env = "NAMESPACE_CREATION_RATE", default_value = "5")]
    pub namespace_creation_rate: String,
    /// Seconds after its end until a task made by admission is deleted.
    #[arg(long, env = "ADMISSION_TASK_TTL_SECONDS", default_value = "3600")]
    pub admission_task_ttl_seconds: String,
    /// Seconds that a finished Job stays when no controller removes it.
    #[arg(long, env = "JOB_TTL_SECONDS", default_value = "3600")]
    pub job_ttl_seconds: String,
    /// Tasks that run at once; others wait by priority, then age.
    #[arg(long, env = "MAX_CONCURRENT_TASKS", default_value = "10")]
    pub max_concurrent_tasks: String,
    /// Where worker pods run: `Workload` (the task's namespace, with its credentials), `Own` (ours, for tasks that name no
    /// credentials) or `Fallback` (ours where the task's namespace refuses them and no credentials are named).
    #[arg(long, env = "WORKER_NAMESPACE", default_value = "Workload")]
    pub worker_namespace: String,
    /// Service account of worker pods in our own namespace. It should have no image pull secrets: its pods work for tasks of all
    /// namespaces. The namespace's default account where none is named; the chart makes one.
    #[arg(long, env = "WORKER_SERVICE_ACCOUNT")]
    pub worker_service_account: Option<String>,
    /// `true`: with `--worker-namespace=Fallback`, workers also go to our namespace where a policy (Pod Security, an admission
    /// webhook or policy) of the task's refuses them, and not only where its `ResourceQuota` or `LimitRange` does.
    #[arg(long, env = "FALLBACK_ON_POLICY", default_value = "false")]
    pub fallback_on_policy: String,
    /// Images that one worker pod pulls; a node with more gets one pod after another.
    #[arg(long, env = "IMAGES_PER_POD", default_value = "30")]
    pub images_per_pod: String,
    /// Workers at work in the whole cluster, over all tasks.
    #[arg(long, env = "MAX_WORKERS", default_value = "300")]
    pub max_workers: String,
    /// Workers that pull from one registry. Halved when the registry says 429 or 503; grows back.
    #[arg(long, env = "REGISTRY_CONCURRENCY", default_value = "200")]
    pub registry_concurrency: String,
    /// How long an image that was pulled to a node counts as being there; `0s` for never.
    #[arg(long, env = "KNOWN_FOR", default_value = "10m")]
    pub known_for: String,
    /// Registries all of whose images everybody may pull, separated by commas, such as `registry.k8s.io,quay.io`: that a node
    /// reports such an image counts for every namespace. Of other images it counts where a worker of the namespace, or one
    /// without credentials, was given the image within `--known-for`.
    #[arg(long, env = "PUBLIC_REGISTRIES", default_value = "")]
    pub public_registries: String,
    /// What keeps tenants from one another.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Above this number of nodes a task works on `--breaker-batch-size` nodes at once at most.
    #[arg(long, env = "BREAKER_NODES", default_value = "5000")]
    pub breaker_nodes: String,
    /// See `--breaker-nodes`.
    #[arg(long, env = "BREAKER_BATCH_SIZE", default_value = "50")]
    pub breaker_batch_size: String,
    /// Finished workers kept by `retain` in the whole cluster; the oldest go first. Kubernetes itself deletes finished pods,
    /// also other people's, when there are 12,500.
    #[arg(long, env = "MAX_RETAINED_WORKERS", default_value = "8000")]
    pub max_retained_workers: String,
    /// `retain` of tasks made by admission: how long their finished pods hold the images; `0s` for not at all.
    #[arg(long, env = "ADMISSION_RETAIN", default_value = "10m")]
    pub admission_retain: String,
    /// Address of a Prometheus that is asked which nodes to leave out, such as `http://prometheus.monitoring:9090`.
    #[arg(long, env = "PROMETHEUS_URL")]
    pub prometheus_url: Option<String>,
    /// The `PromQL` query: one sample per node.
    #[arg(long, env = "PROMETHEUS_QUERY")]
    pub prometheus_query: Option<String>,
    /// When a sample speaks against its node: `>`, `>=`, `<` or `<=` and a number, such as `>0.9`.
    #[arg(long, env = "PROMETHEUS_THRESHOLD")]
    pub prometheus_threshold: Option<String>,
    /// The label of a sample that names its node: by name, host name or address, with or without a port.
    #[arg(long, env = "PROMETHEUS_NODE_LABEL", default_value = "node")]
    pub prometheus_node_label: String,
    /// The share of nodes, in percent, that Prometheus' samples may have left out, and three nodes always; with more of them
    /// none is left out, and the task's condition `NodesChecked` says so.
    #[arg(long, env = "PROMETHEUS_MAX_IGNORED", default_value = "50")]
    pub prometheus_max_ignored: String,
    /// File of a bearer token for Prometheus; read again for each query.
    #[arg(long, env = "PROMETHEUS_TOKEN_FILE")]
    pub prometheus_token_file: Option<PathBuf>,
    /// `true`: leave out nodes that have no room for the images, or another platform than they. Asks the registries for
    /// their manifests, without credentials.
    #[arg(long, env = "DISK_CHECK", default_value = "false")]
    pub disk_check: String,
    /// With `--disk-check`: no image may be larger than this, compressed, such as `20Gi`.
    #[arg(long, env = "MAX_IMAGE_SIZE")]
    pub max_image_size: Option<String>,
    /// With `--disk-check`: `true` asks each node's kubelet how full its disk is. Needs `get` on `nodes/proxy`.
    #[arg(long, env = "ASK_KUBELETS", default_value = "false")]
    pub ask_kubelets: String,
    /// With `--disk-check`: addresses beside the public internet that registries may have: networks separated by commas, such
    /// as `10.0.0.0/8`.
    #[arg(long, env = "DISK_CHECK_ALLOW", default_value = "")]
    pub disk_check_allow: String,
    /// With `--disk-check`: registries that speak plain HTTP, separated by commas. They may have any address.
    #[arg(long, env = "PLAIN_HTTP_REGISTRIES", default_value = "")]
    pub plain_http_registries: String,
    /// Look at this namespace only.
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Suffix of the names of the own cluster objects, where several installs share a cluster.
    #[arg(long, env = "PREWARMER_INSTANCE")]
    pub instance: Option<String>,
    /// Serving certificate (PEM) instead of a self-made one; read again when it changes.
    #[arg(long, env = "TLS_CERT_FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, env = "TLS_KEY_FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// The CA (PEM) that the API server is to trust.
    #[arg(long, env = "TLS_CA_FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// How long a self-made CA lives; it is renewed, with an overlap, when a third of that is over.
    #[arg(long, env = "CA_LIFETIME", default_value = "8760h")]
    pub ca_lifetime: String,
    /// How long a self-made certificate lives; it is renewed when a third of that is over.
    #[arg(long, env = "CERTIFICATE_LIFETIME", default_value = "168h")]
    pub certificate_lifetime: String,
    /// Log level, or a filter such as `info,prewarmer=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// `text` or `json`; by default text on a terminal, JSON otherwise.
    #[arg(long, env = "LOG_FORMAT")]
    pub log_format: Option<String>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The user's certificate files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
    /// The CA that the API server is to trust.
    pub ca: PathBuf,
}

/// Which workloads count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// What holds without annotations.
    pub default_mode: DefaultMode,
    /// All kinds.
    pub kinds: Kinds,
    /// System namespaces that count all the same.
    pub include_namespaces: Vec<String>,
    /// The least that `nodes: auto` comes to.
    pub auto_nodes: u32,
}

impl PolicySettings {
    /// Checks the settings that say which workloads count.
    pub fn check(args: &PolicyArgs) -> Result<Self, Vec<String>> {
        let mut check = Check { problems: Vec::new() };
        let settings = check.policy(args);
        if check.problems.is_empty() { Ok(settings) } else { Err(check.problems) }
    }
}

/// How REST is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// The listener.
    pub addr: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether callers are asked who they are.
    pub auth: bool,
    /// Audiences of Kubernetes tokens; the API server's own where there are none.
    pub audiences: Vec<String>,
    /// Proxies that are believed.
    pub proxies: Vec<IpNet>,
    /// Calls of each caller in a second.
    pub rate: u32,
    /// Origins of web pages that may call.
    pub origins: Vec<String>,
    /// Whether there are pages for people at `/ui`.
    pub ui: bool,
    /// Watches and live pages of each caller.
    pub watches: usize,
    /// Remembered keys of each caller.
    pub keys: usize,
}

/// Who may call the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// CAs (PEM).
    pub ca_file: PathBuf,
    /// Names of which a certificate must have one; any where there are none.
    pub names: Vec<String>,
}

/// The settings of `serve`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The parts that this process runs.
    pub components: Components,
    /// Whether it starts beside another installation that looks at the same namespaces.
    pub allow_overlap: bool,
    /// The TLS listener.
    pub webhook_addr: SocketAddr,
    /// Registration by URL, where asked for.
    pub webhook_url: Option<Uri>,
    /// The Service otherwise.
    pub service_name: String,
    /// REST, where it is served.
    pub api: Option<ApiConfig>,
    /// Further names in self-made certificates.
    pub api_names: Vec<String>,
    /// Networks beside the public internet to which ends of tasks may be told.
    pub notify_allow: Vec<IpNet>,
    /// Ports at which they may be told.
    pub notify_ports: Ports,
    /// Messages of each namespace in a minute.
    pub notify_rate: NonZeroU32,
    /// Networks that no notification and no look-up of an image may connect to.
    pub egress_deny: Vec<IpNet>,
    /// The health listener.
    pub health_addr: SocketAddr,
    /// Connections of one address, in percent of a listener's.
    pub per_address: u8,
    /// Namespace of the own objects.
    pub namespace: String,
    /// The helper's image.
    pub worker_image: String,
    /// Priority class of worker pods.
    pub worker_priority_class: Option<String>,
    /// Which workloads count.
    pub policy: PolicySettings,
    /// Seconds that admission of a workload may wait.
    pub webhook_timeout: i32,
    /// How old a connection may become.
    pub connection_age: Option<Duration>,
    /// Who may call the webhook, where not everybody may.
    pub clients: Option<Clients>,
    /// How long self-made certificates live.
    pub lifetimes: Lifetimes,
    /// Intake's window.
    pub coalesce_window: Duration,
    /// Objects that intake looks up in a second.
    pub lookups: Rates,
    /// Tasks that intake creates in a second.
    pub creations: Rates,
    /// Time to live of admission's tasks, in seconds.
    pub admission_task_ttl: u32,
    /// Time to live of Jobs that nobody removes.
    pub job_ttl: Duration,
    /// Tasks that run at once.
    pub max_concurrent_tasks: usize,
    /// Where workers run.
    pub worker_namespace: WorkerNamespace,
    /// The account of workers in our own namespace.
    pub worker_service_account: Option<String>,
    /// Whether a policy's refusal sends workers to our own namespace.
    pub fallback_on_policy: bool,
    /// Images that one worker pod pulls.
    pub images_per_pod: usize,
    /// Workers at work in the whole cluster.
    pub max_workers: usize,
    /// Workers that pull from one registry.
    pub registry_concurrency: usize,
    /// How long an image that was pulled counts as being there.
    pub known_for: Duration,
    /// Registries all of whose images everybody may pull.
    pub public_registries: Vec<String>,
    /// What keeps tenants from one another.
    pub limits: Limits,
    /// When a task may not work on as many nodes at once as it asks for.
    pub breaker: Breaker,
    /// Finished workers that may be retained.
    pub max_retained_workers: usize,
    /// `retain` of admission's tasks.
    pub admission_retain: Duration,
    /// The Prometheus that is asked about nodes.
    pub prometheus: Option<PrometheusSettings>,
    /// How room on nodes is judged, where it is.
    pub disk: Option<DiskSettings>,
    /// The only namespace looked at.
    pub watch_namespace: Option<String>,
    /// `prewarmer`, with the instance's suffix.
    pub object_name: String,
    /// The user's certificates.
    pub certificates: Option<CertificateFiles>,
    /// Log filter.
    pub log_level: String,
    /// Log format, where said.
    pub log_format: Option<LogFormat>,
}

/// Reads the command line, the environment and the file. Usage errors and help end the process, as clap does; problems of
/// the file are the error.
pub fn read() -> Result<Cli, Vec<String>> {
    let cli = Cli::parse();
    let Command::Serve(args) = &cli.command else { return Ok(cli) };
    let Some(path) = &args.config else { return Ok(cli) };
    let text = std::fs::read_to_string(path).map_err(|e| vec![format!("--config {}: {e}", path.display())])?;
    let command = with_file(Cli::command(), &text)
        .map_err(|found| found.into_iter().map(|p| format!("--config {}: {p}", path.display())).collect::<Vec<_>>())?;
    Ok(Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit()))
}

/// Makes the file's values the defaults.
fn with_file(command: clap::Command, text: &str) -> Result<clap::Command, Vec<String>> {
    let values: std::collections::BTreeMap<String, serde_json::Value> =
        serde_saphyr::from_str(text).map_err(|error| vec![error.to_string()])?;
    let mut problems = Vec::new();
    let command = command.mut_subcommand("serve", |mut serve| {
        for (key, value) in &values {
            let id = snake_case(key);
            let known = serve.get_arguments().any(|arg| arg.get_id() == id.as_str() && id != "config");
            let text = match value {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Number(number) => Some(number.to_string()),
                serde_json::Value::Bool(flag) => Some(flag.to_string()),
                _ => None,
            };
            match text {
                Some(text) if known => serve = serve.mut_arg(&id, |arg| arg.default_value(text)),
                Some(_) => problems.push(format!("{key}: no such setting: see prewarmer serve --help")),
                None => problems.push(format!("{key}: expected a single value")),
            }
        }
        serve
    });
    if problems.is_empty() { Ok(command) } else { Err(problems) }
}

fn snake_case(key: &str) -> String {
    key.chars().flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] }).collect()
}

impl Config {
    /// Checks all settings; every mistake names its flag and variable, the value, and what is expected.
    #[allow(clippy::too_many_lines, reason = "a line for each setting")]
    pub fn check(args: &ServeArgs, pod_namespace: Option<String>) -> Result<Self, Vec<String>> {
        let mut check = Check { problems: Vec::new() };
        let instance = args.instance.as_deref().filter(|text| !text.is_empty());
        if let Some(instance) = instance {
            check.label("--instance (PREWARMER_INSTANCE)", instance);
        }
        let namespace = args
            .namespace
            .clone()
            .filter(|name| !name.is_empty())
            .or(pod_namespace)
            .unwrap_or_else(|| DEFAULT_NAMESPACE.into());
        check.label("--namespace (K8S_NAMESPACE)", &namespace);
        let watch_namespace = args.watch_namespace.clone().filter(|name| !name.is_empty());
        if let Some(watched) = &watch_namespace {
            check.label("--watch-namespace (WATCH_NAMESPACE)", watched);
        }
        check.label("--service-name (SERVICE_NAME)", &args.service_name);
        if let Err(error) = args.worker_image.parse::<crate::image::Reference>() {
            check.problem("--worker-image (WORKER_IMAGE)", &args.worker_image, &error.to_string());
        }
        let max_concurrent_tasks =
            check.number("--max-concurrent-tasks (MAX_CONCURRENT_TASKS)", &args.max_concurrent_tasks, 1, 1000) as usize;
        let max_workers = check.number("--max-workers (MAX_WORKERS)", &args.max_workers, 1, 10_000) as usize;
        let config = Self {
            components: check.components(&args.components),
            allow_overlap: check.flag("--allow-overlap (ALLOW_OVERLAP)", &args.allow_overlap),
            webhook_addr: check.address("--webhook-addr (WEBHOOK_ADDR)", &args.webhook_addr),
            webhook_url: check.url(args.webhook_url.as_deref().filter(|text| !text.is_empty())),
            service_name: args.service_name.clone(),
            api: check.api(args),
            api_names: check::list(&args.api_names),
            notify_allow: check.networks("--notify-allow (NOTIFY_ALLOW)", &args.notify_allow),
            notify_ports: check.ports("--notify-ports (NOTIFY_PORTS)", &args.notify_ports),
            notify_rate: NonZeroU32::new(check.number("--notify-rate (NOTIFY_RATE)", &args.notify_rate, 1, 100_000))
                .unwrap_or(NonZeroU32::MIN),
            egress_deny: check.networks("--egress-deny (EGRESS_DENY)", &args.egress_deny),
            health_addr: check.address("--health-addr (HEALTH_ADDR)", &args.health_addr),
            per_address: u8::try_from(check.number(
                "--connections-per-address (CONNECTIONS_PER_ADDRESS)",
                &args.connections_per_address,
                1,
                100,
            ))
            .unwrap_or(100),
            namespace,
            worker_image: args.worker_image.clone(),
            worker_priority_class: args.worker_priority_class.clone().filter(|name| !name.is_empty()),
            policy: check.policy(&args.policy),
            webhook_timeout: i32::try_from(check.number(
                "--webhook-timeout-seconds (WEBHOOK_TIMEOUT_SECONDS)",
                &args.webhook_timeout_seconds,
                1,
                30,
            ))
            .unwrap_or(1),
            connection_age: Some(check.span(
                "--webhook-connection-age (WEBHOOK_CONNECTION_AGE)",
                &args.webhook_connection_age,
                MAX_CONNECTION_AGE,
            ))
            .filter(|age| !age.is_zero()),
            clients: check.clients(args),
            lifetimes: check.lifetimes(args),
            coalesce_window: check.span("--coalesce-window (COALESCE_WINDOW)", &args.coalesce_window, MAX_WINDOW),
            lookups: check.lookup_rates(args),
            creations: check.creation_rates(args),
            admission_task_ttl: check.number(
                "--admission-task-ttl-seconds (ADMISSION_TASK_TTL_SECONDS)",
                &args.admission_task_ttl_seconds,
                0,
                i32::MAX.unsigned_abs(),
            ),
            job_ttl: Duration::from_secs(
                check.number("--job-ttl-seconds (JOB_TTL_SECONDS)", &args.job_ttl_seconds, 60, 604_800).into(),
            ),
            max_concurrent_tasks,
            worker_namespace: check.worker_namespace(&args.worker_namespace),
            worker_service_account: args.worker_service_account.clone().filter(|name| !name.is_empty()),
            fallback_on_policy: check.flag("--fallback-on-policy (FALLBACK_ON_POLICY)", &args.fallback_on_policy),
            images_per_pod: check.number("--images-per-pod (IMAGES_PER_POD)", &args.images_per_pod, 1, 100) as usize,
            max_workers,
            limits: check.limits(&args.limits, max_concurrent_tasks, max_workers),
            registry_concurrency: check.number(
                "--registry-concurrency (REGISTRY_CONCURRENCY)",
                &args.registry_concurrency,
                1,
                10_000,
            ) as usize,
            known_for: check.span("--known-for (KNOWN_FOR)", &args.known_for, MAX_KNOWN_FOR),
            public_registries: check::list(&args.public_registries),
            breaker: check.breaker(args),
            max_retained_workers: check.number(
                "--max-retained-workers (MAX_RETAINED_WORKERS)",
                &args.max_retained_workers,
                0,
                12_000,
            ) as usize,
            admission_retain: check.span("--admission-retain (ADMISSION_RETAIN)", &args.admission_retain, MAX_RETAIN),
            prometheus: check.prometheus(args),
            disk: check.disk(args),
            watch_namespace,
            object_name: object_name(instance),
            certificates: check.certificates(args),
            log_level: args.log_level.clone(),
            log_format: check.log_format(args.log_format.as_deref()),
        };
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&args.log_level) {
            check.problem("--log-level (LOG_LEVEL)", &args.log_level, &error.to_string());
        }
        if check.problems.is_empty() { Ok(config) } else { Err(check.problems) }
    }
}

/// Every setting of `serve`: flag, variable, default and meaning, as a table in Markdown.
#[must_use]
pub fn table() -> String {
    let mut lines = vec!["| flag | variable | default | meaning |".to_owned(), "|---|---|---|---|".to_owned()];
    let command = Cli::command();
    let arguments = command.find_subcommand("serve").into_iter().flat_map(clap::Command::get_arguments);
    for argument in arguments {
        let Some(flag) = argument.get_long().filter(|flag| *flag != "help") else { continue };
        let code = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
        let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let meaning =
            argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let meaning = meaning.replace('|', "\\|").replace('\n', " ");
        lines.push(format!("| `--{flag}` | {} | {} | {meaning} |", code(variable), code(default.join(","))));
    }
    lines.join("\n") + "\n"
}

/// The namespace of the pod that this runs in.
#[must_use]
pub fn pod_namespace() -> Option<String> {
    std::fs::read_to_string(POD_NAMESPACE_FILE).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> ServeArgs {
        let words = ["prewarmer", "serve"].iter().chain(words);
        let Command::Serve(args) = Cli::try_parse_from(words).unwrap().command else { panic!("serve") };
        *args
    }

    #[test]
    fn defaults() {
        let config = Config::check(&args(&[]), None).unwrap();
        assert_eq!(config.webhook_addr.to_string(), "0.0.0.0:8443");
        assert_eq!((config.namespace.as_str(), config.object_name.as_str()), ("prewarmer", "prewarmer"));
        assert_eq!(config.coalesce_window, Duration::from_secs(1));
        assert_eq!(Config::check(&args(&[]), Some("infra".into())).unwrap().namespace, "infra");
    }

    #[test]
    fn all_mistakes_at_once() {
        let wrong = args(&[
            "--webhook-addr=8443",
            "--webhook-url=http://x",
            "--default-mode=maybe",
            "--coalesce-window=2h",
            "--max-concurrent-tasks=0",
            "--namespace=Not A Name",
            "--worker-image=UPPER/x",
            "--tls-key-file=k",
            "--log-format=xml",
            "--api-rate=0",
            "--api-watches=0",
            "--api-idempotency-keys=x",
            "--connections-per-address=101",
            "--api-cors-origins=portal",
            "--token-audience=a b",
            "--trusted-proxies=10.0.0.0/40",
            "--notify-allow=10.0.0.0",
            "--notify-ports=https",
            "--notify-rate=0",
            "--egress-deny=nowhere",
            "--disk-check-allow=registry",
            "--api-addr=0.0.0.0:8080",
            "--auth=none",
            "--worker-namespace=Mine",
            "--images-per-pod=0",
            "--known-for=2d",
            "--admission-retain=2h",
            "--prometheus-url=ftp://x",
            "--prometheus-threshold=90",
            "--disk-check=maybe",
            "--max-image-size=big",
            "--max-deadline=0s",
            "--max-priority=11",
            "--denied-registries=https://r.example",
            "--admission-all-nodes=some",
        ]);
        let problems = Config::check(&wrong, None).unwrap_err();
        assert_eq!(problems.len(), 35, "{problems:#?}");
        assert!(problems.iter().any(|p| p.starts_with("--webhook-addr (WEBHOOK_ADDR): \"8443\": expected")));
    }

    #[test]
    fn where_rest_is_served() {
        let api = |words: &[&str]| Config::check(&args(words), None).unwrap().api;
        assert_eq!(api(&[]).unwrap().addr.to_string(), "0.0.0.0:8080");
        assert_eq!(api(&["--server-port=9000"]).unwrap().addr.to_string(), "0.0.0.0:9000");
        assert_eq!(api(&["--api-addr=none"]), None);
        let open = api(&["--api-addr=127.0.0.1:0", "--auth=none", "--api-tls=false"]).unwrap();
        assert!(!open.auth && !open.tls);
        assert_eq!(open.audiences, ["prewarmer"]);
        assert_eq!(api(&["--token-audience="]).unwrap().audiences, Vec::<String>::new());
        let behind = api(&["--trusted-proxies=10.0.0.0/8, 192.0.2.1,fd00::1"]).unwrap();
        let shown: Vec<String> = behind.proxies.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "192.0.2.1/32", "fd00::1/128"]);
        assert!(Config::check(&args(&["--auth=none"]), None).is_err(), "the default address is no loopback");
        let any_page = ["--api-addr=127.0.0.1:0", "--auth=none", "--api-cors-origins=*"];
        assert!(Config::check(&args(&any_page), None).is_err(), "any page could change anything");
    }

    #[test]
    fn every_setting_is_in_the_table() {
        let table = table();
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        assert_eq!(
            table.lines().count(),
            serve.get_arguments().count() - serve.get_arguments().filter(|a| a.get_id() == "help").count() + 2
        );
        assert!(table.contains("| `--known-for` | `KNOWN_FOR` | `10m` | How long an image"), "{table}");
        assert!(
            include_str!("../../docs/settings.md").contains(&table),
            "docs/settings.md is not current: run make generate"
        );
    }

    #[test]
    fn checks_of_nodes() {
        let words = [
            "--prometheus-url=http://p:9090",
            "--prometheus-query=up",
            "--prometheus-threshold=<1",
            "--disk-check=true",
        ];
        let config = Config::check(&args(&words), None).unwrap();
        assert_eq!(config.prometheus.unwrap().label, "node");
        assert_eq!(config.disk.unwrap().max_image_size, None);
        let off = Config::check(&args(&[]), None).unwrap();
        assert_eq!((off.prometheus, off.disk), (None, None));
        let half = Config::check(&args(&["--prometheus-query=up", "--ask-kubelets=true"]), None).unwrap_err();
        assert_eq!(half.len(), 3, "{half:#?}");
    }

    #[test]
    fn a_file_gives_defaults_and_flags_are_stronger() {
        let text = "coalesceWindow: 5s\nmaxConcurrentTasks: 3\n";
        let parse = |words: &[&str]| {
            let command = with_file(Cli::command(), text).unwrap();
            let matches = command.try_get_matches_from(["prewarmer", "serve"].iter().chain(words)).unwrap();
            let Command::Serve(args) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("serve") };
            Config::check(&args, None).unwrap()
        };
        assert_eq!(parse(&[]).max_concurrent_tasks, 3);
        assert_eq!(parse(&["--coalesce-window=2s"]).coalesce_window, Duration::from_secs(2));
    }

    #[test]
    fn a_file_with_unknown_settings_is_refused_and_each_is_named() {
        let problems = with_file(Cli::command(), "nope: 1\nlogLevel: [a]\n").unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}

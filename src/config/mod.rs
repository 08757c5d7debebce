//! Settings of the process: flags, environment variables and a file, in decreasing precedence.
//!
//! The command line is parsed as text and validated in one step, so that all problems are reported
//! at once.

mod check;
mod components;
mod limits;

use std::{fmt::Display, net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use http::Uri;
use ipnet::IpNet;
use prewarmer_cli::{
    doctor::DoctorArgs,
    extract::{ExtractArgs, PolicyArgs},
};
use prewarmer_core::{
    controller::{FairnessLimits, WorkerNamespace},
    intake::RateLimits,
    settings::{DEFAULT_NAMESPACE, SettingsChecker, SettingsError, object_name, split_list},
    task::plan::BatchSizeBreaker,
    workload::PolicySettings,
};

pub use self::{components::Components, limits::LimitArgs};
use crate::{
    egress::{DEFAULT_PORTS, PortSet},
    node_checks::{DiskSettings, PrometheusSettings},
    server::certificates::CertificateLifetimes,
};

/// Longest coalesce window of intake. With a longer one, workloads would again wait for their
/// images.
const MAX_WINDOW: Duration = Duration::from_secs(60);
/// Longest time to live in the warm image cache: by then the kubelet may have deleted the image.
const MAX_KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Longest `retain` of tasks created by admission.
const MAX_RETAIN: Duration = Duration::from_secs(3600);
/// Longest lifetime of a connection to the webhook.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(24 * 3600);
/// File from which a pod reads the name of its namespace.
const POD_NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Pulls container images to nodes before the pods that need them.
#[derive(Debug, Parser)]
#[command(name = "prewarmer", version)]
pub struct Cli {
    /// Subcommand to run.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of `prewarmer`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: webhook, intake, REST API and controller.
    Serve(Box<ServeArgs>),
    /// Print the custom resource definitions.
    Crds,
    /// Print a complete installation, for `kubectl apply --server-side -f -`.
    Manifests(ManifestArgs),
    /// Print the images that would be warmed for the workloads of a manifest, without a cluster.
    Extract(ExtractArgs),
    /// Print the `OpenAPI` document of the REST API.
    Openapi,
    /// Print the settings of `serve` as a Markdown table.
    Settings,
    /// Check a cluster and its installation; print problems and remedies.
    Doctor(DoctorArgs),
    /// Manage API tokens, for callers of the REST API without access to Kubernetes.
    #[command(subcommand)]
    Token(TokenCommand),
}

/// Subcommands of `prewarmer token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Create a token. Prints the token once, on standard error, and the Secret that makes it valid
    /// on standard output, for `kubectl apply --server-side --field-manager=NAME -f -`.
    Create(TokenArgs),
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Name of the token, for logs: lower-case letters, digits and dashes.
    pub name: String,
    /// Namespaces in which the token is valid, separated by commas; `*` for all.
    #[arg(long, default_value = DEFAULT_NAMESPACE)]
    pub namespaces: String,
    /// Limit the token to read access.
    #[arg(long)]
    pub read_only: bool,
    /// Allow the token to list the cluster's nodes. Tokens for all namespaces may always list them.
    #[arg(long)]
    pub nodes: bool,
    /// Lifetime of the token, such as `720h`; unlimited by default.
    #[arg(long)]
    pub expires_in: Option<String>,
    /// Namespace of the installation.
    #[arg(long, env = "K8S_NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Suffix of the installation's object names, as in `serve`.
    #[arg(long, env = "PREWARMER_INSTANCE")]
    pub instance: Option<String>,
}

/// Arguments of `manifests`.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Namespace to install into.
    #[arg(long, default_value = "prewarmer")]
    pub namespace: String,
    /// Image of the server.
    #[arg(long, default_value = concat!("prewarmer:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// Image of the helper.
    #[arg(long, default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
    /// Further workload kinds, as in `serve`. They are passed to the server, which also gets
    /// permission to read them.
    #[arg(long, default_value = "")]
    pub kinds: String,
}

/// Arguments of `serve`, unparsed.
#[derive(Debug, Args, Clone)]
pub struct ServeArgs {
    /// Settings file (YAML; keys are the flags in camel case). Flags and environment variables take
    /// precedence.
    #[arg(long, env = "PREWARMER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Components that this process runs, separated by commas: `admission` (the webhook), `api`
    /// (REST and the web pages), `controller` (works on tasks, registers the webhook, creates the
    /// CA). Every component must run in at least one process of the installation.
    #[arg(long, env = "COMPONENTS", default_value = "admission,api,controller")]
    pub components: String,
    /// `true`: start next to another installation that watches the same namespaces. Both then work
    /// on the same tasks.
    #[arg(long, env = "ALLOW_OVERLAP", default_value = "false")]
    pub allow_overlap: String,
    /// Address of the TLS listener for admission.
    #[arg(long, env = "WEBHOOK_ADDR", default_value = "0.0.0.0:8443")]
    pub webhook_addr: String,
    /// URL by which the admission webhook is registered, such as `https://127.0.0.1:9443`.
    /// Registered by Service where not set.
    #[arg(long, env = "WEBHOOK_URL")]
    pub webhook_url: Option<String>,
    /// Address of the REST API; `none` disables it. Default: `0.0.0.0` and the port of
    /// `--server-port`.
    #[arg(long, env = "API_ADDR")]
    pub api_addr: Option<String>,
    /// Port of the REST API where `--api-addr` is not set, 1 to 65535.
    #[arg(long, env = "SERVER_PORT", default_value = "8080")]
    pub server_port: String,
    /// `false`: serve REST over plain HTTP, behind a proxy that terminates TLS.
    #[arg(long, env = "API_TLS", default_value = "true")]
    pub api_tls: String,
    /// Authentication of REST callers: `kubernetes` (Kubernetes bearer tokens and API tokens), or
    /// `none` (every caller is allowed), which requires a loopback `--api-addr`.
    #[arg(long, env = "AUTH", default_value = "kubernetes")]
    pub auth: String,
    /// Accepted audiences of Kubernetes tokens, separated by commas; a token must be issued for one
    /// of them. Empty: the audience of the API server.
    #[arg(long, env = "TOKEN_AUDIENCE", default_value = "prewarmer")]
    pub token_audience: String,
    /// Proxies in front of REST whose `X-Forwarded-For` header is trusted, separated by commas:
    /// networks or addresses, such as `10.0.0.0/8`.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "")]
    pub trusted_proxies: String,
    /// Further subject names of managed certificates, separated by commas: host names or
    /// addresses by which clients call REST.
    #[arg(long, env = "API_NAMES", default_value = "")]
    pub api_names: String,
    /// REST requests per second of each caller, 1 to 1,000,000; the burst is twice as large.
    #[arg(long, env = "API_RATE", default_value = "50")]
    pub api_rate: String,
    /// Watches and live pages that each caller may keep open, 1 to 4,096. The limit for all callers
    /// together is 4,096.
    #[arg(long, env = "API_WATCHES", default_value = "32")]
    pub api_watches: String,
    /// `Idempotency-Key`s remembered for each caller, 1 to 20,000, for one day. The limit for all
    /// callers together is 20,000.
    #[arg(long, env = "API_IDEMPOTENCY_KEYS", default_value = "5000")]
    pub api_idempotency_keys: String,
    /// Connections of one address, in percent of the listener's limit (webhook 1,000, REST 4,096,
    /// health 256), 1 to 100. Behind a Service, a load balancer or an Ingress many callers share an
    /// address; `100` disables the limit.
    #[arg(long, env = "CONNECTIONS_PER_ADDRESS", default_value = "50")]
    pub connections_per_address: String,
    /// Origins of web pages that may call REST (CORS), separated by commas, such as
    /// `https://portal.example.com`; `*` for all.
    #[arg(long, env = "API_CORS_ORIGINS", default_value = "")]
    pub api_cors_origins: String,
    /// `false`: do not serve the web pages at `/ui` of the REST listener.
    #[arg(long, env = "UI", default_value = "true")]
    pub ui: String,
    /// Addresses outside the public internet to which notifications may be sent: networks separated
    /// by commas, such as `10.0.0.0/8,fd00::/8`.
    #[arg(long, env = "NOTIFY_ALLOW", default_value = "")]
    pub notify_allow: String,
    /// Ports to which notifications may be sent: ports and ranges separated by commas, such as
    /// `443,9000-9100`.
    #[arg(long, env = "NOTIFY_PORTS", default_value = DEFAULT_PORTS)]
    pub notify_ports: String,
    /// Notifications per minute of each namespace, 1 to 100,000, redirects included.
    #[arg(long, env = "NOTIFY_RATE", default_value = "120")]
    pub notify_rate: String,
    /// Addresses to which neither notifications nor `--disk-check` may connect, even where another
    /// setting allows them: networks separated by commas. Cloud metadata services, including
    /// `168.63.129.16`, are always denied.
    #[arg(long, env = "EGRESS_DENY", default_value = "")]
    pub egress_deny: String,
    /// Service through which the API server reaches the webhook.
    #[arg(long, env = "SERVICE_NAME", default_value = "prewarmer-webhook")]
    pub service_name: String,
    /// Listen address of `/healthz`, `/readyz` and `/metrics`.
    #[arg(long, env = "HEALTH_ADDR", default_value = "0.0.0.0:9090")]
    pub health_addr: String,
    /// Namespace of the server's own Secret and Lease. Default: the namespace of the pod, outside a
    /// cluster `prewarmer`.
    #[arg(long, env = "K8S_NAMESPACE")]
    pub namespace: Option<String>,
    /// Image of the helper that runs on nodes.
    #[arg(long, env = "WORKER_IMAGE", default_value = concat!("prewarmer-helper:", env!("CARGO_PKG_VERSION")))]
    pub worker_image: String,
    /// Priority class of worker pods.
    #[arg(long, env = "WORKER_PRIORITY_CLASS")]
    pub worker_priority_class: Option<String>,
    /// Settings that select the workloads to warm.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Timeout of the webhook in seconds, 1 to 30: the longest time that the admission of a
    /// workload waits for it.
    #[arg(long, env = "WEBHOOK_TIMEOUT_SECONDS", default_value = "1")]
    pub webhook_timeout_seconds: String,
    /// Maximum age of a connection to the webhook, up to 24h. The API server then reconnects, which
    /// spreads its connections over all replicas. `0s`: unlimited.
    #[arg(long, env = "WEBHOOK_CONNECTION_AGE", default_value = "5m")]
    pub webhook_connection_age: String,
    /// File of CAs (PEM). Callers of the webhook must present a certificate signed by one of them.
    #[arg(long, env = "CLIENT_CA_FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// With `--client-ca-file`: accepted subject names, separated by commas. The caller's
    /// certificate must have one of them. Empty: any name.
    #[arg(long, env = "CLIENT_NAMES", default_value = "")]
    pub client_names: String,
    /// Time for which hints from admission are collected into one task, up to 60s.
    #[arg(long, env = "COALESCE_WINDOW", default_value = "1s")]
    pub coalesce_window: String,
    /// Objects per second that are looked up because an admission review named them, over all
    /// namespaces, 1 to 10,000; the burst is ten times as large. Further lookups wait; workloads
    /// whose lookup waits too long are found by the workload watch.
    #[arg(long, env = "LOOKUP_RATE", default_value = "100")]
    pub lookup_rate: String,
    /// Lookups per second in each namespace, 1 to 10,000; otherwise as `--lookup-rate`.
    #[arg(long, env = "NAMESPACE_LOOKUP_RATE", default_value = "50")]
    pub namespace_lookup_rate: String,
    /// Tasks per second that admission creates, over all namespaces, 1 to 10,000; the burst is ten
    /// times as large.
    #[arg(long, env = "CREATION_RATE", default_value = "50")]
    pub creation_rate: String,
    /// Tasks per second that admission creates in each namespace, 1 to 10,000; otherwise as
    /// `--creation-rate`.
    #[arg(long, env = "NAMESPACE_CREATION_RATE", default_value = "5")]
    pub namespace_creation_rate: String,
    /// Seconds after its end until a task created by admission is deleted.
    #[arg(long, env = "ADMISSION_TASK_TTL_SECONDS", default_value = "3600")]
    pub admission_task_ttl_seconds: String,
    /// Seconds after which Kubernetes deletes a finished Job that the controller has not deleted,
    /// 60 to 604,800.
    #[arg(long, env = "JOB_TTL_SECONDS", default_value = "3600")]
    pub job_ttl_seconds: String,
    /// Tasks that run concurrently, 1 to 1,000; further tasks wait in order of priority, then age.
    #[arg(long, env = "MAX_CONCURRENT_TASKS", default_value = "10")]
    pub max_concurrent_tasks: String,
    /// Namespace of worker pods: `Workload` (the task's namespace, with its credentials), `Own`
    /// (the installation's namespace, for tasks without credentials) or `Fallback` (the
    /// installation's namespace where the task's namespace refuses them and the task has no
    /// credentials).
    #[arg(long, env = "WORKER_NAMESPACE", default_value = "Workload")]
    pub worker_namespace: String,
    /// Service account of worker pods in the installation's namespace. It should have no image pull
    /// secrets, because its pods work for tasks of all namespaces. Default: the namespace's default
    /// service account; the chart creates a separate one.
    #[arg(long, env = "WORKER_SERVICE_ACCOUNT")]
    pub worker_service_account: Option<String>,
    /// `true`: with `--worker-namespace=Fallback`, also use the installation's namespace where a
    /// policy of the task's namespace (Pod Security, an admission webhook or policy) refuses
    /// workers, not only where its `ResourceQuota` or `LimitRange` does.
    #[arg(long, env = "FALLBACK_ON_POLICY", default_value = "false")]
    pub fallback_on_policy: String,
    /// Images that one worker pod pulls, 1 to 100. A node with more images gets several pods, one
    /// after another.
    #[arg(long, env = "IMAGES_PER_POD", default_value = "30")]
    pub images_per_pod: String,
    /// Concurrent workers in the cluster, over all tasks, 1 to 10,000.
    #[arg(long, env = "MAX_WORKERS", default_value = "300")]
    pub max_workers: String,
    /// Concurrent workers that pull from one registry, 1 to 10,000. Halved when the registry
    /// answers 429 or 503, then increased again step by step.
    #[arg(long, env = "REGISTRY_CONCURRENCY", default_value = "200")]
    pub registry_concurrency: String,
    /// Time for which an image counts as warm on a node after a pull, up to 24h; `0s` disables this
    /// cache.
    #[arg(long, env = "KNOWN_FOR", default_value = "10m")]
    pub known_for: String,
    /// Registries that serve all their images without credentials, separated by commas, such as
    /// `registry.k8s.io,quay.io`. An image of these that a node reports counts as warm for every
    /// namespace. Any other image counts as warm only where a worker of the namespace, or one
    /// without credentials, pulled it within `--known-for`.
    #[arg(long, env = "PUBLIC_REGISTRIES", default_value = "")]
    pub public_registries: String,
    /// Limits for tasks and namespaces.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Number of nodes of a task above which `--breaker-batch-size` applies, 1 to 100,000.
    #[arg(long, env = "BREAKER_NODES", default_value = "5000")]
    pub breaker_nodes: String,
    /// Largest batch size of tasks with more than `--breaker-nodes` nodes, 1 to 100,000.
    #[arg(long, env = "BREAKER_BATCH_SIZE", default_value = "50")]
    pub breaker_batch_size: String,
    /// Finished workers kept by `retain` in the cluster, 0 to 12,000; the oldest are deleted first.
    /// At 12,500 finished pods Kubernetes itself deletes finished pods, including those of other
    /// owners.
    #[arg(long, env = "MAX_RETAINED_WORKERS", default_value = "8000")]
    pub max_retained_workers: String,
    /// `retain` of tasks created by admission, up to 1h: time for which their finished pods protect
    /// the images from the kubelet's garbage collection; `0s` deletes the pods at once.
    #[arg(long, env = "ADMISSION_RETAIN", default_value = "10m")]
    pub admission_retain: String,
    /// URL of a Prometheus server that is queried for nodes to exclude, such as
    /// `http://prometheus.monitoring:9090`.
    #[arg(long, env = "PROMETHEUS_URL")]
    pub prometheus_url: Option<String>,
    /// `PromQL` query that returns one sample per node.
    #[arg(long, env = "PROMETHEUS_QUERY")]
    pub prometheus_query: Option<String>,
    /// Threshold at which a sample excludes its node: `>`, `>=`, `<` or `<=` and a number, such as
    /// `>0.9`.
    #[arg(long, env = "PROMETHEUS_THRESHOLD")]
    pub prometheus_threshold: Option<String>,
    /// Label of a sample that identifies its node: by name, host name or address, with or without a
    /// port.
    #[arg(long, env = "PROMETHEUS_NODE_LABEL", default_value = "node")]
    pub prometheus_node_label: String,
    /// Largest share of nodes, in percent, that Prometheus samples may exclude, 1 to 100; three
    /// nodes may always be excluded. Above it no node is excluded, and the task's condition
    /// `NodesChecked` reports this.
    #[arg(long, env = "PROMETHEUS_MAX_IGNORED", default_value = "50")]
    pub prometheus_max_ignored: String,
    /// File with a bearer token for Prometheus; read again for each query.
    #[arg(long, env = "PROMETHEUS_TOKEN_FILE")]
    pub prometheus_token_file: Option<PathBuf>,
    /// `true`: exclude nodes without enough free disk space for the images, or with another
    /// platform. Requests image manifests from the registries, without credentials.
    #[arg(long, env = "DISK_CHECK", default_value = "false")]
    pub disk_check: String,
    /// With `--disk-check`: largest accepted image, compressed size in bytes, such as `20Gi`.
    #[arg(long, env = "MAX_IMAGE_SIZE")]
    pub max_image_size: Option<String>,
    /// With `--disk-check`: `true` requests the disk usage of each node from its kubelet. Needs
    /// `get` on `nodes/proxy`.
    #[arg(long, env = "ASK_KUBELETS", default_value = "false")]
    pub ask_kubelets: String,
    /// With `--disk-check`: addresses outside the public internet that registries may have:
    /// networks separated by commas, such as `10.0.0.0/8`.
    #[arg(long, env = "DISK_CHECK_ALLOW", default_value = "")]
    pub disk_check_allow: String,
    /// With `--disk-check`: registries that use plain HTTP, separated by commas. They may have any
    /// address.
    #[arg(long, env = "PLAIN_HTTP_REGISTRIES", default_value = "")]
    pub plain_http_registries: String,
    /// Only namespace to watch. Default: all namespaces.
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Suffix of the names of the installation's cluster-scoped objects, for several installations
    /// in one cluster.
    #[arg(long, env = "PREWARMER_INSTANCE")]
    pub instance: Option<String>,
    /// Serving certificate (PEM) in place of a managed one; read again when it changes.
    #[arg(long, env = "TLS_CERT_FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of `--tls-cert-file` (PEM).
    #[arg(long, env = "TLS_KEY_FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// CA of `--tls-cert-file` (PEM), which the API server uses to verify the webhook.
    #[arg(long, env = "TLS_CA_FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// Lifetime of a managed CA, 5s to 87,600h. It is renewed, with an overlap, after a third of
    /// its lifetime.
    #[arg(long, env = "CA_LIFETIME", default_value = "8760h")]
    pub ca_lifetime: String,
    /// Lifetime of a managed certificate, 5s up to `--ca-lifetime`. It is renewed after a third
    /// of its lifetime.
    #[arg(long, env = "CERTIFICATE_LIFETIME", default_value = "168h")]
    pub certificate_lifetime: String,
    /// Log level, or a filter such as `info,prewarmer=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Log format, `text` or `json`. Default: text on a terminal, JSON otherwise.
    #[arg(long, env = "LOG_FORMAT")]
    pub log_format: Option<String>,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Files of the operator's own serving certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificate chain (PEM).
    pub certificate: PathBuf,
    /// Private key (PEM).
    pub key: PathBuf,
    /// CA (PEM) that the API server uses to verify the webhook.
    pub ca: PathBuf,
}

/// Settings of the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Listen address.
    pub addr: SocketAddr,
    /// True where the listener uses TLS.
    pub tls: bool,
    /// True where callers are authenticated.
    pub auth: bool,
    /// Accepted audiences of Kubernetes tokens; the API server's own where empty.
    pub audiences: Vec<String>,
    /// Proxies whose `X-Forwarded-For` header is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Requests per second of each caller.
    pub rate: u32,
    /// Origins of web pages that may call REST.
    pub origins: Vec<String>,
    /// True where web pages are served at `/ui`.
    pub ui: bool,
    /// Watches and live pages that each caller may keep open.
    pub watches: usize,
    /// Idempotency keys remembered for each caller.
    pub idempotency_keys: usize,
}

/// Client certificates that the webhook accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// File of CAs (PEM).
    pub ca_file: PathBuf,
    /// Subject names of which a certificate must have one; any name where empty.
    pub names: Vec<String>,
}

/// Validated settings of `serve`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Components that this process runs.
    pub components: Components,
    /// True where the process starts next to another installation that watches the same namespaces.
    pub allow_overlap: bool,
    /// Listen address of the webhook, TLS.
    pub webhook_addr: SocketAddr,
    /// URL by which the webhook is registered, where set.
    pub webhook_url: Option<Uri>,
    /// Service by which the webhook is registered otherwise.
    pub service_name: String,
    /// REST API, where it is served.
    pub api: Option<ApiConfig>,
    /// Further subject names of managed certificates.
    pub api_names: Vec<String>,
    /// Networks outside the public internet to which notifications may be sent.
    pub notify_allow: Vec<IpNet>,
    /// Ports to which notifications may be sent.
    pub notify_ports: PortSet,
    /// Notifications per minute of each namespace.
    pub notify_rate: NonZeroU32,
    /// Networks to which no notification and no image lookup may connect.
    pub egress_deny: Vec<IpNet>,
    /// Listen address of health and metrics.
    pub health_addr: SocketAddr,
    /// Connections of one address, in percent of a listener's limit.
    pub connections_per_address: u8,
    /// Namespace of the installation's own objects.
    pub namespace: String,
    /// Image of the helper.
    pub worker_image: String,
    /// Priority class of worker pods.
    pub worker_priority_class: Option<String>,
    /// Settings that select the workloads to warm.
    pub policy: PolicySettings,
    /// Timeout of the webhook, in seconds.
    pub webhook_timeout: i32,
    /// Maximum age of a connection to the webhook; unlimited where absent.
    pub connection_age: Option<Duration>,
    /// Client certificates that the webhook requires; any caller is accepted where absent.
    pub clients: Option<ClientCertificates>,
    /// Lifetimes of managed certificates.
    pub lifetimes: CertificateLifetimes,
    /// Coalesce window of intake.
    pub coalesce_window: Duration,
    /// Lookups per second of intake.
    pub lookups: RateLimits,
    /// Tasks per second that intake creates.
    pub creations: RateLimits,
    /// Time to live of ended tasks created by admission, in seconds.
    pub admission_task_ttl: u32,
    /// Time to live of finished Jobs that the controller has not deleted.
    pub job_ttl: Duration,
    /// Tasks that run concurrently.
    pub max_concurrent_tasks: usize,
    /// Namespace in which workers run.
    pub worker_namespace: WorkerNamespace,
    /// Service account of workers in the installation's namespace.
    pub worker_service_account: Option<String>,
    /// True where workers refused by a policy fall back to the installation's namespace.
    pub fallback_on_policy: bool,
    /// Images that one worker pod pulls.
    pub images_per_pod: usize,
    /// Concurrent workers in the cluster.
    pub max_workers: usize,
    /// Concurrent workers that pull from one registry.
    pub registry_concurrency: usize,
    /// Time to live in the warm image cache.
    pub warm_image_ttl: Duration,
    /// Registries that serve all their images without credentials.
    pub public_registries: Vec<String>,
    /// Limits for tasks and namespaces.
    pub limits: FairnessLimits,
    /// Batch size limit for tasks with many nodes.
    pub breaker: BatchSizeBreaker,
    /// Finished workers that may be retained.
    pub max_retained_workers: usize,
    /// `retain` of tasks created by admission.
    pub admission_retain: Duration,
    /// Prometheus check of nodes, where configured.
    pub prometheus: Option<PrometheusSettings>,
    /// Disk check of nodes, where enabled.
    pub disk: Option<DiskSettings>,
    /// Only namespace to watch; all namespaces where absent.
    pub watch_namespace: Option<String>,
    /// Name of the installation's objects: `prewarmer`, with the instance's suffix.
    pub object_name: String,
    /// Operator's own serving certificate.
    pub certificates: Option<CertificateFiles>,
    /// Log filter.
    pub log_level: String,
    /// Log format, where set.
    pub log_format: Option<LogFormat>,
}

/// Reads the command line, the environment and the settings file. Usage errors and help end the
/// process, as clap does. Returns the problems of the file.
pub fn load() -> Result<Cli, SettingsError> {
    let cli = Cli::parse();
    let Command::Serve(args) = &cli.command else { return Ok(cli) };
    let Some(path) = &args.config else { return Ok(cli) };
    let in_file = |problem: &dyn Display| format!("--config {}: {problem}", path.display());
    let text =
        std::fs::read_to_string(path).map_err(|error| SettingsError(vec![in_file(&error)]))?;
    let command = apply_file_defaults(Cli::command(), &text)
        .map_err(|found| SettingsError(found.0.iter().map(|problem| in_file(problem)).collect()))?;
    Ok(Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit()))
}

/// Turns the values of the settings file into argument defaults.
fn apply_file_defaults(command: clap::Command, text: &str) -> Result<clap::Command, SettingsError> {
    let values: std::collections::BTreeMap<String, serde_json::Value> =
        serde_saphyr::from_str(text).map_err(|error| SettingsError(vec![error.to_string()]))?;
    let mut check = SettingsChecker::default();
    let command = command.mut_subcommand("serve", |mut serve| {
        for (key, value) in &values {
            let id = snake_case(key);
            let known =
                serve.get_arguments().any(|arg| arg.get_id() == id.as_str() && id != "config");
            let text = match value {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Number(number) => Some(number.to_string()),
                serde_json::Value::Bool(flag) => Some(flag.to_string()),
                _ => None,
            };
            match text {
                Some(text) if known => serve = serve.mut_arg(&id, |arg| arg.default_value(text)),
                Some(_) => {
                    check.report(format!("{key}: no such setting: see prewarmer serve --help"));
                }
                None => check.report(format!("{key}: expected a single value")),
            }
        }
        serve
    });
    check.finish(command)
}

fn snake_case(key: &str) -> String {
    key.chars()
        .flat_map(
            |c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] },
        )
        .collect()
}

impl Config {
    /// Checks all settings. Returns every problem with its flag and variable, the value and what is
    /// expected.
    #[allow(clippy::too_many_lines, reason = "a line for each setting")]
    pub fn check(args: &ServeArgs, pod_namespace: Option<String>) -> Result<Self, SettingsError> {
        let mut check = SettingsChecker::default();
        let instance = args.instance.as_deref().filter(|text| !text.is_empty());
        if let Some(instance) = instance {
            check.dns_label("--instance (PREWARMER_INSTANCE)", instance);
        }
        let namespace = args
            .namespace
            .clone()
            .filter(|name| !name.is_empty())
            .or(pod_namespace)
            .unwrap_or_else(|| DEFAULT_NAMESPACE.into());
        check.dns_label("--namespace (K8S_NAMESPACE)", &namespace);
        let watch_namespace = args.watch_namespace.clone().filter(|name| !name.is_empty());
        if let Some(watched) = &watch_namespace {
            check.dns_label("--watch-namespace (WATCH_NAMESPACE)", watched);
        }
        check.dns_label("--service-name (SERVICE_NAME)", &args.service_name);
        if let Err(error) = args.worker_image.parse::<prewarmer_core::image::ImageRef>() {
            check.problem("--worker-image (WORKER_IMAGE)", &args.worker_image, &error.to_string());
        }
        let max_concurrent_tasks = check.number(
            "--max-concurrent-tasks (MAX_CONCURRENT_TASKS)",
            &args.max_concurrent_tasks,
            1,
            1000,
        ) as usize;
        let max_workers =
            check.number("--max-workers (MAX_WORKERS)", &args.max_workers, 1, 10_000) as usize;
        let config = Self {
            components: check::components(&mut check, &args.components),
            allow_overlap: check.boolean("--allow-overlap (ALLOW_OVERLAP)", &args.allow_overlap),
            webhook_addr: check.address("--webhook-addr (WEBHOOK_ADDR)", &args.webhook_addr),
            webhook_url: check::url(
                &mut check,
                args.webhook_url.as_deref().filter(|text| !text.is_empty()),
            ),
            service_name: args.service_name.clone(),
            api: check::api(&mut check, args),
            api_names: split_list(&args.api_names),
            notify_allow: check.networks("--notify-allow (NOTIFY_ALLOW)", &args.notify_allow),
            notify_ports: check::ports(
                &mut check,
                "--notify-ports (NOTIFY_PORTS)",
                &args.notify_ports,
            ),
            notify_rate: NonZeroU32::new(check.number(
                "--notify-rate (NOTIFY_RATE)",
                &args.notify_rate,
                1,
                100_000,
            ))
            .unwrap_or(NonZeroU32::MIN),
            egress_deny: check.networks("--egress-deny (EGRESS_DENY)", &args.egress_deny),
            health_addr: check.address("--health-addr (HEALTH_ADDR)", &args.health_addr),
            connections_per_address: u8::try_from(check.number(
                "--connections-per-address (CONNECTIONS_PER_ADDRESS)",
                &args.connections_per_address,
                1,
                100,
            ))
            .unwrap_or(100),
            namespace,
            worker_image: args.worker_image.clone(),
            worker_priority_class: args
                .worker_priority_class
                .clone()
                .filter(|name| !name.is_empty()),
            policy: args.policy.check(&mut check),
            webhook_timeout: i32::try_from(check.number(
                "--webhook-timeout-seconds (WEBHOOK_TIMEOUT_SECONDS)",
                &args.webhook_timeout_seconds,
                1,
                30,
            ))
            .unwrap_or(1),
            connection_age: Some(check.duration(
                "--webhook-connection-age (WEBHOOK_CONNECTION_AGE)",
                &args.webhook_connection_age,
                MAX_CONNECTION_AGE,
            ))
            .filter(|age| !age.is_zero()),
            clients: check::clients(&mut check, args),
            lifetimes: check::lifetimes(&mut check, args),
            coalesce_window: check.duration(
                "--coalesce-window (COALESCE_WINDOW)",
                &args.coalesce_window,
                MAX_WINDOW,
            ),
            lookups: check::lookup_rates(&mut check, args),
            creations: check::creation_rates(&mut check, args),
            admission_task_ttl: check.number(
                "--admission-task-ttl-seconds (ADMISSION_TASK_TTL_SECONDS)",
                &args.admission_task_ttl_seconds,
                0,
                i32::MAX.unsigned_abs(),
            ),
            job_ttl: Duration::from_secs(
                check
                    .number(
                        "--job-ttl-seconds (JOB_TTL_SECONDS)",
                        &args.job_ttl_seconds,
                        60,
                        604_800,
                    )
                    .into(),
            ),
            max_concurrent_tasks,
            worker_namespace: check::worker_namespace(&mut check, &args.worker_namespace),
            worker_service_account: args
                .worker_service_account
                .clone()
                .filter(|name| !name.is_empty()),
            fallback_on_policy: check
                .boolean("--fallback-on-policy (FALLBACK_ON_POLICY)", &args.fallback_on_policy),
            images_per_pod: check.number(
                "--images-per-pod (IMAGES_PER_POD)",
                &args.images_per_pod,
                1,
                100,
            ) as usize,
            max_workers,
            limits: limits::limits(&mut check, &args.limits, max_concurrent_tasks, max_workers),
            registry_concurrency: check.number(
                "--registry-concurrency (REGISTRY_CONCURRENCY)",
                &args.registry_concurrency,
                1,
                10_000,
            ) as usize,
            warm_image_ttl: check.duration(
                "--known-for (KNOWN_FOR)",
                &args.known_for,
                MAX_KNOWN_FOR,
            ),
            public_registries: split_list(&args.public_registries),
            breaker: check::breaker(&mut check, args),
            max_retained_workers: check.number(
                "--max-retained-workers (MAX_RETAINED_WORKERS)",
                &args.max_retained_workers,
                0,
                12_000,
            ) as usize,
            admission_retain: check.duration(
                "--admission-retain (ADMISSION_RETAIN)",
                &args.admission_retain,
                MAX_RETAIN,
            ),
            prometheus: check::prometheus(&mut check, args),
            disk: check::disk(&mut check, args),
            watch_namespace,
            object_name: object_name(instance),
            certificates: check::certificates(&mut check, args),
            log_level: args.log_level.clone(),
            log_format: check::log_format(&mut check, args.log_format.as_deref()),
        };
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&args.log_level) {
            check.problem("--log-level (LOG_LEVEL)", &args.log_level, &error.to_string());
        }
        check.finish(config)
    }
}

/// Returns all settings of `serve` as a Markdown table: flag, variable, default and meaning.
#[must_use]
pub fn markdown_table() -> String {
    let mut lines =
        vec!["| flag | variable | default | meaning |".to_owned(), "|---|---|---|---|".to_owned()];
    let command = Cli::command();
    let arguments =
        command.find_subcommand("serve").into_iter().flat_map(clap::Command::get_arguments);
    for argument in arguments {
        let Some(flag) = argument.get_long().filter(|flag| *flag != "help") else { continue };
        let code = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
        let variable =
            argument.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let default: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let meaning = argument
            .get_long_help()
            .or_else(|| argument.get_help())
            .map(ToString::to_string)
            .unwrap_or_default();
        let meaning = meaning.replace('|', "\\|").replace('\n', " ");
        lines.push(format!(
            "| `--{flag}` | {} | {} | {meaning} |",
            code(variable),
            code(default.join(","))
        ));
    }
    lines.join("\n") + "\n"
}

/// Returns the namespace of the pod that this process runs in, or none outside a pod.
#[must_use]
pub fn pod_namespace() -> Option<String> {
    std::fs::read_to_string(POD_NAMESPACE_FILE)
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> ServeArgs {
        let words = ["prewarmer", "serve"].iter().chain(words);
        let Command::Serve(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("serve")
        };
        *args
    }

    #[test]
    fn defaults() {
        let config = Config::check(&args(&[]), None).unwrap();
        assert_eq!(config.webhook_addr.to_string(), "0.0.0.0:8443");
        assert_eq!(
            (config.namespace.as_str(), config.object_name.as_str()),
            ("prewarmer", "prewarmer")
        );
        assert_eq!(config.coalesce_window, Duration::from_secs(1));
        assert_eq!(Config::check(&args(&[]), Some("infra".into())).unwrap().namespace, "infra");
    }

    #[test]
    fn all_problems_are_reported_at_once() {
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
        assert_eq!(problems.0.len(), 35, "{problems:#?}");
        assert!(
            problems
                .0
                .iter()
                .any(|p| p.starts_with("--webhook-addr (WEBHOOK_ADDR): \"8443\": expected"))
        );
    }

    #[test]
    fn api_settings_are_parsed() {
        let api = |words: &[&str]| Config::check(&args(words), None).unwrap().api;
        assert_eq!(api(&[]).unwrap().addr.to_string(), "0.0.0.0:8080");
        assert_eq!(api(&["--server-port=9000"]).unwrap().addr.to_string(), "0.0.0.0:9000");
        assert_eq!(api(&["--api-addr=none"]), None);
        let open = api(&["--api-addr=127.0.0.1:0", "--auth=none", "--api-tls=false"]).unwrap();
        assert!(!open.auth && !open.tls);
        assert_eq!(open.audiences, ["prewarmer"]);
        assert_eq!(api(&["--token-audience="]).unwrap().audiences, Vec::<String>::new());
        let behind = api(&["--trusted-proxies=10.0.0.0/8, 192.0.2.1,fd00::1"]).unwrap();
        let shown: Vec<String> = behind.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "192.0.2.1/32", "fd00::1/128"]);
        assert!(
            Config::check(&args(&["--auth=none"]), None).is_err(),
            "the default address is no loopback"
        );
        let any_page = ["--api-addr=127.0.0.1:0", "--auth=none", "--api-cors-origins=*"];
        assert!(Config::check(&args(&any_page), None).is_err(), "any page could change anything");
    }

    #[test]
    fn settings_table_is_complete_and_current() {
        let table = markdown_table();
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        assert_eq!(
            table.lines().count(),
            serve.get_arguments().count()
                - serve.get_arguments().filter(|a| a.get_id() == "help").count()
                + 2
        );
        assert!(
            table.contains("| `--known-for` | `KNOWN_FOR` | `10m` | Time for which an image"),
            "{table}"
        );
        assert!(
            include_str!("../../docs/settings.md").contains(&table),
            "docs/settings.md is not current: run make generate"
        );
    }

    #[test]
    fn node_check_settings_are_parsed() {
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
        let half = Config::check(&args(&["--prometheus-query=up", "--ask-kubelets=true"]), None)
            .unwrap_err();
        assert_eq!(half.0.len(), 3, "{half:#?}");
    }

    #[test]
    fn flags_take_precedence_over_the_file() {
        let text = "coalesceWindow: 5s\nmaxConcurrentTasks: 3\n";
        let parse = |words: &[&str]| {
            let command = apply_file_defaults(Cli::command(), text).unwrap();
            let matches =
                command.try_get_matches_from(["prewarmer", "serve"].iter().chain(words)).unwrap();
            let Command::Serve(args) = Cli::from_arg_matches(&matches).unwrap().command else {
                panic!("serve")
            };
            Config::check(&args, None).unwrap()
        };
        assert_eq!(parse(&[]).max_concurrent_tasks, 3);
        assert_eq!(parse(&["--coalesce-window=2s"]).coalesce_window, Duration::from_secs(2));
    }

    #[test]
    fn unknown_settings_in_the_file_are_rejected() {
        let problems = apply_file_defaults(Cli::command(), "nope: 1\nlogLevel: [a]\n").unwrap_err();
        assert_eq!(problems.0.len(), 2, "{problems:?}");
    }
}

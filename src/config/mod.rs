//! Settings of the process: flags, environment variables and a file, in decreasing precedence.
//!
//! The command line is parsed as text and validated in one step, so that all problems are reported
//! at once.

mod compatibility;
mod components;
mod reference;

use std::{fmt::Display, net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use http::Uri;
use ipnet::IpNet;
use prewarmer_cli::{
    audit::AuditCommandArgs,
    doctor::DoctorArgs,
    extract::{ExtractArgs, PolicyArgs},
    settings::{boolean, number, text},
};
use prewarmer_core::{
    controller::ControllerSettings,
    settings::{
        Choice, DEFAULT_NAMESPACE, Number, Setting, SettingsChecker, SettingsError, Text,
        object_name, split_list,
    },
    workload::PolicySettings,
};

use self::compatibility::{FlatSettings, snake_case};
pub use self::{
    components::Components,
    reference::{ReferenceArgs, ReferenceError},
};
use crate::{
    api::{ApiArgs, ApiConfig, PageArgs},
    controller::{ControllerArgs, WorkerArgs},
    intake::{IntakeArgs, IntakeSettings},
    manifests::ManifestArgs,
    node_checks::{NodeCheckArgs, NodeCheckSettings},
    notify::{NotifyArgs, NotifySettings},
    server::settings::{CertificateArgs, CertificateSettings},
    telemetry::{LogArgs, LogSettings},
    token::TokenArgs,
    webhook::{WebhookArgs, WebhookSettings},
};

/// Highest value of `--metrics-images`: two series each.
const MAX_METRICS_IMAGES: u32 = 1000;
/// Highest percentage.
const MAX_PERCENT: u32 = 100;
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
    /// Print how long containers waited for images, by recent events of a cluster, and what an
    /// installation would have spared. Needs no installation, and only the verbs `get` and `list`.
    Audit(AuditCommandArgs),
    /// Print the `OpenAPI` document of the REST API.
    Openapi,
    /// Print the settings of `serve` as a Markdown table, or as a part of the chart's schema.
    Settings(ReferenceArgs),
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

/// Arguments of `serve`, unparsed.
#[derive(Debug, Args, Clone)]
pub struct ServeArgs {
    /// Settings file (YAML; keys are the flags in camel case, or the sections of image prewarm
    /// services, such as `server:` and `kubernetes:`). Flags and environment variables take
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
    #[arg(long, env = "ALLOW_OVERLAP", default_value = "false", value_parser = boolean())]
    pub allow_overlap: Setting<Choice<bool>>,
    /// Address of the TLS listener for admission.
    #[arg(long, env = "WEBHOOK_ADDR", default_value = "0.0.0.0:8443")]
    pub webhook_addr: String,
    /// URL by which the admission webhook is registered, such as `https://127.0.0.1:9443`.
    /// Registered by Service where not set.
    #[arg(long, env = "WEBHOOK_URL")]
    pub webhook_url: Option<String>,
    /// Settings of the REST API.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Connections of one address, in percent of the listener's limit (webhook 1,000, REST 4,096,
    /// health 256), 1 to 100. Behind a Service, a load balancer or an Ingress many callers share an
    /// address; `100` disables the limit.
    #[arg(
        long, env = "CONNECTIONS_PER_ADDRESS", default_value = "50",
        value_parser = number(1..=MAX_PERCENT)
    )]
    pub connections_per_address: Setting<Number>,
    /// Settings for web pages that call the REST API.
    #[command(flatten)]
    pub pages: PageArgs,
    /// Settings of notifications.
    #[command(flatten)]
    pub notify: NotifyArgs,
    /// Addresses to which neither notifications nor `--disk-check` may connect, even where another
    /// setting allows them: networks separated by commas. Cloud metadata services, including
    /// `168.63.129.16`, are always denied.
    #[arg(long, env = "EGRESS_DENY", default_value = "", value_parser = text(Text::NETWORKS))]
    pub egress_deny: Setting<Text>,
    /// Service through which the API server reaches the webhook.
    #[arg(long, env = "SERVICE_NAME", default_value = "prewarmer-webhook")]
    pub service_name: String,
    /// Listen address of `/healthz`, `/readyz` and `/metrics`.
    #[arg(long, env = "HEALTH_ADDR", default_value = "0.0.0.0:9090")]
    pub health_addr: String,
    /// Images that the metric `prewarm_images_total` distinguishes by the label `image`, which is the
    /// name without tag and digest, 0 to 1,000; further ones are counted as `other`. `0`: no such
    /// label.
    #[arg(
        long, env = "METRICS_IMAGES", default_value = "0",
        value_parser = number(0..=MAX_METRICS_IMAGES)
    )]
    pub metrics_images: Setting<Number>,
    /// Namespace of the server's own Secret and Lease. Default: the namespace of the pod, outside a
    /// cluster `prewarmer`.
    #[arg(long, env = "K8S_NAMESPACE")]
    pub namespace: Option<String>,
    /// Settings of the pods that pull images.
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Settings that select the workloads to warm.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Settings of the webhook.
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// Settings of intake.
    #[command(flatten)]
    pub intake: IntakeArgs,
    /// Settings of the controller.
    #[command(flatten)]
    pub controller: ControllerArgs,
    /// Settings of node checks.
    #[command(flatten)]
    pub node_checks: NodeCheckArgs,
    /// Only namespace to watch. Default: all namespaces.
    #[arg(long, env = "WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Suffix of the names of the installation's cluster-scoped objects, for several installations
    /// in one cluster.
    #[arg(long, env = "PREWARMER_INSTANCE")]
    pub instance: Option<String>,
    /// Settings of certificates.
    #[command(flatten)]
    pub certificates: CertificateArgs,
    /// Settings of logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Validated settings of `serve`.
#[derive(Debug, Clone)]
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
    /// Settings of the webhook.
    pub webhook: WebhookSettings,
    /// REST API, where it is served.
    pub api: Option<ApiConfig>,
    /// Further subject names of managed certificates.
    pub api_names: Vec<String>,
    /// Settings of notifications.
    pub notify: NotifySettings,
    /// Networks to which no notification and no image lookup may connect.
    pub egress_deny: Vec<IpNet>,
    /// Listen address of health and metrics.
    pub health_addr: SocketAddr,
    /// Images that metrics distinguish by a label.
    pub metrics_images: usize,
    /// Connections of one address, in percent of a listener's limit.
    pub connections_per_address: u8,
    /// Namespace of the installation's own objects.
    pub namespace: String,
    /// Only namespace to watch; all namespaces where absent.
    pub watch_namespace: Option<String>,
    /// Name of the installation's objects: `prewarmer`, with the instance's suffix.
    pub object_name: String,
    /// Settings that select the workloads to warm.
    pub policy: PolicySettings,
    /// Settings of intake.
    pub intake: IntakeSettings,
    /// Settings of the controller.
    pub controller: ControllerSettings,
    /// Settings of node checks.
    pub node_checks: NodeCheckSettings,
    /// Settings of certificates.
    pub certificates: CertificateSettings,
    /// Settings of logging.
    pub log: LogSettings,
}

/// Command line with the environment and the settings file, and warnings about settings that have no
/// effect.
#[derive(Debug)]
pub struct LoadedCli {
    /// Command line.
    pub cli: Cli,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Reads the command line, the environment and the settings file. Usage errors and help end the
/// process, as clap does. Returns the problems of the file.
pub fn load() -> Result<LoadedCli, SettingsError> {
    let cli = Cli::parse();
    let Command::Serve(args) = &cli.command else {
        return Ok(LoadedCli { cli, warnings: Vec::new() });
    };
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut warnings = compatibility::variable_warnings(is_set);
    let Some(path) = &args.config else { return Ok(LoadedCli { cli, warnings }) };
    let in_file = |problem: &dyn Display| format!("--config {}: {problem}", path.display());
    let text =
        std::fs::read_to_string(path).map_err(|error| SettingsError(vec![in_file(&error)]))?;
    let (command, of_file) = apply_file_defaults(Cli::command(), &text)
        .map_err(|found| SettingsError(found.0.iter().map(|problem| in_file(problem)).collect()))?;
    warnings.extend(of_file);
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    Ok(LoadedCli { cli, warnings })
}

/// Turns the values of the settings file into argument defaults. Returns warnings too.
fn apply_file_defaults(
    command: clap::Command,
    text: &str,
) -> Result<(clap::Command, Vec<String>), SettingsError> {
    let values: std::collections::BTreeMap<String, serde_json::Value> =
        serde_saphyr::from_str(text).map_err(|error| SettingsError(vec![error.to_string()]))?;
    let mut check = SettingsChecker::default();
    let FlatSettings { values, warnings } = compatibility::flatten(values, &mut check);
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
    check.finish((command, warnings))
}

impl Config {
    /// Checks all settings. Returns every problem with its flag and variable, the value and what is
    /// expected.
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
        let node_checks = args.node_checks.check(&mut check);
        let config = Self {
            components: components(&mut check, &args.components),
            allow_overlap: check.value(&args.allow_overlap),
            webhook_addr: check.address("--webhook-addr (WEBHOOK_ADDR)", &args.webhook_addr),
            webhook_url: webhook_url(&mut check, args.webhook_url.as_deref()),
            service_name: args.service_name.clone(),
            webhook: args.webhook.check(&mut check),
            api: args.api.check(&args.pages, &mut check),
            api_names: split_list(&args.api.api_names),
            notify: args.notify.check(&mut check),
            egress_deny: check.networks(&args.egress_deny),
            metrics_images: check.value(&args.metrics_images) as usize,
            health_addr: check.address("--health-addr (HEALTH_ADDR)", &args.health_addr),
            connections_per_address: u8::try_from(check.value(&args.connections_per_address))
                .unwrap_or(100),
            policy: args.policy.check(&mut check),
            intake: args.intake.check(&mut check),
            controller: ControllerSettings {
                namespace: watch_namespace.clone(),
                own_namespace: namespace.clone(),
                node_checks_enabled: node_checks.prometheus.is_some() || node_checks.disk.is_some(),
                ..args.controller.check(&args.worker, &mut check)
            },
            node_checks,
            namespace,
            watch_namespace,
            object_name: object_name(instance),
            certificates: args.certificates.check(&mut check),
            log: args.log.check(&mut check),
        };
        check.finish(config)
    }
}

fn components(check: &mut SettingsChecker, value: &str) -> Components {
    Components::parse(value).unwrap_or_else(|expected| {
        check.problem("--components (COMPONENTS)", value, &expected);
        Components { admission: true, api: true, controller: true }
    })
}

fn webhook_url(check: &mut SettingsChecker, value: Option<&str>) -> Option<Uri> {
    let value = value.filter(|text| !text.is_empty())?;
    let parsed: Option<Uri> = value.parse().ok();
    let good = parsed.filter(|uri| {
        uri.scheme_str() == Some("https") && uri.host().is_some() && uri.path() == "/"
    });
    if good.is_none() {
        let expected = "expected https, a host and a port, such as https://127.0.0.1:9443";
        check.problem("--webhook-url (WEBHOOK_URL)", value, expected);
    }
    good
}

/// Returns the settings of `serve` as a Markdown table or, with a file of the chart, its schema of
/// values with the settings in it.
pub fn reference(args: &ReferenceArgs) -> Result<String, ReferenceError> {
    reference::print(&serve_command(), args)
}

fn serve_command() -> clap::Command {
    Cli::command().find_subcommand("serve").cloned().unwrap_or_default()
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
    use std::time::Duration;

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
        assert_eq!(config.intake.coalesce_window, Duration::from_secs(1));
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
            "--worker-image-pull-policy=Never",
            "--server-read-timeout=0",
            "--server-write-timeout=30s",
            "--api-metrics=maybe",
            "--metrics-images=1001",
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
        assert_eq!(problems.0.len(), 40, "{problems:#?}");
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
    fn node_check_settings_are_parsed() {
        let words = [
            "--prometheus-url=http://p:9090",
            "--prometheus-query=up",
            "--prometheus-threshold=<1",
            "--disk-check=true",
        ];
        let config = Config::check(&args(&words), None).unwrap();
        assert_eq!(config.node_checks.prometheus.unwrap().label, "node");
        assert_eq!(config.node_checks.disk.unwrap().max_image_size, None);
        let off = Config::check(&args(&[]), None).unwrap().node_checks;
        assert_eq!((off.prometheus, off.disk), (None, None));
        let half = Config::check(&args(&["--prometheus-query=up", "--ask-kubelets=true"]), None)
            .unwrap_err();
        assert_eq!(half.0.len(), 3, "{half:#?}");
    }

    #[test]
    fn flags_take_precedence_over_the_file() {
        let text = "coalesceWindow: 5s\nmaxConcurrentTasks: 3\n";
        let parse = |words: &[&str]| {
            let (command, _) = apply_file_defaults(Cli::command(), text).unwrap();
            let matches =
                command.try_get_matches_from(["prewarmer", "serve"].iter().chain(words)).unwrap();
            let Command::Serve(args) = Cli::from_arg_matches(&matches).unwrap().command else {
                panic!("serve")
            };
            Config::check(&args, None).unwrap()
        };
        assert_eq!(parse(&[]).controller.max_concurrent_tasks, 3);
        assert_eq!(parse(&["--coalesce-window=2s"]).intake.coalesce_window, Duration::from_secs(2));
    }

    #[test]
    fn worker_image_of_other_services_is_refused() {
        for image in ["busybox", "busybox:latest", "docker.io/library/busybox:1@sha256:x"] {
            let problems = Config::check(&args(&["--worker-image", image]), None).unwrap_err();
            assert!(problems.0[0].starts_with("--worker-image (WORKER_IMAGE)"), "{problems}");
        }
        let own = ["--worker-image=registry.example/busybox:1"];
        assert!(Config::check(&args(&own), None).is_ok());
    }

    #[test]
    fn unknown_settings_in_the_file_are_rejected() {
        let problems = apply_file_defaults(Cli::command(), "nope: 1\nlogLevel: [a]\n").unwrap_err();
        assert_eq!(problems.0.len(), 2, "{problems:?}");
    }
}

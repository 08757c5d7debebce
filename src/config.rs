//! Every setting, once: flags, environment variables and a file, in that order of strength.
//!
//! The command line is read as text and checked as a whole, so that all
//! mistakes are reported at once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use http::Uri;

use crate::{duration, webhook::DefaultMode};

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
}

/// What `extract` takes.
#[derive(Debug, Args)]
pub struct ExtractArgs {
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
    /// Address of the TLS listener for admission.
    #[arg(long, env = "WEBHOOK_ADDR", default_value = "0.0.0.0:8443")]
    pub webhook_addr: String,
    /// Register the admission configuration by this URL, such as `https://127.0.0.1:9443`, instead of by Service.
    #[arg(long, env = "WEBHOOK_URL")]
    pub webhook_url: Option<String>,
    /// Address of the REST API. Known so that scripts need no change; this version serves none, and says so.
    #[arg(long, env = "API_ADDR")]
    pub api_addr: Option<String>,
    /// Whether REST is to be served over TLS: `true` or `false`; see `--api-addr`.
    #[arg(long, env = "API_TLS", default_value = "true")]
    pub api_tls: String,
    /// Who may call REST: `kubernetes`, or `none` with a loopback `--api-addr`; see there.
    #[arg(long, env = "AUTH", default_value = "kubernetes")]
    pub auth: String,
    /// Name of the Service by which the API server reaches the webhook.
    #[arg(long, env = "SERVICE_NAME", default_value = "prewarmer")]
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
    /// `OptOut`: all but opted-out workloads are warmed; `OptIn`: only opted-in ones.
    #[arg(long, env = "DEFAULT_MODE", default_value = "OptOut")]
    pub default_mode: String,
    /// How long hints from admission are collected into one task.
    #[arg(long, env = "COALESCE_WINDOW", default_value = "1s")]
    pub coalesce_window: String,
    /// Seconds after its end until a task made by admission is deleted.
    #[arg(long, env = "ADMISSION_TASK_TTL_SECONDS", default_value = "3600")]
    pub admission_task_ttl_seconds: String,
    /// Seconds that a finished Job stays when no controller removes it.
    #[arg(long, env = "JOB_TTL_SECONDS", default_value = "3600")]
    pub job_ttl_seconds: String,
    /// Tasks that run at once; others wait by priority, then age.
    #[arg(long, env = "MAX_CONCURRENT_TASKS", default_value = "10")]
    pub max_concurrent_tasks: String,
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

/// The settings of `serve`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The TLS listener.
    pub webhook_addr: SocketAddr,
    /// Registration by URL, where asked for.
    pub webhook_url: Option<Uri>,
    /// The Service otherwise.
    pub service_name: String,
    /// The address asked for REST, which this version does not serve.
    pub api_addr: Option<SocketAddr>,
    /// The health listener.
    pub health_addr: SocketAddr,
    /// Namespace of the own objects.
    pub namespace: String,
    /// The helper's image.
    pub worker_image: String,
    /// Priority class of worker pods.
    pub worker_priority_class: Option<String>,
    /// What holds without annotations.
    pub default_mode: DefaultMode,
    /// Intake's window.
    pub coalesce_window: Duration,
    /// Time to live of admission's tasks, in seconds.
    pub admission_task_ttl: u32,
    /// Time to live of Jobs that nobody removes.
    pub job_ttl: Duration,
    /// Tasks that run at once.
    pub max_concurrent_tasks: usize,
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
            .unwrap_or_else(|| "prewarmer".into());
        check.label("--namespace (K8S_NAMESPACE)", &namespace);
        let watch_namespace = args.watch_namespace.clone().filter(|name| !name.is_empty());
        if let Some(watched) = &watch_namespace {
            check.label("--watch-namespace (WATCH_NAMESPACE)", watched);
        }
        check.label("--service-name (SERVICE_NAME)", &args.service_name);
        if let Err(error) = args.worker_image.parse::<crate::image::Reference>() {
            check.problem("--worker-image (WORKER_IMAGE)", &args.worker_image, &error.to_string());
        }
        let config = Self {
            webhook_addr: check.address("--webhook-addr (WEBHOOK_ADDR)", &args.webhook_addr),
            webhook_url: check.url(args.webhook_url.as_deref().filter(|text| !text.is_empty())),
            service_name: args.service_name.clone(),
            api_addr: check.api(args),
            health_addr: check.address("--health-addr (HEALTH_ADDR)", &args.health_addr),
            namespace,
            worker_image: args.worker_image.clone(),
            worker_priority_class: args.worker_priority_class.clone().filter(|name| !name.is_empty()),
            default_mode: check.mode(&args.default_mode),
            coalesce_window: check.window(&args.coalesce_window),
            admission_task_ttl: check.number(
                "--admission-task-ttl-seconds (ADMISSION_TASK_TTL_SECONDS)",
                &args.admission_task_ttl_seconds,
                0,
                i32::MAX.unsigned_abs(),
            ),
            job_ttl: Duration::from_secs(
                check.number("--job-ttl-seconds (JOB_TTL_SECONDS)", &args.job_ttl_seconds, 60, 604_800).into(),
            ),
            max_concurrent_tasks: check.number(
                "--max-concurrent-tasks (MAX_CONCURRENT_TASKS)",
                &args.max_concurrent_tasks,
                1,
                1000,
            ) as usize,
            watch_namespace,
            object_name: instance.map_or_else(|| "prewarmer".into(), |suffix| format!("prewarmer-{suffix}")),
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

/// The namespace of the pod that this runs in.
#[must_use]
pub fn pod_namespace() -> Option<String> {
    std::fs::read_to_string(POD_NAMESPACE_FILE).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

struct Check {
    problems: Vec<String>,
}

impl Check {
    fn problem(&mut self, setting: &str, value: &str, expected: &str) {
        self.problems.push(format!("{setting}: {value:?}: {expected}"));
    }

    fn label(&mut self, setting: &str, value: &str) {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if value.is_empty()
            || value.len() > 50
            || !value.chars().all(good)
            || value.starts_with('-')
            || value.ends_with('-')
        {
            self.problem(setting, value, "expected at most 50 lower-case letters, digits and dashes");
        }
    }

    fn address(&mut self, setting: &str, value: &str) -> SocketAddr {
        value.parse().unwrap_or_else(|_| {
            self.problem(setting, value, "expected an address and a port, such as 0.0.0.0:8443");
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    fn url(&mut self, value: Option<&str>) -> Option<Uri> {
        let value = value?;
        let parsed: Option<Uri> = value.parse().ok();
        let good = parsed.filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some() && uri.path() == "/");
        if good.is_none() {
            let expected = "expected https, a host and a port, such as https://127.0.0.1:9443";
            self.problem("--webhook-url (WEBHOOK_URL)", value, expected);
        }
        good
    }

    fn api(&mut self, args: &ServeArgs) -> Option<SocketAddr> {
        let given = args.api_addr.as_deref().filter(|text| !text.is_empty());
        let address = given.map(|text| self.address("--api-addr (API_ADDR)", text));
        if !matches!(args.api_tls.as_str(), "true" | "false") {
            self.problem("--api-tls (API_TLS)", &args.api_tls, "expected true or false");
        }
        match args.auth.as_str() {
            "kubernetes" => {}
            "none" if address.is_some_and(|address| address.ip().is_loopback()) => {}
            "none" => self.problem("--auth (AUTH)", "none", "needs a loopback --api-addr, such as 127.0.0.1:8080"),
            other => self.problem("--auth (AUTH)", other, "expected kubernetes, or none"),
        }
        address
    }

    fn mode(&mut self, value: &str) -> DefaultMode {
        match value {
            "OptOut" => DefaultMode::OptOut,
            "OptIn" => DefaultMode::OptIn,
            _ => {
                self.problem("--default-mode (DEFAULT_MODE)", value, "expected OptOut or OptIn");
                DefaultMode::OptOut
            }
        }
    }

    fn window(&mut self, value: &str) -> Duration {
        let setting = "--coalesce-window (COALESCE_WINDOW)";
        match duration::parse(value) {
            Ok(window) if window <= Duration::from_secs(60) => return window,
            Ok(_) => self.problem(setting, value, "expected at most 60s"),
            Err(expected) => self.problem(setting, value, &expected),
        }
        Duration::ZERO
    }

    fn number(&mut self, setting: &str, value: &str, least: u32, most: u32) -> u32 {
        value.parse().ok().filter(|number| (least..=most).contains(number)).unwrap_or_else(|| {
            self.problem(setting, value, &format!("expected a number from {least} to {most}"));
            least
        })
    }

    fn certificates(&mut self, args: &ServeArgs) -> Option<CertificateFiles> {
        match (&args.tls_cert_file, &args.tls_key_file, &args.tls_ca_file) {
            (None, None, None) => None,
            (Some(certificate), Some(key), Some(ca)) => {
                Some(CertificateFiles { certificate: certificate.clone(), key: key.clone(), ca: ca.clone() })
            }
            _ => {
                self.problems.push(
                    "--tls-cert-file (TLS_CERT_FILE), --tls-key-file (TLS_KEY_FILE), --tls-ca-file (TLS_CA_FILE): \
                     give all three, or none for a self-made certificate"
                        .into(),
                );
                None
            }
        }
    }

    fn log_format(&mut self, value: Option<&str>) -> Option<LogFormat> {
        match value {
            None | Some("") => None,
            Some("text") => Some(LogFormat::Text),
            Some("json") => Some(LogFormat::Json),
            Some(other) => {
                self.problem("--log-format (LOG_FORMAT)", other, "expected text or json");
                None
            }
        }
    }
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
            "--api-addr=0.0.0.0:8080",
            "--auth=none",
        ]);
        let problems = Config::check(&wrong, None).unwrap_err();
        assert_eq!(problems.len(), 10, "{problems:#?}");
        assert!(problems.iter().any(|p| p.starts_with("--webhook-addr (WEBHOOK_ADDR): \"8443\": expected")));
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

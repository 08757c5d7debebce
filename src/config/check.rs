//! Checks of single settings. Every problem names the flag and variable, the value, and what is
//! expected.

use std::{net::SocketAddr, time::Duration};

use http::Uri;
use ipnet::IpNet;
use prewarmer_core::{
    controller::WorkerNamespace,
    intake::RateLimits,
    node::parse_byte_quantity,
    settings::{SettingsChecker, split_list},
    task::plan::BatchSizeBreaker,
};

use super::{ApiConfig, CertificateFiles, ClientCertificates, Components, LogFormat, ServeArgs};
use crate::{
    egress::PortSet,
    node_checks::{DiskSettings, PrometheusSettings},
    server::certificates::CertificateLifetimes,
};

/// Shortest and longest lifetime of a managed certificate. Renewal cannot keep up below a few
/// seconds. Browsers and libraries refuse lifetimes of decades.
const LIFETIME_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(5), Duration::from_secs(10 * 365 * 24 * 3600));

/// Highest rate per second that a setting may allow: more than an API server can serve.
const MAX_RATE: u32 = 10_000;

pub(super) fn url(check: &mut SettingsChecker, value: Option<&str>) -> Option<Uri> {
    let value = value?;
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

pub(super) fn api(check: &mut SettingsChecker, args: &ServeArgs) -> Option<ApiConfig> {
    let port =
        u16::try_from(check.number("--server-port (SERVER_PORT)", &args.server_port, 1, 65_535))
            .unwrap_or(0);
    let given = args.api_addr.as_deref().filter(|text| !text.is_empty());
    let tls = check.boolean("--api-tls (API_TLS)", &args.api_tls);
    let rate = check.number("--api-rate (API_RATE)", &args.api_rate, 1, 1_000_000);
    let ui = check.boolean("--ui (UI)", &args.ui);
    let watches = check.number("--api-watches (API_WATCHES)", &args.api_watches, 1, 4096) as usize;
    let keys = check.number(
        "--api-idempotency-keys (API_IDEMPOTENCY_KEYS)",
        &args.api_idempotency_keys,
        1,
        20_000,
    ) as usize;
    let origins = split_list(&args.api_cors_origins);
    for origin in origins.iter().filter(|origin| !is_origin(origin)) {
        let expected = "expected an origin such as https://portal.example.com, or *";
        check.problem("--api-cors-origins (API_CORS_ORIGINS)", origin, expected);
    }
    let audiences = split_list(&args.token_audience);
    for audience in audiences.iter().filter(|audience| !is_audience(audience)) {
        let expected = "expected an audience such as prewarmer: at most 200 visible characters";
        check.problem("--token-audience (TOKEN_AUDIENCE)", audience, expected);
    }
    let proxies = proxies(check, &args.trusted_proxies);
    let addr = match given {
        Some("none") => return None,
        Some(text) => check.address("--api-addr (API_ADDR)", text),
        None => SocketAddr::from(([0, 0, 0, 0], port)),
    };
    let auth = match args.auth.as_str() {
        "kubernetes" => true,
        "none" if addr.ip().is_loopback() => false,
        "none" => {
            check.problem(
                "--auth (AUTH)",
                "none",
                "requires a loopback --api-addr, such as 127.0.0.1:8080",
            );
            false
        }
        other => {
            check.problem("--auth (AUTH)", other, "expected kubernetes or none");
            true
        }
    };
    if !auth && origins.iter().any(|origin| origin == "*") {
        let expected = "not allowed with --auth=none, where every web page could then use the API: list the origins";
        check.problem("--api-cors-origins (API_CORS_ORIGINS)", "*", expected);
    }
    Some(ApiConfig {
        addr,
        tls,
        auth,
        audiences,
        trusted_proxies: proxies,
        rate,
        origins,
        ui,
        watches,
        idempotency_keys: keys,
    })
}

fn proxies(check: &mut SettingsChecker, value: &str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in split_list(value) {
        if let Ok(network) =
            text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        {
            networks.push(network);
        } else {
            let expected = "expected a network or an address, such as 10.0.0.0/8";
            check.problem("--trusted-proxies (TRUSTED_PROXIES)", &text, expected);
        }
    }
    networks
}

pub(super) fn ports(check: &mut SettingsChecker, setting: &str, value: &str) -> PortSet {
    value.parse().unwrap_or_else(|expected: String| {
        check.problem(setting, value, &expected);
        PortSet::default()
    })
}

pub(super) fn clients(check: &mut SettingsChecker, args: &ServeArgs) -> Option<ClientCertificates> {
    let names = split_list(&args.client_names);
    if args.client_ca_file.is_none() && !names.is_empty() {
        check.report("--client-names (CLIENT_NAMES): requires --client-ca-file");
    }
    args.client_ca_file.clone().map(|ca_file| ClientCertificates { ca_file, names })
}

pub(super) fn lifetimes(check: &mut SettingsChecker, args: &ServeArgs) -> CertificateLifetimes {
    let mut life = |setting: &str, value: &str| {
        let span = check.duration(setting, value, LIFETIME_BOUNDS.1);
        if span < LIFETIME_BOUNDS.0 {
            check.problem(
                setting,
                value,
                &format!("expected at least {}s", LIFETIME_BOUNDS.0.as_secs()),
            );
        }
        span
    };
    let ca = life("--ca-lifetime (CA_LIFETIME)", &args.ca_lifetime);
    let leaf = life("--certificate-lifetime (CERTIFICATE_LIFETIME)", &args.certificate_lifetime);
    if leaf > ca {
        let expected = "expected at most --ca-lifetime: a certificate must not outlive its CA";
        check.problem(
            "--certificate-lifetime (CERTIFICATE_LIFETIME)",
            &args.certificate_lifetime,
            expected,
        );
    }
    CertificateLifetimes { ca, leaf }
}

pub(super) fn components(check: &mut SettingsChecker, value: &str) -> Components {
    Components::parse(value).unwrap_or_else(|expected| {
        check.problem("--components (COMPONENTS)", value, &expected);
        Components { admission: true, api: true, controller: true }
    })
}

pub(super) fn worker_namespace(check: &mut SettingsChecker, value: &str) -> WorkerNamespace {
    match value {
        "Workload" => WorkerNamespace::Workload,
        "Own" => WorkerNamespace::Own,
        "Fallback" => WorkerNamespace::Fallback,
        _ => {
            check.problem(
                "--worker-namespace (WORKER_NAMESPACE)",
                value,
                "expected Workload, Own or Fallback",
            );
            WorkerNamespace::Workload
        }
    }
}

pub(super) fn breaker(check: &mut SettingsChecker, args: &ServeArgs) -> BatchSizeBreaker {
    let nodes = check.number("--breaker-nodes (BREAKER_NODES)", &args.breaker_nodes, 1, 100_000);
    let at_once = check.number(
        "--breaker-batch-size (BREAKER_BATCH_SIZE)",
        &args.breaker_batch_size,
        1,
        100_000,
    );
    BatchSizeBreaker { node_threshold: nodes as usize, batch_size: at_once as usize }
}

pub(super) fn prometheus(
    check: &mut SettingsChecker,
    args: &ServeArgs,
) -> Option<PrometheusSettings> {
    let given = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let (url, query) = (given(&args.prometheus_url), given(&args.prometheus_query));
    let threshold = given(&args.prometheus_threshold);
    if url.is_none() && query.is_none() && threshold.is_none() {
        return None;
    }
    let known = url.as_ref().and_then(|url| url.parse::<Uri>().ok());
    let good = known.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
    });
    if !good {
        let expected =
            "expected http or https and a host, such as http://prometheus.monitoring:9090";
        check.problem(
            "--prometheus-url (PROMETHEUS_URL)",
            url.as_deref().unwrap_or_default(),
            expected,
        );
    }
    if query.is_none() || threshold.is_none() {
        let both =
            "--prometheus-query (PROMETHEUS_QUERY), --prometheus-threshold (PROMETHEUS_THRESHOLD)";
        check.report(format!("{both}: both are required with --prometheus-url"));
    }
    let setting = "--prometheus-max-ignored (PROMETHEUS_MAX_IGNORED)";
    let max_ignored = check.number(setting, &args.prometheus_max_ignored, 1, 100);
    let threshold = threshold?;
    match threshold.parse() {
        Ok(threshold) => Some(PrometheusSettings {
            url: url?,
            query: query?,
            threshold,
            label: args.prometheus_node_label.clone(),
            token_file: args.prometheus_token_file.clone(),
            max_ignored: u8::try_from(max_ignored).unwrap_or(100),
        }),
        Err(expected) => {
            check.problem("--prometheus-threshold (PROMETHEUS_THRESHOLD)", &threshold, &expected);
            None
        }
    }
}

pub(super) fn disk(check: &mut SettingsChecker, args: &ServeArgs) -> Option<DiskSettings> {
    let on = check.boolean("--disk-check (DISK_CHECK)", &args.disk_check);
    let ask_kubelets = check.boolean("--ask-kubelets (ASK_KUBELETS)", &args.ask_kubelets);
    let size = args.max_image_size.as_deref().filter(|text| !text.is_empty());
    let max_image_size = size.and_then(parse_byte_quantity);
    if let Some(size) = size.filter(|_| max_image_size.is_none()) {
        check.problem(
            "--max-image-size (MAX_IMAGE_SIZE)",
            size,
            "expected bytes, such as 20Gi or 500M",
        );
    }
    let plain_registries = split_list(&args.plain_http_registries);
    let allow = check.networks("--disk-check-allow (DISK_CHECK_ALLOW)", &args.disk_check_allow);
    if !on && args.disk_check == "false" && ask_kubelets {
        check.report("--ask-kubelets (ASK_KUBELETS): requires --disk-check=true");
    }
    on.then_some(DiskSettings {
        max_image_size,
        query_kubelets: ask_kubelets,
        plain_registries,
        allowed_networks: allow,
    })
}

pub(super) fn lookup_rates(check: &mut SettingsChecker, args: &ServeArgs) -> RateLimits {
    rates(
        check,
        ["LOOKUP_RATE", "NAMESPACE_LOOKUP_RATE"],
        [&args.lookup_rate, &args.namespace_lookup_rate],
    )
}

pub(super) fn creation_rates(check: &mut SettingsChecker, args: &ServeArgs) -> RateLimits {
    rates(
        check,
        ["CREATION_RATE", "NAMESPACE_CREATION_RATE"],
        [&args.creation_rate, &args.namespace_creation_rate],
    )
}

/// Reads a total and a per-namespace rate from the settings of these variables.
fn rates(check: &mut SettingsChecker, variables: [&str; 2], values: [&String; 2]) -> RateLimits {
    let mut read = |variable: &str, value: &str| {
        let flag = variable.to_ascii_lowercase().replace('_', "-");
        check.number(&format!("--{flag} ({variable})"), value, 1, MAX_RATE)
    };
    RateLimits { total: read(variables[0], values[0]), namespace: read(variables[1], values[1]) }
}

pub(super) fn certificates(
    check: &mut SettingsChecker,
    args: &ServeArgs,
) -> Option<CertificateFiles> {
    match (&args.tls_cert_file, &args.tls_key_file, &args.tls_ca_file) {
        (None, None, None) => None,
        (Some(certificate), Some(key), Some(ca)) => Some(CertificateFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            ca: ca.clone(),
        }),
        _ => {
            check.report(
                "--tls-cert-file (TLS_CERT_FILE), --tls-key-file (TLS_KEY_FILE), --tls-ca-file (TLS_CA_FILE): \
                 set all three, or none for a managed certificate",
            );
            None
        }
    }
}

pub(super) fn log_format(check: &mut SettingsChecker, value: Option<&str>) -> Option<LogFormat> {
    match value {
        None | Some("") => None,
        Some("text") => Some(LogFormat::Text),
        Some("json") => Some(LogFormat::Json),
        Some(other) => {
            check.problem("--log-format (LOG_FORMAT)", other, "expected text or json");
            None
        }
    }
}
/// Reports whether the text can be the audience of a token.
fn is_audience(text: &str) -> bool {
    text.len() <= 200 && text.chars().all(|c| c.is_ascii_graphic())
}

/// Reports whether the text is an origin as browsers write it (scheme, host and an optional port),
/// or `*`.
fn is_origin(text: &str) -> bool {
    let parsed: Option<Uri> = text.parse().ok();
    text == "*"
        || parsed.is_some_and(|uri| {
            uri.scheme().is_some()
                && uri.host().is_some()
                && !text.ends_with('/')
                && uri.path() == "/"
        })
}

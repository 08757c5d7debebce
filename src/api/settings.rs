//! Settings of the REST API.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use http::Uri;
use ipnet::IpNet;
use prewarmer_cli::settings::{boolean, choice, number, text};
use prewarmer_core::settings::{Choice, Number, Setting, SettingsChecker, Text, split_list};

use super::budgets::CallerLimits;

/// Highest port.
const MAX_PORT: u32 = 65_535;
/// Highest value of `--server-read-timeout` and `--server-write-timeout`, in seconds.
const MAX_TIMEOUT: u32 = 300;
/// Highest value of `--api-rate`, per second.
const MAX_RATE: u32 = 1_000_000;
/// Highest value of `--api-watches`, the limit for all callers together.
const MAX_WATCHES: u32 = 4096;
/// Highest value of `--api-idempotency-keys`, the limit for all callers together.
const MAX_IDEMPOTENCY_KEYS: u32 = 20_000;
/// Audiences of tokens.
const AUDIENCES: Text = Text::list(r"[!-+\--~]{1,200}");
/// Networks and addresses.
const PROXIES: Text = Text::list("[0-9A-Fa-f.:]+(/[0-9]{1,3})?");
/// Origins as browsers write them, or `*`.
const ORIGINS: Text = Text::list(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^\s,/]+");
/// Names of the ways to authenticate.
const AUTHENTICATION: &[(&str, Authentication)] =
    &[("kubernetes", Authentication::Kubernetes), ("none", Authentication::None)];

/// Authentication of REST callers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Authentication {
    /// Kubernetes bearer tokens and API tokens.
    #[default]
    Kubernetes,
    /// None: every caller is allowed.
    None,
}

/// Settings of the REST API, unparsed.
#[derive(Debug, Args, Clone)]
pub struct ApiArgs {
    /// Address of the REST API; `none` disables it. Default: `0.0.0.0` and the port of
    /// `--server-port`.
    #[arg(long, env = "API_ADDR")]
    pub api_addr: Option<String>,
    /// Port of the REST API where `--api-addr` is not set, 1 to 65,535.
    #[arg(long, env = "SERVER_PORT", default_value = "8080", value_parser = number(1..=MAX_PORT))]
    pub server_port: Setting<Number>,
    /// `false`: serve REST over plain HTTP, behind a proxy that terminates TLS.
    #[arg(long, env = "API_TLS", default_value = "true", value_parser = boolean())]
    pub api_tls: Setting<Choice<bool>>,
    /// Seconds in which the body of a REST request must arrive, 1 to 300.
    #[arg(
        long, env = "SERVER_READ_TIMEOUT", default_value = "10",
        value_parser = number(1..=MAX_TIMEOUT)
    )]
    pub server_read_timeout: Setting<Number>,
    /// Seconds in which a REST request must be answered, 1 to 300. Watches and live pages have no
    /// limit.
    #[arg(
        long, env = "SERVER_WRITE_TIMEOUT", default_value = "30",
        value_parser = number(1..=MAX_TIMEOUT)
    )]
    pub server_write_timeout: Setting<Number>,
    /// `true`: serve `/metrics` on the REST listener too, without authentication.
    #[arg(long, env = "API_METRICS", default_value = "false", value_parser = boolean())]
    pub api_metrics: Setting<Choice<bool>>,
    /// Authentication of REST callers: `kubernetes` (Kubernetes bearer tokens and API tokens), or
    /// `none` (every caller is allowed), which requires a loopback `--api-addr`.
    #[arg(long, env = "AUTH", default_value = "kubernetes", value_parser = choice(AUTHENTICATION))]
    pub auth: Setting<Choice<Authentication>>,
    /// Accepted audiences of Kubernetes tokens, separated by commas; a token must be issued for one
    /// of them. Empty: the audience of the API server.
    #[arg(
        long, env = "TOKEN_AUDIENCE", default_value = "prewarmer",
        value_parser = text(AUDIENCES)
    )]
    pub token_audience: Setting<Text>,
    /// Proxies in front of REST whose `X-Forwarded-For` header is trusted, separated by commas:
    /// networks or addresses, such as `10.0.0.0/8`.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", value_parser = text(PROXIES))]
    pub trusted_proxies: Setting<Text>,
    /// Further subject names of managed certificates, separated by commas: host names or
    /// addresses by which clients call REST.
    #[arg(long, env = "API_NAMES", default_value = "")]
    pub api_names: String,
    /// REST requests per second of each caller, 1 to 1,000,000; the burst is twice as large.
    #[arg(long, env = "API_RATE", default_value = "50", value_parser = number(1..=MAX_RATE))]
    pub api_rate: Setting<Number>,
    /// Watches and live pages that each caller may keep open, 1 to 4,096. The limit for all callers
    /// together is 4,096.
    #[arg(long, env = "API_WATCHES", default_value = "32", value_parser = number(1..=MAX_WATCHES))]
    pub api_watches: Setting<Number>,
    /// `Idempotency-Key`s remembered for each caller, 1 to 20,000, for one day. The limit for all
    /// callers together is 20,000.
    #[arg(
        long, env = "API_IDEMPOTENCY_KEYS", default_value = "5000",
        value_parser = number(1..=MAX_IDEMPOTENCY_KEYS)
    )]
    pub api_idempotency_keys: Setting<Number>,
}

/// Settings for web pages that call the REST API, unparsed.
#[derive(Debug, Args, Clone)]
pub struct PageArgs {
    /// Origins of web pages that may call REST (CORS), separated by commas, such as
    /// `https://portal.example.com`; `*` for all.
    #[arg(long, env = "API_CORS_ORIGINS", default_value = "", value_parser = text(ORIGINS))]
    pub api_cors_origins: Setting<Text>,
    /// `false`: do not serve the web pages at `/ui` of the REST listener.
    #[arg(long, env = "UI", default_value = "true", value_parser = boolean())]
    pub ui: Setting<Choice<bool>>,
}

/// Settings of the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
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
    /// Limits of calls.
    pub limits: CallerLimits,
    /// True where the metrics are served too.
    pub serves_metrics: bool,
}

impl ApiArgs {
    /// Checks the settings and adds every problem to `check`. Returns none where the API is
    /// disabled.
    pub(crate) fn check(&self, pages: &PageArgs, check: &mut SettingsChecker) -> Option<ApiConfig> {
        let port = u16::try_from(check.value(&self.server_port)).unwrap_or(0);
        let given = self.api_addr.as_deref().filter(|text| !text.is_empty());
        let tls = check.value(&self.api_tls);
        let rate = check.value(&self.api_rate);
        let ui = check.value(&pages.ui);
        let watches = check.value(&self.api_watches) as usize;
        let keys = check.value(&self.api_idempotency_keys) as usize;
        let serves_metrics = check.value(&self.api_metrics);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let read_timeout = seconds(check.value(&self.server_read_timeout));
        let response_timeout = seconds(check.value(&self.server_write_timeout));
        let expected = "expected an origin such as https://portal.example.com, or *";
        let origins = list(check, &pages.api_cors_origins, is_origin, expected);
        let expected = "expected an audience such as prewarmer: at most 200 visible characters";
        let audiences = list(check, &self.token_audience, is_audience, expected);
        let proxies = proxies(check, &self.trusted_proxies);
        let addr = match given {
            Some("none") => return None,
            Some(text) => check.address("--api-addr (API_ADDR)", text),
            None => SocketAddr::from(([0, 0, 0, 0], port)),
        };
        let auth = check.value(&self.auth) == Authentication::Kubernetes;
        if !auth && !addr.ip().is_loopback() {
            check.invalid(&self.auth, "requires a loopback --api-addr, such as 127.0.0.1:8080");
        }
        if !auth && origins.iter().any(|origin| origin == "*") {
            let expected = "not allowed with --auth=none, where every web page could then use the API: list the origins";
            check.problem(&pages.api_cors_origins.name, "*", expected);
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
            limits: CallerLimits { watches, keys, read_timeout, response_timeout },
            serves_metrics,
        })
    }
}

/// Splits the value of a setting, and adds a problem for each invalid item.
fn list(
    check: &mut SettingsChecker,
    setting: &Setting<Text>,
    is_valid: fn(&str) -> bool,
    expected: &str,
) -> Vec<String> {
    let items = split_list(&setting.text);
    for item in items.iter().filter(|item| !is_valid(item)) {
        check.problem(&setting.name, item, expected);
    }
    items
}

fn proxies(check: &mut SettingsChecker, setting: &Setting<Text>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in split_list(&setting.text) {
        if let Ok(network) =
            text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        {
            networks.push(network);
        } else {
            let expected = "expected a network or an address, such as 10.0.0.0/8";
            check.problem(&setting.name, &text, expected);
        }
    }
    networks
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

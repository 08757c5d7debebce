//! Settings of the REST API.

use std::net::SocketAddr;

use clap::Args;
use http::Uri;
use ipnet::IpNet;
use prewarmer_core::settings::{SettingsChecker, split_list};

/// Settings of the REST API, unparsed.
#[derive(Debug, Args, Clone)]
pub struct ApiArgs {
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
}

/// Settings for web pages that call the REST API, unparsed.
#[derive(Debug, Args, Clone)]
pub struct PageArgs {
    /// Origins of web pages that may call REST (CORS), separated by commas, such as
    /// `https://portal.example.com`; `*` for all.
    #[arg(long, env = "API_CORS_ORIGINS", default_value = "")]
    pub api_cors_origins: String,
    /// `false`: do not serve the web pages at `/ui` of the REST listener.
    #[arg(long, env = "UI", default_value = "true")]
    pub ui: String,
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

impl ApiArgs {
    /// Checks the settings and adds every problem to `check`. Returns none where the API is
    /// disabled.
    pub(crate) fn check(&self, pages: &PageArgs, check: &mut SettingsChecker) -> Option<ApiConfig> {
        let port = u16::try_from(check.number(
            "--server-port (SERVER_PORT)",
            &self.server_port,
            1,
            65_535,
        ))
        .unwrap_or(0);
        let given = self.api_addr.as_deref().filter(|text| !text.is_empty());
        let tls = check.boolean("--api-tls (API_TLS)", &self.api_tls);
        let rate = check.number("--api-rate (API_RATE)", &self.api_rate, 1, 1_000_000);
        let ui = check.boolean("--ui (UI)", &pages.ui);
        let watches =
            check.number("--api-watches (API_WATCHES)", &self.api_watches, 1, 4096) as usize;
        let keys = check.number(
            "--api-idempotency-keys (API_IDEMPOTENCY_KEYS)",
            &self.api_idempotency_keys,
            1,
            20_000,
        ) as usize;
        let origins = split_list(&pages.api_cors_origins);
        for origin in origins.iter().filter(|origin| !is_origin(origin)) {
            let expected = "expected an origin such as https://portal.example.com, or *";
            check.problem("--api-cors-origins (API_CORS_ORIGINS)", origin, expected);
        }
        let audiences = split_list(&self.token_audience);
        for audience in audiences.iter().filter(|audience| !is_audience(audience)) {
            let expected = "expected an audience such as prewarmer: at most 200 visible characters";
            check.problem("--token-audience (TOKEN_AUDIENCE)", audience, expected);
        }
        let proxies = proxies(check, &self.trusted_proxies);
        let addr = match given {
            Some("none") => return None,
            Some(text) => check.address("--api-addr (API_ADDR)", text),
            None => SocketAddr::from(([0, 0, 0, 0], port)),
        };
        let auth = match self.auth.as_str() {
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

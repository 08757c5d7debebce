//! Settings of the webhook.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use prewarmer_cli::settings::{duration, number};
use prewarmer_core::settings::{Number, Setting, SettingsChecker, Span, split_list};

/// Longest timeout of a webhook that Kubernetes accepts, in seconds.
const MAX_TIMEOUT_SECONDS: u32 = 30;
/// Longest lifetime of a connection to the webhook.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(24 * 3600);

/// Settings of the webhook, unparsed.
#[derive(Debug, Args, Clone)]
pub struct WebhookArgs {
    /// Timeout of the webhook in seconds, 1 to 30: the longest time that the admission of a
    /// workload waits for it.
    #[arg(
        long, env = "WEBHOOK_TIMEOUT_SECONDS", default_value = "1",
        value_parser = number(1..=MAX_TIMEOUT_SECONDS)
    )]
    pub webhook_timeout_seconds: Setting<Number>,
    /// Maximum age of a connection to the webhook, up to 24h. The API server then reconnects, which
    /// spreads its connections over all replicas. `0s`: unlimited.
    #[arg(
        long, env = "WEBHOOK_CONNECTION_AGE", default_value = "5m",
        value_parser = duration(Span::up_to(MAX_CONNECTION_AGE))
    )]
    pub webhook_connection_age: Setting<Span>,
    /// File of CAs (PEM). Callers of the webhook must present a certificate signed by one of them.
    #[arg(long, env = "CLIENT_CA_FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// With `--client-ca-file`: accepted subject names, separated by commas. The caller's
    /// certificate must have one of them. Empty: any name.
    #[arg(long, env = "CLIENT_NAMES", default_value = "")]
    pub client_names: String,
}

/// Client certificates that the webhook accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// File of CAs (PEM).
    pub ca_file: PathBuf,
    /// Subject names of which a certificate must have one; any name where empty.
    pub names: Vec<String>,
}

/// Settings of the webhook.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Timeout of the webhook, in seconds.
    pub timeout_seconds: i32,
    /// Maximum age of a connection to the webhook; unlimited where absent.
    pub connection_age: Option<Duration>,
    /// Client certificates that the webhook requires; any caller is accepted where absent.
    pub clients: Option<ClientCertificates>,
}

impl WebhookArgs {
    /// Checks the settings and adds every problem to `check`.
    pub(crate) fn check(&self, check: &mut SettingsChecker) -> WebhookSettings {
        WebhookSettings {
            timeout_seconds: i32::try_from(check.value(&self.webhook_timeout_seconds)).unwrap_or(1),
            connection_age: Some(check.value(&self.webhook_connection_age))
                .filter(|age| !age.is_zero()),
            clients: self.clients(check),
        }
    }

    fn clients(&self, check: &mut SettingsChecker) -> Option<ClientCertificates> {
        let names = split_list(&self.client_names);
        if self.client_ca_file.is_none() && !names.is_empty() {
            check.report("--client-names (CLIENT_NAMES): requires --client-ca-file");
        }
        self.client_ca_file.clone().map(|ca_file| ClientCertificates { ca_file, names })
    }
}

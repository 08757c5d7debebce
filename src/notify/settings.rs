//! Settings of notifications.

use std::num::NonZeroU32;

use clap::Args;
use ipnet::IpNet;
use prewarmer_cli::settings::{number, text};
use prewarmer_core::settings::{Number, Setting, SettingsChecker, Text};

use crate::egress::{DEFAULT_PORTS, PortSet};

/// Ports and ranges of ports.
const PORTS: Text = Text::list(r"[0-9]{1,5}(\s*-\s*[0-9]{1,5})?").or_integer();
/// Highest value of `--notify-rate`, per minute.
const MAX_RATE: u32 = 100_000;

/// Settings of notifications, unparsed.
#[derive(Debug, Args, Clone)]
#[allow(clippy::struct_field_names, reason = "the names of the flags")]
pub struct NotifyArgs {
    /// Addresses outside the public internet to which notifications may be sent: networks separated
    /// by commas, such as `10.0.0.0/8,fd00::/8`.
    #[arg(long, env = "NOTIFY_ALLOW", default_value = "", value_parser = text(Text::NETWORKS))]
    pub notify_allow: Setting<Text>,
    /// Ports to which notifications may be sent: ports and ranges separated by commas, such as
    /// `443,9000-9100`.
    #[arg(long, env = "NOTIFY_PORTS", default_value = DEFAULT_PORTS, value_parser = text(PORTS))]
    pub notify_ports: Setting<Text>,
    /// Notifications per minute of each namespace, 1 to 100,000, redirects included.
    #[arg(long, env = "NOTIFY_RATE", default_value = "120", value_parser = number(1..=MAX_RATE))]
    pub notify_rate: Setting<Number>,
}

/// Settings of notifications.
#[derive(Debug, Clone)]
pub struct NotifySettings {
    /// Networks outside the public internet to which notifications may be sent.
    pub allow: Vec<IpNet>,
    /// Ports to which notifications may be sent.
    pub ports: PortSet,
    /// Notifications per minute of each namespace.
    pub rate: NonZeroU32,
}

impl NotifyArgs {
    /// Checks the settings and adds every problem to `check`.
    pub(crate) fn check(&self, check: &mut SettingsChecker) -> NotifySettings {
        NotifySettings {
            allow: check.networks(&self.notify_allow),
            ports: check.parsed(&self.notify_ports).unwrap_or_default(),
            rate: NonZeroU32::new(check.value(&self.notify_rate)).unwrap_or(NonZeroU32::MIN),
        }
    }
}

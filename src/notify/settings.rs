//! Settings of notifications.

use std::num::NonZeroU32;

use clap::Args;
use ipnet::IpNet;
use prewarmer_core::settings::SettingsChecker;

use crate::egress::{DEFAULT_PORTS, PortSet};

/// Settings of notifications, unparsed.
#[derive(Debug, Args, Clone)]
#[allow(clippy::struct_field_names, reason = "the names of the flags")]
pub struct NotifyArgs {
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
            allow: check.networks("--notify-allow (NOTIFY_ALLOW)", &self.notify_allow),
            ports: self.notify_ports.parse::<PortSet>().unwrap_or_else(|expected| {
                check.problem("--notify-ports (NOTIFY_PORTS)", &self.notify_ports, &expected);
                PortSet::default()
            }),
            rate: NonZeroU32::new(check.number(
                "--notify-rate (NOTIFY_RATE)",
                &self.notify_rate,
                1,
                100_000,
            ))
            .unwrap_or(NonZeroU32::MIN),
        }
    }
}

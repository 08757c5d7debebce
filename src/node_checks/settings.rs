//! Settings of node checks.

use std::path::PathBuf;

use clap::Args;
use http::Uri;
use prewarmer_core::{
    node::parse_byte_quantity,
    settings::{SettingsChecker, split_list},
};

use super::{DiskSettings, PrometheusSettings};

/// Settings of node checks, unparsed.
#[derive(Debug, Args, Clone)]
pub struct NodeCheckArgs {
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
}

/// Settings of node checks.
#[derive(Debug, Clone)]
pub struct NodeCheckSettings {
    /// Check that queries Prometheus, where configured.
    pub prometheus: Option<PrometheusSettings>,
    /// Disk check, where enabled.
    pub disk: Option<DiskSettings>,
}

impl NodeCheckArgs {
    /// Checks the settings and adds every problem to `check`.
    pub(crate) fn check(&self, check: &mut SettingsChecker) -> NodeCheckSettings {
        NodeCheckSettings { prometheus: self.prometheus(check), disk: self.disk(check) }
    }

    fn prometheus(&self, check: &mut SettingsChecker) -> Option<PrometheusSettings> {
        let given = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        let (url, query) = (given(&self.prometheus_url), given(&self.prometheus_query));
        let threshold = given(&self.prometheus_threshold);
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
            let both = "--prometheus-query (PROMETHEUS_QUERY), --prometheus-threshold (PROMETHEUS_THRESHOLD)";
            check.report(format!("{both}: both are required with --prometheus-url"));
        }
        let setting = "--prometheus-max-ignored (PROMETHEUS_MAX_IGNORED)";
        let max_ignored = check.number(setting, &self.prometheus_max_ignored, 1, 100);
        let threshold = threshold?;
        match threshold.parse() {
            Ok(threshold) => Some(PrometheusSettings {
                url: url?,
                query: query?,
                threshold,
                label: self.prometheus_node_label.clone(),
                token_file: self.prometheus_token_file.clone(),
                max_ignored: u8::try_from(max_ignored).unwrap_or(100),
            }),
            Err(expected) => {
                check.problem(
                    "--prometheus-threshold (PROMETHEUS_THRESHOLD)",
                    &threshold,
                    &expected,
                );
                None
            }
        }
    }

    fn disk(&self, check: &mut SettingsChecker) -> Option<DiskSettings> {
        let on = check.boolean("--disk-check (DISK_CHECK)", &self.disk_check);
        let ask_kubelets = check.boolean("--ask-kubelets (ASK_KUBELETS)", &self.ask_kubelets);
        let size = self.max_image_size.as_deref().filter(|text| !text.is_empty());
        let max_image_size = size.and_then(parse_byte_quantity);
        if let Some(size) = size.filter(|_| max_image_size.is_none()) {
            check.problem(
                "--max-image-size (MAX_IMAGE_SIZE)",
                size,
                "expected bytes, such as 20Gi or 500M",
            );
        }
        let plain_registries = split_list(&self.plain_http_registries);
        let allow = check.networks("--disk-check-allow (DISK_CHECK_ALLOW)", &self.disk_check_allow);
        if !on && self.disk_check == "false" && ask_kubelets {
            check.report("--ask-kubelets (ASK_KUBELETS): requires --disk-check=true");
        }
        on.then_some(DiskSettings {
            max_image_size,
            query_kubelets: ask_kubelets,
            plain_registries,
            allowed_networks: allow,
        })
    }
}

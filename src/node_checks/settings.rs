//! Settings of node checks.

use std::path::PathBuf;

use clap::Args;
use http::Uri;
use prewarmer_cli::settings::{boolean, number, text};
use prewarmer_core::{
    node::parse_byte_quantity,
    settings::{Choice, Number, Setting, SettingsChecker, Text, split_list},
};

use super::{DiskSettings, PrometheusSettings};

/// URLs of a Prometheus server.
const PROMETHEUS_URL: Text = Text::matching(r"https?://\S+");
/// Comparison and a number.
const THRESHOLD: Text =
    Text::matching(r"[<>]=?\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*");
/// Number of bytes, with a suffix of Kubernetes.
const BYTES: Text = Text::matching("[0-9]+(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?").or_integer();

/// Settings of node checks, unparsed.
#[derive(Debug, Args, Clone)]
pub struct NodeCheckArgs {
    /// URL of a Prometheus server that is queried for nodes to exclude, such as
    /// `http://prometheus.monitoring:9090`.
    #[arg(long, env = "PROMETHEUS_URL", value_parser = text(PROMETHEUS_URL))]
    pub prometheus_url: Option<Setting<Text>>,
    /// `PromQL` query that returns one sample per node.
    #[arg(long, env = "PROMETHEUS_QUERY")]
    pub prometheus_query: Option<String>,
    /// Threshold at which a sample excludes its node: `>`, `>=`, `<` or `<=` and a number, such as
    /// `>0.9`.
    #[arg(long, env = "PROMETHEUS_THRESHOLD", value_parser = text(THRESHOLD))]
    pub prometheus_threshold: Option<Setting<Text>>,
    /// Label of a sample that identifies its node: by name, host name or address, with or without a
    /// port.
    #[arg(long, env = "PROMETHEUS_NODE_LABEL", default_value = "node")]
    pub prometheus_node_label: String,
    /// Largest share of nodes, in percent, that Prometheus samples may exclude, 1 to 100; three
    /// nodes may always be excluded. Above it no node is excluded, and the task's condition
    /// `NodesChecked` reports this.
    #[arg(
        long, env = "PROMETHEUS_MAX_IGNORED", default_value = "50",
        value_parser = number(1..=100)
    )]
    pub prometheus_max_ignored: Setting<Number>,
    /// File with a bearer token for Prometheus; read again for each query.
    #[arg(long, env = "PROMETHEUS_TOKEN_FILE")]
    pub prometheus_token_file: Option<PathBuf>,
    /// `true`: exclude nodes without enough free disk space for the images, or with another
    /// platform. Requests image manifests from the registries, without credentials.
    #[arg(long, env = "DISK_CHECK", default_value = "false", value_parser = boolean())]
    pub disk_check: Setting<Choice<bool>>,
    /// With `--disk-check`: largest accepted image, compressed size in bytes, such as `20Gi`.
    #[arg(long, env = "MAX_IMAGE_SIZE", value_parser = text(BYTES))]
    pub max_image_size: Option<Setting<Text>>,
    /// With `--disk-check`: `true` requests the disk usage of each node from its kubelet. Needs
    /// `get` on `nodes/proxy`.
    #[arg(long, env = "ASK_KUBELETS", default_value = "false", value_parser = boolean())]
    pub ask_kubelets: Setting<Choice<bool>>,
    /// With `--disk-check`: addresses outside the public internet that registries may have:
    /// networks separated by commas, such as `10.0.0.0/8`.
    #[arg(long, env = "DISK_CHECK_ALLOW", default_value = "", value_parser = text(Text::NETWORKS))]
    pub disk_check_allow: Setting<Text>,
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
        let url = given(self.prometheus_url.as_ref());
        let query = self.prometheus_query.clone().filter(|text| !text.is_empty());
        let threshold = given(self.prometheus_threshold.as_ref());
        if url.is_none() && query.is_none() && threshold.is_none() {
            return None;
        }
        let known = url.and_then(|url| url.text.parse::<Uri>().ok());
        let good = known.is_some_and(|url| {
            matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
        });
        if !good {
            let expected =
                "expected http or https and a host, such as http://prometheus.monitoring:9090";
            check.problem(
                "--prometheus-url (PROMETHEUS_URL)",
                url.map(|url| url.text.as_str()).unwrap_or_default(),
                expected,
            );
        }
        if query.is_none() || threshold.is_none() {
            let both = "--prometheus-query (PROMETHEUS_QUERY), --prometheus-threshold (PROMETHEUS_THRESHOLD)";
            check.report(format!("{both}: both are required with --prometheus-url"));
        }
        let max_ignored = check.value(&self.prometheus_max_ignored);
        Some(PrometheusSettings {
            threshold: check.parsed(threshold?)?,
            url: url?.text.clone(),
            query: query?,
            label: self.prometheus_node_label.clone(),
            token_file: self.prometheus_token_file.clone(),
            max_ignored: u8::try_from(max_ignored).unwrap_or(100),
        })
    }

    fn disk(&self, check: &mut SettingsChecker) -> Option<DiskSettings> {
        let on = check.value(&self.disk_check);
        let ask_kubelets = check.value(&self.ask_kubelets);
        let size = given(self.max_image_size.as_ref());
        let max_image_size = size.and_then(|size| parse_byte_quantity(&size.text));
        if let Some(size) = size.filter(|_| max_image_size.is_none()) {
            check.invalid(size, "expected bytes, such as 20Gi or 500M");
        }
        let plain_registries = split_list(&self.plain_http_registries);
        let allow = check.networks(&self.disk_check_allow);
        if !on && self.disk_check.text == "false" && ask_kubelets {
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

/// Returns the setting unless it is empty, which means that it is not set.
fn given(setting: Option<&Setting<Text>>) -> Option<&Setting<Text>> {
    setting.filter(|setting| !setting.text.is_empty())
}

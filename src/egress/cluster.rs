//! Addresses of the cluster's own nodes, pods and Services.
//!
//! Most clusters have private addresses, which the egress policy denies in any case. With IPv6, and
//! in some networks with IPv4, nodes and pods have public addresses, where kubelets and
//! applications trust connections from inside the cluster.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client, api::ListParams};
use prewarmer_core::node::{enclosing_network, is_plausible};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::NetworkSet;

/// Interval at which the networks of Services are read. They change when an administrator adds one.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of `ServiceCIDR`s that are read. A cluster has one per address family, and rarely
/// one or two more.
const MAX_SERVICE_CIDRS: u32 = 500;
/// Prefix lengths, for IPv4 and IPv6, of the network around the address of the `kubernetes`
/// Service, which is denied in addition to the networks of Services. For IPv6 it is the widest that
/// the API server accepts. For IPv4 that is a /12, but a /16 is used, because the address is almost
/// always private.
const SERVICE_PREFIX_LENGTHS: (u8, u8) = (16, 108);
/// Environment variable in which a pod finds the address of the `kubernetes` Service.
const SERVICE_HOST_ENV: &str = "KUBERNETES_SERVICE_HOST";

/// Known addresses of the cluster. Clones share them.
#[derive(Clone, Default)]
pub struct ClusterNetworks(Arc<ClusterNetworksState>);

#[derive(Default)]
struct ClusterNetworksState {
    nodes: ArcSwap<NetworkSet>,
    services: ArcSwap<NetworkSet>,
    nodes_set: watch::Sender<bool>,
}

impl fmt::Debug for ClusterNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, services) = (self.0.nodes.load().len(), self.0.services.load().len());
        f.debug_struct("Cluster").field("nodes", &nodes).field("services", &services).finish()
    }
}

impl ClusterNetworks {
    /// Reports whether the address belongs to the cluster.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.nodes.load().contains(address) || self.0.services.load().contains(address)
    }

    /// Replaces the networks of nodes and their pods.
    pub fn set_nodes(&self, networks: &[IpNet]) {
        self.0.nodes.store(Arc::new(NetworkSet::new(networks)));
        self.0.nodes_set.send_if_modified(|known| !std::mem::replace(known, true));
    }

    /// Replaces the networks of Services.
    pub fn set_services(&self, networks: &[IpNet]) {
        self.0.services.store(Arc::new(NetworkSet::new(networks)));
    }

    /// Waits until the networks of nodes are set for the first time.
    pub async fn wait_for_nodes(&self) {
        // The sender lives as long as this value.
        let _ = self.0.nodes_set.subscribe().wait_for(|known| *known).await;
    }
}

/// Returns the networks of Services, and the network around the address of the `kubernetes`
/// Service. Performs no I/O.
fn service_networks<'a>(
    cidrs: impl IntoIterator<Item = &'a str>,
    kubernetes: Option<IpAddr>,
) -> Vec<IpNet> {
    let read = cidrs.into_iter().filter_map(|text| text.parse::<IpNet>().ok()).filter(is_plausible);
    let around = kubernetes.map(|address| {
        enclosing_network(
            address.to_canonical(),
            SERVICE_PREFIX_LENGTHS.0,
            SERVICE_PREFIX_LENGTHS.1,
        )
    });
    read.chain(around).collect()
}

/// Refreshes the networks of Services until `stop`. Until they are read for the first time, only the
/// network around the address of the `kubernetes` Service is used.
pub(crate) async fn refresh_service_networks(
    client: Client,
    cluster: ClusterNetworks,
    stop: CancellationToken,
) {
    let kubernetes = std::env::var(SERVICE_HOST_ENV).ok().and_then(|text| text.parse().ok());
    let api = Api::<ServiceCIDR>::all(client);
    let mut warned = false;
    loop {
        match api.list(&ListParams::default().limit(MAX_SERVICE_CIDRS)).await {
            Ok(list) => {
                let cidrs =
                    list.items.iter().filter_map(|one| one.spec.as_ref()?.cidrs.as_ref()).flatten();
                cluster.set_services(&service_networks(cidrs.map(String::as_str), kubernetes));
                warned = false;
            }
            Err(error) => {
                // Networks read earlier remain in use.
                if cluster.0.services.load().is_empty() {
                    cluster.set_services(&service_networks([], kubernetes));
                }
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(
                        %error,
                        "cannot list ServiceCIDRs (networking.k8s.io/v1): notifications and registry \
                         lookups can reach public addresses of Services outside the network of the \
                         kubernetes Service; list them in --egress-deny"
                    );
                }
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(REFRESH_INTERVAL)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(networks: &[IpNet]) -> Vec<String> {
        networks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn service_networks_contain_cidrs_and_kubernetes_service() {
        let read = service_networks(["198.51.100.0/24", "2a05::/108"], "198.51.100.1".parse().ok());
        assert_eq!(texts(&read), ["198.51.100.0/24", "2a05::/108", "198.51.0.0/16"]);
        assert_eq!(texts(&service_networks([], "2a05::12:1".parse().ok())), ["2a05::10:0/108"]);
        assert!(service_networks([], None).is_empty());
    }

    #[tokio::test]
    async fn wait_for_nodes_ends_once_set() {
        let cluster = ClusterNetworks::default();
        let waits = tokio::spawn({
            let cluster = cluster.clone();
            async move { cluster.wait_for_nodes().await }
        });
        assert!(!cluster.contains("198.51.100.7".parse().unwrap()));
        cluster.set_nodes(&["198.51.100.7/32".parse().unwrap()]);
        waits.await.unwrap();
        assert!(cluster.contains("198.51.100.7".parse().unwrap()));
    }
}

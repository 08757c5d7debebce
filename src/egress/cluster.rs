//! The cluster's own addresses: of nodes, pods and Services.
//!
//! Most clusters have private addresses, which are denied anyway. With IPv6, and
//! in some networks with IPv4, nodes and pods have public ones, at which kubelets
//! and applications trust what comes from inside.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client, api::ListParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Networks;

/// How often the networks of Services are read. They change when a cluster's administrator adds one.
const REFRESH: Duration = Duration::from_secs(60);
/// A cluster has one `ServiceCIDR` for each family, and seldom one or two more.
const MAX_SERVICE_CIDRS: u32 = 500;
/// The widest networks that a node's pods are believed to have. Anything wider is a mistake that would deny half of the
/// internet.
const WIDEST: (u8, u8) = (8, 16);
/// A subnet of IPv6 is a /64. Where pods get their addresses out of the node's own subnet (EKS with IPv6), nodes have no
/// `podCIDRs`, and this covers their pods.
const SUBNET_V6: u8 = 64;
/// The networks around the `kubernetes` Service's address that count as those of Services where they cannot be read. For
/// IPv6 it is the widest that the API server accepts; for IPv4 that is a /12, of which a /16 is taken, for the address is
/// private nearly always.
const AROUND_SERVICE: (u8, u8) = (16, 108);
/// Where a pod finds the address of the `kubernetes` Service.
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// The cluster's own addresses, as far as they are known. Clones share them.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Known>);

#[derive(Default)]
struct Known {
    nodes: ArcSwap<Networks>,
    services: ArcSwap<Networks>,
    has_nodes: watch::Sender<bool>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, services) = (self.0.nodes.load().len(), self.0.services.load().len());
        f.debug_struct("Cluster").field("nodes", &nodes).field("services", &services).finish()
    }
}

impl Cluster {
    /// Whether the address is one of the cluster's own.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.nodes.load().contains(address) || self.0.services.load().contains(address)
    }

    /// Replaces the networks of nodes and their pods.
    pub fn set_nodes(&self, networks: &[IpNet]) {
        self.0.nodes.store(Arc::new(Networks::new(networks)));
        self.0.has_nodes.send_if_modified(|known| !std::mem::replace(known, true));
    }

    /// Replaces the networks of Services.
    pub fn set_services(&self, networks: &[IpNet]) {
        self.0.services.store(Arc::new(Networks::new(networks)));
    }

    /// Waits until the nodes are known.
    pub async fn has_nodes(&self) {
        // The sender lives as long as this value.
        let _ = self.0.has_nodes.subscribe().wait_for(|known| *known).await;
    }
}

/// The networks of a node and its pods: `status.addresses` (names among them are left out) and `spec.podCIDRs`. *Pure.*
pub fn of_node<'a>(
    addresses: impl IntoIterator<Item = &'a str>,
    pod_cidrs: impl IntoIterator<Item = &'a str>,
) -> Vec<IpNet> {
    let own = addresses.into_iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(of_address);
    let pods = pod_cidrs.into_iter().filter_map(|text| text.parse::<IpNet>().ok()).filter(is_plausible);
    own.chain(pods).collect()
}

fn of_address(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => IpNet::from(IpAddr::V4(address)),
        IpAddr::V6(address) => around(IpAddr::V6(address), SUBNET_V6, SUBNET_V6),
    }
}

fn around(address: IpAddr, v4: u8, v6: u8) -> IpNet {
    let network = match address {
        IpAddr::V4(address) => Ipv4Net::new(address, v4).map(|network| network.trunc().into()),
        IpAddr::V6(address) => Ipv6Net::new(address, v6).map(|network| network.trunc().into()),
    };
    network.unwrap_or_else(|_| address.into())
}

fn is_plausible(network: &IpNet) -> bool {
    let widest = if network.addr().is_ipv4() { WIDEST.0 } else { WIDEST.1 };
    network.prefix_len() >= widest
}

/// The networks of Services, and those around the `kubernetes` Service's address. *Pure.*
fn of_services<'a>(cidrs: impl IntoIterator<Item = &'a str>, kubernetes: Option<IpAddr>) -> Vec<IpNet> {
    let read = cidrs.into_iter().filter_map(|text| text.parse::<IpNet>().ok()).filter(is_plausible);
    let around = kubernetes.map(|address| around(address.to_canonical(), AROUND_SERVICE.0, AROUND_SERVICE.1));
    read.chain(around).collect()
}

/// Keeps the networks of Services current until `stop`. Where they cannot be read, those around the address of the
/// `kubernetes` Service count.
pub async fn follow(client: Client, cluster: Cluster, stop: CancellationToken) {
    let kubernetes = std::env::var(SERVICE_HOST).ok().and_then(|text| text.parse().ok());
    let api = Api::<ServiceCIDR>::all(client);
    let mut warned = false;
    loop {
        match api.list(&ListParams::default().limit(MAX_SERVICE_CIDRS)).await {
            Ok(list) => {
                let cidrs = list.items.iter().filter_map(|one| one.spec.as_ref()?.cidrs.as_ref()).flatten();
                cluster.set_services(&of_services(cidrs.map(String::as_str), kubernetes));
                warned = false;
            }
            Err(error) => {
                // What was read before still counts.
                if cluster.0.services.load().is_empty() {
                    cluster.set_services(&of_services([], kubernetes));
                }
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(
                        %error,
                        "ServiceCIDRs (networking.k8s.io/v1) cannot be listed: public addresses of Services beyond those \
                         around the kubernetes Service are not denied to notifications and registry look-ups; name them in \
                         --egress-deny"
                    );
                }
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(REFRESH)).await.is_none() {
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
    fn a_nodes_addresses_and_its_pods() {
        let addresses = ["198.51.100.7", "2a05:d018:1:2::17", "::ffff:198.51.100.8", "node-1.example.com"];
        let found = of_node(addresses, ["203.0.113.0/24", "2a05:d018:9::/56", "0.0.0.0/0", "2000::/3", "none"]);
        assert_eq!(
            texts(&found),
            ["198.51.100.7/32", "2a05:d018:1:2::/64", "198.51.100.8/32", "203.0.113.0/24", "2a05:d018:9::/56"]
        );
    }

    #[test]
    fn services_where_they_can_be_read_and_where_not() {
        let read = of_services(["198.51.100.0/24", "2a05::/108"], "198.51.100.1".parse().ok());
        assert_eq!(texts(&read), ["198.51.100.0/24", "2a05::/108", "198.51.0.0/16"]);
        assert_eq!(texts(&of_services([], "2a05::12:1".parse().ok())), ["2a05::10:0/108"]);
        assert!(of_services([], None).is_empty());
    }

    #[tokio::test]
    async fn nodes_are_known_once_they_were_set() {
        let cluster = Cluster::default();
        let waits = tokio::spawn({
            let cluster = cluster.clone();
            async move { cluster.has_nodes().await }
        });
        assert!(!cluster.contains("198.51.100.7".parse().unwrap()));
        cluster.set_nodes(&["198.51.100.7/32".parse().unwrap()]);
        waits.await.unwrap();
        assert!(cluster.contains("198.51.100.7".parse().unwrap()));
    }
}

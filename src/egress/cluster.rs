//! Addresses of the cluster's own nodes, pods and Services.
//!
//! Most clusters have private addresses, which the egress policy denies in any case. With IPv6, and
//! in some networks with IPv4, nodes and pods have public addresses, where kubelets and
//! applications trust connections from inside the cluster.

use std::{collections::BTreeMap, fmt, net::IpAddr, ops::ControlFlow, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{
    Api, Client, ResourceExt,
    runtime::watcher::{self, Event},
};
use prewarmer_core::node::{enclosing_network, is_plausible};
use prewarmer_kube::{
    informer::{EventHandler, Informer, interruption_kind},
    metrics::ObjectErrorMetrics,
    object_error::WorkKind,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::NetworkSet;

/// Pause after which `ServiceCIDR`s are listed again that cannot be listed: the kind is not
/// installed, or the permission is missing.
const REJECTED_RETRY: Duration = Duration::from_secs(600);
/// Maximum number of `ServiceCIDR`s that are used. A cluster has one per address family, and rarely
/// one or two more.
const MAX_SERVICE_CIDRS: usize = 500;
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

/// Follows the networks of Services until `stop`. Until they are listed for the first time, only
/// the network around the address of the `kubernetes` Service is used.
pub(crate) async fn follow_service_networks(
    client: Client,
    cluster: ClusterNetworks,
    object_errors: ObjectErrorMetrics,
    stop: CancellationToken,
) {
    let kubernetes = std::env::var(SERVICE_HOST_ENV).ok().and_then(|text| text.parse().ok());
    let mut warned = false;
    while !stop.is_cancelled() {
        let attempt = stop.child_token();
        let handler = ServiceCidrHandler {
            cluster: cluster.clone(),
            kubernetes,
            cidrs: BTreeMap::new(),
            warned,
            rejected: attempt.clone(),
        };
        let api = Api::<ServiceCIDR>::all(client.clone());
        let informer = Informer::new(api, "servicecidrs", WorkKind::Watch, &object_errors);
        informer.optional(true).run(handler, attempt).await;
        warned = true;
        stop.run_until_cancelled(tokio::time::sleep(REJECTED_RETRY)).await;
    }
}

/// Handler of `ServiceCIDR`s.
struct ServiceCidrHandler {
    cluster: ClusterNetworks,
    /// Address of the `kubernetes` Service.
    kubernetes: Option<IpAddr>,
    /// Networks by name of the object.
    cidrs: BTreeMap<String, Vec<String>>,
    warned: bool,
    /// Ends the informer, whose list is rejected until an administrator changes the cluster.
    rejected: CancellationToken,
}

impl ServiceCidrHandler {
    fn insert(&mut self, object: ServiceCIDR) {
        let name = object.name_any();
        if self.cidrs.len() < MAX_SERVICE_CIDRS || self.cidrs.contains_key(&name) {
            self.cidrs.insert(name, object.spec.and_then(|spec| spec.cidrs).unwrap_or_default());
        }
    }

    fn publish(&self) {
        let cidrs = self.cidrs.values().flatten().map(String::as_str);
        self.cluster.set_services(&service_networks(cidrs, self.kubernetes));
    }
}

impl EventHandler for ServiceCidrHandler {
    type Object = ServiceCIDR;
    type Change = ();

    fn handle(&mut self, event: Event<ServiceCIDR>) -> Option<()> {
        match event {
            Event::Init => {
                self.cidrs.clear();
                return None;
            }
            Event::InitApply(object) => {
                self.insert(object);
                return None;
            }
            Event::Apply(object) => self.insert(object),
            Event::Delete(object) => drop(self.cidrs.remove(&object.name_any())),
            Event::InitDone => self.warned = false,
        }
        self.publish();
        None
    }

    async fn deliver(&mut self, (): ()) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Networks listed earlier remain in use.
    fn interrupted(&mut self, error: &watcher::Error) {
        if self.cluster.0.services.load().is_empty() {
            self.cluster.set_services(&service_networks([], self.kubernetes));
        }
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                %error,
                "cannot list ServiceCIDRs (networking.k8s.io/v1): notifications and registry \
                 lookups can reach public addresses of Services outside the network of the \
                 kubernetes Service; list them in --egress-deny"
            );
        }
        if interruption_kind(error).is_rejection() {
            self.rejected.cancel();
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

    fn service_cidr(name: &str, cidr: &str) -> ServiceCIDR {
        let object = serde_json::json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn events_replace_the_networks_of_services() {
        let cluster = ClusterNetworks::default();
        let mut handler = ServiceCidrHandler {
            cluster: cluster.clone(),
            kubernetes: None,
            cidrs: BTreeMap::new(),
            warned: false,
            rejected: CancellationToken::new(),
        };
        let is_known = |text: &str| cluster.contains(text.parse().unwrap());
        handler.handle(Event::Init);
        handler.handle(Event::InitApply(service_cidr("a", "198.51.100.0/24")));
        assert!(!is_known("198.51.100.1"), "the list is not complete");
        handler.handle(Event::InitDone);
        assert!(is_known("198.51.100.1"));
        handler.handle(Event::Apply(service_cidr("b", "203.0.113.0/24")));
        assert!(is_known("198.51.100.1") && is_known("203.0.113.1"));
        handler.handle(Event::Delete(service_cidr("a", "198.51.100.0/24")));
        assert!(!is_known("198.51.100.1") && is_known("203.0.113.1"));
        // A list that does not contain an object replaces it.
        handler.handle(Event::Init);
        assert!(is_known("203.0.113.1"), "the networks remain in use until the list is complete");
        handler.handle(Event::InitDone);
        assert!(!is_known("203.0.113.1"));
    }

    #[test]
    fn a_rejected_list_is_not_repeated_at_once() {
        let rejected = CancellationToken::new();
        let mut handler = ServiceCidrHandler {
            cluster: ClusterNetworks::default(),
            kubernetes: "198.51.100.1".parse().ok(),
            cidrs: BTreeMap::new(),
            warned: false,
            rejected: rejected.clone(),
        };
        let status = |code: u16| {
            let status = kube::core::Status { code, ..Default::default() };
            watcher::Error::WatchError(Box::new(status))
        };
        handler.interrupted(&status(500));
        assert!(!rejected.is_cancelled());
        handler.interrupted(&status(404));
        assert!(rejected.is_cancelled());
        assert!(handler.cluster.contains("198.51.7.7".parse().unwrap()));
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

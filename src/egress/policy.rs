//! Decision whether an address may be connected to. Pure: no client, no clock, no I/O.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use reqwest::Url;

use super::{
    cluster::ClusterNetworks,
    ports::PortSet,
    special_networks::{embedded_ipv4, is_public, metadata_network},
};

/// Suffixes of names that only the cluster's own DNS resolves, or that mean this machine.
const CLUSTER_DOMAINS: [&str; 7] =
    ["svc", "cluster.local", "local", "localhost", "internal", "localdomain", "home.arpa"];

/// Reason why an address may not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Link-local address or metadata service of a cloud. Most of these services are link-local.
    #[error(
        "{0} is not an address of the public internet: it is link-local or a metadata service of a cloud"
    )]
    Metadata(IpAddr),
    /// Address within a network of `--egress-deny`.
    #[error("{0} is denied by --egress-deny")]
    Configured(IpAddr),
    /// Address of the cluster.
    #[error("{0} is an address of the cluster's own nodes, pods or Services{1}")]
    Cluster(IpAddr, AllowFlag),
    /// Address outside the public internet.
    #[error("{0} is not an address of the public internet{1}")]
    NotPublic(IpAddr, AllowFlag),
    /// Name inside the cluster that resolves to an address which no setting allows.
    #[error("{0} is a name inside the cluster, not on the public internet{1}")]
    ClusterName(String, AllowFlag),
    /// Port not allowed for notifications.
    #[error("port {0} is not allowed (--notify-ports)")]
    Port(u16),
    /// URL without a host.
    #[error("the URL has no host")]
    NoHost,
}

/// Name of the flag that can allow an address, for messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AllowFlag(Option<&'static str>);

impl fmt::Display for AllowFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, ", and {name} does not allow it"),
            None => Ok(()),
        }
    }
}

/// Egress policy: decides which addresses may be connected to. Clones share it.
///
/// The rules apply in this order. Networks of `--egress-deny` are denied. Metadata services are
/// denied, unless the allow list contains a network within theirs. Networks of the allow list are
/// allowed. The cluster's own addresses and all addresses outside the public internet are denied.
#[derive(Debug, Clone, Default)]
pub struct EgressPolicy(Arc<EgressRules>);

#[derive(Debug, Default)]
struct EgressRules {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    setting: AllowFlag,
    ports: Option<PortSet>,
    cluster: ClusterNetworks,
    unrestricted: bool,
}

impl EgressPolicy {
    /// Creates a policy that allows every address, for addresses that only the operator can choose.
    #[must_use]
    pub fn unrestricted() -> Self {
        Self(Arc::new(EgressRules { unrestricted: true, ..EgressRules::default() }))
    }

    /// Creates a policy that allows the public internet without the addresses of the cluster.
    #[must_use]
    pub fn new(denied: Vec<IpNet>, cluster: ClusterNetworks) -> Self {
        Self(Arc::new(EgressRules { denied, cluster, ..EgressRules::default() }))
    }

    /// Returns the policy with these networks allowed. `setting` is the flag that lists them, for
    /// messages.
    #[must_use]
    pub fn with_allowed(&self, allowed: Vec<IpNet>, setting: &'static str) -> Self {
        let EgressRules { denied, ports, cluster, unrestricted, .. } = &*self.0;
        let (denied, ports, cluster) = (denied.clone(), ports.clone(), cluster.clone());
        let setting = AllowFlag(Some(setting));
        Self(Arc::new(EgressRules {
            allowed,
            denied,
            setting,
            ports,
            cluster,
            unrestricted: *unrestricted,
        }))
    }

    /// Returns the policy restricted to these ports.
    #[must_use]
    pub fn with_ports(&self, ports: PortSet) -> Self {
        let EgressRules { allowed, denied, setting, cluster, unrestricted, .. } = &*self.0;
        let (allowed, denied, cluster) = (allowed.clone(), denied.clone(), cluster.clone());
        let ports = Some(ports);
        Self(Arc::new(EgressRules {
            allowed,
            denied,
            setting: *setting,
            ports,
            cluster,
            unrestricted: *unrestricted,
        }))
    }

    /// Returns the policy without the allow list, so that only the public internet is allowed.
    #[must_use]
    pub fn public_only(&self) -> Self {
        Self::new(self.0.denied.clone(), self.0.cluster.clone())
    }

    /// Checks whether an address may be connected to. Returns the reason if it is denied.
    pub fn check(&self, address: IpAddr) -> Result<(), Denied> {
        if self.0.unrestricted {
            return Ok(());
        }
        // An IPv4-mapped IPv6 address reaches the same host as the IPv4 address.
        let address = address.to_canonical();
        self.check_single(address)?;
        // A gateway translates such addresses to IPv4: both addresses must be allowed.
        match embedded_ipv4(address) {
            Some(carried) => self.check_single(carried),
            None => Ok(()),
        }
    }

    fn check_single(&self, address: IpAddr) -> Result<(), Denied> {
        let inner = &*self.0;
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        if within(&inner.denied) {
            return Err(Denied::Configured(address));
        }
        if let Some(metadata) = metadata_network(address) {
            let named = inner
                .allowed
                .iter()
                .any(|allowed| metadata.contains(allowed) && allowed.contains(&address));
            return if named { Ok(()) } else { Err(Denied::Metadata(address)) };
        }
        if within(&inner.allowed) {
            return Ok(());
        }
        if !is_public(address) {
            return Err(Denied::NotPublic(address, inner.setting));
        }
        if inner.cluster.contains(address) {
            return Err(Denied::Cluster(address, inner.setting));
        }
        Ok(())
    }

    /// Checks whether an address may be connected to that a name has resolved to. A name inside the
    /// cluster may only resolve to networks of the allow list: its public addresses, if it has any,
    /// are the load balancers of the cluster. Returns the reason if it is denied.
    pub fn check_resolved(&self, name: &str, address: IpAddr) -> Result<(), Denied> {
        self.check(address)?;
        let canonical = address.to_canonical();
        if !self.0.unrestricted
            && is_cluster_name(name)
            && !self.0.allowed.iter().any(|network| network.contains(&canonical))
        {
            return Err(Denied::ClusterName(name.to_owned(), self.0.setting));
        }
        Ok(())
    }

    /// Checks a URL without resolving its name. Returns the reason if it is denied.
    pub fn check_url(&self, url: &Url) -> Result<(), Denied> {
        if let (Some(ports), Some(port)) = (&self.0.ports, url.port_or_known_default())
            && !ports.contains(port)
        {
            return Err(Denied::Port(port));
        }
        let host = normalized_host(url).ok_or(Denied::NoHost)?;
        match host.parse::<IpAddr>() {
            Ok(address) => self.check(address),
            // With an allow list, the resolved addresses decide.
            Err(_) if is_cluster_name(&host) && self.0.allowed.is_empty() => {
                Err(Denied::ClusterName(host, self.0.setting))
            }
            Err(_) => Ok(()),
        }
    }
}

/// Returns the host of a URL in lower case, without brackets and without a trailing dot.
fn normalized_host(url: &Url) -> Option<String> {
    let host = url.host_str()?.trim_matches(['[', ']']).trim_end_matches('.').to_lowercase();
    (!host.is_empty()).then_some(host)
}

/// Reports whether only the cluster's DNS or this machine can resolve a name: one with a single
/// label, or one under a domain that is not on the internet.
#[must_use]
pub(crate) fn is_cluster_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_lowercase();
    let under = |domain: &&str| {
        name.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // Matches `name.namespace.svc.DOMAIN` with any cluster domain.
    !name.contains('.') || CLUSTER_DOMAINS.iter().any(under) || name.contains(".svc.")
}

#[cfg(test)]
mod tests;

//! Egress policy: the addresses that outgoing requests may connect to.
//!
//! In: an address or a URL chosen by a user or a server without the permissions of Prewarmer: by
//! the author of a task (notifications, image references) or by a server that responds (redirects,
//! token realms). Out: whether it may be connected to, and HTTP clients that connect to no other
//! address. Without the policy, these users could reach addresses through the server that only the
//! cluster can reach: the metadata service of a cloud, kubelets, Services of other namespaces.
//!
//! The decisions are pure: no client, no clock, no I/O. Calls no other module.
//!
//! Requests to addresses that only the operator can choose do not use the policy: to the API
//! server, and to Prometheus (`--prometheus-url`), which is almost always a Service of the cluster.

mod client;
mod cluster;
mod networks;
mod policy;
mod ports;
mod special_networks;

pub(crate) use self::{
    client::{RequestFailure, classify_failure, http_client, read_limited},
    cluster::{ClusterNetworks, follow_service_networks},
    networks::NetworkSet,
    policy::{Denied, EgressPolicy},
    ports::{DEFAULT_PORTS, PortSet},
};

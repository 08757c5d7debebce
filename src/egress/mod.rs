//! Where requests to the outside may go.
//!
//! In: an address or a URL that somebody without rights of ours has chosen: a
//! task's author (notifications, image references) or a server that answers
//! (redirects, token realms). Out: whether it may be connected to, and HTTP
//! clients that connect to nothing else. Without it, the server would reach
//! from inside the cluster what those people cannot: the metadata service of a
//! cloud, kubelets, Services of other namespaces.
//!
//! Decisions ([`Policy`], [`Networks`]) are *pure*. Calls no other room.
//!
//! Requests to addresses that only the operator can choose do not go through it:
//! the API server, and Prometheus (`--prometheus-url`), which nearly always is a
//! Service of the cluster.

mod client;
mod cluster;
mod networks;
mod policy;

pub use self::{
    client::{Cause, Names, cause, client, read_limited},
    cluster::{Cluster, follow, of_node},
    networks::Networks,
    policy::{DEFAULT_PORTS, Denied, Policy, Ports, is_cluster_name},
};

//! Creation and deletion of the node objects of a fleet.

use futures::StreamExt;
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};

use super::{
    failures::Failures,
    nodes::{FLEET_LABEL, Machine, node_object},
    requests::{self, RequestError},
};

/// Number of nodes that are created at the same time.
const PARALLEL_NODES: usize = 16;

/// Creates the objects of nodes. A node that cannot be created is counted: its machine is simulated,
/// but gets no pods.
pub async fn create_nodes(
    client: &Client,
    machines: impl IntoIterator<Item = (String, Machine)>,
) -> Failures {
    let nodes: Api<Node> = Api::all(client.clone());
    let now = Timestamp::now();
    let create = |(name, machine): (String, Machine)| {
        let nodes = nodes.clone();
        let object = node_object(&name, &machine, now);
        async move {
            let created = requests::send(|| (), || create_node(&nodes, &object)).await;
            created.err().map(|error| format!("node {name} was not created: {error}"))
        }
    };
    let mut all = futures::stream::iter(machines).map(create).buffer_unordered(PARALLEL_NODES);
    let mut failures = Failures::default();
    while let Some(failure) = all.next().await {
        if let Some(message) = failure {
            failures.add(&message);
        }
    }
    failures
}

async fn create_node(nodes: &Api<Node>, object: &Node) -> kube::Result<()> {
    nodes.create(&PostParams::default(), object).await.map(|_| ())
}

/// Deletes the objects of all nodes of the fleet.
pub async fn delete_nodes(client: &Client) -> Result<(), RequestError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let (key, value) = FLEET_LABEL;
    let ours = ListParams::default().labels(&format!("{key}={value}"));
    let params = DeleteParams::default();
    requests::send(|| (), || nodes.delete_collection(&params, &ours)).await.map(|_| ())
}

//! Execution of a trace.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, Patch,
        PatchParams,
    },
};
use prewarmer_fleet::{Input, NodeId};
use serde_json::{Value, json};

use crate::{
    connect::{
        nodes::node_name,
        run::{Handle, RunError, create_nodes},
    },
    trace::{Action, Step, Trace},
};

/// Owner of the fields that a trace sets.
const FIELD_MANAGER: &str = "prewarmer-effect";
/// Requests at the same time.
const PARALLEL_REQUESTS: usize = 16;

/// Execution of the steps of a trace in a namespace.
pub struct Executor {
    client: Client,
    namespace: String,
    handle: Handle,
    /// Annotations of the workloads, by which a policy is chosen.
    annotations: BTreeMap<String, String>,
    /// Numbers of the nodes by position.
    nodes: Vec<NodeId>,
    /// Steps that came later than planned, and by how much at most.
    longest_delay: Duration,
}

impl Executor {
    /// Creates an execution.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: String,
        handle: Handle,
        annotations: BTreeMap<String, String>,
        nodes: Vec<NodeId>,
    ) -> Self {
        Self { client, namespace, handle, annotations, nodes, longest_delay: Duration::ZERO }
    }

    /// Takes all steps at their times, waits until the end of the trace, and returns the longest
    /// simulated time by which a step ended later than it was planned.
    pub async fn run(mut self, trace: &Trace) -> Result<Duration, RunError> {
        let begun = self.handle.clock().sim_time(Timestamp::now());
        // Steps of the same time are taken at the same time.
        for steps in trace.steps.chunk_by(|a, b| a.at == b.at) {
            let at = begun.after(steps.first().map_or(Duration::ZERO, |step| step.at));
            self.sleep_until(at).await;
            let all = futures::stream::iter(steps).map(|step| self.take(step, trace));
            all.buffer_unordered(PARALLEL_REQUESTS).try_collect::<()>().await?;
            let delay = self.handle.clock().sim_time(Timestamp::now()).since(at);
            self.longest_delay = self.longest_delay.max(delay);
        }
        self.sleep_until(begun.after(trace.duration)).await;
        Ok(self.longest_delay)
    }

    async fn sleep_until(&self, at: prewarmer_fleet::SimTime) {
        let wait = self.handle.clock().timestamp(at).duration_since(Timestamp::now());
        tokio::time::sleep(Duration::try_from(wait).unwrap_or(Duration::ZERO)).await;
    }

    async fn take(&self, step: &Step, trace: &Trace) -> Result<(), RunError> {
        match &step.action {
            Action::Apply(object) => self.apply(object).await,
            Action::Delete { api_version, kind, name } => self.delete(api_version, kind, name).await,
            Action::Lose(positions) => {
                for position in positions {
                    self.lose(*position).await?;
                }
                Ok(())
            }
            Action::Drain(positions) => {
                for position in positions {
                    self.drain(*position).await?;
                }
                Ok(())
            }
            Action::Replace(positions) => {
                for position in positions {
                    self.replace(*position, trace).await?;
                }
                Ok(())
            }
        }
    }

    async fn apply(&self, object: &Value) -> Result<(), RunError> {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            let all = metadata.entry("annotations").or_insert_with(|| json!({}));
            for (key, value) in &self.annotations {
                if let Some(all) = all.as_object_mut() {
                    all.insert(key.clone(), json!(value));
                }
            }
        }
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = object
            .get("metadata")
            .and_then(|metadata| metadata.get("name"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        let api = self.api(text("apiVersion"), text("kind"));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(name, &params, &Patch::Apply(&object)).await;
        applied.map(|_| ()).map_err(|error| RunError::Request("apply of an object", error))
    }

    async fn delete(&self, api_version: &str, kind: &str, name: &str) -> Result<(), RunError> {
        let deleted = self.api(api_version, kind).delete(name, &DeleteParams::background()).await;
        unless_missing(deleted.map(|_| ()), "deletion of an object")
    }

    fn api(&self, api_version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Stops a machine, and deletes its node object as a cloud controller does.
    async fn lose(&self, position: usize) -> Result<(), RunError> {
        if let Some(node) = self.nodes.get(position) {
            self.handle.input(Input::NodeStopped { node: *node }).await;
        }
        self.delete_node(position).await
    }

    async fn delete_node(&self, position: usize) -> Result<(), RunError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let deleted = nodes.delete(&node_name(position), &DeleteParams::default()).await;
        unless_missing(deleted.map(|_| ()), "deletion of a node")
    }

    /// Cordons a node and evicts its pods, except those of `DaemonSets`, as `kubectl drain` does.
    async fn drain(&self, position: usize) -> Result<(), RunError> {
        let name = node_name(position);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let cordon = json!({"spec": {"unschedulable": true}});
        let patched = nodes.patch(&name, &PatchParams::default(), &Patch::Merge(&cordon)).await;
        patched.map_err(|error| RunError::Request("cordon of a node", error))?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_node = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let list = pods.list(&of_node).await;
        for pod in list.map_err(|error| RunError::Request("list of pods", error))? {
            if !pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet") {
                let evicted = pods.evict(&pod.name_any(), &EvictParams::default()).await;
                unless_missing(evicted.map(|_| ()), "eviction of a pod")?;
            }
        }
        Ok(())
    }

    /// Replaces a machine: its node object is deleted with what still runs there, as the garbage
    /// collection of pods does after a minute, and the kubelet of the new machine registers under
    /// the same name.
    async fn replace(&self, position: usize, trace: &Trace) -> Result<(), RunError> {
        self.delete_node(position).await?;
        let pods: Api<Pod> = Api::all(self.client.clone());
        let of_node = format!("spec.nodeName={}", node_name(position));
        let list = pods.list(&ListParams::default().fields(&of_node)).await;
        for pod in list.map_err(|error| RunError::Request("list of pods", error))? {
            let namespace = pod.namespace().unwrap_or_default();
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            let deleted = pods.delete(&pod.name_any(), &at_once).await;
            unless_missing(deleted.map(|_| ()), "deletion of a pod")?;
        }
        let (Some(node), Some(machine)) = (self.nodes.get(position), trace.machines.get(position))
        else {
            return Ok(());
        };
        self.handle.input(Input::NodeReplaced { node: *node }).await;
        create_nodes(&self.client, [(node_name(position), machine.clone())]).await
    }
}

fn unless_missing(result: kube::Result<()>, what: &'static str) -> Result<(), RunError> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map_err(|error| RunError::Request(what, error)),
    }
}

//! Execution of a trace.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
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
use prewarmer_fleet::{Input, NodeId, SimTime};
use serde_json::{Value, json};

use crate::{
    connect::{
        failures::Failures,
        nodes::node_name,
        registration::create_nodes,
        requests::{self, RequestError},
        run::Handle,
    },
    trace::{Action, Step, Trace},
};

/// Owner of the fields that a trace sets.
const FIELD_MANAGER: &str = "prewarmer-effect";
/// Steps of the same time that are taken at the same time.
const PARALLEL_STEPS: usize = 16;
/// Maximum number of pods of one node that are listed. A node has 110, and some that have ended.
const MAX_NODE_PODS: u32 = 500;

/// Observations of the execution of a trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Executed {
    /// Requests and inputs of steps that failed; the trace goes on.
    pub failures: Failures,
    /// Longest simulated time by which a step ended later than it was planned.
    pub longest_delay: Duration,
}

/// Execution of the steps of a trace in a namespace.
pub struct Executor {
    client: Client,
    namespace: String,
    handle: Handle,
    /// Numbers of the nodes by position.
    nodes: Vec<NodeId>,
    failures: Mutex<Failures>,
}

impl Executor {
    /// Creates an execution.
    #[must_use]
    pub fn new(client: Client, namespace: String, handle: Handle, nodes: Vec<NodeId>) -> Self {
        Self { client, namespace, handle, nodes, failures: Mutex::default() }
    }

    /// Takes all steps at their times, and waits until the end of the trace. A step that fails is
    /// counted, and the next ones are taken.
    pub async fn run(self, trace: &Trace) -> Executed {
        let begun = self.handle.clock().sim_time(Timestamp::now());
        let mut longest_delay = Duration::ZERO;
        // Steps of the same time are taken at the same time.
        for steps in trace.steps.chunk_by(|a, b| a.at == b.at) {
            let at = begun.after(steps.first().map_or(Duration::ZERO, |step| step.at));
            self.sleep_until(at).await;
            let all = futures::stream::iter(steps).map(|step| self.take(step, trace));
            all.buffer_unordered(PARALLEL_STEPS).collect::<()>().await;
            let delay = self.handle.clock().sim_time(Timestamp::now()).since(at);
            longest_delay = longest_delay.max(delay);
        }
        self.sleep_until(begun.after(trace.duration)).await;
        let failures = self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        Executed { failures, longest_delay }
    }

    async fn sleep_until(&self, at: SimTime) {
        let wait = self.handle.clock().timestamp(at).duration_since(Timestamp::now());
        tokio::time::sleep(Duration::try_from(wait).unwrap_or(Duration::ZERO)).await;
    }

    async fn take(&self, step: &Step, trace: &Trace) {
        match &step.action {
            Action::Apply(object) => self.apply(object).await,
            Action::Delete { api_version, kind, name } => {
                let api = self.api(api_version, kind);
                let params = DeleteParams::background();
                let what = || format!("{kind} {name} was not deleted");
                self.unless_gone(what, || api.delete(name, &params)).await;
            }
            Action::Lose(positions) => {
                for position in positions {
                    self.lose(*position).await;
                }
            }
            Action::Drain(positions) => {
                for position in positions {
                    self.drain(*position).await;
                }
            }
            Action::Replace(positions) => {
                for position in positions {
                    self.replace(*position, trace).await;
                }
            }
        }
    }

    async fn apply(&self, object: &Value) {
        let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
        let api = self.api(text(object, "/apiVersion"), kind);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let what = || format!("{kind} {name} was not applied");
        self.attempt(what, || api.patch(name, &params, &patch)).await;
    }

    fn api(&self, api_version: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Stops a machine, and deletes its node object as a cloud controller does.
    async fn lose(&self, position: usize) {
        if let Some(node) = self.nodes.get(position) {
            self.input(Input::NodeStopped { node: *node }).await;
        }
        self.delete_node(position).await;
    }

    async fn delete_node(&self, position: usize) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = node_name(position);
        let params = DeleteParams::default();
        let what = || format!("node {name} was not deleted");
        self.unless_gone(what, || nodes.delete(&name, &params)).await;
    }

    /// Cordons a node and evicts its pods, except those of `DaemonSets`, as `kubectl drain` does.
    async fn drain(&self, position: usize) {
        let name = node_name(position);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
        let params = PatchParams::default();
        let what = || format!("node {name} was not cordoned");
        self.attempt(what, || nodes.patch(&name, &params, &cordon)).await;
        for pod in self.pods_of(&name).await {
            if !pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet") {
                let (pods, pod) = (self.pods_in(&pod), pod.name_any());
                let what = || format!("pod {pod} was not evicted from node {name}");
                self.unless_gone(what, || evict(&pods, &pod)).await;
            }
        }
    }

    /// Replaces a machine: its node object is deleted with what still runs there, as the garbage
    /// collection of pods does after a minute, and the kubelet of the new machine registers under
    /// the same name.
    async fn replace(&self, position: usize, trace: &Trace) {
        self.delete_node(position).await;
        let name = node_name(position);
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        for pod in self.pods_of(&name).await {
            let (pods, pod) = (self.pods_in(&pod), pod.name_any());
            let what = || format!("pod {pod} was not deleted from node {name}");
            self.unless_gone(what, || pods.delete(&pod, &at_once)).await;
        }
        let machine = trace.machines.get(position).cloned();
        if let (Some(node), Some(machine)) = (self.nodes.get(position), machine) {
            self.input(Input::NodeReplaced { node: *node }).await;
            let created = create_nodes(&self.client, [(name, machine)]).await;
            if let Some(message) = created.last() {
                self.failed(message);
            }
        }
    }

    /// Returns the pods that are bound to a node, in all namespaces; none if they cannot be listed.
    async fn pods_of(&self, node: &str) -> Vec<Pod> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let selector = format!("spec.nodeName={node}");
        let of_node = ListParams::default().fields(&selector).limit(MAX_NODE_PODS);
        let what = || format!("the pods of node {node} were not listed");
        let list = self.attempt(what, || pods.list(&of_node)).await;
        list.map(|list| list.items).unwrap_or_default()
    }

    fn pods_in(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }

    async fn input(&self, input: Input) {
        if let Err(error) = self.handle.input(input).await {
            self.failed(&format!("an input of the trace had no effect: {error}"));
        }
    }

    /// Sends a request, and counts it if it fails.
    async fn attempt<T, F: Future<Output = kube::Result<T>>>(
        &self,
        what: impl Fn() -> String,
        request: impl Fn() -> F,
    ) -> Option<T> {
        let result = requests::send(|| (), request).await;
        result.map_err(|error| self.failed(&format!("{}: {error}", what()))).ok()
    }

    /// Sends a request about an object that may no longer exist, and counts it if it fails.
    async fn unless_gone<T, F: Future<Output = kube::Result<T>>>(
        &self,
        what: impl Fn() -> String,
        request: impl Fn() -> F,
    ) {
        match requests::send(|| (), request).await {
            Ok(_) | Err(RequestError::Outdated(_)) => {}
            Err(error) => self.failed(&format!("{}: {error}", what())),
        }
    }

    fn failed(&self, message: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).add(message);
    }
}

/// Returns the text at a JSON pointer; empty if there is none.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

async fn evict(pods: &Api<Pod>, name: &str) -> kube::Result<()> {
    pods.evict(name, &EvictParams::default()).await.map(|_| ())
}

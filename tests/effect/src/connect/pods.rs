//! Inputs of the fleet that follow from a watch of pods.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use prewarmer_fleet::{Input, NodeId, api::PodError, pod::PodSpec};

/// Pod that was bound to a node of the fleet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    /// Grace period of the deletion, in seconds; none while the pod is not being deleted.
    grace: Option<i64>,
    /// True if the running list of all pods contains it.
    is_listed: bool,
}

/// Pods on the nodes of the fleet, by UID.
#[derive(Debug, Default)]
pub struct PodTracker {
    pods: BTreeMap<String, Known>,
}

impl PodTracker {
    /// Returns the inputs that follow from an event. `node` returns the number of a node by its
    /// name; none for a node that is not of the fleet.
    ///
    /// A pod that had already ended when it was seen first has no effect: its kubelet is another
    /// one, or has rejected it.
    pub fn observe(
        &mut self,
        event: Event<Pod>,
        node: impl Fn(&str) -> Option<NodeId>,
    ) -> Result<Vec<Input>, PodError> {
        match event {
            Event::Init => {
                self.pods.values_mut().for_each(|known| known.is_listed = false);
                Ok(Vec::new())
            }
            Event::InitApply(pod) | Event::Apply(pod) => self.changed(&pod, node),
            Event::Delete(pod) => Ok(self.deleted(&pod)),
            Event::InitDone => Ok(self.missing()),
        }
    }

    /// Returns the number of pods.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Reports whether there is no pod.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    fn changed(
        &mut self,
        pod: &Pod,
        node: impl Fn(&str) -> Option<NodeId>,
    ) -> Result<Vec<Input>, PodError> {
        let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let (Some(node), Some(uid)) = (name.and_then(node), pod.metadata.uid.as_ref()) else {
            return Ok(Vec::new());
        };
        let mut inputs = Vec::new();
        if !self.pods.contains_key(uid) {
            if has_ended(pod) {
                return Ok(inputs);
            }
            let spec = Box::new(PodSpec::from_api(pod)?);
            inputs.push(Input::PodBound { node, pod: spec });
        }
        let known = self.pods.entry(uid.clone()).or_default();
        known.is_listed = true;
        let grace = pod
            .metadata
            .deletion_timestamp
            .as_ref()
            .map(|_| pod.metadata.deletion_grace_period_seconds.unwrap_or_default());
        if let Some(seconds) = grace.filter(|grace| known.grace != Some(*grace)) {
            known.grace = Some(seconds);
            let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            inputs.push(Input::PodDeleted { uid: uid.clone(), grace: Some(grace) });
        }
        Ok(inputs)
    }

    fn deleted(&mut self, pod: &Pod) -> Vec<Input> {
        let uid = pod.metadata.uid.as_ref().filter(|uid| self.pods.remove(*uid).is_some());
        uid.map(|uid| Input::PodGone { uid: uid.clone() }).into_iter().collect()
    }

    /// Forgets the pods that the list does not contain.
    fn missing(&mut self) -> Vec<Input> {
        let gone = |(uid, known): (&String, &Known)| (!known.is_listed).then(|| uid.clone());
        let gone: Vec<String> = self.pods.iter().filter_map(gone).collect();
        for uid in &gone {
            self.pods.remove(uid);
        }
        gone.into_iter().map(|uid| Input::PodGone { uid }).collect()
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, node: &str, change: &Value) -> Pod {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": uid, "uid": uid},
            "spec": {"nodeName": node, "containers": [{"name": "web", "image": "web:1"}]},
        });
        for (field, value) in change.as_object().into_iter().flatten() {
            for (key, value) in value.as_object().into_iter().flatten() {
                object[field][key] = value.clone();
            }
        }
        serde_json::from_value(object).unwrap()
    }

    fn deleting(uid: &str, grace: u32) -> Pod {
        let times = json!({"deletionTimestamp": "2026-01-01T00:00:00Z",
                           "deletionGracePeriodSeconds": grace});
        pod(uid, "fleet-0001", &json!({"metadata": times}))
    }

    fn running(uid: &str) -> Pod {
        pod(uid, "fleet-0001", &json!({}))
    }

    /// Observes events, and returns the inputs as texts.
    fn observe(tracker: &mut PodTracker, events: Vec<Event<Pod>>) -> Vec<String> {
        let node = |name: &str| (name == "fleet-0001").then_some(NodeId(1));
        let text = |input: Input| match input {
            Input::PodBound { node, pod } => format!("{} bound to {}", pod.uid, node.0),
            Input::PodDeleted { uid, grace } => format!("{uid} deleted in {:?}", grace.unwrap()),
            Input::PodGone { uid } => format!("{uid} gone"),
            other => panic!("{other:?}"),
        };
        let events = events.into_iter().flat_map(|event| tracker.observe(event, node).unwrap());
        events.map(text).collect()
    }

    #[test]
    fn a_pod_is_bound_deleted_and_gone_once() {
        let mut tracker = PodTracker::default();
        let events = vec![
            Event::Apply(running("a")),
            Event::Apply(running("a")),
            Event::Apply(deleting("a", 30)),
            Event::Apply(deleting("a", 30)),
            Event::Apply(deleting("a", 0)),
            Event::Delete(deleting("a", 0)),
            Event::Delete(deleting("a", 0)),
        ];
        let expected = ["a bound to 1", "a deleted in 30s", "a deleted in 0ns", "a gone"];
        assert_eq!(observe(&mut tracker, events), expected);
        assert!(tracker.is_empty());
    }

    #[test]
    fn pods_of_other_nodes_and_ended_pods_have_no_effect() {
        let mut tracker = PodTracker::default();
        let ended = pod("ended", "fleet-0001", &json!({"status": {"phase": "Failed"}}));
        let other = pod("other", "node-0001", &json!({}));
        let mut unbound = running("unbound");
        unbound.spec.as_mut().unwrap().node_name = None;
        let events = [ended, other, unbound].map(Event::Apply);
        assert!(observe(&mut tracker, events.into()).is_empty());
        assert!(tracker.is_empty());
    }

    #[test]
    fn a_new_list_ends_what_was_deleted_meanwhile() {
        let mut tracker = PodTracker::default();
        let first = vec![
            Event::Init,
            Event::InitApply(running("a")),
            Event::InitApply(running("b")),
            Event::InitDone,
        ];
        assert_eq!(observe(&mut tracker, first), ["a bound to 1", "b bound to 1"]);
        let again = vec![
            Event::Init,
            Event::InitApply(running("b")),
            Event::InitApply(running("c")),
            Event::InitDone,
        ];
        assert_eq!(observe(&mut tracker, again), ["c bound to 1", "a gone"]);
        assert_eq!(tracker.len(), 2);
    }

    #[test]
    fn an_unreadable_pod_is_an_error_and_is_not_kept() {
        let mut tracker = PodTracker::default();
        let mut broken = running("a");
        broken.metadata.name = None;
        let node = |_: &str| Some(NodeId(1));
        let error = tracker.observe(Event::Apply(broken), node).unwrap_err();
        assert_eq!(error, PodError::Missing("metadata.name"));
        assert!(tracker.is_empty());
    }
}

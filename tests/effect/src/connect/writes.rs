//! Requests that follow from what the kubelets report.

use std::{collections::BTreeMap, net::Ipv4Addr};

use k8s_openapi::{
    api::core::v1::{Event as ApiEvent, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use prewarmer_fleet::{
    NodeId, Output, Report, SimTime,
    api::{Clock, disk_pressure_condition},
    kubelet::Event,
    pod::{ConditionKind, PodSpec, PodStatus},
    store::ReportedImage,
};
use serde_json::{Value, json};

/// First address of pods: 10.128.0.0. The last three bytes but one bit are the pod's number.
const POD_NETWORK: u32 = 0x0a80_0000;
/// First address of nodes: 10.0.0.0.
const NODE_NETWORK: u32 = 0x0a00_0000;
/// Bits of an address that are the number of a pod or node. The addresses of 8,388,608 pods are
/// different.
const HOST_BITS: u32 = 0x007f_ffff;

/// Request to the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Simulated time of the report.
    pub at: SimTime,
    /// Content.
    pub request: Request,
}

/// Content of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Strategic merge patch of a pod's status.
    PodStatus {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Patch, with the pod's UID as a precondition.
        patch: Value,
    },
    /// New Event.
    Event(Box<ApiEvent>),
    /// Strategic merge patch of an Event that occurred again.
    RepeatedEvent {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Patch.
        patch: Value,
    },
    /// Deletion of a pod without a grace period.
    DeletePod {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// UID, a precondition.
        uid: String,
    },
    /// Strategic merge patch of a node's status.
    NodeStatus {
        /// Name.
        name: String,
        /// Patch.
        patch: Value,
    },
}

/// Translation of reports to requests, which numbers Events and addresses.
#[derive(Debug)]
pub struct Translator {
    clock: Clock,
    /// Number of translated reports.
    reports: u64,
    /// Nodes with disk pressure, and since when.
    pressure: BTreeMap<NodeId, Timestamp>,
    /// Events that were written, by UID of the pod and content.
    written: BTreeMap<String, BTreeMap<EventKey, WrittenEvent>>,
}

/// What equal Events of a pod have in common (`getEventKey` in client-go, `tools/record`): reason,
/// message and path of the container.
type EventKey = (&'static str, String, Option<String>);

/// Event that was written.
#[derive(Debug)]
struct WrittenEvent {
    name: String,
    count: u32,
}

/// Largest number of Events of one pod that are remembered; client-go keeps 4,096 of a kubelet. Above it
/// all of the pod are forgotten, so that the next ones are new.
const MAX_EVENTS_OF_POD: usize = 100;
/// Largest number of pods whose Events are remembered, with about 1 KB each. Above it one pod is
/// forgotten.
const MAX_PODS_WITH_EVENTS: usize = 50_000;

impl Translator {
    /// Creates a translation for a clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, reports: 0, pressure: BTreeMap::new(), written: BTreeMap::new() }
    }

    /// Returns the request for a report of the node with this name.
    pub fn translate(&mut self, output: &Output, node: &str) -> Write {
        self.reports = self.reports.saturating_add(1);
        let request = match &output.report {
            Report::PodStatus { pod, status } => Request::PodStatus {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                patch: self.pod_patch(pod, status, output.node),
            },
            Report::Event { pod, event } => {
                self.event(pod, event, node, self.clock.timestamp(output.at))
            }
            Report::PodRemoved { pod } => {
                self.written.remove(&pod.uid);
                Request::DeletePod {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    uid: pod.uid.clone(),
                }
            }
            Report::NodeStatus { images, has_disk_pressure } => Request::NodeStatus {
                name: node.to_owned(),
                patch: self.node_patch(output, images, *has_disk_pressure),
            },
        };
        Write { at: output.at, request }
    }

    /// Returns the request for an Event: a new one, or the count of an equal one.
    fn event(&mut self, pod: &PodSpec, event: &Event, node: &str, at: Timestamp) -> Request {
        let known = self.written.entry(pod.uid.clone()).or_default();
        let key = (event.reason, event.message.clone(), event.field_path.clone());
        if let Some(written) = known.get_mut(&key) {
            written.count = written.count.saturating_add(1);
            return Request::RepeatedEvent {
                namespace: pod.namespace.clone(),
                name: written.name.clone(),
                patch: json!({"count": written.count, "lastTimestamp": Time(at)}),
            };
        }
        // As client-go names Events: the object and a time, here with a number that makes it unique.
        let epoch = self.clock.epoch.as_nanosecond();
        let name = format!("{}.{epoch:x}{:06x}", pod.name, self.reports);
        if known.len() >= MAX_EVENTS_OF_POD {
            known.clear();
        }
        known.insert(key, WrittenEvent { name: name.clone(), count: 1 });
        if self.written.len() > MAX_PODS_WITH_EVENTS {
            self.written.pop_first();
        }
        Request::Event(Box::new(event.to_api(pod, node, name, at)))
    }

    fn pod_patch(&self, pod: &PodSpec, status: &PodStatus, node: NodeId) -> Value {
        let mut object = status.to_api(&self.clock);
        let scheduled = PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(self.clock.timestamp(status.started))),
            ..PodCondition::default()
        };
        object.conditions.get_or_insert_default().push(scheduled);
        object.host_ip = Some(address(NODE_NETWORK, u64::from(node.0)));
        let has_sandbox = status.conditions.iter().any(|condition| {
            condition.is_true && condition.kind == ConditionKind::PodReadyToStartContainers
        });
        if has_sandbox {
            object.pod_ip = Some(pod_address(&pod.uid));
        }
        json!({"metadata": {"uid": pod.uid}, "status": object})
    }

    fn node_patch(
        &mut self,
        output: &Output,
        images: &[ReportedImage],
        has_pressure: bool,
    ) -> Value {
        let now = self.clock.timestamp(output.at);
        let since = if has_pressure {
            *self.pressure.entry(output.node).or_insert(now)
        } else {
            self.pressure.remove(&output.node);
            now
        };
        let images: Vec<_> = images.iter().map(ReportedImage::to_api).collect();
        let condition = disk_pressure_condition(has_pressure, since, now);
        json!({"status": {"images": images, "conditions": [condition]}})
    }
}

/// Returns the address of a pod, which follows from its UID: a hash of 23 bits, so that a few of
/// thousands of pods may have the same.
fn pod_address(uid: &str) -> String {
    let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    address(POD_NETWORK, hash >> 32)
}

fn address(network: u32, number: u64) -> String {
    let host = u32::try_from(number & u64::from(HOST_BITS)).unwrap_or_default();
    Ipv4Addr::from(network | host).to_string()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use prewarmer_fleet::{
        Fleet, Input, NodeSettings,
        image::{Catalog, CatalogSettings, LayerSize},
        registry::{Registries, RegistrySettings},
    };
    use serde_json::from_value;

    use super::*;

    /// Returns the requests for one pod with an image of 10 MB.
    fn writes() -> Vec<Write> {
        let mut catalog = Catalog::new(1, CatalogSettings::default());
        let layer = LayerSize { compressed: 10_000_000, unpacked: 20_000_000 };
        catalog.insert(&"registry.example/web:1".parse().unwrap(), &[layer]);
        let registries = Registries::new(RegistrySettings::new("registry.example"));
        let mut fleet = Fleet::new(1, catalog, registries);
        let node = fleet.add_node(NodeSettings::default());
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": "u1"},
            "spec": {"restartPolicy": "Never",
                     "containers": [{"name": "web", "image": "registry.example/web:1"}]},
        });
        let pod = Box::new(PodSpec::from_api(&from_value(pod).unwrap()).unwrap());
        let mut outputs =
            fleet.handle(Input::PodBound { node, pod }, SimTime::from_secs(1)).unwrap();
        outputs.extend(fleet.advance(SimTime::from_secs(60)));
        let delete = Input::PodDeleted { uid: "u1".into(), grace: None };
        outputs.extend(fleet.handle(delete, SimTime::from_secs(61)).unwrap());
        outputs.extend(fleet.advance(SimTime::from_secs(120)));
        let clock = Clock { epoch: Timestamp::UNIX_EPOCH, acceleration: 1 };
        let mut translator = Translator::new(clock);
        outputs.iter().map(|output| translator.translate(output, "fleet-0001")).collect()
    }

    fn statuses(writes: &[Write]) -> Vec<&Value> {
        let patch = |write| match write {
            &Write { request: Request::PodStatus { ref patch, .. }, .. } => Some(patch),
            _ => None,
        };
        writes.iter().filter_map(patch).collect()
    }

    #[test]
    fn a_status_names_the_pod_and_has_addresses() {
        let writes = writes();
        let statuses = statuses(&writes);
        let (first, last) = (statuses[0], statuses[statuses.len() - 1]);
        assert_eq!(first["metadata"]["uid"], "u1");
        assert_eq!(first["status"]["phase"], "Pending");
        assert_eq!(first["status"]["hostIP"], "10.0.0.0");
        assert_eq!(first["status"]["podIP"], Value::Null);
        assert_eq!(last["status"]["phase"], "Succeeded");
        // The patch of an ended pod, whose sandbox is gone, leaves the address as it is.
        let running = statuses.iter().find(|status| status["status"]["phase"] == "Running");
        let ip = running.unwrap()["status"]["podIP"].as_str().unwrap();
        assert!(ip.starts_with("10."), "{ip}");
        for status in &statuses {
            let conditions = status["status"]["conditions"].as_array().unwrap();
            let scheduled: Vec<_> =
                conditions.iter().filter(|one| one["type"] == "PodScheduled").collect();
            assert_eq!(scheduled.len(), 1);
            assert_eq!(scheduled[0]["lastTransitionTime"], "1970-01-01T00:00:01Z");
        }
    }

    #[test]
    fn events_have_different_names() {
        let writes = writes();
        let names: Vec<&str> = writes
            .iter()
            .filter_map(|write| match &write.request {
                Request::Event(event) => event.metadata.name.as_deref(),
                _ => None,
            })
            .collect();
        let different: BTreeSet<_> = names.iter().collect();
        assert!(names.len() >= 4, "{names:?}");
        assert_eq!(different.len(), names.len());
        assert!(names.iter().all(|name| name.starts_with("web.")), "{names:?}");
    }

    #[test]
    fn equal_events_of_a_pod_are_counted() {
        let clock = Clock { epoch: Timestamp::UNIX_EPOCH, acceleration: 1 };
        let mut translator = Translator::new(clock);
        let spec = |name: &str| {
            let pod = json!({
                "metadata": {"namespace": "shop", "name": name, "uid": name},
                "spec": {"containers": [{"name": "web", "image": "registry.example/web:1"}]},
            });
            Arc::new(PodSpec::from_api(&from_value(pod).unwrap()).unwrap())
        };
        let (web, api) = (spec("web"), spec("api"));
        let mut translate = |pod: &Arc<PodSpec>, image: &str, seconds| {
            let event = Event::pulling(image, Some("spec.containers{web}".into()));
            let report = Report::Event { pod: Arc::clone(pod), event };
            let output = Output { at: SimTime::from_secs(seconds), node: NodeId(0), report };
            translator.translate(&output, "fleet-0001").request
        };
        let first = |request: &Request| match request {
            Request::Event(event) => event.metadata.name.clone().unwrap(),
            other => panic!("{other:?}"),
        };
        let name = first(&translate(&web, "web:1", 1));
        for (seconds, count) in [(11, 2), (31, 3)] {
            let time = format!("1970-01-01T00:00:{seconds}Z");
            let expected = Request::RepeatedEvent {
                namespace: "shop".into(),
                name: name.clone(),
                patch: json!({"count": count, "lastTimestamp": time}),
            };
            assert_eq!(translate(&web, "web:1", seconds), expected);
        }
        assert_ne!(first(&translate(&web, "web:2", 40)), name);
        assert_ne!(first(&translate(&api, "web:1", 41)), name);
        // More different Events than are remembered.
        for number in 0..MAX_EVENTS_OF_POD {
            first(&translate(&web, &format!("other:{number}"), 50));
        }
        assert_ne!(first(&translate(&web, "web:1", 60)), name);
    }

    #[test]
    fn a_deleted_pod_is_removed_last() {
        let writes = writes();
        let of_pod: Vec<&Write> = writes
            .iter()
            .filter(|write| !matches!(write.request, Request::NodeStatus { .. }))
            .collect();
        let expected =
            Request::DeletePod { namespace: "shop".into(), name: "web".into(), uid: "u1".into() };
        assert_eq!(of_pod.last().unwrap().request, expected);
    }

    #[test]
    fn a_node_reports_its_images_and_disk_pressure() {
        let clock = Clock { epoch: Timestamp::UNIX_EPOCH, acceleration: 1 };
        let mut translator = Translator::new(clock);
        let image = ReportedImage { names: vec!["registry.example/web:1".into()], size: 5 };
        let mut patch = |seconds, has_disk_pressure| {
            let report = Report::NodeStatus { images: vec![image.clone()], has_disk_pressure };
            let output = Output { at: SimTime::from_secs(seconds), node: NodeId(0), report };
            match translator.translate(&output, "fleet-0001").request {
                Request::NodeStatus { patch, .. } => patch,
                other => panic!("{other:?}"),
            }
        };
        let first = patch(10, true);
        assert_eq!(first["status"]["images"][0]["sizeBytes"], 5);
        let second = patch(20, true);
        let condition = &second["status"]["conditions"][0];
        assert_eq!(condition["status"], "True");
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:10Z");
        assert_eq!(condition["lastHeartbeatTime"], "1970-01-01T00:00:20Z");
        assert_eq!(patch(30, false)["status"]["conditions"][0]["status"], "False");
        let again = patch(40, true);
        assert_eq!(again["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:40Z");
    }

    #[test]
    fn addresses_are_in_their_networks() {
        assert_eq!(address(NODE_NETWORK, 999), "10.0.3.231");
        assert_eq!(address(POD_NETWORK, u64::MAX), "10.255.255.255");
        assert_ne!(pod_address("a"), pod_address("b"));
    }
}

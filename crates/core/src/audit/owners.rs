//! Workloads of pods, by owner references, and by name where a pod is deleted.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::recording::Recording;
use crate::{dns::MAX_SUBDOMAIN, node::Interner};

/// Kind of the workload of a pod that is deleted, and that no name of a workload matches.
pub(super) const DELETED: &str = "Deleted";
/// Characters of a generated suffix (apimachinery, `rand.SafeEncodeString`).
const SUFFIX_CHARACTERS: &str = "bcdfghjklmnpqrstvwxz2456789";
/// Length of a generated suffix (apiserver, `names.SimpleNameGenerator`).
const SUFFIX_LENGTH: usize = 5;
/// Longest kind that is kept, in bytes.
const MAX_KIND_BYTES: usize = 63;

/// Workload to which a pod belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct WorkloadId {
    pub(super) namespace: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
}

/// Kind of an object whose owner matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnedKind {
    /// Pod.
    Pod,
    /// `ReplicaSet`, owned by a Deployment.
    ReplicaSet,
    /// Job, owned by a `CronJob`.
    Job,
}

impl OwnedKind {
    fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
        }
    }

    fn of_name(kind: &str) -> Option<Self> {
        [Self::ReplicaSet, Self::Job].into_iter().find(|one| one.name() == kind)
    }
}

/// Controller of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Controller {
    kind: Arc<str>,
    name: Arc<str>,
}

/// Key of an object: kind, namespace and name.
type ObjectKey = (OwnedKind, Arc<str>, Arc<str>);

/// Owners of pods, `ReplicaSet`s and Jobs.
#[derive(Debug, Default)]
pub struct Owners {
    texts: Interner,
    objects: HashMap<ObjectKey, Option<Controller>>,
    /// Kinds of the controllers by namespace and name.
    controllers: HashMap<(Arc<str>, Arc<str>), Arc<str>>,
}

impl Owners {
    /// Adds an object. Objects without namespace and name, and with names longer than Kubernetes
    /// permits, are left out, and so are references to such owners.
    pub fn add(&mut self, kind: OwnedKind, metadata: &ObjectMeta) {
        let fits = |text: &&str| !text.is_empty() && text.len() <= MAX_SUBDOMAIN;
        let namespace = metadata.namespace.as_deref().filter(fits);
        let (Some(namespace), Some(name)) = (namespace, metadata.name.as_deref().filter(fits))
        else {
            return;
        };
        let controller = metadata.owner_references.iter().flatten().find(|owner| {
            owner.controller == Some(true)
                && (1..=MAX_KIND_BYTES).contains(&owner.kind.len())
                && fits(&owner.name.as_str())
        });
        let controller = controller.map(|owner| Controller {
            kind: self.texts.intern(&owner.kind),
            name: self.texts.intern(&owner.name),
        });
        let (namespace, name) = (self.texts.intern(namespace), self.texts.intern(name));
        if let Some(controller) = &controller {
            let key = (Arc::clone(&namespace), Arc::clone(&controller.name));
            self.controllers.insert(key, Arc::clone(&controller.kind));
        }
        self.objects.insert((kind, namespace, name), controller);
    }

    /// Reports whether the objects of this kind are needed: for the own owner of a recorded pod's
    /// owner, or for the name of a recorded pod that is deleted.
    #[must_use]
    pub fn needs(&self, kind: OwnedKind, recording: &Recording) -> bool {
        recording.starts.iter().any(|start| {
            match self.get(OwnedKind::Pod, &start.namespace, &start.pod) {
                Some(Some(owner)) => &*owner.kind == kind.name(),
                Some(None) => false,
                None => true,
            }
        })
    }

    /// Returns the workload of a pod.
    pub(super) fn workload_of(&self, namespace: &Arc<str>, pod: &Arc<str>) -> WorkloadId {
        match self.get(OwnedKind::Pod, namespace, pod) {
            Some(Some(owner)) => self.topmost(namespace, owner),
            Some(None) => self.workload(namespace, "Pod", pod),
            None => self.by_name(namespace, pod),
        }
    }

    fn get(&self, kind: OwnedKind, namespace: &str, name: &str) -> Option<&Option<Controller>> {
        self.objects.get(&(kind, self.texts.intern(namespace), self.texts.intern(name)))
    }

    fn workload(&self, namespace: &str, kind: &str, name: &str) -> WorkloadId {
        let [namespace, kind, name] = [namespace, kind, name].map(|text| self.texts.intern(text));
        WorkloadId { namespace, kind, name }
    }

    /// Returns the owner of a `ReplicaSet` or Job, or the object itself if it has none.
    fn topmost(&self, namespace: &str, owner: &Controller) -> WorkloadId {
        let above = OwnedKind::of_name(&owner.kind)
            .and_then(|kind| self.get(kind, namespace, &owner.name)?.as_ref());
        let Controller { kind, name } = above.unwrap_or(owner);
        self.workload(namespace, kind, name)
    }

    /// Returns the workload whose controller generates this name of a pod, as far as one is known.
    fn by_name(&self, namespace: &str, pod: &str) -> WorkloadId {
        let deleted = |name: &str| self.workload(namespace, DELETED, name);
        let Some(stem) = without_suffix(pod) else { return deleted(pod) };
        for kind in [OwnedKind::ReplicaSet, OwnedKind::Job] {
            if self.get(kind, namespace, stem).is_some() {
                let owner = Controller { kind: kind.name().into(), name: self.texts.intern(stem) };
                return self.topmost(namespace, &owner);
            }
        }
        // Jobs of a CronJob have a number at the end, and are deleted soon.
        let kind_of = |name: &str| {
            self.controllers.get(&(self.texts.intern(namespace), self.texts.intern(name)))
        };
        let cron_job = without_number(stem)
            .filter(|name| kind_of(name).is_some_and(|kind| &**kind == "CronJob"));
        if let Some(name) = cron_job {
            return self.workload(namespace, "CronJob", name);
        }
        match kind_of(stem) {
            Some(kind) => self.workload(namespace, kind, stem),
            None => deleted(stem),
        }
    }
}

/// Returns the name without the suffix that a controller generates: five random characters, or the
/// number of a `StatefulSet`'s pod.
fn without_suffix(pod: &str) -> Option<&str> {
    let (stem, suffix) = pod.rsplit_once('-')?;
    let is_random =
        suffix.len() == SUFFIX_LENGTH && suffix.chars().all(|c| SUFFIX_CHARACTERS.contains(c));
    if is_random { Some(stem) } else { without_number(pod) }
}

fn without_number(name: &str) -> Option<&str> {
    let (stem, number) = name.rsplit_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !stem.is_empty()).then_some(stem)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn object(name: &str, owner: Option<(&str, &str)>) -> ObjectMeta {
        let owners = owner.map(|(kind, name)| {
            json!([
                {"apiVersion": "x/v1", "kind": "Other", "name": "other", "uid": "1"},
                {"apiVersion": "x/v1", "kind": kind, "name": name, "uid": "2", "controller": true},
            ])
        });
        let object = json!({"namespace": "shop", "name": name, "ownerReferences": owners});
        serde_json::from_value(object).unwrap()
    }

    fn owners() -> Owners {
        let mut owners = Owners::default();
        for (kind, name, owner) in [
            (OwnedKind::Pod, "web-7d9f8c5b6-x2x7k", Some(("ReplicaSet", "web-7d9f8c5b6"))),
            (OwnedKind::Pod, "lone-5c-bcdfg", Some(("ReplicaSet", "lone-5c"))),
            (OwnedKind::Pod, "gone-5c-bcdfg", Some(("ReplicaSet", "gone-5c"))),
            (OwnedKind::Pod, "report-2901-vwxz2", Some(("Job", "report-2901"))),
            (OwnedKind::Pod, "db-0", Some(("StatefulSet", "db"))),
            (OwnedKind::Pod, "agent-vwxz2", Some(("DaemonSet", "agent"))),
            (OwnedKind::Pod, "bare", None),
            (OwnedKind::ReplicaSet, "web-7d9f8c5b6", Some(("Deployment", "web"))),
            (OwnedKind::ReplicaSet, "web-old", Some(("Deployment", "web"))),
            (OwnedKind::ReplicaSet, "lone-5c", None),
            (OwnedKind::Job, "report-2901", Some(("CronJob", "report"))),
            (OwnedKind::Job, "import", None),
        ] {
            owners.add(kind, &object(name, owner));
        }
        owners
    }

    #[rstest]
    #[case::deployment("web-7d9f8c5b6-x2x7k", "Deployment", "web")]
    #[case::replica_set("lone-5c-bcdfg", "ReplicaSet", "lone-5c")]
    #[case::unread_replica_set("gone-5c-bcdfg", "ReplicaSet", "gone-5c")]
    #[case::cron_job("report-2901-vwxz2", "CronJob", "report")]
    #[case::stateful_set("db-0", "StatefulSet", "db")]
    #[case::daemon_set("agent-vwxz2", "DaemonSet", "agent")]
    #[case::bare_pod("bare", "Pod", "bare")]
    #[case::deleted_pod_of_a_deployment("web-old-bbbbb", "Deployment", "web")]
    #[case::deleted_pod_of_a_job("import-bbbbb", "Job", "import")]
    #[case::deleted_job_of_a_cron_job("report-2899-bbbbb", "CronJob", "report")]
    #[case::deleted_pod_of_a_stateful_set("db-12", "StatefulSet", "db")]
    #[case::deleted_pod_of_a_daemon_set("agent-bbbbb", "DaemonSet", "agent")]
    #[case::deleted_with_its_workload("shop-6f-bbbbb", DELETED, "shop-6f")]
    #[case::deleted_bare_pod("tool", DELETED, "tool")]
    #[case::vowels_are_not_generated("agent-hello", DELETED, "agent-hello")]
    #[case::only_a_number("-0", DELETED, "-0")]
    fn pods_belong_to_workloads(#[case] pod: &str, #[case] kind: &str, #[case] name: &str) {
        let found = owners().workload_of(&"shop".into(), &pod.into());
        assert_eq!((&*found.kind, &*found.name), (kind, name));
        let elsewhere = owners().workload_of(&"other".into(), &pod.into());
        assert_eq!(&*elsewhere.kind, DELETED, "owners of another namespace do not count");
    }

    #[rstest]
    #[case("web-7d9f8c5b6-x2x7k", true, false)]
    #[case("report-2901-vwxz2", false, true)]
    #[case("db-0", false, false)]
    #[case("bare", false, false)]
    #[case::deleted("shop-6f-bbbbb", true, true)]
    fn further_lists_are_read_only_for_recorded_pods(
        #[case] pod: &str,
        #[case] replica_sets: bool,
        #[case] jobs: bool,
    ) {
        let recording = Recording::of_pod("shop", pod);
        let owners = owners();
        assert_eq!(owners.needs(OwnedKind::ReplicaSet, &recording), replica_sets);
        assert_eq!(owners.needs(OwnedKind::Job, &recording), jobs);
    }

    #[test]
    fn names_beyond_the_bounds_are_left_out() {
        let mut owners = Owners::default();
        owners.add(OwnedKind::Pod, &object(&"p".repeat(254), None));
        owners.add(OwnedKind::Pod, &object("", None));
        owners.add(OwnedKind::Pod, &object("p", Some((&"K".repeat(64), "x"))));
        assert_eq!(owners.objects.len(), 1);
        assert_eq!(&*owners.workload_of(&"shop".into(), &"p".into()).kind, "Pod");
    }
}

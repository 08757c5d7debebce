//! Requests of an audit: lists only.

use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        batch::v1::Job,
        core::v1::{Event, Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use kube::{Client, Resource};
use prewarmer_core::{
    audit::{AuditInput, AuditReport, Nodes, OwnedKind, Owners, Recording, summarize},
    pod_start::event::FIELD_SELECTOR,
};
use prewarmer_kube::api_error::ApiErrorKind;
use serde::Deserialize;

use super::{
    error::{AuditError, root_cause},
    pages::{ListEnd, ListRequest, PageReader, ReadError, ReadLimits},
    settings::AuditOptions,
};

/// Object of which only metadata is read.
#[derive(Deserialize)]
struct SlimObject {
    metadata: SlimMetadata,
}

/// Name, time of creation and owners of an object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMetadata {
    name: Option<String>,
    namespace: Option<String>,
    creation_timestamp: Option<Time>,
    owner_references: Option<Vec<OwnerReference>>,
}

/// Reads a cluster and returns the report. Only events are necessary; a note states what could not
/// be read, or not completely.
pub async fn audit(
    client: &Client,
    options: &AuditOptions,
    limits: &ReadLimits,
) -> Result<AuditReport, AuditError> {
    let mut reader = AuditReader {
        pages: PageReader::new(client, limits),
        limits,
        namespace: options.namespace.as_deref(),
        notes: Vec::new(),
    };
    let recording = reader.events().await?;
    let mut owners = Owners::default();
    reader.owners::<Pod>(OwnedKind::Pod, &mut owners).await;
    if owners.needs(OwnedKind::ReplicaSet, &recording) {
        reader.owners::<ReplicaSet>(OwnedKind::ReplicaSet, &mut owners).await;
    }
    if owners.needs(OwnedKind::Job, &recording) {
        reader.owners::<Job>(OwnedKind::Job, &mut owners).await;
    }
    let nodes = reader.nodes().await;
    Ok(summarize(&AuditInput {
        recording: &recording,
        owners: &owners,
        nodes: nodes.as_ref(),
        namespace: options.namespace.as_deref(),
        limit: options.limit,
        settings: options.simulation,
        notes: reader.notes,
    }))
}

/// Requests, and notes about what they did not return.
struct AuditReader<'a> {
    pages: PageReader<'a>,
    limits: &'a ReadLimits,
    namespace: Option<&'a str>,
    notes: Vec<String>,
}

impl AuditReader<'_> {
    async fn events(&mut self) -> Result<Recording, AuditError> {
        let mut recording = Recording::default();
        let list = ListRequest {
            path: Event::url_path(&(), self.namespace),
            fields: Some(FIELD_SELECTOR),
            metadata: false,
            most: self.limits.events,
        };
        let end = self.pages.read(&list, |json| match serde_json::from_str(json.get()) {
            Ok(event) => recording.add(&event),
            Err(_) => recording.add_undecodable(),
        });
        let end = end.await.map_err(|error| AuditError::of_events(&error, self.scope()))?;
        self.note_bound("events", &end);
        if recording.is_empty() {
            let ignored = recording.ignored_events();
            return Err(AuditError::NoEvents { scope: self.scope(), ignored });
        }
        Ok(recording)
    }

    /// Reads the owners of all objects of a kind.
    async fn owners<K: Resource<DynamicType = ()>>(
        &mut self,
        kind: OwnedKind,
        owners: &mut Owners,
    ) {
        let plural = K::plural(&()).into_owned();
        let most = if kind == OwnedKind::Pod { self.limits.pods } else { self.limits.owners };
        let list = ListRequest {
            path: K::url_path(&(), self.namespace),
            fields: None,
            metadata: true,
            most,
        };
        let read = self.pages.read(&list, |json| {
            // An object that cannot be decoded has no known owner, as a deleted one.
            if let Ok(object) = serde_json::from_str::<SlimObject>(json.get()) {
                owners.add(kind, &object.metadata.into());
            }
        });
        let effect = match kind {
            OwnedKind::Pod => "pods are shown as Deleted, by their names",
            OwnedKind::ReplicaSet => "pods of Deployments are shown by ReplicaSet",
            OwnedKind::Job => "pods of CronJobs are shown by Job",
        };
        match read.await {
            Ok(end) => self.note_bound(&plural, &end),
            Err(error) => self.note_failure(&plural, &error, effect),
        }
    }

    /// Returns all nodes; none where they cannot be listed, or not all of them.
    async fn nodes(&mut self) -> Option<Nodes> {
        let mut nodes = Nodes::default();
        let list = ListRequest {
            path: Node::url_path(&(), None),
            fields: None,
            metadata: true,
            most: self.limits.nodes,
        };
        let read = self.pages.read(&list, |json| {
            if let Ok(object) = serde_json::from_str::<SlimObject>(json.get()) {
                nodes.add(&object.metadata.into());
            }
        });
        match read.await {
            Ok(end) if end.bound.is_none() => return Some(nodes),
            Ok(end) => self.note_bound("nodes", &end),
            Err(error) => {
                let effect = "only those of the events are counted, and none counts as new";
                self.note_failure("nodes", &error, effect);
            }
        }
        None
    }

    fn scope(&self) -> String {
        match self.namespace {
            Some(name) => format!("in namespace {name}"),
            None => "in all namespaces".to_owned(),
        }
    }

    /// Adds a note where a list is not complete.
    fn note_bound(&mut self, what: &str, end: &ListEnd) {
        if let Some(bound) = end.bound {
            let read = end.read;
            self.notes.push(format!(
                "Only {read} {what} were read {bound}: audit one namespace at a time by --namespace."
            ));
        }
    }

    /// Adds a note where a list failed. `effect` is what the report lacks.
    fn note_failure(&mut self, what: &str, error: &ReadError, effect: &str) {
        let is_forbidden =
            matches!(error, ReadError::Api(api) if ApiErrorKind::of(api).is_forbidden());
        let cause = if is_forbidden { "not permitted".to_owned() } else { root_cause(error) };
        self.notes.push(format!("Listing {what} failed ({cause}): {effect}."));
    }
}

impl From<SlimMetadata> for ObjectMeta {
    fn from(read: SlimMetadata) -> Self {
        Self {
            name: read.name,
            namespace: read.namespace,
            creation_timestamp: read.creation_timestamp,
            owner_references: read.owner_references,
            ..Self::default()
        }
    }
}

//! `prewarmer extract`: what would be warmed, from manifests and without a cluster.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{ToSchema, openapi::schema::Schema};

use super::{Credentials, Placement, Policy, Verdict, Workload};
use crate::{
    surroundings::{Scheduling, Surroundings},
    task::{Amount, PrewarmTaskSpec},
};

/// The namespace of documents that name none, where nothing says another.
pub const DEFAULT_NAMESPACE: &str = "default";

fn nodes_schema() -> Schema {
    Amount::schema("How many of the matching nodes: a number, `all`, or a percentage.")
}

/// What one pod template would have warmed.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Extracted {
    /// `Kind/name`.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// `wanted`, `opted_out`, `nothing` or `ignored`.
    pub verdict: &'static str,
    /// Why it is ignored, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The images.
    pub images: Vec<String>,
    /// The nodes, in the words of a pod: `nodeSelector`, `nodeAffinity`, `tolerations`.
    #[schema(value_type = Object)]
    pub placement: Placement,
    /// The credentials: `imagePullSecrets`, `serviceAccountName`.
    #[schema(value_type = Object)]
    pub credentials: Credentials,
    /// How many of the matching nodes: a number, `all`, or a percentage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = nodes_schema)]
    pub nodes: Option<Amount>,
    /// What made no sense, as kubectl would print it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<String>,
    /// The task that would be made, if any.
    #[serde(skip)]
    pub spec: Option<Box<PrewarmTaskSpec>>,
}

/// How much of a manifest is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Objects, those in `List`s too.
    pub objects: usize,
    /// Pod templates.
    pub templates: usize,
    /// Images of all of them.
    pub images: usize,
    /// Values of the YAML, those that aliases repeat too. One takes 100 bytes or so.
    pub values: usize,
    /// How long it may take.
    pub time: Duration,
}

impl Bounds {
    /// For callers of a server: the output of a large chart has a hundred objects and ten thousand values.
    pub const SERVED: Self =
        Self { objects: 500, templates: 200, images: 1000, values: 60_000, time: Duration::from_secs(2) };
    /// For a program on one's own machine.
    pub const LOCAL: Self = Self {
        objects: 100_000,
        templates: 100_000,
        images: 1_000_000,
        values: 1_000_000,
        time: Duration::from_secs(600),
    };
}

/// Why nothing was extracted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// It makes no sense.
    #[error("{0}")]
    Unreadable(String),
    /// It is more than the [`Bounds`] permit.
    #[error("the manifest has more than {0} {1}: send it in parts")]
    TooMany(usize, &'static str),
    /// It took too long.
    #[error("reading the manifest took more than {} s: send it in parts", .0.as_secs())]
    TooSlow(Duration),
}

/// The objects of a manifest.
#[derive(Debug)]
pub struct Manifest {
    objects: Vec<Value>,
    bounds: Bounds,
    begun: Instant,
}

impl Manifest {
    /// Reads JSON or YAML, several documents and `List`s too. The error names the document that could not be read.
    pub fn read(text: &str, bounds: Bounds) -> Result<Self, ExtractError> {
        let begun = Instant::now();
        let Bounds { values, .. } = bounds;
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_nodes: values,
                max_events: values.saturating_mul(3),
                max_aliases: values / 10,
                max_anchors: values / 10,
                max_recorded_anchor_events: values,
                max_recorded_anchor_bytes: text.len().saturating_mul(2),
                max_total_scalar_bytes: text.len().saturating_mul(2),
                max_total_property_interpolation_work: text.len().saturating_mul(4),
                max_merge_keys: values / 100,
            },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: values },
        };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| ExtractError::Unreadable(format!("this is neither YAML nor JSON: {error}")))?;
        let mut objects = Vec::new();
        for document in documents {
            flatten(document, &mut objects);
            if objects.len() > bounds.objects {
                return Err(ExtractError::TooMany(bounds.objects, "objects"));
            }
        }
        let manifest = Self { objects, bounds, begun };
        manifest.in_time()?;
        Ok(manifest)
    }

    fn in_time(&self) -> Result<(), ExtractError> {
        if self.begun.elapsed() > self.bounds.time { Err(ExtractError::TooSlow(self.bounds.time)) } else { Ok(()) }
    }

    /// The namespaces of its workloads. Those that name none are in `default`.
    #[must_use]
    pub fn namespaces(&self, policy: &Policy, default: &str) -> BTreeSet<String> {
        let workloads = self
            .objects
            .iter()
            .filter(|one| policy.kinds.find(&word(one, "/apiVersion"), &word(one, "/kind")).is_some());
        workloads
            .map(|object| Some(word(object, "/metadata/namespace")).filter(|name| !name.is_empty()))
            .map(|named| named.unwrap_or_else(|| default.to_owned()))
            .collect()
    }

    /// What would be warmed. Namespaces, runtime classes and autoscalers in the manifest count, as they would in a cluster,
    /// before what is `known` of one. The second list names the documents that are no workload.
    pub fn extract(
        mut self,
        policy: &Policy,
        known: &Surroundings,
        default: &str,
    ) -> Result<(Vec<Extracted>, Vec<String>), ExtractError> {
        for object in &self.objects {
            surround(object, known, default);
        }
        let (mut found, mut skipped, mut images) = (Vec::new(), Vec::new(), 0_usize);
        for (index, object) in std::mem::take(&mut self.objects).into_iter().enumerate() {
            self.in_time()?;
            if word(&object, "/kind").is_empty() {
                let words = format!("object {} is none of Kubernetes: it has no kind", index.saturating_add(1));
                return Err(ExtractError::Unreadable(words));
            }
            let title = format!("{}/{}", word(&object, "/kind"), word(&object, "/metadata/name"));
            match policy.kinds.find(&word(&object, "/apiVersion"), &word(&object, "/kind")) {
                None => skipped.push(title),
                Some(kind) => {
                    let unreadable = |error| ExtractError::Unreadable(format!("{title}: {error}"));
                    let view = kind.read_value(object).map_err(unreadable)?;
                    let named = Some(view.metadata.namespace.as_str()).filter(|name| !name.is_empty());
                    let namespace = named.unwrap_or(default);
                    let (verdict, warnings) = policy.consider(kind, &view, namespace, known);
                    let entries = entries(&title, namespace, verdict, warnings);
                    images = images.saturating_add(entries.iter().map(|entry| entry.images.len()).sum());
                    found.extend(entries);
                    if found.len() > self.bounds.templates {
                        return Err(ExtractError::TooMany(self.bounds.templates, "pod templates"));
                    }
                    if images > self.bounds.images {
                        return Err(ExtractError::TooMany(self.bounds.images, "images"));
                    }
                }
            }
        }
        Ok((found, skipped))
    }
}

/// Reads a manifest and says what would be warmed, without a cluster; see [`Manifest`].
pub fn extract_documents(
    text: &str,
    policy: &Policy,
    namespace: &str,
) -> Result<(Vec<Extracted>, Vec<String>), ExtractError> {
    Manifest::read(text, Bounds::LOCAL)?.extract(policy, &Surroundings::default(), namespace)
}

fn word(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Documents, and the items of `List`s; an empty document is none.
fn flatten(document: Value, into: &mut Vec<Value>) {
    let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match document {
        Value::Null => {}
        Value::Object(mut fields) if is_list && fields.get("items").is_some_and(Value::is_array) => {
            if let Some(Value::Array(items)) = fields.remove("items") {
                for item in items {
                    flatten(item, into);
                }
            }
        }
        document => into.push(document),
    }
}

fn surround(object: &Value, around: &Surroundings, default: &str) {
    let name = word(object, "/metadata/name");
    let at = |path: &str| object.pointer(path).cloned().unwrap_or_default();
    match word(object, "/kind").as_str() {
        "Namespace" => {
            let annotations = Deserialize::deserialize(at("/metadata/annotations")).unwrap_or_default();
            around.set_namespace(&name, annotations);
        }
        "RuntimeClass" => {
            let node_selector = Deserialize::deserialize(at("/scheduling/nodeSelector")).unwrap_or_default();
            let tolerations = Deserialize::deserialize(at("/scheduling/tolerations")).unwrap_or_default();
            around.set_runtime_class(&name, Some(Scheduling { node_selector, tolerations }));
        }
        "HorizontalPodAutoscaler" => {
            let namespace = Some(word(object, "/metadata/namespace")).filter(|name| !name.is_empty());
            let target = word(object, "/spec/scaleTargetRef/kind");
            let workload =
                (namespace.unwrap_or_else(|| default.into()), target, word(object, "/spec/scaleTargetRef/name"));
            let most = at("/spec/maxReplicas").as_u64().and_then(|most| u32::try_from(most).ok());
            around.set_most_replicas(workload, most);
        }
        _ => {}
    }
}

fn entries(title: &str, namespace: &str, verdict: Verdict, warnings: Vec<String>) -> Vec<Extracted> {
    let (word, reason) = (verdict.as_str(), if let Verdict::Ignored(why) = verdict { Some(why) } else { None });
    let entry = |workload: Option<Workload>, warnings: Vec<String>| {
        let nodes = workload.as_ref().map(|workload| workload.options.nodes.clone());
        let images = |workload: &Workload| workload.images.iter().map(|image| image.as_written().to_owned()).collect();
        let spec = workload.as_ref().filter(|workload| !workload.images.is_empty());
        let spec = spec.map(|workload| Box::new(PrewarmTaskSpec { images: images(workload), ..workload.group_spec() }));
        let workload = workload.unwrap_or_default();
        Extracted {
            workload: title.to_owned(),
            namespace: namespace.to_owned(),
            verdict: word,
            reason,
            images: images(&workload),
            placement: workload.placement,
            credentials: workload.credentials,
            nodes,
            warnings,
            spec,
        }
    };
    let mut workloads = verdict.workloads().into_iter();
    let first = entry(workloads.next(), warnings);
    std::iter::once(first).chain(workloads.map(|workload| entry(Some(workload), Vec::new()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_and_lists() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: web, namespace: shop}\n  spec: {template: {spec: {containers: [{name: c, image: 'nginx:1'}]}}}\n---\n";
        let (found, skipped) = extract_documents(text, &Policy::default(), DEFAULT_NAMESPACE).unwrap();
        assert_eq!(skipped, ["ConfigMap/c"]);
        assert_eq!((found[0].workload.as_str(), found[0].verdict), ("Deployment/web", "wanted"));
        assert_eq!(found[0].images, ["nginx:1"]);
        assert_eq!(found[0].namespace, "shop");
    }

    #[test]
    fn what_surrounds_a_workload_counts_wherever_it_stands() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {runtimeClassName: kata, containers: [{name: c, image: a}]}\n---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: kata}\nscheduling: {nodeSelector: {kata: 'yes'}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {prewarm.io/priority: '9', prewarm.io/nodes: '7'}}\n";
        let (found, skipped) = extract_documents(text, &Policy::default(), DEFAULT_NAMESPACE).unwrap();
        assert_eq!(found[0].placement.node_selector["kata"], "yes");
        assert_eq!(found[0].nodes, Some(Amount::Count(7)));
        assert_eq!(skipped.len(), 2);
    }

    #[test]
    fn the_output_of_helm() {
        let text = "---\n# Source: shop/templates/sa.yaml\n---\n# Source: shop/templates/web.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: RELEASE-NAME-web\n  labels:\n    app.kubernetes.io/managed-by: Helm\nspec:\n  replicas: 1\n  template:\n    spec:\n      containers:\n        - name: web\n          image: \"shop/web:1.0\"\n          imagePullPolicy: IfNotPresent\n---\n# Source: shop/templates/job.yaml\napiVersion: batch/v1\nkind: Job\nmetadata:\n  name: \"RELEASE-NAME-migrate\"\n  annotations:\n    \"helm.sh/hook\": pre-install\nspec:\n  template:\n    spec:\n      containers:\n        - {name: migrate, image: 'shop/migrate:1.0'}\n";
        let (found, skipped) = extract_documents(text, &Policy::default(), DEFAULT_NAMESPACE).unwrap();
        assert_eq!((found.len(), skipped.len()), (2, 0));
        assert_eq!((&found[0].images[0], &found[1].images[0]), (&"shop/web:1.0".into(), &"shop/migrate:1.0".into()));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(
            extract_documents("{}", &Policy::default(), DEFAULT_NAMESPACE).unwrap_err().to_string().contains("no kind")
        );
        assert!(extract_documents("{", &Policy::default(), DEFAULT_NAMESPACE).is_err());
    }

    #[test]
    fn a_manifest_is_read_within_bounds() {
        let pod = |name: usize, images: usize| {
            let containers: Vec<String> =
                (0..images).map(|index| format!("{{name: c{index}, image: 'a{name}/b{index}'}}")).collect();
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{name}}}\nspec: {{containers: [{}]}}\n---\n",
                containers.join(", ")
            )
        };
        let read = |text: &str, bounds: Bounds| {
            Manifest::read(text, bounds)?.extract(&Policy::default(), &Surroundings::default(), "shop")
        };
        let many = |pods: usize, images: usize| (0..pods).map(|name| pod(name, images)).collect::<String>();
        assert_eq!(read(&many(200, 2), Bounds::SERVED).unwrap().0.len(), 200);
        assert_eq!(read(&many(201, 1), Bounds::SERVED).unwrap_err(), ExtractError::TooMany(200, "pod templates"));
        assert_eq!(read(&many(501, 1), Bounds::SERVED).unwrap_err(), ExtractError::TooMany(500, "objects"));
        assert_eq!(read(&many(11, 100), Bounds::SERVED).unwrap_err(), ExtractError::TooMany(1000, "images"));
        let no_time = Bounds { time: Duration::ZERO, ..Bounds::SERVED };
        assert_eq!(read(&many(1, 1), no_time).unwrap_err(), ExtractError::TooSlow(Duration::ZERO));
        let values = format!("[{}0]", "0,".repeat(100_000));
        assert!(matches!(read(&values, Bounds::SERVED), Err(ExtractError::Unreadable(_))));
        // Nine times nine times nine ... of the same: aliases count as what they stand for.
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (name, of) in ["b", "c", "d", "e", "f"].iter().zip(["a", "b", "c", "d", "e"]) {
            bomb.extend([format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 9].join(","))]);
        }
        let error = Manifest::read(&bomb, Bounds::SERVED).unwrap_err();
        assert!(matches!(error, ExtractError::Unreadable(_)), "{error}");
    }

    #[test]
    fn what_is_known_of_a_cluster_counts_only_where_it_may_be_seen() {
        let cluster = Surroundings::default();
        for namespace in ["shop", "bank"] {
            cluster.set_namespace(namespace, [("prewarm.io/nodes".to_owned(), "7".to_owned())].into());
        }
        let pod = |namespace: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{containers: [{{name: c, image: a}}]}}\n---\n"
            )
        };
        let text = pod("shop") + &pod("bank");
        let manifest = Manifest::read(&text, Bounds::SERVED).unwrap();
        let policy = Policy::default();
        assert_eq!(manifest.namespaces(&policy, "x"), ["bank".to_owned(), "shop".to_owned()].into());
        let (found, _) = manifest.extract(&policy, &cluster.seen_from(["shop".to_owned()].into()), "x").unwrap();
        assert_eq!((found[0].nodes.clone(), found[1].nodes == Some(Amount::Count(7))), (Some(Amount::Count(7)), false));
        // What the manifest says of a namespace is stronger, also that it has no annotations.
        let text = pod("shop") + "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        let manifest = Manifest::read(&text, Bounds::SERVED).unwrap();
        let (found, _) = manifest.extract(&policy, &cluster.seen_from(["shop".to_owned()].into()), "x").unwrap();
        assert_ne!(found[0].nodes, Some(Amount::Count(7)));
        assert_eq!(cluster.namespace("shop").len(), 1, "the cluster's own is as it was");
    }
}

//! Decision whether and how a workload is warmed. Pure: no client, no clock, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration,
};

use super::{
    annotations::{self, AnnotationValues},
    context::{ClusterContext, RuntimeClassScheduling},
    decision::WarmDecision,
    definition::{Placement, Workload},
    kinds::{WorkloadKind, WorkloadKinds},
    one_shot::{OneShot, OneShotMode, OneShotReason},
    pull_policy::DeclaredPolicy,
    references::{MAX_IMAGES, MAX_WARNINGS, References, never_pulled, parse_references},
    view::{MAX_ITEMS, MAX_TEMPLATES, ObjectView, PodSpecView, TemplateView},
};
use crate::{
    annotations::{ALLOW_ALL_NODES_ANNOTATION, NODES_ANNOTATION},
    labels::MANAGED_BY,
    task::{PREFIX, PullMethod, caps::Caps, validate::AUTO_NODES},
};

/// System namespaces, which are excluded by default.
pub(crate) const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Decision for workloads without the annotation `prewarm.io/enabled`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DefaultMode {
    /// All workloads are warmed unless they opt out.
    #[default]
    OptOut,
    /// Only workloads that opt in are warmed.
    OptIn,
}

/// Settings that decide whether and how objects are warmed.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Decision for workloads without an annotation.
    pub default_mode: DefaultMode,
    /// Treatment of one-shot pods and Jobs without an annotation.
    pub one_shot: OneShotMode,
    /// Excluded namespaces.
    pub excluded_namespaces: BTreeSet<String>,
    /// Only namespace to watch; `None` for all.
    pub watch_namespace: Option<String>,
    /// Kinds with a pod template.
    pub kinds: WorkloadKinds,
    /// Minimum number of nodes for `nodes: auto`.
    pub auto_nodes: u32,
    /// Operator's limits.
    pub caps: Arc<Caps>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            default_mode: DefaultMode::default(),
            one_shot: OneShotMode::default(),
            excluded_namespaces: BTreeSet::new(),
            watch_namespace: None,
            kinds: WorkloadKinds::default(),
            auto_nodes: AUTO_NODES,
            caps: Arc::default(),
        }
    }
}

/// Settings that select the workloads to warm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// Default for workloads without annotations.
    pub default_mode: DefaultMode,
    /// Treatment of one-shot pods and Jobs without annotations.
    pub one_shot: OneShotMode,
    /// Built-in and configured workload kinds.
    pub kinds: WorkloadKinds,
    /// System namespaces whose workloads are warmed too.
    pub include_namespaces: Vec<String>,
    /// Lower bound of the number of nodes that `nodes: auto` selects.
    pub auto_nodes: u32,
}

impl PolicySettings {
    /// Builds the policy of an installation in the namespace `own`, without limits.
    #[must_use]
    pub fn into_policy(self, own: &str, watched: Option<&str>) -> Policy {
        let out = SYSTEM_NAMESPACES.into_iter().chain([own]).filter(|name| watched != Some(name));
        Policy {
            default_mode: self.default_mode,
            one_shot: self.one_shot,
            excluded_namespaces: out
                .filter(|name| !self.include_namespaces.iter().any(|included| included == name))
                .map(str::to_owned)
                .collect(),
            watch_namespace: watched.map(str::to_owned),
            kinds: self.kinds,
            auto_nodes: self.auto_nodes,
            caps: Arc::default(),
        }
    }
}

impl Policy {
    /// Reports whether objects of the namespace are handled.
    #[must_use]
    pub fn covers_namespace(&self, namespace: &str) -> bool {
        !self.excluded_namespaces.contains(namespace)
            && self.watch_namespace.as_deref().is_none_or(|only| only == namespace)
    }

    /// Evaluates an object. The second value contains warnings about invalid values, for the user
    /// who applied the object.
    #[must_use]
    pub fn evaluate(
        &self,
        kind: &WorkloadKind,
        object: &ObjectView,
        namespace: &str,
        context: &dyn ClusterContext,
    ) -> (WarmDecision, Vec<String>) {
        if let Some(why) = self.ignored_reason(kind, object, namespace) {
            return (WarmDecision::Ignored(why), Vec::new());
        }
        let (kind_name, name) = workload_identity(kind, object, &self.kinds);
        let found = TemplateEvaluator {
            policy: self,
            context,
            object,
            kind: kind_name,
            name,
            namespace,
            namespace_annotations: context.namespace_annotations(namespace),
            is_daemon_set: is_daemon_set(kind),
        };
        let mut warnings = unread_parts(object);
        let decision = found.decide(kind, &mut warnings);
        let mut seen = BTreeSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        (decision, warnings)
    }

    /// Reports whether the object is handled, so that its images and annotations matter.
    #[must_use]
    pub fn handles(&self, kind: &WorkloadKind, object: &ObjectView, namespace: &str) -> bool {
        self.ignored_reason(kind, object, namespace).is_none()
    }

    fn ignored_reason(
        &self,
        kind: &WorkloadKind,
        object: &ObjectView,
        namespace: &str,
    ) -> Option<&'static str> {
        let metadata = &object.metadata;
        if !self.covers_namespace(namespace) {
            Some("its namespace is excluded")
        } else if metadata.labels.get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1) {
            Some("it was created by Prewarmer")
        } else if metadata.controller().is_some_and(|owner| self.kinds.covers_owner(owner)) {
            Some("its controller is handled as a workload")
        } else if metadata.deletion_timestamp.is_some() {
            Some("it is being deleted")
        } else if object.templates.is_empty() && object.invalid_templates.is_empty() {
            Some(if kind.is_custom() {
                "no pod template at the configured path"
            } else {
                "no pod template"
            })
        } else {
            None
        }
    }
}

/// Returns warnings about the parts of the object that were not read.
fn unread_parts(object: &ObjectView) -> Vec<String> {
    let invalid = |at: &String| {
        format!("prewarmer: {at}: invalid value; the images of this pod template are not warmed")
    };
    let mut warnings: Vec<String> = object.invalid_templates.iter().map(invalid).collect();
    if object.is_truncated() {
        warnings.push(format!(
            "prewarmer: more than {MAX_ITEMS} containers or volumes, or {MAX_TEMPLATES} pod templates: \
             images of the further ones are not warmed"
        ));
    }
    warnings
}

/// Returns the images that the kubelet never pulls for the object's pods. They are not warmed.
pub(super) fn images_never_pulled(object: &ObjectView) -> Vec<String> {
    let templates = object.templates.iter().filter(|template| !template.spec.is_windows());
    never_pulled(templates.flat_map(|template| template.spec.images(&[])))
}

/// Returns kind and name of the workload: of the object, or of the controller of an unknown kind
/// that created it. Owner references are not trusted: a user who may create pods can write any
/// owner on them. An owner of a handled kind is therefore ignored, since the pod would be
/// attributed to another workload.
fn workload_identity<'a>(
    kind: &'a WorkloadKind,
    object: &'a ObjectView,
    kinds: &WorkloadKinds,
) -> (&'a str, &'a str) {
    match object.metadata.controller() {
        Some(owner)
            if !owner.kind.is_empty()
                && !owner.name.is_empty()
                && !kinds.contains_name(&owner.kind) =>
        {
            (&owner.kind, &owner.name)
        }
        _ => (&kind.kind, object.metadata.name_or_prefix()),
    }
}

fn is_daemon_set(kind: &WorkloadKind) -> bool {
    kind.group == "apps" && kind.kind == "DaemonSet"
}

/// Context for the evaluation of one object.
struct TemplateEvaluator<'a> {
    policy: &'a Policy,
    context: &'a dyn ClusterContext,
    object: &'a ObjectView,
    kind: &'a str,
    name: &'a str,
    namespace: &'a str,
    namespace_annotations: Arc<BTreeMap<String, String>>,
    is_daemon_set: bool,
}

impl TemplateEvaluator<'_> {
    /// Decides about the object from all its templates.
    fn decide(&self, kind: &WorkloadKind, warnings: &mut Vec<String>) -> WarmDecision {
        let one_shot = self.one_shot(kind);
        if let Some((OneShot::Once(reason), template)) = one_shot {
            self.warn_of_unused_annotations(template, reason, warnings);
            return WarmDecision::OneShot(reason);
        }
        let templates = &self.object.templates;
        let mut room = MAX_IMAGES;
        let read: Vec<(bool, Workload)> = templates
            .iter()
            .filter(|template| !template.spec.is_windows())
            .map(|template| self.evaluate_template(template, &mut room, warnings))
            .collect();
        if read.is_empty() && !templates.is_empty() {
            return WarmDecision::Ignored("its pods run on Windows");
        }
        match (WarmDecision::of_templates(read), one_shot) {
            (WarmDecision::Warm(workloads), Some((OneShot::UnlessRecurring(owner), _))) => {
                WarmDecision::IfRecurring(owner.into(), workloads)
            }
            (decision, _) => decision,
        }
    }

    /// Classifies an object as one-shot, with its template; `None` where an annotation or a setting
    /// decides.
    fn one_shot(&self, kind: &WorkloadKind) -> Option<(OneShot<'_>, &TemplateView)> {
        let policy = self.policy;
        if policy.one_shot == OneShotMode::Warm || policy.default_mode == DefaultMode::OptIn {
            return None;
        }
        let one_shot = OneShot::of(kind, self.object)?;
        let template = self.object.templates.first().filter(|first| !first.spec.is_windows())?;
        let enabled = annotations::enabled(&self.annotation_layers(template));
        enabled.is_none().then_some((one_shot, template))
    }

    /// Adds warnings about the object's own annotations, which have no effect.
    fn warn_of_unused_annotations(
        &self,
        template: &TemplateView,
        reason: OneShotReason,
        warnings: &mut Vec<String>,
    ) {
        let [near, own, _] = self.annotation_layers(template);
        if near.keys().chain(own.keys()).any(|key| key.starts_with(PREFIX)) {
            let _ = self.annotation_values(template, warnings);
            warnings.push(format!("prewarmer: not warmed, {}", reason.message()));
        }
    }

    /// Returns the annotations of the template, the object and the namespace, in order of
    /// precedence.
    fn annotation_layers<'s>(
        &'s self,
        template: &'s TemplateView,
    ) -> [&'s BTreeMap<String, String>; 3] {
        let own = &self.object.metadata.annotations;
        [&template.metadata.annotations, own, &self.namespace_annotations]
    }

    /// Evaluates one template. Returns whether it is enabled, and the workload.
    fn evaluate_template(
        &self,
        template: &TemplateView,
        room: &mut usize,
        warnings: &mut Vec<String>,
    ) -> (bool, Workload) {
        let found = self.annotation_values(template, warnings);
        let spec = &template.spec;
        let additional = found.images.iter().map(|image| (image.as_str(), DeclaredPolicy::ByTag));
        let written = spec.images(&found.exclude_containers).chain(additional);
        let References { images, pull_policies } =
            parse_references(written, &self.policy.caps, room, warnings);
        let tolerations = self.admitted_tolerations(&spec.tolerations, warnings);
        let class = Some(&spec.runtime_class_name).filter(|name| !name.is_empty());
        let workload = Workload {
            kind: self.kind.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            images,
            pull_policies,
            placement: placement(
                spec,
                tolerations,
                class.and_then(|name| self.context.runtime_class(name)),
            ),
            credentials: spec.credentials(),
            options: found.options,
        };
        (found.enabled.unwrap_or(self.policy.default_mode == DefaultMode::OptOut), workload)
    }

    /// Parses the annotations of the template, the object and the namespace, and limits their
    /// options.
    fn annotation_values(
        &self,
        template: &TemplateView,
        warnings: &mut Vec<String>,
    ) -> AnnotationValues {
        let layers = self.annotation_layers(template);
        let [near, own, _] = layers;
        let unknown =
            annotations::unknown_annotations(near).chain(annotations::unknown_annotations(own));
        warnings.extend(unknown.take(MAX_WARNINGS.saturating_sub(warnings.len())));
        let autoscaled = self.context.max_replicas(self.namespace, self.kind, self.name);
        let replicas = template.replicas.max(autoscaled.unwrap_or(0));
        let least = self.policy.auto_nodes;
        let mut found = annotations::parse_layers(&layers, least, replicas, warnings);
        // The Namespace's own `nodes` annotation is set by its administrator and needs no
        // permission.
        let own_nodes = [near, own].iter().any(|layer| layer.contains_key(NODES_ANNOTATION));
        let most = (!self.is_trusted() && own_nodes)
            .then(|| annotations::auto_node_count(least, replicas));
        annotations::apply_limits(&mut found.options, most, &self.policy.caps, warnings);
        if self.is_daemon_set {
            found.options = found.options.with_all_nodes();
        }
        if self.context.is_rewritten(self.namespace, self.kind, self.name) {
            found.options.pull_method = PullMethod::Helper;
        }
        found
    }

    /// Reports whether the namespace may warm all nodes and use any toleration.
    fn is_trusted(&self) -> bool {
        let permission = self.namespace_annotations.get(ALLOW_ALL_NODES_ANNOTATION);
        self.policy.caps.admission.all_nodes
            || permission.is_some_and(|value| value.trim() == "true")
    }

    /// Returns the permitted tolerations. Adds a warning for each that is dropped.
    fn admitted_tolerations(
        &self,
        tolerations: &[Toleration],
        warnings: &mut Vec<String>,
    ) -> Vec<Toleration> {
        let (trusted, permitted) = (self.is_trusted(), &self.policy.caps.admission.tolerations);
        let mut admit = |toleration: &Toleration| {
            let key = toleration.key.as_deref().unwrap_or_default();
            let good = trusted || permitted.allows(key);
            if !good && warnings.len() < MAX_WARNINGS {
                warnings.push(format!(
                    "prewarmer: toleration with key {key:?} is dropped (--admission-tolerations)"
                ));
            }
            good
        };
        tolerations.iter().filter(|toleration| admit(toleration)).cloned().collect()
    }
}

/// Computes the placement. A pod with `nodeName` is placed on that node. The `scheduling` of a
/// `RuntimeClass` is added, as the API server does when it creates the pods.
fn placement(
    spec: &PodSpecView,
    tolerations: Vec<Toleration>,
    class: Option<RuntimeClassScheduling>,
) -> Placement {
    let by_name = || NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![spec.node_name.clone()]),
            }]),
            match_expressions: None,
        }],
    };
    let named = !spec.node_name.is_empty();
    let mut placement = Placement {
        node_selector: spec.node_selector.clone(),
        node_affinity: named.then(by_name).or_else(|| spec.required_affinity()),
        tolerations,
    };
    let class = class.unwrap_or_default();
    for (label, value) in class.node_selector {
        placement.node_selector.entry(label).or_insert(value);
    }
    for toleration in class.tolerations {
        if !placement.tolerations.contains(&toleration) {
            placement.tolerations.push(toleration);
        }
    }
    placement
}

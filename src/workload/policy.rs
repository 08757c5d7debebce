//! Which objects count, and what they ask for. *Pure.*

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    Kind, Kinds, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectView, Placement, Toleration, Workload,
    annotations,
    view::{MAX_ITEMS, MAX_TEMPLATES, PodSpecView, TemplateView},
};
use crate::{
    image::Reference,
    surroundings::{Scheduling, Surroundings},
    task::{PullMethod, caps::Caps, validate::AUTO_NODES},
    worker::MANAGED_BY,
};

/// Different images that are read of one object; the rest is named in a warning. Ten tasks of a hundred images each are made of
/// them, and reading that many references takes some 20 ms.
pub const MAX_IMAGES: usize = 1000;
/// Warnings collected of one object: users read ten of them at most.
const MAX_WARNINGS: usize = 100;
/// Characters of a text that a warning quotes.
const MAX_SHOWN: usize = 255;
/// Up to so many images are compared one by one, which is faster than hashing them.
const FEW: usize = 8;

/// What holds where no annotation says anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DefaultMode {
    /// All but opted-out workloads are warmed.
    #[default]
    OptOut,
    /// Only opted-in workloads are warmed.
    OptIn,
}

/// What counts.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What holds without annotations.
    pub default_mode: DefaultMode,
    /// Namespaces that are out.
    pub excluded_namespaces: BTreeSet<String>,
    /// The only namespace looked at, where set.
    pub watch_namespace: Option<String>,
    /// The kinds that make pods.
    pub kinds: Kinds,
    /// The least that `nodes: auto` comes to.
    pub auto_nodes: u32,
    /// What may be asked for at most.
    pub caps: Arc<Caps>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            default_mode: DefaultMode::default(),
            excluded_namespaces: BTreeSet::new(),
            watch_namespace: None,
            kinds: Kinds::default(),
            auto_nodes: AUTO_NODES,
            caps: Arc::default(),
        }
    }
}

/// What an object comes to.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Verdict {
    /// Nothing to do with us, and why.
    Ignored(&'static str),
    /// It wants nothing of us.
    OptedOut,
    /// There is nothing in it to warm.
    #[default]
    Nothing,
    /// These are to be warmed: one for each template, and placement.
    Wanted(Vec<Workload>),
}

impl Verdict {
    /// What is to be warmed.
    #[must_use]
    pub fn workloads(self) -> Vec<Workload> {
        match self {
            Self::Wanted(workloads) => workloads,
            _ => Vec::new(),
        }
    }

    /// The verdict's word, for metrics and people.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ignored(_) => "ignored",
            Self::OptedOut => "opted_out",
            Self::Nothing => "nothing",
            Self::Wanted(_) => "wanted",
        }
    }
}

impl Policy {
    /// Whether objects of the namespace count at all.
    #[must_use]
    pub fn covers(&self, namespace: &str) -> bool {
        !self.excluded_namespaces.contains(namespace)
            && self.watch_namespace.as_deref().is_none_or(|only| only == namespace)
    }

    /// Looks at an object. The second value is what made no sense, for the user to read.
    #[must_use]
    pub fn consider(
        &self,
        kind: &Kind,
        object: &ObjectView,
        namespace: &str,
        around: &Surroundings,
    ) -> (Verdict, Vec<String>) {
        if let Some(why) = self.ignored(kind, object, namespace) {
            return (Verdict::Ignored(why), Vec::new());
        }
        let (kind_name, name) = identity(kind, object, &self.kinds);
        let found = Found { policy: self, around, object, kind: kind_name, name, namespace, daemon: is_daemon(kind) };
        let unreadable = |at: &String| format!("prewarmer: {at}: this is no pod template, and is not warmed");
        let mut warnings: Vec<String> = object.unreadable.iter().map(unreadable).collect();
        if object.is_cut() {
            warnings.push(format!(
                "prewarmer: more than {MAX_ITEMS} containers or volumes, or {MAX_TEMPLATES} pod templates: \
                 images of the further ones are not warmed"
            ));
        }
        let mut room = MAX_IMAGES;
        let read: Vec<(bool, Workload)> = object
            .templates
            .iter()
            .filter(|template| !template.spec.is_windows())
            .map(|template| found.read(template, &mut room, &mut warnings))
            .collect();
        let mut seen = BTreeSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        if read.is_empty() && !object.templates.is_empty() {
            return (Verdict::Ignored("its pods are for Windows"), warnings);
        }
        if !read.is_empty() && read.iter().all(|(enabled, _)| !enabled) {
            return (Verdict::OptedOut, warnings);
        }
        let wanted: Vec<Workload> =
            read.into_iter().filter(|(enabled, w)| *enabled && !w.images.is_empty()).map(|(_, w)| w).collect();
        (if wanted.is_empty() { Verdict::Nothing } else { Verdict::Wanted(wanted) }, warnings)
    }

    fn ignored(&self, kind: &Kind, object: &ObjectView, namespace: &str) -> Option<&'static str> {
        let metadata = &object.metadata;
        if !self.covers(namespace) {
            Some("its namespace is out")
        } else if metadata.labels.get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1) {
            Some("it is our own")
        } else if metadata.controller().is_some_and(|owner| self.kinds.knows(owner)) {
            Some("its controller is known")
        } else if metadata.deletion_timestamp.is_some() {
            Some("it is being deleted")
        } else if object.templates.is_empty() && object.unreadable.is_empty() {
            Some(if kind.is_custom() { "it has no pod template at the path of the setting" } else { "no pod template" })
        } else {
            None
        }
    }
}

/// What counts as the workload: the object, or the unknown controller that made it. Anybody who may create pods may write any
/// owner on them: an owner of a kind whose objects come by here themselves would be taken for one of those.
fn identity<'a>(kind: &'a Kind, object: &'a ObjectView, kinds: &Kinds) -> (&'a str, &'a str) {
    match object.metadata.controller() {
        Some(owner) if !owner.kind.is_empty() && !owner.name.is_empty() && !kinds.names(&owner.kind) => {
            (&owner.kind, &owner.name)
        }
        _ => (&kind.kind, object.metadata.name_or_prefix()),
    }
}

fn is_daemon(kind: &Kind) -> bool {
    kind.group == "apps" && kind.kind == "DaemonSet"
}

/// An object that counts.
struct Found<'a> {
    policy: &'a Policy,
    around: &'a Surroundings,
    object: &'a ObjectView,
    kind: &'a str,
    name: &'a str,
    namespace: &'a str,
    daemon: bool,
}

impl Found<'_> {
    /// Reads one template: whether it is to be warmed, and what it asks for.
    fn read(&self, template: &TemplateView, room: &mut usize, warnings: &mut Vec<String>) -> (bool, Workload) {
        let (near, own) = (&template.metadata.annotations, &self.object.metadata.annotations);
        let namespace = self.around.namespace(self.namespace);
        let space = MAX_WARNINGS.saturating_sub(warnings.len());
        warnings.extend(annotations::strangers(near).chain(annotations::strangers(own)).take(space));
        let most = self.around.most_replicas(self.namespace, self.kind, self.name);
        let replicas = template.replicas.max(most.unwrap_or(0));
        let mut found = annotations::read(&[near, own, &namespace], self.policy.auto_nodes, replicas, warnings);
        let caps = &*self.policy.caps;
        let trusted = caps.admission.all_nodes
            || namespace.get(annotations::ALLOW_ALL_NODES).is_some_and(|value| value.trim() == "true");
        // What the Namespace itself says of the number of nodes is its administrator's word.
        let own_nodes = [near, own].iter().any(|layer| layer.contains_key("prewarm.io/nodes"));
        let auto = (!trusted && own_nodes).then(|| annotations::automatic(self.policy.auto_nodes, replicas));
        annotations::limit(&mut found.options, auto, caps, warnings);
        if self.daemon {
            found.options = found.options.on_all_nodes();
        }
        if self.around.is_rewritten(self.namespace, self.kind, self.name) {
            found.options.pull_method = PullMethod::Helper;
        }
        let spec = &template.spec;
        let written = spec.images(&found.exclude_containers).chain(found.images.iter().map(String::as_str));
        let mut admit = |toleration: &Toleration| {
            let key = toleration.key.as_deref().unwrap_or_default();
            let good = trusted || caps.admission.tolerations.admits(key);
            if !good && warnings.len() < MAX_WARNINGS {
                warnings
                    .push(format!("prewarmer: the toleration of {key:?} is not taken over (--admission-tolerations)"));
            }
            good
        };
        let tolerations = spec.tolerations.iter().filter(|toleration| admit(toleration)).cloned().collect();
        let class = Some(&spec.runtime_class_name).filter(|name| !name.is_empty());
        let workload = Workload {
            kind: self.kind.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            images: references(written, caps, room, warnings),
            placement: placement(spec, tolerations, class.and_then(|name| self.around.runtime_class(name))),
            credentials: spec.credentials(),
            options: found.options,
        };
        (found.enabled.unwrap_or(self.policy.default_mode == DefaultMode::OptOut), workload)
    }
}

/// The references in `written`, each once and in their order, until `room` is used up.
fn references<'a>(
    written: impl Iterator<Item = &'a str>,
    caps: &Caps,
    room: &mut usize,
    warnings: &mut Vec<String>,
) -> Vec<Reference> {
    let mut warn = |text: String| {
        if warnings.len() < MAX_WARNINGS {
            warnings.push(text);
        }
    };
    let (mut images, mut left_out): (Vec<Reference>, usize) = (Vec::new(), 0);
    for text in distinct(written) {
        if *room == 0 {
            left_out = left_out.saturating_add(1);
            continue;
        }
        *room = room.saturating_sub(1);
        match text.parse::<Reference>() {
            Ok(reference) if images.len() < FEW && images.contains(&reference) => {}
            Ok(reference) => match caps.registries.refusal(&reference) {
                Some(why) => warn(format!("prewarmer: image {text:?} is not warmed: {why}")),
                None => images.push(reference),
            },
            Err(error) => {
                let shown: String = text.chars().take(MAX_SHOWN).collect();
                warn(format!("prewarmer: image {shown:?} is not warmed: {error}"));
            }
        }
    }
    if left_out > 0 {
        warn(format!("prewarmer: more than {MAX_IMAGES} images: {left_out} further ones are not warmed"));
    }
    if images.len() > FEW {
        let mut seen = HashSet::with_capacity(images.len());
        let first: Vec<bool> = images.iter().map(|image| seen.insert(image.normalized())).collect();
        let mut first = first.into_iter();
        images.retain(|_| first.next().unwrap_or(true));
    }
    images
}

/// Each text once, in the order of their first.
fn distinct<'a>(written: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut texts: Vec<&str> = Vec::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for text in written {
        if texts.len() < FEW {
            if !texts.contains(&text) {
                texts.push(text);
            }
            continue;
        }
        if seen.is_empty() {
            seen.extend(&texts);
        }
        if seen.insert(text) {
            texts.push(text);
        }
    }
    texts
}

/// A pod that names its node is placed by that name; a runtime class adds what it asks of nodes, as the API server does when
/// the pods are made.
fn placement(spec: &PodSpecView, tolerations: Vec<Toleration>, class: Option<Scheduling>) -> Placement {
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

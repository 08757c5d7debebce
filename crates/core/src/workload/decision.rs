//! Decision about an object. Pure: no client, no clock, no I/O.

use super::{
    definition::Workload,
    one_shot::{OneShotReason, OwnerKind},
};

/// Decision about an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum WarmDecision {
    /// The object is not handled, for this reason.
    Ignored(&'static str),
    /// The object has opted out, or has not opted in.
    OptedOut,
    /// The object runs once, for this reason, and has not opted in.
    OneShot(OneShotReason),
    /// Workloads to warm for those of their images that recur among the objects of controllers of
    /// this kind.
    IfRecurring(OwnerKind, Vec<Workload>),
    /// The object has no images to warm.
    #[default]
    NoImages,
    /// Workloads to warm, one for each pod template.
    Warm(Vec<Workload>),
}

impl WarmDecision {
    /// Decides about an object from its templates: whether each is enabled, and its workload.
    pub(super) fn of_templates(templates: Vec<(bool, Workload)>) -> Self {
        if !templates.is_empty() && templates.iter().all(|(enabled, _)| !enabled) {
            return Self::OptedOut;
        }
        let wanted: Vec<Workload> = templates
            .into_iter()
            .filter(|(enabled, workload)| *enabled && !workload.images.is_empty())
            .map(|(_, workload)| workload)
            .collect();
        if wanted.is_empty() { Self::NoImages } else { Self::Warm(wanted) }
    }

    /// Returns the decision where it is not known which images recur.
    #[must_use]
    pub fn without_history(self) -> Self {
        match self {
            Self::IfRecurring(..) => Self::OneShot(OneShotReason::NewImage),
            other => other,
        }
    }

    /// Returns the workloads to warm; empty for other decisions.
    #[must_use]
    pub fn workloads(self) -> Vec<Workload> {
        match self {
            Self::Warm(workloads) => workloads,
            _ => Vec::new(),
        }
    }

    /// Returns the workloads whose images may be needed on nodes: those to warm, and those that are
    /// warmed if their images recur.
    #[must_use]
    pub fn needed_workloads(self) -> Vec<Workload> {
        match self {
            Self::Warm(workloads) | Self::IfRecurring(_, workloads) => workloads,
            _ => Vec::new(),
        }
    }

    /// Returns the label value for metrics and messages.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ignored(_) => "ignored",
            Self::OptedOut => "opted_out",
            Self::OneShot(_) | Self::IfRecurring(..) => "one_shot",
            Self::NoImages => "nothing",
            Self::Warm(_) => "wanted",
        }
    }
}

//! Events of the watches.

use std::collections::HashSet;

use kube::ResourceExt;
use prewarmer_core::workload::{ObjectView, WorkloadKind};

use super::dynamic_workload::DynamicWorkload;

/// Event of a watch.
pub(super) enum WorkloadEvent {
    /// An object exists. `first`: it existed when the watch started.
    Applied {
        kind: usize,
        object: Box<ObjectView>,
        first: bool,
    },
    Deleted {
        kind: usize,
        namespace: String,
        name: String,
    },
    /// A list is complete and contains these objects only.
    ListCompleted {
        kind: usize,
        all: HashSet<(String, String)>,
    },
}

/// Returns the event of an object; `None` if it cannot be parsed.
pub(super) fn applied_event(
    kind: &WorkloadKind,
    index: usize,
    object: DynamicWorkload,
    first: bool,
) -> Option<WorkloadEvent> {
    let name = object.name_any();
    match kind.parse_value(object.object) {
        Ok(object) => Some(WorkloadEvent::Applied { kind: index, object: Box::new(object), first }),
        Err(error) => {
            tracing::debug!(kind = kind.kind, name, %error, "the object cannot be parsed");
            None
        }
    }
}

//! Node information and eligibility. Pure: no client, no clock, no I/O.
//!
//! Input: slim Node objects, and a task's requirements. Output: for each node whether it matches,
//! and if so whether it can be warmed now. May use `slim`.

mod affinity;
mod ineligible;
mod info;
mod interner;
mod networks;
mod requirements;

pub use ineligible::IneligibleReason;
pub use info::{MajorMinor, NodeInfo, NodeLabels, parse_byte_quantity, parse_millicores};
pub use interner::Interner;
pub use networks::{enclosing_network, is_plausible, node_networks};
pub use requirements::NodeRequirements;

//! State behind the watches of workloads: the images that each needs, and the progress of rollouts.
//!
//! Input: reduced workloads and the time. Output: changes without a task, and images that no
//! workload needs any more. May use `intake` and `workload`.

pub mod image_refs;
pub mod index;
pub mod progress;

pub use self::image_refs::ImageRefs;

//! Properties that must hold for any input. Used by the fuzz targets, and by the test that replays
//! their corpus.

mod audit;
mod crd;
mod manifest;
mod reconcile;
mod rest;
mod review;
mod text;
mod typed;

use std::sync::LazyLock;

use prewarmer_core::workload::{OneShotMode, Policy, WorkloadKind, WorkloadKinds};

pub use self::{
    audit::audit,
    manifest::manifest,
    reconcile::reconcile,
    rest::rest,
    review::review,
    text::{annotations, reference},
};

/// Policy with two configured kinds: one with a template, one with a list of templates. It warms
/// one-shot pods and Jobs too.
static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let further = ["a.b/v1/C=spec.template", "a.b/v1/D=spec.list[*].template"];
    let further = further.iter().filter_map(|text| WorkloadKind::parse(text).ok()).collect();
    Policy {
        kinds: WorkloadKinds::with_custom(further),
        one_shot: OneShotMode::Warm,
        ..Policy::default()
    }
});

/// The same policy, which skips one-shot pods and Jobs.
static SKIPPING_POLICY: LazyLock<Policy> =
    LazyLock::new(|| Policy { one_shot: OneShotMode::Skip, ..POLICY.clone() });

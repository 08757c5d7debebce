//! Evaluation of the policies that protect workers and the server's account.

use crate::doctor::{
    finding::{Finding, Severity, finding, ok, unavailable},
    results::ClusterResults,
};

/// Number of policies that reserve the labels of workers.
const RESERVED_POLICIES: usize = 3;
/// Number of policies that restrict the server's account.
const FENCE_POLICIES: usize = 3;

pub(super) fn fence(answers: &ClusterResults) -> Finding {
    let area = "fence";
    if let Some(unseen) =
        unavailable(area, &answers.fence_policies, "list ValidatingAdmissionPolicyBindings")
    {
        return unseen;
    }
    match answers.fence_policies.found() {
        Some(&count) if count >= FENCE_POLICIES => {
            ok(area, "the server's account can create worker pods only")
        }
        _ => finding(
            Severity::Warning,
            area,
            "no policy restricts which pods the server's account may create",
            "set fence.enabled=true; until then protect its token like an administrator's",
        ),
    }
}

pub(super) fn reserved(answers: &ClusterResults) -> Finding {
    let area = "labels";
    if let Some(unseen) =
        unavailable(area, &answers.reserved_policies, "list ValidatingAdmissionPolicyBindings")
    {
        return unseen;
    }
    match answers.reserved_policies.found() {
        Some(&count) if count >= RESERVED_POLICIES => {
            ok(area, "only the server can create Jobs and pods with the labels of workers")
        }
        _ => finding(
            Severity::Warning,
            area,
            "other users can create Jobs and pods with the labels of workers; the server ignores objects that it did not create",
            "set reservedLabels.enabled=true",
        ),
    }
}

//! Evaluation of permissions: of the caller, and of the accounts of the server.

use crate::doctor::{
    finding::{Finding, Severity, finding, ok, unavailable},
    results::{ClusterResults, QueryResult},
};

pub(super) fn own_permissions(answers: &ClusterResults) -> Finding {
    permissions(
        "your RBAC",
        &answers.own_permissions,
        "you may create every object of an installation",
        "you lack permissions",
        "let a cluster administrator install Prewarmer",
    )
}

pub(super) fn server_permissions(answers: &ClusterResults) -> Finding {
    permissions(
        "server RBAC",
        &answers.server_permissions,
        "the server's accounts have the required permissions",
        "the server's accounts lack permissions",
        "upgrade the chart, or apply deploy/prewarmer.yaml again: roles are missing or outdated",
    )
}

fn permissions(
    area: &'static str,
    all: &[(String, QueryResult<bool>)],
    good: &str,
    bad: &str,
    remedy: &str,
) -> Finding {
    if let Some(unseen) =
        all.iter().find_map(|(_, seen)| unavailable(area, seen, "create SubjectAccessReviews"))
    {
        return unseen;
    }
    let missing: Vec<&str> = all
        .iter()
        .filter(|(_, seen)| seen.found() != Some(&true))
        .map(|(right, _)| right.as_str())
        .collect();
    if missing.is_empty() {
        return ok(area, good);
    }
    finding(Severity::Bad, area, format!("{bad}: {}", missing.join("; ")), remedy)
}

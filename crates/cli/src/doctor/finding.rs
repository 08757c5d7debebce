//! Finding of a check: severity, observed state and remedy.

use serde::Serialize;

use super::results::QueryResult;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// The check passed.
    Ok,
    /// Not checked, because the caller lacks the permission.
    Skipped,
    /// Installation works, with a restriction.
    Warning,
    /// The check failed.
    Bad,
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Severity,
    /// Subject of the check.
    pub(super) area: &'static str,
    /// Observed state.
    pub(super) found: String,
    /// Remedy; empty where nothing needs to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) remedy: String,
}

/// Creates a finding.
pub(super) fn finding(
    level: Severity,
    area: &'static str,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { level, area, found: found.into(), remedy: remedy.into() }
}

/// Creates the finding of a passed check.
pub(super) fn ok(area: &'static str, found: impl Into<String>) -> Finding {
    finding(Severity::Ok, area, found, "")
}

/// Returns a finding where there is no result to evaluate: no permission, or a failed request.
pub(super) fn unavailable<T>(
    area: &'static str,
    seen: &QueryResult<T>,
    right: &str,
) -> Option<Finding> {
    match seen {
        QueryResult::Forbidden => Some(finding(
            Severity::Skipped,
            area,
            format!("not checked: you lack the permission to {right}"),
            "",
        )),
        QueryResult::Failed(error) => Some(finding(
            Severity::Bad,
            area,
            format!("request failed: {error}"),
            "check the API server, and the network connection to it",
        )),
        QueryResult::Found(_) | QueryResult::Absent => None,
    }
}

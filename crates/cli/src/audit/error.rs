//! Errors of an audit, and their exit codes.

use prewarmer_kube::api_error::ApiErrorKind;

use super::pages::ReadError;

/// Reason why there is no report. The message states what to do.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The client cannot be created; contains the cause.
    #[error("cannot connect to the cluster: {0}; set KUBECONFIG, or run this in a pod")]
    Connection(String),
    /// The namespace is no DNS label.
    #[error(
        "--namespace: {0:?}: expected at most 63 lower-case letters, digits and dashes, which begin \
         and end with a letter or digit"
    )]
    Namespace(String),
    /// The credentials are invalid.
    #[error("the cluster rejected your credentials: they are invalid or have expired")]
    Unauthorized,
    /// The permission to list events is missing: the scope, and the message of the API server.
    #[error(
        "not permitted to list events {scope}: {message}; grant the permissions of docs/audit.md, or \
         select one namespace by --namespace"
    )]
    Forbidden {
        /// Namespaces that were to be read.
        scope: String,
        /// Message of the API server.
        message: String,
    },
    /// Another failure of the list of events; contains the cause.
    #[error("cannot list events: {0}; check the API server, and the network connection to it")]
    Request(String),
    /// No event about an image is stored: the scope, and the number of events that were not usable.
    #[error(
        "no start of a container is recorded {scope}{}; Kubernetes keeps events for one hour by \
         default (--event-ttl of the API server), so run this within an hour after a rollout",
        unusable(*.ignored)
    )]
    NoEvents {
        /// Namespaces that were read.
        scope: String,
        /// Number of events that were not usable.
        ignored: u64,
    },
    /// The report cannot be serialized; contains the error.
    #[error("cannot serialize the output: {0}")]
    Output(String),
}

fn unusable(ignored: u64) -> String {
    if ignored == 0 { String::new() } else { format!(" ({ignored} unusable events)") }
}

impl AuditError {
    /// Creates the error of a client that cannot be created.
    pub(super) fn connection(error: &kube::Error) -> Self {
        Self::Connection(root_cause(error))
    }

    /// Creates the error of a failed list of events.
    pub(super) fn of_events(error: &ReadError, scope: String) -> Self {
        let ReadError::Api(api) = error else { return Self::Request(root_cause(error)) };
        match ApiErrorKind::of(api) {
            ApiErrorKind::Unauthorized => Self::Unauthorized,
            kind if kind.is_forbidden() => Self::Forbidden { scope, message: root_cause(api) },
            _ => Self::Request(root_cause(api)),
        }
    }

    /// Returns the exit code: 1 no report, 2 an invalid argument.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Namespace(_) => 2,
            _ => 1,
        }
    }
}

/// Returns the message of the API server, or the innermost cause of an error, which is the specific
/// one.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    loop {
        if let Some(kube::Error::Api(status)) = last.downcast_ref::<kube::Error>() {
            return status.message.trim().to_owned();
        }
        match last.source() {
            Some(cause) => last = cause,
            None => return last.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(401, "Unauthorized", "rejected your credentials")]
    #[case(
        403,
        "events is forbidden",
        "not permitted to list events in shop: events is forbidden; grant"
    )]
    #[case(500, "etcd has no leader", "cannot list events: etcd has no leader; check")]
    fn failed_lists_state_what_to_do(
        #[case] code: u16,
        #[case] message: &str,
        #[case] expected: &str,
    ) {
        let status = json!({"code": code, "message": message, "reason": ""});
        let status = serde_json::from_value(status).unwrap();
        let error = ReadError::Api(kube::Error::Api(Box::new(status)));
        let error = AuditError::of_events(&error, "in shop".into());
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn missing_events_state_how_long_they_are_kept() {
        let error = |ignored| AuditError::NoEvents { scope: "in shop".into(), ignored }.to_string();
        assert!(error(0).starts_with("no start of a container is recorded in shop; Kubernetes"));
        assert!(
            error(3).contains("in shop (3 unusable events); ") && error(0).contains("one hour")
        );
    }
}

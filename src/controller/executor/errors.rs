//! Meaning of an error of the API server for an effect. Pure: no client, no clock, no I/O.

use prewarmer_core::{
    controller::{ApplyError, Effect, EffectOutput},
    worker::FailureReason,
};
use prewarmer_kube::api_error::{ApiErrorKind, is_too_large};

/// Maps an error of the API server. Creating an object that exists and deleting one that does not
/// are successes.
pub(super) fn map_api_error(
    effect: &Effect,
    error: kube::Error,
) -> Result<EffectOutput, ApplyError> {
    let kube::Error::Api(status) = error else {
        return Err(ApplyError::Transient(error.to_string()));
    };
    let creates = matches!(effect, Effect::CreateWorker(_) | Effect::CreatePlan(_));
    let deletes = matches!(
        effect,
        Effect::DeleteWorker(..) | Effect::DeleteWorkers(..) | Effect::DeleteTask(_)
    );
    let updates = matches!(effect, Effect::WriteStatus(_));
    let stores = matches!(effect, Effect::CreatePlan(_) | Effect::WriteStatus(_));
    let kind = ApiErrorKind::of_status(&status);
    if stores && (kind.is_invalid() || is_too_large(&status)) {
        return Err(ApplyError::Unstorable(status.message));
    }
    match kind {
        ApiErrorKind::AlreadyExists if creates => Ok(EffectOutput::default()),
        ApiErrorKind::NotFound if deletes => Ok(EffectOutput::default()),
        // The name belongs to another object now, or to another version of it.
        _ if deletes && kind.is_conflict() => Err(ApplyError::Conflict(status.message)),
        _ if updates && kind.is_outdated() => Err(ApplyError::Conflict(status.message)),
        ApiErrorKind::QuotaExceeded => {
            Err(ApplyError::Rejected(FailureReason::QuotaExceeded, status.message))
        }
        _ if kind.is_rejection() => {
            Err(ApplyError::Rejected(FailureReason::Forbidden, status.message))
        }
        _ => Err(ApplyError::Transient(status.message)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::core::Status;
    use prewarmer_core::{
        controller::{Propagation, StatusWrite, WorkerCreation, WorkerDeletion, WorkersDeletion},
        task::WorkerKind,
    };
    use rstest::rstest;

    use super::*;

    fn create() -> Effect {
        let (namespace, name) = ("shop".into(), "w".into());
        Effect::CreateWorker(Box::new(WorkerCreation {
            kind: WorkerKind::Job,
            namespace,
            name,
            body: Vec::new(),
        }))
    }

    fn map_status(
        effect: &Effect,
        code: u16,
        reason: &str,
        message: &str,
    ) -> Result<EffectOutput, ApplyError> {
        let status =
            Status { code, reason: reason.into(), message: message.into(), ..Status::default() };
        map_api_error(effect, kube::Error::Api(Box::new(status)))
    }

    #[rstest]
    #[case(
        403,
        "jobs is forbidden: exceeded quota: q, requested: count/jobs.batch=1",
        FailureReason::QuotaExceeded
    )]
    #[case(403, "admission webhook denied the request", FailureReason::Forbidden)]
    #[case(
        403,
        r#"pods "x" is forbidden: violates PodSecurity "restricted:latest""#,
        FailureReason::Forbidden
    )]
    #[case(
        403,
        r#"pods "x" is forbidden: [minimum cpu usage per Container is 10m]"#,
        FailureReason::Forbidden
    )]
    #[case(422, "spec.template: invalid", FailureReason::Forbidden)]
    fn rejections_have_a_failure_reason(
        #[case] code: u16,
        #[case] message: &str,
        #[case] expected: FailureReason,
    ) {
        for effect in [create(), Effect::DryRun(Box::default())] {
            assert!(
                matches!(map_status(&effect, code, "", message), Err(ApplyError::Rejected(reason, _)) if reason == expected)
            );
        }
    }

    #[test]
    fn existing_on_create_and_missing_on_delete_succeed() {
        assert!(map_status(&create(), 409, "AlreadyExists", "").is_ok());
        let one = Effect::DeleteWorker(Box::new(WorkerDeletion {
            kind: WorkerKind::Pod,
            namespace: "a".into(),
            name: "w".into(),
            uid: "u".into(),
            propagation: Propagation::Background,
        }));
        assert!(map_status(&one, 404, "NotFound", "").is_ok());
        assert!(
            matches!(map_status(&one, 409, "Conflict", ""), Err(ApplyError::Conflict(_))),
            "the name belongs to another object"
        );
        let (kind, namespace) = (WorkerKind::Pod, "a".into());
        let propagation = Propagation::Background;
        let many = WorkersDeletion { kind, namespace, batch: None, propagation };
        let many = Effect::DeleteWorkers(many);
        assert!(matches!(map_status(&many, 500, "", ""), Err(ApplyError::Transient(_))));
    }

    /// Every further attempt for such an object would fail as well.
    #[test]
    fn objects_that_cannot_be_stored_are_not_retried() {
        let status = StatusWrite {
            status: prewarmer_core::task::PrewarmTaskStatus::default(),
            version: None,
            events: Vec::new(),
        };
        for effect in [Effect::CreatePlan(Arc::default()), Effect::WriteStatus(Box::new(status))] {
            for (code, message) in [
                (422, "PrewarmPlan.prewarm.io \"p\" is invalid: spec.nodes: Too many"),
                (413, "Request entity too large: limit is 3145728"),
                (500, "etcdserver: request is too large"),
                (
                    500,
                    "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2 vs. 1)",
                ),
            ] {
                assert!(
                    matches!(
                        map_status(&effect, code, "", message),
                        Err(ApplyError::Unstorable(_))
                    ),
                    "{message}"
                );
            }
            assert!(matches!(
                map_status(&effect, 500, "", "etcdserver: leader changed"),
                Err(ApplyError::Transient(_))
            ));
        }
        assert!(
            matches!(map_status(&create(), 422, "", ""), Err(ApplyError::Rejected(..))),
            "a rejected worker is a failure of its node"
        );
    }

    #[test]
    fn concurrent_status_write_is_a_conflict() {
        let status = Box::default();
        let status = Effect::WriteStatus(Box::new(StatusWrite {
            status: *status,
            version: None,
            events: Vec::new(),
        }));
        assert!(matches!(map_status(&status, 409, "Conflict", ""), Err(ApplyError::Conflict(_))));
        assert!(matches!(map_status(&status, 404, "NotFound", ""), Err(ApplyError::Conflict(_))));
    }
}

//! Classification of errors of the API server. Pure: no client, no clock, no I/O.

use kube::core::Status;

/// Part of the message of a 403 by which a `ResourceQuota` rejects an object. The reason of the
/// status is `Forbidden`, as for a missing permission.
const QUOTA_MESSAGE: &str = "exceeded quota";
/// Field in the message of a 422 for a patch that contains the UID of a replaced object.
const UID_FIELD: &str = "metadata.uid";
/// Messages of the API server for objects too large for etcd or for its gRPC connection. They are
/// sent with various status codes.
const TOO_LARGE_MESSAGES: [&str; 2] =
    ["request is too large", "trying to send message larger than max"];

/// Kind of an error of a request to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiErrorKind {
    /// 400: the request is malformed.
    BadRequest,
    /// 401: the credentials are missing, invalid or expired.
    Unauthorized,
    /// 403: a missing permission, or a policy or webhook that rejects the object.
    Forbidden,
    /// 403: a `ResourceQuota` has no room for the object.
    QuotaExceeded,
    /// 404: the object, its namespace or its kind does not exist.
    NotFound,
    /// 409: an object of this name exists.
    AlreadyExists,
    /// 409: another client changed the object, or a precondition does not hold.
    Conflict,
    /// 422: a field of the object is invalid.
    Invalid,
    /// 422: the object of this name has another UID than the request.
    UidMismatch,
    /// Every other status of the API server, such as 429 and 500, and every error without a
    /// status. A retry may succeed.
    Transient,
}

impl ApiErrorKind {
    /// Classifies an error of a client.
    #[must_use]
    pub fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            _ => Self::Transient,
        }
    }

    /// Classifies a status of the API server by its code, and by its reason or message where a code
    /// has several meanings.
    #[must_use]
    pub fn of_status(status: &Status) -> Self {
        match status.code {
            400 => Self::BadRequest,
            401 => Self::Unauthorized,
            403 if status.message.contains(QUOTA_MESSAGE) => Self::QuotaExceeded,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            409 if status.is_already_exists() => Self::AlreadyExists,
            409 => Self::Conflict,
            422 if status.message.contains(UID_FIELD) => Self::UidMismatch,
            422 => Self::Invalid,
            _ => Self::Transient,
        }
    }

    /// Reports whether the status is 403, for any cause.
    #[must_use]
    pub fn is_forbidden(self) -> bool {
        matches!(self, Self::Forbidden | Self::QuotaExceeded)
    }

    /// Reports whether the status is 409: another client wrote first.
    #[must_use]
    pub fn is_conflict(self) -> bool {
        matches!(self, Self::AlreadyExists | Self::Conflict)
    }

    /// Reports whether the status is 404 or 409: the object to be changed was deleted or changed.
    #[must_use]
    pub fn is_outdated(self) -> bool {
        self == Self::NotFound || self.is_conflict()
    }

    /// Reports whether the status is 404, 409, or 422 for another UID: the object that the request
    /// names by its UID was deleted, changed or replaced. The newer state arrives by the watch.
    #[must_use]
    pub fn is_gone_or_replaced(self) -> bool {
        self == Self::UidMismatch || self.is_outdated()
    }

    /// Reports whether the status is 422.
    #[must_use]
    pub fn is_invalid(self) -> bool {
        matches!(self, Self::Invalid | Self::UidMismatch)
    }

    /// Reports whether the status is 400, 403, 404 or 422: the same request is rejected again until
    /// the object, a permission or a policy is changed.
    #[must_use]
    pub fn is_rejection(self) -> bool {
        matches!(self, Self::BadRequest | Self::NotFound)
            || self.is_forbidden()
            || self.is_invalid()
    }
}

/// Reports whether the object is too large to be stored, whatever the kind of the error.
#[must_use]
pub fn is_too_large(status: &Status) -> bool {
    status.code == 413 || TOO_LARGE_MESSAGES.iter().any(|words| status.message.contains(words))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::malformed(
        ApiErrorKind::BadRequest,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"PrewarmTask in version \"v1alpha1\" cannot be handled as a PrewarmTask: strict decoding error: unknown field \"spec.image\"","reason":"BadRequest","code":400}"#
    )]
    #[case::credentials(
        ApiErrorKind::Unauthorized,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#
    )]
    #[case::permission(
        ApiErrorKind::Forbidden,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"prewarmtasks.prewarm.io is forbidden: User \"eve\" cannot list resource \"prewarmtasks\" in API group \"prewarm.io\" in the namespace \"shop\"","reason":"Forbidden","details":{"group":"prewarm.io","kind":"prewarmtasks"},"code":403}"#
    )]
    #[case::quota(
        ApiErrorKind::QuotaExceeded,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"jobs.batch \"w\" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: count/jobs.batch=2, limited: count/jobs.batch=2","reason":"Forbidden","details":{"name":"w","group":"batch","kind":"jobs"},"code":403}"#
    )]
    #[case::missing_object(
        ApiErrorKind::NotFound,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"prewarmtasks.prewarm.io \"nightly\" not found","reason":"NotFound","details":{"name":"nightly","group":"prewarm.io","kind":"prewarmtasks"},"code":404}"#
    )]
    #[case::existing_name(
        ApiErrorKind::AlreadyExists,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"leases.coordination.k8s.io \"prewarmer\" already exists","reason":"AlreadyExists","details":{"name":"prewarmer","group":"coordination.k8s.io","kind":"leases"},"code":409}"#
    )]
    #[case::changed_object(
        ApiErrorKind::Conflict,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Operation cannot be fulfilled on leases.coordination.k8s.io \"prewarmer\": the object has been modified; please apply your changes to the latest version and try again","reason":"Conflict","details":{"name":"prewarmer","group":"coordination.k8s.io","kind":"leases"},"code":409}"#
    )]
    #[case::invalid_field(
        ApiErrorKind::Invalid,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"PrewarmTask.prewarm.io \"nightly\" is invalid: spec.images: Invalid value: 0: spec.images in body should have at least 1 items","reason":"Invalid","details":{"name":"nightly","group":"prewarm.io","kind":"PrewarmTask","causes":[{"reason":"FieldValueInvalid","message":"Invalid value: 0","field":"spec.images"}]},"code":422}"#
    )]
    #[case::replaced_object(
        ApiErrorKind::UidMismatch,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"PrewarmTask.prewarm.io \"nightly\" is invalid: metadata.uid: Invalid value: \"a\": field is immutable","reason":"Invalid","details":{"name":"nightly","group":"prewarm.io","kind":"PrewarmTask","causes":[{"reason":"FieldValueInvalid","message":"Invalid value: \"a\": field is immutable","field":"metadata.uid"}]},"code":422}"#
    )]
    #[case::overload(
        ApiErrorKind::Transient,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Too many requests, please try again later.","reason":"TooManyRequests","details":{"retryAfterSeconds":1},"code":429}"#
    )]
    #[case::timeout(
        ApiErrorKind::Transient,
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"etcdserver: request timed out","reason":"Timeout","code":504}"#
    )]
    #[case::body_without_code(ApiErrorKind::Transient, "{}")]
    fn statuses_have_a_kind(#[case] expected: ApiErrorKind, #[case] body: &str) {
        let status: Status = serde_json::from_str(body).unwrap();
        assert_eq!(ApiErrorKind::of(&kube::Error::Api(Box::new(status))), expected);
    }

    /// A proxy answers without a status object; the client then keeps only the code and the text.
    #[test]
    fn errors_without_a_status_object_have_a_kind() {
        let status =
            Status::failure("404 page not found", "Failed to parse error data").with_code(404);
        assert_eq!(ApiErrorKind::of_status(&status), ApiErrorKind::NotFound);
        let error = kube::Error::SerdeError(serde_json::from_str::<u8>("x").unwrap_err());
        assert_eq!(ApiErrorKind::of(&error), ApiErrorKind::Transient);
    }

    /// One letter for each predicate: forbidden, conflict, outdated, gone, invalid, rejection.
    #[rstest]
    #[case(400, "", "", "r")]
    #[case(401, "", "", "")]
    #[case(403, "", "denied", "fr")]
    #[case(403, "", "exceeded quota: q", "fr")]
    #[case(404, "", "", "ogr")]
    #[case(409, "AlreadyExists", "", "cog")]
    #[case(409, "Conflict", "", "cog")]
    #[case(422, "", "spec.images: Invalid value", "ir")]
    #[case(422, "", "metadata.uid: Invalid value", "gir")]
    #[case(500, "", "", "")]
    fn predicates_cover_kinds(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
        #[case] expected: &str,
    ) {
        let kind = ApiErrorKind::of_status(&Status::failure(message, reason).with_code(code));
        let found = [
            (kind.is_forbidden(), 'f'),
            (kind.is_conflict(), 'c'),
            (kind.is_outdated(), 'o'),
            (kind.is_gone_or_replaced(), 'g'),
            (kind.is_invalid(), 'i'),
            (kind.is_rejection(), 'r'),
        ];
        let letters: String =
            found.iter().filter(|(holds, _)| *holds).map(|(_, letter)| *letter).collect();
        assert_eq!(letters, expected);
    }

    #[rstest]
    #[case(413, "Request entity too large: limit is 3145728", true)]
    #[case(500, "etcdserver: request is too large", true)]
    #[case(
        500,
        "rpc error: code = ResourceExhausted desc = trying to send message larger than max (3 vs. 2)",
        true
    )]
    #[case(422, "spec.nodes: Too many", false)]
    fn too_large_objects_are_recognized(
        #[case] code: u16,
        #[case] message: &str,
        #[case] expected: bool,
    ) {
        assert_eq!(is_too_large(&Status::failure(message, "").with_code(code)), expected);
    }
}

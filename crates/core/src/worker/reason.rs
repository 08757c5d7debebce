//! Classification of kubelet errors into a closed set of reasons.
//!
//! The waiting reasons are those of the kubelet's `images/types.go` and of the CRI's errors. The
//! messages are those of containerd and CRI-O, which the kubelet passes on unchanged. An error that
//! matches no rule is `Unknown`, and its message is kept.

use std::time::Duration;

/// Upper bound for the pause that a registry can request.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// Cause for which an image is not on a node. The names are part of the stable API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is explained in docs/tasks.md, where users look it up")]
pub enum FailureReason {
    ImageNotFound,
    Unauthorized,
    RegistryUnreachable,
    RateLimited,
    Tls,
    InvalidImage,
    PlatformMismatch,
    DiskPressure,
    NotEnoughDisk,
    Timeout,
    NodeLost,
    NodeRefused,
    QuotaExceeded,
    Forbidden,
    RunError,
    Unknown,
}

impl FailureReason {
    /// All reasons.
    pub const ALL: [Self; 16] = [
        Self::ImageNotFound,
        Self::Unauthorized,
        Self::RegistryUnreachable,
        Self::RateLimited,
        Self::Tls,
        Self::InvalidImage,
        Self::PlatformMismatch,
        Self::DiskPressure,
        Self::NotEnoughDisk,
        Self::Timeout,
        Self::NodeLost,
        Self::NodeRefused,
        Self::QuotaExceeded,
        Self::Forbidden,
        Self::RunError,
        Self::Unknown,
    ];

    /// Reports whether the failure is one of the image itself, so that it would occur on other
    /// nodes as well.
    #[must_use]
    pub fn is_image_error(self) -> bool {
        matches!(self, Self::ImageNotFound | Self::Unauthorized | Self::InvalidImage)
    }

    /// Reports whether another attempt can succeed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !self.is_image_error() && !matches!(self, Self::PlatformMismatch | Self::NodeLost)
    }

    /// Parses the name that a status contains. Returns `Unknown` for an unknown name.
    #[must_use]
    pub fn from_name(word: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word).unwrap_or(Self::Unknown)
    }

    /// Returns the name used in statuses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ImageNotFound => "ImageNotFound",
            Self::Unauthorized => "Unauthorized",
            Self::RegistryUnreachable => "RegistryUnreachable",
            Self::RateLimited => "RateLimited",
            Self::Tls => "TLS",
            Self::InvalidImage => "InvalidImage",
            Self::PlatformMismatch => "PlatformMismatch",
            Self::DiskPressure => "DiskPressure",
            Self::NotEnoughDisk => "NotEnoughDisk",
            Self::Timeout => "Timeout",
            Self::NodeLost => "NodeLost",
            Self::NodeRefused => "NodeRefused",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::Forbidden => "Forbidden",
            Self::RunError => "RunError",
            Self::Unknown => "Unknown",
        }
    }
}

/// Expected effect of another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The kubelet's next attempt may succeed. It is left to the kubelet's backoff until the node's
    /// timeout.
    Retryable,
    /// No further attempt can succeed. The image fails at once.
    Permanent,
}

/// Rules for messages, matched in order against the message in lower case.
const MESSAGE_RULES: &[(&[&str], FailureReason, Retry)] = &[
    (
        &[
            "no match for platform",
            "no matching manifest",
            "exec format error",
            "no image found in manifest list",
        ],
        FailureReason::PlatformMismatch,
        Retry::Permanent,
    ),
    (
        &["toomanyrequests", "too many requests", "rate limit", "pull qps exceeded"],
        FailureReason::RateLimited,
        Retry::Retryable,
    ),
    (
        &["no space left on device", "disk quota exceeded"],
        FailureReason::NotEnoughDisk,
        Retry::Retryable,
    ),
    (
        &["x509:", "tls:", "server gave http response to https client"],
        FailureReason::Tls,
        Retry::Retryable,
    ),
    (
        &[
            "no such host",
            "connection refused",
            "connection reset",
            "i/o timeout",
            "dial tcp",
            "network is unreachable",
            "deadline exceeded",
            "service unavailable",
            "bad gateway",
            "gateway timeout",
            "internal server error",
            "unexpected eof",
            "server misbehaving",
        ],
        FailureReason::RegistryUnreachable,
        Retry::Retryable,
    ),
    (
        &[
            "unauthorized",
            "authentication required",
            "authorization failed",
            "no basic auth credentials",
            "insufficient_scope",
            "access denied",
            "access to the resource is denied",
            "403 forbidden",
            "403 (forbidden)",
            "unable to retrieve auth token",
        ],
        FailureReason::Unauthorized,
        Retry::Permanent,
    ),
    (
        &[
            "invalid reference",
            "invalid image name",
            "did not resolve to an alias",
            "unsupported media type",
            "unknown media type",
            "unsupported manifest",
        ],
        FailureReason::InvalidImage,
        Retry::Permanent,
    ),
    (
        &["failed size validation", "unexpected commit digest"],
        FailureReason::InvalidImage,
        Retry::Retryable,
    ),
    (
        &["not found", "manifest unknown", "name unknown", "repository does not exist"],
        FailureReason::ImageNotFound,
        Retry::Permanent,
    ),
];

/// Classifies a container's waiting reason and message. `image` is removed from the message first,
/// so that a name such as `team/not found` does not match a rule. Returns `None` if the container
/// is not in an error state.
#[must_use]
pub fn classify(waiting: &str, message: &str, image: &str) -> Option<(FailureReason, Retry)> {
    match waiting {
        "" | "ContainerCreating" | "PodInitializing" => return None,
        "InvalidImageName" => return Some((FailureReason::InvalidImage, Retry::Permanent)),
        "SignatureValidationFailed" => return Some((FailureReason::Forbidden, Retry::Permanent)),
        _ => {}
    }
    let repository = image.split('@').next().unwrap_or(image);
    let text = message.replace(image, "").replace(repository, "").to_lowercase();
    let known =
        MESSAGE_RULES.iter().find(|(words, ..)| words.iter().any(|word| text.contains(word)));
    if let Some((_, reason, verdict)) = known {
        return Some((*reason, *verdict));
    }
    Some(match waiting {
        "RegistryUnavailable" => (FailureReason::RegistryUnreachable, Retry::Retryable),
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "CreatePodSandboxError" => (FailureReason::RunError, Retry::Retryable),
        _ => (FailureReason::Unknown, Retry::Retryable),
    })
}

/// Reports whether the registry itself limits the rate of requests. The kubelet's own limit, "pull
/// QPS exceeded", does not count.
#[must_use]
pub fn is_registry_rate_limit(message: &str) -> bool {
    let text = message.to_lowercase();
    ["toomanyrequests", "too many requests", "rate limit", "503 service unavailable"]
        .iter()
        .any(|word| text.contains(word))
}

/// Parses the pause that a registry requests in its message: `retry-after: 120`, `retry after 30s`,
/// `try again in 5 minutes`. Returns one hour at most.
#[must_use]
pub fn retry_after(message: &str) -> Option<Duration> {
    let text = message.to_lowercase();
    let phrase = ["retry-after", "retry after", "try again in", "retry in"];
    let at = phrase
        .iter()
        .find_map(|phrase| text.find(phrase).map(|at| at.saturating_add(phrase.len())))?;
    let rest = text.get(at..)?.trim_start_matches([':', '=', '"', '[', ' ']);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, unit) = rest.split_at_checked(digits)?;
    let (number, unit): (u64, &str) = (number.parse().ok()?, unit.trim_start());
    let factor = match unit.bytes().next() {
        Some(b'm') if unit.starts_with("ms") => {
            return Some(Duration::from_millis(number).min(MAX_PAUSE));
        }
        Some(b'm') => 60,
        Some(b'h') => 3600,
        _ => 1,
    };
    Some(Duration::from_secs(number.saturating_mul(factor)).min(MAX_PAUSE))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn failures_that_another_attempt_cannot_mend_are_permanent() {
        let permanent: Vec<FailureReason> =
            FailureReason::ALL.into_iter().filter(|reason| !reason.is_transient()).collect();
        assert_eq!(
            permanent,
            [
                FailureReason::ImageNotFound,
                FailureReason::Unauthorized,
                FailureReason::InvalidImage,
                FailureReason::PlatformMismatch,
                FailureReason::NodeLost,
            ]
        );
    }

    #[rstest]
    #[case("ErrImagePull", r#"rpc error: code = NotFound desc = failed to pull and unpack image "r.example/a:1": failed to resolve reference "r.example/a:1": r.example/a:1: not found"#, FailureReason::ImageNotFound, Retry::Permanent)]
    #[case("ImagePullBackOff", r#"Back-off pulling image "r.example/a:1": ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack image "r.example/a:1": not found"#, FailureReason::ImageNotFound, Retry::Permanent)]
    #[case("ErrImagePull", r#"failed to pull and unpack image "docker.io/library/nope:latest": failed to resolve reference: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"#, FailureReason::Unauthorized, Retry::Permanent)]
    #[case("ErrImagePull", r#"failed to resolve reference "r.example/a:1": unexpected status from HEAD request to https://r.example/v2/a/manifests/1: 401 Unauthorized"#, FailureReason::Unauthorized, Retry::Permanent)]
    #[case(
        "ErrImagePull",
        r#"failed to do request: Head "https://r.example/v2/a/manifests/1": dial tcp: lookup r.example: no such host"#,
        FailureReason::RegistryUnreachable,
        Retry::Retryable
    )]
    #[case("ErrImagePull", r#"failed to do request: Head "https://r.example/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority"#, FailureReason::Tls, Retry::Retryable)]
    #[case(
        "ErrImagePull",
        "429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit",
        FailureReason::RateLimited,
        Retry::Retryable
    )]
    #[case("ErrImagePull", "pull QPS exceeded", FailureReason::RateLimited, Retry::Retryable)]
    #[case(
        "ErrImagePull",
        r#"failed to pull and unpack image "r.example/a:1": no match for platform in manifest: not found"#,
        FailureReason::PlatformMismatch,
        Retry::Permanent
    )]
    #[case(
        "ErrImagePull",
        "write /var/lib/containerd/x: no space left on device",
        FailureReason::NotEnoughDisk,
        Retry::Retryable
    )]
    #[case(
        "InvalidImageName",
        "couldn't parse image name",
        FailureReason::InvalidImage,
        Retry::Permanent
    )]
    #[case(
        "ErrImagePull",
        r"reading manifest 1 in r.example/a: manifest unknown",
        FailureReason::ImageNotFound,
        Retry::Permanent
    )]
    #[case(
        "ErrImagePull",
        r#"short-name "a" did not resolve to an alias and no unqualified-search registries are defined"#,
        FailureReason::InvalidImage,
        Retry::Permanent
    )]
    #[case(
        "ErrImagePull",
        r"Requesting bearer token: invalid status code from registry 403 (Forbidden)",
        FailureReason::Unauthorized,
        Retry::Permanent
    )]
    #[case("ErrImagePull", r"failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://auth.example/token: 503 Service Unavailable", FailureReason::RegistryUnreachable, Retry::Retryable)]
    #[case("ErrImagePull", r#"choosing an image from manifest list docker://r.example/a:1: no image found in manifest list for architecture "arm64""#, FailureReason::PlatformMismatch, Retry::Permanent)]
    #[case(
        "RegistryUnavailable",
        "pull failed",
        FailureReason::RegistryUnreachable,
        Retry::Retryable
    )]
    #[case(
        "SignatureValidationFailed",
        "source image rejected",
        FailureReason::Forbidden,
        Retry::Permanent
    )]
    #[case(
        "ErrImagePull",
        "failed to extract layer: write /x: disk quota exceeded",
        FailureReason::NotEnoughDisk,
        Retry::Retryable
    )]
    #[case(
        "ErrImagePull",
        "failed size validation: 12 != 13: failed precondition",
        FailureReason::InvalidImage,
        Retry::Retryable
    )]
    #[case(
        "CreateContainerError",
        "ImageVolumeMountFailed: cannot mount",
        FailureReason::RunError,
        Retry::Retryable
    )]
    #[case("ErrImagePull", "something new", FailureReason::Unknown, Retry::Retryable)]
    fn runtime_messages_are_classified(
        #[case] waiting: &str,
        #[case] message: &str,
        #[case] reason: FailureReason,
        #[case] verdict: Retry,
    ) {
        assert_eq!(classify(waiting, message, "r.example/a:1"), Some((reason, verdict)));
    }

    #[test]
    fn image_name_does_not_match_a_rule() {
        let message = r#"failed to pull "r.example/access denied:1": i/o timeout"#;
        let found = classify("ErrImagePull", message, "r.example/access denied:1");
        assert_eq!(found, Some((FailureReason::RegistryUnreachable, Retry::Retryable)));
    }

    #[rstest]
    #[case("429 Too Many Requests - Retry-After: 120", Some(120))]
    #[case(r"toomanyrequests: retry after 30s", Some(30))]
    #[case("You have reached your limit; try again in 5 minutes", Some(300))]
    #[case(r#"map[Retry-After:["7"]]"#, Some(7))]
    #[case("retry after 900ms", Some(0))]
    #[case("retry after 99999h", Some(3600))]
    #[case("retry after a while", None)]
    #[case("429 Too Many Requests", None)]
    fn retry_after_is_parsed(#[case] message: &str, #[case] seconds: Option<u64>) {
        assert_eq!(retry_after(message).map(|pause| pause.as_secs()), seconds);
    }

    #[test]
    fn only_registry_messages_are_rate_limits() {
        assert!(is_registry_rate_limit("unexpected status: 429 Too Many Requests"));
        assert!(is_registry_rate_limit("unexpected status: 503 Service Unavailable"));
        assert!(!is_registry_rate_limit("pull QPS exceeded"));
        assert!(!is_registry_rate_limit("dial tcp: connection refused"));
    }

    #[test]
    fn creating_is_no_error() {
        assert_eq!(classify("ContainerCreating", "", "a"), None);
        assert_eq!(classify("PodInitializing", "", "a"), None);
    }
}

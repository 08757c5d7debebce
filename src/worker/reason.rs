//! From the kubelet's words to a closed set of reasons.
//!
//! The kubelet's waiting reasons are those of its `images/types.go` and of the
//! CRI's errors; the messages are containerd's and CRI-O's, which come through
//! unchanged. What no rule knows is `Unknown`, with the message kept.

use std::time::Duration;

/// No registry is believed to ask for a longer pause than this.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// Why an image is not on a node. The names are promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is explained in docs/tasks.md, where users look it up")]
pub enum Reason {
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

impl Reason {
    /// Whether another node would be told the same: the image itself is the trouble, not the node or the moment.
    #[must_use]
    pub fn is_the_images(self) -> bool {
        matches!(self, Self::ImageNotFound | Self::Unauthorized | Self::InvalidImage)
    }

    /// Whether another try can succeed.
    #[must_use]
    pub fn may_pass(self) -> bool {
        !self.is_the_images() && !matches!(self, Self::PlatformMismatch | Self::NodeLost)
    }

    /// The reason of a word that a status shows.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        REASONS.into_iter().find(|reason| reason.as_str() == word).unwrap_or(Self::Unknown)
    }

    /// The word that the status shows.
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

/// All reasons.
pub(super) const REASONS: [Reason; 16] = [
    Reason::ImageNotFound,
    Reason::Unauthorized,
    Reason::RegistryUnreachable,
    Reason::RateLimited,
    Reason::Tls,
    Reason::InvalidImage,
    Reason::PlatformMismatch,
    Reason::DiskPressure,
    Reason::NotEnoughDisk,
    Reason::Timeout,
    Reason::NodeLost,
    Reason::NodeRefused,
    Reason::QuotaExceeded,
    Reason::Forbidden,
    Reason::RunError,
    Reason::Unknown,
];

/// Whether waiting any longer can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kubelet's next try may succeed: left to its back-off until the node's time-out.
    Passing,
    /// No further try can succeed: ended at once.
    Hopeless,
}

/// Rules for messages, tried in order, on lower case.
const MESSAGES: &[(&[&str], Reason, Verdict)] = &[
    (
        &["no match for platform", "no matching manifest", "exec format error", "no image found in manifest list"],
        Reason::PlatformMismatch,
        Verdict::Hopeless,
    ),
    (
        &["toomanyrequests", "too many requests", "rate limit", "pull qps exceeded"],
        Reason::RateLimited,
        Verdict::Passing,
    ),
    (&["no space left on device", "disk quota exceeded"], Reason::NotEnoughDisk, Verdict::Passing),
    (&["x509:", "tls:", "server gave http response to https client"], Reason::Tls, Verdict::Passing),
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
        Reason::RegistryUnreachable,
        Verdict::Passing,
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
        Reason::Unauthorized,
        Verdict::Hopeless,
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
        Reason::InvalidImage,
        Verdict::Hopeless,
    ),
    (&["failed size validation", "unexpected commit digest"], Reason::InvalidImage, Verdict::Passing),
    (
        &["not found", "manifest unknown", "name unknown", "repository does not exist"],
        Reason::ImageNotFound,
        Verdict::Hopeless,
    ),
];

/// Reads a container's waiting reason and message. `image` is cut out of the
/// message first, so that a name such as `team/not found` is no verdict.
/// `None`: the container waits for nothing bad.
#[must_use]
pub fn classify(waiting: &str, message: &str, image: &str) -> Option<(Reason, Verdict)> {
    match waiting {
        "" | "ContainerCreating" | "PodInitializing" => return None,
        "InvalidImageName" => return Some((Reason::InvalidImage, Verdict::Hopeless)),
        "SignatureValidationFailed" => return Some((Reason::Forbidden, Verdict::Hopeless)),
        _ => {}
    }
    let repository = image.split('@').next().unwrap_or(image);
    let text = message.replace(image, "").replace(repository, "").to_lowercase();
    let known = MESSAGES.iter().find(|(words, ..)| words.iter().any(|word| text.contains(word)));
    if let Some((_, reason, verdict)) = known {
        return Some((*reason, *verdict));
    }
    Some(match waiting {
        "RegistryUnavailable" => (Reason::RegistryUnreachable, Verdict::Passing),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "CreatePodSandboxError" => {
            (Reason::RunError, Verdict::Passing)
        }
        _ => (Reason::Unknown, Verdict::Passing),
    })
}

/// Whether the registry itself asks for fewer requests. The kubelet's own "pull QPS exceeded" says nothing of it.
#[must_use]
pub fn throttles(message: &str) -> bool {
    let text = message.to_lowercase();
    ["toomanyrequests", "too many requests", "rate limit", "503 service unavailable"]
        .iter()
        .any(|word| text.contains(word))
}

/// How long the registry asks to be left alone, where its message says so: `retry-after: 120`, `retry after 30s`, `try
/// again in 5 minutes`. At most an hour.
#[must_use]
pub fn retry_after(message: &str) -> Option<Duration> {
    let text = message.to_lowercase();
    let phrase = ["retry-after", "retry after", "try again in", "retry in"];
    let at = phrase.iter().find_map(|phrase| text.find(phrase).map(|at| at.saturating_add(phrase.len())))?;
    let rest = text.get(at..)?.trim_start_matches([':', '=', '"', '[', ' ']);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, unit) = rest.split_at_checked(digits)?;
    let (number, unit): (u64, &str) = (number.parse().ok()?, unit.trim_start());
    let factor = match unit.bytes().next() {
        Some(b'm') if unit.starts_with("ms") => return Some(Duration::from_millis(number).min(MAX_PAUSE)),
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

    #[rstest]
    #[case("ErrImagePull", r#"rpc error: code = NotFound desc = failed to pull and unpack image "r.example/a:1": failed to resolve reference "r.example/a:1": r.example/a:1: not found"#, Reason::ImageNotFound, Verdict::Hopeless)]
    #[case("ImagePullBackOff", r#"Back-off pulling image "r.example/a:1": ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack image "r.example/a:1": not found"#, Reason::ImageNotFound, Verdict::Hopeless)]
    #[case("ErrImagePull", r#"failed to pull and unpack image "docker.io/library/nope:latest": failed to resolve reference: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"#, Reason::Unauthorized, Verdict::Hopeless)]
    #[case("ErrImagePull", r#"failed to resolve reference "r.example/a:1": unexpected status from HEAD request to https://r.example/v2/a/manifests/1: 401 Unauthorized"#, Reason::Unauthorized, Verdict::Hopeless)]
    #[case(
        "ErrImagePull",
        r#"failed to do request: Head "https://r.example/v2/a/manifests/1": dial tcp: lookup r.example: no such host"#,
        Reason::RegistryUnreachable,
        Verdict::Passing
    )]
    #[case("ErrImagePull", r#"failed to do request: Head "https://r.example/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority"#, Reason::Tls, Verdict::Passing)]
    #[case(
        "ErrImagePull",
        "429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit",
        Reason::RateLimited,
        Verdict::Passing
    )]
    #[case("ErrImagePull", "pull QPS exceeded", Reason::RateLimited, Verdict::Passing)]
    #[case(
        "ErrImagePull",
        r#"failed to pull and unpack image "r.example/a:1": no match for platform in manifest: not found"#,
        Reason::PlatformMismatch,
        Verdict::Hopeless
    )]
    #[case(
        "ErrImagePull",
        "write /var/lib/containerd/x: no space left on device",
        Reason::NotEnoughDisk,
        Verdict::Passing
    )]
    #[case("InvalidImageName", "couldn't parse image name", Reason::InvalidImage, Verdict::Hopeless)]
    #[case(
        "ErrImagePull",
        r"reading manifest 1 in r.example/a: manifest unknown",
        Reason::ImageNotFound,
        Verdict::Hopeless
    )]
    #[case(
        "ErrImagePull",
        r#"short-name "a" did not resolve to an alias and no unqualified-search registries are defined"#,
        Reason::InvalidImage,
        Verdict::Hopeless
    )]
    #[case(
        "ErrImagePull",
        r"Requesting bearer token: invalid status code from registry 403 (Forbidden)",
        Reason::Unauthorized,
        Verdict::Hopeless
    )]
    #[case("ErrImagePull", r"failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://auth.example/token: 503 Service Unavailable", Reason::RegistryUnreachable, Verdict::Passing)]
    #[case("ErrImagePull", r#"choosing an image from manifest list docker://r.example/a:1: no image found in manifest list for architecture "arm64""#, Reason::PlatformMismatch, Verdict::Hopeless)]
    #[case("RegistryUnavailable", "pull failed", Reason::RegistryUnreachable, Verdict::Passing)]
    #[case("SignatureValidationFailed", "source image rejected", Reason::Forbidden, Verdict::Hopeless)]
    #[case(
        "ErrImagePull",
        "failed to extract layer: write /x: disk quota exceeded",
        Reason::NotEnoughDisk,
        Verdict::Passing
    )]
    #[case(
        "ErrImagePull",
        "failed size validation: 12 != 13: failed precondition",
        Reason::InvalidImage,
        Verdict::Passing
    )]
    #[case("CreateContainerError", "ImageVolumeMountFailed: cannot mount", Reason::RunError, Verdict::Passing)]
    #[case("ErrImagePull", "something new", Reason::Unknown, Verdict::Passing)]
    fn messages_of_runtimes(
        #[case] waiting: &str,
        #[case] message: &str,
        #[case] reason: Reason,
        #[case] verdict: Verdict,
    ) {
        assert_eq!(classify(waiting, message, "r.example/a:1"), Some((reason, verdict)));
    }

    #[test]
    fn an_image_name_is_no_verdict() {
        let message = r#"failed to pull "r.example/access denied:1": i/o timeout"#;
        let found = classify("ErrImagePull", message, "r.example/access denied:1");
        assert_eq!(found, Some((Reason::RegistryUnreachable, Verdict::Passing)));
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
    fn pauses(#[case] message: &str, #[case] seconds: Option<u64>) {
        assert_eq!(retry_after(message).map(|pause| pause.as_secs()), seconds);
    }

    #[test]
    fn only_the_registry_throttles() {
        assert!(throttles("unexpected status: 429 Too Many Requests"));
        assert!(throttles("unexpected status: 503 Service Unavailable"));
        assert!(!throttles("pull QPS exceeded"));
        assert!(!throttles("dial tcp: connection refused"));
    }

    #[test]
    fn creating_is_nothing_bad() {
        assert_eq!(classify("ContainerCreating", "", "a"), None);
        assert_eq!(classify("PodInitializing", "", "a"), None);
    }
}

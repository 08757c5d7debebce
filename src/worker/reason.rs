//! From the kubelet's words to a closed set of reasons.
//!
//! The kubelet's waiting reasons are those of its `images/types.go` and of the
//! CRI's errors; the messages are containerd's and CRI-O's, which come through
//! unchanged. What no rule knows is `Unknown`, with the message kept.

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
    (&["no space left on device"], Reason::NotEnoughDisk, Verdict::Passing),
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
        ],
        Reason::Unauthorized,
        Verdict::Hopeless,
    ),
    (&["invalid reference", "invalid image name"], Reason::InvalidImage, Verdict::Hopeless),
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

    #[test]
    fn creating_is_nothing_bad() {
        assert_eq!(classify("ContainerCreating", "", "a"), None);
        assert_eq!(classify("PodInitializing", "", "a"), None);
    }
}

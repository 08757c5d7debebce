//! Errors of pulls, with the texts that the kubelet reports for containerd.
//!
//! The kubelet passes on the gRPC error of `PullImage`. The texts are those of containerd 2.2 in
//! `core/transfer/local/pull.go` and `core/remotes/docker`; Prewarmer's classification of failures
//! reads them. containerd names an
//! image in its normalized form.

use prewarmer_api::image::ImageRef;

use crate::image::Digest;

/// Error of a pull. The message is that of the kubelet's event `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The registry does not have the image, by its normalized name.
    #[error(
        "rpc error: code = NotFound desc = failed to pull and unpack image \"{0}\": failed to resolve image: {0}: not found"
    )]
    NotFound(String),
    /// The registry rejects the credentials or their absence.
    #[error(
        "rpc error: code = Unknown desc = failed to pull and unpack image \"{0}\": failed to resolve image: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"
    )]
    Unauthorized(String),
    /// The registry answers with status 503; the normalized name and the address.
    #[error(
        "rpc error: code = Unknown desc = failed to pull and unpack image \"{0}\": failed to resolve image: unexpected status from HEAD request to {1}: 503 Service Unavailable"
    )]
    Unavailable(String, String),
    /// The registry's rate limit is reached; the normalized name and the address.
    #[error(
        "rpc error: code = Unknown desc = failed to pull and unpack image \"{0}\": failed to copy: httpReadSeeker: failed open: unexpected status code {1}: 429 Too Many Requests - Server message: toomanyrequests: Too Many Requests"
    )]
    RateLimited(String, String),
    /// The node's disk is full; the normalized name and the digest of the layer.
    #[error(
        "rpc error: code = Unknown desc = failed to pull and unpack image \"{0}\": failed to extract layer {1}: write: no space left on device"
    )]
    NoSpace(String, Digest),
    /// The kubelet's own limit of pulls per second is exceeded (`pkg/kubelet/images/helpers.go`).
    #[error("pull QPS exceeded")]
    QpsExceeded,
    /// The pod was deleted during the pull.
    #[error(
        "rpc error: code = Canceled desc = failed to pull and unpack image \"{0}\": context canceled"
    )]
    Canceled(String),
}

impl PullError {
    /// Returns the error of an image that does not exist.
    #[must_use]
    pub fn not_found(reference: &ImageRef) -> Self {
        Self::NotFound(reference.normalized().to_owned())
    }

    /// Returns the error of rejected credentials.
    #[must_use]
    pub fn unauthorized(reference: &ImageRef) -> Self {
        Self::Unauthorized(reference.normalized().to_owned())
    }

    /// Returns the error of a registry that does not serve requests.
    #[must_use]
    pub fn unavailable(reference: &ImageRef) -> Self {
        let version = reference.digest().or(reference.tag()).unwrap_or_default();
        Self::Unavailable(reference.normalized().to_owned(), manifest_url(reference, version))
    }

    /// Returns the error of a registry whose rate limit is reached.
    #[must_use]
    pub fn rate_limited(reference: &ImageRef, digest: Digest) -> Self {
        let url = manifest_url(reference, &digest.to_string());
        Self::RateLimited(reference.normalized().to_owned(), url)
    }
}

fn manifest_url(reference: &ImageRef, version: &str) -> String {
    let (registry, repository) = (reference.registry(), reference.repository());
    format!("https://{registry}/v2/{repository}/manifests/{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_image_and_the_address() {
        let reference: ImageRef = "registry.example/shop/web:1".parse().unwrap();
        let missing = PullError::not_found(&reference).to_string();
        assert!(missing.ends_with("registry.example/shop/web:1: not found"), "{missing}");
        let unavailable = PullError::unavailable(&reference).to_string();
        let url = "https://registry.example/v2/shop/web/manifests/1";
        assert!(unavailable.contains(url), "{unavailable}");
        let digest = Digest::of(&[]);
        let limited = PullError::rate_limited(&reference, digest).to_string();
        assert!(limited.contains(&digest.to_string()) && limited.contains(" 429 "), "{limited}");
    }
}

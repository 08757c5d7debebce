//! What an image reference is. *Pure.*
//!
//! In: the text a user or a manifest gave. Out: a [`Reference`] that the
//! runtime will accept, or the reason why not. Calls no other room.
//!
//! Parsing is `oci-spec`'s (the grammar of the distribution project); this room
//! adds what it leaves out. Seen with oci-spec 0.10.0: it accepts upper case in
//! repositories and a bare image id, and folds `index.docker.io` to `docker.io`.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::{fmt, str::FromStr};

use oci_spec::distribution;

/// Longest reference accepted, in bytes: 255 for the name (the distribution
/// grammar's limit), 1 + 128 for a tag, 1 + 7 + 128 for a `sha512` digest.
pub const MAX_REFERENCE_BYTES: usize = 255 + 129 + 136;

/// Longest registry-and-repository part, in bytes (the distribution grammar's).
pub const MAX_NAME_BYTES: usize = 255;

/// Why a text is no image reference. The message says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing but white space.
    #[error("an image reference may not be empty")]
    Empty,
    /// Longer than the runtime accepts.
    #[error(
        "an image reference may have at most {MAX_REFERENCE_BYTES} characters (and its name {MAX_NAME_BYTES}); this one has {0}"
    )]
    TooLong(usize),
    /// White space or control characters within.
    #[error("an image reference may not contain white space or control characters")]
    WhiteSpace,
    /// Upper case in the repository.
    #[error("the repository must be lower case: write {0:?}")]
    UpperCase(String),
    /// 64 hexadecimal digits: the id of an image, which no registry knows.
    #[error("64 hexadecimal digits are an image's id, which cannot be pulled: use a name, such as \"nginx:1.27\"")]
    BareId,
    /// Anything else the grammar refuses.
    #[error("not an image reference ({0}): expected [HOST[:PORT]/]PATH[:TAG][@DIGEST], such as \"nginx:1.27\"")]
    Grammar(String),
}

/// An image reference: what was written, and what it stands for.
///
/// Two references are equal when the runtime would pull the same thing for
/// them: `nginx` equals `docker.io/library/nginx:latest`.
#[derive(Debug, Clone)]
pub struct Reference {
    written: String,
    normalized: String,
    parsed: distribution::Reference,
}

impl Reference {
    /// The reference as it was written, without surrounding white space. Pods
    /// carry this form, so that other webhooks treat them as the workload's own.
    #[must_use]
    pub fn as_written(&self) -> &str {
        &self.written
    }

    /// The full form: host, repository, and tag or digest or both.
    #[must_use]
    pub fn normalized(&self) -> &str {
        &self.normalized
    }

    /// The registry's host, with its port where one was given.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.parsed.registry()
    }

    /// The repository, without the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.parsed.repository()
    }

    /// The tag; `latest` where neither tag nor digest was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.parsed.tag()
    }

    /// The digest, where one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.parsed.digest()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let written = text.trim();
        if written.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if written.len() > MAX_REFERENCE_BYTES {
            return Err(ReferenceError::TooLong(written.len()));
        }
        if written.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(ReferenceError::WhiteSpace);
        }
        if written.len() == 64 && written.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ReferenceError::BareId);
        }
        let parsed: distribution::Reference =
            written.parse().map_err(|e: distribution::ParseError| ReferenceError::Grammar(e.to_string()))?;
        if parsed.repository().bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase(parsed.repository().to_ascii_lowercase()));
        }
        if parsed.registry().len().saturating_add(parsed.repository().len()) >= MAX_NAME_BYTES {
            return Err(ReferenceError::TooLong(written.len()));
        }
        Ok(Self { written: written.to_owned(), normalized: parsed.whole(), parsed })
    }
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        self.normalized == other.normalized
    }
}

impl Eq for Reference {}

impl PartialOrd for Reference {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Reference {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.normalized.cmp(&other.normalized)
    }
}

impl std::hash::Hash for Reference {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.normalized.hash(state);
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("nginx", "docker.io/library/nginx:latest")]
    #[case(" nginx:1.27 ", "docker.io/library/nginx:1.27")]
    #[case("index.docker.io/library/nginx", "docker.io/library/nginx:latest")]
    #[case("team/app:v1", "docker.io/team/app:v1")]
    #[case("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1")]
    #[case("localhost/x", "localhost/x:latest")]
    fn normalizes(#[case] text: &str, #[case] full: &str) {
        assert_eq!(text.parse::<Reference>().unwrap().normalized(), full);
    }

    #[test]
    fn keeps_tag_and_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference: Reference = format!("nginx:1@{digest}").parse().unwrap();
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.digest(), Some(digest.as_str()));
        assert_eq!(reference.normalized(), format!("docker.io/library/nginx:1@{digest}"));
    }

    #[test]
    fn a_digest_alone_gets_no_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference: Reference = format!("nginx@{digest}").parse().unwrap();
        assert_eq!(reference.normalized(), format!("docker.io/library/nginx@{digest}"));
    }

    #[test]
    fn equal_when_the_same_is_pulled() {
        let short: Reference = "nginx".parse().unwrap();
        let long: Reference = "docker.io/library/nginx:latest".parse().unwrap();
        assert_eq!(short, long);
        assert_eq!(short.as_written(), "nginx");
    }

    #[rstest]
    #[case("", ReferenceError::Empty)]
    #[case("   ", ReferenceError::Empty)]
    #[case("UPPER/case:x", ReferenceError::UpperCase("upper/case".into()))]
    #[case("a b", ReferenceError::WhiteSpace)]
    #[case(&"f".repeat(64), ReferenceError::BareId)]
    #[case(&"a".repeat(600), ReferenceError::TooLong(600))]
    fn refuses(#[case] text: &str, #[case] error: ReferenceError) {
        assert_eq!(text.parse::<Reference>().unwrap_err(), error);
    }

    #[rstest]
    #[case("a//b")]
    #[case(":tag")]
    #[case("[::1]:5000/x")]
    #[case("a:")]
    #[case("a@sha256:12")]
    #[case("https://example.com/a")]
    fn refuses_by_grammar(#[case] text: &str) {
        assert!(matches!(text.parse::<Reference>(), Err(ReferenceError::Grammar(_))), "{text}");
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_normalizing_is_stable(text in ".{0,300}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.normalized().parse().unwrap();
                proptest::prop_assert_eq!(again.normalized(), reference.normalized());
            }
        }
    }
}

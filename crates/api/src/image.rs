//! Parsing and comparison of image references. Pure: no client, no clock, no I/O.
//!
//! Input: text from a user or a manifest. Output: a reference that the container runtime accepts,
//! or an error with the reason. Calls no other module.
//!
//! The grammar is that of the distribution project (`reference/regexp.go`), and the normalized form
//! that of Docker and containerd (`reference/normalize.go`). Each image of each admission review is
//! parsed here, so the parser makes one pass over the bytes: a regular expression for the same
//! grammar takes ten times as long, and 13 MB. The property tests below and the fuzz target compare
//! the two.

// Input from other parties must not cause a panic: arithmetic saturates and indexing is checked.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::{fmt, str::FromStr};

/// Maximum length of a reference, in bytes: 255 for the name (limit of the distribution grammar), 1
/// + 128 for a tag, 1 + 7 + 128 for a `sha512` digest.
pub const MAX_REFERENCE_BYTES: usize = 255 + 129 + 136;

/// Maximum length of registry and repository, in bytes (limit of the distribution grammar).
pub const MAX_NAME_BYTES: usize = 255;

/// Maximum length of a tag, in bytes (limit of the distribution grammar).
const MAX_TAG_BYTES: usize = 128;
/// Digest algorithms and their number of hexadecimal digits (OCI image specification, descriptors).
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];
/// Registry of names without a registry.
const DOCKER_HUB: &str = "docker.io";
/// Former name of [`DOCKER_HUB`], which is normalized to it.
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
/// Prefix of repositories of [`DOCKER_HUB`] whose name has a single component.
const OFFICIAL_PREFIX: &str = "library/";
/// Tag of references with neither tag nor digest.
pub const LATEST: &str = "latest";

/// Error of parsing an image reference. The message states how to correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// The text is empty or white space.
    #[error("an image reference must not be empty")]
    Empty,
    /// The text is longer than the runtime accepts; its length in bytes.
    #[error(
        "an image reference has at most {MAX_REFERENCE_BYTES} bytes, its name {MAX_NAME_BYTES}: this one has {0}"
    )]
    TooLong(usize),
    /// The text contains white space or control characters.
    #[error("an image reference must not contain white space or control characters")]
    WhiteSpace,
    /// The repository contains upper case; the repository in lower case.
    #[error("the repository must be lower case: use {0:?}")]
    UpperCase(String),
    /// The text is an image ID (64 hexadecimal digits), which registries do not know.
    #[error(
        "64 hexadecimal digits are an image ID, which cannot be pulled: use a name such as \"nginx:1.27\""
    )]
    BareId,
    /// The text does not match the grammar; the part that is malformed.
    #[error(
        "invalid image reference ({0}): expected [HOST[:PORT]/]PATH[:TAG][@DIGEST], such as \"nginx:1.27\""
    )]
    Grammar(&'static str),
}

/// Image reference with its original text and its normalized form.
///
/// References are equal if the runtime pulls the same image for them: `nginx` equals
/// `docker.io/library/nginx:latest`.
#[derive(Debug, Clone)]
pub struct ImageRef {
    written: String,
    /// Registry, `/`, repository, then `:` and tag, `@` and digest, if present.
    normalized: String,
    /// Length of the registry in `normalized`, in bytes.
    registry_len: usize,
    /// Length of the repository in `normalized`, in bytes.
    repository_len: usize,
    /// Length of the tag in `normalized`, in bytes; 0 without a tag.
    tag_len: usize,
}

impl ImageRef {
    /// Returns the original text without surrounding white space. Worker pods use this form, so
    /// that other webhooks treat them like pods of the workload.
    #[must_use]
    pub fn as_written(&self) -> &str {
        &self.written
    }

    /// Returns the original text without tag and digest.
    #[must_use]
    pub fn name_as_written(&self) -> &str {
        let name = self.written.split_once('@').map_or(&*self.written, |(name, _)| name);
        match name.rsplit_once(':') {
            // A colon before a slash precedes the port of the registry.
            Some((name, tag)) if !tag.contains('/') => name,
            _ => name,
        }
    }

    /// Returns the normalized form: registry, repository, and tag, digest or both.
    #[must_use]
    pub fn normalized(&self) -> &str {
        &self.normalized
    }

    /// Returns the registry's host, with the port if specified.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.normalized.get(..self.registry_len).unwrap_or_default()
    }

    /// Returns the repository without the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.rest_after(1, self.registry_len).get(..self.repository_len).unwrap_or_default()
    }

    /// Returns the tag; `latest` if neither tag nor digest is specified.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.rest_after(2, self.registry_len.saturating_add(self.repository_len))
            .get(..self.tag_len)
            .filter(|tag| !tag.is_empty())
    }

    /// Returns the digest, if specified.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.normalized.split_once('@').map(|(_, digest)| digest)
    }

    /// Returns the rest of the normalized form after the given numbers of separators, of one byte
    /// each, and of other bytes.
    fn rest_after(&self, separators: usize, bytes: usize) -> &str {
        self.normalized.get(separators.saturating_add(bytes)..).unwrap_or_default()
    }
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let written = text.trim();
        if written.is_empty() {
            return Err(ImageRefError::Empty);
        }
        if written.len() > MAX_REFERENCE_BYTES {
            return Err(ImageRefError::TooLong(written.len()));
        }
        if written.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(ImageRefError::WhiteSpace);
        }
        if written.len() == 64 && written.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ImageRefError::BareId);
        }
        let Parts { registry, prefix, repository, tag, digest } = Parts::parse(written)?;
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ImageRefError::UpperCase(repository.to_ascii_lowercase()));
        }
        let normalized = match (tag, digest) {
            (Some(tag), Some(digest)) => {
                [registry, "/", prefix, repository, ":", tag, "@", digest].concat()
            }
            (Some(tag), None) => [registry, "/", prefix, repository, ":", tag].concat(),
            (None, Some(digest)) => [registry, "/", prefix, repository, "@", digest].concat(),
            (None, None) => [registry, "/", prefix, repository, ":", LATEST].concat(),
        };
        let tag = if digest.is_none() { tag.unwrap_or(LATEST) } else { tag.unwrap_or_default() };
        let registry_len = registry.len();
        let repository_len = prefix.len().saturating_add(repository.len());
        if registry_len.saturating_add(repository_len) >= MAX_NAME_BYTES {
            return Err(ImageRefError::TooLong(written.len()));
        }
        Ok(Self {
            written: written.to_owned(),
            normalized,
            registry_len,
            repository_len,
            tag_len: tag.len(),
        })
    }
}

/// Parts of a text that matches the grammar.
struct Parts<'a> {
    registry: &'a str,
    /// Start of the repository that the text omits: [`OFFICIAL_PREFIX`] or empty.
    prefix: &'static str,
    repository: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Splits a text into its parts. An `@` starts the digest, and a colon after the last slash
    /// starts the tag; neither can occur elsewhere.
    fn parse(text: &'a str) -> Result<Self, ImageRefError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (path, last) =
            rest.rsplit_once('/').map_or((None, rest), |(path, last)| (Some(path), last));
        let (last, tag) = match last.split_once(':') {
            Some((last, tag)) => (last, Some(tag)),
            None => (last, None),
        };
        let last_start = path.map_or(0, |path| path.len().saturating_add(1));
        let name = rest.get(..last_start.saturating_add(last.len())).unwrap_or_default();
        let first = name.split_once('/').map(|(first, _)| first);
        let valid = match name.split_once('/') {
            None => is_component(name),
            Some((first, further)) => {
                (is_component(first) || is_host(first)) && further.split('/').all(is_component)
            }
        };
        if !valid {
            return Err(ImageRefError::Grammar("the name is malformed"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(ImageRefError::Grammar("the tag is malformed"));
        }
        if !digest.is_none_or(is_digest) {
            return Err(ImageRefError::Grammar(
                "the digest must be sha256, sha384 or sha512 with all its digits",
            ));
        }
        let (registry, repository) = match first {
            Some(host) if host.contains(['.', ':']) || host == "localhost" => {
                (host, name.get(host.len().saturating_add(1)..).unwrap_or_default())
            }
            _ => (DOCKER_HUB, name),
        };
        let registry = if registry == DOCKER_HUB_LEGACY { DOCKER_HUB } else { registry };
        let is_official = registry == DOCKER_HUB && !repository.contains('/');
        let prefix = if is_official { OFFICIAL_PREFIX } else { "" };
        Ok(Self { registry, prefix, repository, tag, digest })
    }
}

/// Reports whether a text is one component of a path: lower-case letters and digits, separated by
/// one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_end = |b: Option<&u8>| b.is_some_and(|b| is_alphanumeric(*b));
    let bytes = text.as_bytes();
    is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.split(|b| is_alphanumeric(*b)).all(|separator| match separator {
            [] | b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|b| *b == b'-'),
        })
}

/// Reports whether a text is a host: labels of letters, digits and inner `-`, joined by dots, with
/// an optional port.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.split('.').all(is_label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG_BYTES
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        DIGESTS.contains(&(algorithm, hex.len())) && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

impl PartialEq for ImageRef {
    fn eq(&self, other: &Self) -> bool {
        self.normalized == other.normalized
    }
}

impl Eq for ImageRef {}

impl PartialOrd for ImageRef {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ImageRef {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.normalized.cmp(&other.normalized)
    }
}

impl std::hash::Hash for ImageRef {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.normalized.hash(state);
    }
}

impl fmt::Display for ImageRef {
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
        assert_eq!(text.parse::<ImageRef>().unwrap().normalized(), full);
    }

    #[test]
    fn keeps_tag_and_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference: ImageRef = format!("nginx:1@{digest}").parse().unwrap();
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.digest(), Some(digest.as_str()));
        assert_eq!(reference.normalized(), format!("docker.io/library/nginx:1@{digest}"));
    }

    #[test]
    fn a_digest_alone_gets_no_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference: ImageRef = format!("nginx@{digest}").parse().unwrap();
        assert_eq!(reference.normalized(), format!("docker.io/library/nginx@{digest}"));
    }

    #[test]
    fn equal_if_normalized_forms_are_equal() {
        let short: ImageRef = "nginx".parse().unwrap();
        let long: ImageRef = "docker.io/library/nginx:latest".parse().unwrap();
        assert_eq!(short, long);
        assert_eq!(short.as_written(), "nginx");
    }

    #[rstest]
    #[case("", ImageRefError::Empty)]
    #[case("   ", ImageRefError::Empty)]
    #[case("UPPER/case:x", ImageRefError::UpperCase("upper/case".into()))]
    #[case("a b", ImageRefError::WhiteSpace)]
    #[case(&"f".repeat(64), ImageRefError::BareId)]
    #[case(&"a".repeat(600), ImageRefError::TooLong(600))]
    fn rejects(#[case] text: &str, #[case] error: ImageRefError) {
        assert_eq!(text.parse::<ImageRef>().unwrap_err(), error);
    }

    #[rstest]
    #[case("a//b")]
    #[case(":tag")]
    #[case("[::1]:5000/x")]
    #[case("a:")]
    #[case("a@sha256:12")]
    #[case("https://example.com/a")]
    fn rejects_by_grammar(#[case] text: &str) {
        assert!(matches!(text.parse::<ImageRef>(), Err(ImageRefError::Grammar(_))), "{text}");
    }

    /// Verifies that a text is parsed like by `oci-spec`, which uses the regular expression of the
    /// distribution project. Non-ASCII texts are skipped: the expression accepts letters of other
    /// alphabets in tags, which no registry does.
    fn check_against_oci_spec(text: &str) {
        use oci_spec::distribution;
        let ours = text.parse::<ImageRef>();
        let has_failed_own_check =
            ours.as_ref().is_err_and(|error| !matches!(error, ImageRefError::Grammar(_)));
        match text.trim().parse::<distribution::Reference>() {
            _ if has_failed_own_check || !text.is_ascii() => {}
            Err(error) => assert!(ours.is_err(), "{text:?}: {error}, but {ours:?}"),
            Ok(theirs) => {
                let ours = ours.unwrap_or_else(|error| panic!("{text:?}: {error}, but {theirs:?}"));
                assert_eq!(ours.normalized(), theirs.whole());
                assert_eq!(
                    (ours.registry(), ours.repository(), ours.tag(), ours.digest()),
                    (theirs.registry(), theirs.repository(), theirs.tag(), theirs.digest())
                );
            }
        }
    }

    #[test]
    fn non_ascii_tag_is_rejected() {
        assert!(matches!("nginx:ü".parse::<ImageRef>(), Err(ImageRefError::Grammar(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_like_by_oci_spec(text in "[ -~]{0,40}") {
            check_against_oci_spec(&text);
        }

        #[test]
        fn text_similar_to_a_reference_is_parsed_like_by_oci_spec(
            host in "([aA]?[a0-]?[.]?[bB-]?(:[0-9]{0,2})?/)?|localhost/|(index[.])?docker[.]io/",
            path in "[a0A]?[._-]{0,3}[a0]?(/[a0]?[._-]{0,3}[a0A]?){0,2}",
            tag in "(:[a-zA-Z0-9_.-]{0,3})?|:[a.]{126,130}",
            digest in "(@sha256:[0-9a-fA-F]{64})?|@sha(384:[0-9a-f]{96}|512:[0-9a-f]{127,129})|@[a-z+.:]{0,3}:[0-9a-g]{30,64}",
        ) {
            check_against_oci_spec(&format!("{host}{path}{tag}{digest}"));
        }

        #[test]
        fn never_panics_and_normalizing_is_stable(text in ".{0,300}") {
            if let Ok(reference) = text.parse::<ImageRef>() {
                let again: ImageRef = reference.normalized().parse().unwrap();
                proptest::prop_assert_eq!(again.normalized(), reference.normalized());
            }
        }
    }
}

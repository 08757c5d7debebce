//! Image references. *Pure.*
//!
//! In: the text a user or a manifest gave. Out: a [`Reference`] that the
//! runtime will accept, or the reason why not. Calls no other room.
//!
//! The grammar is that of the distribution project (`reference/regexp.go`), and the normal form that of Docker and containerd
//! (`reference/normalize.go`). Every image of every admission review is read here, so it is one pass over the bytes: as a regular
//! expression the same grammar takes ten times as long and 13 MB. The proptest below and the fuzz target compare the two.

// Values that others write must not end the work: sums saturate, and what may not be there is asked for.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::{fmt, str::FromStr};

/// Longest reference accepted, in bytes: 255 for the name (the distribution
/// grammar's limit), 1 + 128 for a tag, 1 + 7 + 128 for a `sha512` digest.
pub const MAX_REFERENCE_BYTES: usize = 255 + 129 + 136;

/// Longest registry-and-repository part, in bytes (the distribution grammar's).
pub const MAX_NAME_BYTES: usize = 255;

/// Longest tag, in bytes (the distribution grammar's).
const MAX_TAG_BYTES: usize = 128;
/// Digest algorithms, and the hexadecimal digits of each (OCI image specification, descriptors).
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];
/// The registry of names without one, its older name, the first part of its repositories where a name has no other, and the tag
/// of a reference with neither tag nor digest.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const LATEST: &str = "latest";

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
    Grammar(&'static str),
}

/// An image reference: what was written, and what it stands for.
///
/// Two references are equal when the runtime would pull the same thing for
/// them: `nginx` equals `docker.io/library/nginx:latest`.
#[derive(Debug, Clone)]
pub struct Reference {
    written: String,
    /// Registry, `/`, repository, and `:` and tag, `@` and digest where there are any.
    normalized: String,
    /// Bytes of the registry and of the repository in `normalized`, and of the tag, 0 where there is none.
    registry: usize,
    repository: usize,
    tag: usize,
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
        self.normalized.get(..self.registry).unwrap_or_default()
    }

    /// The repository, without the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.after(1, self.registry).get(..self.repository).unwrap_or_default()
    }

    /// The tag; `latest` where neither tag nor digest was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.after(2, self.registry.saturating_add(self.repository)).get(..self.tag).filter(|tag| !tag.is_empty())
    }

    /// The digest, where one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.normalized.split_once('@').map(|(_, digest)| digest)
    }

    /// What of the full form follows `parts` separators and so many other bytes.
    fn after(&self, separators: usize, bytes: usize) -> &str {
        self.normalized.get(separators.saturating_add(bytes)..).unwrap_or_default()
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
        let Parts { registry, official, repository, tag, digest } = Parts::of(written)?;
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase(repository.to_ascii_lowercase()));
        }
        let normalized = match (tag, digest) {
            (Some(tag), Some(digest)) => [registry, "/", official, repository, ":", tag, "@", digest].concat(),
            (Some(tag), None) => [registry, "/", official, repository, ":", tag].concat(),
            (None, Some(digest)) => [registry, "/", official, repository, "@", digest].concat(),
            (None, None) => [registry, "/", official, repository, ":", LATEST].concat(),
        };
        let tag = if digest.is_none() { tag.unwrap_or(LATEST) } else { tag.unwrap_or_default() };
        let (registry, repository, tag) = (registry.len(), official.len().saturating_add(repository.len()), tag.len());
        if registry.saturating_add(repository) >= MAX_NAME_BYTES {
            return Err(ReferenceError::TooLong(written.len()));
        }
        Ok(Self { written: written.to_owned(), normalized, registry, repository, tag })
    }
}

/// The parts of a text that the grammar accepts.
struct Parts<'a> {
    registry: &'a str,
    /// What the repository begins with and nobody wrote.
    official: &'static str,
    repository: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Splits a text. An `@` begins the digest, and a colon behind the last slash the tag; neither can be elsewhere.
    fn of(text: &'a str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (path, last) = rest.rsplit_once('/').map_or((None, rest), |(path, last)| (Some(path), last));
        let (last, tag) = match last.split_once(':') {
            Some((last, tag)) => (last, Some(tag)),
            None => (last, None),
        };
        let name = rest
            .get(..path.map_or(0, |path| path.len().saturating_add(1)).saturating_add(last.len()))
            .unwrap_or_default();
        let first = name.split_once('/').map(|(first, _)| first);
        let valid = match name.split_once('/') {
            None => is_component(name),
            Some((first, further)) => (is_component(first) || is_host(first)) && further.split('/').all(is_component),
        };
        if !valid {
            return Err(ReferenceError::Grammar("its name is malformed"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(ReferenceError::Grammar("its tag is malformed"));
        }
        if !digest.is_none_or(is_digest) {
            return Err(ReferenceError::Grammar("its digest must be sha256, sha384 or sha512, and complete"));
        }
        let (registry, repository) = match first {
            Some(host) if host.contains(['.', ':']) || host == "localhost" => {
                (host, name.get(host.len().saturating_add(1)..).unwrap_or_default())
            }
            _ => (DOCKER_HUB, name),
        };
        let registry = if registry == DOCKER_HUB_LEGACY { DOCKER_HUB } else { registry };
        let official = if registry == DOCKER_HUB && !repository.contains('/') { OFFICIAL } else { "" };
        Ok(Self { registry, official, repository, tag, digest })
    }
}

/// Whether a text is one part of a path: lower case and digits, with one `.` or `_`, two `_` or any number of `-` between.
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| alphanumeric(*byte));
    let bytes = text.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.split(|byte| alphanumeric(*byte)).all(|between| match between {
            [] | b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|byte| *byte == b'-'),
        })
}

/// Whether a text is a host: labels of letters, digits and inner `-`, joined by dots, and a port if any.
fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.split('.').all(label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG_BYTES
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        DIGESTS.contains(&(algorithm, hex.len())) && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
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

    /// Whether the regular expression of the distribution project, as `oci-spec` has it, finds the same. That accepts letters of
    /// other alphabets in tags, which no registry does.
    fn agrees(text: &str) {
        use oci_spec::distribution;
        let ours = text.parse::<Reference>();
        let refused_before = matches!(ours, Err(ref error) if !matches!(error, ReferenceError::Grammar(_)));
        match text.trim().parse::<distribution::Reference>() {
            _ if refused_before || !text.is_ascii() => {}
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
    fn a_tag_is_ascii() {
        assert!(matches!("nginx:ü".parse::<Reference>(), Err(ReferenceError::Grammar(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_what_the_expression_of_the_distribution_project_says(text in "[ -~]{0,40}") {
            agrees(&text);
        }

        #[test]
        fn a_likely_text_is_what_the_expression_of_the_distribution_project_says(
            host in "([aA]?[a0-]?[.]?[bB-]?(:[0-9]{0,2})?/)?|localhost/|(index[.])?docker[.]io/",
            path in "[a0A]?[._-]{0,3}[a0]?(/[a0]?[._-]{0,3}[a0A]?){0,2}",
            tag in "(:[a-zA-Z0-9_.-]{0,3})?|:[a.]{126,130}",
            digest in "(@sha256:[0-9a-fA-F]{64})?|@sha(384:[0-9a-f]{96}|512:[0-9a-f]{127,129})|@[a-z+.:]{0,3}:[0-9a-g]{30,64}",
        ) {
            agrees(&format!("{host}{path}{tag}{digest}"));
        }

        #[test]
        fn never_panics_and_normalizing_is_stable(text in ".{0,300}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.normalized().parse().unwrap();
                proptest::prop_assert_eq!(again.normalized(), reference.normalized());
            }
        }
    }
}

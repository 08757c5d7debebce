//! DNS names as Kubernetes requires them of object names (RFC 1123), as in `IsDNS1123Label` and
//! `IsDNS1123Subdomain` of `k8s.io/apimachinery/pkg/util/validation`.

/// Longest label, in bytes.
pub const MAX_LABEL: usize = 63;
/// Longest subdomain, in bytes.
pub const MAX_SUBDOMAIN: usize = 253;

/// Reports whether the text is a DNS label, the format of names of namespaces: at most
/// [`MAX_LABEL`] lower-case letters, digits and inner dashes.
#[must_use]
pub fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_subdomain_part(text)
}

/// Reports whether the text is a DNS subdomain, the format of names of most objects: at most
/// [`MAX_SUBDOMAIN`] bytes of parts, separated by dots.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    // A part may be longer than a label: Kubernetes checks only the total length.
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_subdomain_part)
}

fn is_subdomain_part(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// One letter for each format that accepts the text: label, subdomain.
    #[rstest]
    #[case("a", "ls")]
    #[case("0", "ls")]
    #[case("web-1", "ls")]
    #[case("a--b", "ls")]
    #[case("a.b-c.1", "s")]
    #[case("", "")]
    #[case("-a", "")]
    #[case("a-", "")]
    #[case("Web", "")]
    #[case("a_b", "")]
    #[case("a/b", "")]
    #[case("ä", "")]
    #[case("a b", "")]
    #[case(".a", "")]
    #[case("a.", "")]
    #[case("a..b", "")]
    #[case("a.-b", "")]
    #[case(".", "")]
    #[case("..", "")]
    #[case("../secrets/x", "")]
    #[case("a?b", "")]
    #[case("a%2fb", "")]
    fn formats_accept_texts(#[case] text: &str, #[case] expected: &str) {
        let found = [(is_label(text), 'l'), (is_subdomain(text), 's')];
        let letters: String =
            found.iter().filter(|(holds, _)| *holds).map(|(_, letter)| *letter).collect();
        assert_eq!(letters, expected);
    }

    #[rstest]
    #[case(MAX_LABEL, true)]
    #[case(MAX_LABEL + 1, false)]
    fn labels_are_bounded(#[case] length: usize, #[case] expected: bool) {
        assert_eq!(is_label(&"a".repeat(length)), expected);
    }

    #[rstest]
    #[case(MAX_SUBDOMAIN, true)]
    #[case(MAX_SUBDOMAIN + 1, false)]
    fn subdomains_are_bounded(#[case] length: usize, #[case] expected: bool) {
        assert_eq!(is_subdomain(&"a".repeat(length)), expected);
    }
}

//! Format checks of Kubernetes tokens before a review. Pure: no client, no clock, no I/O.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;

/// Prefix of every JSON Web Token: `{"` in base64.
const JWT_PREFIX: &str = "eyJ";
/// Seconds by which the local clock may be ahead of the API server's.
const CLOCK_SKEW: f64 = 60.0;
/// Maximum number of a token's audiences in an error message, and maximum characters of each.
const MAX_SHOWN_AUDIENCES: (usize, usize) = (3, 100);

/// Defect of a token that makes a review unnecessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenDefect {
    /// Text that is not a token.
    Malformed,
    /// Token whose own `exp` claim has passed.
    Expired,
}

/// Unverified claims of a JSON Web Token.
#[derive(Debug, Default, Deserialize)]
struct JwtClaims {
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    aud: AudienceClaim,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AudienceClaim {
    One(String),
    Many(Vec<String>),
    Other(serde::de::IgnoredAny),
}

impl Default for AudienceClaim {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

fn decode_claims(token: &str) -> Option<JwtClaims> {
    let mut parts = token.split('.');
    let (_, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || signature.is_empty() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Returns the defect that makes a review of the token useless, if any. Tokens other than JSON Web
/// Tokens are opaque: an authenticator may accept any.
pub(super) fn find_defect(token: &str, now: Timestamp) -> Option<TokenDefect> {
    // Syntax of bearer tokens: RFC 6750, section 2.1.
    let bare = token.trim_end_matches('=');
    if bare.is_empty() || !bare.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~+/".contains(&c))
    {
        return Some(TokenDefect::Malformed);
    }
    if !token.starts_with(JWT_PREFIX) {
        return None;
    }
    let Some(claims) = decode_claims(token) else { return Some(TokenDefect::Malformed) };
    #[allow(clippy::cast_precision_loss, reason = "seconds of this century are exact")]
    let now = now.as_second() as f64;
    claims.exp.is_some_and(|end| end + CLOCK_SKEW < now).then_some(TokenDefect::Expired)
}

/// Returns the audiences that a rejected token claims, if none of them is one of `ours`.
pub(super) fn mismatched_audiences(token: &str, ours: &[String]) -> Option<String> {
    let theirs = match decode_claims(token)?.aud {
        AudienceClaim::One(one) => vec![one],
        AudienceClaim::Many(many) => many,
        AudienceClaim::Other(_) => Vec::new(),
    };
    if ours.is_empty() || theirs.is_empty() || theirs.iter().any(|one| ours.contains(one)) {
        return None;
    }
    let short = |one: &String| {
        one.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_AUDIENCES.1).collect::<String>()
    };
    Some(theirs.iter().take(MAX_SHOWN_AUDIENCES.0).map(short).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn jwt(claims: &Value) -> String {
        format!(
            "{}.{}.c2ln",
            URL_SAFE_NO_PAD.encode("{\"alg\":\"RS256\"}"),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        )
    }

    #[rstest]
    #[case(jwt(&json!({"exp": 2_000_000_000, "aud": ["prewarmer"]})), None)]
    #[case(jwt(&json!({"aud": "x"})), None)]
    #[case(jwt(&json!({"aud": 5})), None)]
    #[case(jwt(&json!({"exp": 1_000_000_000})), Some(TokenDefect::Expired))]
    #[case(jwt(&json!({"exp": 1_763_999_990})), None)]
    #[case(jwt(&json!({"exp": "soon"})), Some(TokenDefect::Malformed))]
    #[case("eyJ".into(), Some(TokenDefect::Malformed))]
    #[case("eyJhbGciOiJub25lIn0.e30.".into(), Some(TokenDefect::Malformed))]
    #[case("eyJhbGciOiJub25lIn0.e30.a.b".into(), Some(TokenDefect::Malformed))]
    #[case("eyJhbGciOiJub25lIn0.!!.a".into(), Some(TokenDefect::Malformed))]
    // Tokens of OpenShift and bootstrap tokens: reviewed.
    #[case("sha256~abcDEF".into(), None)]
    #[case("abcdef.0123456789abcdef".into(), None)]
    #[case("a b".into(), Some(TokenDefect::Malformed))]
    #[case("a\"b".into(), Some(TokenDefect::Malformed))]
    #[case("==".into(), Some(TokenDefect::Malformed))]
    fn malformed_and_expired_tokens_are_not_reviewed(
        #[case] token: String,
        #[case] expected: Option<TokenDefect>,
    ) {
        assert_eq!(find_defect(&token, Timestamp::from_second(1_764_000_000).unwrap()), expected);
    }

    #[test]
    fn audience_mismatch() {
        let ours = ["prewarmer".to_owned()];
        let other =
            |aud: Value, ours: &[String]| mismatched_audiences(&jwt(&json!({"aud": aud})), ours);
        assert_eq!(
            other(json!(["https://kubernetes.default.svc"]), &ours),
            Some("https://kubernetes.default.svc".into())
        );
        assert_eq!(other(json!("a"), &ours), Some("a".into()));
        assert_eq!(other(json!(["a", "prewarmer"]), &ours), None);
        assert_eq!(other(json!([]), &ours), None);
        assert_eq!(other(json!(["a"]), &[]), None);
        assert_eq!(mismatched_audiences("opaque", &ours), None);
    }
}

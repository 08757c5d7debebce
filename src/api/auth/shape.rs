//! What a token looks like, before anybody is asked about it. *Pure.*

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;

/// What every JSON Web Token begins with: `{"` in base64.
const JWT: &str = "eyJ";
/// Seconds by which our clock may be ahead of the API server's.
const SKEW: f64 = 60.0;
/// Audiences of a token that are repeated to its owner, and how much of each.
const SHOWN: (usize, usize) = (3, 100);

/// Why the API server need not be asked about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hopeless {
    /// It is no token at all.
    Malformed,
    /// It says itself that it has expired.
    Expired,
}

/// What a JSON Web Token says of itself. Nobody has verified it.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    aud: Audiences,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
    Other(serde::de::IgnoredAny),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (_, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || signature.is_empty() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Whether it is of no use to ask about a token. Tokens that are no JSON Web Tokens are not known from outside: authenticators may take any.
pub(super) fn hopeless(token: &str, now: Timestamp) -> Option<Hopeless> {
    // RFC 6750, 2.1.
    let bare = token.trim_end_matches('=');
    if bare.is_empty() || !bare.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~+/".contains(&c)) {
        return Some(Hopeless::Malformed);
    }
    if !token.starts_with(JWT) {
        return None;
    }
    let Some(claims) = claims(token) else { return Some(Hopeless::Malformed) };
    #[allow(clippy::cast_precision_loss, reason = "seconds of this century are exact")]
    let now = now.as_second() as f64;
    claims.exp.is_some_and(|end| end + SKEW < now).then_some(Hopeless::Expired)
}

/// The audiences that a refused token says it is for, where they are none of ours.
pub(super) fn other_audience(token: &str, ours: &[String]) -> Option<String> {
    let theirs = match claims(token)?.aud {
        Audiences::One(one) => vec![one],
        Audiences::Many(many) => many,
        Audiences::Other(_) => Vec::new(),
    };
    if ours.is_empty() || theirs.is_empty() || theirs.iter().any(|one| ours.contains(one)) {
        return None;
    }
    let short = |one: &String| one.chars().filter(|c| !c.is_control()).take(SHOWN.1).collect::<String>();
    Some(theirs.iter().take(SHOWN.0).map(short).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn jwt(claims: &Value) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{\"alg\":\"RS256\"}"), URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[rstest]
    #[case(jwt(&json!({"exp": 2_000_000_000, "aud": ["prewarmer"]})), None)]
    #[case(jwt(&json!({"aud": "x"})), None)]
    #[case(jwt(&json!({"aud": 5})), None)]
    #[case(jwt(&json!({"exp": 1_000_000_000})), Some(Hopeless::Expired))]
    #[case(jwt(&json!({"exp": 1_763_999_990})), None)]
    #[case(jwt(&json!({"exp": "soon"})), Some(Hopeless::Malformed))]
    #[case("eyJ".into(), Some(Hopeless::Malformed))]
    #[case("eyJhbGciOiJub25lIn0.e30.".into(), Some(Hopeless::Malformed))]
    #[case("eyJhbGciOiJub25lIn0.e30.a.b".into(), Some(Hopeless::Malformed))]
    #[case("eyJhbGciOiJub25lIn0.!!.a".into(), Some(Hopeless::Malformed))]
    // OpenShift's, and those of bootstrap tokens: asked about.
    #[case("sha256~abcDEF".into(), None)]
    #[case("abcdef.0123456789abcdef".into(), None)]
    #[case("a b".into(), Some(Hopeless::Malformed))]
    #[case("a\"b".into(), Some(Hopeless::Malformed))]
    #[case("==".into(), Some(Hopeless::Malformed))]
    fn what_is_asked_about(#[case] token: String, #[case] expected: Option<Hopeless>) {
        assert_eq!(hopeless(&token, Timestamp::from_second(1_764_000_000).unwrap()), expected);
    }

    #[test]
    fn audiences_that_are_not_ours() {
        let ours = ["prewarmer".to_owned()];
        let other = |aud: Value, ours: &[String]| other_audience(&jwt(&json!({"aud": aud})), ours);
        assert_eq!(
            other(json!(["https://kubernetes.default.svc"]), &ours),
            Some("https://kubernetes.default.svc".into())
        );
        assert_eq!(other(json!("a"), &ours), Some("a".into()));
        assert_eq!(other(json!(["a", "prewarmer"]), &ours), None);
        assert_eq!(other(json!([]), &ours), None);
        assert_eq!(other(json!(["a"]), &[]), None);
        assert_eq!(other_audience("opaque", &ours), None);
    }
}

//! Rotation of the CA: computes the next content of the CA Secret from the current one. Pure except
//! for key generation: no client, no clock, no I/O.
//!
//! A CA is replaced in two steps, so that every handshake uses a CA that the API server trusts
//! already: the successor is generated and published in the bundle first, and signs leaves only
//! after the overlap time, when all clients have received the bundle. A trusted CA stays trusted
//! until it expires.

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::certificates::{
    CertificateError, CertificateLifetimes, CertifiedPair, ca_name_constraints, certified_key,
    generate_ca, is_due, permitted_names, time_left,
};

/// Content of the CA Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateAuthority {
    /// CA that signs leaves.
    pub signing: CertifiedPair,
    /// Successor of the signing CA, and the time of its publication.
    pub next: Option<(CertifiedPair, SystemTime)>,
    /// Trust bundle for the API server: concatenated certificates in PEM.
    pub bundle: String,
}

/// Computes the new content of the CA Secret. Returns `None` when the current content needs no
/// change. A CA is constrained to exactly `names`; one with other constraints, or none, is replaced
/// in the same way as one that is due for renewal.
pub(crate) fn renew_if_due(
    current: Option<&CertificateAuthority>,
    names: &[String],
    lives: &CertificateLifetimes,
    now: SystemTime,
) -> Result<Option<CertificateAuthority>, CertificateError> {
    let Some(current) = current.filter(|current| is_usable(&current.signing, names, now)) else {
        let signing = generate_ca(names, now, lives.ca)?;
        let trusted = current.map(|current| current.bundle.as_str()).unwrap_or_default();
        return Ok(Some(CertificateAuthority {
            bundle: merge_bundles(trusted, &signing.certificate, now),
            signing,
            next: None,
        }));
    };
    match &current.next {
        Some((next, since)) if is_usable(next, names, now) && is_constrained_to(next, names) => {
            let published = now.duration_since(*since).unwrap_or(Duration::ZERO);
            let promoted = || CertificateAuthority {
                bundle: merge_bundles(&current.bundle, &next.certificate, now),
                signing: next.clone(),
                next: None,
            };
            Ok((published >= lives.overlap()).then(promoted))
        }
        _ if is_due(&current.signing.certificate, now)
            || !is_constrained_to(&current.signing, names) =>
        {
            let next = generate_ca(names, now, lives.ca)?;
            let bundle = merge_bundles(&current.bundle, &next.certificate, now);
            Ok(Some(CertificateAuthority {
                signing: current.signing.clone(),
                bundle,
                next: Some((next, now)),
            }))
        }
        _ if !bundle_contains(&current.bundle, &current.signing.certificate) => {
            let bundle = merge_bundles(&current.bundle, &current.signing.certificate, now);
            Ok(Some(CertificateAuthority { bundle, ..current.clone() }))
        }
        _ => Ok(None),
    }
}

/// Reports whether a CA can sign a leaf for at least one of the names.
pub(super) fn is_usable(pair: &CertifiedPair, names: &[String], now: SystemTime) -> bool {
    certified_key(pair).is_ok()
        && time_left(&pair.certificate, now).is_ok_and(|left| !left.is_zero())
        && permitted_names(&pair.certificate, names).is_ok_and(|some| !some.is_empty())
}

/// Reports whether a CA is constrained to exactly these names, in any order.
fn is_constrained_to(pair: &CertifiedPair, names: &[String]) -> bool {
    let Ok(Some(constraints)) = ca_name_constraints(&pair.certificate) else { return false };
    constraints.len() == names.len() && names.iter().all(|name| constraints.contains(name))
}

fn parse_certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

fn bundle_contains(bundle: &str, certificate: &str) -> bool {
    let known = parse_certificates(bundle);
    parse_certificates(certificate).iter().all(|one| known.contains(one))
}

/// Merges two PEM bundles: returns the certificates that have not expired, without duplicates,
/// those of `new` first.
#[must_use]
pub(crate) fn merge_bundles(old: &str, new: &str, now: SystemTime) -> String {
    let mut seen = Vec::new();
    let mut text = String::new();
    for block in pem_blocks(new).chain(pem_blocks(old)) {
        let Some(certificate) = parse_certificates(block).pop() else { continue };
        if !seen.contains(&certificate) && time_left(block, now).is_ok_and(|left| !left.is_zero()) {
            seen.push(certificate);
            text.push_str(block.trim());
            text.push('\n');
        }
    }
    text
}

/// Returns the certificate blocks of a PEM text, each including its BEGIN and END lines.
fn pem_blocks(pem: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END).filter(|block| block.contains("-----BEGIN CERTIFICATE-----"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVES: CertificateLifetimes =
        CertificateLifetimes { ca: Duration::from_secs(9000), leaf: Duration::from_secs(3000) };

    fn names() -> Vec<String> {
        vec!["prewarmer.infra.svc".into(), "127.0.0.1".into()]
    }

    fn renew_at(
        current: Option<&CertificateAuthority>,
        now: SystemTime,
    ) -> Option<CertificateAuthority> {
        renew_if_due(current, &names(), &LIVES, now).unwrap()
    }

    /// The names change with the settings, and a CA of an earlier version is unconstrained.
    #[test]
    fn a_ca_for_other_names_is_replaced_with_an_overlap() {
        let now = SystemTime::now();
        let first =
            renew_if_due(None, &[names(), vec!["old.infra.svc".into()]].concat(), &LIVES, now)
                .unwrap()
                .unwrap();
        let second = renew_at(Some(&first), now).unwrap();
        assert_eq!(
            (&second.signing, parse_certificates(&second.bundle).len()),
            (&first.signing, 2)
        );
        let third = renew_at(Some(&second), now + LIVES.overlap()).unwrap();
        assert!(
            is_constrained_to(&third.signing, &names())
                && !is_constrained_to(&first.signing, &names())
        );
        assert_eq!(renew_at(Some(&third), now + LIVES.overlap()), None);
        let unconstrained = CertificateAuthority {
            signing: super::super::certificates::generate_unconstrained_ca(now, LIVES.ca).unwrap(),
            ..first
        };
        assert!(
            renew_at(Some(&unconstrained), now).is_some_and(|new| new
                .next
                .is_some_and(|(ca, _)| is_constrained_to(&ca, &names())))
        );
        let foreign_ca =
            renew_if_due(None, &["elsewhere.svc".into()], &LIVES, now).unwrap().unwrap();
        let replaced = renew_at(Some(&foreign_ca), now).unwrap();
        assert!(
            is_constrained_to(&replaced.signing, &names()),
            "a CA that can sign none of the names is replaced without overlap"
        );
    }

    #[test]
    fn a_successor_is_published_before_it_signs() {
        let now = SystemTime::now();
        let first = renew_at(None, now).unwrap();
        assert_eq!(renew_at(Some(&first), now), None);
        let later = now + LIVES.ca / 2;
        let second = renew_at(Some(&first), later).unwrap();
        assert_eq!(
            (&second.signing, parse_certificates(&second.bundle).len()),
            (&first.signing, 2)
        );
        assert_eq!(renew_at(Some(&second), later + LIVES.overlap() / 2), None);
        let third = renew_at(Some(&second), later + LIVES.overlap()).unwrap();
        assert_eq!(Some(&third.signing), second.next.as_ref().map(|(pair, _)| pair));
        assert_eq!((third.next.is_none(), parse_certificates(&third.bundle).len()), (true, 2));
        assert!(
            bundle_contains(&third.bundle, &first.signing.certificate),
            "leaves of the old CA are still served"
        );
        assert_eq!(renew_at(Some(&third), later + LIVES.overlap()), None);
    }

    #[test]
    fn an_expired_ca_is_removed_from_the_bundle() {
        let now = SystemTime::now();
        let first = renew_at(None, now).unwrap();
        let replaced = renew_at(Some(&first), now + 2 * LIVES.ca).unwrap();
        assert_ne!(replaced.signing, first.signing);
        assert_eq!(parse_certificates(&replaced.bundle).len(), 1);
    }

    #[test]
    fn a_missing_bundle_is_added() {
        let now = SystemTime::now();
        let first = CertificateAuthority { bundle: String::new(), ..renew_at(None, now).unwrap() };
        let mended = renew_at(Some(&first), now).unwrap();
        assert!(
            mended.signing == first.signing
                && bundle_contains(&mended.bundle, &first.signing.certificate)
        );
    }

    #[test]
    fn a_ca_with_a_key_of_another_certificate_is_replaced() {
        let now = SystemTime::now();
        let (one, other) = (renew_at(None, now).unwrap(), renew_at(None, now).unwrap());
        let broken = CertificateAuthority {
            signing: CertifiedPair { key: other.signing.key, ..one.signing.clone() },
            ..one
        };
        assert!(
            renew_at(Some(&broken), now).is_some_and(|new| certified_key(&new.signing).is_ok())
        );
    }
}

//! The CA and its successors: what is kept, and what is to be done about it. *Pure*, but for randomness.
//!
//! A CA is replaced in two steps, so that no handshake ever meets an API server that does not trust it yet: its successor is
//! made and published, and signs nothing before everybody had time to learn of it. Whoever was trusted stays so until it
//! expires.

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::certificates::{
    CertificateError, Lifetimes, Pair, constraints_of, is_due, make_ca_for, permitted, serving, time_left,
};

/// What the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// What signs leaves.
    pub signing: Pair,
    /// What will, and since when it is published.
    pub next: Option<(Pair, SystemTime)>,
    /// What the API server is to trust: certificates in PEM, one behind the other.
    pub bundle: String,
}

/// What is to be kept from now on; `None`: what is there is good. A CA may sign for `names` alone; one that may sign for others,
/// or not for all of them, is replaced as one that has grown old is.
pub fn renew(
    current: Option<&Authority>,
    names: &[String],
    lives: &Lifetimes,
    now: SystemTime,
) -> Result<Option<Authority>, CertificateError> {
    let Some(current) = current.filter(|current| is_usable(&current.signing, names, now)) else {
        let signing = make_ca_for(names, now, lives.ca)?;
        let trusted = current.map(|current| current.bundle.as_str()).unwrap_or_default();
        return Ok(Some(Authority { bundle: bundle(trusted, &signing.certificate, now), signing, next: None }));
    };
    match &current.next {
        Some((next, since)) if is_usable(next, names, now) && fits(next, names) => {
            let published = now.duration_since(*since).unwrap_or(Duration::ZERO);
            let promoted = || Authority {
                bundle: bundle(&current.bundle, &next.certificate, now),
                signing: next.clone(),
                next: None,
            };
            Ok((published >= lives.overlap()).then(promoted))
        }
        _ if is_due(&current.signing.certificate, now) || !fits(&current.signing, names) => {
            let next = make_ca_for(names, now, lives.ca)?;
            let bundle = bundle(&current.bundle, &next.certificate, now);
            Ok(Some(Authority { signing: current.signing.clone(), bundle, next: Some((next, now)) }))
        }
        _ if !contains(&current.bundle, &current.signing.certificate) => {
            let bundle = bundle(&current.bundle, &current.signing.certificate, now);
            Ok(Some(Authority { bundle, ..current.clone() }))
        }
        _ => Ok(None),
    }
}

/// Whether a CA can sign a leaf for one of the names at least.
pub(super) fn is_usable(pair: &Pair, names: &[String], now: SystemTime) -> bool {
    serving(pair).is_ok()
        && time_left(&pair.certificate, now).is_ok_and(|left| !left.is_zero())
        && permitted(&pair.certificate, names).is_ok_and(|some| !some.is_empty())
}

/// Whether a CA is constrained to these names, in any order.
fn fits(pair: &Pair, names: &[String]) -> bool {
    let Ok(Some(constraints)) = constraints_of(&pair.certificate) else { return false };
    constraints.len() == names.len() && names.iter().all(|name| constraints.contains(name))
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

fn contains(bundle: &str, certificate: &str) -> bool {
    let known = certificates(bundle);
    certificates(certificate).iter().all(|one| known.contains(one))
}

/// The certificates of both that have not expired, each once, the newest first.
#[must_use]
pub fn bundle(old: &str, new: &str, now: SystemTime) -> String {
    let mut seen = Vec::new();
    let mut text = String::new();
    for block in blocks(new).chain(blocks(old)) {
        let Some(certificate) = certificates(block).pop() else { continue };
        if !seen.contains(&certificate) && time_left(block, now).is_ok_and(|left| !left.is_zero()) {
            seen.push(certificate);
            text.push_str(block.trim());
            text.push('\n');
        }
    }
    text
}

/// The certificates of a PEM, each with its frame.
fn blocks(pem: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END).filter(|block| block.contains("-----BEGIN CERTIFICATE-----"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVES: Lifetimes = Lifetimes { ca: Duration::from_secs(9000), leaf: Duration::from_secs(3000) };

    fn names() -> Vec<String> {
        vec!["prewarmer.infra.svc".into(), "127.0.0.1".into()]
    }

    fn step(current: Option<&Authority>, now: SystemTime) -> Option<Authority> {
        renew(current, &names(), &LIVES, now).unwrap()
    }

    /// The names of a server change with its settings; and a CA of an earlier version may sign for every host.
    #[test]
    fn a_ca_for_other_names_is_replaced_with_an_overlap() {
        let now = SystemTime::now();
        let first = renew(None, &[names(), vec!["old.infra.svc".into()]].concat(), &LIVES, now).unwrap().unwrap();
        let second = step(Some(&first), now).unwrap();
        assert_eq!((&second.signing, certificates(&second.bundle).len()), (&first.signing, 2));
        let third = step(Some(&second), now + LIVES.overlap()).unwrap();
        assert!(fits(&third.signing, &names()) && !fits(&first.signing, &names()));
        assert_eq!(step(Some(&third), now + LIVES.overlap()), None);
        let unconstrained = Authority { signing: super::super::certificates::make_ca(now, LIVES.ca).unwrap(), ..first };
        assert!(step(Some(&unconstrained), now).is_some_and(|new| new.next.is_some_and(|(ca, _)| fits(&ca, &names()))));
        let stranger = renew(None, &["elsewhere.svc".into()], &LIVES, now).unwrap().unwrap();
        let replaced = step(Some(&stranger), now).unwrap();
        assert!(fits(&replaced.signing, &names()), "it can sign nothing of ours: there is no use in waiting");
    }

    #[test]
    fn a_successor_is_published_before_it_signs() {
        let now = SystemTime::now();
        let first = step(None, now).unwrap();
        assert_eq!(step(Some(&first), now), None);
        let later = now + LIVES.ca / 2;
        let second = step(Some(&first), later).unwrap();
        assert_eq!((&second.signing, certificates(&second.bundle).len()), (&first.signing, 2));
        assert_eq!(step(Some(&second), later + LIVES.overlap() / 2), None);
        let third = step(Some(&second), later + LIVES.overlap()).unwrap();
        assert_eq!(Some(&third.signing), second.next.as_ref().map(|(pair, _)| pair));
        assert_eq!((third.next.is_none(), certificates(&third.bundle).len()), (true, 2));
        assert!(contains(&third.bundle, &first.signing.certificate), "leaves of the old CA are in use");
        assert_eq!(step(Some(&third), later + LIVES.overlap()), None);
    }

    #[test]
    fn what_has_expired_is_trusted_no_longer() {
        let now = SystemTime::now();
        let first = step(None, now).unwrap();
        let replaced = step(Some(&first), now + 2 * LIVES.ca).unwrap();
        assert_ne!(replaced.signing, first.signing);
        assert_eq!(certificates(&replaced.bundle).len(), 1);
    }

    #[test]
    fn a_secret_of_an_earlier_version_gets_its_bundle() {
        let now = SystemTime::now();
        let first = Authority { bundle: String::new(), ..step(None, now).unwrap() };
        let mended = step(Some(&first), now).unwrap();
        assert!(mended.signing == first.signing && contains(&mended.bundle, &first.signing.certificate));
    }

    #[test]
    fn a_key_that_does_not_fit_is_replaced() {
        let now = SystemTime::now();
        let (one, other) = (step(None, now).unwrap(), step(None, now).unwrap());
        let broken = Authority { signing: Pair { key: other.signing.key, ..one.signing.clone() }, ..one };
        assert!(step(Some(&broken), now).is_some_and(|new| serving(&new.signing).is_ok()));
    }
}

//! Makes the CA and the leaf. *Pure*, but for randomness and the date.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::extensions::GeneralName;

/// How long certificates live. Each is renewed when a third of its life is over: two thirds are left for whatever goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The CA's.
    pub ca: Duration,
    /// A leaf's.
    pub leaf: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { ca: Duration::from_secs(365 * 24 * 3600), leaf: Duration::from_secs(7 * 24 * 3600) }
    }
}

impl Lifetimes {
    /// How often certificates are looked at: within the life of a leaf a hundred times, and every 30 s at least.
    #[must_use]
    pub fn check(&self) -> Duration {
        (self.leaf / 100).clamp(Duration::from_millis(200), Duration::from_secs(30))
    }

    /// How long a new CA is published before anything is signed by it: three looks, so that the leader has seen it, the API
    /// server has it, and one of them may have failed.
    #[must_use]
    pub fn overlap(&self) -> Duration {
        3 * self.check()
    }
}

/// Clocks differ: what is made now is valid a little earlier.
const BACKDATE: Duration = Duration::from_secs(300);

/// Whether a third of a certificate's life is over, or it cannot be read.
#[must_use]
pub fn is_due(certificate: &str, now: SystemTime) -> bool {
    let Ok((begin, end)) = validity(certificate) else { return true };
    let life = end.duration_since(begin + BACKDATE).unwrap_or_default();
    end.duration_since(now).unwrap_or_default() * 3 < life * 2
}

/// What is wrong with a certificate or key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It could not be made.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    /// It could not be read.
    #[error("not a PEM certificate or key: {0}")]
    Pem(String),
}

/// A certificate and its key, in PEM. The key is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn backdated(now: SystemTime) -> SystemTime {
    now.checked_sub(BACKDATE).unwrap_or(now)
}

/// Makes a CA that may sign for these DNS names and IP addresses only: callers of REST trust it, and whoever gets at its key
/// must not be able to pass for other hosts.
pub fn make_ca_for(names: &[String], now: SystemTime, lifetime: Duration) -> Result<Pair, CertificateError> {
    ca(Some(constraints(names)), now, lifetime)
}

/// Makes a CA without constraints, as earlier versions did.
#[cfg(test)]
pub fn make_ca(now: SystemTime, lifetime: Duration) -> Result<Pair, CertificateError> {
    ca(None, now, lifetime)
}

fn ca(constraints: Option<NameConstraints>, now: SystemTime, lifetime: Duration) -> Result<Pair, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "prewarmer CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = constraints;
    params.not_before = backdated(now).into();
    params.not_after = (now + lifetime).into();
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Constraints that permit these names. A kind of name of which none is listed would be unconstrained, so all of it is excluded.
fn constraints(names: &[String]) -> NameConstraints {
    let address = |name: &String| name.parse::<IpAddr>().ok();
    let subtree = |name: &String| match address(name) {
        Some(IpAddr::V4(ip)) => GeneralSubtree::IpAddress(CidrSubnet::V4(ip.octets(), [u8::MAX; 4])),
        Some(IpAddr::V6(ip)) => GeneralSubtree::IpAddress(CidrSubnet::V6(ip.octets(), [u8::MAX; 16])),
        None => GeneralSubtree::DnsName(name.clone()),
    };
    let mut excluded = Vec::new();
    if names.iter().all(|name| address(name).is_none()) {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    if names.iter().all(|name| address(name).is_some()) {
        // The empty name is the root of all.
        excluded.push(GeneralSubtree::DnsName(String::new()));
    }
    NameConstraints { permitted_subtrees: names.iter().map(subtree).collect(), excluded_subtrees: excluded }
}

/// Returns those of the names that a CA may sign for; all of them where it is not constrained.
pub fn permitted(ca: &str, names: &[String]) -> Result<Vec<String>, CertificateError> {
    let Some(permitted) = constraints_of(ca)? else { return Ok(names.to_vec()) };
    Ok(names.iter().filter(|name| permitted.contains(name)).cloned().collect())
}

/// Returns the names that a CA is constrained to, if it is.
pub fn constraints_of(ca: &str) -> Result<Option<Vec<String>>, CertificateError> {
    let wrong = |error: &dyn std::fmt::Display| CertificateError::Pem(error.to_string());
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|error| wrong(&error))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| wrong(&error))?;
    let found = parsed.name_constraints().map_err(|error| wrong(&error))?;
    let Some(subtrees) = found.and_then(|extension| extension.value.permitted_subtrees.as_ref()) else {
        return Ok(None);
    };
    let name = |subtree: &x509_parser::extensions::GeneralSubtree<'_>| match subtree.base {
        GeneralName::DNSName(name) => Some(name.to_owned()),
        // An address, and a mask of the same length.
        GeneralName::IPAddress(bytes) => match bytes.len() {
            8 => <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(|ip| IpAddr::from(ip).to_string()),
            32 => <[u8; 16]>::try_from(bytes.get(..16)?).ok().map(|ip| IpAddr::from(ip).to_string()),
            _ => None,
        },
        _ => None,
    };
    Ok(Some(subtrees.iter().filter_map(name).collect()))
}

/// A new leaf for those of these DNS names and IP addresses that the CA may sign for. It does not outlive its CA.
pub fn make_leaf(ca: &Pair, names: &[String], now: SystemTime, lifetime: Duration) -> Result<Pair, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(permitted(&ca.certificate, names)?)?;
    params.distinguished_name.push(DnType::CommonName, "prewarmer");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = backdated(now).into();
    params.not_after = (now + lifetime.min(time_left(&ca.certificate, now)?)).into();
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// How long the first certificate of a PEM is valid from `now`; zero when it is not.
pub fn time_left(certificate: &str, now: SystemTime) -> Result<Duration, CertificateError> {
    Ok(validity(certificate)?.1.duration_since(now).unwrap_or_default())
}

/// Since when, and until when, the first certificate of a PEM is valid.
fn validity(certificate: &str) -> Result<(SystemTime, SystemTime), CertificateError> {
    let wrong = |error: &dyn std::fmt::Display| CertificateError::Pem(error.to_string());
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| wrong(&error))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| wrong(&error))?;
    let time = |stamp: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stamp).unwrap_or(0));
    let validity = parsed.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

/// The pair in the form that rustls serves.
pub fn serving(pair: &Pair) -> Result<rustls::sign::CertifiedKey, CertificateError> {
    let wrong = |error: &dyn std::fmt::Display| CertificateError::Pem(error.to_string());
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| wrong(&error))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_served_and_expires() {
        let (now, lives) = (SystemTime::now(), Lifetimes::default());
        let names = ["prewarmer.infra.svc".to_owned(), "127.0.0.1".to_owned()];
        let ca = make_ca_for(&names, now, lives.ca).unwrap();
        let leaf = make_leaf(&ca, &names, now, lives.leaf).unwrap();
        assert!(serving(&leaf).is_ok());
        let left = time_left(&leaf.certificate, now).unwrap();
        assert!(left + Duration::from_secs(2) > lives.leaf && left <= lives.leaf);
        assert_eq!(time_left(&leaf.certificate, now + 2 * lives.leaf).unwrap(), Duration::ZERO);
        assert!(!is_due(&leaf.certificate, now + lives.leaf / 4));
        assert!(is_due(&leaf.certificate, now + lives.leaf / 2));
        let long = make_leaf(&ca, &["127.0.0.1".into()], now, 2 * lives.ca).unwrap();
        assert!(time_left(&long.certificate, now).unwrap() <= lives.ca, "it outlives its CA");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let now = SystemTime::now();
        let names = ["127.0.0.1".to_owned()];
        let ca = make_ca_for(&names, now, Lifetimes::default().ca).unwrap();
        let leaf = || make_leaf(&ca, &names, now, Lifetimes::default().leaf).unwrap();
        let (one, other) = (leaf(), leaf());
        assert!(serving(&Pair { certificate: one.certificate, key: other.key }).is_err());
        assert!(time_left("nonsense", now).is_err());
    }

    #[test]
    fn a_key_is_never_shown() {
        let ca = make_ca_for(&["a.svc".into()], SystemTime::now(), Lifetimes::default().ca).unwrap();
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }

    /// What rustls says of a leaf for `names` that a CA for `allowed` has signed, as a caller who trusts the CA and calls `host`.
    fn verify(allowed: &[&str], names: &[&str], host: &str) -> Result<(), rustls::Error> {
        use rustls::{client::danger::ServerCertVerifier, pki_types::UnixTime};
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (now, lives) = (SystemTime::now(), Lifetimes::default());
        let ca = make_ca_for(&owned(allowed), now, lives.ca).unwrap();
        // Signed by a thief, who leaves out what make_leaf asks.
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key).unwrap()).unwrap();
        let params = CertificateParams::new(owned(names)).unwrap();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let host = rustls::pki_types::ServerName::try_from(host.to_owned()).unwrap();
        verifier.verify_server_cert(leaf.der(), &[], &host, &[], UnixTime::now()).map(|_| ())
    }

    #[test]
    fn a_ca_signs_for_nothing_but_its_own_names() {
        let ours = ["prewarmer.infra.svc", "127.0.0.1"];
        verify(&ours, &ours, "prewarmer.infra.svc").unwrap();
        verify(&ours, &ours, "127.0.0.1").unwrap();
        verify(&["prewarmer.infra.svc"], &["prewarmer.infra.svc"], "prewarmer.infra.svc").unwrap();
        for (allowed, name) in [
            (&ours[..], "bank.example"),
            (&ours[..], "10.0.0.1"),
            (&ours[..], "::1"),
            (&["prewarmer.infra.svc"][..], "10.0.0.1"),
            (&["127.0.0.1"][..], "bank.example"),
        ] {
            assert!(verify(allowed, &[name], name).is_err(), "{allowed:?} sign for {name}");
        }
    }

    #[test]
    fn what_a_ca_is_constrained_to_is_read_back() {
        let names = ["prewarmer.infra.svc", "127.0.0.1", "::1"].map(str::to_owned);
        let ca = make_ca_for(&names, SystemTime::now(), Lifetimes::default().ca).unwrap();
        assert_eq!(constraints_of(&ca.certificate).unwrap().unwrap(), names);
        let more = [names[0].clone(), "new.infra.svc".to_owned()];
        assert_eq!(permitted(&ca.certificate, &more).unwrap(), names[..1]);
    }
}

//! Makes the CA and the leaf. *Pure*, but for randomness and the date.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

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

/// A new CA.
pub fn make_ca(now: SystemTime, lifetime: Duration) -> Result<Pair, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "prewarmer CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = backdated(now).into();
    params.not_after = (now + lifetime).into();
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A new leaf for these DNS names and IP addresses. It does not outlive its CA.
pub fn make_leaf(ca: &Pair, names: &[String], now: SystemTime, lifetime: Duration) -> Result<Pair, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
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
        let ca = make_ca(now, lives.ca).unwrap();
        let leaf = make_leaf(&ca, &["prewarmer.infra.svc".into(), "127.0.0.1".into()], now, lives.leaf).unwrap();
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
        let ca = make_ca(now, Lifetimes::default().ca).unwrap();
        let names = ["127.0.0.1".to_owned()];
        let leaf = || make_leaf(&ca, &names, now, Lifetimes::default().leaf).unwrap();
        let (one, other) = (leaf(), leaf());
        assert!(serving(&Pair { certificate: one.certificate, key: other.key }).is_err());
        assert!(time_left("nonsense", now).is_err());
    }

    #[test]
    fn a_key_is_never_shown() {
        let ca = make_ca(SystemTime::now(), Lifetimes::default().ca).unwrap();
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }
}

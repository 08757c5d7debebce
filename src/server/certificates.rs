//! Generation and inspection of CA and leaf certificates. Pure except for key generation: no
//! client, no clock, no I/O.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::extensions::GeneralName;

/// Lifetimes of certificates. Each certificate is renewed after a third of its lifetime, which
/// leaves two thirds for retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateLifetimes {
    /// Lifetime of the CA. Default: 365 days.
    pub ca: Duration,
    /// Lifetime of a leaf. Default: 7 days.
    pub leaf: Duration,
}

impl Default for CertificateLifetimes {
    fn default() -> Self {
        Self { ca: Duration::from_secs(365 * 24 * 3600), leaf: Duration::from_secs(7 * 24 * 3600) }
    }
}

impl CertificateLifetimes {
    /// Returns the interval at which certificates are checked: a hundredth of the lifetime of a
    /// leaf, between 200 ms and 30 s.
    #[must_use]
    pub fn check_interval(&self) -> Duration {
        (self.leaf / 100).clamp(Duration::from_millis(200), Duration::from_secs(30))
    }

    /// Returns the time for which a new CA is published before it signs leaves: three check
    /// intervals, one for the leader to read it, one for the API server to receive it, and one for
    /// a failure.
    #[must_use]
    pub fn overlap(&self) -> Duration {
        3 * self.check_interval()
    }
}

/// Time by which the start of validity precedes the creation of a certificate, to tolerate clock
/// skew.
const CLOCK_SKEW_TOLERANCE: Duration = Duration::from_secs(300);

/// Reports whether a third of the lifetime of a certificate is over, or the certificate cannot be
/// parsed.
#[must_use]
pub(crate) fn is_due(certificate: &str, now: SystemTime) -> bool {
    let Ok((begin, end)) = validity(certificate) else { return true };
    let life = end.duration_since(begin + CLOCK_SKEW_TOLERANCE).unwrap_or_default();
    end.duration_since(now).unwrap_or_default() * 3 < life * 2
}

/// Error of generating or parsing a certificate or key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Certificate that could not be generated.
    #[error("certificate generation failed: {0}")]
    Generate(#[from] rcgen::Error),
    /// Certificate or key that could not be parsed.
    #[error("invalid PEM certificate or key: {0}")]
    Pem(String),
}

/// Certificate and private key in PEM. The `Debug` output omits the key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CertifiedPair {
    /// Certificate in PEM.
    pub certificate: String,
    /// Private key in PEM.
    pub key: String,
}

impl std::fmt::Debug for CertifiedPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn backdated(now: SystemTime) -> SystemTime {
    now.checked_sub(CLOCK_SKEW_TOLERANCE).unwrap_or(now)
}

/// Generates a CA that may sign for these DNS names and IP addresses only. REST clients trust this
/// CA, so a stolen key must not allow certificates for other hosts.
pub(crate) fn generate_ca(
    names: &[String],
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertifiedPair, CertificateError> {
    generate_ca_with(Some(name_constraints(names)), now, lifetime)
}

/// Generates a CA without name constraints, as earlier versions did.
#[cfg(test)]
pub(crate) fn generate_unconstrained_ca(
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertifiedPair, CertificateError> {
    generate_ca_with(None, now, lifetime)
}

fn generate_ca_with(
    constraints: Option<NameConstraints>,
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertifiedPair, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "prewarmer CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = constraints;
    params.not_before = backdated(now).into();
    params.not_after = (now + lifetime).into();
    let certificate = params.self_signed(&key)?;
    Ok(CertifiedPair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Returns name constraints that permit these names. A name type without a listed name would be
/// unconstrained, so that type is excluded as a whole.
fn name_constraints(names: &[String]) -> NameConstraints {
    let address = |name: &String| name.parse::<IpAddr>().ok();
    let subtree = |name: &String| match address(name) {
        Some(IpAddr::V4(ip)) => {
            GeneralSubtree::IpAddress(CidrSubnet::V4(ip.octets(), [u8::MAX; 4]))
        }
        Some(IpAddr::V6(ip)) => {
            GeneralSubtree::IpAddress(CidrSubnet::V6(ip.octets(), [u8::MAX; 16]))
        }
        None => GeneralSubtree::DnsName(name.clone()),
    };
    let mut excluded = Vec::new();
    if names.iter().all(|name| address(name).is_none()) {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    if names.iter().all(|name| address(name).is_some()) {
        // The empty DNS name matches all DNS names.
        excluded.push(GeneralSubtree::DnsName(String::new()));
    }
    NameConstraints {
        permitted_subtrees: names.iter().map(subtree).collect(),
        excluded_subtrees: excluded,
    }
}

/// Returns the names that a CA may sign for: all of them when it has no constraints.
pub(crate) fn permitted_names(ca: &str, names: &[String]) -> Result<Vec<String>, CertificateError> {
    let Some(permitted) = ca_name_constraints(ca)? else { return Ok(names.to_vec()) };
    Ok(names.iter().filter(|name| permitted.contains(name)).cloned().collect())
}

/// Returns the permitted names of a CA, or `None` when it has no constraints.
pub(crate) fn ca_name_constraints(ca: &str) -> Result<Option<Vec<String>>, CertificateError> {
    let wrong = |error: &dyn std::fmt::Display| CertificateError::Pem(error.to_string());
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|error| wrong(&error))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| wrong(&error))?;
    let found = parsed.name_constraints().map_err(|error| wrong(&error))?;
    let Some(subtrees) = found.and_then(|extension| extension.value.permitted_subtrees.as_ref())
    else {
        return Ok(None);
    };
    let name = |subtree: &x509_parser::extensions::GeneralSubtree<'_>| match subtree.base {
        GeneralName::DNSName(name) => Some(name.to_owned()),
        // An IP address followed by a mask of the same length.
        GeneralName::IPAddress(bytes) => match bytes.len() {
            8 => <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(|ip| IpAddr::from(ip).to_string()),
            32 => {
                <[u8; 16]>::try_from(bytes.get(..16)?).ok().map(|ip| IpAddr::from(ip).to_string())
            }
            _ => None,
        },
        _ => None,
    };
    Ok(Some(subtrees.iter().filter_map(name).collect()))
}

/// Generates a leaf for the DNS names and IP addresses that the CA may sign for. The leaf expires
/// with its CA at the latest.
pub(crate) fn generate_leaf(
    ca: &CertifiedPair,
    names: &[String],
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertifiedPair, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(permitted_names(&ca.certificate, names)?)?;
    params.distinguished_name.push(DnType::CommonName, "prewarmer");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = backdated(now).into();
    params.not_after = (now + lifetime.min(time_left(&ca.certificate, now)?)).into();
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(CertifiedPair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Returns the time from `now` to the expiry of the first certificate of a PEM text; zero when it
/// has expired.
pub(crate) fn time_left(certificate: &str, now: SystemTime) -> Result<Duration, CertificateError> {
    Ok(validity(certificate)?.1.duration_since(now).unwrap_or_default())
}

/// Returns start and end of the validity of the first certificate of a PEM text.
fn validity(certificate: &str) -> Result<(SystemTime, SystemTime), CertificateError> {
    let wrong = |error: &dyn std::fmt::Display| CertificateError::Pem(error.to_string());
    let der =
        CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| wrong(&error))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| wrong(&error))?;
    let time = |stamp: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stamp).unwrap_or(0))
    };
    let validity = parsed.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

/// Converts a pair to the form that rustls serves. Fails when the key does not belong to the
/// certificate.
pub(crate) fn certified_key(
    pair: &CertifiedPair,
) -> Result<rustls::sign::CertifiedKey, CertificateError> {
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
        let (now, lives) = (SystemTime::now(), CertificateLifetimes::default());
        let names = ["prewarmer.infra.svc".to_owned(), "127.0.0.1".to_owned()];
        let ca = generate_ca(&names, now, lives.ca).unwrap();
        let leaf = generate_leaf(&ca, &names, now, lives.leaf).unwrap();
        assert!(certified_key(&leaf).is_ok());
        let left = time_left(&leaf.certificate, now).unwrap();
        assert!(left + Duration::from_secs(2) > lives.leaf && left <= lives.leaf);
        assert_eq!(time_left(&leaf.certificate, now + 2 * lives.leaf).unwrap(), Duration::ZERO);
        assert!(!is_due(&leaf.certificate, now + lives.leaf / 4));
        assert!(is_due(&leaf.certificate, now + lives.leaf / 2));
        let long = generate_leaf(&ca, &["127.0.0.1".into()], now, 2 * lives.ca).unwrap();
        assert!(time_left(&long.certificate, now).unwrap() <= lives.ca, "the leaf outlives its CA");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let now = SystemTime::now();
        let names = ["127.0.0.1".to_owned()];
        let ca = generate_ca(&names, now, CertificateLifetimes::default().ca).unwrap();
        let leaf =
            || generate_leaf(&ca, &names, now, CertificateLifetimes::default().leaf).unwrap();
        let (one, other) = (leaf(), leaf());
        assert!(
            certified_key(&CertifiedPair { certificate: one.certificate, key: other.key }).is_err()
        );
        assert!(time_left("nonsense", now).is_err());
    }

    #[test]
    fn a_key_is_never_shown() {
        let ca =
            generate_ca(&["a.svc".into()], SystemTime::now(), CertificateLifetimes::default().ca)
                .unwrap();
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }

    /// Verifies with rustls a leaf for `names`, signed by a CA for `allowed`, as a client that
    /// trusts the CA and connects to `host`.
    fn verify(allowed: &[&str], names: &[&str], host: &str) -> Result<(), rustls::Error> {
        use rustls::{client::danger::ServerCertVerifier, pki_types::UnixTime};
        let owned =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (now, lives) = (SystemTime::now(), CertificateLifetimes::default());
        let ca = generate_ca(&owned(allowed), now, lives.ca).unwrap();
        // Signs directly with the CA key, without the check of names when a leaf is generated, as
        // an attacker would.
        let issuer =
            Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key).unwrap()).unwrap();
        let params = CertificateParams::new(owned(names)).unwrap();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .unwrap();
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
    fn name_constraints_survive_a_round_trip() {
        let names = ["prewarmer.infra.svc", "127.0.0.1", "::1"].map(str::to_owned);
        let ca =
            generate_ca(&names, SystemTime::now(), CertificateLifetimes::default().ca).unwrap();
        assert_eq!(ca_name_constraints(&ca.certificate).unwrap().unwrap(), names);
        let more = [names[0].clone(), "new.infra.svc".to_owned()];
        assert_eq!(permitted_names(&ca.certificate, &more).unwrap(), names[..1]);
    }
}

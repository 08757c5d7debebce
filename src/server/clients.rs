//! Who may call: the API server, by its client certificate, where a setting asks for one.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::extensions::GeneralName;

/// A verifier of client certificates: signed by one of the CAs in the PEM, for client authentication, and of one of `names`
/// where there are any. The error says what is wrong with the PEM.
pub fn verifier(ca: &str, names: &[String]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let by_ca = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let by_ca = by_ca.map_err(|error| error.to_string())?;
    if names.is_empty() { Ok(by_ca) } else { Ok(Arc::new(Named { by_ca, names: names.to_vec() })) }
}

/// By CA and name.
#[derive(Debug)]
struct Named {
    by_ca: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl Named {
    /// Whether the common name or a DNS name of the certificate is one of ours.
    fn knows(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
        let known = |name: &str| self.names.iter().any(|one| one == name);
        let common = parsed.subject().iter_common_name().any(|name| name.as_str().is_ok_and(known));
        let alternative = parsed.subject_alternative_name().ok().flatten().is_some_and(|names| {
            names.value.general_names.iter().any(|name| matches!(name, GeneralName::DNSName(name) if known(name)))
        });
        common || alternative
    }
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_ca.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.by_ca.verify_client_cert(end_entity, intermediates, now)?;
        let stranger = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if self.knows(end_entity) { Ok(verified) } else { Err(stranger) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_ca.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};

    use super::*;
    use crate::server::certificates::{Lifetimes, Pair, make_ca, make_leaf};

    fn client(ca: &Pair, name: &str) -> CertificateDer<'static> {
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key).unwrap()).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
    }

    #[test]
    fn only_the_right_ca_use_and_name_will_do() {
        let (now, lives) = (SystemTime::now(), Lifetimes::default());
        let (ours, theirs) = (make_ca(now, lives.ca).unwrap(), make_ca(now, lives.ca).unwrap());
        let any = verifier(&ours.certificate, &[]).unwrap();
        let named = verifier(&ours.certificate, &["kube-apiserver".into()]).unwrap();
        let accepts = |verifier: &Arc<dyn ClientCertVerifier>, certificate: &CertificateDer<'_>| {
            verifier.verify_client_cert(certificate, &[], UnixTime::now()).is_ok()
        };
        let (good, other) = (client(&ours, "kube-apiserver"), client(&ours, "somebody"));
        assert!(accepts(&any, &good) && accepts(&any, &other) && accepts(&named, &good));
        assert!(!accepts(&named, &other), "a name that was not asked for");
        assert!(!accepts(&any, &client(&theirs, "kube-apiserver")), "another CA");
        let server = make_leaf(&ours, &["kube-apiserver".into()], now, lives.leaf).unwrap();
        assert!(!accepts(&any, &CertificateDer::from_pem_slice(server.certificate.as_bytes()).unwrap()), "a server's");
        assert!(verifier("nonsense", &[]).is_err());
    }
}

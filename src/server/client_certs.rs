//! Verification of client certificates of the webhook listener, where `--client-ca-file` is set.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{
        CertificateDer, UnixTime,
        pem::{self, PemObject},
    },
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

/// Interval at which the CA file is read again. The file is polled, as those of the serving
/// certificate are, because a watch on the file itself misses the kubelet's swap of the directory
/// symlink.
pub(crate) const RELOAD_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum size of the CA file, in bytes. A bundle of all public CAs has 220 KB.
const MAX_FILE_SIZE: u64 = 4 * 1024 * 1024;

/// Error of loading a CA file. Errors of the content are no sources, because the text contains
/// them and `main` prints the sources after it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientCaError {
    /// File that could not be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// File that is not valid PEM.
    #[error("invalid PEM file of CA certificates: {0}")]
    Pem(pem::Error),
    /// Certificate that cannot be the root of a chain.
    #[error("invalid PEM file of CA certificates: {0}")]
    Certificate(Error),
    /// File without certificates.
    #[error("invalid PEM file of CA certificates: {0}")]
    Verifier(VerifierBuilderError),
}

/// Client certificate verifier with the CAs of a file, which can be reloaded.
#[derive(Debug)]
pub(crate) struct ReloadingClientVerifier {
    file: PathBuf,
    names: Vec<String>,
    /// Content of the file, and the verifier built from it.
    current: ArcSwap<(String, Arc<dyn ClientCertVerifier>)>,
}

impl ReloadingClientVerifier {
    /// Reads the file and builds the verifier. `names` are the accepted names of clients; empty
    /// accepts any name.
    pub(crate) fn open(file: &Path, names: &[String]) -> Result<Arc<Self>, ClientCaError> {
        let text = read_ca_file(file)?;
        let verifier = build_verifier(&text, names)?;
        let current = ArcSwap::from_pointee((text, verifier));
        Ok(Arc::new(Self { file: file.to_owned(), names: names.to_vec(), current }))
    }

    /// Reads the file again and reports whether its content has changed. A change takes effect with
    /// the next handshake. On error the previous verifier stays active.
    pub(crate) fn reload(&self) -> Result<bool, ClientCaError> {
        let text = read_ca_file(&self.file)?;
        if text == self.current.load().0 {
            return Ok(false);
        }
        let verifier = build_verifier(&text, &self.names)?;
        self.current.store(Arc::new((text, verifier)));
        Ok(true)
    }

    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.current.load().1)
    }
}

fn read_ca_file(file: &Path) -> Result<String, ClientCaError> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_FILE_SIZE).read_to_string(&mut text)?;
    Ok(text)
}

/// Reloads the CA file every `pause` until `stop`. While the file is unusable, the previous CAs
/// stay active.
pub(crate) async fn reload_periodically(
    clients: Arc<ReloadingClientVerifier>,
    pause: Duration,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let (again, file) = (Arc::clone(&clients), clients.file.display());
        match tokio::task::spawn_blocking(move || again.reload()).await {
            Ok(Ok(true)) => tracing::info!(%file, "client CAs reloaded"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::error!(%file, %error, "--client-ca-file is invalid; the previously loaded CAs stay active");
            }
            Err(error) => tracing::error!(%file, %error, "the reload of --client-ca-file failed"),
        }
    }
}

impl ClientCertVerifier for ReloadingClientVerifier {
    /// Returns no subjects, because the returned slice could not follow a reload. Clients then send
    /// the certificate that they have.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verifier().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier().supported_verify_schemes()
    }
}

/// Builds a verifier that accepts certificates signed by one of the CAs in the PEM text, for client
/// authentication, and with one of `names` unless it is empty. The error describes the problem with
/// the PEM text.
pub(crate) fn build_verifier(
    ca: &str,
    names: &[String],
) -> Result<Arc<dyn ClientCertVerifier>, ClientCaError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.map_err(ClientCaError::Pem)?).map_err(ClientCaError::Certificate)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let by_ca = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let by_ca = by_ca.map_err(ClientCaError::Verifier)?;
    if names.is_empty() {
        Ok(by_ca)
    } else {
        Ok(Arc::new(NamedClientVerifier { by_ca, names: names.to_vec() }))
    }
}

/// Verifier that checks the CA and the name of a certificate.
#[derive(Debug)]
struct NamedClientVerifier {
    by_ca: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl NamedClientVerifier {
    /// Reports whether the common name or a DNS name of the certificate is one of the accepted
    /// names.
    fn has_accepted_name(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return false;
        };
        let known = |name: &str| self.names.iter().any(|one| one == name);
        let common = parsed.subject().iter_common_name().any(|name| name.as_str().is_ok_and(known));
        let alternative = parsed.subject_alternative_name().ok().flatten().is_some_and(|names| {
            names
                .value
                .general_names
                .iter()
                .any(|name| matches!(name, GeneralName::DNSName(name) if known(name)))
        });
        common || alternative
    }
}

impl ClientCertVerifier for NamedClientVerifier {
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
        let rejected = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if self.has_accepted_name(end_entity) { Ok(verified) } else { Err(rejected) }
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
    use crate::server::certificates::{
        CertificateLifetimes, CertifiedPair, generate_leaf, generate_unconstrained_ca,
    };

    fn client_certificate(ca: &CertifiedPair, name: &str) -> CertificateDer<'static> {
        let issuer =
            Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key).unwrap()).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
    }

    #[test]
    fn ca_key_usage_and_name_are_verified() {
        let (now, lives) = (SystemTime::now(), CertificateLifetimes::default());
        let (ours, theirs) = (
            generate_unconstrained_ca(now, lives.ca).unwrap(),
            generate_unconstrained_ca(now, lives.ca).unwrap(),
        );
        let any = build_verifier(&ours.certificate, &[]).unwrap();
        let named = build_verifier(&ours.certificate, &["kube-apiserver".into()]).unwrap();
        let accepts = |verifier: &Arc<dyn ClientCertVerifier>, certificate: &CertificateDer<'_>| {
            verifier.verify_client_cert(certificate, &[], UnixTime::now()).is_ok()
        };
        let (good, other) = (
            client_certificate(&ours, "kube-apiserver"),
            client_certificate(&ours, "other-client"),
        );
        assert!(accepts(&any, &good) && accepts(&any, &other) && accepts(&named, &good));
        assert!(!accepts(&named, &other), "a name that is not accepted");
        assert!(!accepts(&any, &client_certificate(&theirs, "kube-apiserver")), "another CA");
        let server = generate_leaf(&ours, &["kube-apiserver".into()], now, lives.leaf).unwrap();
        assert!(
            !accepts(&any, &CertificateDer::from_pem_slice(server.certificate.as_bytes()).unwrap()),
            "a server certificate"
        );
        let error = anyhow::Error::from(build_verifier("nonsense", &[]).unwrap_err());
        let text = "invalid PEM file of CA certificates: no root trust anchors were provided";
        assert_eq!(format!("{error:#}"), text);
    }

    #[test]
    fn a_valid_change_of_the_file_is_loaded_and_an_invalid_one_is_ignored() {
        let (now, lives) = (SystemTime::now(), CertificateLifetimes::default());
        let (before, after) = (
            generate_unconstrained_ca(now, lives.ca).unwrap(),
            generate_unconstrained_ca(now, lives.ca).unwrap(),
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, &before.certificate).unwrap();
        let clients = ReloadingClientVerifier::open(&file, &[]).unwrap();
        let accepts = |ca: &CertifiedPair| {
            clients
                .verify_client_cert(&client_certificate(ca, "kube"), &[], UnixTime::now())
                .is_ok()
        };
        assert!(accepts(&before) && !accepts(&after));
        assert!(!clients.reload().unwrap(), "the file is unchanged");
        std::fs::write(&file, &after.certificate).unwrap();
        assert!(clients.reload().unwrap());
        assert!(!accepts(&before) && accepts(&after));
        std::fs::write(&file, "nonsense").unwrap();
        assert!(clients.reload().is_err() && accepts(&after));
        std::fs::remove_file(&file).unwrap();
        assert!(clients.reload().is_err() && accepts(&after));
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_is_read_again_while_serving() {
        let (now, lives) = (SystemTime::now(), CertificateLifetimes::default());
        let (before, after) = (
            generate_unconstrained_ca(now, lives.ca).unwrap(),
            generate_unconstrained_ca(now, lives.ca).unwrap(),
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, &before.certificate).unwrap();
        let clients = ReloadingClientVerifier::open(&file, &[]).unwrap();
        let stop = CancellationToken::new();
        let keeper =
            tokio::spawn(reload_periodically(Arc::clone(&clients), RELOAD_INTERVAL, stop.clone()));
        std::fs::write(&file, &after.certificate).unwrap();
        let certificate = client_certificate(&after, "kube");
        for _ in 0..100 {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            if clients.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok() {
                stop.cancel();
                keeper.await.unwrap();
                return;
            }
        }
        panic!("the new CA was not loaded");
    }
}

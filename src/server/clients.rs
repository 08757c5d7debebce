//! Who may call: the API server, by its client certificate, where a setting asks for one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

/// How often the file of CAs is read again, as those of the serving certificate are: by polling, because a watch on the file
/// itself misses the kubelet's swap of the folder's link.
pub const REREAD: Duration = Duration::from_secs(30);
/// Largest file of CAs, in bytes: a bundle of all public CAs has 220 KB.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why a file of CAs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientCaError {
    /// It could not be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// It holds no certificates that can be used.
    #[error("not a PEM file of CA certificates: {0}")]
    Pem(String),
}

/// A verifier whose CAs are those of a file, as it is now.
#[derive(Debug)]
pub struct Reloading {
    file: PathBuf,
    names: Vec<String>,
    /// The text that the verifier was made from, and the verifier.
    current: ArcSwap<(String, Arc<dyn ClientCertVerifier>)>,
}

impl Reloading {
    /// Reads the file for the first time.
    pub fn open(file: &Path, names: &[String]) -> Result<Arc<Self>, ClientCaError> {
        let text = read(file)?;
        let verifier = verifier(&text, names).map_err(ClientCaError::Pem)?;
        let current = ArcSwap::from_pointee((text, verifier));
        Ok(Arc::new(Self { file: file.to_owned(), names: names.to_vec(), current }))
    }

    /// Reads the file again. A new content holds from the next handshake on. Whether there was one.
    pub fn reload(&self) -> Result<bool, ClientCaError> {
        let text = read(&self.file)?;
        if text == self.current.load().0 {
            return Ok(false);
        }
        let verifier = verifier(&text, &self.names).map_err(ClientCaError::Pem)?;
        self.current.store(Arc::new((text, verifier)));
        Ok(true)
    }

    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.current.load().1)
    }
}

fn read(file: &Path) -> Result<String, ClientCaError> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads the file of CAs again every `pause` until `stop`. While it cannot be used, the CAs before it hold.
pub async fn keep(clients: Arc<Reloading>, pause: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let (again, file) = (Arc::clone(&clients), clients.file.display());
        match tokio::task::spawn_blocking(move || again.reload()).await {
            Ok(Ok(true)) => tracing::info!(%file, "the CAs of callers have changed"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::error!(%file, %error, "--client-ca-file cannot be used; the CAs read before it hold");
            }
            Err(error) => tracing::error!(%file, %error, "--client-ca-file could not be read"),
        }
    }
}

impl ClientCertVerifier for Reloading {
    /// No names are hinted: they would be those of one moment. Callers then send the certificate that they have.
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

    #[test]
    fn a_file_that_changes_is_taken_up_and_one_that_breaks_is_not() {
        let (now, lives) = (SystemTime::now(), Lifetimes::default());
        let (before, after) = (make_ca(now, lives.ca).unwrap(), make_ca(now, lives.ca).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, &before.certificate).unwrap();
        let clients = Reloading::open(&file, &[]).unwrap();
        let accepts = |ca: &Pair| clients.verify_client_cert(&client(ca, "kube"), &[], UnixTime::now()).is_ok();
        assert!(accepts(&before) && !accepts(&after));
        assert!(!clients.reload().unwrap(), "nothing has changed");
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
        let (now, lives) = (SystemTime::now(), Lifetimes::default());
        let (before, after) = (make_ca(now, lives.ca).unwrap(), make_ca(now, lives.ca).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, &before.certificate).unwrap();
        let clients = Reloading::open(&file, &[]).unwrap();
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep(Arc::clone(&clients), REREAD, stop.clone()));
        std::fs::write(&file, &after.certificate).unwrap();
        let certificate = client(&after, "kube");
        for _ in 0..100 {
            tokio::time::sleep(REREAD).await;
            if clients.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok() {
                stop.cancel();
                keeper.await.unwrap();
                return;
            }
        }
        panic!("the new CA was not taken up");
    }
}

//! Settings of certificates.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use prewarmer_cli::settings::duration;
use prewarmer_core::settings::{Setting, SettingsChecker, Span};

use super::certificates::CertificateLifetimes;

/// Shortest and longest lifetime of a managed certificate. Renewal cannot keep up below a few
/// seconds. Browsers and libraries refuse lifetimes of decades.
const LIFETIME: Span =
    Span { least: Duration::from_secs(5), most: Duration::from_secs(10 * 365 * 24 * 3600) };

/// Settings of certificates, unparsed.
#[derive(Debug, Args, Clone)]
pub struct CertificateArgs {
    /// Serving certificate (PEM) in place of a managed one; read again when it changes.
    #[arg(long, env = "TLS_CERT_FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of `--tls-cert-file` (PEM).
    #[arg(long, env = "TLS_KEY_FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// CA of `--tls-cert-file` (PEM), which the API server uses to verify the webhook.
    #[arg(long, env = "TLS_CA_FILE")]
    pub tls_ca_file: Option<PathBuf>,
    /// Lifetime of a managed CA, 5s to 87,600h. It is renewed, with an overlap, after a third of
    /// its lifetime.
    #[arg(long, env = "CA_LIFETIME", default_value = "8760h", value_parser = duration(LIFETIME))]
    pub ca_lifetime: Setting<Span>,
    /// Lifetime of a managed certificate, 5s up to `--ca-lifetime`. It is renewed after a third
    /// of its lifetime.
    #[arg(
        long, env = "CERTIFICATE_LIFETIME", default_value = "168h",
        value_parser = duration(LIFETIME)
    )]
    pub certificate_lifetime: Setting<Span>,
}

/// Files of the operator's own serving certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificate chain (PEM).
    pub certificate: PathBuf,
    /// Private key (PEM).
    pub key: PathBuf,
    /// CA (PEM) that the API server uses to verify the webhook.
    pub ca: PathBuf,
}

/// Settings of certificates.
#[derive(Debug, Clone)]
pub struct CertificateSettings {
    /// Operator's own serving certificate.
    pub files: Option<CertificateFiles>,
    /// Lifetimes of managed certificates.
    pub lifetimes: CertificateLifetimes,
}

impl CertificateArgs {
    /// Checks the settings and adds every problem to `check`.
    pub(crate) fn check(&self, check: &mut SettingsChecker) -> CertificateSettings {
        CertificateSettings { lifetimes: self.lifetimes(check), files: self.files(check) }
    }

    fn lifetimes(&self, check: &mut SettingsChecker) -> CertificateLifetimes {
        let ca = check.value(&self.ca_lifetime);
        let leaf = check.value(&self.certificate_lifetime);
        if leaf > ca {
            let expected = "expected at most --ca-lifetime: a certificate must not outlive its CA";
            check.invalid(&self.certificate_lifetime, expected);
        }
        CertificateLifetimes { ca, leaf }
    }

    fn files(&self, check: &mut SettingsChecker) -> Option<CertificateFiles> {
        match (&self.tls_cert_file, &self.tls_key_file, &self.tls_ca_file) {
            (None, None, None) => None,
            (Some(certificate), Some(key), Some(ca)) => Some(CertificateFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                ca: ca.clone(),
            }),
            _ => {
                check.report(
                "--tls-cert-file (TLS_CERT_FILE), --tls-key-file (TLS_KEY_FILE), --tls-ca-file (TLS_CA_FILE): \
                 set all three, or none for a managed certificate",
            );
                None
            }
        }
    }
}

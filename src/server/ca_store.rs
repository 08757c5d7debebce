//! The CA, in a Secret that all replicas share.

use std::{collections::BTreeMap, time::SystemTime};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::certificates::{CA_RENEW_BEFORE, CertificateError, Pair, make_ca, time_left};
use crate::worker::MANAGED_BY;

/// Two replicas may write at once; the loser reads the winner's. More rounds than this mean that something else fights.
const ROUNDS: usize = 5;

/// What kept us from a CA.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The API server.
    #[error("Secret {0}: {1}")]
    Kube(String, #[source] kube::Error),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Somebody else keeps writing.
    #[error("Secret {0}: it changes as fast as it is read: is another install using the same name?")]
    Contended(String),
}

/// The shared CA: read, or made when there is none that will do.
pub async fn obtain(client: &Client, namespace: &str, name: &str) -> Result<Pair, CaError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let failed = |error| CaError::Kube(format!("{namespace}/{name}"), error);
    for _ in 0..ROUNDS {
        let now = SystemTime::now();
        let existing = secrets.get_opt(name).await.map_err(failed)?;
        if let Some(pair) = existing.as_ref().and_then(pair).filter(|pair| is_good(pair, now)) {
            return Ok(pair);
        }
        let fresh = make_ca(now)?;
        let written = match existing {
            None => secrets.create(&PostParams::default(), &secret(name, &fresh, None)).await,
            Some(old) => {
                let version = old.metadata.resource_version;
                secrets.replace(name, &PostParams::default(), &secret(name, &fresh, version)).await
            }
        };
        match written {
            Ok(_) => return Ok(fresh),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(CaError::Contended(format!("{namespace}/{name}")))
}

fn is_good(pair: &Pair, now: SystemTime) -> bool {
    super::certificates::serving(pair).is_ok()
        && time_left(&pair.certificate, now).is_ok_and(|left| left > CA_RENEW_BEFORE)
}

fn pair(secret: &Secret) -> Option<Pair> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Pair { certificate: text("tls.crt")?, key: text("tls.key")? })
}

fn secret(name: &str, pair: &Pair, version: Option<String>) -> Secret {
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), ByteString(pair.certificate.clone().into_bytes())),
        ("tls.key".to_owned(), ByteString(pair.key.clone().into_bytes())),
    ]);
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
            resource_version: version,
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data),
        ..Secret::default()
    }
}

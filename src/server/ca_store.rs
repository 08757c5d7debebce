//! The CA, in a Secret that all replicas share.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::{
    authority::{Authority, is_usable, renew},
    certificates::{CertificateError, Lifetimes, Pair},
};
use crate::worker::MANAGED_BY;

/// Two replicas may write at once; the loser reads the winner's. More rounds than this mean that something else fights.
const ROUNDS: usize = 5;
/// When the next CA was published, in milliseconds since 1970.
const NEXT_SINCE: &str = "prewarm.io/next-since";

/// What kept us from a CA.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The API server.
    #[error("Secret {0}: {1}")]
    Kube(String, #[source] kube::Error),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// There is none yet, and another process is to make it.
    #[error("Secret {0}: there is no usable CA in it yet: the controller makes it")]
    Missing(String),
    /// Somebody else keeps writing.
    #[error("Secret {0}: it changes as fast as it is read: is another install using the same name?")]
    Contended(String),
}

/// Reads the shared CA, which another process makes and renews.
pub async fn read_only(client: &Client, namespace: &str, name: &str, names: &[String]) -> Result<Authority, CaError> {
    let place = || format!("{namespace}/{name}");
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let secret = secrets.get_opt(name).await.map_err(|error| CaError::Kube(place(), error))?;
    let usable = |authority: &Authority| is_usable(&authority.signing, names, SystemTime::now());
    secret.as_ref().and_then(read).filter(usable).ok_or_else(|| CaError::Missing(place()))
}

/// The shared CA for these names: read, made when there is none that will do, renewed when it is time.
pub async fn obtain(
    client: &Client,
    namespace: &str,
    name: &str,
    names: &[String],
    lives: &Lifetimes,
) -> Result<Authority, CaError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let failed = |error| CaError::Kube(format!("{namespace}/{name}"), error);
    for _ in 0..ROUNDS {
        let existing = secrets.get_opt(name).await.map_err(failed)?;
        let current = existing.as_ref().and_then(read);
        let fresh = match (renew(current.as_ref(), names, lives, SystemTime::now())?, current) {
            (None, Some(current)) => return Ok(current),
            (Some(fresh), _) => fresh,
            (None, None) => continue,
        };
        let written = match existing {
            None => secrets.create(&PostParams::default(), &secret(name, &fresh)).await,
            Some(old) => secrets.replace(name, &PostParams::default(), &refilled(old, &fresh)).await,
        };
        match written {
            Ok(_) => return Ok(fresh),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(CaError::Contended(format!("{namespace}/{name}")))
}

fn read(secret: &Secret) -> Option<Authority> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    let pair = |certificate: &str, key: &str| Some(Pair { certificate: text(certificate)?, key: text(key)? });
    let since = secret.metadata.annotations.as_ref().and_then(|all| all.get(NEXT_SINCE)?.parse().ok());
    let since = since.map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
    Some(Authority {
        signing: pair("tls.crt", "tls.key")?,
        next: pair("next.crt", "next.key").zip(since),
        bundle: text("ca.crt").unwrap_or_default(),
    })
}

/// The Secret that there is, filled with this. The chart makes an empty one, with its own labels, and a type that cannot be
/// changed.
fn refilled(old: Secret, authority: &Authority) -> Secret {
    let fresh = secret("", authority);
    let mut metadata = old.metadata;
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove(NEXT_SINCE);
    annotations.extend(fresh.metadata.annotations.unwrap_or_default());
    Secret { metadata, data: fresh.data, ..old }
}

fn secret(name: &str, authority: &Authority) -> Secret {
    let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
    let Authority { signing, next, bundle } = authority;
    let mut data = BTreeMap::from([
        entry("tls.crt", &signing.certificate),
        entry("tls.key", &signing.key),
        entry("ca.crt", bundle),
    ]);
    let mut annotations = BTreeMap::new();
    if let Some((pair, since)) = next {
        data.extend([entry("next.crt", &pair.certificate), entry("next.key", &pair.key)]);
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        annotations.insert(NEXT_SINCE.to_owned(), since.to_string());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_holds_all_of_it() {
        let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        let first = renew(None, &["a.svc".into()], &Lifetimes::default(), now).unwrap().unwrap();
        let second = Authority { next: Some((first.signing.clone(), now)), ..first.clone() };
        for authority in [first, second] {
            assert_eq!(read(&secret("n", &authority)), Some(authority));
        }
    }

    #[test]
    fn a_secret_of_the_charts_is_filled_and_keeps_what_the_chart_says() {
        let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        let first = renew(None, &["a.svc".into()], &Lifetimes::default(), now).unwrap().unwrap();
        let labels = Some([("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned())].into());
        let annotations = Some([(NEXT_SINCE.to_owned(), "1".to_owned()), ("a".to_owned(), "b".to_owned())].into());
        let metadata = ObjectMeta { labels, annotations, ..ObjectMeta::default() };
        let empty = Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() };
        assert_eq!(read(&empty), None);
        let filled = refilled(empty.clone(), &first);
        assert_eq!(
            (read(&filled), &filled.type_, &filled.metadata.labels),
            (Some(first), &empty.type_, &empty.metadata.labels)
        );
        assert_eq!(filled.metadata.annotations.unwrap().keys().collect::<Vec<_>>(), ["a"]);
    }
}

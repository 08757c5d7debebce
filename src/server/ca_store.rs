//! Storage of the CA in a Secret that all replicas share.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use prewarmer_core::labels::MANAGED_BY;
use prewarmer_kube::conflict::{retry_on_conflict, unless_conflict};

use super::{
    authority::{CertificateAuthority, is_usable, renew_if_due},
    certificates::{CertificateError, CertificateLifetimes, CertifiedPair},
};

/// Annotation with the time at which the next CA was published, in milliseconds since the Unix
/// epoch.
const NEXT_SINCE_ANNOTATION: &str = "prewarm.io/next-since";

/// Error of reading or creating the CA.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    /// Request to the API server that failed, with namespace and name of the Secret.
    #[error("Secret {0}: {1}")]
    Kube(String, #[source] kube::Error),
    /// Certificate that could not be generated or parsed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Secret without a usable CA, in a process that does not create it.
    #[error(
        "Secret {0}: no usable CA yet; the controller creates it: check that the controller runs"
    )]
    Missing(String),
    /// Repeated write conflicts.
    #[error(
        "Secret {0}: repeated write conflicts: check whether another installation uses the same name"
    )]
    Contended(String),
}

/// Reads the shared CA, which another process creates and renews. Fails when the Secret has no
/// usable CA.
pub(crate) async fn read_ca(
    client: &Client,
    namespace: &str,
    name: &str,
    names: &[String],
) -> Result<CertificateAuthority, CaError> {
    let place = || format!("{namespace}/{name}");
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let secret = secrets.get_opt(name).await.map_err(|error| CaError::Kube(place(), error))?;
    let usable =
        |authority: &CertificateAuthority| is_usable(&authority.signing, names, SystemTime::now());
    secret.as_ref().and_then(parse_secret).filter(usable).ok_or_else(|| CaError::Missing(place()))
}

/// Reads the shared CA for these names, creates it when there is no usable one, and renews it when
/// that is due.
pub(crate) async fn ensure_ca(
    client: &Client,
    namespace: &str,
    name: &str,
    names: &[String],
    lives: &CertificateLifetimes,
) -> Result<CertificateAuthority, CaError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let failed = |error| CaError::Kube(format!("{namespace}/{name}"), error);
    // Two replicas may write at the same time; after a conflict the CA of the other one is read.
    let stored = retry_on_conflict::<_, CaError, _>(async |_| {
        let existing = secrets.get_opt(name).await.map_err(failed)?;
        let current = existing.as_ref().and_then(parse_secret);
        let due = renew_if_due(current.as_ref(), names, lives, SystemTime::now())?;
        let Some(fresh) = due else { return Ok(current) };
        let written = match existing {
            None => secrets.create(&PostParams::default(), &build_secret(name, &fresh)).await,
            Some(old) => {
                secrets
                    .replace(name, &PostParams::default(), &with_replaced_data(old, &fresh))
                    .await
            }
        };
        Ok(unless_conflict(written).map_err(failed)?.map(|_| fresh))
    });
    stored.await?.ok_or_else(|| CaError::Contended(format!("{namespace}/{name}")))
}

pub(super) fn parse_secret(secret: &Secret) -> Option<CertificateAuthority> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    let pair = |certificate: &str, key: &str| {
        Some(CertifiedPair { certificate: text(certificate)?, key: text(key)? })
    };
    let since = secret
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(NEXT_SINCE_ANNOTATION)?.parse().ok());
    let since = since.map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
    Some(CertificateAuthority {
        signing: pair("tls.crt", "tls.key")?,
        next: pair("next.crt", "next.key").zip(since),
        bundle: text("ca.crt").unwrap_or_default(),
    })
}

/// Returns the existing Secret with its data replaced. Labels and type are kept: the chart creates
/// an empty Secret with its own labels, and the type of a Secret is immutable.
fn with_replaced_data(old: Secret, authority: &CertificateAuthority) -> Secret {
    let fresh = build_secret("", authority);
    let mut metadata = old.metadata;
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove(NEXT_SINCE_ANNOTATION);
    annotations.extend(fresh.metadata.annotations.unwrap_or_default());
    Secret { metadata, data: fresh.data, ..old }
}

fn build_secret(name: &str, authority: &CertificateAuthority) -> Secret {
    let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
    let CertificateAuthority { signing, next, bundle } = authority;
    let mut data = BTreeMap::from([
        entry("tls.crt", &signing.certificate),
        entry("tls.key", &signing.key),
        entry("ca.crt", bundle),
    ]);
    let mut annotations = BTreeMap::new();
    if let Some((pair, since)) = next {
        data.extend([entry("next.crt", &pair.certificate), entry("next.key", &pair.key)]);
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        annotations.insert(NEXT_SINCE_ANNOTATION.to_owned(), since.to_string());
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
    fn an_authority_survives_a_round_trip_through_a_secret() {
        let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        let first = renew_if_due(None, &["a.svc".into()], &CertificateLifetimes::default(), now)
            .unwrap()
            .unwrap();
        let second =
            CertificateAuthority { next: Some((first.signing.clone(), now)), ..first.clone() };
        for authority in [first, second] {
            assert_eq!(parse_secret(&build_secret("n", &authority)), Some(authority));
        }
    }

    #[test]
    fn an_existing_secret_keeps_its_type_and_labels() {
        let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        let first = renew_if_due(None, &["a.svc".into()], &CertificateLifetimes::default(), now)
            .unwrap()
            .unwrap();
        let labels = Some([("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned())].into());
        let annotations = Some(
            [(NEXT_SINCE_ANNOTATION.to_owned(), "1".to_owned()), ("a".to_owned(), "b".to_owned())]
                .into(),
        );
        let metadata = ObjectMeta { labels, annotations, ..ObjectMeta::default() };
        let empty = Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() };
        assert_eq!(parse_secret(&empty), None);
        let filled = with_replaced_data(empty.clone(), &first);
        assert_eq!(
            (parse_secret(&filled), &filled.type_, &filled.metadata.labels),
            (Some(first), &empty.type_, &empty.metadata.labels)
        );
        assert_eq!(filled.metadata.annotations.unwrap().keys().collect::<Vec<_>>(), ["a"]);
    }
}

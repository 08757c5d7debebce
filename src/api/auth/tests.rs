//! Tests of authentication and authorization against a fake API server.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::StatusCode;

use super::{
    ApiTokens, Auth, Caller, NamespaceScope, Permission, Revalidation, TokenEntry,
    caller::CallerIdentity,
};

fn caller(namespaces: &[&str], read_only: bool) -> Caller {
    let entry = TokenEntry {
        sha256: String::new(),
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        read_only,
        nodes: false,
        expires_at: None,
    };
    let identity = CallerIdentity::Token { entry: Box::new(entry) };
    Caller {
        name: "token:ci".into(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        identity,
        token: None,
    }
}

#[tokio::test]
async fn api_token_permissions() {
    let auth = Auth::new(None, ApiTokens::default(), 5);
    let may = async |caller: &Caller, verb, resource, namespace| {
        auth.allows(caller, Permission { verb, resource }, namespace).await.unwrap()
    };
    let shop = caller(&["shop"], false);
    assert!(may(&shop, "create", "prewarmtasks", Some("shop")).await);
    assert!(!may(&shop, "create", "prewarmtasks", Some("bank")).await);
    assert!(!may(&shop, "list", "prewarmtasks", None).await);
    assert!(!may(&shop, "list", "nodes", None).await);
    let mut seer = caller(&["shop"], true);
    if let CallerIdentity::Token { entry } = &mut seer.identity {
        entry.nodes = true;
    }
    assert!(
        may(&seer, "list", "nodes", None).await && !may(&seer, "list", "prewarmtasks", None).await
    );
    let reader = caller(&["*"], true);
    assert!(
        may(&reader, "list", "prewarmtasks", None).await
            && may(&reader, "get", "prewarmtasks", Some("bank")).await
    );
    assert!(may(&reader, "list", "nodes", None).await);
    assert!(!may(&reader, "patch", "prewarmtasks", Some("bank")).await);
    let list = Permission { verb: "list", resource: "prewarmtasks" };
    assert_eq!(
        auth.namespace_scope(&shop, list).await.unwrap(),
        NamespaceScope::Only(["shop".to_owned()].into())
    );
    assert_eq!(auth.namespace_scope(&reader, list).await.unwrap(), NamespaceScope::All);
    let only_shop = NamespaceScope::Only(["shop".to_owned()].into());
    assert!(only_shop.contains("shop") && !only_shop.contains("bank"));
    assert!(NamespaceScope::All.contains("bank"));
}

/// Debug output of a caller must not contain a credential.
#[tokio::test]
async fn debug_output_contains_no_token() {
    let cluster = crate::api::fake_cluster::FakeCluster::default();
    cluster.add_user("very-secret", "anna", &["prewarmer"]);
    let auth = Auth::new(Some(cluster.client()), ApiTokens::default(), 5)
        .with_audiences(vec!["prewarmer".into()]);
    let caller = auth.authenticate("very-secret", [10, 0, 0, 1].into()).await.unwrap();
    assert_eq!(caller.name, "user:anna");
    let text = format!("{caller:?} {:?}", Revalidation::new(caller.clone()));
    assert!(text.contains("(redacted)") && !text.contains("very-secret"), "{text}");
}

#[tokio::test]
async fn tokens_for_another_audience_are_refused() {
    let cluster = crate::api::fake_cluster::FakeCluster::default();
    cluster.add_user("meant", "anna", &["prewarmer"]);
    cluster.add_user("whole", "anna", &[crate::api::fake_cluster::API_SERVER_AUDIENCE]);
    let auth = |audiences: &[&str]| {
        let audiences = audiences.iter().map(|one| (*one).to_owned()).collect();
        Auth::new(Some(cluster.client()), ApiTokens::default(), 5).with_audiences(audiences)
    };
    let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let ours = auth(&["prewarmer"]);
    assert!(ours.authenticate("meant", from).await.is_ok());
    let refused = ours.authenticate("whole", from).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::UNAUTHORIZED);
    assert!(refused.message().contains("--audience prewarmer"), "{}", refused.message());
    let servers = auth(&[]);
    assert!(
        servers.authenticate("whole", from).await.is_ok()
            && servers.authenticate("meant", from).await.is_err()
    );
    let both = auth(&["prewarmer", crate::api::fake_cluster::API_SERVER_AUDIENCE]);
    assert!(
        both.authenticate("whole", from).await.is_ok()
            && both.authenticate("meant", from).await.is_ok()
    );
}

#[test]
fn identity_key_differs_for_a_new_token_of_the_same_name() {
    let (one, other) = (caller(&["shop"], false), caller(&["shop"], false));
    let with = |caller: &Caller, sha256: &str| {
        let mut caller = caller.clone();
        if let CallerIdentity::Token { entry } = &mut caller.identity {
            entry.sha256 = sha256.into();
        }
        caller.identity_key()
    };
    assert_eq!(with(&one, "AB12"), with(&other, "ab12"));
    assert_ne!(with(&one, "ab12"), with(&other, "cd34"));
}

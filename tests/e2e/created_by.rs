//! The annotation `prewarm.io/created-by` can be set only by Prewarmer.

use std::time::Duration;

use prewarmer_api::annotations::CREATED_BY_ANNOTATION;
use prewarmer_test_support::{
    cluster::{CHART, Cluster},
    namespace::Namespace,
    rest::account_token,
};
use serde_json::{Value, json};

use crate::TestCluster;

/// Renders the chart's policy for an installation that watches one namespace.
fn render_policy(cluster: &Cluster, install: &Namespace, watched: &Namespace) -> String {
    let (watch, instance) =
        (format!("watchNamespace={}", watched.name), format!("instance={}", watched.name));
    let words = [
        "template",
        "prewarmer",
        CHART,
        "--namespace",
        &install.name,
        "--set",
        &watch,
        "--set",
        &instance,
    ];
    cluster.helm(&[&words[..], &["--show-only", "templates/created-by.yaml"]].concat())
}

fn task_manifest(name: &str, by: Option<&str>) -> String {
    let mut task = json!({"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "metadata": {"name": name},
        "spec": {"images": ["a:1"], "nodeSelector": {"none": "such"}}});
    if let Some(by) = by {
        task["metadata"]["annotations"] = json!({CREATED_BY_ANNOTATION: by});
    }
    task.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn editors_cannot_set_created_by() {
    let cluster = Cluster::shared();
    let (install, shop) = (cluster.namespace("createdby"), cluster.namespace("createdby"));
    account_token(&shop, "editor", &["create", "get", "list", "update", "patch", "delete"]);
    // The server's account, with its permissions on tasks.
    account_token(&install, "server", &["get"]);
    let ours = format!("system:serviceaccount:{}:server", install.name);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "server"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "editor"},
        "subjects": [{"kind": "ServiceAccount", "name": "server", "namespace": install.name}]});
    shop.apply(&binding);
    cluster.kubectl(&["apply", "-f", "-"], &render_policy(cluster, &install, &shop));
    let editor = format!("--as=system:serviceaccount:{}:editor", shop.name);
    let run = |who: &str, words: &[&str], input: &str| {
        cluster.try_kubectl(&[&["-n", &shop.name, who], words].concat(), input)
    };
    // The API server enforces a new policy after a short delay.
    let refused = || async {
        let (taken, said) =
            run(&editor, &["create", "-f", "-"], &task_manifest("forged", Some("user:anna")));
        if taken {
            shop.kubectl(&["delete", "prewarmtask", "forged"], "");
        }
        (!taken && said.contains("prewarm.io/created-by is reserved for Prewarmer")).then_some(())
    };
    shop.eventually("rejection of a forged annotation", Duration::from_secs(30), refused).await;

    let (taken, said) = run(&editor, &["create", "-f", "-"], &task_manifest("plain", None));
    assert!(taken, "{said}");
    let annotate = |who: &str, name: &str, value: &str| {
        run(who, &["annotate", "prewarmtask", name, "--overwrite", value], "")
    };
    let forged = format!("{CREATED_BY_ANNOTATION}=user:anna");
    assert!(!annotate(&editor, "plain", &forged).0);
    assert!(annotate(&editor, "plain", "example.com/other=1").0);
    let server = format!("--as={ours}");
    let made = || async {
        run(&server, &["create", "-f", "-"], &task_manifest("made", Some("user:bert")))
            .0
            .then_some(())
    };
    shop.eventually(
        "permission of the server's account to set the annotation",
        Duration::from_secs(30),
        made,
    )
    .await;
    for value in [forged, format!("{CREATED_BY_ANNOTATION}-")] {
        let (taken, said) = annotate(&editor, "made", &value);
        assert!(!taken && said.contains("created-by"), "{value}: {said}");
    }
    let (taken, said) = annotate(&editor, "made", "example.com/other=1");
    assert!(taken, "an existing annotation was not accepted in an update: {said}");
    // A user without the restriction, such as one who restores a backup.
    let (taken, said) = cluster.try_kubectl(
        &["-n", &shop.name, "create", "-f", "-"],
        &task_manifest("restored", Some("user:carl")),
    );
    assert!(taken, "{said}");
    let made: Value =
        serde_json::from_str(&shop.kubectl(&["get", "prewarmtask", "made", "-o", "json"], ""))
            .unwrap();
    assert_eq!(made["metadata"]["annotations"][CREATED_BY_ANNOTATION], "user:bert");
    let name = format!("prewarmer-{}-created-by", shop.name);
    cluster.kubectl(
        &["delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", &name],
        "",
    );
}

//! Tests of the extraction from manifests.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        OneShotMode,
        context::{ManifestContext, VisibleContext},
    },
    *,
};

/// Returns a policy that warms one-shot pods and Jobs too.
fn policy() -> Policy {
    Policy { one_shot: OneShotMode::Warm, ..Policy::default() }
}

fn extract(text: &str) -> Extraction {
    extract_documents(text, &policy(), DEFAULT_NAMESPACE).unwrap()
}

fn parse(text: &str, limits: ManifestLimits) -> Result<ParsedManifest, ExtractError> {
    let mut manifest = ParsedManifest::new(limits);
    manifest.read("", text.as_bytes(), &Policy::default().kinds)?;
    Ok(manifest)
}

#[test]
fn parses_several_documents_and_lists() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: web, namespace: shop}\n  spec: {template: {spec: {containers: [{name: c, image: 'nginx:1'}]}}}\n---\n";
    let Extraction { workloads: found, skipped, .. } = extract(text);
    assert_eq!(skipped, ["ConfigMap/c"]);
    assert_eq!((found[0].workload.as_str(), found[0].verdict), ("Deployment/web", "wanted"));
    assert_eq!(found[0].images, ["nginx:1"]);
    assert_eq!(found[0].namespace, "shop");
}

#[test]
fn context_objects_apply_regardless_of_document_order() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {runtimeClassName: kata, containers: [{name: c, image: a}]}\n---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: kata}\nscheduling: {nodeSelector: {kata: 'yes'}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {prewarm.io/priority: '9', prewarm.io/nodes: '7'}}\n";
    let Extraction { workloads: found, skipped, .. } = extract(text);
    assert_eq!(found[0].placement.node_selector["kata"], "yes");
    assert_eq!(found[0].nodes, Some(Amount::Count(7)));
    assert_eq!(skipped.len(), 2);
}

#[test]
fn extracts_from_helm_output() {
    let text = "---\n# Source: shop/templates/sa.yaml\n---\n# Source: shop/templates/web.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: RELEASE-NAME-web\n  labels:\n    app.kubernetes.io/managed-by: Helm\nspec:\n  replicas: 1\n  template:\n    spec:\n      containers:\n        - name: web\n          image: \"shop/web:1.0\"\n          imagePullPolicy: IfNotPresent\n---\n# Source: shop/templates/job.yaml\napiVersion: batch/v1\nkind: Job\nmetadata:\n  name: \"RELEASE-NAME-migrate\"\n  annotations:\n    \"helm.sh/hook\": pre-install\nspec:\n  template:\n    spec:\n      containers:\n        - {name: migrate, image: 'shop/migrate:1.0'}\n";
    let Extraction { workloads: found, skipped, .. } = extract(text);
    assert_eq!((found.len(), skipped.len()), (2, 0));
    assert_eq!(
        (&found[0].images[0], &found[1].images[0]),
        (&"shop/web:1.0".into(), &"shop/migrate:1.0".into())
    );
}

#[test]
fn manifest_limits_are_enforced() {
    let pod = |name: usize, images: usize| {
        let containers: Vec<String> = (0..images)
            .map(|index| format!("{{name: c{index}, image: 'a{name}/b{index}'}}"))
            .collect();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{name}}}\nspec: {{containers: [{}]}}\n---\n",
            containers.join(", ")
        )
    };
    let read = |text: &str, bounds: ManifestLimits| {
        parse(text, bounds)?.extract(&policy(), &EmptyContext, "shop")
    };
    let many =
        |pods: usize, images: usize| (0..pods).map(|name| pod(name, images)).collect::<String>();
    assert_eq!(read(&many(200, 2), ManifestLimits::SERVER).unwrap().workloads.len(), 200);
    assert_eq!(
        read(&many(201, 1), ManifestLimits::SERVER).unwrap_err(),
        ExtractError::TooMany(200, "pod templates")
    );
    assert_eq!(
        read(&many(501, 1), ManifestLimits::SERVER).unwrap_err(),
        ExtractError::TooMany(500, "objects")
    );
    assert_eq!(
        read(&many(11, 100), ManifestLimits::SERVER).unwrap_err(),
        ExtractError::TooMany(1000, "images")
    );
    let no_time = ManifestLimits { max_duration: Duration::ZERO, ..ManifestLimits::SERVER };
    assert_eq!(read(&many(1, 1), no_time).unwrap_err(), ExtractError::TooSlow(Duration::ZERO));
    let small = ManifestLimits { bytes: 100, ..ManifestLimits::SERVER };
    assert_eq!(read(&many(2, 1), small).unwrap_err(), ExtractError::TooMany(100, "bytes"));
}

#[test]
fn only_visible_namespaces_of_the_cluster_apply() {
    let mut cluster = ManifestContext::new(&EmptyContext);
    for namespace in ["shop", "bank"] {
        let annotations = [("prewarm.io/nodes".to_owned(), "7".to_owned())].into();
        cluster.namespaces.insert(namespace.to_owned(), Arc::new(annotations));
    }
    let visible = VisibleContext { context: &cluster, namespaces: ["shop".to_owned()].into() };
    let pod = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{containers: [{{name: c, image: a}}]}}\n---\n"
        )
    };
    let text = pod("shop") + &pod("bank");
    let manifest = parse(&text, ManifestLimits::SERVER).unwrap();
    let policy = policy();
    assert_eq!(manifest.namespaces("x"), ["bank".to_owned(), "shop".to_owned()].into());
    let found = manifest.extract(&policy, &visible, "x").unwrap().workloads;
    assert_eq!(
        (found[0].nodes.clone(), found[1].nodes == Some(Amount::Count(7))),
        (Some(Amount::Count(7)), false)
    );
    // A namespace of the manifest overrides that of the cluster, also if it has no annotations.
    let text = pod("shop") + "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let manifest = parse(&text, ManifestLimits::SERVER).unwrap();
    let found = manifest.extract(&policy, &visible, "x").unwrap().workloads;
    assert_ne!(found[0].nodes, Some(Amount::Count(7)));
}

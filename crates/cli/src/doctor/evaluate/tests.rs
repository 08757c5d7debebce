use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::core::{CustomResourceExt, ResourceExt};
use prewarmer_core::{
    node::NodeInfo,
    schedule::PrewarmSchedule,
    task::{PrewarmPlan, PrewarmTask},
};
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    definitions::{definitions, expected},
    *,
};
use crate::doctor::{
    dry_run::SAMPLE_MARKER,
    requests::CRD_NAMES,
    results::{
        ApiServerInfo, DeploymentState, DryRunResult, ForeignSummary, LeaseHolder,
        RegisteredWebhooks,
    },
};

fn asked(pre: bool) -> DoctorSettings {
    DoctorSettings {
        pre,
        wait: None,
        json: false,
        namespace: "prewarmer".into(),
        object_name: "prewarmer".into(),
        watch_namespace: None,
        namespaces: vec!["shop".into()],
        review_in: "default".into(),
        worker_image: "helper:1".into(),
    }
}

fn node(architecture: &str) -> NodeInfo {
    let mut node = NodeInfo::sample("node-1");
    node.architecture = architecture.into();
    node
}

fn definition(name: &str) -> Value {
    let mut definition = expected(name);
    definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    definition
}

fn healthy() -> ClusterResults {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    ClusterResults {
        now,
        server: QueryResult::Found(ApiServerInfo {
            version: (1, 36),
            text: "v1.36.3".into(),
            clocks: Some((now, now)),
        }),
        nodes: QueryResult::Found(vec![node("amd64")]),
        definitions: CRD_NAMES
            .map(|name| (name.to_owned(), QueryResult::Found(definition(name))))
            .into(),
        own_permissions: vec![("create secrets".into(), QueryResult::Found(true))],
        server_permissions: vec![("create jobs".into(), QueryResult::Found(true))],
        controller: QueryResult::Absent,
        deployment: QueryResult::Found(DeploymentState {
            desired: 2,
            ready: 2,
            image: "p:1".into(),
        }),
        lease: QueryResult::Found(LeaseHolder { holder: "a".into(), renewed: Some(now) }),
        webhook: QueryResult::Found(RegisteredWebhooks { trusted: true, webhooks: 2 }),
        readiness: QueryResult::Found(json!({"waitingFor": []})),
        fence_policies: QueryResult::Found(3),
        reserved_policies: QueryResult::Found(3),
        foreign: QueryResult::Found(ForeignSummary::default()),
        worker_secrets: QueryResult::Absent,
        sample_review: QueryResult::Found(DryRunResult::Accepted(vec![format!(
            "299 - \"... {SAMPLE_MARKER} ...\""
        )])),
        workers: vec![("shop".into(), QueryResult::Found(DryRunResult::Accepted(vec![])))],
        failures: QueryResult::Found(BTreeMap::new()),
    }
}

fn worst(answers: &ClusterResults, pre: bool) -> (Severity, &'static str) {
    let findings = evaluate(answers, &asked(pre));
    let worst = findings.iter().max_by_key(|finding| finding.level).unwrap();
    assert!(
        worst.level < Severity::Warning || !worst.remedy.is_empty(),
        "a finding without remedy: {worst:?}"
    );
    (worst.level, worst.area)
}

#[test]
fn healthy_cluster_passes_all_checks() {
    assert_eq!(worst(&healthy(), false).0, Severity::Ok);
    let fresh = ClusterResults { definitions: BTreeMap::new(), ..healthy() };
    assert_eq!(worst(&fresh, true).0, Severity::Ok);
}

type Change = fn(&mut ClusterResults);

#[rstest]
#[case("kubernetes", Severity::Bad, |a: &mut ClusterResults| a.server = QueryResult::Found(ApiServerInfo { version: (1, 29), text: "v1.29.1".into(), clocks: None }))]
#[case("kubernetes", Severity::Bad, |a: &mut ClusterResults| a.server = QueryResult::Failed("refused".into()))]
#[case("clocks", Severity::Warning, |a: &mut ClusterResults| a.server = QueryResult::Found(ApiServerInfo { version: (1, 36), text: String::new(), clocks: Some((a.now, "2026-01-01T00:01:00Z".parse().unwrap())) }))]
#[case("nodes", Severity::Warning, |a: &mut ClusterResults| a.nodes = QueryResult::Found(vec![]))]
#[case("nodes", Severity::Warning, |a: &mut ClusterResults| a.nodes = QueryResult::Found(vec![node("riscv64")]))]
#[case("nodes", Severity::Skipped, |a: &mut ClusterResults| a.nodes = QueryResult::Forbidden)]
#[case("definitions", Severity::Bad, |a: &mut ClusterResults| { a.definitions.insert(CRD_NAMES[0].into(), QueryResult::Absent); })]
#[case("definitions", Severity::Bad, |a: &mut ClusterResults| { a.definitions.insert(CRD_NAMES[0].into(), QueryResult::Found(expected(CRD_NAMES[0]))); })]
#[case("server", Severity::Bad, |a: &mut ClusterResults| a.deployment = QueryResult::Absent)]
#[case("server", Severity::Bad, |a: &mut ClusterResults| a.deployment = QueryResult::Found(DeploymentState { desired: 2, ..DeploymentState::default() }))]
#[case("server", Severity::Warning, |a: &mut ClusterResults| a.deployment = QueryResult::Found(DeploymentState { desired: 2, ready: 1, ..DeploymentState::default() }))]
#[case("readiness", Severity::Bad, |a: &mut ClusterResults| a.readiness = QueryResult::Found(json!({"waitingFor": ["no serving certificate yet"]})))]
#[case("leader", Severity::Bad, |a: &mut ClusterResults| a.lease = QueryResult::Absent)]
#[case("leader", Severity::Bad, |a: &mut ClusterResults| a.lease = QueryResult::Found(LeaseHolder { holder: "a".into(), renewed: Some("2025-12-31T23:59:00Z".parse().unwrap()) }))]
#[case("webhook", Severity::Bad, |a: &mut ClusterResults| a.webhook = QueryResult::Absent)]
#[case("webhook", Severity::Bad, |a: &mut ClusterResults| a.webhook = QueryResult::Found(RegisteredWebhooks { trusted: true, webhooks: 0 }))]
#[case("admission", Severity::Bad, |a: &mut ClusterResults| a.sample_review = QueryResult::Found(DryRunResult::Accepted(vec![])))]
#[case("admission", Severity::Skipped, |a: &mut ClusterResults| a.sample_review = QueryResult::Forbidden)]
#[case("server RBAC", Severity::Bad, |a: &mut ClusterResults| a.server_permissions[0].1 = QueryResult::Found(false))]
#[case("labels", Severity::Warning, |a: &mut ClusterResults| a.reserved_policies = QueryResult::Found(0))]
#[case("workers", Severity::Warning, |a: &mut ClusterResults| a.foreign = QueryResult::Found(ForeignSummary { count: 9, examples: vec!["Job evil/x".into()] }))]
#[case("workers", Severity::Skipped, |a: &mut ClusterResults| a.foreign = QueryResult::Forbidden)]
#[case("worker account", Severity::Warning, |a: &mut ClusterResults| a.worker_secrets = QueryResult::Found(vec!["regcred".into()]))]
#[case("fence", Severity::Warning, |a: &mut ClusterResults| a.fence_policies = QueryResult::Found(2))]
#[case("namespace", Severity::Bad, |a: &mut ClusterResults| a.workers[0].1 = QueryResult::Found(DryRunResult::Refused("exceeded quota".into())))]
#[case("namespace", Severity::Bad, |a: &mut ClusterResults| a.workers[0].1 = QueryResult::Absent)]
#[case("tasks", Severity::Warning, |a: &mut ClusterResults| a.failures = QueryResult::Found([("TLS".to_owned(), 3)].into()))]
fn problems_are_found(#[case] area: &str, #[case] level: Severity, #[case] change: Change) {
    let mut answers = healthy();
    change(&mut answers);
    assert_eq!(worst(&answers, false), (level, area));
}

#[test]
fn outdated_definition_is_reported() {
    let mut old = definition(CRD_NAMES[0]);
    let spec = &mut old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec.as_object_mut().unwrap().remove("retain");
    let mut answers = healthy();
    answers.definitions.insert(CRD_NAMES[0].into(), QueryResult::Found(old));
    let findings = definitions(&answers);
    assert!(findings[0].found.contains("missing: .spec.retain"), "{findings:?}");
}

#[test]
fn pre_checks_concern_the_caller() {
    let mut answers = ClusterResults { definitions: BTreeMap::new(), ..healthy() };
    answers.own_permissions[0].1 = QueryResult::Found(false);
    assert_eq!(worst(&answers, true), (Severity::Bad, "your RBAC"));
    assert_eq!(worst(&healthy(), true), (Severity::Warning, "definitions"));
}

#[test]
fn crd_names_match_the_definitions() {
    for (name, definition) in
        CRD_NAMES.iter().zip([PrewarmTask::crd(), PrewarmPlan::crd(), PrewarmSchedule::crd()])
    {
        assert_eq!(definition.name_any(), *name);
    }
}

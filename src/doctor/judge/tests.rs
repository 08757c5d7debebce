use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::core::{CustomResourceExt, ResourceExt};
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::{
    doctor::answers::{Deployed, Foreign, Lead, Registered, Server},
    node::Facts,
};

fn asked(pre: bool) -> Doctor {
    Doctor {
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

fn node(architecture: &str) -> Facts {
    let mut node = Facts::sample("node-1");
    node.architecture = architecture.into();
    node
}

fn definition(name: &str) -> Value {
    let mut definition = expected(name);
    definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    definition
}

fn well() -> Answers {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Answers {
        now,
        server: Seen::Is(Server { version: (1, 36), text: "v1.36.3".into(), clocks: Some((now, now)) }),
        nodes: Seen::Is(vec![node("amd64")]),
        definitions: DEFINITIONS.map(|name| (name.to_owned(), Seen::Is(definition(name)))).into(),
        own_rights: vec![("create secrets".into(), Seen::Is(true))],
        server_rights: vec![("create jobs".into(), Seen::Is(true))],
        controller: Seen::Absent,
        deployment: Seen::Is(Deployed { wanted: 2, ready: 2, image: "p:1".into() }),
        lead: Seen::Is(Lead { holder: "a".into(), renewed: Some(now) }),
        registered: Seen::Is(Registered { trusted: true, webhooks: 2 }),
        ready: Seen::Is(json!({"waitingFor": []})),
        fence: Seen::Is(3),
        reserved: Seen::Is(3),
        foreign: Seen::Is(Foreign::default()),
        worker_secrets: Seen::Absent,
        review: Seen::Is(Rehearsal::Accepted(vec![format!("299 - \"... {MARK} ...\"")])),
        workers: vec![("shop".into(), Seen::Is(Rehearsal::Accepted(vec![])))],
        failures: Seen::Is(BTreeMap::new()),
    }
}

fn worst(answers: &Answers, pre: bool) -> (Level, &'static str) {
    let findings = judge(answers, &asked(pre));
    let worst = findings.iter().max_by_key(|finding| finding.level).unwrap();
    assert!(worst.level < Level::Warning || !worst.remedy.is_empty(), "what is to be done? {worst:?}");
    (worst.level, worst.area)
}

#[test]
fn all_is_well() {
    assert_eq!(worst(&well(), false).0, Level::Ok);
    let fresh = Answers { definitions: BTreeMap::new(), ..well() };
    assert_eq!(worst(&fresh, true).0, Level::Ok);
}

type Change = fn(&mut Answers);

#[rstest]
#[case("kubernetes", Level::Bad, |a: &mut Answers| a.server = Seen::Is(Server { version: (1, 29), text: "v1.29.1".into(), clocks: None }))]
#[case("kubernetes", Level::Bad, |a: &mut Answers| a.server = Seen::Failed("refused".into()))]
#[case("clocks", Level::Warning, |a: &mut Answers| a.server = Seen::Is(Server { version: (1, 36), text: String::new(), clocks: Some((a.now, "2026-01-01T00:01:00Z".parse().unwrap())) }))]
#[case("nodes", Level::Warning, |a: &mut Answers| a.nodes = Seen::Is(vec![]))]
#[case("nodes", Level::Warning, |a: &mut Answers| a.nodes = Seen::Is(vec![node("riscv64")]))]
#[case("nodes", Level::Skipped, |a: &mut Answers| a.nodes = Seen::Forbidden)]
#[case("definitions", Level::Bad, |a: &mut Answers| { a.definitions.insert(DEFINITIONS[0].into(), Seen::Absent); })]
#[case("definitions", Level::Bad, |a: &mut Answers| { a.definitions.insert(DEFINITIONS[0].into(), Seen::Is(expected(DEFINITIONS[0]))); })]
#[case("server", Level::Bad, |a: &mut Answers| a.deployment = Seen::Absent)]
#[case("server", Level::Bad, |a: &mut Answers| a.deployment = Seen::Is(Deployed { wanted: 2, ..Deployed::default() }))]
#[case("server", Level::Warning, |a: &mut Answers| a.deployment = Seen::Is(Deployed { wanted: 2, ready: 1, ..Deployed::default() }))]
#[case("readiness", Level::Bad, |a: &mut Answers| a.ready = Seen::Is(json!({"waitingFor": ["there is no certificate yet"]})))]
#[case("leader", Level::Bad, |a: &mut Answers| a.lead = Seen::Absent)]
#[case("leader", Level::Bad, |a: &mut Answers| a.lead = Seen::Is(Lead { holder: "a".into(), renewed: Some("2025-12-31T23:59:00Z".parse().unwrap()) }))]
#[case("webhook", Level::Bad, |a: &mut Answers| a.registered = Seen::Absent)]
#[case("webhook", Level::Bad, |a: &mut Answers| a.registered = Seen::Is(Registered { trusted: true, webhooks: 0 }))]
#[case("admission", Level::Bad, |a: &mut Answers| a.review = Seen::Is(Rehearsal::Accepted(vec![])))]
#[case("admission", Level::Skipped, |a: &mut Answers| a.review = Seen::Forbidden)]
#[case("server's rights", Level::Bad, |a: &mut Answers| a.server_rights[0].1 = Seen::Is(false))]
#[case("labels", Level::Warning, |a: &mut Answers| a.reserved = Seen::Is(0))]
#[case("workers", Level::Warning, |a: &mut Answers| a.foreign = Seen::Is(Foreign { number: 9, named: vec!["Job evil/x".into()] }))]
#[case("workers", Level::Skipped, |a: &mut Answers| a.foreign = Seen::Forbidden)]
#[case("worker account", Level::Warning, |a: &mut Answers| a.worker_secrets = Seen::Is(vec!["regcred".into()]))]
#[case("fence", Level::Warning, |a: &mut Answers| a.fence = Seen::Is(2))]
#[case("namespace", Level::Bad, |a: &mut Answers| a.workers[0].1 = Seen::Is(Rehearsal::Refused("exceeded quota".into())))]
#[case("namespace", Level::Bad, |a: &mut Answers| a.workers[0].1 = Seen::Absent)]
#[case("tasks", Level::Warning, |a: &mut Answers| a.failures = Seen::Is([("TLS".to_owned(), 3)].into()))]
fn what_is_wrong_is_found(#[case] area: &str, #[case] level: Level, #[case] change: Change) {
    let mut answers = well();
    change(&mut answers);
    assert_eq!(worst(&answers, false), (level, area));
}

#[test]
fn a_definition_of_an_older_program_is_known() {
    let mut old = definition(DEFINITIONS[0]);
    let spec = &mut old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec.as_object_mut().unwrap().remove("retain");
    let mut answers = well();
    answers.definitions.insert(DEFINITIONS[0].into(), Seen::Is(old));
    let findings = definitions(&answers);
    assert!(findings[0].found.contains("lacks .spec.retain"), "{findings:?}");
}

#[test]
fn before_an_installation_rights_are_yours() {
    let mut answers = Answers { definitions: BTreeMap::new(), ..well() };
    answers.own_rights[0].1 = Seen::Is(false);
    assert_eq!(worst(&answers, true), (Level::Bad, "your rights"));
    assert_eq!(worst(&well(), true), (Level::Warning, "definitions"));
}

#[test]
fn the_expected_definitions_are_those_of_this_program() {
    for (name, definition) in DEFINITIONS.iter().zip([PrewarmTask::crd(), PrewarmPlan::crd(), PrewarmSchedule::crd()]) {
        assert_eq!(definition.name_any(), *name);
    }
}

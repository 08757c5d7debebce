//! A panic in the reconcile of one task fails that task only. The other tasks continue.

use std::sync::Arc;

use crate::{
    node::NodeInfo,
    task::{Phase, PrewarmTask, PrewarmTaskSpec},
};
use k8s_openapi::jiff::Timestamp;
use rstest::rstest;

use super::{
    super::{
        Controller, Measurement,
        effect::{Effect, EffectOutput, TaskRef},
        fault_injection,
        observation::{EffectFinished, Observation},
        watch::WatchChange,
    },
    simulation::settings,
};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn controller() -> Controller {
    Controller::new(0, Arc::new(settings()))
}

fn task(name: &str) -> PrewarmTask {
    let mut task = PrewarmTask::new(name, PrewarmTaskSpec::new(vec!["nginx:1".into()]));
    task.metadata.namespace = Some("shop".into());
    task.metadata.uid = Some(format!("uid-{name}"));
    task.metadata.resource_version = Some("1".into());
    task
}

fn deliver(controller: &mut Controller, task: &PrewarmTask) {
    controller.handle(Observation::Task(WatchChange::Applied(Arc::new(task.clone()))), now());
}

/// Stores statuses as the API server would. Returns task name and verb of each request.
fn apply_effects(
    controller: &mut Controller,
    tasks: &mut [PrewarmTask],
) -> Vec<(String, &'static str)> {
    let mut asked = Vec::new();
    let effects = controller.take_actions().into_iter().flat_map(|(target, effects)| {
        effects.into_iter().map(move |effect| (target.clone(), effect))
    });
    for (TaskRef { name, uid, .. }, effect) in effects {
        asked.push((name.clone(), effect.verb_and_resource().0));
        let mut written = EffectOutput::default();
        if let Effect::WriteStatus(write) = &effect {
            let task =
                tasks.iter_mut().find(|task| task.metadata.name.as_ref() == Some(&name)).unwrap();
            task.status = Some(write.status.clone());
            let version =
                task.metadata.resource_version.as_deref().unwrap().parse::<u64>().unwrap() + 1;
            task.metadata.resource_version = Some(version.to_string());
            written.resource_version.clone_from(&task.metadata.resource_version);
        }
        controller.handle(
            Observation::EffectFinished(EffectFinished {
                task_uid: uid,
                effect,
                result: Ok(written),
            }),
            now(),
        );
    }
    for task in tasks {
        deliver(controller, task);
    }
    asked
}

/// Returns the number of internal errors so far.
fn errors(controller: &Controller) -> usize {
    let is_error =
        |measurement: &&Measurement| matches!(measurement, Measurement::InternalError(_));
    controller.context.measurements.iter().filter(is_error).count()
}

fn failure(task: &PrewarmTask) -> Option<(Phase, String)> {
    let status = task.status.as_ref()?;
    let failed = status.conditions.iter().find(|condition| condition.type_ == "Failed")?;
    Some((status.phase, failed.reason.clone()))
}

/// Delivers two tasks, `bad` and `good`.
fn two_tasks(controller: &mut Controller) -> [PrewarmTask; 2] {
    let nodes = (0..3).map(|n| NodeInfo::sample(&format!("n{n}"))).collect();
    controller.handle(Observation::Node(WatchChange::Restarted(nodes)), now());
    let tasks = [task("bad"), task("good")];
    for task in &tasks {
        deliver(controller, task);
    }
    tasks
}

#[rstest]
#[case("resume")]
#[case("observe")]
#[case("reconcile")]
#[case("effect")]
fn a_panic_fails_only_its_task(#[case] place: &'static str) {
    let mut controller = controller();
    let mut tasks = two_tasks(&mut controller);
    fault_injection::inject(place, "bad");
    let mut good = Vec::new();
    for _ in 0..6 {
        controller.reconcile_all(now());
        good.extend(
            apply_effects(&mut controller, &mut tasks)
                .into_iter()
                .filter(|(name, _)| name == "good"),
        );
    }
    if place != "observe" && place != "effect" {
        assert_eq!(failure(&tasks[0]), Some((Phase::Failed, "InternalError".into())));
        assert_eq!(errors(&controller), 1);
    }
    assert!(good.iter().any(|(_, verb)| *verb == "create"), "{good:?}");
    // The panic does not repeat.
    let before = errors(&controller);
    assert!((1..=2).contains(&before), "{before} internal errors");
    for _ in 0..20 {
        controller.reconcile_all(now());
        apply_effects(&mut controller, &mut tasks);
    }
    assert!(errors(&controller) <= 2, "{} internal errors", errors(&controller));
}

/// The end of the task panics as well, so the task is left unchanged.
#[rstest]
#[case("broken")]
#[case("abort")]
fn a_task_whose_end_panics_is_left_unchanged(#[case] place: &'static str) {
    let mut controller = controller();
    let mut tasks = two_tasks(&mut controller);
    fault_injection::inject("reconcile", "bad");
    fault_injection::inject(place, "bad");
    for _ in 0..20 {
        controller.reconcile_all(now());
        apply_effects(&mut controller, &mut tasks);
    }
    assert_eq!(errors(&controller), 2);
    assert_eq!(failure(&tasks[0]), None);
    assert!(tasks[1].status.is_some());
    // A change of the spec leads to another attempt.
    tasks[0].metadata.generation = Some(2);
    deliver(&mut controller, &tasks[0]);
    controller.reconcile_all(now());
    assert!(errors(&controller) > 2);
}

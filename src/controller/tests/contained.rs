//! One task over which the work panics is one failed task: the others go on.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rstest::rstest;

use super::{
    super::{
        Controller, Executor,
        clock::Clock,
        effect::{Effect, Target, Written},
        faults,
        observation::{Change, Done, Observation},
    },
    simulation::settings,
};
use crate::{
    metrics::Metrics,
    node::Facts,
    supervise::Work,
    task::{Phase, PrewarmTask, PrewarmTaskSpec},
};

fn controller() -> Controller {
    let (settings, metrics) = (Arc::new(settings()), Arc::new(Metrics::new().unwrap()));
    let executor = Executor::Memory(std::sync::Mutex::default());
    Controller::new(executor, 0, settings, metrics, Clock::from(Timestamp::now()))
}

fn task(name: &str) -> PrewarmTask {
    let mut task = PrewarmTask::new(name, PrewarmTaskSpec::new(vec!["nginx:1".into()]));
    task.metadata.namespace = Some("shop".into());
    task.metadata.uid = Some(format!("uid-{name}"));
    task.metadata.resource_version = Some("1".into());
    task
}

fn put(controller: &mut Controller, task: &PrewarmTask) {
    controller.take(Observation::Task(Change::Put(Arc::new(task.clone()))));
}

/// What the API server would do with plans and statuses; the other effects are counted by their task.
fn answer(controller: &mut Controller, tasks: &mut [PrewarmTask]) -> Vec<(String, &'static str)> {
    let mut asked = Vec::new();
    for (Target { name, uid, .. }, effect) in controller.executor.kept() {
        asked.push((name.clone(), effect.request().0));
        let mut written = Written::default();
        if let Effect::WriteStatus(write) = &effect {
            let task = tasks.iter_mut().find(|task| task.metadata.name.as_ref() == Some(&name)).unwrap();
            task.status = Some(write.status.clone());
            let version = task.metadata.resource_version.as_deref().unwrap().parse::<u64>().unwrap() + 1;
            task.metadata.resource_version = Some(version.to_string());
            written.resource_version.clone_from(&task.metadata.resource_version);
        }
        controller.take(Observation::Done(Done { uid, effect, result: Ok(written) }));
    }
    for task in tasks {
        put(controller, task);
    }
    asked
}

fn errors(controller: &Controller) -> u64 {
    controller.shared.metrics.internal_errors.with_label_values(&[Work::Task.as_str()]).get()
}

fn failure(task: &PrewarmTask) -> Option<(Phase, String)> {
    let status = task.status.as_ref()?;
    let failed = status.conditions.iter().find(|condition| condition.type_ == "Failed")?;
    Some((status.phase, failed.reason.clone()))
}

/// Two tasks, of which the work panics over one.
fn two(controller: &mut Controller) -> [PrewarmTask; 2] {
    let nodes = (0..3).map(|n| Facts::sample(&format!("n{n}"))).collect();
    controller.take(Observation::Node(Change::Replace(nodes)));
    let tasks = [task("bad"), task("good")];
    for task in &tasks {
        put(controller, task);
    }
    tasks
}

#[rstest]
#[case("resume")]
#[case("see")]
#[case("step")]
#[case("done")]
fn a_panic_ends_its_task_and_no_other(#[case] place: &'static str) {
    let mut controller = controller();
    let mut tasks = two(&mut controller);
    faults::set(place, "bad");
    let mut good = Vec::new();
    for _ in 0..6 {
        controller.work();
        good.extend(answer(&mut controller, &mut tasks).into_iter().filter(|(name, _)| name == "good"));
    }
    if place != "see" && place != "done" {
        assert_eq!(failure(&tasks[0]), Some((Phase::Failed, "InternalError".into())));
        assert_eq!(errors(&controller), 1);
    }
    assert!(good.iter().any(|(_, verb)| *verb == "create"), "{good:?}");
    // It does not go on panicking.
    let before = errors(&controller);
    assert!((1..=2).contains(&before), "{before} internal errors");
    for _ in 0..20 {
        controller.work();
        answer(&mut controller, &mut tasks);
    }
    assert!(errors(&controller) <= 2, "{} internal errors", errors(&controller));
}

/// Not even its end can be worked out: it is left alone.
#[rstest]
#[case("broken")]
#[case("end")]
fn a_task_whose_end_panics_is_left_alone(#[case] place: &'static str) {
    let mut controller = controller();
    let mut tasks = two(&mut controller);
    faults::set("step", "bad");
    faults::set(place, "bad");
    for _ in 0..20 {
        controller.work();
        answer(&mut controller, &mut tasks);
    }
    assert_eq!(errors(&controller), 2);
    assert_eq!(failure(&tasks[0]), None);
    assert!(tasks[1].status.is_some());
    // A change is worth another try.
    tasks[0].metadata.generation = Some(2);
    put(&mut controller, &tasks[0]);
    controller.work();
    assert!(errors(&controller) > 2);
}

//! Traces of pods that end.

use std::time::Duration;

use super::{Action, Builder, FULL_DURATION, objects::Workload, scaled, services::REGISTRY};

/// Number of Jobs with an image of their own in a full trace: one every four seconds.
const CI_JOBS: usize = 300;
/// Number of `CronJobs` in a full trace.
const CRON_JOBS: usize = 20;
/// Number of workflows in a full trace.
const WORKFLOWS: usize = 60;
/// Number of bursts in a full trace.
const BURSTS: usize = 8;

/// Adds Jobs at random times, each with an image that is used once, as pipelines create them that
/// test an image which they have just built.
pub(super) fn continuous_integration(builder: &mut Builder, percent: usize) {
    let mut random = builder.random("ci");
    for job in 0..builder.spread(CI_JOBS, percent) {
        let name = format!("ci-{job}");
        let project = random.below(10);
        let image = format!("{REGISTRY}/project-{project}:commit-{job}");
        let seconds = f64::from(u32::try_from(random.between(20, 90)).unwrap_or_default());
        let workload = Workload { run_time: Some(seconds), ..Workload::new(&name, &image) };
        let at = random.duration_below(FULL_DURATION);
        builder.add(at, Action::Apply(workload.job()));
    }
}

/// Adds `CronJobs` that run every minute.
pub(super) fn cron_jobs(builder: &mut Builder, percent: usize) {
    let mut random = builder.random("cron");
    for job in 0..scaled(CRON_JOBS, percent) {
        let name = format!("cron-{job}");
        let image = format!("{REGISTRY}/{name}:v1");
        let seconds = f64::from(u32::try_from(random.between(5, 40)).unwrap_or_default());
        let workload = Workload { run_time: Some(seconds), ..Workload::new(&name, &image) };
        builder.add(Duration::ZERO, Action::Apply(workload.cron_job()));
    }
}

/// Adds chains of three to eight bare pods, one every 30 seconds, that share ten images.
pub(super) fn workflows(builder: &mut Builder, percent: usize) {
    let mut random = builder.random("workflows");
    for workflow in 0..builder.spread(WORKFLOWS, percent) {
        let mut at = random.duration_below(FULL_DURATION);
        for step in 0..random.between(3, 8) {
            let name = format!("workflow-{workflow}-{step}");
            let image = format!("{REGISTRY}/step-{}:v1", random.below(10));
            let workload = Workload { run_time: Some(20.0), ..Workload::new(&name, &image) };
            builder.add(at, Action::Apply(workload.pod()));
            at = at.saturating_add(Duration::from_secs(30));
        }
    }
}

/// Adds bursts of bare pods: a driver, and ten seconds later as many executors as a tenth of the
/// nodes, all with the image of their application.
pub(super) fn bursts(builder: &mut Builder, percent: usize) {
    let mut random = builder.random("bursts");
    let executors = builder.share(100);
    for burst in 0..builder.spread(BURSTS, percent) {
        let image = format!("{REGISTRY}/spark-{}:v1", random.below(3));
        let at = random.duration_below(FULL_DURATION);
        let pod = |name: &str| {
            Workload { run_time: Some(60.0), millicpus: 1_000, ..Workload::new(name, &image) }.pod()
        };
        builder.add(at, Action::Apply(pod(&format!("spark-{burst}-driver"))));
        let at = at.saturating_add(Duration::from_secs(10));
        for executor in 0..executors {
            builder.add(at, Action::Apply(pod(&format!("spark-{burst}-exec-{executor}"))));
        }
    }
}

//! `schedule`: list, create, trigger, enable, disable, delete, history.

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    Ended, Failure,
    args::{ScheduleArgs, ScheduleListArgs, TriggerArgs, overlap},
    connect::Context,
    output::{Out, say},
    watch,
};
use crate::{
    catalog::Entry,
    duration::between,
    schedule::{
        Cron, ExecutionStatus, Made, Manual, PrewarmSchedule, PrewarmScheduleSpec, QueuedRun, RunFacts, Trigger,
        decide_manual, problems, random_task_name, task_of,
    },
    task::{PrewarmTask, PrewarmTaskSpec},
    terminal::{Cell, Colour, ago, span, table},
};

/// How many of the next times a new schedule tells.
const NEXT: usize = 3;

pub(super) async fn list(context: &Context, out: Out, args: &ScheduleListArgs) -> Ended {
    let mut schedules = Vec::new();
    if args.names.is_empty() {
        let mut params = ListParams::default();
        params.label_selector.clone_from(&args.selector);
        let list = context.listed::<PrewarmSchedule>().list(&params).await;
        schedules = list?.items;
    }
    for name in &args.names {
        schedules.push(find(context, name).await?);
    }
    if out.wants_objects() {
        return out.objects(&schedules, args.names.len() != 1);
    }
    if schedules.is_empty() {
        eprintln!("there are no schedules");
        return Ok(());
    }
    say(&rows(&schedules, context.everywhere, out, Timestamp::now()))
}

fn rows(schedules: &[PrewarmSchedule], everywhere: bool, out: Out, now: Timestamp) -> String {
    let mut titles = vec!["NAME", "CRON", "TIME ZONE", "ENABLED", "LAST RUN", "NEXT RUN", "AGE"];
    if everywhere {
        titles.insert(0, "NAMESPACE");
    }
    if out.is_wide() {
        titles.extend(["OVERLAP", "IMAGES", "MESSAGE"]);
    }
    let row = |schedule: &PrewarmSchedule| {
        let (spec, status) = (&schedule.spec, schedule.status.clone().unwrap_or_default());
        let wrong = problems(spec).first().map(|problem| format!("{problem}"));
        let next = next_times(spec, now).first().map(|next| format!("in {}", span(next.duration_since(now))));
        let last = status.executions.first();
        let ran = last.map_or_else(
            || "never".to_owned(),
            |run| format!("{}, {} ago", run.status.as_str(), ago(Some(&run.scheduled_time), now)),
        );
        let enabled =
            Cell::painted(spec.enabled.to_string(), if spec.enabled { Colour::Plain } else { Colour::Yellow });
        let mut row = vec![
            Cell::from(schedule.name_any()),
            spec.schedule.clone().into(),
            spec.time_zone.clone().unwrap_or_else(|| "UTC".into()).into(),
            enabled,
            last.map_or_else(|| Cell::from(ran.clone()), |run| Cell::painted(ran.clone(), colour(run.status))),
            next.filter(|_| spec.enabled).unwrap_or_else(|| "-".into()).into(),
            schedule.creation_timestamp().map(|time| span(now.duration_since(time.0))).unwrap_or_default().into(),
        ];
        if everywhere {
            row.insert(0, schedule.namespace().unwrap_or_default().into());
        }
        if out.is_wide() {
            let policy = format!("{:?}", spec.overlap_policy);
            let images = spec.task_template.spec.images.join(",");
            row.extend([policy.into(), images.into(), wrong.unwrap_or_default().into()]);
        }
        row
    };
    table(&titles, schedules.iter().map(row).collect(), out.colour)
}

fn colour(status: ExecutionStatus) -> Colour {
    match status {
        ExecutionStatus::Running => Colour::Blue,
        ExecutionStatus::Success => Colour::Green,
        ExecutionStatus::Failed | ExecutionStatus::Timeout => Colour::Red,
        ExecutionStatus::Skipped => Colour::Yellow,
    }
}

fn next_times(spec: &PrewarmScheduleSpec, now: Timestamp) -> Vec<Timestamp> {
    let cron = Cron::parse(&spec.schedule, spec.time_zone.as_deref().unwrap_or_default());
    cron.map(|cron| cron.following(now, NEXT)).unwrap_or_default()
}

async fn find(context: &Context, name: &str) -> Result<PrewarmSchedule, Failure> {
    context.here::<PrewarmSchedule>().get(name).await.map_err(Failure::from)
}

pub(super) async fn create(context: &Context, out: Out, args: &ScheduleArgs) -> Ended {
    let task = args.spec.over(PrewarmTaskSpec::new(args.images.clone()))?;
    let mut spec = PrewarmScheduleSpec::new(args.cron.clone(), task);
    spec.time_zone.clone_from(&args.time_zone);
    spec.overlap_policy = overlap(&args.overlap);
    spec.timeout_seconds = args.run_timeout.and_then(|limit| u32::try_from(limit.as_secs()).ok());
    spec.history_limit = args.history_limit;
    spec.enabled = !args.disabled;
    let wrong: Vec<String> = problems(&spec).iter().map(ToString::to_string).collect();
    if !wrong.is_empty() {
        return Err(Failure::Usage(wrong.join("; ")));
    }
    let metadata = ObjectMeta {
        name: Some(args.name.clone()),
        namespace: Some(context.namespace.clone()),
        labels: Some([("app.kubernetes.io/managed-by".to_owned(), "kubectl-prewarm".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let schedule = PrewarmSchedule { metadata, spec, status: None };
    let made = context.here::<PrewarmSchedule>().create(&PostParams::default(), &schedule).await;
    let made = made?;
    out.done(&made, "created")?;
    if !out.wants_objects() {
        for time in next_times(&made.spec, Timestamp::now()) {
            let zone = made.spec.time_zone.as_deref().unwrap_or("UTC");
            let local =
                time.in_tz(zone).map_or_else(|_| time.to_string(), |time| time.strftime("%a %F %R %Z").to_string());
            say(&format!("  next: {local}\n"))?;
        }
    }
    Ok(())
}

pub(super) async fn enable(context: &Context, out: Out, names: &[String], enabled: bool) -> Ended {
    for name in names {
        let patch = Patch::Merge(json!({"spec": {"enabled": enabled}}));
        let patched = context.here::<PrewarmSchedule>().patch(name, &PatchParams::default(), &patch).await;
        let patched = patched?;
        out.done(&patched, if enabled { "enabled" } else { "disabled" })?;
    }
    Ok(())
}

pub(super) async fn delete(context: &Context, out: Out, names: &[String]) -> Ended {
    for name in names {
        let schedule = find(context, name).await?;
        let gone = context.here::<PrewarmSchedule>().delete(name, &DeleteParams::background()).await;
        gone?;
        out.done(&schedule, "deleted")?;
    }
    Ok(())
}

pub(super) async fn history(context: &Context, out: Out, name: &str) -> Ended {
    let schedule = find(context, name).await?;
    if out.wants_objects() {
        return out.objects(std::slice::from_ref(&schedule), false);
    }
    let status = schedule.status.unwrap_or_default();
    if status.executions.is_empty() {
        eprintln!("{name} has not run yet");
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |run: &crate::schedule::Execution| {
        let took = between(run.start_time.as_deref(), run.completion_time.as_deref()).map(span);
        let by = if run.trigger == Trigger::Manual { "hand" } else { "clock" };
        vec![
            Cell::from(run.number.to_string()),
            Cell::painted(run.status.as_str(), colour(run.status)),
            run.scheduled_time.clone().into(),
            ago(Some(&run.scheduled_time), now).into(),
            by.into(),
            took.unwrap_or_default().into(),
            run.task.clone().unwrap_or_default().into(),
            run.message.clone().unwrap_or_default().into(),
        ]
    };
    let titles = ["RUN", "STATUS", "AT", "AGE", "BY", "TOOK", "TASK", "MESSAGE"];
    say(&table(&titles, status.executions.iter().map(row).collect(), out.colour))
}

/// Runs a schedule by hand, by the same rule as the REST API.
pub(super) async fn trigger(context: &Context, out: Out, args: &TriggerArgs) -> Ended {
    let schedule = find(context, &args.name).await?;
    let uid = schedule.uid().unwrap_or_default();
    let tasks = context.here::<PrewarmTask>();
    let all = tasks.list(&ListParams::default()).await?;
    let runs: Vec<RunFacts> = all
        .iter()
        .filter_map(|task| Entry::of(task).run)
        .filter(|run| run.schedule == uid)
        .map(|run| run.facts)
        .collect();
    let queued = schedule.status.as_ref().is_some_and(|status| status.queued.is_some());
    let now = Timestamp::now();
    let made = Made { tick: Timestamp::from_second(now.as_second()).unwrap_or(now), trigger: Trigger::Manual };
    match decide_manual(schedule.spec.overlap_policy, &runs, queued) {
        Manual::Start => {
            let task = task_of(&schedule, &random_task_name(now), &made);
            let task = tasks.create(&PostParams::default(), &task).await?;
            out.done(&task, "created")?;
            if args.wait.waits() { watch::follow(context, out, &[task], args.wait.wait_timeout).await } else { Ok(()) }
        }
        Manual::Queue(open) => queue(context, schedule, &made, &open).await,
        Manual::Refuse(open) => {
            let open = open.join(", ");
            Err(Failure::Failed(format!("{open} is at work, and the schedule's overlapPolicy allows no other run")))
        }
    }
}

async fn queue(context: &Context, mut schedule: PrewarmSchedule, made: &Made, open: &[String]) -> Ended {
    let run = QueuedRun { scheduled_time: made.tick.to_string(), trigger: made.trigger };
    schedule.status.get_or_insert_default().queued = Some(run);
    let api: Api<PrewarmSchedule> = context.here();
    let name = schedule.name_any();
    let written = api.replace_status(&name, &PostParams::default(), &schedule).await;
    written?;
    say(&format!("the run waits for the end of {}\n", open.join(", ")))
}

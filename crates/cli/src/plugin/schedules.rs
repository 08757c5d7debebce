//! `schedule`: list, create, trigger, enable, disable, delete, history.

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use prewarmer_core::{
    duration::{elapsed, format_human},
    labels::MANAGED_BY_PLUGIN,
    schedule::{
        Cron, ExecutionOrigin, ExecutionStatus, ExecutionTask, ManualDecision, PrewarmSchedule,
        PrewarmScheduleSpec, QueuedRun, Trigger, build_task, decide_manual, execution_of,
        random_task_name, validate_spec,
    },
    task::{PrewarmTask, PrewarmTaskSpec},
    timestamp,
};
use serde_json::json;

use super::{
    args::{ScheduleArgs, ScheduleListArgs, TriggerArgs, parse_overlap},
    client::ClusterClient,
    error::{CommandError, CommandResult},
    output::{Output, print},
    watch,
};
use crate::terminal::{Colour, TableCell, format_age, table};

/// Number of scheduled times printed for a new schedule.
const SHOWN_TIMES: usize = 3;

pub(super) async fn list(
    context: &ClusterClient,
    out: Output,
    args: &ScheduleListArgs,
) -> CommandResult {
    let mut schedules = Vec::new();
    if args.names.is_empty() {
        let mut params = ListParams::default();
        params.label_selector.clone_from(&args.selector);
        let list = context.scoped::<PrewarmSchedule>().list(&params).await;
        schedules = list?.items;
    }
    for name in &args.names {
        schedules.push(get_schedule(context, name).await?);
    }
    if out.wants_objects() {
        return out.print_objects(&schedules, args.names.len() != 1);
    }
    if schedules.is_empty() {
        eprintln!("no schedules found");
        return Ok(());
    }
    print(&rows(&schedules, context.all_namespaces, out, Timestamp::now()))
}

fn rows(schedules: &[PrewarmSchedule], everywhere: bool, out: Output, now: Timestamp) -> String {
    let mut titles = vec!["NAME", "CRON", "TIME ZONE", "ENABLED", "LAST RUN", "NEXT RUN", "AGE"];
    if everywhere {
        titles.insert(0, "NAMESPACE");
    }
    if out.is_wide() {
        titles.extend(["OVERLAP", "IMAGES", "MESSAGE"]);
    }
    let row = |schedule: &PrewarmSchedule| {
        let (spec, status) = (&schedule.spec, schedule.status.clone().unwrap_or_default());
        let wrong = validate_spec(spec).first().map(|problem| format!("{problem}"));
        let next = next_times(spec, now)
            .first()
            .map(|next| format!("in {}", format_human(next.duration_since(now))));
        let last = status.executions.first();
        let ran = last.map_or_else(
            || "never".to_owned(),
            |run| {
                format!(
                    "{}, {} ago",
                    run.status.as_str(),
                    format_age(Some(&run.scheduled_time), now)
                )
            },
        );
        let enabled = TableCell::coloured(
            spec.enabled.to_string(),
            if spec.enabled { Colour::Plain } else { Colour::Yellow },
        );
        let mut row = vec![
            TableCell::from(schedule.name_any()),
            spec.schedule.clone().into(),
            spec.time_zone.clone().unwrap_or_else(|| "UTC".into()).into(),
            enabled,
            last.map_or_else(
                || TableCell::from(ran.clone()),
                |run| TableCell::coloured(ran.clone(), status_colour(run.status)),
            ),
            next.filter(|_| spec.enabled).unwrap_or_else(|| "-".into()).into(),
            schedule
                .creation_timestamp()
                .map(|time| format_human(now.duration_since(time.0)))
                .unwrap_or_default()
                .into(),
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

fn status_colour(status: ExecutionStatus) -> Colour {
    match status {
        ExecutionStatus::Running => Colour::Blue,
        ExecutionStatus::Success => Colour::Green,
        ExecutionStatus::Failed | ExecutionStatus::Timeout => Colour::Red,
        ExecutionStatus::Skipped => Colour::Yellow,
    }
}

fn next_times(spec: &PrewarmScheduleSpec, now: Timestamp) -> Vec<Timestamp> {
    let cron = Cron::parse(&spec.schedule, spec.time_zone.as_deref().unwrap_or_default());
    cron.map(|cron| cron.next_times(now, SHOWN_TIMES)).unwrap_or_default()
}

async fn get_schedule(
    context: &ClusterClient,
    name: &str,
) -> Result<PrewarmSchedule, CommandError> {
    context.namespaced::<PrewarmSchedule>().get(name).await.map_err(CommandError::from)
}

pub(super) async fn create(
    context: &ClusterClient,
    out: Output,
    args: &ScheduleArgs,
) -> CommandResult {
    let task = args.spec.apply_to(PrewarmTaskSpec::new(args.images.clone()))?;
    let mut spec = PrewarmScheduleSpec::new(args.cron.clone(), task);
    spec.time_zone.clone_from(&args.time_zone);
    spec.overlap_policy = parse_overlap(&args.overlap);
    spec.timeout_seconds = args.run_timeout.and_then(|limit| u32::try_from(limit.as_secs()).ok());
    spec.history_limit = args.history_limit;
    spec.enabled = !args.disabled;
    let wrong: Vec<String> = validate_spec(&spec).iter().map(ToString::to_string).collect();
    if !wrong.is_empty() {
        return Err(CommandError::Usage(wrong.join("; ")));
    }
    let metadata = ObjectMeta {
        name: Some(args.name.clone()),
        namespace: Some(context.namespace.clone()),
        labels: Some([(MANAGED_BY_PLUGIN.0.to_owned(), MANAGED_BY_PLUGIN.1.to_owned())].into()),
        ..ObjectMeta::default()
    };
    let schedule = PrewarmSchedule { metadata, spec, status: None };
    let made =
        context.namespaced::<PrewarmSchedule>().create(&PostParams::default(), &schedule).await;
    let made = made?;
    out.print_operation(&made, "created")?;
    if !out.wants_objects() {
        for time in next_times(&made.spec, Timestamp::now()) {
            let zone = made.spec.time_zone.as_deref().unwrap_or("UTC");
            let local = time
                .in_tz(zone)
                .map_or_else(|_| time.to_string(), |time| time.strftime("%a %F %R %Z").to_string());
            print(&format!("  next: {local}\n"))?;
        }
    }
    Ok(())
}

pub(super) async fn enable(
    context: &ClusterClient,
    out: Output,
    names: &[String],
    enabled: bool,
) -> CommandResult {
    for name in names {
        let patch = Patch::Merge(json!({"spec": {"enabled": enabled}}));
        let patched = context
            .namespaced::<PrewarmSchedule>()
            .patch(name, &PatchParams::default(), &patch)
            .await;
        let patched = patched?;
        out.print_operation(&patched, if enabled { "enabled" } else { "disabled" })?;
    }
    Ok(())
}

pub(super) async fn delete(
    context: &ClusterClient,
    out: Output,
    names: &[String],
) -> CommandResult {
    for name in names {
        let schedule = get_schedule(context, name).await?;
        let gone =
            context.namespaced::<PrewarmSchedule>().delete(name, &DeleteParams::background()).await;
        gone?;
        out.print_operation(&schedule, "deleted")?;
    }
    Ok(())
}

pub(super) async fn history(context: &ClusterClient, out: Output, name: &str) -> CommandResult {
    let schedule = get_schedule(context, name).await?;
    if out.wants_objects() {
        return out.print_objects(std::slice::from_ref(&schedule), false);
    }
    let status = schedule.status.unwrap_or_default();
    if status.executions.is_empty() {
        eprintln!("{name} has no executions yet");
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |run: &prewarmer_core::schedule::Execution| {
        let took =
            elapsed(run.start_time.as_deref(), run.completion_time.as_deref()).map(format_human);
        let by = if run.trigger == Trigger::Manual { "manual" } else { "schedule" };
        vec![
            TableCell::from(run.number.to_string()),
            TableCell::coloured(run.status.as_str(), status_colour(run.status)),
            run.scheduled_time.clone().into(),
            format_age(Some(&run.scheduled_time), now).into(),
            by.into(),
            took.unwrap_or_default().into(),
            run.task.clone().unwrap_or_default().into(),
            run.message.clone().unwrap_or_default().into(),
        ]
    };
    let titles = ["RUN", "STATUS", "AT", "AGE", "TRIGGER", "TOOK", "TASK", "MESSAGE"];
    print(&table(&titles, status.executions.iter().map(row).collect(), out.colour))
}

/// Starts an execution manually, by the same rules as the REST API.
pub(super) async fn trigger(
    context: &ClusterClient,
    out: Output,
    args: &TriggerArgs,
) -> CommandResult {
    let schedule = get_schedule(context, &args.name).await?;
    let uid = schedule.uid().unwrap_or_default();
    let tasks = context.namespaced::<PrewarmTask>();
    let all = tasks.list(&ListParams::default()).await?;
    let runs: Vec<ExecutionTask> = all
        .iter()
        .filter_map(execution_of)
        .filter(|run| run.schedule == uid)
        .map(|run| run.facts)
        .collect();
    let queued = schedule.status.as_ref().is_some_and(|status| status.queued.is_some());
    let now = Timestamp::now();
    let made = ExecutionOrigin {
        scheduled_at: timestamp::truncate_to_seconds(now),
        trigger: Trigger::Manual,
    };
    match decide_manual(schedule.spec.overlap_policy, &runs, queued) {
        ManualDecision::Start => {
            let task = build_task(&schedule, &random_task_name(now), &made);
            let task = tasks.create(&PostParams::default(), &task).await?;
            out.print_operation(&task, "created")?;
            if args.wait.is_requested() {
                watch::follow(context, out, &[task], args.wait.wait_timeout).await
            } else {
                Ok(())
            }
        }
        ManualDecision::Queue(open) => queue_execution(context, schedule, &made, &open).await,
        ManualDecision::Refuse(open) => {
            let open = open.join(", ");
            Err(CommandError::Failed(format!(
                "still running: {open}; the schedule's overlapPolicy allows no further execution"
            )))
        }
    }
}

async fn queue_execution(
    context: &ClusterClient,
    mut schedule: PrewarmSchedule,
    made: &ExecutionOrigin,
    open: &[String],
) -> CommandResult {
    let scheduled_time = timestamp::format(made.scheduled_at);
    let run = QueuedRun { scheduled_time, trigger: made.trigger };
    schedule.status.get_or_insert_default().queued = Some(run);
    let api: Api<PrewarmSchedule> = context.namespaced();
    let name = schedule.name_any();
    let written = api.replace_status(&name, &PostParams::default(), &schedule).await;
    written?;
    print(&format!("execution queued until the end of {}\n", open.join(", ")))
}

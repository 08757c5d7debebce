//! `ls`, `get`, `cancel`, `retry` and `explain`.

use std::fmt::Write;

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use prewarmer_core::{
    duration::{elapsed, format_human},
    task::{FailedNode, Notification, PrewarmPlan, PrewarmTask, nodes_not_warm, retry_spec},
    timestamp,
    workload::Policy,
};
use serde_json::json;

use super::{
    args::{ExplainArgs, ListArgs, RetryArgs},
    client::ClusterClient,
    error::{CommandError, CommandResult},
    explain,
    output::{Output, print},
    progress,
    resolve::{self, WarmTarget},
    task_client::{build_task, create_task, get_tasks},
    watch,
    workload_client::fetch_workload,
};
use crate::terminal::{Colour, TableCell, format_age, table};

/// Largest number of images that a row lists.
const SHOWN_IMAGES: usize = 2;

pub(super) async fn list(context: &ClusterClient, out: Output, args: &ListArgs) -> CommandResult {
    let mut params = ListParams::default();
    params.label_selector.clone_from(&args.selector);
    let tasks = context.scoped::<PrewarmTask>().list(&params).await?;
    let wanted = |task: &PrewarmTask| {
        args.phase.as_ref().is_none_or(|phase| task.phase().as_str().eq_ignore_ascii_case(phase))
    };
    let mut tasks: Vec<PrewarmTask> = tasks.items.into_iter().filter(wanted).collect();
    tasks.sort_by_key(|task| {
        std::cmp::Reverse((task.creation_timestamp().map(|time| time.0), task.name_any()))
    });
    if out.wants_objects() {
        return out.print_objects(&tasks, true);
    }
    if tasks.is_empty() {
        let place = if context.all_namespaces {
            String::new()
        } else {
            format!(" in namespace {}", context.namespace)
        };
        eprintln!("no tasks found{place}");
        return Ok(());
    }
    print(&rows(&tasks, context.all_namespaces, out, Timestamp::now()))
}

fn rows(tasks: &[PrewarmTask], everywhere: bool, out: Output, now: Timestamp) -> String {
    let mut titles = vec!["NAME", "PHASE", "PROGRESS", "FAILED", "IMAGES", "AGE"];
    if everywhere {
        titles.insert(0, "NAMESPACE");
    }
    if out.is_wide() {
        titles.extend(["ORIGIN", "PRIORITY", "BATCH", "TOOK", "MESSAGE"]);
    }
    let row = |task: &PrewarmTask| {
        let status = task.status.clone().unwrap_or_default();
        let failed = status.failed_node_count;
        let mut row = vec![
            TableCell::from(task.name_any()),
            TableCell::coloured(status.phase.as_str(), progress::phase_colour(status.phase)),
            format!("{}/{}", status.succeeded_nodes, status.total_nodes).into(),
            TableCell::coloured(
                failed.to_string(),
                if failed > 0 { Colour::Red } else { Colour::Plain },
            ),
            images(&task.spec.images, out.is_wide()).into(),
            task.creation_timestamp()
                .map(|time| format_human(now.duration_since(time.0)))
                .unwrap_or_default()
                .into(),
        ];
        if everywhere {
            row.insert(0, task.namespace().unwrap_or_default().into());
        }
        if out.is_wide() {
            let origin = task
                .labels()
                .get(prewarmer_core::task::ORIGIN_LABEL)
                .cloned()
                .unwrap_or_else(|| "user".into());
            let begun = u32::from(status.total_batches > 0);
            let batch = (status.current_batch_index + begun).min(status.total_batches);
            let message = status.conditions.iter().find(|one| one.type_ == "Progressing");
            row.extend([
                origin.into(),
                task.spec.priority.to_string().into(),
                format!("{batch}/{}", status.total_batches).into(),
                duration_text(task, now).into(),
                message.map(|one| one.message.clone()).unwrap_or_default().into(),
            ]);
        }
        row
    };
    table(&titles, tasks.iter().map(row).collect(), out.colour)
}

fn images(all: &[String], whole: bool) -> String {
    if whole || all.len() <= SHOWN_IMAGES {
        return all.join(",");
    }
    format!("{} + {} more", all[..SHOWN_IMAGES].join(","), all.len() - SHOWN_IMAGES)
}

fn duration_text(task: &PrewarmTask, now: Timestamp) -> String {
    let status = task.status.clone().unwrap_or_default();
    let end = status.completion_time.unwrap_or_else(|| timestamp::format(now));
    elapsed(status.start_time.as_deref(), Some(&end)).map(format_human).unwrap_or_default()
}

pub(super) async fn get(context: &ClusterClient, out: Output, names: &[String]) -> CommandResult {
    let tasks = get_tasks(context, names).await?;
    if out.wants_objects() {
        return out.print_objects(&tasks, tasks.len() > 1);
    }
    if out.is_wide() {
        return print(&rows(&tasks, context.all_namespaces, out, Timestamp::now()));
    }
    let texts: Vec<String> =
        tasks.iter().map(|task| describe(task, out, Timestamp::now())).collect();
    print(&texts.join("\n"))
}

/// Returns the full description of a task.
fn describe(task: &PrewarmTask, out: Output, now: Timestamp) -> String {
    let mut rows = String::new();
    for (name, value) in summary(task, out, now).into_iter().filter(|(_, value)| !value.is_empty())
    {
        // Writing to a string cannot fail.
        let _ = writeln!(rows, "{:12} {value}", format!("{name}:"));
    }
    let images = image_table(task, out);
    let failures = failure_table(task, out, now);
    format!("{rows}\n{images}{failures}{}", notifications(task, out))
}

/// Returns the names and values of the summary of a task; an empty value has no row.
fn summary(task: &PrewarmTask, out: Output, now: Timestamp) -> Vec<(&'static str, String)> {
    let (spec, status) = (&task.spec, task.status.clone().unwrap_or_default());
    let selector = spec.node_selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let selector = selector.collect::<Vec<_>>().join(",");
    let age = task.creation_timestamp().map(|time| format_human(now.duration_since(time.0)));
    let nodes = format!(
        "{} warm ({} of them already), {} failed, {} skipped, {} excluded; {} in total",
        status.succeeded_nodes,
        status.already_warm_nodes,
        status.failed_node_count,
        status.skipped_nodes,
        status.ignored_node_count,
        status.total_nodes
    );
    vec![
        ("Name", task.name_any()),
        ("Namespace", task.namespace().unwrap_or_default()),
        ("Age", age.unwrap_or_default()),
        ("Phase", progress::phase_colour(status.phase).paint(status.phase.as_str(), out.colour)),
        ("Progress", progress::activity(task, now)),
        ("Nodes", nodes),
        ("Selector", if selector.is_empty() { "all nodes".into() } else { selector }),
        ("Batches", format!("size {}, {:?}", spec.batch_size, spec.batch_policy)),
        ("Priority", spec.priority.to_string()),
        ("Timeout", spec.timeout.clone()),
        ("Took", duration_text(task, now)),
    ]
}

/// Returns the results of the images of a task as a table.
fn image_table(task: &PrewarmTask, out: Output) -> String {
    let results = task.status.as_ref().map_or(&[][..], |status| &status.images);
    let row = |image: &String| {
        let of = results.iter().find(|one| one.image == *image).cloned().unwrap_or_default();
        let failed = TableCell::coloured(
            of.failed.to_string(),
            if of.failed > 0 { Colour::Red } else { Colour::Plain },
        );
        let digest = of.digest.unwrap_or_default();
        vec![TableCell::from(image.clone()), of.succeeded.to_string().into(), failed, digest.into()]
    };
    table(
        &["IMAGE", "WARM ON", "FAILED ON", "DIGEST"],
        task.spec.images.iter().map(row).collect(),
        out.colour,
    )
}

/// Returns the failed nodes of a task as a table; empty if there are none.
fn failure_table(task: &PrewarmTask, out: Output, now: Timestamp) -> String {
    let failures = task.status.as_ref().map_or(&[][..], |status| &status.failed_nodes);
    if failures.is_empty() {
        return String::new();
    }
    let row = |one: &FailedNode| {
        vec![
            TableCell::from(one.node.clone()),
            one.image.clone().into(),
            TableCell::coloured(one.reason.clone(), Colour::Red),
            format_age(Some(&one.time), now).into(),
            one.message.clone().into(),
        ]
    };
    let rows = failures.iter().map(row).collect();
    format!("\n{}", table(&["FAILED NODE", "IMAGE", "REASON", "AGE", "MESSAGE"], rows, out.colour))
}

/// Returns the state of the notifications of a task as a table.
fn notifications(task: &PrewarmTask, out: Output) -> String {
    let deliveries = task.status.as_ref().map_or(&[][..], |status| &status.notifications);
    let row = |(index, whom): (usize, &Notification)| {
        let one = deliveries.get(index).cloned().unwrap_or_default();
        let state = match (&one.delivered, one.done, one.attempts) {
            (Some(_), ..) => TableCell::coloured("delivered", Colour::Green),
            (None, true, _) => TableCell::coloured("abandoned", Colour::Red),
            (None, false, 0) => TableCell::from("pending".to_owned()),
            (None, false, _) => TableCell::coloured("retrying", Colour::Yellow),
        };
        let format = whom.format.clone().unwrap_or_else(|| "json".into());
        let message = one.message.unwrap_or_default();
        vec![
            explain::receiver(whom).into(),
            format.into(),
            state,
            one.attempts.to_string().into(),
            message.into(),
        ]
    };
    let rows: Vec<Vec<TableCell>> =
        task.spec.notify.iter().flatten().enumerate().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", table(&["NOTIFY", "FORMAT", "STATE", "ATTEMPTS", "MESSAGE"], rows, out.colour))
}

pub(super) async fn cancel(
    context: &ClusterClient,
    out: Output,
    names: &[String],
) -> CommandResult {
    let api = context.namespaced::<PrewarmTask>();
    let mut over = Vec::new();
    for name in names {
        let task = api.get(name).await?;
        if task.phase().is_terminal() {
            over.push(format!(
                "{name} has already ended: it is {}",
                task.phase().as_str().to_lowercase()
            ));
            continue;
        }
        let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
        let patched = api.patch(name, &PatchParams::default(), &patch).await;
        out.print_operation(&patched?, "is being cancelled")?;
    }
    if over.is_empty() { Ok(()) } else { Err(CommandError::Failed(over.join("; "))) }
}

pub(super) async fn retry(context: &ClusterClient, out: Output, args: &RetryArgs) -> CommandResult {
    let mut made = Vec::new();
    for task in get_tasks(context, &args.names).await? {
        let name = task.name_any();
        if !task.phase().is_terminal() {
            return Err(CommandError::Failed(format!(
                "{name} has not ended: wait for its end, or cancel it"
            )));
        }
        let nodes = nodes_to_retry(context, &task).await?;
        if nodes.is_empty() {
            return Err(CommandError::Failed(format!(
                "nothing to retry: {name} warmed all of its nodes"
            )));
        }
        let many = nodes.len();
        let next =
            build_task(task.namespace().unwrap_or_default(), None, retry_spec(&task.spec, nodes));
        let next = create_task(context, &next).await?;
        out.print_operation(
            &next,
            &format!("created for the {many} nodes that {name} has not warmed"),
        )?;
        made.push(next);
    }
    if args.wait.is_requested() {
        watch::follow(context, out, &made, args.wait.wait_timeout).await
    } else {
        Ok(())
    }
}

/// Returns the nodes of an ended task that are not warm.
async fn nodes_to_retry(
    context: &ClusterClient,
    task: &PrewarmTask,
) -> Result<Vec<String>, CommandError> {
    let namespace = task.namespace().unwrap_or_default();
    let plans = Api::<PrewarmPlan>::namespaced(context.client.clone(), &namespace);
    let name = format!("plan-{}", task.uid().unwrap_or_default());
    let plan = plans.get_opt(&name).await?;
    let plan = plan.ok_or_else(|| {
        let name = task.name_any();
        CommandError::Failed(format!(
            "{name} has no plan to retry: create a new task with kubectl prewarm run"
        ))
    })?;
    Ok(nodes_not_warm(task, &plan.spec))
}

pub(super) async fn explain(
    context: &ClusterClient,
    out: Output,
    args: &ExplainArgs,
) -> CommandResult {
    if args.name.contains('/') {
        return explain_workload(context, out, args).await;
    }
    let tasks = get_tasks(context, std::slice::from_ref(&args.name)).await?;
    if out.wants_objects() {
        return out.print_objects(&tasks, false);
    }
    let Some(task) = tasks.first() else { return Ok(()) };
    print_lines(&explain::explain(task, args.node.as_deref()))
}

async fn explain_workload(
    context: &ClusterClient,
    out: Output,
    args: &ExplainArgs,
) -> CommandResult {
    if out.wants_objects() || args.node.is_some() {
        let why = "-o and --node apply to tasks only: prewarmer extract prints the decision about a workload in other formats";
        return Err(CommandError::Usage(why.into()));
    }
    let WarmTarget::Workload { api_version, kind, name } = resolve::parse_target(&args.name)?
    else {
        let expected = "expected the name of a task, or KIND/NAME such as job/report";
        return Err(CommandError::Usage(format!("{:?}: {expected}", args.name)));
    };
    let fetched = fetch_workload(context, api_version, kind, &name).await?;
    let text = resolve::manifest_with_context(fetched);
    let found = resolve::extract_one(&text, &Policy::default(), &context.namespace)?;
    print_lines(&explain::explain_workloads(&found.workloads))
}

fn print_lines(lines: &[String]) -> CommandResult {
    let text: String = lines.iter().map(|line| crate::terminal::printable(line) + "\n").collect();
    print(&text)
}

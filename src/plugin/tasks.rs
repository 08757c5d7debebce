//! `ls`, `get`, `cancel`, `retry` and `explain`.

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    Ended, Failure,
    args::{ExplainArgs, ListArgs, RetryArgs},
    connect::Context,
    explain,
    output::{Out, say},
    progress, run, watch,
};
use crate::{
    duration::between,
    task::{Notification, Phase, PrewarmPlan, PrewarmTask, again, not_warm},
    terminal::{Cell, Colour, ago, span, table},
};

/// Images that a row names.
const SHOWN: usize = 2;

pub(super) async fn list(context: &Context, out: Out, args: &ListArgs) -> Ended {
    let mut params = ListParams::default();
    params.label_selector.clone_from(&args.selector);
    let tasks = context.listed::<PrewarmTask>().list(&params).await?;
    let wanted =
        |task: &PrewarmTask| args.phase.as_ref().is_none_or(|phase| task.phase().as_str().eq_ignore_ascii_case(phase));
    let mut tasks: Vec<PrewarmTask> = tasks.items.into_iter().filter(wanted).collect();
    tasks.sort_by_key(|task| std::cmp::Reverse((task.creation_timestamp().map(|time| time.0), task.name_any())));
    if out.wants_objects() {
        return out.objects(&tasks, true);
    }
    if tasks.is_empty() {
        let place = if context.everywhere { String::new() } else { format!(" in the namespace {}", context.namespace) };
        eprintln!("there are no tasks{place}");
        return Ok(());
    }
    say(&rows(&tasks, context.everywhere, out, Timestamp::now()))
}

fn rows(tasks: &[PrewarmTask], everywhere: bool, out: Out, now: Timestamp) -> String {
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
            Cell::from(task.name_any()),
            Cell::painted(status.phase.as_str(), progress::colour(status.phase)),
            format!("{}/{}", status.succeeded_nodes, status.total_nodes).into(),
            Cell::painted(failed.to_string(), if failed > 0 { Colour::Red } else { Colour::Plain }),
            images(&task.spec.images, out.is_wide()).into(),
            task.creation_timestamp().map(|time| span(now.duration_since(time.0))).unwrap_or_default().into(),
        ];
        if everywhere {
            row.insert(0, task.namespace().unwrap_or_default().into());
        }
        if out.is_wide() {
            let origin = task.labels().get(crate::task::ORIGIN_LABEL).cloned().unwrap_or_else(|| "user".into());
            let begun = u32::from(status.total_batches > 0);
            let batch = (status.current_batch_index + begun).min(status.total_batches);
            let message = status.conditions.iter().find(|one| one.type_ == "Progressing");
            row.extend([
                origin.into(),
                task.spec.priority.to_string().into(),
                format!("{batch}/{}", status.total_batches).into(),
                took(task, now).into(),
                message.map(|one| one.message.clone()).unwrap_or_default().into(),
            ]);
        }
        row
    };
    table(&titles, tasks.iter().map(row).collect(), out.colour)
}

fn images(all: &[String], whole: bool) -> String {
    if whole || all.len() <= SHOWN {
        return all.join(",");
    }
    format!("{} + {} more", all[..SHOWN].join(","), all.len() - SHOWN)
}

fn took(task: &PrewarmTask, now: Timestamp) -> String {
    let status = task.status.clone().unwrap_or_default();
    let end = status.completion_time.unwrap_or_else(|| now.to_string());
    between(status.start_time.as_deref(), Some(&end)).map(span).unwrap_or_default()
}

/// The tasks of these names.
pub(super) async fn named(context: &Context, names: &[String]) -> Result<Vec<PrewarmTask>, Failure> {
    let (api, mut tasks) = (context.here::<PrewarmTask>(), Vec::new());
    for name in names {
        tasks.push(api.get(name).await?);
    }
    Ok(tasks)
}

pub(super) async fn get(context: &Context, out: Out, names: &[String]) -> Ended {
    let tasks = named(context, names).await?;
    if out.wants_objects() {
        return out.objects(&tasks, tasks.len() > 1);
    }
    if out.is_wide() {
        return say(&rows(&tasks, context.everywhere, out, Timestamp::now()));
    }
    let texts: Vec<String> = tasks.iter().map(|task| described(task, out, Timestamp::now())).collect();
    say(&texts.join("\n"))
}

/// A task, whole.
fn described(task: &PrewarmTask, out: Out, now: Timestamp) -> String {
    let (spec, status) = (&task.spec, task.status.clone().unwrap_or_default());
    let phase = progress::colour(status.phase).paint(status.phase.as_str(), out.colour);
    let selector = spec.node_selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let selector = selector.collect::<Vec<_>>().join(",");
    let mut rows: Vec<(&str, String)> = vec![
        ("Name", task.name_any()),
        ("Namespace", task.namespace().unwrap_or_default()),
        ("Phase", phase),
        ("Progress", progress::now_at(task, now)),
        (
            "Nodes",
            format!(
                "{} warm ({} of them before), {} failed, {} skipped, {} left out, of {}",
                status.succeeded_nodes,
                status.already_warm_nodes,
                status.failed_node_count,
                status.skipped_nodes,
                status.ignored_node_count,
                status.total_nodes
            ),
        ),
        ("Selector", if selector.is_empty() { "all nodes".into() } else { selector }),
        ("Batches", format!("{} at once, {:?}", spec.batch_size, spec.batch_policy)),
        ("Priority", spec.priority.to_string()),
        ("Timeout", spec.timeout.clone()),
        ("Took", took(task, now)),
    ];
    let age = task.creation_timestamp().map(|time| span(now.duration_since(time.0))).unwrap_or_default();
    rows.insert(2, ("Age", age));
    rows.retain(|(_, value)| !value.is_empty());
    let rows = rows
        .into_iter()
        .map(|(name, value)| format!("{:12} {}\n", format!("{name}:"), value))
        .collect::<Vec<_>>()
        .concat();
    let image = |image: &String| {
        let of = status.images.iter().find(|one| one.image == *image).cloned().unwrap_or_default();
        let failed = Cell::painted(of.failed.to_string(), if of.failed > 0 { Colour::Red } else { Colour::Plain });
        let digest = of.digest.unwrap_or_default();
        vec![Cell::from(image.clone()), of.succeeded.to_string().into(), failed, digest.into()]
    };
    let images =
        table(&["IMAGE", "WARM ON", "FAILED ON", "DIGEST"], spec.images.iter().map(image).collect(), out.colour);
    let failures: Vec<Vec<Cell>> = status
        .failed_nodes
        .iter()
        .map(|one| {
            let age = ago(Some(&one.time), now);
            vec![
                Cell::from(one.node.clone()),
                one.image.clone().into(),
                Cell::painted(one.reason.clone(), Colour::Red),
                age.into(),
                one.message.clone().into(),
            ]
        })
        .collect();
    let failures = if failures.is_empty() {
        String::new()
    } else {
        format!("\n{}", table(&["FAILED NODE", "IMAGE", "REASON", "AGE", "MESSAGE"], failures, out.colour))
    };
    format!("{rows}\n{images}{failures}{}", notifications(task, out))
}

/// How far the notifications of a task's end are, as a table.
fn notifications(task: &PrewarmTask, out: Out) -> String {
    let deliveries = task.status.as_ref().map_or(&[][..], |status| &status.notifications);
    let row = |(index, whom): (usize, &Notification)| {
        let one = deliveries.get(index).cloned().unwrap_or_default();
        let state = match (&one.delivered, one.done, one.attempts) {
            (Some(_), ..) => Cell::painted("delivered", Colour::Green),
            (None, true, _) => Cell::painted("given up", Colour::Red),
            (None, false, 0) => Cell::from("waiting".to_owned()),
            (None, false, _) => Cell::painted("tried again", Colour::Yellow),
        };
        let format = whom.format.clone().unwrap_or_else(|| "json".into());
        let message = one.message.unwrap_or_default();
        vec![explain::receiver(whom).into(), format.into(), state, one.attempts.to_string().into(), message.into()]
    };
    let rows: Vec<Vec<Cell>> = task.spec.notify.iter().flatten().enumerate().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", table(&["NOTIFY", "FORMAT", "STATE", "TRIES", "MESSAGE"], rows, out.colour))
}

pub(super) async fn cancel(context: &Context, out: Out, names: &[String]) -> Ended {
    let api = context.here::<PrewarmTask>();
    let mut over = Vec::new();
    for name in names {
        let task = api.get(name).await?;
        if task.phase().is_terminal() {
            over.push(format!("{name} has ended already: it is {}", task.phase().as_str().to_lowercase()));
            continue;
        }
        let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
        let patched = api.patch(name, &PatchParams::default(), &patch).await;
        out.done(&patched?, "is being cancelled")?;
    }
    if over.is_empty() { Ok(()) } else { Err(Failure::Failed(over.join("; "))) }
}

pub(super) async fn retry(context: &Context, out: Out, args: &RetryArgs) -> Ended {
    let mut made = Vec::new();
    for task in named(context, &args.names).await? {
        let name = task.name_any();
        if !task.phase().is_terminal() {
            return Err(Failure::Failed(format!("{name} has not ended: wait for it, or cancel it")));
        }
        let nodes = left_cold(context, &task).await?;
        if nodes.is_empty() {
            return Err(Failure::Failed(format!("{name} has no node that is not warm: there is nothing to try again")));
        }
        let many = nodes.len();
        let next = run::task(task.namespace().unwrap_or_default(), None, again(&task.spec, nodes));
        let next = run::create(context, &next).await?;
        out.done(&next, &format!("created, for the {many} nodes of {name} that are not warm"))?;
        made.push(next);
    }
    if args.wait.waits() { watch::follow(context, out, &made, args.wait.wait_timeout).await } else { Ok(()) }
}

/// The nodes of an ended task that are not warm. One that chose none tries all of its nodes again.
async fn left_cold(context: &Context, task: &PrewarmTask) -> Result<Vec<String>, Failure> {
    let namespace = task.namespace().unwrap_or_default();
    let plans = Api::<PrewarmPlan>::namespaced(context.client.clone(), &namespace);
    let name = format!("plan-{}", task.uid().unwrap_or_default());
    let plan = plans.get_opt(&name).await?;
    let plan = plan.ok_or_else(|| {
        let name = task.name_any();
        Failure::Failed(format!("{name} had chosen no nodes: make a new task by kubectl prewarm run"))
    })?;
    Ok(not_warm(task, &plan.spec))
}

pub(super) async fn explain(context: &Context, out: Out, args: &ExplainArgs) -> Ended {
    let tasks = named(context, std::slice::from_ref(&args.name)).await?;
    if out.wants_objects() {
        return out.objects(&tasks, false);
    }
    let Some(task) = tasks.first() else { return Ok(()) };
    let lines = explain::explain(task, args.node.as_deref());
    let text: String = lines.iter().map(|line| crate::terminal::printable(line) + "\n").collect();
    say(&text)
}

/// Whether the task has come to what was asked for.
pub(super) fn is_good(task: &PrewarmTask) -> bool {
    task.phase() == Phase::Completed
}

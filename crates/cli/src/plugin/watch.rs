//! `watch` and `--wait`: follow tasks until they end, with a bar on a terminal and with lines
//! elsewhere.

use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

use futures::{Stream, StreamExt, stream};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, watch_object},
    },
};
use prewarmer_core::{
    duration::format_human,
    task::{Phase, PrewarmTask},
};
use prewarmer_kube::api_error::ApiErrorKind;

use super::{
    args::OutputFormat,
    client::{ClusterClient, error_message},
    error::{CommandError, CommandResult},
    output::{Output, print},
    progress,
    task_client::get_tasks,
};
use crate::terminal;

pub(super) async fn watch(
    context: &ClusterClient,
    out: Output,
    names: &[String],
    limit: Option<Duration>,
) -> CommandResult {
    let tasks = get_tasks(context, names).await?;
    follow(context, out, &tasks, limit).await
}

/// Shows tasks until all have ended. The error lists those that did not complete.
pub(super) async fn follow(
    context: &ClusterClient,
    out: Output,
    tasks: &[PrewarmTask],
    limit: Option<Duration>,
) -> CommandResult {
    let mut display = ProgressDisplay::new(out, tasks);
    let end = until_all_ended(context, tasks, &mut display);
    let ended = match limit {
        None => end.await,
        Some(limit) => tokio::time::timeout(limit, end).await.unwrap_or_else(|_| {
            let limit = format_human(limit.try_into().unwrap_or_default());
            Err(CommandError::TimedOut(format!("not ended within {limit}; the task continues")))
        }),
    };
    display.close(ended.is_ok());
    ended?;
    let bad: Vec<String> = display
        .last_tasks
        .values()
        .filter(|task| task.phase() != Phase::Completed)
        .map(ResourceExt::name_any)
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    let names = bad.join(", ");
    let verb = if bad.len() == 1 { "did" } else { "have" };
    let not = if bad.len() == 1 { "not complete" } else { "not completed" };
    Err(CommandError::Failed(format!("{names} {verb} {not}: kubectl prewarm explain {}", bad[0])))
}

/// Shows each change of each task until all have ended.
async fn until_all_ended(
    context: &ClusterClient,
    tasks: &[PrewarmTask],
    display: &mut ProgressDisplay,
) -> CommandResult {
    let mut open = tasks.len();
    let mut changes = stream::select_all(tasks.iter().map(|task| Box::pin(changes(context, task))));
    while open > 0 {
        let Some((name, change)) = changes.next().await else { break };
        match change {
            Ok(Some(task)) => {
                let ended = task.phase().is_terminal();
                // The list after an interruption may contain an ended task again.
                let news =
                    display.last_tasks.get(&name).is_none_or(|last| !last.phase().is_terminal());
                if news {
                    display.show(name, task)?;
                    open -= usize::from(ended);
                }
            }
            Ok(None) => {
                return Err(CommandError::Failed(format!("{name} was deleted before its end")));
            }
            Err(
                watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error),
            ) if is_permanent(&error) => {
                return Err(CommandError::Failed(error_message(&error)));
            }
            // The watcher retries with backoff.
            Err(_) => {}
        }
    }
    Ok(())
}

fn is_permanent(error: &kube::Error) -> bool {
    let kind = ApiErrorKind::of(error);
    matches!(kind, ApiErrorKind::Unauthorized | ApiErrorKind::NotFound) || kind.is_forbidden()
}

/// Returns the changes of a task.
fn changes(
    context: &ClusterClient,
    task: &PrewarmTask,
) -> impl Stream<Item = (String, Result<Option<PrewarmTask>, watcher::Error>)> + use<> {
    let api = Api::<PrewarmTask>::namespaced(
        context.client.clone(),
        &task.namespace().unwrap_or_default(),
    );
    let name = task.name_any();
    let known = name.clone();
    watch_object(api, &name).default_backoff().map(move |change| (known.clone(), change))
}

/// Display of tasks that are being followed.
struct ProgressDisplay {
    out: Output,
    bars: Option<BTreeMap<String, ProgressBar>>,
    last_tasks: BTreeMap<String, PrewarmTask>,
    last_lines: BTreeMap<String, String>,
}

impl ProgressDisplay {
    fn new(out: Output, tasks: &[PrewarmTask]) -> Self {
        let bars = (std::io::stderr().is_terminal() && !out.wants_objects()).then(|| bars(tasks));
        Self { out, bars, last_tasks: BTreeMap::new(), last_lines: BTreeMap::new() }
    }

    fn show(&mut self, name: String, task: PrewarmTask) -> CommandResult {
        let now = Timestamp::now();
        if self.out.format == Some(OutputFormat::Json) {
            print(&(serde_json::to_string(&task).unwrap_or_default() + "\n"))?;
        } else if self.out.wants_objects() {
            self.out.print_objects(std::slice::from_ref(&task), false)?;
        } else if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.get(&name)) {
            let (done, total) = progress::node_counts(&task);
            bar.set_length(total.max(1));
            bar.set_position(done);
            bar.set_message(terminal::printable(&progress::activity(&task, now)));
        } else {
            let line = terminal::printable(&progress::log_line(&task, now));
            if !task.phase().is_terminal() && self.last_lines.get(&name) != Some(&line) {
                print(&format!("{line}\n"))?;
            }
            self.last_lines.insert(name.clone(), line);
        }
        if task.phase().is_terminal() && !self.out.wants_objects() {
            if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.get(&name)) {
                bar.finish_and_clear();
            }
            let verdict = progress::result_text(&task, self.out.colour);
            match &self.bars {
                Some(bars) if bars.len() > 1 => {
                    bars.values().next().map_or(Ok(()), |bar| bar.suspend(|| print(&verdict)))?;
                }
                _ => print(&verdict)?,
            }
        }
        self.last_tasks.insert(name, task);
        Ok(())
    }

    /// Removes the bars, or leaves them where tasks have not ended.
    fn close(&mut self, whole: bool) {
        let bars = self.bars.iter().flat_map(BTreeMap::values);
        if whole {
            bars.for_each(ProgressBar::finish_and_clear);
        } else if self.bars.is_some() {
            bars.for_each(ProgressBar::abandon);
            // Further output starts on a new line.
            eprintln!();
        }
    }
}

fn bars(tasks: &[PrewarmTask]) -> BTreeMap<String, ProgressBar> {
    let all = MultiProgress::new();
    let colour = terminal::wants_colour(&std::io::stderr());
    let bar = if colour { "{bar:24.green/dim}" } else { "{bar:24}" };
    // With one task its name is known, and the space is needed on 80 columns.
    let prefix = if tasks.len() > 1 { "{prefix} " } else { "" };
    let style =
        ProgressStyle::with_template(&format!("{prefix}{bar} {{pos}}/{{len}} {{wide_msg}}"));
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=>-");
    let one = |task: &PrewarmTask| {
        let bar =
            all.add(ProgressBar::new(1).with_style(style.clone()).with_prefix(task.name_any()));
        (task.name_any(), bar)
    };
    tasks.iter().map(one).collect()
}

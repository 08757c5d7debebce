//! `watch` and `--wait`: tasks to their end, by a bar on a terminal and by lines elsewhere.

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

use super::{
    Ended, Failure,
    args::Format,
    connect::{Context, explain},
    output::{Out, say},
    progress,
    tasks::{is_good, named},
};
use crate::{task::PrewarmTask, terminal};

pub(super) async fn watch(context: &Context, out: Out, names: &[String], limit: Option<Duration>) -> Ended {
    let tasks = named(context, names).await?;
    follow(context, out, &tasks, limit).await
}

/// Shows tasks until all have ended. The error says which did not complete.
pub(super) async fn follow(context: &Context, out: Out, tasks: &[PrewarmTask], limit: Option<Duration>) -> Ended {
    let mut display = Display::new(out, tasks);
    let end = until_all_ended(context, tasks, &mut display);
    let ended = match limit {
        None => end.await,
        Some(limit) => tokio::time::timeout(limit, end).await.unwrap_or_else(|_| {
            let limit = terminal::span(limit.try_into().unwrap_or_default());
            Err(Failure::TimedOut(format!("not ended within {limit}; the task goes on")))
        }),
    };
    display.close(ended.is_ok());
    ended?;
    let bad: Vec<String> = display.last.values().filter(|task| !is_good(task)).map(ResourceExt::name_any).collect();
    if bad.is_empty() {
        return Ok(());
    }
    let names = bad.join(", ");
    let verb = if bad.len() == 1 { "did" } else { "have" };
    let not = if bad.len() == 1 { "not complete" } else { "not completed" };
    Err(Failure::Failed(format!("{names} {verb} {not}: kubectl prewarm explain {}", bad[0])))
}

/// Each change of each task, until it has ended.
async fn until_all_ended(context: &Context, tasks: &[PrewarmTask], display: &mut Display) -> Ended {
    let mut open = tasks.len();
    let mut changes = stream::select_all(tasks.iter().map(|task| Box::pin(changes(context, task))));
    while open > 0 {
        let Some((name, change)) = changes.next().await else { break };
        match change {
            Ok(Some(task)) => {
                let ended = task.phase().is_terminal();
                // A list after an interruption may tell of an end once more.
                let news = display.last.get(&name).is_none_or(|last| !last.phase().is_terminal());
                if news {
                    display.show(name, task)?;
                    open -= usize::from(ended);
                }
            }
            Ok(None) => return Err(Failure::Failed(format!("{name} was deleted before its end"))),
            Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error))
                if is_final(&error) =>
            {
                return Err(Failure::Failed(explain(&error)));
            }
            // The watcher tries again, more and more slowly.
            Err(_) => {}
        }
    }
    Ok(())
}

fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404))
}

/// A task by name, as it changes.
fn changes(
    context: &Context,
    task: &PrewarmTask,
) -> impl Stream<Item = (String, Result<Option<PrewarmTask>, watcher::Error>)> + use<> {
    let api = Api::<PrewarmTask>::namespaced(context.client.clone(), &task.namespace().unwrap_or_default());
    let name = task.name_any();
    let known = name.clone();
    watch_object(api, &name).default_backoff().map(move |change| (known.clone(), change))
}

/// What is shown.
struct Display {
    out: Out,
    bars: Option<BTreeMap<String, ProgressBar>>,
    last: BTreeMap<String, PrewarmTask>,
    said: BTreeMap<String, String>,
}

impl Display {
    fn new(out: Out, tasks: &[PrewarmTask]) -> Self {
        let bars = (std::io::stderr().is_terminal() && !out.wants_objects()).then(|| bars(tasks));
        Self { out, bars, last: BTreeMap::new(), said: BTreeMap::new() }
    }

    fn show(&mut self, name: String, task: PrewarmTask) -> Ended {
        let now = Timestamp::now();
        if self.out.format == Some(Format::Json) {
            say(&(serde_json::to_string(&task).unwrap_or_default() + "\n"))?;
        } else if self.out.wants_objects() {
            self.out.objects(std::slice::from_ref(&task), false)?;
        } else if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.get(&name)) {
            let (done, total) = progress::ended(&task);
            bar.set_length(total.max(1));
            bar.set_position(done);
            bar.set_message(terminal::printable(&progress::now_at(&task, now)));
        } else {
            let line = terminal::printable(&progress::line(&task, now));
            if !task.phase().is_terminal() && self.said.get(&name) != Some(&line) {
                say(&format!("{line}\n"))?;
            }
            self.said.insert(name.clone(), line);
        }
        if task.phase().is_terminal() && !self.out.wants_objects() {
            if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.get(&name)) {
                bar.finish_and_clear();
            }
            let verdict = progress::verdict(&task, self.out.colour);
            match &self.bars {
                Some(bars) if bars.len() > 1 => {
                    bars.values().next().map_or(Ok(()), |bar| bar.suspend(|| say(&verdict)))?;
                }
                _ => say(&verdict)?,
            }
        }
        self.last.insert(name, task);
        Ok(())
    }

    /// Leaves a bar that has not come to its end where it is.
    fn close(&mut self, whole: bool) {
        let bars = self.bars.iter().flat_map(BTreeMap::values);
        if whole {
            bars.for_each(ProgressBar::finish_and_clear);
        } else if self.bars.is_some() {
            bars.for_each(ProgressBar::abandon);
            // What is said next stands below it.
            eprintln!();
        }
    }
}

fn bars(tasks: &[PrewarmTask]) -> BTreeMap<String, ProgressBar> {
    let all = MultiProgress::new();
    let colour = terminal::wants_colour(&std::io::stderr());
    let bar = if colour { "{bar:24.green/dim}" } else { "{bar:24}" };
    // Of one task the name is known, and its room is needed on 80 columns.
    let prefix = if tasks.len() > 1 { "{prefix} " } else { "" };
    let style = ProgressStyle::with_template(&format!("{prefix}{bar} {{pos}}/{{len}} {{wide_msg}}"));
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=>-");
    let one = |task: &PrewarmTask| {
        let bar = all.add(ProgressBar::new(1).with_style(style.clone()).with_prefix(task.name_any()));
        (task.name_any(), bar)
    };
    tasks.iter().map(one).collect()
}

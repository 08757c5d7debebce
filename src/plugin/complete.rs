//! Completions, and the manual page.

use std::{fmt::Debug, io::Write, time::Duration};

use clap::CommandFactory;
use clap_complete::shells;
use kube::{Api, Resource, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;

use super::{
    Cli, Ended, Failure,
    args::{Global, Shell},
    connect::Context,
    output::say,
};
use crate::{schedule::PrewarmSchedule, task::PrewarmTask};

/// kubectl runs the program of this name for what comes after `kubectl prewarm` (its `completion` of plugins).
const KUBECTL: &str = "#!/bin/sh\n# Put this on the PATH as kubectl_complete-prewarm, and make it executable.\nexec kubectl-prewarm __complete \"$@\"\n";
/// Completes nothing but what it was told (cobra's `ShellCompDirectiveNoFileComp`).
const NO_FILES: &str = ":4";
/// Who presses a key does not wait longer for names.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn script(shell: Shell) -> Ended {
    let mut command = Cli::command();
    let mut text = Vec::new();
    let name = "kubectl-prewarm";
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, name, &mut text),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, name, &mut text),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, name, &mut text),
        Shell::Kubectl => text.extend_from_slice(KUBECTL.as_bytes()),
    }
    say(&String::from_utf8_lossy(&text))
}

/// One page with every command.
pub(super) fn man() -> Ended {
    let failed = |error: std::io::Error| Failure::Failed(error.to_string());
    let mut command = Cli::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).title("kubectl-prewarm").render(&mut text).map_err(failed)?;
    for (path, sub) in leaves(&command, "") {
        writeln!(text, ".SH \"{}\"", path.to_uppercase()).map_err(failed)?;
        let page = clap_mangen::Man::new(sub);
        page.render_description_section(&mut text).map_err(failed)?;
        page.render_synopsis_section(&mut text).map_err(failed)?;
        page.render_options_section(&mut text).map_err(failed)?;
    }
    say(&String::from_utf8_lossy(&text))
}

fn leaves(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
    let mut all = Vec::new();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name()).trim().to_owned();
        if sub.has_subcommands() {
            all.extend(leaves(sub, &path));
        } else {
            all.push((path, sub.clone()));
        }
    }
    all
}

/// What names a command wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Tasks,
    Schedules,
    Nothing,
}

/// Answers kubectl: candidates line by line, then what else may be completed.
pub(super) async fn words(words: &[String], global: &Global) {
    let (mut found, wanted) = candidates(words);
    if wanted != Wanted::Nothing {
        let names = tokio::time::timeout(PATIENCE, names(words, wanted, global)).await;
        found.extend(names.unwrap_or_default());
    }
    let last = words.last().map(String::as_str).unwrap_or_default();
    for word in found.iter().filter(|word| word.starts_with(last)) {
        println!("{word}");
    }
    println!("{NO_FILES}");
}

/// Commands and flags that may stand there. *Pure.*
fn candidates(words: &[String]) -> (Vec<String>, Wanted) {
    let mut command = Cli::command();
    command.build();
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", &[][..]),
    };
    let mut at = &command;
    let mut path = Vec::new();
    for word in before {
        if let Some(sub) = at.find_subcommand(word) {
            path.push(sub.get_name().to_owned());
            at = sub;
        }
    }
    if last.starts_with('-') {
        let long = at.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(clap::Arg::get_long);
        return (long.map(|name| format!("--{name}")).collect(), Wanted::Nothing);
    }
    let subs = at.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| sub.get_name().to_owned());
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let wanted = match path[..] {
        ["get" | "watch" | "cancel" | "retry" | "explain"] => Wanted::Tasks,
        ["schedule", "ls" | "trigger" | "enable" | "disable" | "delete" | "history"] => Wanted::Schedules,
        _ => Wanted::Nothing,
    };
    let values = at.get_positionals().flat_map(clap::Arg::get_possible_values);
    let values = values.map(|value| value.get_name().to_owned());
    (subs.chain(values).collect(), wanted)
}

/// Names of the cluster. What cannot be had is left out: nobody wants an error for a key.
async fn names(words: &[String], wanted: Wanted, said: &Global) -> Vec<String> {
    // What stands before the first word that is no flag was read already.
    let after = |short: &str, long: &str| {
        words.windows(2).find(|pair| pair[0] == short || pair[0] == long).map(|pair| pair[1].clone())
    };
    let global = Global {
        namespace: after("-n", "--namespace").or_else(|| said.namespace.clone()),
        all_namespaces: false,
        context: after("--context", "--context").or_else(|| said.context.clone()),
        kubeconfig: said.kubeconfig.clone(),
        impersonate: said.impersonate.clone(),
        output: None,
    };
    let Ok(context) = Context::connect(&global).await else { return Vec::new() };
    match wanted {
        Wanted::Tasks => listed(&context.here::<PrewarmTask>()).await,
        Wanted::Schedules => listed(&context.here::<PrewarmSchedule>()).await,
        Wanted::Nothing => Vec::new(),
    }
}

async fn listed<K: Resource + Clone + DeserializeOwned + Debug>(api: &Api<K>) -> Vec<String> {
    let list = api.list_metadata(&ListParams::default()).await;
    list.map(|list| list.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", &["run", "ls", "schedule"], Wanted::Nothing)]
    #[case("schedule ", &["trigger", "history"], Wanted::Nothing)]
    #[case("get ", &[], Wanted::Tasks)]
    #[case("-n shop watch ", &[], Wanted::Tasks)]
    #[case("schedule trigger ", &[], Wanted::Schedules)]
    #[case("run --bat", &["--batch-size", "--batch-policy", "--context"], Wanted::Nothing)]
    #[case("completion ", &["bash", "kubectl"], Wanted::Nothing)]
    fn what_may_stand_there(#[case] line: &str, #[case] expected: &[&str], #[case] wanted: Wanted) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (found, names) = candidates(&words);
        assert_eq!(names, wanted);
        for word in expected {
            assert!(found.iter().any(|one| one == word), "{word} in {found:?}");
        }
        assert!(!found.iter().any(|word| word == "__complete" || word == "man"), "{found:?}");
    }
}

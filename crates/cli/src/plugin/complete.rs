//! Completion scripts, completion of names, and the manual page.

use std::{fmt::Debug, io::Write, time::Duration};

use clap::CommandFactory;
use clap_complete::shells;
use kube::{Api, Resource, ResourceExt, api::ListParams};
use prewarmer_core::{schedule::PrewarmSchedule, task::PrewarmTask};
use serde::de::DeserializeOwned;

use super::{
    args::{GlobalArgs, PluginCli, Shell},
    client::ClusterClient,
    error::{CommandError, CommandResult},
    output::print,
};

/// Script that kubectl runs under this name to complete what follows `kubectl prewarm`.
const KUBECTL_SCRIPT: &str = "#!/bin/sh\n# Put this on the PATH as kubectl_complete-prewarm, and make it executable.\nexec kubectl-prewarm __complete \"$@\"\n";
/// Directive that disables completion of file names (cobra's `ShellCompDirectiveNoFileComp`).
const NO_FILES_DIRECTIVE: &str = ":4";
/// Longest time for which a completion waits for names from the cluster.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn print_script(shell: Shell) -> CommandResult {
    let mut command = PluginCli::command();
    let mut text = Vec::new();
    let name = "kubectl-prewarm";
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, name, &mut text),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, name, &mut text),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, name, &mut text),
        Shell::Kubectl => text.extend_from_slice(KUBECTL_SCRIPT.as_bytes()),
    }
    print(&String::from_utf8_lossy(&text))
}

/// Prints the manual page: one page with every command.
pub(super) fn print_man() -> CommandResult {
    let failed = |error: std::io::Error| CommandError::Failed(error.to_string());
    let mut command = PluginCli::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title("kubectl-prewarm")
        .render(&mut text)
        .map_err(failed)?;
    for (path, sub) in leaf_commands(&command, "") {
        writeln!(text, ".SH \"{}\"", path.to_uppercase()).map_err(failed)?;
        let page = clap_mangen::Man::new(sub);
        page.render_description_section(&mut text).map_err(failed)?;
        page.render_synopsis_section(&mut text).map_err(failed)?;
        page.render_options_section(&mut text).map_err(failed)?;
    }
    print(&String::from_utf8_lossy(&text))
}

fn leaf_commands(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
    let mut all = Vec::new();
    for sub in
        command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
    {
        let path = format!("{path} {}", sub.get_name()).trim().to_owned();
        if sub.has_subcommands() {
            all.extend(leaf_commands(sub, &path));
        } else {
            all.push((path, sub.clone()));
        }
    }
    all
}

/// Kind of names that an argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CompletionKind {
    Tasks,
    Schedules,
    Nothing,
}

/// Prints the answer to kubectl: candidates line by line, then the directive.
pub(super) async fn print_candidates(words: &[String], global: &GlobalArgs) {
    let (mut found, wanted) = candidates(words);
    if wanted != CompletionKind::Nothing {
        let names = tokio::time::timeout(NAMES_TIMEOUT, object_names(words, wanted, global)).await;
        found.extend(names.unwrap_or_default());
    }
    let last = words.last().map(String::as_str).unwrap_or_default();
    for word in found.iter().filter(|word| word.starts_with(last)) {
        println!("{word}");
    }
    println!("{NO_FILES_DIRECTIVE}");
}

/// Returns the commands, flags and values that may follow, and the kind of names. Pure.
fn candidates(words: &[String]) -> (Vec<String>, CompletionKind) {
    let mut command = PluginCli::command();
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
        let long =
            at.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(clap::Arg::get_long);
        return (long.map(|name| format!("--{name}")).collect(), CompletionKind::Nothing);
    }
    let subs =
        at.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| sub.get_name().to_owned());
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let wanted = match path[..] {
        ["get" | "watch" | "cancel" | "retry" | "explain"] => CompletionKind::Tasks,
        ["schedule", "ls" | "trigger" | "enable" | "disable" | "delete" | "history"] => {
            CompletionKind::Schedules
        }
        _ => CompletionKind::Nothing,
    };
    let values = at.get_positionals().flat_map(clap::Arg::get_possible_values);
    let values = values.map(|value| value.get_name().to_owned());
    (subs.chain(values).collect(), wanted)
}

/// Returns the names of objects in the cluster; none on an error, because a completion must not
/// print errors.
async fn object_names(words: &[String], wanted: CompletionKind, said: &GlobalArgs) -> Vec<String> {
    // Flags before the first subcommand are already parsed.
    let after = |short: &str, long: &str| {
        words
            .windows(2)
            .find(|pair| pair[0] == short || pair[0] == long)
            .map(|pair| pair[1].clone())
    };
    let global = GlobalArgs {
        namespace: after("-n", "--namespace").or_else(|| said.namespace.clone()),
        all_namespaces: false,
        context: after("--context", "--context").or_else(|| said.context.clone()),
        kubeconfig: said.kubeconfig.clone(),
        impersonate: said.impersonate.clone(),
        output: None,
    };
    let Ok(context) = ClusterClient::connect(&global).await else { return Vec::new() };
    match wanted {
        CompletionKind::Tasks => list_names(&context.namespaced::<PrewarmTask>()).await,
        CompletionKind::Schedules => list_names(&context.namespaced::<PrewarmSchedule>()).await,
        CompletionKind::Nothing => Vec::new(),
    }
}

async fn list_names<K: Resource + Clone + DeserializeOwned + Debug>(api: &Api<K>) -> Vec<String> {
    let list = api.list_metadata(&ListParams::default()).await;
    list.map(|list| list.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", &["run", "ls", "schedule"], CompletionKind::Nothing)]
    #[case("schedule ", &["trigger", "history"], CompletionKind::Nothing)]
    #[case("get ", &[], CompletionKind::Tasks)]
    #[case("-n shop watch ", &[], CompletionKind::Tasks)]
    #[case("schedule trigger ", &[], CompletionKind::Schedules)]
    #[case("au", &["audit"], CompletionKind::Nothing)]
    #[case("audit --", &["--limit", "--warm-one-shots", "--namespace"], CompletionKind::Nothing)]
    #[case("run --bat", &["--batch-size", "--batch-policy", "--context"], CompletionKind::Nothing)]
    #[case("completion ", &["bash", "kubectl"], CompletionKind::Nothing)]
    fn candidates_depend_on_the_command(
        #[case] line: &str,
        #[case] expected: &[&str],
        #[case] wanted: CompletionKind,
    ) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (found, names) = candidates(&words);
        assert_eq!(names, wanted);
        for word in expected {
            assert!(found.iter().any(|one| one == word), "{word} in {found:?}");
        }
        assert!(!found.iter().any(|word| word == "__complete" || word == "man"), "{found:?}");
    }
}

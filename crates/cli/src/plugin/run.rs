//! `run`: creates tasks for images, and for workloads of the cluster or of a manifest.

use std::io::IsTerminal;

use kube::ResourceExt;
use prewarmer_core::{
    task::{PrewarmTask, PrewarmTaskSpec},
    workload::{EmptyContext, Extracted},
};

use super::{
    args::{RunArgs, SpecArgs},
    client::ClusterClient,
    error::{CommandError, CommandResult},
    output::{Output, print},
    resolve::{self, WarmTarget},
    task_client::{build_task, create_task},
    watch,
    workload_client::fetch_workload,
};
use crate::{manifest_files, terminal::printable};

pub(super) async fn run(context: &ClusterClient, out: Output, args: &RunArgs) -> CommandResult {
    let (tasks, unread) = plan_tasks(context, args).await?;
    if args.dry_run {
        if out.format.is_some() {
            out.print_objects(&tasks, tasks.len() > 1)?;
        } else {
            print_documents(&tasks)?;
        }
        return check_unread(unread);
    }
    let mut made = Vec::new();
    for task in tasks {
        made.push(create_task(context, &task).await?);
    }
    if out.wants_objects() {
        out.print_objects(&made, made.len() > 1)?;
    } else {
        for task in &made {
            out.print_operation(task, "created")?;
        }
    }
    if args.wait.is_requested() {
        watch::follow(context, out, &made, args.wait.wait_timeout).await?;
        return check_unread(unread);
    }
    if std::io::stderr().is_terminal() && !out.wants_objects() {
        let names: Vec<String> = made.iter().map(ResourceExt::name_any).collect();
        eprintln!(
            "to follow: kubectl prewarm watch {}{}",
            namespace_flag(context, &made),
            names.join(" ")
        );
    }
    check_unread(unread)
}

/// Fails if files or documents could not be read. Each was reported, and the others were used.
fn check_unread(unread: usize) -> CommandResult {
    match unread {
        0 => Ok(()),
        1 => Err(CommandError::Failed("1 file or document cannot be read".into())),
        many => Err(CommandError::Failed(format!("{many} files or documents cannot be read"))),
    }
}

/// Returns the namespace option for a follow-up command.
fn namespace_flag(context: &ClusterClient, made: &[PrewarmTask]) -> String {
    match made.first().and_then(ResourceExt::namespace) {
        Some(namespace) => format!("-n {namespace} "),
        None => format!("-n {} ", context.namespace),
    }
}

fn print_documents(tasks: &[PrewarmTask]) -> CommandResult {
    let text = |task: &PrewarmTask| {
        let value = serde_json::to_value(task).ok();
        let mut value =
            value.ok_or_else(|| CommandError::Failed("cannot serialize a task".into()))?;
        if let Some(object) = value.as_object_mut() {
            object.remove("status");
        }
        serde_saphyr::to_string(&value).map_err(|error| CommandError::Failed(error.to_string()))
    };
    let all: Result<Vec<String>, CommandError> = tasks.iter().map(text).collect();
    print(&all?.join("---\n"))
}

/// Returns the tasks to create: one for all images, and one for each workload; and the number of
/// files and documents that cannot be read.
async fn plan_tasks(
    context: &ClusterClient,
    args: &RunArgs,
) -> Result<(Vec<PrewarmTask>, usize), CommandError> {
    let (mut images, mut found, mut unread) = (Vec::new(), Vec::new(), 0);
    for word in &args.what {
        match resolve::parse_target(word)? {
            WarmTarget::Image(image) if images.contains(&image) => {}
            WarmTarget::Image(image) => images.push(image),
            WarmTarget::Workload { api_version, kind, name } => {
                let fetched = fetch_workload(context, api_version, kind, &name).await?;
                let text = resolve::manifest_of_requested(fetched);
                found
                    .extend(print_warnings(resolve::extract_workloads(&text, &context.namespace)?));
            }
        }
    }
    if !args.filename.is_empty() {
        let (read, failed) = read_manifests(args, &context.namespace)?;
        found.extend(read);
        unread = failed;
    }
    let mut tasks = Vec::new();
    if !images.is_empty() {
        let spec = args.spec.apply_to(PrewarmTaskSpec::new(images))?;
        tasks.push(build_task(context.namespace.clone(), None, spec));
    }
    for one in found {
        for spec in merged_specs(one.specs, &args.spec) {
            let spec = args.spec.apply_to(spec)?;
            tasks.push(build_task(one.namespace.clone(), Some(&one.workload), spec));
        }
    }
    match (&args.name, tasks.len()) {
        (_, 0) => {
            check_unread(unread)?;
            return Err(CommandError::Failed("nothing to warm".into()));
        }
        (Some(name), 1) => tasks[0].metadata.name = Some(name.clone()),
        (Some(_), many) => {
            return Err(CommandError::Usage(format!(
                "--name requires a single task, but {many} would be created"
            )));
        }
        (None, _) => {}
    }
    Ok((tasks, unread))
}

/// Merges the specs of one workload into one where an option sets the pull policy of all of them.
fn merged_specs(specs: Vec<PrewarmTaskSpec>, args: &SpecArgs) -> Vec<PrewarmTaskSpec> {
    if !args.sets_pull_policy() {
        return specs;
    }
    let mut specs = specs.into_iter();
    let Some(mut first) = specs.next() else { return Vec::new() };
    first.images.extend(specs.flat_map(|spec| spec.images));
    vec![first]
}

fn print_warnings((found, notes): (Vec<Extracted>, Vec<String>)) -> Vec<Extracted> {
    for note in notes {
        eprintln!("{}", printable(&note));
    }
    found
}

/// Reads the manifests that the arguments name. Returns the workloads to warm, and the number of
/// files and documents that cannot be read; each of them is reported.
fn read_manifests(
    args: &RunArgs,
    namespace: &str,
) -> Result<(Vec<Extracted>, usize), CommandError> {
    let policy = resolve::requested_policy();
    let (manifest, failed) = manifest_files::read(&args.filename, args.recursive, &policy.kinds);
    let read = manifest.extract(&policy, &EmptyContext, namespace);
    let read = read.map_err(|error| CommandError::Failed(error.to_string()))?;
    let lines = failed.iter().map(ToString::to_string);
    let lines: Vec<String> = lines.chain(read.errors.iter().map(ToString::to_string)).collect();
    for line in &lines {
        eprintln!("error: {}", printable(line));
    }
    Ok((print_warnings(resolve::wanted(read)), lines.len()))
}

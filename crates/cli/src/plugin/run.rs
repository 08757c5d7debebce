//! `run`: creates tasks for images, and for workloads of the cluster or of a manifest.

use std::io::IsTerminal;

use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler, core::v1::Namespace, node::v1::RuntimeClass,
};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use prewarmer_core::{
    task::{PrewarmTask, PrewarmTaskSpec},
    workload::{EmptyContext, Extracted, Policy},
};
use serde_json::{Value, json};

use super::{
    args::{RunArgs, SpecArgs},
    client::ClusterClient,
    error::{CommandError, CommandResult},
    output::{Output, print},
    resolve::{self, WarmTarget},
    task_client::{build_task, create_task},
    watch,
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
                let text = fetch_workload(context, api_version, kind, &name).await?;
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
    let policy = Policy::default();
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

/// Reads a workload of the cluster and its cluster context. Context that the caller may not read is
/// omitted.
async fn fetch_workload(
    context: &ClusterClient,
    api_version: &str,
    kind: &str,
    name: &str,
) -> Result<String, CommandError> {
    let policy = Policy::default();
    let known = policy.kinds.find_by_api_version(api_version, kind);
    let resource = known
        .map(|kind| kind.api_resource())
        .ok_or_else(|| CommandError::Usage(format!("{kind} is not a supported workload kind")))?;
    let (client, namespace) = (&context.client, context.namespace.as_str());
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let object = objects.get(name).await?;
    let mut workload = serde_json::to_value(&object).unwrap_or_default();
    workload["apiVersion"] = json!(api_version);
    workload["kind"] = json!(kind);
    let mut around = Vec::new();
    let namespaces = Api::<Namespace>::all(client.clone());
    around.extend(
        namespaces.get(namespace).await.ok().and_then(|one| serde_json::to_value(one).ok()),
    );
    let scalers = Api::<HorizontalPodAutoscaler>::namespaced(client.clone(), namespace);
    let scalers =
        scalers.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    around.extend(scalers.iter().filter_map(|one| serde_json::to_value(one).ok()));
    let classes = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    let class =
        |at: &&str| workload.pointer(&format!("{at}/runtimeClassName")).and_then(Value::as_str);
    if let Some(class) = classes.iter().find_map(class) {
        let found = Api::<RuntimeClass>::all(client.clone()).get(class).await;
        around.extend(found.ok().and_then(|one| serde_json::to_value(one).ok()));
    }
    Ok(resolve::manifest_with_context(workload, around))
}

//! `run`: tasks for images, and for workloads of the cluster or of a manifest.

use std::io::{IsTerminal, Read};

use jiff::Timestamp;
use k8s_openapi::api::{autoscaling::v2::HorizontalPodAutoscaler, core::v1::Namespace, node::v1::RuntimeClass};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams, ObjectMeta, PostParams},
};
use serde_json::{Value, json};

use super::{
    Ended, Failure,
    args::RunArgs,
    connect::Context,
    found::{self, What},
    output::{Out, say},
    watch,
};
use crate::{
    schedule::random_task_name,
    task::{ORIGIN_LABEL, PrewarmTask, PrewarmTaskSpec},
    workload::{Extracted, Policy},
};

pub(super) async fn run(context: &Context, out: Out, args: &RunArgs) -> Ended {
    let tasks = planned(context, args).await?;
    if args.dry_run {
        return if out.format.is_some() { out.objects(&tasks, tasks.len() > 1) } else { documents(&tasks) };
    }
    let mut made = Vec::new();
    for task in tasks {
        made.push(create(context, &task).await?);
    }
    if out.wants_objects() {
        out.objects(&made, made.len() > 1)?;
    } else {
        for task in &made {
            out.done(task, "created")?;
        }
    }
    if args.wait.waits() {
        return watch::follow(context, out, &made, args.wait.wait_timeout).await;
    }
    if std::io::stderr().is_terminal() && !out.wants_objects() {
        let names: Vec<String> = made.iter().map(ResourceExt::name_any).collect();
        eprintln!("follow it: kubectl prewarm watch {}{}", place(context, &made), names.join(" "));
    }
    Ok(())
}

/// Where the tasks are, if not where the next command would look.
fn place(context: &Context, made: &[PrewarmTask]) -> String {
    match made.first().and_then(ResourceExt::namespace) {
        Some(namespace) => format!("-n {namespace} "),
        None => format!("-n {} ", context.namespace),
    }
}

fn documents(tasks: &[PrewarmTask]) -> Ended {
    let text = |task: &PrewarmTask| {
        let value = serde_json::to_value(task).ok();
        let mut value = value.ok_or_else(|| Failure::Failed("a task cannot be written".into()))?;
        if let Some(object) = value.as_object_mut() {
            object.remove("status");
        }
        serde_saphyr::to_string(&value).map_err(|error| Failure::Failed(error.to_string()))
    };
    let all: Result<Vec<String>, Failure> = tasks.iter().map(text).collect();
    say(&all?.join("---\n"))
}

/// The tasks: one of the images, and one of each workload.
async fn planned(context: &Context, args: &RunArgs) -> Result<Vec<PrewarmTask>, Failure> {
    let (mut images, mut found) = (Vec::new(), Vec::new());
    for word in &args.what {
        match found::read(word)? {
            What::Image(image) if images.contains(&image) => {}
            What::Image(image) => images.push(image),
            What::Workload { api_version, kind, name } => {
                let text = fetch(context, api_version, kind, &name).await?;
                found.extend(heard(found::workloads(&text, &context.namespace)?));
            }
        }
    }
    if let Some(file) = &args.filename {
        found.extend(heard(found::workloads(&text_of(file)?, &context.namespace)?));
    }
    let mut tasks = Vec::new();
    if !images.is_empty() {
        let spec = args.spec.over(PrewarmTaskSpec::new(images))?;
        tasks.push(task(context.namespace.clone(), None, spec));
    }
    for one in found {
        let Some(spec) = one.spec else { continue };
        tasks.push(task(one.namespace, Some(&one.workload), args.spec.over(*spec)?));
    }
    match (&args.name, tasks.len()) {
        (_, 0) => return Err(Failure::Failed("there is nothing to warm".into())),
        (Some(name), 1) => tasks[0].metadata.name = Some(name.clone()),
        (Some(_), many) => return Err(Failure::Usage(format!("--name is for one task, and this makes {many}"))),
        (None, _) => {}
    }
    Ok(tasks)
}

fn heard((found, notes): (Vec<Extracted>, Vec<String>)) -> Vec<Extracted> {
    for note in notes {
        eprintln!("{}", crate::terminal::printable(&note));
    }
    found
}

fn text_of(file: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == "-" {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|error| Failure::Usage(format!("{file}: {error}")))?;
    Ok(text)
}

/// A workload of the cluster, with what decides beside it. What the caller may not read is left out.
async fn fetch(context: &Context, api_version: &str, kind: &str, name: &str) -> Result<String, Failure> {
    let policy = Policy::default();
    let known = policy.kinds.find(api_version, kind);
    let resource = known.map(|kind| kind.resource()).ok_or_else(|| Failure::Usage(format!("{kind} is no workload")))?;
    let (client, namespace) = (&context.client, context.namespace.as_str());
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let object = objects.get(name).await?;
    let mut workload = serde_json::to_value(&object).unwrap_or_default();
    workload["apiVersion"] = json!(api_version);
    workload["kind"] = json!(kind);
    let mut around = Vec::new();
    let namespaces = Api::<Namespace>::all(client.clone());
    around.extend(namespaces.get(namespace).await.ok().and_then(|one| serde_json::to_value(one).ok()));
    let scalers = Api::<HorizontalPodAutoscaler>::namespaced(client.clone(), namespace);
    let scalers = scalers.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    around.extend(scalers.iter().filter_map(|one| serde_json::to_value(one).ok()));
    let classes = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    let class = |at: &&str| workload.pointer(&format!("{at}/runtimeClassName")).and_then(Value::as_str);
    if let Some(class) = classes.iter().find_map(class) {
        let found = Api::<RuntimeClass>::all(client.clone()).get(class).await;
        around.extend(found.ok().and_then(|one| serde_json::to_value(one).ok()));
    }
    Ok(found::document(workload, around))
}

/// A task as the plugin makes them.
pub(super) fn task(namespace: String, workload: Option<&str>, spec: PrewarmTaskSpec) -> PrewarmTask {
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels = [text("app.kubernetes.io/managed-by", "kubectl-prewarm"), text(ORIGIN_LABEL, "user")];
    PrewarmTask {
        metadata: ObjectMeta {
            name: Some(random_task_name(Timestamp::now())),
            namespace: Some(namespace),
            labels: Some(labels.into()),
            annotations: workload.map(|workload| [text("prewarm.io/workloads", workload)].into()),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

pub(super) async fn create(context: &Context, task: &PrewarmTask) -> Result<PrewarmTask, Failure> {
    let namespace = task.namespace().unwrap_or_default();
    let tasks = Api::<PrewarmTask>::namespaced(context.client.clone(), &namespace);
    tasks.create(&PostParams::default(), task).await.map_err(Failure::from)
}

//! `nodes`: nodes on which images are warm, according to kubelets and tasks.

use std::{collections::BTreeMap, fmt::Write};

use jiff::Timestamp;
use kube::{Api, ResourceExt, api::ListParams};
use prewarmer_core::{
    duration::format_human,
    image::ImageRef,
    node::{Interner, NodeInfo, NodeRequirements},
    slim::SlimNode,
    task::{PrewarmPlan, PrewarmTask, PullPolicy, batches::NodeState, node_states as states},
    timestamp,
};
use prewarmer_kube::list::{NO_LIMIT, list_all};
use serde_json::{Value, json};

use super::{
    args::{NodesArgs, OutputFormat},
    client::ClusterClient,
    error::{CommandError, CommandResult},
    output::{Output, print},
};
use crate::terminal::{Colour, TableCell, table};

/// Largest number of images that a kubelet reports (its `nodeStatusMaxImages`).
const MAX_REPORTED_IMAGES: usize = 50;

/// Presence of an image on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImagePresence {
    /// The kubelet reports the image.
    Warm,
    /// The kubelet reports the image by a tag that moves; the copy may be an old one.
    Present,
    /// The latest task that warmed the image on the node ended at this time.
    Warmed(Timestamp),
    /// The kubelet reports all of its images, and this is not one of them.
    Cold,
    /// Neither the kubelet nor a task provides information.
    Unknown,
}

/// Latest time at which a task had warmed an image on a node, by image and node.
type WarmedTimes = BTreeMap<(String, String), Timestamp>;

pub(super) async fn nodes(context: &ClusterClient, out: Output, args: &NodesArgs) -> CommandResult {
    let wrong = |image: &String, error: &dyn std::fmt::Display| {
        CommandError::Usage(format!("{image:?} is not a valid image reference: {error}"))
    };
    let images: Result<Vec<ImageRef>, CommandError> = args
        .images
        .iter()
        .map(|image| image.parse::<ImageRef>().map_err(|error| wrong(image, &error)))
        .collect();
    let images = images?;
    let listed = list_nodes(context, args.selector.clone()).await?;
    let texts = Interner::default();
    let warmed =
        if images.is_empty() { WarmedTimes::new() } else { warmed_times(context, &images).await? };
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for node in &listed {
        let facts = NodeInfo::new(node, &texts);
        let known: Vec<ImagePresence> =
            images.iter().map(|image| image_presence(node, &facts, image, &warmed)).collect();
        let lacks =
            |one: &ImagePresence| !matches!(one, ImagePresence::Warm | ImagePresence::Warmed(_));
        if !args.cold || known.iter().any(lacks) {
            rows.push((facts, node.status.images.len(), known));
        }
    }
    if matches!(out.format, Some(OutputFormat::Json | OutputFormat::Yaml)) {
        return objects(out, &images, &rows);
    }
    if out.format == Some(OutputFormat::Name) {
        let names: Vec<String> =
            rows.iter().map(|(facts, ..)| format!("node/{}\n", facts.name)).collect();
        return print(&names.concat());
    }
    print(&format_table(out, &images, &rows, now))
}

async fn list_nodes(
    context: &ClusterClient,
    selector: Option<String>,
) -> Result<Vec<SlimNode>, CommandError> {
    let api = Api::<SlimNode>::all(context.client.clone());
    let params = ListParams { label_selector: selector, ..ListParams::default() };
    let mut all = list_all(&api, params, NO_LIMIT).await?;
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(all)
}

/// Returns what tasks of the namespace, or of all namespaces, have warmed.
async fn warmed_times(
    context: &ClusterClient,
    images: &[ImageRef],
) -> Result<WarmedTimes, CommandError> {
    let tasks = context.scoped::<PrewarmTask>().list(&ListParams::default()).await;
    let mut warmed = WarmedTimes::new();
    for task in tasks?.items {
        let names: Vec<ImageRef> =
            task.spec.images.iter().filter_map(|image| image.parse().ok()).collect();
        let of_it: Vec<&ImageRef> = images.iter().filter(|image| names.contains(image)).collect();
        let end = task
            .status
            .as_ref()
            .and_then(|status| timestamp::parse(status.completion_time.as_deref()?));
        if of_it.is_empty() {
            continue;
        }
        let time = end.unwrap_or_else(Timestamp::now);
        let plans = Api::<PrewarmPlan>::namespaced(
            context.client.clone(),
            &task.namespace().unwrap_or_default(),
        );
        let plan = plans.get_opt(&format!("plan-{}", task.uid().unwrap_or_default())).await;
        let Some(plan) = plan? else { continue };
        for (node, state) in states(&task, &plan.spec) {
            if matches!(state, NodeState::Succeeded | NodeState::AlreadyWarm) {
                for image in &of_it {
                    let slot = warmed
                        .entry((image.normalized().to_owned(), node.to_owned()))
                        .or_insert(time);
                    *slot = (*slot).max(time);
                }
            }
        }
    }
    Ok(warmed)
}

fn image_presence(
    node: &SlimNode,
    facts: &NodeInfo,
    image: &ImageRef,
    warmed: &WarmedTimes,
) -> ImagePresence {
    let is_reported = facts.reports_image(image);
    if is_reported && PullPolicy::by_tag(image) == PullPolicy::IfNotPresent {
        return ImagePresence::Warm;
    }
    let warmed_at = warmed.get(&(image.normalized().to_owned(), facts.name.clone()));
    match (warmed_at, node.status.images.len()) {
        // The kubelet's list may be older than the task, or truncated.
        (Some(time), _) => ImagePresence::Warmed(*time),
        (None, _) if is_reported => ImagePresence::Present,
        (None, many) if many > 0 && many < MAX_REPORTED_IMAGES => ImagePresence::Cold,
        _ => ImagePresence::Unknown,
    }
}

fn format_table(
    out: Output,
    images: &[ImageRef],
    rows: &[(NodeInfo, usize, Vec<ImagePresence>)],
    now: Timestamp,
) -> String {
    let mut titles = vec!["NODE", "ELIGIBLE"];
    if images.is_empty() {
        titles.extend(["IMAGES", "METHOD", "ARCH", "RUNTIME"]);
    }
    titles.extend(images.iter().map(ImageRef::as_written));
    let row = |(facts, reported, known): &(NodeInfo, usize, Vec<ImagePresence>)| {
        let obstacle = NodeRequirements::default().ineligible(facts);
        let can = obstacle.map_or_else(
            || TableCell::from("yes"),
            |why| TableCell::coloured(why.as_str(), Colour::Yellow),
        );
        let mut row = vec![TableCell::from(facts.name.clone()), can];
        if images.is_empty() {
            let many = if *reported >= MAX_REPORTED_IMAGES {
                format!("{MAX_REPORTED_IMAGES} or more")
            } else {
                reported.to_string()
            };
            let method = if facts.supports_image_volumes() { "ImageVolume" } else { "Helper" };
            row.extend([
                many.into(),
                method.into(),
                facts.architecture.to_string().into(),
                facts.runtime.to_string().into(),
            ]);
        }
        row.extend(known.iter().map(|known| match known {
            ImagePresence::Warm => TableCell::coloured("warm", Colour::Green),
            ImagePresence::Warmed(at) => TableCell::coloured(
                format!("warmed {} ago", format_human(now.duration_since(*at))),
                Colour::Green,
            ),
            ImagePresence::Present => TableCell::coloured("present", Colour::Yellow),
            ImagePresence::Cold => TableCell::coloured("cold", Colour::Blue),
            ImagePresence::Unknown => TableCell::coloured("unknown", Colour::Dim),
        }));
        row
    };
    let mut out_text = table(&titles, rows.iter().map(row).collect(), out.colour);
    for (index, image) in images.iter().enumerate() {
        let is_warm =
            |known: &ImagePresence| matches!(known, ImagePresence::Warm | ImagePresence::Warmed(_));
        let warm = rows.iter().filter(|(.., known)| known.get(index).is_some_and(is_warm)).count();
        // Writing to a string cannot fail.
        let _ =
            writeln!(out_text, "{}: warm on {warm} of {} nodes", image.as_written(), rows.len());
    }
    out_text
}

fn objects(
    out: Output,
    images: &[ImageRef],
    rows: &[(NodeInfo, usize, Vec<ImagePresence>)],
) -> CommandResult {
    let word = |known: &ImagePresence| match known {
        ImagePresence::Warm => json!({"state": "warm"}),
        ImagePresence::Warmed(at) => json!({"state": "warmed", "time": at.to_string()}),
        ImagePresence::Present => json!({"state": "present"}),
        ImagePresence::Cold => json!({"state": "cold"}),
        ImagePresence::Unknown => json!({"state": "unknown"}),
    };
    let node = |(facts, reported, known): &(NodeInfo, usize, Vec<ImagePresence>)| {
        let images: BTreeMap<&str, Value> =
            images.iter().map(ImageRef::as_written).zip(known.iter().map(word)).collect();
        let obstacle = NodeRequirements::default()
            .ineligible(facts)
            .map(prewarmer_core::node::IneligibleReason::as_str);
        json!({"name": facts.name, "reason": obstacle, "reportedImages": reported, "images": images})
    };
    out.print_value(&json!({"nodes": rows.iter().map(node).collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_combines_kubelets_and_tasks() {
        let node = |images: Value| -> SlimNode {
            serde_json::from_value(
                json!({"metadata": {"name": "n1"}, "status": {"images": images}}),
            )
            .unwrap()
        };
        let image: ImageRef = "nginx:1".parse().unwrap();
        let now = Timestamp::now();
        let warmed = |image: &ImageRef| -> WarmedTimes {
            [((image.normalized().to_owned(), "n1".to_owned()), now)].into()
        };
        let warmed_at = warmed(&image);
        let presence = |image: &ImageRef, images: Value, warmed: &WarmedTimes| {
            let node = node(images);
            image_presence(&node, &NodeInfo::new(&node, &Interner::default()), image, warmed)
        };
        let of = |images: Value, warmed: &WarmedTimes| presence(&image, images, warmed);
        let has = json!([{"names": ["docker.io/library/nginx:1"], "sizeBytes": 5}]);
        let other = json!([{"names": ["docker.io/library/redis:7"], "sizeBytes": 5}]);
        let many: Vec<Value> =
            (0..50).map(|n| json!({"names": [format!("registry.example/a:{n}")]})).collect();
        assert_eq!(of(has, &WarmedTimes::new()), ImagePresence::Warm);
        assert_eq!(of(other.clone(), &WarmedTimes::new()), ImagePresence::Cold);
        assert_eq!(of(other, &warmed_at), ImagePresence::Warmed(now));
        assert_eq!(of(json!([]), &WarmedTimes::new()), ImagePresence::Unknown);
        assert_eq!(of(json!(many), &WarmedTimes::new()), ImagePresence::Unknown);
        let moving: ImageRef = "nginx".parse().unwrap();
        let old = json!([{"names": ["docker.io/library/nginx:latest"], "sizeBytes": 5}]);
        assert_eq!(presence(&moving, old.clone(), &WarmedTimes::new()), ImagePresence::Present);
        assert_eq!(presence(&moving, old, &warmed(&moving)), ImagePresence::Warmed(now));
    }
}

//! `nodes`: what is warm where, as far as kubelets and tasks tell.

use std::{collections::BTreeMap, fmt::Write};

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectList},
};
use serde_json::{Value, json};

use super::{
    Ended, Failure,
    args::{Format, NodesArgs},
    connect::Context,
    output::{Out, say},
};
use crate::{
    image::Reference,
    node::{Demand, Facts, Interner},
    reduced::ReducedNode,
    task::{PrewarmPlan, PrewarmTask, batches::NodeState, nodes as states},
    terminal::{Cell, Colour, span, table},
};

/// A kubelet names this many images at most (its `nodeStatusMaxImages`).
const REPORTED: usize = 50;
/// Nodes per page.
const PAGE: u32 = 500;

/// What is known of an image on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The kubelet names it.
    Warm,
    /// A task of ours had it there at that time.
    Warmed(Timestamp),
    /// The kubelet names all that it has, and this is not among them.
    Cold,
    /// Nobody has told.
    Unknown,
}

/// When tasks had an image on a node: by image and node.
type Warmed = BTreeMap<(String, String), Timestamp>;

pub(super) async fn nodes(context: &Context, out: Out, args: &NodesArgs) -> Ended {
    let wrong =
        |image: &String, error: &dyn std::fmt::Display| Failure::Usage(format!("{image:?} is no image: {error}"));
    let images: Result<Vec<Reference>, Failure> =
        args.images.iter().map(|image| image.parse::<Reference>().map_err(|error| wrong(image, &error))).collect();
    let images = images?;
    let listed = list(context, args.selector.clone()).await?;
    let texts = Interner::default();
    let warmed = if images.is_empty() { Warmed::new() } else { warmed(context, &images).await? };
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for node in &listed {
        let facts = Facts::new(node, &texts);
        let known: Vec<Known> = images.iter().map(|image| known(node, &facts, image, &warmed)).collect();
        let lacks = |one: &Known| matches!(one, Known::Cold | Known::Unknown);
        if !args.cold || known.iter().any(lacks) {
            rows.push((facts, node.status.images.len(), known));
        }
    }
    if matches!(out.format, Some(Format::Json | Format::Yaml)) {
        return objects(out, &images, &rows);
    }
    if out.format == Some(Format::Name) {
        let names: Vec<String> = rows.iter().map(|(facts, ..)| format!("node/{}\n", facts.name)).collect();
        return say(&names.concat());
    }
    say(&text(out, &images, &rows, now))
}

async fn list(context: &Context, selector: Option<String>) -> Result<Vec<ReducedNode>, Failure> {
    let api = Api::<ReducedNode>::all(context.client.clone());
    let mut params = ListParams::default().limit(PAGE);
    params.label_selector = selector;
    let mut all = Vec::new();
    loop {
        let page: ObjectList<ReducedNode> = api.list(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(all)
}

/// What tasks have warmed: of the namespace, or of all of them.
async fn warmed(context: &Context, images: &[Reference]) -> Result<Warmed, Failure> {
    let tasks = context.listed::<PrewarmTask>().list(&ListParams::default()).await;
    let mut warmed = Warmed::new();
    for task in tasks?.items {
        let names: Vec<Reference> = task.spec.images.iter().filter_map(|image| image.parse().ok()).collect();
        let of_it: Vec<&Reference> = images.iter().filter(|image| names.contains(image)).collect();
        let end = task.status.as_ref().and_then(|status| status.completion_time.as_deref()?.parse::<Timestamp>().ok());
        if of_it.is_empty() {
            continue;
        }
        let time = end.unwrap_or_else(Timestamp::now);
        let plans = Api::<PrewarmPlan>::namespaced(context.client.clone(), &task.namespace().unwrap_or_default());
        let plan = plans.get_opt(&format!("plan-{}", task.uid().unwrap_or_default())).await;
        let Some(plan) = plan? else { continue };
        for (node, state) in states(&task, &plan.spec) {
            if matches!(state, NodeState::Succeeded | NodeState::AlreadyWarm) {
                for image in &of_it {
                    let slot = warmed.entry((image.normalized().to_owned(), node.to_owned())).or_insert(time);
                    *slot = (*slot).max(time);
                }
            }
        }
    }
    Ok(warmed)
}

fn known(node: &ReducedNode, facts: &Facts, image: &Reference, warmed: &Warmed) -> Known {
    if facts.reports(image) {
        return Known::Warm;
    }
    let told = warmed.get(&(image.normalized().to_owned(), facts.name.clone()));
    match (told, node.status.images.len()) {
        // The kubelet's list is as of its last heartbeat, or cut off: a task's word counts beside it.
        (Some(time), _) => Known::Warmed(*time),
        (None, many) if many > 0 && many < REPORTED => Known::Cold,
        _ => Known::Unknown,
    }
}

fn text(out: Out, images: &[Reference], rows: &[(Facts, usize, Vec<Known>)], now: Timestamp) -> String {
    let mut titles = vec!["NODE", "CAN BE WARMED"];
    if images.is_empty() {
        titles.extend(["IMAGES", "METHOD", "ARCH", "RUNTIME"]);
    }
    titles.extend(images.iter().map(Reference::as_written));
    let row = |(facts, reported, known): &(Facts, usize, Vec<Known>)| {
        let obstacle = Demand::default().obstacle(facts);
        let can = obstacle.map_or_else(|| Cell::from("yes"), |why| Cell::painted(why.as_str(), Colour::Yellow));
        let mut row = vec![Cell::from(facts.name.clone()), can];
        if images.is_empty() {
            let many = if *reported >= REPORTED { format!("{REPORTED} or more") } else { reported.to_string() };
            let method = if facts.mounts_image_volumes() { "ImageVolume" } else { "Helper" };
            row.extend([
                many.into(),
                method.into(),
                facts.architecture.to_string().into(),
                facts.runtime.to_string().into(),
            ]);
        }
        row.extend(known.iter().map(|known| match known {
            Known::Warm => Cell::painted("warm", Colour::Green),
            Known::Warmed(at) => Cell::painted(format!("warmed {} ago", span(now.duration_since(*at))), Colour::Green),
            Known::Cold => Cell::painted("cold", Colour::Blue),
            Known::Unknown => Cell::painted("unknown", Colour::Dim),
        }));
        row
    };
    let mut out_text = table(&titles, rows.iter().map(row).collect(), out.colour);
    for (index, image) in images.iter().enumerate() {
        let is_warm = |known: &Known| matches!(known, Known::Warm | Known::Warmed(_));
        let warm = rows.iter().filter(|(.., known)| known.get(index).is_some_and(is_warm)).count();
        // Writing to a text does not fail.
        let _ = writeln!(out_text, "{}: warm on {warm} of {} nodes", image.as_written(), rows.len());
    }
    out_text
}

fn objects(out: Out, images: &[Reference], rows: &[(Facts, usize, Vec<Known>)]) -> Ended {
    let word = |known: &Known| match known {
        Known::Warm => json!({"state": "warm"}),
        Known::Warmed(at) => json!({"state": "warmed", "time": at.to_string()}),
        Known::Cold => json!({"state": "cold"}),
        Known::Unknown => json!({"state": "unknown"}),
    };
    let node = |(facts, reported, known): &(Facts, usize, Vec<Known>)| {
        let images: BTreeMap<&str, Value> =
            images.iter().map(Reference::as_written).zip(known.iter().map(word)).collect();
        let obstacle = Demand::default().obstacle(facts).map(crate::node::Ignored::as_str);
        json!({"name": facts.name, "reason": obstacle, "reportedImages": reported, "images": images})
    };
    out.value(&json!({"nodes": rows.iter().map(node).collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_that_an_image_is_there() {
        let node = |images: Value| -> ReducedNode {
            serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": {"images": images}})).unwrap()
        };
        let image: Reference = "nginx:1".parse().unwrap();
        let now = Timestamp::now();
        let told: Warmed = [((image.normalized().to_owned(), "n1".to_owned()), now)].into();
        let of = |images: Value, warmed: &Warmed| {
            let node = node(images);
            known(&node, &Facts::new(&node, &Interner::default()), &image, warmed)
        };
        let has = json!([{"names": ["docker.io/library/nginx:1"], "sizeBytes": 5}]);
        let other = json!([{"names": ["docker.io/library/redis:7"], "sizeBytes": 5}]);
        let many: Vec<Value> = (0..50).map(|n| json!({"names": [format!("registry.example/a:{n}")]})).collect();
        assert_eq!(of(has, &Warmed::new()), Known::Warm);
        assert_eq!(of(other.clone(), &Warmed::new()), Known::Cold);
        assert_eq!(of(other, &told), Known::Warmed(now));
        assert_eq!(of(json!([]), &Warmed::new()), Known::Unknown);
        assert_eq!(of(json!(many), &Warmed::new()), Known::Unknown);
    }
}

//! What is told, in the forms of its readers. *Pure.*

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    catalog::{Status, TaskView},
    task::PrewarmTask,
};

/// Failures that a message for people spells out.
const MAX_FAILURES: usize = 5;

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its body.
    pub body: Value,
}

/// What is told of an ended task; JSON where the form is not known.
#[must_use]
pub fn message(format: &str, task: &PrewarmTask, id: &str) -> Message {
    let view = TaskView::of(task);
    let body = match format {
        "cloudevents" => {
            return Message { content_type: "application/cloudevents+json", body: cloud_event(task, &view, id) };
        }
        "slack" => json!({"text": sentence(&view)}),
        "dingtalk" => json!({"msgtype": "text", "text": {"content": sentence(&view)}}),
        "alertmanager" => alerts(&view),
        _ => plain(&view),
    };
    Message { content_type: "application/json", body }
}

fn event(view: &TaskView) -> String {
    format!("task.{}", view.status.as_str())
}

/// The shape of the REST API, and what has happened.
fn plain(view: &TaskView) -> Value {
    let mut body = json!(view);
    body["event"] = json!(event(view));
    body
}

/// `CloudEvents` 1.0, structured mode.
fn cloud_event(task: &PrewarmTask, view: &TaskView, id: &str) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/apis/prewarm.io/v1alpha1/namespaces/{}/prewarmtasks", view.namespace),
        "type": format!("io.prewarm.{}", event(view)),
        "subject": task.name_any(),
        "time": view.finished_at,
        "datacontenttype": "application/json",
        "data": view,
    })
}

fn sentence(view: &TaskView) -> String {
    let TaskView { progress, .. } = view;
    let mut text = format!(
        "Prewarm task {} in {}: {}. {} of {} nodes are warm for {}.",
        view.task_id,
        view.namespace,
        view.status.as_str(),
        progress.completed_nodes,
        progress.total_nodes,
        view.images.join(", "),
    );
    for failure in view.failed_node_details.iter().take(MAX_FAILURES) {
        let image = if failure.image.is_empty() { String::new() } else { format!(" ({})", failure.image) };
        text.push_str(&["\n", &failure.node_name, ": ", &failure.reason, &image].concat());
    }
    let more = usize::try_from(progress.failed_nodes).unwrap_or(usize::MAX).saturating_sub(MAX_FAILURES);
    if more > 0 {
        text.push_str(&["\nand ", &more.to_string(), " more"].concat());
    }
    text
}

/// What Alertmanager takes at `/api/v2/alerts`: an alert that fires when a task has not completed, and one that is resolved
/// when it has.
fn alerts(view: &TaskView) -> Value {
    let mut alert = json!({
        "labels": {
            "alertname": "PrewarmTaskFailed",
            "severity": "warning",
            "namespace": view.namespace,
            "task": view.task_id,
            "status": view.status.as_str(),
        },
        "annotations": {"summary": sentence(view)},
        "startsAt": view.started_at.as_ref().or(view.created_at.as_ref()),
    });
    if view.status == Status::Completed {
        alert["endsAt"] = json!(view.finished_at);
        alert["labels"]["status"] = json!(Status::Failed.as_str());
    }
    json!([alert])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{FailedNode, NOTIFICATION_FORMATS, Phase, PrewarmTaskSpec, PrewarmTaskStatus};

    fn task() -> PrewarmTask {
        let failed = |node: usize| FailedNode {
            node: format!("n{node}"),
            image: "a:1".into(),
            reason: "ImageNotFound".into(),
            message: "not found".into(),
            time: "2026-11-21T01:00:00Z".into(),
        };
        let mut task = PrewarmTask::new("task-1", PrewarmTaskSpec::new(vec!["a:1".into()]));
        task.metadata.namespace = Some("shop".into());
        task.status = Some(PrewarmTaskStatus {
            phase: Phase::Failed,
            total_nodes: 10,
            succeeded_nodes: 3,
            failed_node_count: 7,
            failed_nodes: (0..7).map(failed).collect(),
            start_time: Some("2026-11-21T00:59:00Z".into()),
            completion_time: Some("2026-11-21T01:00:01Z".into()),
            ..PrewarmTaskStatus::default()
        });
        task
    }

    #[test]
    fn every_form() {
        let all: Vec<Value> = NOTIFICATION_FORMATS.iter().map(|format| message(format, &task(), "id-1").body).collect();
        insta::assert_json_snapshot!(all);
        assert_eq!(message("cloudevents", &task(), "i").content_type, "application/cloudevents+json");
        assert_eq!(message("unheard-of", &task(), "i").body["event"], "task.failed");
    }

    #[test]
    fn a_completed_task_resolves_its_alert() {
        let mut done = task();
        done.status.as_mut().unwrap().phase = Phase::Completed;
        let (fires, resolves) = (message("alertmanager", &task(), "").body, message("alertmanager", &done, "").body);
        assert_eq!(fires[0]["labels"], resolves[0]["labels"], "Alertmanager knows alerts by their labels");
        assert!(fires[0].get("endsAt").is_none() && resolves[0]["endsAt"].is_string());
    }
}

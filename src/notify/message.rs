//! Notification messages in all supported formats. Pure: no client, no clock, no I/O.

use kube::ResourceExt;
use serde_json::{Value, json};

use prewarmer_core::task::{PrewarmTask, Status};

use crate::task_view::TaskView;

/// Maximum number of failures that a text message lists.
const MAX_FAILURES: usize = 5;

/// HTTP content of a notification.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NotificationMessage {
    /// Value of the header `Content-Type`.
    pub content_type: &'static str,
    /// JSON body.
    pub body: Value,
}

/// Returns the message about an ended task. An unknown format results in `json`.
#[must_use]
pub(crate) fn render_message(format: &str, task: &PrewarmTask, id: &str) -> NotificationMessage {
    let view = TaskView::from_task(task);
    let body = match format {
        "cloudevents" => {
            return NotificationMessage {
                content_type: "application/cloudevents+json",
                body: cloud_event(task, &view, id),
            };
        }
        "slack" => json!({"text": summary_text(&view)}),
        "dingtalk" => json!({"msgtype": "text", "text": {"content": summary_text(&view)}}),
        "alertmanager" => alerts(&view),
        _ => json_body(&view),
    };
    NotificationMessage { content_type: "application/json", body }
}

fn event_type(view: &TaskView) -> String {
    format!("task.{}", view.status.as_str())
}

/// Returns the task in the shape of the REST API, with the field `event`.
fn json_body(view: &TaskView) -> Value {
    let mut body = json!(view);
    body["event"] = json!(event_type(view));
    body
}

/// Returns a `CloudEvents` 1.0 event in structured mode.
fn cloud_event(task: &PrewarmTask, view: &TaskView, id: &str) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/apis/prewarm.io/v1alpha1/namespaces/{}/prewarmtasks", view.namespace),
        "type": format!("io.prewarm.{}", event_type(view)),
        "subject": task.name_any(),
        "time": view.finished_at,
        "datacontenttype": "application/json",
        "data": view,
    })
}

fn summary_text(view: &TaskView) -> String {
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
        let image =
            if failure.image.is_empty() { String::new() } else { format!(" ({})", failure.image) };
        text.push_str(&["\n", &failure.node_name, ": ", &failure.reason, &image].concat());
    }
    let more =
        usize::try_from(progress.failed_nodes).unwrap_or(usize::MAX).saturating_sub(MAX_FAILURES);
    if more > 0 {
        text.push_str(&["\nand ", &more.to_string(), " more"].concat());
    }
    text
}

/// Returns an alert for Alertmanager's `/api/v2/alerts`: it fires if the task has not completed,
/// and is resolved if the task has completed.
fn alerts(view: &TaskView) -> Value {
    let mut alert = json!({
        "labels": {
            "alertname": "PrewarmTaskFailed",
            "severity": "warning",
            "namespace": view.namespace,
            "task": view.task_id,
            "status": view.status.as_str(),
        },
        "annotations": {"summary": summary_text(view)},
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
    use prewarmer_core::task::{
        FailedNode, NOTIFICATION_FORMATS, Phase, PrewarmTaskSpec, PrewarmTaskStatus,
    };

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
        let all: Vec<Value> = NOTIFICATION_FORMATS
            .iter()
            .map(|format| render_message(format, &task(), "id-1").body)
            .collect();
        insta::assert_json_snapshot!(all);
        assert_eq!(
            render_message("cloudevents", &task(), "i").content_type,
            "application/cloudevents+json"
        );
        assert_eq!(render_message("unheard-of", &task(), "i").body["event"], "task.failed");
    }

    #[test]
    fn a_completed_task_resolves_its_alert() {
        let mut done = task();
        done.status.as_mut().unwrap().phase = Phase::Completed;
        let (fires, resolves) = (
            render_message("alertmanager", &task(), "").body,
            render_message("alertmanager", &done, "").body,
        );
        assert_eq!(
            fires[0]["labels"], resolves[0]["labels"],
            "Alertmanager knows alerts by their labels"
        );
        assert!(fires[0].get("endsAt").is_none() && resolves[0]["endsAt"].is_string());
    }
}

//! Texts of a task in the store: the JSON of the REST API, and what the pages show in addition.
//!
//! Those of ended tasks are compressed: they are most of the tasks, their texts were most of their
//! memory, and they are read rarely. The compression has a dictionary, because the texts of a task
//! repeat mostly those of other tasks and little of themselves.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use prewarmer_core::task::{
    Condition, FailedNode, IgnoredNode, ImageStatus, Phase, PrewarmTask, PrewarmTaskSpec,
    PrewarmTaskStatus,
};

use super::detail::TaskDetail;

/// Renders a task into the JSON that all readers get.
pub type RenderTask = fn(&PrewarmTask) -> Bytes;

/// Renderer of the texts of tasks.
pub(super) struct TaskRenderer {
    render: RenderTask,
    /// Texts of a typical ended task.
    dictionary: Arc<[u8]>,
}

/// Texts of a task.
#[derive(Debug)]
pub(super) enum TaskTexts {
    /// Texts of a task that changes and is read often.
    Plain(Bytes, Box<TaskDetail>),
    /// Compressed texts of an ended task.
    Compressed {
        json: Box<[u8]>,
        /// JSON of the detail, compressed.
        detail: Box<[u8]>,
        dictionary: Arc<[u8]>,
    },
}

impl TaskRenderer {
    /// Creates a renderer of tasks as the JSON that `render` returns.
    pub(super) fn new(render: RenderTask) -> Self {
        let sample = ended_task();
        let mut dictionary = detail_json(&TaskDetail::from_task(&sample));
        dictionary.extend_from_slice(&render(&sample));
        Self { render, dictionary: dictionary.into() }
    }

    /// Renders the texts of a task.
    pub(super) fn render(&self, task: &PrewarmTask) -> TaskTexts {
        let (json, detail) = ((self.render)(task), TaskDetail::from_task(task));
        if !task.phase().is_terminal() {
            return TaskTexts::Plain(json, Box::new(detail));
        }
        let compress = |text: &[u8]| {
            compress_prepend_size_with_dict(text, &self.dictionary).into_boxed_slice()
        };
        TaskTexts::Compressed {
            json: compress(&json),
            detail: compress(&detail_json(&detail)),
            dictionary: Arc::clone(&self.dictionary),
        }
    }
}

impl TaskTexts {
    /// Returns the JSON of the task.
    pub(super) fn json(&self) -> Bytes {
        match self {
            Self::Plain(json, _) => json.clone(),
            Self::Compressed { json, dictionary, .. } => decompress(json, dictionary).into(),
        }
    }

    /// Returns the detail of the task.
    pub(super) fn detail(&self) -> Cow<'_, TaskDetail> {
        match self {
            Self::Plain(_, detail) => Cow::Borrowed(detail),
            Self::Compressed { detail, dictionary, .. } => Cow::Owned(
                serde_json::from_slice(&decompress(detail, dictionary)).unwrap_or_default(),
            ),
        }
    }
}

/// Decompresses a text of this process, which cannot fail.
fn decompress(text: &[u8], dictionary: &[u8]) -> Vec<u8> {
    decompress_size_prepended_with_dict(text, dictionary).unwrap_or_default()
}

/// Serializes a detail, which consists of text and numbers, so that it cannot fail.
fn detail_json(detail: &TaskDetail) -> Vec<u8> {
    serde_json::to_vec(detail).unwrap_or_default()
}

/// Returns an ended task with the values that ended tasks have most often.
fn ended_task() -> PrewarmTask {
    let images: Vec<String> =
        ["registry.example.com/team/web:1.0.0", "docker.io/library/nginx:1.27"]
            .map(str::to_owned)
            .into();
    let condition = Condition {
        type_: "Progressing".into(),
        status: "True".into(),
        reason: "AllNodesSucceeded".into(),
        message: "100 of 100 nodes are warm".into(),
        last_transition_time: "2026-01-01T00:01:00Z".into(),
        observed_generation: Some(1),
    };
    let mut task = PrewarmTask::new("auto-deployment-web", PrewarmTaskSpec::new(images.clone()));
    task.metadata.namespace = Some("default".into());
    task.status = Some(PrewarmTaskStatus {
        phase: Phase::Completed,
        total_nodes: 100,
        succeeded_nodes: 100,
        total_batches: 10,
        current_batch_index: 9,
        node_states: "s".repeat(100),
        batch_ends: vec![10, 20, 30],
        images: images
            .into_iter()
            .map(|image| ImageStatus { image, succeeded: 100, ..ImageStatus::default() })
            .collect(),
        failed_nodes: vec![FailedNode {
            node: "node-1".into(),
            image: String::new(),
            reason: "ImageNotFound".into(),
            message: "not found".into(),
            time: "2026-01-01T00:01:00Z".into(),
        }],
        ignored_nodes: vec![IgnoredNode { node: "node-2".into(), reason: "NotReady".into() }],
        conditions: vec![condition],
        start_time: Some("2026-01-01T00:00:00Z".into()),
        completion_time: Some("2026-01-01T00:01:00Z".into()),
        ..PrewarmTaskStatus::default()
    });
    task
}

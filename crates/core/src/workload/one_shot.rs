//! Classification of pods and Jobs that run once. Pure: no client, no clock, no I/O.
//!
//! The pods of such an object start pulling at once on the nodes where they are placed. A task would
//! pull the same images to other nodes, on which they may never run.

use super::{
    kinds::WorkloadKind,
    view::{ObjectView, Owner},
};

/// Treatment of one-shot pods and Jobs that no annotation opts in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OneShotMode {
    /// They create no task.
    #[default]
    Skip,
    /// They are warmed as other workloads.
    Warm,
}

/// Reason why a pod or Job counts as one-shot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneShotReason {
    /// Pod without a controller.
    BarePod,
    /// Job that starts all its pods at once.
    NoFurtherCompletions,
    /// Pod or Job whose pods are placed by `nodeName`.
    NodeName,
    /// Pod or Job of a controller of an unknown kind, whose images do not recur.
    NewImage,
}

/// Returns a literal that consists of the value of the metrics label, the reason and the remedy.
macro_rules! message {
    ($label:literal, $reason:literal) => {
        concat!(
            $label,
            ": ",
            $reason,
            "; to warm its images, annotate it with prewarm.io/enabled: \"true\""
        )
    };
}

impl OneShotReason {
    /// All reasons.
    pub const ALL: [Self; 4] =
        [Self::BarePod, Self::NoFurtherCompletions, Self::NodeName, Self::NewImage];

    /// Returns the value of the metrics label `reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BarePod => "bare_pod",
            Self::NoFurtherCompletions => "no_further_completions",
            Self::NodeName => "node_name",
            Self::NewImage => "new_image",
        }
    }

    /// Returns the value of the metrics label with a sentence for users, which states what to do.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::BarePod => message!(
                "bare_pod",
                "a pod without a controller pulls its images at once, and no other pod follows"
            ),
            Self::NoFurtherCompletions => message!(
                "no_further_completions",
                "the Job starts all its pods at once, since completions is not more than parallelism"
            ),
            Self::NodeName => message!(
                "node_name",
                "nodeName places its pods on a node, which pulls the images at once"
            ),
            Self::NewImage => message!(
                "new_image",
                "its controller is of a kind that is not configured (--kinds), and is warmed only \
                 for images that recur after an hour"
            ),
        }
    }
}

/// API group and kind of a controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct OwnerKind {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind, such as `TaskRun`.
    pub kind: String,
}

impl From<&Owner> for OwnerKind {
    fn from(owner: &Owner) -> Self {
        Self { group: owner.group().to_owned(), kind: owner.kind.clone() }
    }
}

/// One-shot object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum OneShot<'a> {
    /// It runs once, for this reason.
    Once(OneShotReason),
    /// It is warmed only for images that recur among the objects of this controller's kind. A
    /// controller of a handled kind is decided about before.
    UnlessRecurring(&'a Owner),
}

impl<'a> OneShot<'a> {
    /// Classifies an object by its kind and its first pod template; `None` if it is not one-shot.
    pub(super) fn of(kind: &WorkloadKind, object: &'a ObjectView) -> Option<Self> {
        let is_job = kind.is_job();
        if !is_job && !kind.is_pod() || is_job && object.job.is_held() {
            return None;
        }
        let template = object.templates.first()?;
        if !template.spec.node_name.is_empty() {
            return Some(Self::Once(OneShotReason::NodeName));
        }
        if is_job && object.job.has_further_completions() {
            return None;
        }
        Some(match object.metadata.controller() {
            Some(owner) => Self::UnlessRecurring(owner),
            None if is_job => Self::Once(OneShotReason::NoFurtherCompletions),
            None => Self::Once(OneShotReason::BarePod),
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::workload::WorkloadKinds;

    fn job(spec: Value) -> Value {
        let mut spec = spec;
        spec["template"] = json!({"spec": {"containers": [{"name": "c", "image": "a:1"}]}});
        json!({"metadata": {"name": "j"}, "spec": spec})
    }

    fn classify(kind: &str, object: &Value) -> Option<String> {
        let kinds = WorkloadKinds::default();
        let kind = kinds.iter().find(|known| known.kind == kind).unwrap();
        let view = kind.parse_value(object.clone()).unwrap();
        let found = OneShot::of(kind, &view).map(|found| match found {
            OneShot::Once(reason) => reason.as_str().to_owned(),
            OneShot::UnlessRecurring(owner) => format!("{:?}", OwnerKind::from(owner)),
        });
        let text = kind.parse_text(&object.to_string()).unwrap();
        assert_eq!(view.job, text.job, "the parsers of texts and of values differ");
        found
    }

    #[rstest]
    #[case::defaults(json!({}), true)]
    #[case::defaults_of_the_api_server(json!({"parallelism": 1, "completions": 1}), true)]
    #[case::as_many(json!({"parallelism": 5, "completions": 5}), true)]
    #[case::work_queue(json!({"parallelism": 5}), true)]
    #[case::fewer_completions(json!({"parallelism": 5, "completions": 3}), true)]
    #[case::no_completions(json!({"completions": 0}), true)]
    #[case::indexed(json!({"parallelism": 5, "completions": 5, "completionMode": "Indexed"}), true)]
    #[case::negative(json!({"parallelism": 1, "completions": -5}), true)]
    #[case::of_another_shape(json!({"parallelism": [1], "completions": {"a": 1}}), true)]
    #[case::null(json!({"parallelism": null, "completions": null, "suspend": null}), true)]
    #[case::running(json!({"suspend": false}), true)]
    #[case::odd_suspend(json!({"suspend": "yes"}), true)]
    #[case::one_more(json!({"parallelism": 5, "completions": 6}), false)]
    #[case::one_after_another(json!({"completions": 2}), false)]
    #[case::suspended(json!({"suspend": true}), false)]
    #[case::no_pod_at_a_time(json!({"parallelism": 0}), false)]
    #[case::held_with_one_completion(json!({"parallelism": 0, "completions": 1}), false)]
    fn jobs_without_further_completions_run_once(#[case] spec: Value, #[case] once: bool) {
        let reason = once.then(|| "no_further_completions".to_owned());
        assert_eq!(classify("Job", &job(spec)), reason);
    }

    #[test]
    fn node_name_precedes_further_completions_and_controllers_but_not_a_hold() {
        let mut object = job(json!({"completions": 9}));
        object["spec"]["template"]["spec"]["nodeName"] = json!("n1");
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "a.b/v1", "kind": "Run", "name": "r", "controller": true}]);
        assert_eq!(classify("Job", &object).as_deref(), Some("node_name"));
        object["spec"]["suspend"] = json!(true);
        assert_eq!(classify("Job", &object), None);
    }

    #[test]
    fn a_controller_makes_a_recurrence_possible() {
        let run = |controller: bool| json!([{"apiVersion": "a.b/v1", "kind": "Run", "name": "r", "controller": controller}]);
        let expected = format!("{:?}", OwnerKind { group: "a.b".into(), kind: "Run".into() });
        let pod = |owners: Value| {
            json!({"metadata": {"name": "p", "ownerReferences": owners},
                "spec": {"containers": [{"name": "c", "image": "a:1"}]}})
        };
        assert_eq!(classify("Pod", &pod(run(true))), Some(expected.clone()));
        assert_eq!(classify("Pod", &pod(run(false))).as_deref(), Some("bare_pod"));
        assert_eq!(classify("Pod", &pod(json!([]))).as_deref(), Some("bare_pod"));
        let mut owned = job(json!({}));
        owned["metadata"]["ownerReferences"] = run(true);
        assert_eq!(classify("Job", &owned), Some(expected));
    }

    #[rstest]
    #[case("Deployment")]
    #[case("StatefulSet")]
    #[case("DaemonSet")]
    #[case("ReplicaSet")]
    #[case("ReplicationController")]
    fn other_kinds_never_run_once(#[case] kind: &str) {
        let mut object = job(json!({"completions": 1, "parallelism": 1}));
        object["spec"]["template"]["spec"]["nodeName"] = json!("n1");
        assert_eq!(classify(kind, &object), None);
    }

    #[test]
    fn cron_jobs_never_run_once() {
        let object = json!({"spec": {"suspend": false, "jobTemplate": job(json!({}))}});
        assert_eq!(classify("CronJob", &object), None);
    }

    #[test]
    fn messages_start_with_the_label_and_state_what_to_do() {
        for reason in OneShotReason::ALL {
            let message = reason.message();
            assert!(message.starts_with(&format!("{}: ", reason.as_str())), "{message}");
            assert!(
                message.ends_with("annotate it with prewarm.io/enabled: \"true\""),
                "{message}"
            );
            // Of a warning, 240 characters are sent.
            assert!(message.len() <= 220, "{} characters: {message}", message.len());
        }
    }
}

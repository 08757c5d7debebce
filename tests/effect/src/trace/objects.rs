//! Objects of traces.

use serde_json::{Value, json};

use super::GPU_LABEL;
use crate::connect::nodes::FLEET_LABEL;

/// Workload of a trace.
#[derive(Debug, Clone)]
pub(super) struct Workload<'a> {
    /// Name.
    pub(super) name: &'a str,
    /// Image.
    pub(super) image: &'a str,
    /// Processors that a pod requests, in thousandths.
    pub(super) millicpus: u32,
    /// GPUs that a pod requests.
    pub(super) gpus: u32,
    /// Run time of the pods, in seconds; none for pods that run until they are deleted.
    pub(super) run_time: Option<f64>,
}

impl<'a> Workload<'a> {
    /// Returns a workload whose pods request half a processor.
    pub(super) fn new(name: &'a str, image: &'a str) -> Self {
        Self { name, image, millicpus: 500, gpus: 0, run_time: None }
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({"labels": {"app": self.name}});
        if let Some(seconds) = self.run_time
            && let Some(object) = metadata.as_object_mut()
        {
            let key = prewarmer_fleet::api::RUN_TIME_ANNOTATION;
            object.insert("annotations".to_owned(), json!({key: seconds.to_string()}));
        }
        metadata
    }

    fn pod_spec(&self, restart_policy: &str) -> Value {
        let cpu = format!("{}m", self.millicpus);
        let requests = if self.gpus > 0 {
            json!({"cpu": cpu, "nvidia.com/gpu": self.gpus.to_string()})
        } else {
            json!({"cpu": cpu})
        };
        // Pods of the trace must run on simulated nodes only.
        let (limits, selector) = if self.gpus > 0 {
            let selector = json!({FLEET_LABEL.0: FLEET_LABEL.1, GPU_LABEL.0: GPU_LABEL.1});
            (json!({"nvidia.com/gpu": self.gpus.to_string()}), selector)
        } else {
            (json!({}), json!({FLEET_LABEL.0: FLEET_LABEL.1}))
        };
        json!({
            "nodeSelector": selector,
            "restartPolicy": restart_policy,
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": self.image,
                            "resources": {"requests": requests, "limits": limits}}],
        })
    }

    fn template(&self, restart_policy: &str) -> Value {
        json!({"metadata": self.metadata(), "spec": self.pod_spec(restart_policy)})
    }

    /// Returns a Deployment; `strategy` is `RollingUpdate` or `Recreate`.
    pub(super) fn deployment(&self, replicas: usize, strategy: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name},
            "spec": {"replicas": replicas, "strategy": {"type": strategy},
                     "selector": {"matchLabels": {"app": self.name}},
                     "template": self.template("Always")}})
    }

    /// Returns a `StatefulSet`.
    pub(super) fn stateful_set(&self, replicas: usize) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": self.name},
            "spec": {"replicas": replicas, "serviceName": self.name,
                     "selector": {"matchLabels": {"app": self.name}},
                     "template": self.template("Always")}})
    }

    /// Returns a `DaemonSet`.
    pub(super) fn daemon_set(&self) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": self.name},
            "spec": {"selector": {"matchLabels": {"app": self.name}},
                     "updateStrategy": {"rollingUpdate": {"maxUnavailable": "10%"}},
                     "template": self.template("Always")}})
    }

    /// Returns a Job of one pod, which is deleted a minute after its end.
    pub(super) fn job(&self) -> Value {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": self.name},
            "spec": {"backoffLimit": 0, "ttlSecondsAfterFinished": 60,
                     "template": self.template("Never")}})
    }

    /// Returns a `CronJob` that runs every minute.
    pub(super) fn cron_job(&self) -> Value {
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": self.name},
            "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Allow",
                     "successfulJobsHistoryLimit": 1,
                     "jobTemplate": {"spec": {"template": self.template("Never")}}}})
    }

    /// Returns a pod without an owner.
    pub(super) fn pod(&self) -> Value {
        let mut metadata = self.metadata();
        if let Some(object) = metadata.as_object_mut() {
            object.insert("name".to_owned(), json!(self.name));
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
               "spec": self.pod_spec("Never")})
    }
}

//! Pods for tests.

use std::time::Duration;

use crate::pod::{
    ContainerKind, ContainerSpec, ImageVolume, PodSpec, PullPolicy, RestartPolicy, RunTime,
};

/// Returns a container of the application that runs until it is stopped.
pub(crate) fn container(name: &str, image: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        kind: ContainerKind::App,
        image: format!("registry.example/{image}"),
        pull_policy: PullPolicy::IfNotPresent,
        run_time: RunTime::Unlimited,
        mounts: Vec::new(),
    }
}

/// Returns an init container or sidecar.
pub(crate) fn init_container(name: &str, kind: ContainerKind) -> ContainerSpec {
    let run_time = if kind == ContainerKind::Init { ended(1, 0) } else { RunTime::Unlimited };
    ContainerSpec { kind, run_time, ..container(name, &format!("{name}:1")) }
}

/// Returns the run time of a container that ends.
pub(crate) fn ended(seconds: u64, exit_code: i32) -> RunTime {
    RunTime::Limited { time: Duration::from_secs(seconds), exit_code }
}

/// Returns a volume with an image.
pub(crate) fn image_volume(name: &str) -> ImageVolume {
    ImageVolume {
        name: name.into(),
        image: format!("registry.example/{name}:1"),
        pull_policy: PullPolicy::IfNotPresent,
    }
}

/// Returns a pod of a workload with one container of the image `NAME:1`.
pub(crate) fn pod(name: &str) -> PodSpec {
    PodSpec {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        is_workload: true,
        restart_policy: RestartPolicy::Always,
        containers: vec![container(name, &format!("{name}:1"))],
        volumes: Vec::new(),
        secrets: Vec::new(),
        tolerations: Vec::new(),
        grace: Duration::from_secs(30),
        active_deadline: None,
    }
}

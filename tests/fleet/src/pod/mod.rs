//! Pods as the kubelet sees them: the spec that it runs and the status that it reports.
//!
//! Both contain only what the simulation needs.

mod spec;
mod status;

pub use self::{
    spec::{
        ContainerKind, ContainerSpec, ImageVolume, PodSpec, PullPolicy, RestartPolicy, RunTime,
        Taint, Toleration,
    },
    status::{
        Condition, ConditionKind, ContainerState, ContainerStatus, Phase, PodStatus, Termination,
    },
};

//! Pods as the kubelet sees them: the spec that it runs and the status that it reports.
//!
//! Both contain only what the simulation needs. [`crate::api`] converts from and to the objects of
//! the API server.

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

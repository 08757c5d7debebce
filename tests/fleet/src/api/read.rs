//! Reads pods.
//!
//! What the simulation cannot know from a pod's spec, annotations state:
//!
//! | annotation | meaning |
//! |---|---|
//! | `fleet.prewarm.io/run-time` | how long the containers run: seconds, such as `2.5` |
//! | `fleet.prewarm.io/exit-code` | the exit code with which they end |
//! | the same, with `.NAME` | the same for the container `NAME` |
//!
//! Without them, containers of pods with the restart policy `Always` run until they are stopped;
//! others, and init containers, run for [`DEFAULT_RUN_TIME`] and succeed.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Toleration as ApiToleration, Volume};
use prewarmer_api::labels::MANAGED_BY;

use crate::pod::{
    ContainerKind, ContainerSpec, ImageVolume, PodSpec, PullPolicy, RestartPolicy, RunTime,
    Toleration,
};

/// Annotation with the seconds for which containers run.
pub const RUN_TIME_ANNOTATION: &str = "fleet.prewarm.io/run-time";
/// Annotation with the exit code of containers.
pub const EXIT_CODE_ANNOTATION: &str = "fleet.prewarm.io/exit-code";
/// Run time of containers that end, without an annotation (an assumption).
pub const DEFAULT_RUN_TIME: Duration = Duration::from_millis(500);
/// Longest run time of an annotation, in seconds: a year.
const MAX_RUN_SECONDS: f64 = 366.0 * 86_400.0;
/// Default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Error of reading a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// A field is missing that the API server sets in each pod; its path.
    #[error("the pod has no {0}")]
    Missing(&'static str),
}

impl PodSpec {
    /// Reads a pod. Invalid values of annotations count as absent, since the API server accepts any.
    pub fn from_api(pod: &Pod) -> Result<Self, PodError> {
        let text = |value: &Option<String>, field| value.clone().ok_or(PodError::Missing(field));
        let meta = &pod.metadata;
        let namespace = text(&meta.namespace, "metadata.namespace")?;
        let spec = pod.spec.as_ref().ok_or(PodError::Missing("spec"))?;
        let label = meta.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY.0));
        let restart_policy = match spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        };
        let annotations = Annotations(meta.annotations.as_ref());
        let init = spec.init_containers.iter().flatten().map(|container| {
            let is_sidecar = container.restart_policy.as_deref() == Some("Always");
            (container, if is_sidecar { ContainerKind::Sidecar } else { ContainerKind::Init })
        });
        let app = spec.containers.iter().map(|container| (container, ContainerKind::App));
        let containers = init.chain(app).map(|(container, kind)| {
            let run_time = annotations.run_time(&container.name, kind, restart_policy);
            container_spec(container, kind, run_time)
        });
        let secrets = spec.image_pull_secrets.iter().flatten();
        let grace = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
        Ok(Self {
            name: text(&meta.name, "metadata.name")?,
            uid: text(&meta.uid, "metadata.uid")?,
            is_workload: label.is_none_or(|label| label != MANAGED_BY.1),
            restart_policy,
            containers: containers.collect(),
            volumes: image_volumes(spec.volumes.as_deref().unwrap_or_default()),
            secrets: secrets.map(|secret| format!("{namespace}/{}", secret.name)).collect(),
            tolerations: spec.tolerations.iter().flatten().filter_map(toleration).collect(),
            grace: seconds(grace),
            active_deadline: spec.active_deadline_seconds.map(seconds),
            namespace,
        })
    }
}

/// Annotations of a pod.
struct Annotations<'a>(Option<&'a BTreeMap<String, String>>);

impl Annotations<'_> {
    /// Returns the value for a container, or that for all containers.
    fn get(&self, key: &str, container: &str) -> Option<&str> {
        let all = self.0?;
        all.get(&format!("{key}.{container}")).or_else(|| all.get(key)).map(String::as_str)
    }

    fn run_time(&self, name: &str, kind: ContainerKind, policy: RestartPolicy) -> RunTime {
        let seconds = self.get(RUN_TIME_ANNOTATION, name).and_then(|text| text.parse().ok());
        let time = seconds
            .filter(|seconds| (0.0..=MAX_RUN_SECONDS).contains(seconds))
            .map(Duration::from_secs_f64);
        let code = self.get(EXIT_CODE_ANNOTATION, name).and_then(|text| text.parse().ok());
        let runs_on = match kind {
            ContainerKind::Init => false,
            ContainerKind::Sidecar => true,
            ContainerKind::App => policy == RestartPolicy::Always,
        };
        match (time, code) {
            (None, None) if runs_on => RunTime::Unlimited,
            (time, code) => RunTime::Limited {
                time: time.unwrap_or(DEFAULT_RUN_TIME),
                exit_code: code.unwrap_or_default(),
            },
        }
    }
}

fn container_spec(container: &Container, kind: ContainerKind, run_time: RunTime) -> ContainerSpec {
    let mounts = container.volume_mounts.iter().flatten();
    let image = container.image.clone().unwrap_or_default();
    ContainerSpec {
        name: container.name.clone(),
        kind,
        pull_policy: pull_policy(container.image_pull_policy.as_deref(), &image),
        image,
        run_time,
        mounts: mounts.map(|mount| mount.name.clone()).collect(),
    }
}

/// Returns the pull policy. The API server sets it by the tag where it is absent.
fn pull_policy(policy: Option<&str>, image: &str) -> PullPolicy {
    match policy {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => {
            let name = image.rsplit('/').next().unwrap_or_default();
            let is_moving = !name.contains([':', '@']) || name.ends_with(":latest");
            if is_moving { PullPolicy::Always } else { PullPolicy::IfNotPresent }
        }
    }
}

fn image_volumes(volumes: &[Volume]) -> Vec<ImageVolume> {
    let read = |volume: &Volume| {
        let source = volume.image.as_ref()?;
        let image = source.reference.clone().unwrap_or_default();
        let pull_policy = pull_policy(source.pull_policy.as_deref(), &image);
        Some(ImageVolume { name: volume.name.clone(), image, pull_policy })
    };
    volumes.iter().filter_map(read).collect()
}

/// Reads a toleration; none if it does not concern `NoExecute`. A limited duration counts as
/// unlimited: the control plane ends the pod, not the kubelet.
fn toleration(toleration: &ApiToleration) -> Option<Toleration> {
    if !matches!(toleration.effect.as_deref(), None | Some("" | "NoExecute")) {
        return None;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = (!exists).then(|| toleration.value.clone().unwrap_or_default());
    Some(Toleration { key: toleration.key.clone().filter(|key| !key.is_empty()), value })
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{ImageVolumeSource, LocalObjectReference, PodSpec as ApiPodSpec},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };
    use rstest::rstest;

    use super::*;

    fn container(name: &str, image: &str) -> Container {
        Container { name: name.into(), image: Some(image.into()), ..Container::default() }
    }

    fn pod(annotations: &[(&str, &str)]) -> Pod {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut sidecar = container("proxy", "registry.example/proxy:1");
        sidecar.restart_policy = Some("Always".into());
        let volume = Volume {
            name: "model".into(),
            image: Some(ImageVolumeSource {
                reference: Some("registry.example/model:1".into()),
                pull_policy: None,
            }),
            ..Volume::default()
        };
        let secret = LocalObjectReference { name: "pull".into() };
        Pod {
            metadata: ObjectMeta {
                namespace: Some("shop".into()),
                name: Some("web".into()),
                uid: Some("1".into()),
                annotations: Some(annotations.collect()),
                ..ObjectMeta::default()
            },
            spec: Some(ApiPodSpec {
                init_containers: Some(vec![sidecar, container("migrate", "a:1")]),
                containers: vec![container("web", "registry.example/web")],
                volumes: Some(vec![volume, Volume::default()]),
                image_pull_secrets: Some(vec![secret]),
                restart_policy: Some("Never".into()),
                ..ApiPodSpec::default()
            }),
            status: None,
        }
    }

    #[test]
    fn containers_are_read_in_the_order_of_their_start() {
        let spec = PodSpec::from_api(&pod(&[])).unwrap();
        let kinds: Vec<(&str, ContainerKind)> =
            spec.containers.iter().map(|c| (c.name.as_str(), c.kind)).collect();
        let expected = [
            ("proxy", ContainerKind::Sidecar),
            ("migrate", ContainerKind::Init),
            ("web", ContainerKind::App),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(spec.secrets, ["shop/pull"]);
        assert_eq!(spec.volumes.len(), 1);
        assert_eq!(spec.grace, Duration::from_secs(30));
        assert!(spec.is_workload);
    }

    #[test]
    fn annotations_state_how_long_containers_run() {
        let run_times = |annotations: &[(&str, &str)]| -> Vec<RunTime> {
            let spec = PodSpec::from_api(&pod(annotations)).unwrap();
            spec.containers.iter().map(|container| container.run_time).collect()
        };
        let limited = |time: f64, exit_code| RunTime::Limited {
            time: Duration::from_secs_f64(time),
            exit_code,
        };
        let default = [RunTime::Unlimited, limited(0.5, 0), limited(0.5, 0)];
        assert_eq!(run_times(&[]), default);
        let annotations = [
            ("fleet.prewarm.io/run-time", "2.5"),
            ("fleet.prewarm.io/run-time.web", "60"),
            ("fleet.prewarm.io/exit-code.web", "3"),
        ];
        assert_eq!(run_times(&annotations), [limited(2.5, 0), limited(2.5, 0), limited(60.0, 3)]);
        for invalid in ["", "-1", "NaN", "inf", "1e300", "soon"] {
            assert_eq!(run_times(&[("fleet.prewarm.io/run-time", invalid)]), default);
        }
    }

    #[test]
    fn pods_that_prewarmer_manages_are_no_workload() {
        let mut pod = pod(&[]);
        let label = (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        pod.metadata.labels = Some(BTreeMap::from([label]));
        assert!(!PodSpec::from_api(&pod).unwrap().is_workload);
    }

    #[test]
    fn a_pod_without_a_uid_is_an_error() {
        let mut pod = pod(&[]);
        pod.metadata.uid = None;
        assert_eq!(PodSpec::from_api(&pod), Err(PodError::Missing("metadata.uid")));
        assert!(PodSpec::from_api(&Pod::default()).is_err());
    }

    #[rstest]
    #[case("a", PullPolicy::Always)]
    #[case("registry.example:5000/a", PullPolicy::Always)]
    #[case("a:latest", PullPolicy::Always)]
    #[case("a:1", PullPolicy::IfNotPresent)]
    #[case("a@sha256:0", PullPolicy::IfNotPresent)]
    #[case("", PullPolicy::Always)]
    fn the_default_pull_policy_follows_from_the_tag(
        #[case] image: &str,
        #[case] expected: PullPolicy,
    ) {
        assert_eq!(pull_policy(None, image), expected);
        assert_eq!(pull_policy(Some("Never"), image), PullPolicy::Never);
    }

    #[test]
    fn tolerations_of_other_effects_are_ignored() {
        let read = |effect: Option<&str>| {
            toleration(&ApiToleration {
                key: Some("gpu".into()),
                operator: Some("Exists".into()),
                effect: effect.map(str::to_owned),
                ..ApiToleration::default()
            })
        };
        let expected = Toleration { key: Some("gpu".into()), value: None };
        assert_eq!(read(None), Some(expected.clone()));
        assert_eq!(read(Some("NoExecute")), Some(expected));
        assert_eq!(read(Some("NoSchedule")), None);
    }
}

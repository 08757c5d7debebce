//! Settings of a kubelet and its container runtime.

use std::time::Duration;

use crate::store::GcPolicy;

/// Settings of one kubelet and its container runtime. The documentation of each field names the
/// default and whether it is that of the kubelet, of containerd or an assumption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeletSettings {
    /// Number of pulls at the same time; none for any number. The kubelet's default is 1
    /// (`serializeImagePulls: true`); `maxParallelImagePulls` sets another number.
    pub max_parallel_pulls: Option<usize>,
    /// Pulls per second (`registryPullQPS`); 0 for any number. The kubelet's default is 5.
    pub pull_qps: u32,
    /// Pulls in excess of `pull_qps` at once (`registryBurst`). The kubelet's default is 10.
    pub pull_burst: u32,
    /// Layers that one pull downloads at the same time (containerd's `max_concurrent_downloads`, 3
    /// by default).
    pub max_concurrent_downloads: usize,
    /// Speed at which a pull unpacks layers, in bytes of files per second. Layers of one pull are
    /// unpacked one after another while others are downloaded. The default of 300 MB/s is an
    /// assumption for local solid-state disks.
    pub unpack_rate: u64,
    /// First wait after a failed pull, doubled with each further one (`MaxContainerBackOff` and
    /// `imageBackOffPeriod` in `pkg/kubelet`: 10 s).
    pub backoff_initial: Duration,
    /// Longest wait after failed pulls and ends of containers (300 s).
    pub backoff_max: Duration,
    /// Time after which a pod whose containers could not be started is synchronized again, prolonged
    /// at random by up to a half (`backOffPeriod` in `pkg/kubelet`: 10 s).
    pub retry_period: Duration,
    /// Time between two looks at the states of containers by the kubelet (generic PLEG: 1 s).
    pub relist_period: Duration,
    /// Time to create a pod's sandbox with its network (assumption: 400 ms).
    pub sandbox_time: Duration,
    /// Time to create a container (assumption: 60 ms).
    pub create_time: Duration,
    /// Time to start a container (assumption: 40 ms).
    pub start_time: Duration,
    /// Time from the signal to stop until a container ends (assumption: 500 ms).
    pub stop_time: Duration,
    /// Maximum number of pods (`maxPods`, 110 by default).
    pub max_pods: usize,
    /// Garbage collection of images.
    pub gc: GcPolicy,
    /// Free share of the disk below which the node has disk pressure, in percent (hard eviction
    /// threshold `imagefs.available`, 15 by default).
    pub pressure_percent: u64,
    /// Time between two looks at the disk while there is pressure (eviction manager: 10 s).
    pub pressure_period: Duration,
    /// Time without pressure until the condition changes
    /// (`evictionPressureTransitionPeriod`, 5 minutes by default).
    pub pressure_transition: Duration,
    /// Number of images in the node's status (`nodeStatusMaxImages`, 50 by default).
    pub max_status_images: usize,
    /// Time between two updates of the list of images (image cache of the GC manager: 30 s).
    pub image_list_period: Duration,
    /// Time between two updates of the node's status (`nodeStatusUpdateFrequency`, 10 s by
    /// default).
    pub node_status_period: Duration,
}

impl Default for KubeletSettings {
    fn default() -> Self {
        Self {
            max_parallel_pulls: Some(1),
            pull_qps: 5,
            pull_burst: 10,
            max_concurrent_downloads: 3,
            unpack_rate: 300_000_000,
            backoff_initial: Duration::from_secs(10),
            backoff_max: Duration::from_secs(300),
            retry_period: Duration::from_secs(10),
            relist_period: Duration::from_secs(1),
            sandbox_time: Duration::from_millis(400),
            create_time: Duration::from_millis(60),
            start_time: Duration::from_millis(40),
            stop_time: Duration::from_millis(500),
            max_pods: 110,
            gc: GcPolicy::default(),
            pressure_percent: 15,
            pressure_period: Duration::from_secs(10),
            pressure_transition: Duration::from_secs(300),
            max_status_images: 50,
            image_list_period: Duration::from_secs(30),
            node_status_period: Duration::from_secs(10),
        }
    }
}

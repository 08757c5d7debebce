//! Descriptions of the failure reasons, with remedies. docs/tasks.md contains the same texts, which
//! a test verifies.

use super::FailureReason;

impl FailureReason {
    /// Returns a description of the failure, as a clause without a full stop.
    #[must_use]
    pub fn summary(self) -> &'static str {
        match self {
            Self::ImageNotFound => "the registry has no such repository or tag",
            Self::Unauthorized => {
                "the registry denied access; Docker Hub also reports this for repositories that do not exist"
            }
            Self::RegistryUnreachable => "DNS, network or server errors until the timeout",
            Self::RateLimited => "the registry or the kubelet limited the rate of pulls",
            Self::Tls => "the node does not trust the registry's certificate",
            Self::InvalidImage => {
                "the container runtime does not accept the image reference or manifest"
            }
            Self::PlatformMismatch => "the image has no variant for the node's platform",
            Self::NotEnoughDisk | Self::DiskPressure => "the node has not enough free disk space",
            Self::Timeout => "the pull did not finish within `timeout`",
            Self::NodeLost => "the node was deleted or became not ready",
            Self::NodeRefused => {
                "the kubelet rejected the pod (`OutOfpods`, ...), or the node became ineligible"
            }
            Self::QuotaExceeded | Self::Forbidden => {
                "the namespace rejects workers: quota, LimitRange, Pod Security or an admission webhook"
            }
            Self::RunError => "the image was pulled, but its container could not run the helper",
            Self::Unknown => "the error matches no known reason",
        }
    }

    /// Returns the recommended action.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::ImageNotFound => "correct the reference",
            Self::Unauthorized => "check `imagePullSecrets` and the image reference",
            Self::RegistryUnreachable => "check the connection from that node to the registry",
            Self::RateLimited => "use pull credentials or a registry mirror, or lower `batchSize`",
            Self::Tls => "configure the runtime's CA on the node",
            Self::InvalidImage => "correct the image reference",
            Self::PlatformMismatch => {
                "restrict the task with `nodeSelector` on `kubernetes.io/arch`"
            }
            Self::NotEnoughDisk | Self::DiskPressure => "free disk space or add disk",
            Self::Timeout => "raise `timeout`, or see the message",
            Self::NodeLost => "no action is needed",
            Self::NodeRefused | Self::Unknown => "see the message",
            Self::QuotaExceeded | Self::Forbidden => {
                "raise the quota, check the policy that the message names, or set `--worker-namespace=Fallback` (for quotas and LimitRanges; for policies only with `--fallback-on-policy=true`)"
            }
            Self::RunError => "see the message; try the other `pullMethod`",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::worker::reason::FailureReason;

    #[test]
    fn documentation_contains_the_same_texts() {
        let page = include_str!("../../../../docs/tasks.md");
        for reason in FailureReason::ALL {
            let name = format!("`{}`", reason.as_str());
            let row = page
                .lines()
                .find(|line| line.split('|').nth(1).is_some_and(|names| names.contains(&name)));
            let cells: Vec<&str> = row.unwrap().split('|').map(str::trim).collect();
            assert_eq!((cells[2], cells[3]), (reason.summary(), reason.remedy()), "{name}");
        }
    }
}

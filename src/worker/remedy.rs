//! Each reason in a sentence, with what to do. docs/tasks.md has the same words; a test compares the two.

use super::Reason;

impl Reason {
    /// What happened, as the half of a sentence that begins with the image or the node.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::ImageNotFound => "the registry does not know the repository or the tag",
            Self::Unauthorized => "the registry refused; Docker Hub says this of absent repositories too",
            Self::RegistryUnreachable => "name, network or server trouble until the time-out",
            Self::RateLimited => "too many pulls",
            Self::Tls => "the node does not trust the registry's certificate",
            Self::InvalidImage => "the runtime does not accept the reference",
            Self::PlatformMismatch => "no variant for the node's architecture",
            Self::NotEnoughDisk | Self::DiskPressure => "the node has no room",
            Self::Timeout => "not done within `timeout`",
            Self::NodeLost => "the node was deleted, or stopped being ready",
            Self::NodeRefused => "the kubelet refused the pod (`OutOfpods`, ...), or the node became unfit",
            Self::QuotaExceeded | Self::Forbidden => {
                "the namespace takes no worker: quota, LimitRange, Pod Security or a webhook"
            }
            Self::RunError => "the image was pulled and its container could not run the helper",
            Self::Unknown => "none of these",
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::ImageNotFound => "correct the reference",
            Self::Unauthorized => "check `imagePullSecrets`, and the name",
            Self::RegistryUnreachable => "check the registry from that node",
            Self::RateLimited => "use credentials or a mirror, lower `batchSize`",
            Self::Tls => "configure the runtime's CA on the node",
            Self::InvalidImage => "correct it",
            Self::PlatformMismatch => "use `nodeSelector` on `kubernetes.io/arch`",
            Self::NotEnoughDisk | Self::DiskPressure => "free or add disk",
            Self::Timeout => "raise it, or see the message",
            Self::NodeLost => "nothing",
            Self::NodeRefused | Self::Unknown => "see the message",
            Self::QuotaExceeded | Self::Forbidden => {
                "raise the quota, see the policy named, or set `--worker-namespace=Fallback` (for quotas and LimitRanges; for policies only with `--fallback-on-policy=true`)"
            }
            Self::RunError => "see the message; try the other `pullMethod`",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::worker::reason::REASONS;

    #[test]
    fn the_documentation_says_the_same() {
        let page = include_str!("../../docs/tasks.md");
        for reason in REASONS {
            let name = format!("`{}`", reason.as_str());
            let row = page.lines().find(|line| line.split('|').nth(1).is_some_and(|names| names.contains(&name)));
            let cells: Vec<&str> = row.unwrap().split('|').map(str::trim).collect();
            assert_eq!((cells[2], cells[3]), (reason.what(), reason.remedy()), "{name}");
        }
    }
}

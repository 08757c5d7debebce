//! Pull policies of the containers and image volumes that use an image. Pure: no client, no clock,
//! no I/O.

use crate::{image::ImageRef, task::PullPolicy};

/// `imagePullPolicy` of a container, or `pullPolicy` of an image volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum DeclaredPolicy {
    /// No policy, or a text that is none: the tag decides.
    #[default]
    ByTag,
    /// `Always`.
    Always,
    /// `IfNotPresent`.
    IfNotPresent,
    /// `Never`: the kubelet does not pull the image for this container.
    Never,
}

impl DeclaredPolicy {
    /// Returns the policy with this name.
    pub(super) fn from_name(name: &str) -> Self {
        match name {
            "Always" => Self::Always,
            "IfNotPresent" => Self::IfNotPresent,
            "Never" => Self::Never,
            _ => Self::ByTag,
        }
    }
}

/// Policies of all uses of one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DeclaredPolicies {
    by_tag: bool,
    always: bool,
    if_not_present: bool,
}

impl From<DeclaredPolicy> for DeclaredPolicies {
    fn from(policy: DeclaredPolicy) -> Self {
        let mut all = Self::default();
        all.add(policy);
        all
    }
}

impl DeclaredPolicies {
    /// Adds the policy of one use.
    pub(super) fn add(&mut self, policy: DeclaredPolicy) {
        match policy {
            DeclaredPolicy::ByTag => self.by_tag = true,
            DeclaredPolicy::Always => self.always = true,
            DeclaredPolicy::IfNotPresent => self.if_not_present = true,
            DeclaredPolicy::Never => {}
        }
    }

    /// Adds the policies of another spelling of the same image.
    pub(super) fn merge(&mut self, other: Self) {
        self.by_tag |= other.by_tag;
        self.always |= other.always;
        self.if_not_present |= other.if_not_present;
    }

    /// Reports whether the kubelet never pulls the image: all uses have the policy `Never`.
    pub(super) fn is_never(self) -> bool {
        !(self.by_tag || self.always || self.if_not_present)
    }

    /// Returns the policy that a task for the image must set, or `None` where that of the tag
    /// applies. Of several policies the strongest applies: one `Always` is enough.
    pub(super) fn override_for(self, image: &ImageRef) -> Option<PullPolicy> {
        let by_tag = PullPolicy::by_tag(image);
        let strongest = if self.always {
            PullPolicy::Always
        } else if self.by_tag {
            by_tag
        } else {
            PullPolicy::IfNotPresent
        };
        Some(PullPolicy::effective(Some(strongest), image)).filter(|policy| *policy != by_tag)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{
        DeclaredPolicy::{Always, ByTag, IfNotPresent, Never},
        *,
    };

    #[rstest]
    #[case("app:1", &[ByTag], None)]
    #[case("app:1", &[IfNotPresent], None)]
    #[case("app:1", &[Always], Some(PullPolicy::Always))]
    #[case("app:1", &[Never, IfNotPresent, Always], Some(PullPolicy::Always))]
    #[case("app", &[ByTag], None)]
    #[case("app", &[Always], None)]
    #[case("app", &[IfNotPresent], Some(PullPolicy::IfNotPresent))]
    #[case("app", &[IfNotPresent, ByTag], None)]
    #[case("app", &[Never, IfNotPresent], Some(PullPolicy::IfNotPresent))]
    fn the_strongest_policy_applies(
        #[case] image: &str,
        #[case] declared: &[DeclaredPolicy],
        #[case] expected: Option<PullPolicy>,
    ) {
        let mut all = DeclaredPolicies::default();
        for policy in declared {
            all.add(*policy);
        }
        assert!(!all.is_never());
        assert_eq!(all.override_for(&image.parse().unwrap()), expected);
    }

    #[test]
    fn an_image_that_is_never_pulled_has_no_other_use() {
        let mut all = DeclaredPolicies::default();
        all.add(Never);
        assert!(all.is_never());
        all.add(ByTag);
        assert!(!all.is_never());
    }

    #[test]
    fn a_digest_has_no_override() {
        let image = format!("app@sha256:{}", "0".repeat(64));
        let mut all = DeclaredPolicies::default();
        all.add(Always);
        assert_eq!(all.override_for(&image.parse().unwrap()), None);
    }
}

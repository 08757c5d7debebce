//! Parsing of an object's image references, within its limits. Pure: no client, no clock, no I/O.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use super::pull_policy::{DeclaredPolicies, DeclaredPolicy};
use crate::{
    image::ImageRef,
    task::{PullPolicy, caps::Caps},
};

/// Maximum number of different images per object; a warning counts the others. They become ten
/// tasks with a hundred images each, and parsing that many references takes about 20 ms.
pub const MAX_IMAGES: usize = 1000;
/// Maximum number of warnings per object. Users read about ten.
pub(super) const MAX_WARNINGS: usize = 100;
/// Maximum length of a text quoted in a warning, in characters.
const MAX_QUOTED_CHARS: usize = 255;
/// Number of images up to which a linear search is faster than hashing.
const MAX_LINEAR_SEARCH: usize = 8;

/// Parsed references of one pod template.
#[derive(Debug, Default, PartialEq)]
pub(super) struct References {
    /// Images without duplicates, in order of first occurrence.
    pub(super) images: Vec<ImageRef>,
    /// Policies that a task must set, by index of the image.
    pub(super) pull_policies: BTreeMap<usize, PullPolicy>,
}

/// Parses references, without duplicates and in order, until `room` is used up. Images that the
/// kubelet never pulls are left out.
pub(super) fn parse_references<'a>(
    written: impl Iterator<Item = (&'a str, DeclaredPolicy)>,
    caps: &Caps,
    room: &mut usize,
    warnings: &mut Vec<String>,
) -> References {
    let mut warn = |text: String| {
        if warnings.len() < MAX_WARNINGS {
            warnings.push(text);
        }
    };
    let (mut images, mut left_out): (Vec<(ImageRef, DeclaredPolicies)>, usize) = (Vec::new(), 0);
    for (text, policies) in distinct(written).into_iter().filter(|(_, all)| !all.is_never()) {
        if *room == 0 {
            left_out = left_out.saturating_add(1);
            continue;
        }
        *room = room.saturating_sub(1);
        match text.parse::<ImageRef>() {
            Ok(reference) => match caps.registries.rejection(&reference) {
                Some(why) => warn(format!("prewarmer: image {text:?} is not warmed: {why}")),
                None => images.push((reference, policies)),
            },
            Err(error) => {
                warn(format!("prewarmer: image {:?} is not warmed: {error}", quoted(text)));
            }
        }
    }
    if left_out > 0 {
        warn(format!(
            "prewarmer: more than {MAX_IMAGES} images: {left_out} further images are not warmed"
        ));
    }
    merge_spellings(images)
}

/// Returns the first images that the kubelet never pulls, because all of their uses have the policy
/// `Never`, in order of first occurrence and truncated to a length for messages.
pub(super) fn never_pulled<'a>(
    written: impl Iterator<Item = (&'a str, DeclaredPolicy)>,
) -> Vec<String> {
    let never = distinct(written).into_iter().filter(|(_, policies)| policies.is_never());
    never.map(|(text, _)| quoted(text)).take(MAX_IMAGES).collect()
}

/// Merges references to the same image, such as `nginx` and `docker.io/library/nginx:latest`, into
/// the first of them.
fn merge_spellings(read: Vec<(ImageRef, DeclaredPolicies)>) -> References {
    let images = group_uses(read.into_iter());
    let policies = images.iter().enumerate();
    let policies = policies
        .filter_map(|(at, (image, policies))| Some((at, policies.override_for(image)?)))
        .collect();
    let images = images.into_iter().map(|(image, _)| image).collect();
    References { images, pull_policies: policies }
}

fn quoted(text: &str) -> String {
    text.chars().take(MAX_QUOTED_CHARS).collect()
}

/// Returns each text once, with the policies of all its uses, in order of first occurrence.
fn distinct<'a>(
    written: impl Iterator<Item = (&'a str, DeclaredPolicy)>,
) -> Vec<(&'a str, DeclaredPolicies)> {
    group_uses(written.map(|(text, policy)| (text, policy.into())))
}

/// Returns each key once, with the policies of all its uses, in order of first occurrence.
fn group_uses<K: Clone + Eq + Hash>(
    uses: impl Iterator<Item = (K, DeclaredPolicies)>,
) -> Vec<(K, DeclaredPolicies)> {
    let mut groups: Vec<(K, DeclaredPolicies)> = Vec::new();
    let mut index: HashMap<K, usize> = HashMap::new();
    for (key, policies) in uses {
        let searched = groups.len() >= MAX_LINEAR_SEARCH;
        if searched && index.is_empty() {
            index.extend(groups.iter().enumerate().map(|(at, (key, _))| (key.clone(), at)));
        }
        let known = if searched {
            index.get(&key).copied()
        } else {
            groups.iter().position(|(known, _)| *known == key)
        };
        if let Some((_, all)) = known.and_then(|at| groups.get_mut(at)) {
            all.merge(policies);
            continue;
        }
        if searched {
            index.insert(key.clone(), groups.len());
        }
        groups.push((key, policies));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(written: &[(&str, DeclaredPolicy)]) -> References {
        let (mut room, mut warnings) = (MAX_IMAGES, Vec::new());
        let read =
            parse_references(written.iter().copied(), &Caps::default(), &mut room, &mut warnings);
        assert_eq!(warnings, Vec::<String>::new());
        read
    }

    #[test]
    fn spellings_of_an_image_share_the_strongest_policy() {
        use DeclaredPolicy::{Always, ByTag, IfNotPresent, Never};
        let mut written = vec![
            ("app:1", IfNotPresent),
            ("docker.io/library/nginx:latest", IfNotPresent),
            ("local:1", Never),
            ("docker.io/library/app:1", Always),
            ("nginx", Never),
        ];
        for further in ["a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"] {
            for count in [5, written.len()] {
                let read = parsed(&written[..count]);
                assert_eq!(read.images.len(), count - 3, "{read:?}");
                let policies = [(0, PullPolicy::Always), (1, PullPolicy::IfNotPresent)];
                assert_eq!(read.pull_policies, policies.into(), "{count}");
                assert_eq!(never_pulled(written[..count].iter().copied()), ["local:1", "nginx"]);
            }
            written.push((further, ByTag));
        }
    }

    #[test]
    fn images_that_are_never_pulled_use_no_room() {
        let texts: Vec<String> = (0..2 * MAX_IMAGES).map(|n| format!("app:{n}")).collect();
        let policy = |n: usize| {
            if n < MAX_IMAGES { DeclaredPolicy::Never } else { DeclaredPolicy::ByTag }
        };
        let written: Vec<(&str, DeclaredPolicy)> =
            texts.iter().enumerate().map(|(n, text)| (text.as_str(), policy(n))).collect();
        assert_eq!(parsed(&written).images.len(), MAX_IMAGES);
        assert_eq!(never_pulled(written.iter().copied()).len(), MAX_IMAGES);
    }
}

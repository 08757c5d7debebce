//! Parsing of an object's image references, within its limits. Pure: no client, no clock, no I/O.

use std::collections::HashSet;

use crate::{image::ImageRef, task::caps::Caps};

/// Maximum number of different images per object; a warning counts the others. They become ten
/// tasks with a hundred images each, and parsing that many references takes about 20 ms.
pub const MAX_IMAGES: usize = 1000;
/// Maximum number of warnings per object. Users read about ten.
pub(super) const MAX_WARNINGS: usize = 100;
/// Maximum length of a text quoted in a warning, in characters.
const MAX_QUOTED_CHARS: usize = 255;
/// Number of images up to which a linear search is faster than hashing.
const MAX_LINEAR_SEARCH: usize = 8;

/// Parses references, without duplicates and in order, until `room` is used up.
pub(super) fn parse_references<'a>(
    written: impl Iterator<Item = &'a str>,
    caps: &Caps,
    room: &mut usize,
    warnings: &mut Vec<String>,
) -> Vec<ImageRef> {
    let mut warn = |text: String| {
        if warnings.len() < MAX_WARNINGS {
            warnings.push(text);
        }
    };
    let (mut images, mut left_out): (Vec<ImageRef>, usize) = (Vec::new(), 0);
    for text in distinct(written) {
        if *room == 0 {
            left_out = left_out.saturating_add(1);
            continue;
        }
        *room = room.saturating_sub(1);
        match text.parse::<ImageRef>() {
            Ok(reference) if images.len() < MAX_LINEAR_SEARCH && images.contains(&reference) => {}
            Ok(reference) => match caps.registries.rejection(&reference) {
                Some(why) => warn(format!("prewarmer: image {text:?} is not warmed: {why}")),
                None => images.push(reference),
            },
            Err(error) => {
                let shown: String = text.chars().take(MAX_QUOTED_CHARS).collect();
                warn(format!("prewarmer: image {shown:?} is not warmed: {error}"));
            }
        }
    }
    if left_out > 0 {
        warn(format!(
            "prewarmer: more than {MAX_IMAGES} images: {left_out} further images are not warmed"
        ));
    }
    if images.len() > MAX_LINEAR_SEARCH {
        let mut seen = HashSet::with_capacity(images.len());
        let first: Vec<bool> = images.iter().map(|image| seen.insert(image.normalized())).collect();
        let mut first = first.into_iter();
        images.retain(|_| first.next().unwrap_or(true));
    }
    images
}

/// Returns each text once, in order of first occurrence.
fn distinct<'a>(written: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut texts: Vec<&str> = Vec::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for text in written {
        if texts.len() < MAX_LINEAR_SEARCH {
            if !texts.contains(&text) {
                texts.push(text);
            }
            continue;
        }
        if seen.is_empty() {
            seen.extend(&texts);
        }
        if seen.insert(text) {
            texts.push(text);
        }
    }
    texts
}

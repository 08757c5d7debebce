//! Lines of fields in a document.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{self, Event, Parser};

use super::path::{FieldPath, Step};

/// Places to be located: the steps to them, as a tree.
#[derive(Default)]
struct Wanted {
    steps: HashMap<Step, Wanted>,
    /// Positions of the paths that end here.
    paths: Vec<usize>,
}

impl Wanted {
    fn new(paths: &[FieldPath]) -> Self {
        let mut root = Self::default();
        for (position, path) in paths.iter().enumerate() {
            let mut at = &mut root;
            for step in &path.0 {
                at = at.steps.entry(step.clone()).or_default();
            }
            at.paths.push(position);
        }
        root
    }
}

/// Object or list around the current place, with what is wanted in it.
enum Container<'w> {
    /// Object. `of_key` is what is wanted in the value of the last key.
    Object { wanted: Option<&'w Wanted>, of_key: Option<&'w Wanted>, awaits_key: bool },
    /// List, with the number of items that were read.
    List { wanted: Option<&'w Wanted>, count: usize },
}

/// Returns the lines of fields in a document that can be parsed, from 1, in one pass. The line of a
/// field is that of its key, and that of the last one where a key is repeated.
pub(super) fn lines_of(text: &str, paths: &[FieldPath]) -> Vec<Option<usize>> {
    let root = Wanted::new(paths);
    let mut lines = vec![None; paths.len()];
    let mut within: Vec<Container<'_>> = Vec::new();
    let options = granit_parser::options! { emit_comments: false };
    for event in Parser::new_from_str_with_options(text, options) {
        let Ok((event, span)) = event else { break };
        let line = span.start.line();
        match event {
            Event::MappingEnd | Event::SequenceEnd => {
                within.pop();
                complete(&mut within);
            }
            Event::Scalar(name, ..) if awaits_key(&within) => {
                if let Some(Container::Object { wanted, of_key, awaits_key }) = within.last_mut() {
                    let named =
                        wanted.and_then(|wanted| wanted.steps.get(&Step::Key(name.into_owned())));
                    (*of_key, *awaits_key) = (named, false);
                    record(named, line, &mut lines);
                }
            }
            Event::Scalar(..) | Event::Alias(_) => {
                value(&root, &within, line, &mut lines);
                complete(&mut within);
            }
            Event::MappingStart(..) => {
                let wanted = value(&root, &within, line, &mut lines);
                within.push(Container::Object { wanted, of_key: None, awaits_key: true });
            }
            Event::SequenceStart(..) => {
                let wanted = value(&root, &within, line, &mut lines);
                within.push(Container::List { wanted, count: 0 });
            }
            _ => {}
        }
    }
    lines
}

/// Returns what is wanted in the value that starts here, and records the line of an item.
fn value<'w>(
    root: &'w Wanted,
    within: &[Container<'w>],
    line: usize,
    lines: &mut [Option<usize>],
) -> Option<&'w Wanted> {
    match within.last() {
        None => {
            record(Some(root), line, lines);
            Some(root)
        }
        Some(Container::Object { of_key, .. }) => *of_key,
        Some(Container::List { wanted, count }) => {
            let item = wanted.and_then(|wanted| wanted.steps.get(&Step::Index(*count)));
            record(item, line, lines);
            item
        }
    }
}

fn record(at: Option<&Wanted>, line: usize, lines: &mut [Option<usize>]) {
    for position in at.into_iter().flat_map(|at| &at.paths) {
        if let Some(found) = lines.get_mut(*position) {
            *found = Some(line);
        }
    }
}

fn awaits_key(within: &[Container<'_>]) -> bool {
    matches!(within.last(), Some(Container::Object { awaits_key: true, .. }))
}

/// Completes a value in its object or list. A key that is not text is completed like a value.
fn complete(within: &mut [Container<'_>]) {
    match within.last_mut() {
        Some(Container::Object { of_key, awaits_key, .. }) => {
            (*of_key, *awaits_key) = (None, !*awaits_key);
        }
        Some(Container::List { count, .. }) => *count = count.saturating_add(1),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TEXT: &str = "# comment\nkind: Pod\nspec:\n  containers:\n  - name: a\n    image: x\n  - {name: b,\n     image: y}\n  volumes: []\nlast: &a [1, 2]\nagain: *a\n  \nspec:\n  containers: 7\n";

    fn path(text: &str) -> FieldPath {
        let step = |part: &str| match part.parse() {
            Ok(index) => Step::Index(index),
            Err(_) => Step::Key(part.to_owned()),
        };
        FieldPath(text.split('.').map(step).collect())
    }

    #[rstest]
    #[case("kind", Some(2))]
    #[case("spec", Some(13))]
    #[case("spec.containers", Some(14))]
    #[case("spec.containers.1", Some(7))]
    #[case("spec.containers.1.image", Some(8))]
    #[case("spec.containers.0.image", Some(6))]
    #[case("last.1", Some(10))]
    #[case("again", Some(11))]
    #[case("nothing", None)]
    fn fields_are_located(#[case] at: &str, #[case] line: Option<usize>) {
        assert_eq!(lines_of(TEXT, &[path(at), FieldPath::default()]), [line, Some(2)]);
    }

    #[test]
    fn fields_of_json_are_located() {
        let text = "{\n\t\"a\": [\n\t\t{\"b\": 1},\n\t\t{\n\t\t\t\"b\": 2\n\t\t}\n\t]\n}\n";
        assert_eq!(lines_of(text, &[path("a.1.b"), path("a.0")]), [Some(5), Some(3)]);
    }
}

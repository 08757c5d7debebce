//! Splitting of a text into documents at the lines `---` and `...`, as kubectl does it, so that an
//! error in one document does not affect the others.

/// Document of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DocumentText<'t> {
    /// Lines of the document, without the lines that separate it from others.
    pub(super) text: &'t str,
    /// Number of the first line of `text`, from 1.
    pub(super) first_line: usize,
}

/// Iterates over the documents of a text that contain more than comments.
pub(super) fn documents(text: &str) -> impl Iterator<Item = DocumentText<'_>> {
    Documents { rest: text, line: 1 }.filter(|document| has_content(document.text))
}

/// Iterator over all documents of a text, in linear time.
struct Documents<'t> {
    rest: &'t str,
    line: usize,
}

impl<'t> Iterator for Documents<'t> {
    type Item = DocumentText<'t>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (whole, first_line) = (self.rest, self.line);
        let (mut length, mut only_directives, mut directives) = (0_usize, true, false);
        for line in whole.split_inclusive('\n') {
            let (after, next) = (length.saturating_add(line.len()), self.line.saturating_add(1));
            match separator(line) {
                // The line `---` after directives starts their document.
                Some(Separator::Start) if directives && only_directives => only_directives = false,
                // A document may start in the line of its separator: `--- {kind: Pod}`.
                Some(Separator::StartWithContent) if length == 0 => only_directives = false,
                Some(Separator::StartWithContent) => {
                    return Some(self.cut(whole, length, length, first_line));
                }
                Some(_) => {
                    let document = self.cut(whole, length, after, first_line);
                    self.line = next;
                    return Some(document);
                }
                None => {
                    let directive = is_directive(line);
                    directives |= directive;
                    only_directives = only_directives && (directive || !has_content(line));
                }
            }
            (length, self.line) = (after, next);
        }
        Some(self.cut(whole, whole.len(), whole.len(), first_line))
    }
}

impl<'t> Documents<'t> {
    /// Returns the first `length` bytes of `whole`, and continues after `consumed` bytes.
    fn cut(
        &mut self,
        whole: &'t str,
        length: usize,
        consumed: usize,
        first_line: usize,
    ) -> DocumentText<'t> {
        self.rest = whole.get(consumed..).unwrap_or_default();
        DocumentText { text: whole.get(..length).unwrap_or_default(), first_line }
    }
}

/// Line between documents.
enum Separator {
    /// `---`, with nothing else but a comment.
    Start,
    /// `---` with the start of a document.
    StartWithContent,
    /// `...`.
    End,
}

fn separator(line: &str) -> Option<Separator> {
    let rest = |mark: &str| {
        let rest = line.strip_prefix(mark)?;
        (rest.is_empty() || rest.starts_with(char::is_whitespace)).then(|| rest.trim())
    };
    let empty = |rest: &str| rest.is_empty() || rest.starts_with('#');
    match (rest("---"), rest("...")) {
        (Some(rest), _) if empty(rest) => Some(Separator::Start),
        (Some(_), _) => Some(Separator::StartWithContent),
        (_, Some(rest)) if empty(rest) => Some(Separator::End),
        _ => None,
    }
}

/// Reports whether a line belongs to the document after the next separator.
fn is_directive(line: &str) -> bool {
    ["%YAML ", "%TAG "].iter().any(|directive| line.starts_with(directive))
}

/// Reports whether a text contains more than blank lines and comments.
pub(super) fn has_content(text: &str) -> bool {
    let content = |line: &str| {
        let line = line.trim_start_matches('\u{FEFF}').trim();
        !line.is_empty() && !line.starts_with('#')
    };
    text.lines().any(content)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::one("a: 1\n", &[("a: 1\n", 1)])]
    #[case::two("a: 1\n---\nb: 2", &[("a: 1\n", 1), ("b: 2", 3)])]
    #[case::first_separator("---\na: 1\n", &[("a: 1\n", 2)])]
    #[case::windows("a: 1\r\n---\r\nb: 2\r\n", &[("a: 1\r\n", 1), ("b: 2\r\n", 3)])]
    #[case::comments("# x\n---\n# y\n\n--- # z\na: 1\n---\n", &[("a: 1\n", 6)])]
    #[case::end("a: 1\n...\n# x\nb: 2\n... # x\n", &[("a: 1\n", 1), ("# x\nb: 2\n", 3)])]
    #[case::content_in_the_line("a: 1\n--- {b: 2}\n--- {c: 3}\n",
        &[("a: 1\n", 1), ("--- {b: 2}\n", 2), ("--- {c: 3}\n", 3)])]
    #[case::directives("%YAML 1.2\n---\na: 1\n---\nb: 2\n", &[("%YAML 1.2\n---\na: 1\n", 1), ("b: 2\n", 5)])]
    #[case::no_separator("a: |\n  ---\n  x\nb: ----\nc---: 1\n", &[("a: |\n  ---\n  x\nb: ----\nc---: 1\n", 1)])]
    #[case::nothing("", &[])]
    #[case::only_separators("---\n---\n...\n---", &[])]
    fn texts_are_split(#[case] text: &str, #[case] expected: &[(&str, usize)]) {
        let found: Vec<(&str, usize)> =
            documents(text).map(|found| (found.text, found.first_line)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn splitting_takes_linear_time() {
        let text = "---\na\n".repeat(500_000);
        let begun = std::time::Instant::now();
        assert_eq!(documents(&text).count(), 500_000);
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }
}

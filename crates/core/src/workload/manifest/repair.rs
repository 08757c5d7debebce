//! Repair of what the parser of kubectl accepts, although it is not YAML: continuation lines of
//! quoted texts that are indented less than YAML requires, and comments without a space before them.
//!
//! ```yaml
//! description: "a text
//! of two lines"# comment
//! ```

use serde_saphyr::granit_parser::{self, ErrorKind, Scanner, StrInput};

/// Maximum size of a repaired document, as a multiple of its own size.
const MAX_GROWTH: usize = 4;
/// Maximum number of repairs in one document.
const MAX_REPAIRS: usize = 500;
/// Maximum number of bytes that are scanned for the repairs of one document: about a second.
const MAX_WORK: usize = 128 * 1024 * 1024;

/// Reports whether the cause of an error can be repaired.
pub(super) fn is_repairable(error: &ErrorKind) -> bool {
    is_unindented(error) || *error == ErrorKind::CommentNotSeparated
}

fn is_unindented(error: &ErrorKind) -> bool {
    matches!(error, ErrorKind::InvalidQuotedScalarIndent | ErrorKind::TabInIndentation)
}

/// Repairs a document; its meaning does not change. Returns `None` if there is nothing to repair.
/// Each repair requires another pass over what is above it; after [`MAX_REPAIRS`] passes the rest is
/// unchanged.
pub(super) fn repair(text: &str) -> Option<String> {
    let most = MAX_WORK.checked_div(text.len()).unwrap_or(1).clamp(1, MAX_REPAIRS);
    let mut repaired: Option<String> = None;
    for _ in 0..most {
        match repair_first(repaired.as_deref().unwrap_or(text), text.len()) {
            Some(next) => repaired = Some(next),
            None => break,
        }
    }
    repaired
}

/// Repairs the first place that needs it. `size` is that of the original document.
fn repair_first(text: &str, size: usize) -> Option<String> {
    let options = granit_parser::options! { emit_comments: false };
    let (mut end, mut column) = (0, 0);
    for token in Scanner::with_options(StrInput::new(text), options) {
        let error = match token {
            Ok(token) => {
                end = token.span().end.byte_offset().unwrap_or(end);
                column = token.span().start.col();
                continue;
            }
            Err(error) => error,
        };
        let repaired = if is_unindented(error.kind()) {
            indent(text, end, column.saturating_add(1))?
        } else if *error.kind() == ErrorKind::CommentNotSeparated {
            separate_comment(text, error.marker().byte_offset()?)?
        } else {
            return None;
        };
        return (repaired.len() <= size.saturating_mul(MAX_GROWTH)).then_some(repaired);
    }
    None
}

/// Inserts a space before a comment.
fn separate_comment(text: &str, at: usize) -> Option<String> {
    let (before, comment) = text.split_at_checked(at)?;
    comment.starts_with('#').then(|| format!("{before} {comment}"))
}

/// Indents the lines of the quoted text that starts after `from`, blanks, comments and indicators:
/// the tokens of indicators are empty, at their start.
fn indent(text: &str, from: usize, columns: usize) -> Option<String> {
    let mut rest = text.get(from..)?.trim_start();
    while let Some(first) = rest.chars().next().filter(|first| "#:-?".contains(*first)) {
        let after = if first == '#' { rest.split_once('\n')?.1 } else { rest.get(1..)? };
        rest = after.trim_start();
    }
    let start = text.len().checked_sub(rest.len())?;
    let length = quoted_length(rest)?;
    let quoted = rest.get(..length)?;
    let padding = " ".repeat(columns);
    // Checked before the text is written, not only afterwards.
    let growth = quoted.matches('\n').count().checked_mul(columns)?;
    if growth > text.len().saturating_mul(MAX_GROWTH) {
        return None;
    }
    let indented = quoted.replace('\n', &format!("\n{padding}"));
    Some([text.get(..start)?, &indented, rest.get(length..)?].concat())
}

/// Returns the length of the quoted text at the start of `text`.
fn quoted_length(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|first| matches!(first, '"' | '\''))?;
    let mut rest = text.char_indices().skip(1).peekable();
    while let Some((index, one)) = rest.next() {
        if one == '\\' && quote == '"' {
            rest.next();
        } else if one == quote {
            // A quote is written twice in a text in single quotes.
            if quote == '\'' && rest.next_if(|(_, next)| *next == '\'').is_some() {
                continue;
            }
            return index.checked_add(1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::double("a: \"x\ny\"\n", Some("a: \"x\n  y\"\n"))]
    #[case::escapes("a: \"x \\\" \ny\\\\\"\nb: 1\n", Some("a: \"x \\\" \n  y\\\\\"\nb: 1\n"))]
    #[case::single("a: 'it''s\ny'\n", Some("a: 'it''s\n  y'\n"))]
    #[case::tab("a: \"x\n\ty\"\n", Some("a: \"x\n  \ty\"\n"))]
    #[case::after_a_comment("a: # it's \"\n  'x\ny'\n", Some("a: # it's \"\n  'x\n  y'\n"))]
    #[case::two("a: \"x\ny\"\nb: 'x\ny'\n", Some("a: \"x\n  y\"\nb: 'x\n  y'\n"))]
    #[case::item("a:\n- \"x\ny\"\n", Some("a:\n- \"x\n   y\"\n"))]
    #[case::comment("a: 'x'#c\nb: \"y\"# d\n", Some("a: 'x' #c\nb: \"y\" # d\n"))]
    #[case::indented("a: \"x\n y\"\n", None)]
    #[case::not_closed("a: \"x\ny\n", None)]
    #[case::other_error("a: b: \"x\ny\"\n", None)]
    fn documents_are_repaired(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(repair(text).as_deref(), expected);
    }
}

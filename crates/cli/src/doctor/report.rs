//! Output of findings.

use std::io::Write;

use super::finding::{Finding, Severity};
use crate::terminal::{Colour, wants_colour};

/// Widths of the first two columns of a line, in characters.
const LEVEL: usize = 5;
const AREA: usize = 16;

/// Prints one line for each finding and one for its remedy, or JSON, to standard output.
pub(super) fn print(findings: &[Finding], json: bool) {
    let colour = wants_colour(&std::io::stdout());
    let text = if json { as_json(findings) } else { as_text(findings, colour) };
    // The reader may have closed the pipe.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn as_json(findings: &[Finding]) -> String {
    serde_json::to_string_pretty(findings).unwrap_or_default() + "\n"
}

fn as_text(findings: &[Finding], colour: bool) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let (word, of) = match finding.level {
            Severity::Ok => ("ok", Colour::Green),
            Severity::Skipped => ("-", Colour::Dim),
            Severity::Warning => ("warn", Colour::Yellow),
            Severity::Bad => ("FAIL", Colour::Red),
        };
        let level = of.paint(&format!("{word:LEVEL$}"), colour);
        lines.push(format!("{level} {:AREA$} {}", finding.area, finding.found));
        if !finding.remedy.is_empty() {
            lines.push(format!("{:LEVEL$} {:AREA$} -> {}", "", "", finding.remedy));
        }
    }
    let count = |level: Severity| findings.iter().filter(|finding| finding.level == level).count();
    lines.push(match (count(Severity::Bad), count(Severity::Warning)) {
        (0, 0) => "all checks passed\n".to_owned(),
        (0, warnings) => format!("no check failed; warnings: {warnings}\n"),
        (bad, _) => format!("failed checks: {bad}\n"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_contain_finding_and_remedy() {
        let finding = |level, remedy: &str| Finding {
            level,
            area: "leader",
            found: "none".into(),
            remedy: remedy.into(),
        };
        let text = as_text(&[finding(Severity::Ok, ""), finding(Severity::Bad, "look")], false);
        assert_eq!(
            text,
            "ok    leader           none\nFAIL  leader           none\n                       -> look\nfailed checks: 1\n"
        );
        assert!(as_text(&[finding(Severity::Ok, "")], true).contains("\x1b[32mok"));
        assert!(as_json(&[finding(Severity::Warning, "")]).contains("\"level\": \"warning\""));
    }
}

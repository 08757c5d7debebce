//! Prints findings.

use std::io::Write;

use super::judge::{Finding, Level};
use crate::terminal::{Colour, wants_colour};

/// Columns of the first two words of a line.
const LEVEL: usize = 5;
const AREA: usize = 16;

/// On standard output: a line for each finding and one for its remedy, or JSON.
pub(super) fn print(findings: &[Finding], json: bool) {
    let colour = wants_colour(&std::io::stdout());
    let text = if json { as_json(findings) } else { as_text(findings, colour) };
    // Whoever reads may have gone.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn as_json(findings: &[Finding]) -> String {
    serde_json::to_string_pretty(findings).unwrap_or_default() + "\n"
}

fn as_text(findings: &[Finding], colour: bool) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let (word, of) = match finding.level {
            Level::Ok => ("ok", Colour::Green),
            Level::Skipped => ("-", Colour::Dim),
            Level::Warning => ("warn", Colour::Yellow),
            Level::Bad => ("BAD", Colour::Red),
        };
        let level = of.paint(&format!("{word:LEVEL$}"), colour);
        lines.push(format!("{level} {:AREA$} {}", finding.area, finding.found));
        if !finding.remedy.is_empty() {
            lines.push(format!("{:LEVEL$} {:AREA$} -> {}", "", "", finding.remedy));
        }
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    lines.push(match (count(Level::Bad), count(Level::Warning)) {
        (0, 0) => "all is well\n".to_owned(),
        (0, warnings) => format!("it works; warnings: {warnings}\n"),
        (bad, _) => format!("wrong: {bad}\n"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_and_what_to_do() {
        let finding =
            |level, remedy: &str| Finding { level, area: "leader", found: "none".into(), remedy: remedy.into() };
        let text = as_text(&[finding(Level::Ok, ""), finding(Level::Bad, "look")], false);
        assert_eq!(
            text,
            "ok    leader           none\nBAD   leader           none\n                       -> look\nwrong: 1\n"
        );
        assert!(as_text(&[finding(Level::Ok, "")], true).contains("\x1b[32mok"));
        assert!(as_json(&[finding(Level::Warning, "")]).contains("\"level\": \"warning\""));
    }
}

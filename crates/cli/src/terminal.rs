//! Text output on a terminal: tables, colours and ages.

use std::io::IsTerminal;

use jiff::Timestamp;
use prewarmer_core::{duration::format_human, timestamp};

/// Colour of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Colour {
    /// Default colour of the terminal.
    #[default]
    Plain,
    /// Success.
    Green,
    /// Warning.
    Yellow,
    /// Failure.
    Red,
    /// In progress.
    Blue,
    /// Less important text.
    Dim,
    /// Title.
    Bold,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
            Self::Blue => "34",
            Self::Dim => "2",
            Self::Bold => "1",
        }
    }

    /// Returns the text with the escape sequences of this colour, if `on`.
    #[must_use]
    pub fn paint(self, text: &str, on: bool) -> String {
        if !on || self == Self::Plain {
            text.to_owned()
        } else {
            format!("\x1b[{}m{text}\x1b[0m", self.code())
        }
    }
}

/// Reports whether colours are used on a stream: on terminals, unless `NO_COLOR` is set
/// (<https://no-color.org>).
#[must_use]
pub fn wants_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Cell of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableCell {
    text: String,
    colour: Colour,
}

impl<T: Into<String>> From<T> for TableCell {
    fn from(text: T) -> Self {
        Self { text: text.into(), colour: Colour::Plain }
    }
}

impl TableCell {
    fn sanitized(self) -> Self {
        Self { text: printable(&self.text), ..self }
    }

    /// Creates a cell with a coloured text.
    pub fn coloured(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour }
    }
}

/// Formats a table as kubectl does: three spaces between columns, no trailing spaces.
#[must_use]
pub fn table(titles: &[&str], rows: Vec<Vec<TableCell>>, colour: bool) -> String {
    let titles = titles.iter().map(|title| TableCell::from(*title)).collect();
    let rows: Vec<Vec<TableCell>> = std::iter::once(titles)
        .chain(rows)
        .map(|row| row.into_iter().map(TableCell::sanitized).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.text.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let last = row.len().saturating_sub(1);
        for (index, cell) in row.iter().enumerate() {
            out += &cell.colour.paint(&cell.text, colour);
            if index < last {
                out.extend(std::iter::repeat_n(' ', widths[index] + 3 - cell.text.chars().count()));
            }
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// Replaces control characters by spaces: text of other users must not control the terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns the age of a time in RFC 3339; empty where there is no valid time.
#[must_use]
pub fn format_age(time: Option<&str>, now: Timestamp) -> String {
    let time = time.and_then(timestamp::parse);
    time.map(|time| format_human(now.duration_since(time))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![
            vec![
                TableCell::from("task-1"),
                TableCell::coloured("Failed", Colour::Red),
                TableCell::default(),
            ],
            vec!["a".into(), "Completed".into(), "x\x1b[2J".into()],
        ];
        let plain = table(&["NAME", "PHASE", "MESSAGE"], rows.clone(), false);
        assert_eq!(
            plain,
            "NAME     PHASE       MESSAGE\ntask-1   Failed\na        Completed   x [2J\n"
        );
        let coloured = table(&["NAME", "PHASE", "MESSAGE"], rows, true);
        assert!(
            coloured.contains("task-1   \x1b[31mFailed\x1b[0m") && !coloured.contains("\x1b[2J"),
            "{coloured:?}"
        );
    }
}

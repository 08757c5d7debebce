//! Report as text: tables, notes, and the totals with the advice in the last line.

use std::{fmt::Write, io::IsTerminal};

use jiff::SignedDuration;
use prewarmer_core::{
    audit::{AuditReport, ImageRow, Seconds, WorkloadRow},
    duration::format_human,
};

use crate::terminal::{Colour, TableCell, printable, table};

/// Width of a terminal that does not state its own.
const DEFAULT_WIDTH: usize = 120;
/// Width of the columns with numbers: 53 for eight of them, and 27 between ten columns.
const NUMBER_COLUMNS: usize = 80;
/// Smallest width of a name that is shortened.
const MIN_NAME: usize = 16;
/// Duration below which tenths of a second are shown, in milliseconds.
const TENTHS_BELOW: u64 = 120_000;

/// Returns the width of the terminal in characters, by the variable `COLUMNS` where the shell exports
/// it; none for a pipe or a file.
pub(super) fn terminal_width(stream: &impl IsTerminal) -> Option<usize> {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    stream.is_terminal().then(|| columns.unwrap_or(DEFAULT_WIDTH))
}

/// Formats the report. With a width, names are shortened to fit.
pub(super) fn text(report: &AuditReport, width: Option<usize>, colour: bool) -> String {
    let room = width.map(|width| width.saturating_sub(NUMBER_COLUMNS).max(2 * MIN_NAME));
    let mut text = heading(report) + "\n\n";
    let rows = report.workloads.iter().map(|row| workload_cells(row, room)).collect();
    let titles = [
        "NAMESPACE",
        "WORKLOAD",
        "STARTS",
        "WARM",
        "WAITED",
        "P50",
        "P95",
        "LONGEST",
        "IMAGES",
        "SPARED",
    ];
    text += &table(&titles, rows, colour);
    text += &omitted(report.omitted_workloads, "workloads");
    if !report.images.is_empty() {
        let rows = report.images.iter().map(|row| image_cells(row, room)).collect();
        text.push('\n');
        text += &table(&["IMAGE", "PULLS", "WAITED", "LONGEST", "SIZE", "SPARED"], rows, colour);
        text += &omitted(report.omitted_images, "images");
    }
    text += &list("Not read or not used:", &report.notes);
    text += &list("Assumptions:", &report.assumptions);
    text.push('\n');
    text += &Colour::Bold.paint(&totals(report), colour);
    text + " " + &report.advice + "\n"
}

fn heading(report: &AuditReport) -> String {
    let scope = report.namespace.as_deref().map_or_else(
        || "all namespaces".to_owned(),
        |name| format!("namespace {}", printable(name)),
    );
    let time = |time: &Option<String>| time.clone().unwrap_or_default();
    format!(
        "Starts of containers in {scope}, from {} to {}; {} nodes{}",
        time(&report.first_start),
        time(&report.last_start),
        report.nodes.count,
        if report.nodes.listed { "" } else { " seen" },
    )
}

fn totals(report: &AuditReport) -> String {
    format!(
        "In all: {} starts, {} warm; {} pulls waited {}, of which {} would have been spared.",
        report.starts,
        report.warm_starts,
        report.pulls,
        seconds(report.waited_seconds),
        seconds(report.spared_seconds),
    )
}

fn workload_cells(row: &WorkloadRow, room: Option<usize>) -> Vec<TableCell> {
    let half = room.map(|room| room / 2);
    let name = format!("{}/{}", row.kind, row.name);
    let mut cells = vec![shortened(&row.namespace, half).into(), shortened(&name, half).into()];
    cells.extend([row.starts, row.warm_starts].map(|count| TableCell::from(count.to_string())));
    let waits = [row.waited_seconds, row.p50_seconds, row.p95_seconds, row.longest_seconds];
    cells.extend(waits.map(|wait| TableCell::from(seconds(wait))));
    cells.push(bytes(row.image_bytes).into());
    cells.push(spared(row.spared_seconds));
    cells
}

fn image_cells(row: &ImageRow, room: Option<usize>) -> Vec<TableCell> {
    vec![
        shortened(&row.image, room).into(),
        row.pulls.to_string().into(),
        seconds(row.waited_seconds).into(),
        seconds(row.longest_seconds).into(),
        row.size_bytes.map_or_else(|| "-".to_owned(), bytes).into(),
        spared(row.spared_seconds),
    ]
}

fn spared(wait: Seconds) -> TableCell {
    let colour = if wait == Seconds::default() { Colour::Plain } else { Colour::Green };
    TableCell::coloured(seconds(wait), colour)
}

fn omitted(count: usize, what: &str) -> String {
    if count == 0 { String::new() } else { format!("and {count} more {what} (--limit)\n") }
}

fn list(title: &str, sentences: &[String]) -> String {
    let mut text = String::new();
    if !sentences.is_empty() {
        let _ = writeln!(text, "\n{title}");
        for sentence in sentences {
            let _ = writeln!(text, "- {}", printable(sentence));
        }
    }
    text
}

/// Formats a wait: tenths of a second below two minutes, otherwise as kubectl formats ages.
fn seconds(wait: Seconds) -> String {
    let milliseconds = wait.as_millis();
    if milliseconds < TENTHS_BELOW {
        let tenths = (milliseconds + 50) / 100;
        return format!("{}.{}s", tenths / 10, tenths % 10);
    }
    let whole = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    format_human(SignedDuration::from_secs(whole))
}

/// Formats a number of bytes with a decimal unit, rounded down; `-` for zero.
fn bytes(number: u64) -> String {
    let units = [("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)];
    let fitting = units.into_iter().find(|(_, power)| number >= 10_u64.pow(*power));
    match fitting {
        Some((unit, power)) => {
            let tenths = number / 10_u64.pow(power - 1);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None if number == 0 => "-".to_owned(),
        None => format!("{number} B"),
    }
}

/// Shortens a text to a number of characters, with `...` at the place of what is left out. The end is
/// kept, because names of workloads and images differ there.
fn shortened(text: &str, width: Option<usize>) -> String {
    let length = text.chars().count();
    let Some(width) = width.filter(|width| *width < length) else { return text.to_owned() };
    let kept = width.saturating_sub(3);
    "...".chars().chain(text.chars().skip(length - kept)).collect()
}

#[cfg(test)]
mod tests {
    use prewarmer_core::audit::{NodeCount, NotSpared};
    use rstest::rstest;

    use super::*;

    fn report() -> AuditReport {
        let wait = Seconds::from_millis;
        AuditReport {
            format_version: 1,
            namespace: None,
            first_start: Some("2026-11-21T10:00:00Z".into()),
            last_start: Some("2026-11-21T10:59:00Z".into()),
            nodes: NodeCount { count: 3, listed: true },
            starts: 30,
            warm_starts: 10,
            pulls: 20,
            waited_seconds: wait(754_000),
            spared_seconds: wait(90_000),
            not_spared_seconds: NotSpared::default(),
            image_bytes: 1_234_567_890,
            workloads: vec![WorkloadRow {
                namespace: "shop".into(),
                kind: "Deployment".into(),
                name: "web\u{1b}[2J".into(),
                starts: 30,
                warm_starts: 10,
                pulls: 20,
                waited_seconds: wait(754_000),
                p50_seconds: wait(1_250),
                p95_seconds: wait(20_000),
                longest_seconds: wait(61_000),
                spared_seconds: wait(90_000),
                image_bytes: 1_234_567_890,
            }],
            omitted_workloads: 4,
            images: vec![ImageRow {
                image: "docker.io/shop/web:1".into(),
                pulls: 20,
                waited_seconds: wait(754_000),
                longest_seconds: wait(61_000),
                spared_seconds: wait(0),
                size_bytes: None,
            }],
            omitted_images: 0,
            notes: vec!["Something was not read.".into()],
            assumptions: vec!["Something is assumed.".into()],
            advice: "Do it.".into(),
        }
    }

    #[test]
    fn a_report_is_tables_notes_and_a_last_line() {
        let expected = "\
Starts of containers in all namespaces, from 2026-11-21T10:00:00Z to 2026-11-21T10:59:00Z; 3 nodes

NAMESPACE   WORKLOAD              STARTS   WARM   WAITED   P50    P95     LONGEST   IMAGES   SPARED
shop        Deployment/web [2J   30       10     12m      1.3s   20.0s   61.0s     1.2 GB   90.0s
and 4 more workloads (--limit)

IMAGE                  PULLS   WAITED   LONGEST   SIZE   SPARED
docker.io/shop/web:1   20      12m      61.0s     -      0.0s

Not read or not used:
- Something was not read.

Assumptions:
- Something is assumed.

In all: 30 starts, 10 warm; 20 pulls waited 12m, of which 90.0s would have been spared. Do it.
";
        let found = text(&report(), None, false);
        let words = |text: &str| -> Vec<Vec<String>> {
            let of_line = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            text.lines().map(of_line).collect()
        };
        assert_eq!(words(&found), words(expected), "{found}");
        assert!(text(&report(), None, true).contains("\u{1b}[32m90.0s"));
    }

    #[test]
    fn a_table_fits_into_the_terminal() {
        let mut long = report();
        long.workloads[0].namespace = "n".repeat(63);
        long.workloads[0].name = "w".repeat(200) + "-end";
        long.images[0].image = "i".repeat(400) + ":end";
        for width in [112, 120, 200] {
            let text = text(&long, Some(width), false);
            let tables =
                text.lines().filter(|line| line.contains("...") || line.contains("WAITED"));
            for line in tables {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
            assert!(text.contains("w-end ") && text.contains("i:end "), "{text}");
        }
        assert!(text(&long, None, false).contains(&"n".repeat(63)));
    }

    #[rstest]
    #[case(0, "0.0s")]
    #[case(49, "0.0s")]
    #[case(50, "0.1s")]
    #[case(119_949, "119.9s")]
    #[case(120_000, "2m")]
    #[case(150_000, "2m30s")]
    #[case(u64::MAX, "213503982334d")]
    fn waits_are_formatted(#[case] milliseconds: u64, #[case] expected: &str) {
        assert_eq!(seconds(Seconds::from_millis(milliseconds)), expected);
    }

    #[rstest]
    #[case(0, "-")]
    #[case(999, "999 B")]
    #[case(1000, "1.0 kB")]
    #[case(64_753_325, "64.7 MB")]
    #[case(u64::MAX, "18446744.0 TB")]
    fn sizes_are_formatted(#[case] number: u64, #[case] expected: &str) {
        assert_eq!(bytes(number), expected);
    }
}

//! Record of a run: one line per figure, from which `effect_tables.py` makes the tables.
//!
//! A line of a figure has the fields `figure`, trace, policy, name and value, separated by tabs. An
//! unknown value is `-`.

use std::{fmt::Display, time::Duration};

use super::{api_requests::Requests, figures::Figures};
use crate::{connect::run::RunFigures, trace::Kind};

/// Lines of the record of one run.
#[derive(Debug, Default)]
pub struct Record {
    text: String,
}

impl Record {
    /// Adds a line of these fields.
    pub fn line(&mut self, fields: &[&dyn Display]) {
        for (index, field) in fields.iter().enumerate() {
            if index > 0 {
                self.text.push('\t');
            }
            self.text.push_str(&field.to_string());
        }
        self.text.push('\n');
    }

    /// Adds the figures of a policy.
    pub fn figures(&mut self, trace: Kind, policy: &str, figures: &Figures) {
        let milliseconds = |percent| {
            let time = figures.percentile(percent).map(|time| time.as_millis().to_string());
            time.unwrap_or_else(|| "-".to_owned())
        };
        let mut line = |name, value: &dyn Display| {
            self.line(&[&"figure", &trace.as_str(), &policy, &name, value]);
        };
        line("starts", &figures.starts);
        line("unstarted", &figures.unstarted);
        line("warm", &figures.warm);
        for (name, percent) in [("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)] {
            line(name, &milliseconds(percent));
        }
        line("downloaded_bytes", &figures.downloaded);
        line("in_vain_bytes", &figures.in_vain);
        line("evictions", &figures.evictions);
    }

    /// Adds the numbers of requests of a policy.
    pub fn requests(&mut self, trace: Kind, policy: &str, requests: &Requests) {
        let mut line = |name, value: u64| {
            self.line(&[&"figure", &trace.as_str(), &policy, &name, &value]);
        };
        line("api_writes", requests.writes());
        line("tasks", requests.tasks());
    }

    /// Adds what shows whether the simulation kept up and reached the API server. `failed_steps` is
    /// the number of nodes and steps that failed, `step_delay` the longest delay of a step.
    pub fn quality(
        &mut self,
        trace: Kind,
        policy: &str,
        run: &RunFigures,
        failed_steps: u64,
        step_delay: Duration,
    ) {
        let seen = &run.simulation;
        let failed = [
            failed_steps,
            run.writes.failed.count(),
            seen.unreadable_pods.count(),
            seen.rejected_inputs.count(),
            seen.dropped_starts,
        ];
        let failed = failed.into_iter().fold(0, u64::saturating_add);
        let mut line = |name, value: u128| {
            self.line(&[&"figure", &trace.as_str(), &policy, &name, &value]);
        };
        line("failures", failed.into());
        line("watch_errors", run.watch_errors.count().into());
        line("repeated_requests", run.writes.repeated.into());
        line("outdated_requests", run.writes.outdated.into());
        line("write_delay_ms", run.writes.longest_delay.as_millis());
        line("lag_ms", seen.longest_lag.as_millis());
        line("step_delay_ms", step_delay.as_millis());
    }

    /// Returns the lines.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::{failures::Failures, run::SimulationFigures, writer::WriteFigures};

    fn value<'a>(record: &'a Record, name: &str) -> &'a str {
        let start = format!("figure\trollouts\tauto\t{name}\t");
        let mut found = record.as_str().lines().filter_map(|line| line.strip_prefix(&start));
        let value = found.next().unwrap_or_else(|| panic!("{name} in {record:?}"));
        assert_eq!(found.next(), None, "{name} occurs twice");
        value
    }

    #[test]
    fn each_figure_has_one_line() {
        let figures = Figures {
            starts: 2,
            unstarted: 1,
            warm: 1,
            waits: vec![Duration::from_millis(900), Duration::from_millis(9_500)],
            downloaded: 100,
            in_vain: 30,
            evictions: 4,
        };
        let mut record = Record::default();
        record.figures(Kind::Rollouts, "auto", &figures);
        let expected = [
            ("starts", "2"),
            ("unstarted", "1"),
            ("warm", "1"),
            ("p50_ms", "900"),
            ("p95_ms", "9500"),
            ("p99_ms", "9500"),
            ("downloaded_bytes", "100"),
            ("in_vain_bytes", "30"),
            ("evictions", "4"),
        ];
        for (name, expected) in expected {
            assert_eq!(value(&record, name), expected, "{name}");
        }
        assert_eq!(record.as_str().lines().count(), expected.len());
    }

    #[test]
    fn an_unknown_time_is_no_zero() {
        let figures = Figures {
            starts: 0,
            unstarted: 0,
            warm: 0,
            waits: Vec::new(),
            downloaded: 0,
            in_vain: 0,
            evictions: 0,
        };
        let mut record = Record::default();
        record.figures(Kind::Rollouts, "auto", &figures);
        assert_eq!(value(&record, "p99_ms"), "-");
    }

    #[test]
    fn failures_of_all_parts_are_one_figure() {
        let one = || {
            let mut failures = Failures::default();
            failures.add("pod a: rejected");
            failures
        };
        let run = RunFigures {
            writes: WriteFigures { failed: one(), ..WriteFigures::default() },
            simulation: SimulationFigures {
                unreadable_pods: one(),
                rejected_inputs: one(),
                dropped_starts: 2,
                longest_lag: Duration::from_millis(40),
                ..SimulationFigures::default()
            },
            watch_errors: one(),
        };
        let mut record = Record::default();
        record.quality(Kind::Rollouts, "auto", &run, 3, Duration::from_secs(1));
        assert_eq!(value(&record, "failures"), "8");
        assert_eq!(value(&record, "watch_errors"), "1");
        assert_eq!(value(&record, "lag_ms"), "40");
        assert_eq!(value(&record, "step_delay_ms"), "1000");
    }
}

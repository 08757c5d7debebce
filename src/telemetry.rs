//! Structured logging to standard error: text on a terminal, JSON otherwise.

use std::io::IsTerminal;

use clap::Args;
use prewarmer_cli::settings::choice;
use prewarmer_core::settings::{Choice, Setting, SettingsChecker};
use tracing::Span;
use tracing_subscriber::EnvFilter;

/// Names of the formats.
const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Settings of logging, unparsed.
#[derive(Debug, Args, Clone)]
pub struct LogArgs {
    /// Log level, or a filter such as `info,prewarmer=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Log format, `text` or `json`. Default: text on a terminal, JSON otherwise.
    #[arg(long, env = "LOG_FORMAT", value_parser = choice(FORMATS))]
    pub log_format: Option<Setting<Choice<LogFormat>>>,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Settings of logging.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Filter of log lines.
    pub filter: String,
    /// Format, where set.
    pub format: Option<LogFormat>,
}

impl LogArgs {
    /// Checks the settings and adds every problem to `check`.
    pub(crate) fn check(&self, check: &mut SettingsChecker) -> LogSettings {
        let given = self.log_format.as_ref().filter(|format| !format.text.is_empty());
        let format = given.map(|format| check.value(format));
        if let Err(error) = EnvFilter::try_new(&self.log_level) {
            check.problem("--log-level (LOG_LEVEL)", &self.log_level, &error.to_string());
        }
        LogSettings { filter: self.log_level.clone(), format }
    }
}

/// Starts logging to standard error. An invalid filter falls back to `info`. Without a format, a
/// terminal gets text and any other output JSON.
pub fn start(settings: &LogSettings) {
    let terminal = std::io::stderr().is_terminal();
    let format =
        settings.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(terminal).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// Returns the span of work on a `PrewarmTask`. A filter selects its log lines by the fields, for
/// example `info,[{task=web}]=debug`.
#[must_use]
pub fn task_span(namespace: &str, name: &str) -> Span {
    tracing::info_span!("task", namespace, task = name)
}

/// Returns the span of work on a `PrewarmSchedule`.
#[must_use]
pub fn schedule_span(namespace: &str, name: &str) -> Span {
    tracing::info_span!("schedule", namespace, schedule = name)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tracing::Instrument;

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn log_lines_are_selected_by_task() {
        let output = Output::default();
        let writer = output.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("info,[{task=web}]=debug"))
            .with_writer(move || writer.clone())
            .json()
            .flatten_event(true)
            .finish();
        let _default = tracing::subscriber::set_default(subscriber);
        for name in ["web", "db"] {
            async { tracing::debug!("wrote the status") }.instrument(task_span("shop", name)).await;
        }
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["span"]["namespace"], "shop");
        assert_eq!(line["span"]["task"], "web");
    }
}

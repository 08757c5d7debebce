//! `prewarmer audit` and `kubectl prewarm audit`: how long containers waited for images, and what
//! Prewarmer would have spared, without an installation.
//!
//! Inputs: a client, and the arguments. Outputs: a report on standard output, and an exit code.
//! `read` lists events, pods, `ReplicaSet`s, Jobs and nodes through `pages`, which bounds what is
//! read, and changes nothing; `prewarmer_core::audit` makes the report (pure); `render` formats it.

mod error;
mod pages;
mod read;
mod render;
mod settings;

use std::{io::Write, process::ExitCode};

use kube::Client;
use prewarmer_core::audit::AuditReport;

pub use self::{
    error::AuditError,
    pages::ReadLimits,
    read::audit,
    settings::{AuditArgs, AuditCommandArgs, AuditOptions},
};
use crate::terminal::{printable, wants_colour};

/// Connects, audits and prints the report. Exit code: 0 a report, 1 no report, 2 an invalid argument.
pub async fn run(args: &AuditCommandArgs) -> ExitCode {
    match report(args).await {
        Ok(text) => {
            // The reader may have closed the pipe.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("prewarmer: {}", printable(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

async fn report(args: &AuditCommandArgs) -> Result<String, AuditError> {
    let options = args.options()?;
    let client = Client::try_default().await.map_err(|error| AuditError::connection(&error))?;
    let report = audit(&client, &options, &ReadLimits::default()).await?;
    if args.json() {
        let text = serde_json::to_string_pretty(&report);
        return text.map(|text| text + "\n").map_err(|error| AuditError::Output(error.to_string()));
    }
    Ok(text(&report))
}

/// Formats a report for people, as wide as the terminal.
pub(crate) fn text(report: &AuditReport) -> String {
    let stdout = std::io::stdout();
    render::text(report, render::terminal_width(&stdout), wants_colour(&stdout))
}

//! `prewarmer doctor`: checks a cluster and an installation, and prints problems and remedies.
//!
//! Inputs: a kubeconfig, and the arguments. Outputs: findings on standard output, and an exit code.
//! `requests` and `dry_run` send requests to the API server and change nothing; `evaluate` rates the
//! results (pure); `report` prints the findings.

mod dry_run;
mod evaluate;
mod finding;
mod foreign;
mod report;
mod requests;
mod results;
mod settings;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use kube::Client;

use self::finding::{Finding, Severity};
pub use self::settings::{DoctorArgs, DoctorSettings};

/// Interval between checks with `--wait`.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Exit code for a failed check.
const EXIT_FAILED: u8 = 1;
/// Exit code for a check that still fails after `--wait`.
const EXIT_TIMED_OUT: u8 = 3;

/// Runs the checks and prints the findings. Exit code: 0 no check failed, 1 a check failed, 3 a
/// check still failed after `--wait`.
pub async fn run(asked: &DoctorSettings) -> ExitCode {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let findings = run_checks(asked).await;
        let wrong: Vec<&Finding> =
            findings.iter().filter(|finding| finding.level == Severity::Bad).collect();
        let over = asked.wait.is_none_or(|wait| begun.elapsed() >= wait);
        if wrong.is_empty() || over {
            report::print(&findings, asked.json);
            let code = if asked.wait.is_some() { EXIT_TIMED_OUT } else { EXIT_FAILED };
            return if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(code) };
        }
        let waiting = format!(
            "waiting for: {}",
            wrong.iter().map(|finding| finding.area).collect::<Vec<_>>().join(", ")
        );
        if waiting != told {
            eprintln!("{waiting}");
            told = waiting;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn run_checks(asked: &DoctorSettings) -> Vec<Finding> {
    match Client::try_default().await {
        Ok(client) => evaluate::evaluate(&requests::collect(&client, asked).await, asked),
        Err(error) => vec![evaluate::connection_failed(&error.to_string())],
    }
}

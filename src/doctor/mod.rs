//! `prewarmer doctor`: looks at a cluster from outside, and says what is wrong and what to do.
//!
//! In: a kubeconfig, and what is asked for. Out: findings on standard output,
//! and an exit code. `ask` puts questions to the API server and changes
//! nothing; `judge` makes findings of the answers (pure); `report` prints them.
//! May call `config`, `node`, `task` and `worker`.

mod answers;
mod ask;
mod foreign;
mod judge;
mod report;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use kube::Client;

use self::judge::{Finding, Level};
use crate::config::Doctor;

/// Between two looks with `--wait`.
const LOOK: Duration = Duration::from_secs(2);
/// Something is wrong.
const WRONG: u8 = 1;
/// `--wait` is over, and something is still wrong.
const TIMED_OUT: u8 = 3;

/// Looks, and prints what it finds. Exit code: 0 all is well, 1 something is wrong, 3 and still was after `--wait`.
pub async fn run(asked: &Doctor) -> ExitCode {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let findings = look(asked).await;
        let wrong: Vec<&Finding> = findings.iter().filter(|finding| finding.level == Level::Bad).collect();
        let over = asked.wait.is_none_or(|wait| begun.elapsed() >= wait);
        if wrong.is_empty() || over {
            report::print(&findings, asked.json);
            let code = if asked.wait.is_some() { TIMED_OUT } else { WRONG };
            return if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(code) };
        }
        let waiting =
            format!("waiting for: {}", wrong.iter().map(|finding| finding.area).collect::<Vec<_>>().join(", "));
        if waiting != told {
            eprintln!("{waiting}");
            told = waiting;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(asked: &Doctor) -> Vec<Finding> {
    match Client::try_default().await {
        Ok(client) => judge::judge(&ask::ask(&client, asked).await, asked),
        Err(error) => vec![judge::no_way(&error.to_string())],
    }
}

//! `kubectl prewarm`: tasks and schedules for people who have a kubeconfig.
//!
//! In: a command line, and the API server with the rights of whoever calls.
//! Out: tables, progress or objects on standard output, and an exit code. The
//! server of Prewarmer is never asked: what the plugin shows and does is the
//! same `PrewarmTask`s and `PrewarmSchedule`s that it works on. May call `catalog`
//! (how a task is read), `image`, `node`, `reduced`, `schedule`, `surroundings`,
//! `task`, `terminal`, `worker` (what reasons mean) and `workload`.
//!
//! ```text
//!   args -> command (tasks, schedules, nodes, run, watch) -> connect (API server)
//!                 explain, progress, found (pure) -> output
//! ```

mod args;
mod complete;
mod connect;
mod explain;
mod found;
mod nodes;
mod output;
mod progress;
mod run;
mod schedules;
mod tasks;
mod watch;

use std::process::ExitCode;

use clap::Parser;

pub use self::args::Cli;
use self::{
    args::{Command, ScheduleCommand},
    connect::Context,
    output::Out,
};
use crate::terminal::printable;

/// How a command ends, where it does not end well.
#[derive(Debug)]
enum Failure {
    /// What was asked for has failed: exit code 1.
    Failed(String),
    /// What was asked for makes no sense: exit code 2.
    Usage(String),
    /// It did not end in time: exit code 3.
    TimedOut(String),
}

/// What a command comes to: nothing more to say, or why not.
type Ended = Result<(), Failure>;

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::TimedOut(_) => 3,
        }
    }

    fn message(&self) -> &str {
        match self {
            Self::Failed(message) | Self::Usage(message) | Self::TimedOut(message) => message,
        }
    }
}

/// Runs the plugin. Exit codes: 0 done, 1 failed, 2 usage, 3 timed out.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no mistakes: clap knows.
        Err(error) => error.exit(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(act(&cli)),
        Err(error) => Err(Failure::Failed(error.to_string())),
    };
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    eprintln!("error: {}", printable(failure.message()));
    ExitCode::from(failure.code())
}

async fn act(cli: &Cli) -> Ended {
    match &cli.command {
        Command::Completion { shell } => return complete::script(*shell),
        Command::Man => return complete::man(),
        Command::Complete { words } => {
            complete::words(words, &cli.global).await;
            return Ok(());
        }
        _ => {}
    }
    let out = Out::new(cli.global.output);
    let context = Context::connect(&cli.global).await?;
    match &cli.command {
        Command::Run(args) => run::run(&context, out, args).await,
        Command::Ls(args) => tasks::list(&context, out, args).await,
        Command::Get(args) => tasks::get(&context, out, &args.names).await,
        Command::Watch(args) => watch::watch(&context, out, &args.names, args.wait_timeout).await,
        Command::Cancel(args) => tasks::cancel(&context, out, &args.names).await,
        Command::Retry(args) => tasks::retry(&context, out, args).await,
        Command::Explain(args) => tasks::explain(&context, out, args).await,
        Command::Nodes(args) => nodes::nodes(&context, out, args).await,
        Command::Schedule(command) => match command {
            ScheduleCommand::Ls(args) => schedules::list(&context, out, args).await,
            ScheduleCommand::Create(args) => schedules::create(&context, out, args).await,
            ScheduleCommand::Trigger(args) => schedules::trigger(&context, out, args).await,
            ScheduleCommand::Enable(args) => schedules::enable(&context, out, &args.names, true).await,
            ScheduleCommand::Disable(args) => schedules::enable(&context, out, &args.names, false).await,
            ScheduleCommand::Delete(args) => schedules::delete(&context, out, &args.names).await,
            ScheduleCommand::History(args) => schedules::history(&context, out, &args.name).await,
        },
        Command::Completion { .. } | Command::Man | Command::Complete { .. } => Ok(()),
    }
}

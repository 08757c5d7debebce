//! `kubectl prewarm`: manages tasks and schedules for users with a kubeconfig.
//!
//! Inputs: a command line, and the Kubernetes API with the permissions of the caller. Outputs:
//! tables, progress or objects on standard output, and an exit code. The plugin never calls the
//! Prewarmer server: it reads and writes the `PrewarmTask`s and `PrewarmSchedule`s that the server
//! works on.
//!
//! ```text
//!   args -> command (tasks, schedules, nodes, run, watch, audit) -> task_client, workload_client, client
//!                                                                   (API server)
//!                 explain, progress, resolve (pure) -> output
//! ```

mod args;
mod audit;
mod client;
mod complete;
mod error;
mod explain;
mod nodes;
mod output;
mod progress;
mod resolve;
mod run;
mod schedules;
mod task_client;
mod tasks;
mod watch;
mod workload_client;

use std::process::ExitCode;

use clap::Parser;

pub use self::args::PluginCli;
use self::{
    args::{PluginCommand, ScheduleCommand},
    client::ClusterClient,
    error::{CommandError, CommandResult},
    output::Output,
};
use crate::terminal::printable;

/// Runs the plugin. Exit codes: 0 success, 1 failure, 2 usage error, 3 timeout.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match PluginCli::try_parse() {
        Ok(cli) => cli,
        // Help and version are reported as errors, too; clap exits with code 0 for them.
        Err(error) => error.exit(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(&cli)),
        Err(error) => Err(CommandError::Failed(error.to_string())),
    };
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    eprintln!("error: {}", printable(failure.message()));
    ExitCode::from(failure.exit_code())
}

async fn dispatch(cli: &PluginCli) -> CommandResult {
    match &cli.command {
        PluginCommand::Completion { shell } => return complete::print_script(*shell),
        PluginCommand::Man => return complete::print_man(),
        PluginCommand::Complete { words } => {
            complete::print_candidates(words, &cli.global).await;
            return Ok(());
        }
        _ => {}
    }
    let out = Output::new(cli.global.output);
    let context = ClusterClient::connect(&cli.global).await?;
    match &cli.command {
        PluginCommand::Run(args) => run::run(&context, out, args).await,
        PluginCommand::Ls(args) => tasks::list(&context, out, args).await,
        PluginCommand::Get(args) => tasks::get(&context, out, &args.names).await,
        PluginCommand::Watch(args) => {
            watch::watch(&context, out, &args.names, args.wait_timeout).await
        }
        PluginCommand::Cancel(args) => tasks::cancel(&context, out, &args.names).await,
        PluginCommand::Retry(args) => tasks::retry(&context, out, args).await,
        PluginCommand::Explain(args) => tasks::explain(&context, out, args).await,
        PluginCommand::Nodes(args) => nodes::nodes(&context, out, args).await,
        PluginCommand::Audit(args) => audit::audit(&context, out, args).await,
        PluginCommand::Schedule(command) => match command {
            ScheduleCommand::Ls(args) => schedules::list(&context, out, args).await,
            ScheduleCommand::Create(args) => schedules::create(&context, out, args).await,
            ScheduleCommand::Trigger(args) => schedules::trigger(&context, out, args).await,
            ScheduleCommand::Enable(args) => {
                schedules::enable(&context, out, &args.names, true).await
            }
            ScheduleCommand::Disable(args) => {
                schedules::enable(&context, out, &args.names, false).await
            }
            ScheduleCommand::Delete(args) => schedules::delete(&context, out, &args.names).await,
            ScheduleCommand::History(args) => schedules::history(&context, out, &args.name).await,
        },
        PluginCommand::Completion { .. } | PluginCommand::Man | PluginCommand::Complete { .. } => {
            Ok(())
        }
    }
}

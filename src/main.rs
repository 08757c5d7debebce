//! `prewarmer` binary: parses the command line, starts telemetry and runs the command. It contains
//! the web pages.
#![deny(unreachable_pub)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unwrap_in_result)
)]

mod pages;

use std::{io::Write, process::ExitCode};

use jiff::Timestamp;
use prewarmer::{
    api,
    config::{self, Command, Config, LoadedCli, TokenCommand},
    manifests, serve, supervise, telemetry, token,
};
use prewarmer_cli::{
    audit,
    doctor::{self, DoctorSettings},
    extract::{ExtractFailure, ExtractOutput, extract},
};
use prewarmer_core::settings::SettingsError;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for invalid settings; clap uses the same value.
const USAGE_ERROR: u8 = 2;

/// Upper bound of worker threads of the main runtime. More threads cost memory on machines with
/// many processors and gain nothing: two threads answer 15,000 reviews per second.
const MAX_THREADS: usize = 4;
/// Worker threads of the admission runtime. One thread serves admission reviews only, so that the
/// decoding of a long list does not delay them. It answers 10,000 reviews per second. A second
/// thread would be notified for each review without work to do, which cost a sixth of the
/// throughput with one connection.
const ADMISSION_THREADS: usize = 1;
/// Worker threads of the election runtime. One thread renews the Lease only, so that neither REST
/// nor the controller delays it.
const ELECTION_THREADS: usize = 1;

fn main() -> ExitCode {
    // rustls panics at first use when no crypto provider is installed.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!(
            "prewarmer: the TLS crypto provider could not be installed: another one is active"
        );
        return ExitCode::FAILURE;
    }
    let LoadedCli { cli, warnings } = match config::load() {
        Ok(loaded) => loaded,
        Err(error) => return report_invalid_settings(&error),
    };
    let result = match cli.command {
        Command::Serve(args) => match Config::check(&args, config::pod_namespace()) {
            Ok(config) => return run(config, &warnings),
            Err(error) => return report_invalid_settings(&error),
        },
        Command::Crds => print(&manifests::crds()),
        Command::Manifests(args) => print(&manifests::install(&args)),
        Command::Settings(args) => print(&config::reference(&args).map_err(Into::into)),
        Command::Openapi => print(&Ok(api::document_text())),
        Command::Token(TokenCommand::Create(args)) => {
            match token::create(&args, Timestamp::now()) {
                Ok(made) => {
                    eprintln!("{}", made.instructions);
                    print(&Ok(made.manifest))
                }
                Err(error) => return report_invalid_settings(&error),
            }
        }
        Command::Doctor(args) => match DoctorSettings::check(&args) {
            Ok(asked) => return run_alone(doctor::run(&asked)),
            Err(error) => return report_invalid_settings(&error),
        },
        Command::Audit(args) => return run_alone(audit::run(&args)),
        Command::Extract(args) => match extract(&args) {
            Ok(found) => return print_extracted(found),
            Err(ExtractFailure::Settings(error)) => return report_invalid_settings(&error),
            Err(error) => Err(error.into()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report_error(&error),
    }
}

fn report_error(error: &anyhow::Error) -> ExitCode {
    eprintln!("prewarmer: {error:#}");
    ExitCode::FAILURE
}

fn report_invalid_settings(error: &SettingsError) -> ExitCode {
    eprintln!("prewarmer: {error}");
    ExitCode::from(USAGE_ERROR)
}

fn run(config: Config, warnings: &[String]) -> ExitCode {
    telemetry::start(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    supervise::log_panics();
    #[cfg(feature = "otel")]
    let _exporting = prewarmer::trace::start();
    serve_on_runtimes(config).unwrap_or_else(|error| report_error(&error))
}

fn serve_on_runtimes(config: Config) -> anyhow::Result<ExitCode> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let runtime = |name: &str, threads: usize| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(name)
            .enable_all()
            .build()
    };
    let (admission, election) =
        (runtime("admission", ADMISSION_THREADS)?, runtime("election", ELECTION_THREADS)?);
    let main = runtime("main", threads)?;
    let runtimes = serve::Runtimes {
        admission: admission.handle().clone(),
        election: election.handle().clone(),
    };
    let code = main.block_on(serve::serve(config, runtimes, pages::pages()));
    // Tasks that did not end within the shutdown time limit may never end, so they are not joined.
    for runtime in [main, admission, election] {
        runtime.shutdown_background();
    }
    code
}

/// Runs a command that needs no server, on this thread.
fn run_alone(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            eprintln!("prewarmer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the result of `extract`: images to standard output, everything else to standard error.
fn print_extracted(found: ExtractOutput) -> ExitCode {
    for note in &found.notes {
        eprintln!("{note}");
    }
    for error in &found.errors {
        eprintln!("prewarmer: {error}");
    }
    match print(&Ok(found.text)) {
        Ok(()) if found.errors.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => report_error(&error),
    }
}

fn print(text: &Result<String, manifests::ManifestError>) -> anyhow::Result<()> {
    let text = text.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

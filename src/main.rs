//! The `prewarmer` program: parse, start telemetry, run.

use std::{
    io::{Read, Write},
    process::ExitCode,
};

use anyhow::Context;
use jiff::Timestamp;
use prewarmer::{
    api,
    config::{self, Cli, Command, Config, Doctor, PolicySettings, TokenCommand},
    doctor, manifests, serve, supervise, telemetry, token,
    workload::{DEFAULT_NAMESPACE, extract_documents},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code for settings that make no sense, as clap's.
const USAGE: u8 = 2;

/// On machines with many processors more threads would cost memory and gain nothing: two answer 15,000 reviews a second.
const MAX_THREADS: usize = 4;
/// One thread answers reviews and does nothing else: a long list that is being read holds up no admission. It answers 10,000 a
/// second; a second one would be woken for each review in vain, which cost a sixth of the whole with one connection.
const ADMISSION_THREADS: usize = 1;
/// One thread renews the Lease and does nothing else: neither REST nor the controller keeps it waiting.
const ELECTION_THREADS: usize = 1;

fn main() -> ExitCode {
    // Before anything else: rustls panics at first use when it has no provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("prewarmer: a crypto provider is installed already");
        return ExitCode::FAILURE;
    }
    let result = match config::read() {
        Ok(Cli { command: Command::Serve(args) }) => match Config::check(&args, config::pod_namespace()) {
            Ok(config) => return run(config),
            Err(problems) => return usage(&problems),
        },
        Ok(Cli { command: Command::Crds }) => print(&manifests::crds()),
        Ok(Cli { command: Command::Manifests(args) }) => print(&manifests::install(&args)),
        Ok(Cli { command: Command::Settings }) => print(&Ok(config::table())),
        Ok(Cli { command: Command::Openapi }) => print(&Ok(api::document_text())),
        Ok(Cli { command: Command::Token(TokenCommand::Create(args)) }) => match token::create(&args, Timestamp::now())
        {
            Ok(made) => {
                eprintln!("{}", made.told);
                print(&Ok(made.manifest))
            }
            Err(problems) => return usage(&problems),
        },
        Ok(Cli { command: Command::Doctor(args) }) => match Doctor::check(&args) {
            Ok(asked) => return examine(&asked),
            Err(problems) => return usage(&problems),
        },
        Ok(Cli { command: Command::Extract(args) }) => match PolicySettings::check(&args.policy) {
            Ok(settings) => extract(&args.file, settings),
            Err(problems) => return usage(&problems),
        },
        Err(problems) => return usage(&problems),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("prewarmer: {error:#}");
    ExitCode::FAILURE
}

fn usage(problems: &[String]) -> ExitCode {
    eprintln!("prewarmer: {} of the settings cannot be used:", problems.len());
    for problem in problems {
        eprintln!("  {problem}");
    }
    ExitCode::from(USAGE)
}

fn run(config: Config) -> ExitCode {
    telemetry::start(&config.log_level, config.log_format);
    supervise::log_panics();
    #[cfg(feature = "otel")]
    let _exporting = prewarmer::trace::start();
    serve_on_runtimes(config).unwrap_or_else(|error| failed(&error))
}

fn serve_on_runtimes(config: Config) -> anyhow::Result<ExitCode> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let runtime = |name: &str, threads: usize| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
    };
    let (admission, election) = (runtime("admission", ADMISSION_THREADS)?, runtime("election", ELECTION_THREADS)?);
    let main = runtime("main", threads)?;
    let runtimes = serve::Runtimes { admission: admission.handle().clone(), election: election.handle().clone() };
    let code = main.block_on(serve::serve(config, runtimes));
    // What has not ended in its time may never end: it is not waited for.
    for runtime in [main, admission, election] {
        runtime.shutdown_background();
    }
    code
}

fn examine(asked: &Doctor) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(doctor::run(asked)),
        Err(error) => {
            eprintln!("prewarmer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &Result<String, manifests::ManifestError>) -> anyhow::Result<()> {
    let text = text.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn extract(file: &str, settings: PolicySettings) -> anyhow::Result<()> {
    let mut text = String::new();
    if file == "-" {
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
    }
    let source = if file == "-" { "standard input" } else { file };
    let policy = serve::policy(settings, config::DEFAULT_NAMESPACE, None);
    let (found, skipped) =
        extract_documents(&text, &policy, DEFAULT_NAMESPACE).map_err(|error| anyhow::anyhow!("{source}: {error}"))?;
    for title in skipped {
        eprintln!("{title}: no workload, skipped");
    }
    print(&Ok(serde_json::to_string_pretty(&found)? + "\n"))
}

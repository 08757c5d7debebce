//! `kubectl-prewarm` binary: the kubectl plugin that `kubectl prewarm` runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    // rustls panics at first use when no crypto provider is installed.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!(
            "kubectl-prewarm: the TLS crypto provider could not be installed: another one is active"
        );
        return ExitCode::FAILURE;
    }
    prewarmer_cli::plugin::main()
}

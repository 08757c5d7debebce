//! `kubectl prewarm`, as kubectl calls it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: rustls panics at first use when it has no provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("kubectl-prewarm: a crypto provider is installed already");
        return ExitCode::FAILURE;
    }
    prewarmer::plugin::main()
}

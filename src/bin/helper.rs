//! The helper that runs in worker pods, in place of an image's own program.
//!
//! `install DIR` copies this program to `DIR/prewarmer-helper`; `ok` ends with
//! exit code 0: an image whose container got this far is on the node. It uses
//! the standard library alone and is linked statically, so that it runs in an
//! image that has nothing in it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::ExitCode};

const NAME: &str = "prewarmer-helper";
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ok"] => ExitCode::SUCCESS,
        ["install", folder] => match install(Path::new(folder)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{NAME}: cannot install into {folder}: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: {NAME} ok | {NAME} install DIR");
            ExitCode::from(USAGE)
        }
    }
}

fn install(folder: &Path) -> std::io::Result<()> {
    let target = folder.join(NAME);
    fs::copy("/proc/self/exe", &target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
}

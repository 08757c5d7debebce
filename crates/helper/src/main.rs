//! Helper that runs in worker pods instead of the entrypoint of an image.
//!
//! `install DIR` copies this program to `DIR/prewarmer-helper`. `ok` exits with code 0: the image
//! of a container that runs it is present on the node. The helper uses the standard library only
//! and is linked statically, so that it runs in an empty image.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::ExitCode};

const NAME: &str = "prewarmer-helper";
const USAGE_ERROR: u8 = 2;

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
            ExitCode::from(USAGE_ERROR)
        }
    }
}

fn install(folder: &Path) -> std::io::Result<()> {
    let target = folder.join(NAME);
    fs::copy("/proc/self/exe", &target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
}

//! Files of a manifest, as `-f` of kubectl names them: files, directories and standard input.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use prewarmer_core::workload::{ExtractError, ManifestLimits, ParsedManifest, WorkloadKinds};

/// Extensions of the files that are read in directories, as by kubectl.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// Maximum number of files and directories. It bounds a directory tree that was named by mistake.
const MAX_ENTRIES: usize = 20_000;
/// Maximum depth of directories.
const MAX_DEPTH: usize = 64;
/// Name of standard input in messages.
const STANDARD_INPUT: &str = "standard input";

/// Failure to read a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    /// A file cannot be read; contains its name and the reason.
    #[error("{0}: {1}")]
    Unreadable(String, String),
    /// A URL was named.
    #[error("{0}: URLs are not read; pipe the text instead: curl -fsSL {0} | ... -f -")]
    Url(String),
    /// A directory contains no manifest.
    #[error("{0}: the directory contains no file with the extension .yaml, .yml or .json{1}")]
    Empty(String, &'static str),
    /// Standard input is named twice.
    #[error("standard input can be read only once: name - once")]
    RepeatedInput,
    /// Directories have too many entries.
    #[error("{0}: more than {MAX_ENTRIES} files and directories: name fewer directories")]
    TooManyFiles(String),
    /// A directory is nested too deep.
    #[error("{0}: directories are nested more than {MAX_DEPTH} levels deep")]
    TooDeep(String),
    /// The manifest as a whole is too large.
    #[error("{0}: {1}")]
    Limit(String, ExtractError),
}

/// Reads all files that `names` name into one manifest. A file that cannot be read is an error of
/// its own, and does not affect the others; after the error of a limit nothing more is read.
pub(crate) fn read(
    names: &[String],
    recursive: bool,
    kinds: &WorkloadKinds,
) -> (ParsedManifest, Vec<FileError>) {
    let mut reader = Reader {
        manifest: ParsedManifest::new(ManifestLimits::LOCAL),
        kinds,
        recursive,
        entries: 0,
        errors: Vec::new(),
        input_was_read: false,
        bytes_left: ManifestLimits::LOCAL.bytes,
    };
    for name in names.iter().filter(|name| !name.is_empty()) {
        if let Err(error) = reader.read_name(name) {
            let last = matches!(error, FileError::Limit(..) | FileError::TooManyFiles(_));
            reader.errors.push(error);
            if last {
                break;
            }
        }
    }
    (reader.manifest, reader.errors)
}

struct Reader<'k> {
    manifest: ParsedManifest,
    kinds: &'k WorkloadKinds,
    recursive: bool,
    entries: usize,
    errors: Vec<FileError>,
    input_was_read: bool,
    bytes_left: usize,
}

impl Reader<'_> {
    fn read_name(&mut self, name: &str) -> Result<(), FileError> {
        if name == "-" {
            if std::mem::replace(&mut self.input_was_read, true) {
                return Err(FileError::RepeatedInput);
            }
            return self.read_stream(STANDARD_INPUT, io::stdin().lock());
        }
        if ["http://", "https://"].iter().any(|scheme| name.starts_with(scheme)) {
            return Err(FileError::Url(name.to_owned()));
        }
        let path = Path::new(name);
        if !fs::metadata(path).map_err(|error| unreadable(path, &error))?.is_dir() {
            return self.read_file(path);
        }
        let mut files = Vec::new();
        self.list(path, 0, &mut files)?;
        if files.is_empty() {
            let hint = if self.recursive { "" } else { "; subdirectories are read with -R" };
            return Err(FileError::Empty(name.to_owned(), hint));
        }
        for file in files {
            match self.read_file(&file) {
                Err(error @ FileError::Unreadable(..)) => self.errors.push(error),
                other => other?,
            }
        }
        Ok(())
    }

    /// Lists the manifests of a directory in the order of their names.
    fn list(
        &mut self,
        directory: &Path,
        depth: usize,
        files: &mut Vec<PathBuf>,
    ) -> Result<(), FileError> {
        if depth > MAX_DEPTH {
            return Err(FileError::TooDeep(directory.display().to_string()));
        }
        let failed = |error: &io::Error| unreadable(directory, error);
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(|error| failed(&error))? {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(FileError::TooManyFiles(directory.display().to_string()));
            }
            paths.push(entry.map_err(|error| failed(&error))?.path());
        }
        paths.sort();
        for path in paths {
            // A link to a directory is not followed, as by kubectl; one to a file is.
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            let is_file = || fs::metadata(&path).is_ok_and(|found| found.is_file());
            if is_directory && self.recursive {
                self.list(&path, depth + 1, files)?;
            } else if !is_directory && has_extension(&path) && is_file() {
                files.push(path);
            }
        }
        Ok(())
    }

    fn read_file(&mut self, path: &Path) -> Result<(), FileError> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        self.read_stream(&path.display().to_string(), file)
    }

    /// Reads a stream of unknown length, such as a pipe: one byte more than is allowed, which shows
    /// that it is too long.
    fn read_stream(&mut self, name: &str, stream: impl Read) -> Result<(), FileError> {
        let mut bytes = Vec::new();
        let most = u64::try_from(self.bytes_left).unwrap_or(u64::MAX).saturating_add(1);
        let read = stream.take(most).read_to_end(&mut bytes);
        read.map_err(|error| unreadable(Path::new(name), &error))?;
        self.bytes_left = self.bytes_left.saturating_sub(bytes.len());
        let read = self.manifest.read(name, &bytes, self.kinds);
        read.map_err(|error| FileError::Limit(name.to_owned(), error))
    }
}

fn has_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

fn unreadable(path: &Path, error: &io::Error) -> FileError {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::IsADirectory => "it is a directory".into(),
        _ => format!("cannot be read: {error}"),
    };
    FileError::Unreadable(path.display().to_string(), why)
}

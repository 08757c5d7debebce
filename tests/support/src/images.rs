//! Images in the registry of the real node.

use std::{path::Path, process::Command};

use crate::cluster::Cluster;

impl Cluster {
    fn crane(&self, words: &[&str]) -> String {
        let output =
            Command::new(Path::new(self.var("BIN")).join("crane")).args(words).output().unwrap();
        assert!(
            output.status.success(),
            "crane {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Pushes an image that contains one file, which is the entry point if `entrypoint` is set.
    pub fn push(&self, reference: &str, file: &Path, entrypoint: bool) {
        let work = tempfile::tempdir_in(&self.dir).unwrap();
        let tar = work.path().join("layer.tar");
        let status = Command::new("tar")
            .arg("-C")
            .arg(file.parent().unwrap())
            .arg("-cf")
            .arg(&tar)
            .arg(file.file_name().unwrap())
            .status();
        assert!(status.unwrap().success());
        self.crane(&["append", "--insecure", "-f", tar.to_str().unwrap(), "-t", reference]);
        if entrypoint {
            let program = format!("/{}", file.file_name().unwrap().to_str().unwrap());
            self.crane(&[
                "mutate",
                "--insecure",
                "--entrypoint",
                &program,
                reference,
                "-t",
                reference,
            ]);
        }
    }

    /// Pushes an image that contains only a file of unique content.
    pub fn push_data(&self, reference: &str) {
        let work = tempfile::tempdir_in(&self.dir).unwrap();
        let file = work.path().join("data");
        std::fs::write(&file, reference).unwrap();
        self.push(reference, &file, false);
    }

    /// Pushes an image that contains only a file with this content; returns the digest of its
    /// manifest.
    pub fn push_content(&self, reference: &str, content: &str) -> String {
        let work = tempfile::tempdir_in(&self.dir).unwrap();
        let file = work.path().join("data");
        std::fs::write(&file, content).unwrap();
        self.push(reference, &file, false);
        self.crane(&["digest", "--insecure", reference]).trim().to_owned()
    }

    /// Builds the static helper and pushes it to this cluster's registry, once; returns its reference.
    pub fn push_helper(&self, registry: &str) -> String {
        self.helper
            .get_or_init(|| {
                let work = tempfile::tempdir_in(&self.dir).unwrap();
                let program = work.path().join("prewarmer-helper");
                let status = Command::new("make")
                    .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
                    .args(["-s", "helper", &format!("HELPER={}", program.display())])
                    .status();
                assert!(status.unwrap().success(), "the helper could not be built");
                let reference = format!("{registry}/prewarmer-helper:test");
                self.push(&reference, &program, true);
                reference
            })
            .clone()
    }
}

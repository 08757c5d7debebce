//! Files beside the code: links in the documentation lead somewhere, files of others are as they were published, and base images are
//! named by digest.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

fn files(folder: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, ending, into);
        } else if path.to_string_lossy().ends_with(ending) {
            into.push(path);
        }
    }
}

fn pages(folder: &Path, into: &mut Vec<PathBuf>) {
    files(folder, ".md", into);
}

/// A heading as GitHub's anchors have it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept: String = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect();
    kept.replace(' ', "-")
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(page).unwrap_or_default();
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains(' ')).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].iter().map(|page| root.join(page)).collect();
    for folder in ["docs", "certs", "sdk", "tests"] {
        pages(&root.join(folder), &mut all);
    }
    assert!(all.len() > 15, "{all:?}");
    let mut broken = Vec::new();
    for page in &all {
        let text = std::fs::read_to_string(page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            if !target.exists() || (!heading.is_empty() && !anchors(&target).contains(heading)) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The threat model names tests and files: each exists.
#[test]
fn the_tests_that_the_threat_model_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    files(&root.join("src"), ".rs", &mut sources);
    files(&root.join("tests"), ".rs", &mut sources);
    let code: String = sources.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split('|').nth_back(1));
    let names: BTreeSet<&str> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let is_test =
        |name: &str| name.len() > 15 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_there = |name: &str| {
        if is_test(name) {
            code.contains(&format!("fn {name}("))
        } else {
            !name.contains('/') || root.join(name).exists()
        }
    };
    let missing: Vec<&&str> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(names.len() > 60 && missing.is_empty(), "of {}: {missing:#?}", names.len());
}

/// `deploy/vendored.json` has each minified file that is not ours, with its hash as published; the SBOM contains the list.
#[test]
fn files_of_others_are_as_they_were_published() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(root.join("deploy/vendored.json")).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let published: BTreeMap<PathBuf, String> = list
        .iter()
        .map(|one| (root.join(text(&one["properties"][0]["value"])), text(&one["hashes"][0]["content"])))
        .collect();
    let mut vendored = Vec::new();
    files(&root.join("src"), ".min.js", &mut vendored);
    assert_eq!(vendored.iter().collect::<BTreeSet<_>>(), published.keys().collect::<BTreeSet<_>>());
    for (file, expected) in published {
        let hash = Sha256::digest(std::fs::read(&file).unwrap());
        let hash = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(hash, expected, "{}: is it another version, or was it changed?", file.display());
    }
}

/// Nothing that somebody may put behind a tag tomorrow is built with, and nothing but our programs is in an image.
#[test]
fn base_images_are_named_by_digest() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).unwrap();
    let arguments: BTreeMap<String, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ARG ")?.split_once('='))
        .map(|(name, value)| (format!("${{{name}}}"), value))
        .collect();
    let mut stages = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        let mut words = line.split_whitespace();
        let image = words.next().unwrap();
        let image = arguments.get(image).copied().unwrap_or(image);
        let name = words.nth(1).unwrap_or_default();
        let pinned = image.split_once("@sha256:").is_some_and(|(_, digest)| digest.len() == 64);
        assert!(image == "scratch" || pinned, "FROM {line}: expected scratch, or an image by digest");
        stages.push((name, image == "scratch"));
    }
    assert_eq!(stages, [("build", false), ("helper", true), ("server", true)]);
}

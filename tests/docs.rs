//! Checks of files outside the code: links in the documentation resolve, vendored files are
//! unchanged, base images are pinned by digest, and prose uses the terms of the glossary.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

fn collect_files(folder: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_files(&path, ending, into);
        } else if path.to_string_lossy().ends_with(ending) {
            into.push(path);
        }
    }
}

fn collect_pages(folder: &Path, into: &mut Vec<PathBuf>) {
    collect_files(folder, ".md", into);
}

/// Returns the anchor that GitHub generates for a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept: String =
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect();
    kept.replace(' ', "-")
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(page).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains(' '))
        .collect()
}

#[test]
fn all_links_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
        .iter()
        .map(|page| root.join(page))
        .collect();
    for folder in ["docs", "certs", "sdk", "tests"] {
        collect_pages(&root.join(folder), &mut all);
    }
    assert!(all.len() > 15, "{all:?}");
    let mut broken = Vec::new();
    for page in &all {
        let text = std::fs::read_to_string(page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            if !target.exists() || (!heading.is_empty() && !anchors(&target).contains(heading)) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Verifies that each test and file exists that the threat model names in its last column and the
/// table of promises in its second.
#[test]
fn named_tests_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["src", "crates"] {
        collect_files(&root.join(folder), ".rs", &mut sources);
    }
    collect_files(&root.join("tests"), ".rs", &mut sources);
    let code: String = sources.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let read = |page: &str| std::fs::read_to_string(root.join(page)).unwrap();
    let (model, promises) = (read("docs/security.md"), read("docs/develop/testing.md"));
    let cells = |page: &'_ str, column: usize| -> Vec<String> {
        let rows = page.lines().filter(|line| line.starts_with("| "));
        rows.filter_map(|line| line.split('|').nth_back(column)).map(str::to_owned).collect()
    };
    let cells = [cells(&model, 1), cells(&promises, 2)].concat();
    let names: BTreeSet<&str> =
        cells.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let is_test = |name: &str| {
        name.len() > 15
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let is_there = |name: &str| {
        if is_test(name) {
            code.contains(&format!("fn {name}("))
        } else {
            !name.contains('/') || root.join(name).exists()
        }
    };
    let missing: Vec<&&str> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(names.len() > 120 && missing.is_empty(), "of {}: {missing:#?}", names.len());
}

/// `deploy/vendored.json` lists each minified third-party file with its published hash; the SBOM
/// contains the list.
#[test]
fn vendored_files_match_published_hashes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(root.join("deploy/vendored.json")).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let published: BTreeMap<PathBuf, String> = list
        .iter()
        .map(|one| {
            (root.join(text(&one["properties"][0]["value"])), text(&one["hashes"][0]["content"]))
        })
        .collect();
    let mut vendored = Vec::new();
    collect_files(&root.join("src"), ".min.js", &mut vendored);
    assert_eq!(vendored.iter().collect::<BTreeSet<_>>(), published.keys().collect::<BTreeSet<_>>());
    for (file, expected) in published {
        let hash = Sha256::digest(std::fs::read(&file).unwrap());
        let hash = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(
            hash,
            expected,
            "{}: the hash differs from the published one; update deploy/vendored.json for a new version",
            file.display()
        );
    }
}

/// Verifies that no image of the build can change behind a tag, and that the images contain only
/// our programs.
#[test]
fn base_images_are_pinned_by_digest() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).unwrap();
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
        assert!(
            image == "scratch" || pinned,
            "FROM {line}: expected scratch, or an image by digest"
        );
        stages.push((name, image == "scratch"));
    }
    assert_eq!(stages, [("build", false), ("helper", true), ("server", true)]);
}

/// Line of `docs/develop/words.tsv`: the phrases that the pattern matches, in lower case, and the
/// reason.
struct ForbiddenWord {
    phrases: Vec<String>,
    reason: String,
}

impl ForbiddenWord {
    /// Parses a line; returns `None` for comments and lines without a TAB.
    fn parse(line: &str) -> Option<Self> {
        let (pattern, reason) = line.split_once('\t').filter(|_| !line.starts_with('#'))?;
        let phrases = pattern.split('|').flat_map(Self::expand).collect();
        Some(Self { phrases, reason: reason.to_owned() })
    }

    /// Returns all phrases that an alternative matches, with and without each optional character.
    fn expand(alternative: &str) -> Vec<String> {
        let mut phrases = vec![String::new()];
        for character in alternative.to_lowercase().chars() {
            if character == '?' {
                let mut shorter = phrases.clone();
                for phrase in &mut shorter {
                    phrase.pop();
                }
                phrases.extend(shorter);
            } else {
                for phrase in &mut phrases {
                    phrase.push(character);
                }
            }
        }
        phrases
    }

    /// Returns offset and phrase of each match in a text that is in lower case.
    fn matches(&self, text: &str) -> BTreeSet<(usize, &str)> {
        let of =
            |phrase| phrase_offsets(text, phrase).into_iter().map(move |offset| (offset, phrase));
        self.phrases.iter().flat_map(|phrase| of(phrase.as_str())).collect()
    }
}

/// Returns the offsets at which a phrase occurs between word boundaries. A space of the phrase
/// matches any white space.
fn phrase_offsets(text: &str, phrase: &str) -> Vec<usize> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let mut words = phrase.split(' ');
    let first = words.next().unwrap_or_default();
    let is_match = |start: &usize| {
        let mut rest = &text[start + first.len()..];
        let continues = words.clone().all(|word| {
            let next = rest.trim_start();
            let found = next.len() < rest.len() && next.starts_with(word);
            if found {
                rest = &next[word.len()..];
            }
            found
        });
        let before = text[..*start].chars().next_back();
        continues && !before.is_some_and(is_word) && !rest.chars().next().is_some_and(is_word)
    };
    text.match_indices(first).map(|(start, _)| start).filter(is_match).collect()
}

/// Returns the doc comments and string literals of Rust code with the line of each. Consecutive
/// lines of a doc comment are one text.
fn rust_prose(source: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut at, mut line, mut last_doc_line) = (0, 1, None);
    while at < source.len() {
        let rest = &source[at..];
        let end_of = |from: usize, end: &str| {
            rest[from..].find(end).map_or(rest.len(), |n| from + n + end.len())
        };
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let hashes = rest[word..].bytes().take_while(|byte| *byte == b'#').count();
        let length = if rest.starts_with("///") || rest.starts_with("//!") {
            let length = rest.find('\n').unwrap_or(rest.len());
            if let Some((_, text)) = found.last_mut().filter(|_| last_doc_line == Some(line - 1)) {
                text.push('\n');
                text.push_str(&rest[3..length]);
            } else {
                found.push((line, rest[3..length].to_owned()));
            }
            last_doc_line = Some(line);
            length
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            end_of(2, "*/")
        } else if ["r", "br", "cr"].contains(&&rest[..word])
            && rest[word + hashes..].starts_with('"')
        {
            let start = word + hashes + 1;
            let length = end_of(start, &format!("\"{}", "#".repeat(hashes)));
            found.push((line, rest[start..length].to_owned()));
            length
        } else if rest.starts_with('"') {
            let (length, text) = string_literal(rest);
            found.push((line, text));
            length
        } else if rest.starts_with("'\\") {
            end_of(3, "'")
        } else if rest.starts_with('\'') {
            // A character, or a lifetime.
            let mut characters = rest.char_indices().skip(2);
            characters
                .next()
                .filter(|(_, character)| *character == '\'')
                .map_or(1, |(index, _)| index + 1)
        } else {
            word.max(rest.chars().next().map_or(1, char::len_utf8))
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// Returns the length of the string literal at the start of the code, and its text. Escape
/// sequences become spaces, so that the text has the same line breaks as the code.
fn string_literal(code: &str) -> (usize, String) {
    let mut text = String::new();
    let mut characters = code.char_indices().skip(1);
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (index + 1, text),
            '\\' => {
                let escaped = characters.next().map(|(_, escaped)| escaped);
                text.push(if escaped == Some('\n') { '\n' } else { ' ' });
            }
            _ => text.push(character),
        }
    }
    (code.len(), text)
}

/// Returns the Unreleased section of the changelog. The text before it becomes empty lines.
fn unreleased(changelog: &str) -> String {
    let mut is_inside = false;
    let mut kept = String::new();
    for line in changelog.lines() {
        if line.starts_with("## ") {
            is_inside = line.to_lowercase().contains("unreleased");
        }
        kept += if is_inside { line } else { "" };
        kept.push('\n');
    }
    kept
}

/// Returns the prose of a file with the line of each text.
fn prose(name: &str, text: &str) -> Vec<(usize, String)> {
    match name {
        "CHANGELOG.md" => vec![(1, unreleased(text))],
        // The tables list terms, with old names of them.
        "docs/develop/glossary.md" => {
            let lines = text.lines().map(|line| if line.starts_with('|') { "" } else { line });
            vec![(1, lines.collect::<Vec<_>>().join("\n"))]
        }
        _ if Path::new(name).extension().is_some_and(|ending| ending == "rs") => rust_prose(text),
        _ => vec![(1, text.to_owned())],
    }
}

/// Verifies that prose of documents, code and chart does not use the words of
/// `docs/develop/words.tsv`.
#[test]
fn documents_use_the_glossary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("docs/develop/words.tsv")).unwrap();
    let words: Vec<ForbiddenWord> = list.lines().filter_map(ForbiddenWord::parse).collect();
    assert!(words.len() > 10, "docs/develop/words.tsv has {} words", words.len());
    let names = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "deploy/chart/values.yaml"];
    let mut all: Vec<PathBuf> = names.iter().map(|name| root.join(name)).collect();
    collect_pages(&root.join("docs"), &mut all);
    collect_files(&root.join("deploy/chart/templates"), "", &mut all);
    for folder in ["src", "crates"] {
        collect_files(&root.join(folder), ".rs", &mut all);
    }
    let mut hits = Vec::new();
    for path in &all {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        for (first_line, text) in prose(&name, &std::fs::read_to_string(path).unwrap()) {
            let text = text.to_lowercase();
            for word in &words {
                for (offset, phrase) in word.matches(&text) {
                    let line = first_line + text[..offset].matches('\n').count();
                    hits.push(format!("{name}:{line}: {phrase}: {}", word.reason));
                }
            }
        }
    }
    assert!(
        hits.is_empty(),
        "{} words of docs/develop/words.tsv are used:\n{}",
        hits.len(),
        hits.join("\n")
    );
}

#[test]
fn forbidden_words_are_found_in_rust_prose() {
    let code = concat!(
        "/// One comes\n/// to two.\nfn f<'a>(x: &'a str) { g(\"a\\nTold \\\"b\\\"\", '\"', '\\'', r#\"kin\"told\"#); }\n",
        "// told\nconst TOLD: &str = \"one\\\n two tells\\\n three\";\n",
    );
    let word = ForbiddenWord::parse("told|tells?|comes? to\tuse others").unwrap();
    let mut lines = Vec::new();
    for (first_line, text) in rust_prose(code) {
        let text = text.to_lowercase();
        lines.extend(
            word.matches(&text)
                .iter()
                .map(|(at, _)| first_line + text[..*at].matches('\n').count()),
        );
    }
    assert_eq!(lines, [1, 3, 3, 6]);
    assert!(word.matches("untold, told_by and comes today").is_empty());
}

/// Rows: page, phrase with the number, source file, definition of the constant. When a constant
/// changes, change the phrase of the page and both cells.
const CONSTANTS: &[(&str, &str, &str, &str)] = &[
    (
        "tasks.md",
        "| `images` | 100 references of 520 bytes |",
        "crates/core/src/task/bounds.rs",
        "MAX_IMAGES: usize = 100;",
    ),
    (
        "tasks.md",
        "100 references of 520 bytes",
        "crates/core/src/task/bounds.rs",
        "MAX_IMAGE_REFERENCE: usize = 520;",
    ),
    (
        "tasks.md",
        "| `deadline` | 1 second to 168 hours |",
        "crates/core/src/task/bounds.rs",
        "MAX_DEADLINE: Duration = Duration::from_secs(168 * 3600);",
    ),
    (
        "tasks.md",
        "| `timeout` | 1 second to 24 hours |",
        "crates/core/src/task/bounds.rs",
        "MAX_DURATION: Duration = Duration::from_secs(24 * 3600);",
    ),
    (
        "tasks.md",
        "31,536,000 (a year)",
        "crates/core/src/task/bounds.rs",
        "MAX_TTL_SECONDS: u32 = 365 * 24 * 3600;",
    ),
    (
        "tasks.md",
        "64 labels, of Kubernetes' own lengths",
        "crates/core/src/task/bounds.rs",
        "MAX_SELECTOR: usize = 64;",
    ),
    (
        "tasks.md",
        "20 terms of 20 rules",
        "crates/core/src/task/bounds.rs",
        "MAX_TERMS: usize = 20;",
    ),
    (
        "tasks.md",
        "1,000 values in all `matchExpressions`",
        "crates/core/src/task/bounds.rs",
        "MAX_VALUES: usize = 1000;",
    ),
    (
        "tasks.md",
        "5,000 in all `matchFields`",
        "crates/core/src/task/bounds.rs",
        "MAX_NODE_NAMES: usize = 5000;",
    ),
    (
        "tasks.md",
        "| `tolerations` | 100 |",
        "crates/core/src/task/bounds.rs",
        "MAX_TOLERATIONS: usize = 100;",
    ),
    (
        "tasks.md",
        "| `imagePullSecrets` | 20 |",
        "crates/core/src/task/bounds.rs",
        "MAX_PULL_SECRETS: usize = 20;",
    ),
    (
        "tasks.md",
        "10 addresses of 2,048 bytes",
        "crates/core/src/task/bounds.rs",
        "MAX_NOTIFICATIONS: usize = 10;",
    ),
    (
        "tasks.md",
        "10 addresses of 2,048 bytes",
        "crates/core/src/task/bounds.rs",
        "MAX_URL: usize = 2048;",
    ),
    (
        "tasks.md",
        "512 KiB of JSON",
        "crates/core/src/task/bounds.rs",
        "MAX_SPEC: usize = 512 << 10;",
    ),
    (
        "tasks.md",
        "| nodes of a plan | 25,000 |",
        "crates/core/src/task/bounds.rs",
        "MAX_PLAN_NODES: usize = 25_000;",
    ),
    ("tasks.md", "(at most 100)", "crates/core/src/task/validate.rs", "AUTO_NODES: u32 = 100;"),
    (
        "tasks.md",
        "lists up to 100 failures",
        "crates/api/src/task/status.rs",
        "MAX_FAILED_NODES: usize = 100;",
    ),
    (
        "alerts.md",
        "the queue holds 4,096 objects",
        "crates/core/src/intake/queue/hint_queue.rs",
        "MAX_OBJECTS: usize = 4096;",
    ),
    (
        "alerts.md",
        "one namespace may have 1,024",
        "crates/core/src/intake/queue/hint_queue.rs",
        "MAX_NAMESPACE_OBJECTS: usize = MAX_OBJECTS / 4;",
    ),
    (
        "rest-api.md",
        "1 MiB; a form of the pages 64 KiB",
        "src/api/body.rs",
        "MAX_BODY: usize = 1024 * 1024;",
    ),
    (
        "rest-api.md",
        "a form of the pages 64 KiB",
        "src/api/body.rs",
        "MAX_FORM: usize = 64 * 1024;",
    ),
    (
        "rest-api.md",
        "the sign-in 16 KiB",
        "src/api/body.rs",
        "MAX_ANONYMOUS_FORM: usize = 16 * 1024;",
    ),
    (
        "rest-api.md",
        "| values in a JSON body | 20,000 |",
        "src/api/bounded_json.rs",
        "MAX_VALUES: usize = 20_000;",
    ),
    (
        "rest-api.md",
        "16 MiB; 4 MiB per caller",
        "src/api/budgets.rs",
        "TOTAL_BODY_BYTES: usize = 16 * 1024 * 1024;",
    ),
    (
        "rest-api.md",
        "32 MiB; 8 MiB per caller",
        "src/api/budgets.rs",
        "UNREAD_RESPONSE_BYTES: (usize, usize) = (32 * 1024 * 1024, 8 * 1024 * 1024);",
    ),
    (
        "rest-api.md",
        "| 4,096; `--api-watches` per caller",
        "src/api/budgets.rs",
        "MAX_WATCHES: usize = 4096;",
    ),
    (
        "rest-api.md",
        "| 2; 1 per caller |",
        "src/api/budgets.rs",
        "EXTRACTIONS: (usize, usize) = (2, 1);",
    ),
    (
        "rest-api.md",
        "100 per second, with a burst of 400",
        "src/api/budgets.rs",
        "ANONYMOUS_CALLS: (u32, u32) = (100, 400);",
    ),
    (
        "rest-api.md",
        "| 30 s | the watch ends |",
        "src/api/watch.rs",
        "SEND_TIMEOUT: Duration = Duration::from_secs(30);",
    ),
    (
        "rest-api.md",
        "a keep-alive every 15 s",
        "src/api/watch.rs",
        "HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);",
    ),
    ("rest-api.md", "20 namespaces, 2 s", "src/api/extract.rs", "MAX_NAMESPACES: usize = 20;"),
    (
        "rest-api.md",
        "60,000 values, 64 levels",
        "crates/core/src/workload/manifest/value.rs",
        "MAX_DEPTH: usize = 64;",
    ),
    (
        "annotations.md",
        "separates up to 10 paths",
        "crates/core/src/workload/kinds.rs",
        "MAX_PATHS: usize = 10;",
    ),
    (
        "rest-api.md",
        "| 20,000 per day;",
        "src/api/settings.rs",
        "MAX_IDEMPOTENCY_KEYS: u32 = 20_000;",
    ),
    (
        "audit.md",
        "| events | 100,000 |",
        "crates/cli/src/audit/pages.rs",
        "MAX_EVENTS: usize = 100_000;",
    ),
    (
        "audit.md",
        "| pods | 150,000 |",
        "crates/cli/src/audit/pages.rs",
        "MAX_PODS: usize = 150_000;",
    ),
    (
        "audit.md",
        "| ReplicaSets, Jobs | 50,000 of each",
        "crates/cli/src/audit/pages.rs",
        "MAX_OWNERS: usize = 50_000;",
    ),
    (
        "audit.md",
        "| nodes | 25,000 |",
        "crates/cli/src/audit/pages.rs",
        "MAX_NODES: usize = 25_000;",
    ),
    (
        "audit.md",
        "| one page | 32 MiB;",
        "crates/cli/src/audit/pages.rs",
        "MAX_PAGE_BYTES: usize = 32 << 20;",
    ),
    (
        "audit.md",
        "1 GiB, 1,000 requests, 180 s",
        "crates/cli/src/audit/pages.rs",
        "MAX_TOTAL_BYTES: usize = 1 << 30;",
    ),
    (
        "audit.md",
        "1 GiB, 1,000 requests, 180 s",
        "crates/cli/src/audit/pages.rs",
        "MAX_REQUESTS: u32 = 1000;",
    ),
    (
        "audit.md",
        "1 GiB, 1,000 requests, 180 s",
        "crates/cli/src/audit/pages.rs",
        "MAX_TIME: Duration = Duration::from_secs(180);",
    ),
    (
        "audit.md",
        "| one message | 1,024 bytes, a wait of a day, an image of 1 TiB,",
        "crates/core/src/audit/message.rs",
        "MAX_MESSAGE_BYTES: usize = 1024;",
    ),
    (
        "audit.md",
        "an image of 1 TiB, 300 repetitions",
        "crates/core/src/audit/recording.rs",
        "MAX_OCCURRENCES: u32 = 300;",
    ),
    (
        "audit.md",
        "the task starts after 3 s",
        "crates/core/src/audit/simulation.rs",
        "TASK_START: Duration = Duration::from_secs(3);",
    ),
    (
        "audit.md",
        "the slowest recorded pull of the image and 5 s",
        "crates/core/src/audit/simulation.rs",
        "BATCH_OVERHEAD: Duration = Duration::from_secs(5);",
    ),
    (
        "audit.md",
        "(`latest`, or none), 1 s remains",
        "crates/core/src/audit/simulation.rs",
        "RESOLUTION: Duration = Duration::from_secs(1);",
    ),
];

/// Returns the text with single spaces.
fn normalized(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Verifies that numbers in the documentation are those of the code.
#[test]
fn documented_limits_are_those_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{path:?}"));
    let mut wrong = Vec::new();
    for (page, phrase, file, definition) in CONSTANTS {
        if !normalized(&read(root.join("docs").join(page))).contains(phrase) {
            wrong.push(format!("docs/{page} does not contain {phrase:?} ({definition})"));
        }
        if !normalized(&read(root.join(file))).contains(&format!("const {definition}")) {
            wrong.push(format!(
                "{file} does not define `{definition}`: correct docs/{page}, {phrase:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Verifies that the role in `docs/audit.md` permits to read the objects that `prewarmer audit` lists,
/// and nothing else. `tests/e2e/audit.rs` runs the command with this role.
#[test]
fn the_role_of_an_audit_permits_only_reading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/audit.md")).unwrap();
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (yaml, _) = rest.split_once("```").unwrap();
    let role: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    let texts = |value: &serde_json::Value| -> Vec<String> {
        serde_json::from_value(value.clone()).unwrap()
    };
    let mut permitted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(texts(&rule["verbs"]), ["get", "list"]);
        let groups = texts(&rule["apiGroups"]);
        let of_group = |group: &String| {
            texts(&rule["resources"]).into_iter().map(|one| format!("{group}/{one}")).collect()
        };
        permitted.extend(groups.iter().flat_map(|group| -> Vec<String> { of_group(group) }));
    }
    let expected = ["/events", "/nodes", "/pods", "apps/replicasets", "batch/jobs"];
    assert_eq!(permitted, expected.map(str::to_owned).into());
}

/// Returns the settings and their defaults from the generated table of `docs/settings.md`.
fn setting_defaults(page: &str) -> BTreeMap<&str, &str> {
    let cells = |line| -> Vec<&str> { str::split(line, '|').map(str::trim).collect() };
    page.lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| (cells(line)[1].trim_matches('`'), cells(line)[3].trim_matches('`')))
        .collect()
}

/// Returns each name in back quotes that is followed by a value in brackets, such as
/// `` `--api-rate` (50) ``, where the value starts with a digit, and that value up to the first
/// comma, colon, semicolon or closing bracket that is not part of a number.
fn values_in_brackets(text: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    for (end, _) in text.match_indices("` (") {
        let Some(start) = text[..end].rfind('`') else { continue };
        let value = &text[end + 3..];
        if !value.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let length = value.find(['(', ')', ';', ':', '`']).unwrap_or(value.len());
        found.push((&text[start + 1..end], value[..length].replace(',', "")));
    }
    found
}

/// Returns the setting in kebab case of a flag (`--api-rate`) or key (`apiRate`).
fn flag_of(name: &str) -> String {
    if name.starts_with("--") {
        return name.to_owned();
    }
    name.chars().fold("--".to_owned(), |flag, character| {
        if character.is_ascii_uppercase() {
            flag + "-" + &character.to_ascii_lowercase().to_string()
        } else {
            flag + &character.to_string()
        }
    })
}

/// Verifies that a page that states a default next to a setting states the default of the code.
#[test]
fn documented_defaults_are_those_of_the_settings() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let reference = std::fs::read_to_string(docs.join("settings.md")).unwrap();
    let defaults = setting_defaults(&reference);
    assert!(defaults.len() > 60, "{} settings", defaults.len());
    let mut pages = Vec::new();
    collect_pages(&docs, &mut pages);
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in pages.iter().filter(|page| page.parent() == Some(&docs)) {
        let text = normalized(&std::fs::read_to_string(page).unwrap());
        for (name, value) in values_in_brackets(&text) {
            let Some(default) = defaults.get(flag_of(name).as_str()) else { continue };
            checked += 1;
            let units = [(" %", ""), (" min", "m"), (" s", "s"), (" h", "h")];
            let plain = value.split(" concurrent").next().unwrap_or_default().trim();
            let plain = units.iter().find_map(|(unit, short)| {
                plain.strip_suffix(unit).map(|number| format!("{number}{short}"))
            });
            let plain = plain.unwrap_or_else(|| value.split(' ').next().unwrap().to_owned());
            // Some settings are numbers of seconds.
            if plain != *default && plain.strip_suffix('s') != Some(default) {
                wrong.push(format!(
                    "{}: {name} ({value}): the default is {default}",
                    page.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 8, "only {checked} defaults were found");
}

#!/usr/bin/env python3
"""Runs the tests against mutants.toml: small changes of the code that a test must detect.

usage: tests/mutants/run.py [--check] [--write] [ID...]
  --check  only check that the text of every mutant occurs as often as it must
  --write  write results.tsv
  ID       mutants to run (default: all)

All mutants are compiled into one copy of the tree (target/mutants): each place evaluates the
original, or the replacement when PREWARMER_MUTANT names the mutant. So two builds suffice for all.
A mutant is killed when a unit test fails: first those that its entry selects, then all of its
package. For one that survives, `e2e` names the end-to-end tests, which run on a cluster. Needs
Python 3.11.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TREE = ROOT / "target/mutants/tree"
# Selection of a mutant, in each crate. The environment is read once, so that a mutant in a loop
# does not slow tests down.
SWITCH = '''
/// Selection of one of the mutants that are compiled into this copy.
mod mutants {
    static SELECTED: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("PREWARMER_MUTANT").unwrap_or_default());

    /// Reports whether this mutant is selected.
    pub(crate) fn selected(id: &str) -> bool {
        *SELECTED == id
    }
}
'''
# Longest run of the tests of a package, in seconds; one without a mutant takes a tenth of it. A
# mutant that makes a test run forever is killed too.
TIMEOUT = 600


def fail(message):
    sys.exit(f"mutants: {message}")


def span(mutant):
    """Returns the range of a mutant in its file."""
    text = (ROOT / mutant["file"]).read_text()
    find, within = mutant["find"].lstrip("\n"), mutant.get("within", "").lstrip("\n")
    place = within or find
    for part, whole, name in [(place, text, mutant["file"]), (find, place, "within")]:
        if whole.count(part) != 1:
            fail(f"{mutant['id']}: occurs {whole.count(part)} times in {name}, not once:\n{part}")
    start = text.index(place) + place.index(find)
    return start, start + len(find)


def changed_files(mutants):
    """Returns the text of each file with its mutants, by path."""
    files = {}
    for mutant in mutants:
        files.setdefault(mutant["file"], []).append((*span(mutant), mutant))
    texts = {}
    for file, found in files.items():
        found.sort(key=lambda one: one[:2], reverse=True)
        text = (ROOT / file).read_text()
        limit = len(text)
        for start, end, mutant in found:
            if end > limit:
                fail(f"{mutant['id']} overlaps another mutant of {file}")
            limit, old = start, text[start:end]
            condition = f'crate::mutants::selected("{mutant["id"]}")'
            new = f"if {condition} {{ {mutant['replace']} }} else {{ {old} }}"
            text = text[:start] + (new if old.endswith(";") else f"({new})") + text[end:]
        texts[file] = text
    for root in sorted({str(pathlib.Path(crate_of(file)) / "src/lib.rs") for file in texts}):
        texts[root] = texts.get(root, (ROOT / root).read_text()) + SWITCH
    return texts


def crate_of(file):
    """Returns the directory of the crate that a file belongs to."""
    return re.match(r"(crates/[^/]+/)?", file)[0] or "."


def copy_tree(texts):
    """Copies the tree with the mutants. Unchanged files keep their time, so that cargo does not
    compile them again."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    wanted = [name for name in tracked.stdout.split("\0") if name and (ROOT / name).is_file()]
    for old in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(old.relative_to(TREE)) not in wanted:
            old.unlink()
    for name in wanted:
        content = texts[name].encode() if name in texts else (ROOT / name).read_bytes()
        copy = TREE / name
        if not copy.exists() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
            shutil.copymode(ROOT / name, copy)


def build(package):
    """Builds the unit tests of a package, and returns their program."""
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "--locked", "test", "-p", package, "--lib", "--no-run"]
    # The directory of the tests, whose dependencies are compiled. The path of the copy gives the
    # programs other file names.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "target")}
    built = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True)
    program = re.search(r"Executable .*\((.*)\)", built.stderr)
    if built.returncode or not program:
        fail(f"the build of {package} failed:\n{(built.stdout + built.stderr)[-4000:]}")
    return program[1]


def failing_test(program, directory, mutant, selection):
    """Runs tests, and returns the name of one that fails, or None."""
    environment = {**os.environ, "PREWARMER_MUTANT": mutant, "INSTA_UPDATE": "no", "INSTA_WORKSPACE_ROOT": str(TREE),
                   "PROPTEST_FAILURE_PERSISTENCE": "off", "CARGO_MANIFEST_DIR": str(directory)}
    try:
        ran = subprocess.run([program, *selection], cwd=directory, env=environment, capture_output=True, text=True,
                             timeout=TIMEOUT, errors="replace")
    except subprocess.TimeoutExpired:
        return f"(no end within {TIMEOUT} s)"
    if ran.returncode == 0:
        return None
    names = re.findall(r"^test (\S+) .*FAILED$", ran.stdout, re.MULTILINE) or re.findall(r"^    (\S+)$", ran.stdout, re.MULTILINE)
    return names[0] if names else f"(the program ended with {ran.returncode})"


def survives_e2e(mutant):
    """Runs the end-to-end tests of a mutant, and returns the name of one that fails, or None."""
    if "e2e" not in mutant:
        return None
    environment = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "target/mutants/build")}
    for command in (["cargo", "build", "--locked", "--workspace", "--bins"], ["cargo", "test", "--locked", "--test", "e2e", "--no-run"]):
        subprocess.run(command, cwd=TREE, env=environment, check=True)
    command = ["tests/cluster/cluster", "with", "--fake-nodes", "120", "--", "cargo", "test", "--locked", "--test", "e2e", "--", *mutant["e2e"].split()]
    ran = subprocess.run(command, cwd=TREE, env={**environment, "PREWARMER_MUTANT": mutant["id"]}, capture_output=True, text=True, errors="replace")
    names = re.findall(r"^test (\S+) .*FAILED$", ran.stdout, re.MULTILINE)
    return names[0] if ran.returncode and names else None


def main(arguments):
    mutants = tomllib.loads((ROOT / "tests/mutants/mutants.toml").read_text())["mutant"]
    ids = [mutant["id"] for mutant in mutants]
    if len(set(ids)) != len(ids):
        fail("an id is used twice")
    texts = changed_files(mutants)
    if "--check" in arguments:
        print(f"mutants: {len(mutants)} mutants fit the code")
        return
    wanted = [argument for argument in arguments if not argument.startswith("--")] or ids
    for unknown in set(wanted) - set(ids):
        fail(f"no mutant {unknown}")
    copy_tree(texts)
    programs, results = {}, {}
    for mutant in [mutant for mutant in mutants if mutant["id"] in wanted]:
        package = {"crates/core/": "prewarmer-core", ".": "prewarmer"}[crate_of(mutant["file"])]
        directory = TREE / crate_of(mutant["file"])
        if package not in programs:
            print(f"mutants: building {package}", flush=True)
            programs[package] = build(package)
            broken = failing_test(programs[package], directory, "", [])
            if broken:
                fail(f"{broken} fails without a mutant")
        program = programs[package]
        killer = failing_test(program, directory, mutant["id"], [mutant["tests"]])
        killer = killer or failing_test(program, directory, mutant["id"], [])
        killer = killer or survives_e2e(mutant)
        results[mutant["id"]] = killer
        print(f"{mutant['area']:9} {mutant['id']:42} {killer or 'SURVIVED'}", flush=True)
    killed = sum(killer is not None for killer in results.values())
    print(f"mutants: {killed} of {len(results)} killed")
    if "--write" in arguments:
        lines = [f"{mutant['area']}\t{mutant['id']}\t{results[mutant['id']] or 'survived'}\n" for mutant in mutants if mutant["id"] in results]
        (ROOT / "tests/mutants/results.tsv").write_text("".join(lines))
    if killed < len(results):
        sys.exit(1)


main(sys.argv[1:])

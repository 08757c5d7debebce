#!/usr/bin/env python3
"""Makes the tables of docs/measurements.md from the records of the sections of `make test-long`.

usage: tables.py section NAME      reads NAME.tsv in MEASURE_OUT, prints the section's table, writes
                                   NAME.json there; fails if a figure is beyond its bound
       tables.py write [NAME...]   writes the tables of NAME.json to docs/measurements.md, between the
                                   lines `<!-- table: NAME -->` and `<!-- end -->`

MEASURE_SCALE=small does not check bounds of time, which need the sizes of the full scale.
"""

import datetime
import json
import os
import platform
import re
import sys
import textwrap
from pathlib import Path

import figures

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/measurements.md"
# Load above which other processes took a share of the processors that figures of time depend on.
QUIET_LOAD = 0.5
CLUSTER = (
    "API server, etcd and load on the same machine, etcd without fsync, kube-controller-manager at 500 requests/s, API server "
    "without request limits"
)
DEFAULT_INSTALL = "default settings of the server: REST over TLS, web pages and all watches on"
LONG_TEST = "release build, started by the test"
SETTINGS = {
    "engine": [CLUSTER, DEFAULT_INSTALL, "baseline and server pull by image volumes"],
    "memory": [CLUSTER, DEFAULT_INSTALL],
    "scale": [CLUSTER, DEFAULT_INSTALL, "workloads, tasks and watches in a cluster of 100 nodes", "a new server for each row of nodes"],
    "webhook": [CLUSTER, DEFAULT_INSTALL],
    "admission": [CLUSTER, DEFAULT_INSTALL],
    "pages": [CLUSTER, DEFAULT_INSTALL],
    "functions": ["`cargo bench --bench engine`"],
    "kubernetes-1.35": [CLUSTER, "debug build"],
    "reproducible": ["`tests/reproducible.sh`"],
    "fuzz": ["`tests/fuzz/run.sh`"],
    "properties": ["debug build"],
}
# The same text as in tests/cluster/lib/build.sh.
KUBERNETES = re.compile(r"^\s*(1\.\d+)\).*kube_version=(v[\d.]+)", re.MULTILINE)


def read_record(path):
    """Returns the fields of each line of a record."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]


def last(rows, key, otherwise=""):
    """Returns the second field of the last row that starts with `key`."""
    return next((row[1] for row in reversed(rows) if row[0] == key), otherwise)


def machine():
    """Describes the machine: processor, memory, kernel."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    kib = int(re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)[1])
    name = model[1].strip() if model else processor
    return f"{name}, {os.cpu_count()} processors, {kib / 1024 / 1024:.0f} GiB, Linux {platform.release()}"


def kubernetes(section):
    """Returns the version of Kubernetes that the test cluster runs."""
    text = (ROOT / "tests/cluster/lib/build.sh").read_text(encoding="utf-8")
    wanted = "1.35" if section == "kubernetes-1.35" else re.search(r"PREWARMER_CLUSTER_KUBE:-([\d.]+)", text)[1]
    return dict(KUBERNETES.findall(text))[wanted]


def origin(section, rows):
    """Describes where and how the figures of a section were measured, wrapped for the page."""
    settings = SETTINGS.get(section, [CLUSTER, LONG_TEST])
    details = list(settings)
    if CLUSTER in settings:
        details.insert(0, f"Kubernetes {kubernetes(section)}")
    priority = last(rows, "priority")
    if priority:
        details.append(f"server at nice {priority}")
    details += [row[1] for row in rows if row[0] == "pinned"]
    load = float(last(rows, "load", "0"))
    if load > QUIET_LOAD:
        details.append(f"other processes used the machine: load {load:.1f} at the start")
    scale = "" if os.environ["MEASURE_SCALE"] == "full" else "small scale, "
    when = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    text = (
        f"Measured {when} at commit {os.environ['MEASURE_COMMIT']}, {scale}`make test-long SECTIONS={section}`, "
        f"{last(rows, 'seconds', '?')} s. {machine()}. {'; '.join(details)}."
    )
    return textwrap.fill(text, width=100, break_long_words=False, break_on_hyphens=False)


def bound_line(bound):
    verdict = "not checked at this scale" if bound.passed is None else "kept" if bound.passed else "EXCEEDED"
    return f"- {bound.name}: {figures.number(bound.value)}, {bound.relation} {figures.number(bound.limit)}: {verdict}"


def render(section, rows):
    """Returns the Markdown of a section and its bounds."""
    text, bounds = figures.SECTIONS.get(section, figures.lines)(rows)
    for bound in bounds:
        bound.check(full=os.environ["MEASURE_SCALE"] == "full")
    parts = [text, origin(section, rows)]
    if bounds:
        parts.insert(1, "\n".join(["Bounds:", "", *map(bound_line, bounds)]))
    return "\n\n".join(parts), bounds


def make_section(name):
    """Prints the table of a section and writes it to its JSON file. Returns whether it passed."""
    folder = Path(os.environ["MEASURE_OUT"])
    rows = read_record(folder / f"{name}.tsv")
    try:
        text, bounds = render(name, rows)
    except figures.MissingError as error:
        print(f"{name}: the record has no {error}", file=sys.stderr)
        return False
    print(text)
    result = {
        "section": name,
        "commit": os.environ["MEASURE_COMMIT"],
        "scale": os.environ["MEASURE_SCALE"],
        "record": rows,
        "bounds": [vars(bound) for bound in bounds],
        "markdown": text,
    }
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    beyond = [bound for bound in bounds if bound.passed is False]
    for bound in beyond:
        print(f"{name}: {bound_line(bound)[2:]}", file=sys.stderr)
    return not beyond


def replace_table(page, name, text):
    """Returns the page with the table of a section replaced. Raises if the page has no place for it."""
    place = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if len(place.findall(page)) != 1:
        raise ValueError(f"{PAGE.name} needs one line <!-- table: {name} -->, and <!-- end --> after it")
    return place.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)


def write(names):
    """Writes the tables of the named sections, or of all that have a result, to the page."""
    folder = Path(os.environ.get("MEASURE_OUT", ROOT / "target/measurements"))
    page = PAGE.read_text(encoding="utf-8")
    for path in [folder / f"{name}.json" for name in names] if names else sorted(folder.glob("*.json")):
        if not path.exists():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["scale"] != "full":
            raise ValueError(f"{path}: figures of the scale {result['scale']} do not belong on the page")
        page = replace_table(page, result["section"], result["markdown"])
    PAGE.write_text(page, encoding="utf-8")


def main(arguments):
    if arguments[:1] == ["section"] and len(arguments) == 2:
        return 0 if make_section(arguments[1]) else 1
    if arguments[:1] == ["write"]:
        write(arguments[1:])
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Computes the figures of each section of `make test-long` from its record, and their bounds.

A section is a function from the rows of its record to a Markdown table or list, and the bounds that
decide whether the section passes. `lines` is that of sections whose tests assert their own bounds.
"""

import math
import os
import statistics
from pathlib import Path

import growth

# Bounds, with the figures from which they were chosen.

# The server's time for a task, as a multiple of the baseline's, median of adjacent runs. It was 0.85
# with pods and 0.94 with Jobs: the server creates the next batch while the previous one is deleted.
# Adjacent runs of the baseline alone differ by up to 13 %, in both directions.
MAX_TIME_RATIO = 1.05
# API writes of all components for a node, likewise. They were 0.98 and 1.00. Counts do not depend on
# the speed of the machine, except for the server's writes of the status, once a second at most. The
# baseline has the smallest number: of its 8.02 writes per Job in batches of 100, seven are necessary
# (docs/develop/kubernetes-facts.md), one is of the fake kubelet, and two requests delete the batch.
MAX_WRITES_RATIO = 1.05
# Writes of the baseline itself for a node: one creation, and the deletions of a batch of 100.
BASELINE_WRITES = {"Job": "1.02 by design", "Pod": "1.01 by design"}
# Writes of the server itself for a node: one creation, a share of the deletion by collection, and the
# status. They were 1.02 to 1.08.
MAX_OWN_WRITES = 1.15
# Reads of the server for a node: none but watches, of which some may be opened again.
MAX_READS = 0.02
# Resident memory of the leader without work in a cluster of 100 nodes, in MiB. It was 22.8; before the
# program was optimized for size, 30.7.
MAX_IDLE_MIB = 24
# Resident memory of the leader with a task on 5,000 nodes of 20 images, 2,000 workloads, 10,000 finished
# tasks of 3 images and 100 REST watches, in MiB. It was 59.4.
MAX_STORED_MIB = 64
# Resident memory that stays above that without work, a minute after a load, in MiB.
MAX_KEPT_MIB = 8
# Reviews for one second of processor time, as a multiple of the webhook in Go, median of all rounds.
# It was 11.1. With the general router it was 9.8 and 9.1, and before objects were read in one pass 5.9
# to 6.8.
MIN_REVIEW_RATIO = 10.0
# Processor time of a review, as a multiple of a server that reads the body and answers a constant,
# likewise. It was 2.32, and with the general router 2.71 and 2.64.
MAX_ECHO_RATIO = 2.5
# Time from the start of the process to readiness, in ms.
MAX_READY_MS = 1000
# Processor time of a server without work, in percent of one processor.
MAX_IDLE_PERCENT = 0.2
# Voluntary context switches of a server without work per second. The test `idle` explains the bound.
MAX_IDLE_SWITCHES = 11
# Reviews that take longer than 5 ms by the API server's histogram (its next bucket ends at 25 ms), as a
# multiple of the webhook in Go, median of the turns. Such reviews wait for a processor, which the API
# server and the load share. The ratio was 0.57.
MAX_SLOW_REVIEWS = 1.1
SLOW_SECONDS = 0.005
# Latency of 99 % of the reviews by the server's own histogram, in seconds.
MAX_ADMISSION_P99 = 0.005
# Bytes of the first visit of a task's page, compressed.
MAX_PAGE_BYTES = 200_000


class MissingError(Exception):
    """A figure that the record does not contain."""


class Bound:
    """A bound of a figure. A bound of time is checked at the full scale only."""

    def __init__(self, name, value, limit, *, least=False, needs_full=False):
        self.name, self.value, self.limit = name, value, limit
        self.relation = "at least" if least else "at most"
        self.needs_full = needs_full
        self.passed = None

    def check(self, *, full):
        """Sets `passed`, or leaves it undecided at the small scale."""
        if full or not self.needs_full:
            is_least = self.relation == "at least"
            self.passed = self.value >= self.limit if is_least else self.value <= self.limit


def number(value):
    """Formats a figure: whole numbers with separators, others with two digits."""
    if isinstance(value, str):
        return value
    if value == int(value) and abs(value) >= 100:
        return f"{int(value):,}"
    return f"{value:,.3f}" if abs(value) < 0.1 and value else f"{value:,.2f}"


def table(heads, rows):
    """Returns a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("| --- |", "|---|").replace(" --- |", "---|")


def find(rows, *key):
    """Returns the remaining fields of the rows that start with the key; raises if there are none."""
    found = [row[len(key) :] for row in rows if tuple(row[: len(key)]) == key]
    if not found:
        raise MissingError(" ".join(key))
    return found


def joined(values, digits=2):
    return ", ".join(f"{value:,.{digits}f}" for value in values)


def median_and_range(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


def mib(kib):
    return f"{int(kib) / 1024:.1f}"


def lines(rows):
    """The lines that the tests of a section print; the tests assert their bounds."""
    return "\n".join(f"- {row[0]}" for row in find(rows, "line")), []


def engine(rows):
    """Tasks of the server and of the baseline, alternating."""
    size = find(rows, "size")[-1]
    nodes = int(size[0])
    body, bounds = [], []
    for kind in ("Job", "Pod"):
        runs = {who: [list(map(int, run)) for run in find(rows, "run", who, kind)] for who in ("baseline", "server")}
        own = [run[2] / nodes for run in runs["server"]]
        reads = [run[3] / nodes for run in runs["server"]]
        for who, marks in (("baseline", BASELINE_WRITES[kind]), ("server", joined(own))):
            times, writes = ([run[at] for run in runs[who]] for at in (0, 1))
            speed = joined([nodes * 1000 / time for time in times], 1)
            body.append([kind, who, joined([time / 1000 for time in times], 1), speed, joined([count / nodes for count in writes]), marks])
        time_ratio, write_ratio = (
            [ours[at] / base[at] for base, ours in zip(runs["baseline"], runs["server"], strict=True)] for at in (0, 1)
        )
        body.append([kind, "server / baseline", median_and_range(time_ratio), "", median_and_range(write_ratio), ""])
        bounds += [
            Bound(f"{kind}: time, server / baseline, median", statistics.median(time_ratio), MAX_TIME_RATIO, needs_full=True),
            Bound(f"{kind}: API writes, server / baseline, median", statistics.median(write_ratio), MAX_WRITES_RATIO, needs_full=True),
            Bound(f"{kind}: API writes per node of the server itself", max(own), MAX_OWN_WRITES, needs_full=True),
            Bound(f"{kind}: reads per node of the server", max(reads), MAX_READS, needs_full=True),
        ]
    heads = ["worker", "", "time, s", "nodes/s", "API writes per node, all components", "of these by the program itself"]
    title = f"{size[0]} fake nodes × {size[1]} images, batches of {size[2]}:"
    return f"{title}\n\n{table(heads, body)}", bounds


def memory(rows):
    """Resident memory of the server, stage by stage."""
    nodes, images, batch, workloads, tasks, watches = (f"{int(field):,}" for field in find(rows, "size")[-1])
    stages = find(rows, "memory")
    stored, deployments = find(rows, "stored")[-1]
    body = [[stage, mib(rss), mib(anonymous), mib(most)] for stage, rss, anonymous, most in stages]
    runs = []
    for kind in ("Pod", "Job"):
        time, writes, own, reads, status = map(int, find(rows, "run", "server", kind)[-1])
        count = int(nodes.replace(",", ""))
        runs.append([kind, f"{time / 1000:.0f} s", f"{writes / count:.2f}", f"{own / count:.2f}", str(reads), f"{status / 1000:.1f} KB"])
    text = (
        f"Resident memory in MiB: a task of {images} images on {nodes} fake nodes in batches of {batch}, {workloads} workloads "
        f"with its images, {tasks} finished tasks, {watches} REST watches ({int(stored):,} tasks and {int(deployments):,} Deployments at the end):"
    )
    heads = ["worker", "time", "API writes per node", "of these by the server", "reads by the server", "status as JSON"]
    table_of_memory = table(["after", "resident", "of this anonymous", "maximum until then"], body)
    resident = {stage: int(rss) / 1024 for stage, rss, _, _ in stages}
    kept = resident["60 s after all of it was deleted"] - resident["idle"]
    bounds = [
        Bound("maximum with everything, MiB", max(int(most) for *_, most in stages) / 1024, MAX_STORED_MIB, needs_full=True),
        Bound("above idle, 60 s after all of it was deleted, MiB", kept, MAX_KEPT_MIB, needs_full=True),
    ]
    ready = [int(row[0]) for row in find(rows, "ready")]
    seconds, used, switches = map(int, find(rows, "idle")[-1])
    percent, per_second = used / 10 / seconds, switches / seconds
    bounds += [
        Bound("time from start to readiness, ms", max(ready), MAX_READY_MS, needs_full=True),
        Bound("processor time without work, %", percent, MAX_IDLE_PERCENT, needs_full=True),
        Bound("voluntary context switches without work, per second", per_second, MAX_IDLE_SWITCHES, needs_full=True),
    ]
    started = f"From start to readiness: {joined(ready, 0)} ms (without and with a CA in the cluster)."
    idle = (
        f"Without work, with the workloads and finished tasks, for {seconds} s: {percent:.2f} % of one processor, "
        f"{per_second:.1f} voluntary context switches per second."
    )
    return "\n\n".join([text, table_of_memory, "The two tasks:", table(heads, runs), started, idle]), bounds


def webhook(rows):
    """The webhook called directly, alternating with a webhook in Go and with two lower bounds."""
    length, seconds = find(rows, "size")[-1]
    body, ratios = [], {"peer": [], "echo": []}
    names = {"ours": "Prewarmer", "peer": "Go", "echo": "constant answer", "parse": "`serde_json::Value`"}
    for connections in ("1", "8", "64"):
        per_second = {}
        for who, name in names.items():
            runs = [list(map(float, run)) for run in find(rows, "reviews", who, connections)]
            rate, of_cpu, middle, slow, _ = zip(*runs, strict=True)
            per_second[who] = of_cpu
            spans = [f"{min(values):.2f} - {max(values):.2f}" for values in (middle, slow)]
            body.append([connections, name, joined(rate, 0), joined(of_cpu, 0), *spans])
        for who, found in ratios.items():
            found += [ours / other for ours, other in zip(per_second["ours"], per_second[who], strict=True)]
    heads = ["connections", "", "requests/s", "requests per second of processor time", "p50 ms", "p99 ms"]
    text = (
        f"A review of {int(length):,} bytes, HTTP/1.1, keep-alive, TLS 1.3, {seconds} s each; {find(rows, 'allocations')[-1][0]}. "
        "The lower bounds read the body and answer a constant; one of them parses it into a `serde_json::Value`:"
    )
    most = ", ".join(f"{stage} {mib(rss)} MiB" for stage, rss, _, _ in find(rows, "memory"))
    resident = {stage: int(rss) / 1024 for stage, rss, _, _ in find(rows, "memory")}
    medians = {who: statistics.median(found) for who, found in ratios.items()}
    to_go = "reviews per second of processor time, Prewarmer / Go, median of all rounds"
    to_echo = "processor time of a review, Prewarmer / constant answer, median of all rounds"
    bounds = [
        Bound(to_go, medians["peer"], MIN_REVIEW_RATIO, least=True, needs_full=True),
        Bound(to_echo, 1 / medians["echo"], MAX_ECHO_RATIO, needs_full=True),
        Bound("resident memory without work, MiB", resident["Prewarmer, idle"], MAX_IDLE_MIB, needs_full=True),
        Bound("above idle, 60 s after the load, MiB", resident["Prewarmer, 60 s after the load"] - resident["Prewarmer, idle"], MAX_KEPT_MIB, needs_full=True),
    ]
    return "\n\n".join([text, table(heads, body), f"Resident memory: {most}."]), bounds


def histogram(rows, source, turns):
    """Returns the share of observations within each bucket's end, between `before` and `after` of the turns."""
    counts = {}
    for turn in turns:
        for sign, when in ((-1, f"before {turn}"), (1, f"after {turn}")):
            # A histogram without observations is not exposed yet.
            for end, count in find(rows, when, source) if sign > 0 else [row[2:] for row in rows if row[:2] == [when, source]]:
                counts[float(end)] = counts.get(float(end), 0) + sign * float(count)
    total = counts.get(float("inf"), 0)
    if not total:
        raise MissingError(f"observations of {source}")
    return total, {end: count / total for end, count in sorted(counts.items())}


def admission(rows):
    """Latency of reviews by the API server's histogram, of Prewarmer and of a webhook in Go, and by the server's histogram."""
    count, rate, last = find(rows, "size")[-1]
    turns = range(1, int(last) + 1)
    body = []
    for source, name in (("ours", "API server: Prewarmer"), ("peer", "API server: Go"), ("server", "Prewarmer itself")):
        total, shares = histogram(rows, source, turns)
        shown = [f"{share * 100:.2f} % within {end * 1000:g} ms" for end, share in shares.items() if end <= 0.1 and share > 0]
        full = next((at for at, share in enumerate(shown) if share.startswith("100.00")), len(shown))
        body.append([name, f"{total:,.0f}", ", ".join(shown[: full + 1])])
    p99 = next(end for end, share in shares.items() if share >= 0.99)
    slow = {source: [1 - histogram(rows, source, [turn])[1][SLOW_SECONDS] for turn in turns] for source in ("ours", "peer")}
    # If Go has no slow review, one of Prewarmer's is too many.
    ratios = [ours / peer if peer else math.inf if ours else 0.0 for ours, peer in zip(slow["ours"], slow["peer"], strict=True)]
    shares = {source: ", ".join(f"{share * 100:.1f} %" for share in found) for source, found in slow.items()}
    text = (
        f"{int(count):,} paused Deployments created at {rate} per second in each turn, of 50 images in rotation "
        f"({find(rows, 'tasks')[-1][0]} tasks); Prewarmer and the webhook in Go alternate, with the same rules and conditions:"
    )
    client = "\n".join(f"- {name}: {'; '.join(row[0] for row in find(rows, 'client', source))}" for source, name in (("ours", "Prewarmer"), ("peer", "Go")))
    more = (
        f"Reviews above 5 ms in each turn: Prewarmer {shares['ours']}; Go {shares['peer']}. Admissions without a review: "
        f"{find(rows, 'failed_open')[-1][0]}. The creations as their client sees them:\n\n{client}"
    )
    bounds = [
        Bound("reviews above 5 ms by the API server, Prewarmer / Go, median of the turns", statistics.median(ratios), MAX_SLOW_REVIEWS, needs_full=True),
        Bound("bucket of the server's own p99, s", p99, MAX_ADMISSION_P99, needs_full=True),
        Bound("admissions without a review", int(find(rows, "failed_open")[-1][0]), 0),
    ]
    return "\n\n".join([text, table(["measured by", "reviews", "latency"], body), more]), bounds


def pages(rows):
    """Bytes of the first visit of a task's page."""
    nodes = int(find(rows, "size")[-1][0])
    resources = [(name, int(compressed), int(plain)) for name, compressed, plain in find(rows, "resource")]
    sums = [sum(resource[at] for resource in resources) for at in (1, 2)]
    body = [[name, f"{compressed:,}", f"{plain:,}"] for name, compressed, plain in [*resources, ("all", *sums)]]
    text = f"First visit of the page of a task on {nodes:,} nodes, in bytes, without headers:"
    bounds = [Bound("bytes of all, compressed", sums[0], MAX_PAGE_BYTES)]
    return f"{text}\n\n{table(['resource', 'compressed', 'not compressed'], body)}", bounds


# Figures of a point of scale.sh: name, unit, factor from the record, and the difference that noise of the
# machine explains. Creating many objects takes minutes, in which the watches, about 30, are opened again.
POINT_FIGURES = [
    ("resident memory", "MiB", 1 / 1024, 2),
    ("processor time until then", "s", 1 / 100, 0.5),
    ("API requests until then", "", 1, 60),
    ("idle processor time, % of a core", "%", None, 0.2),
    ("idle API requests", "", 1, 20),
    ("idle wake-ups per second", "1/s", None, 20),
    ("from a Deployment to its task", "ms", 1, 300),
    ("from a task to its first worker", "ms", 1, 300),
]
# Object whose number each dimension raises.
DIMENSIONS = {"nodes": "fake nodes", "workloads": "Deployments", "tasks": "finished tasks", "watchers": "REST watches"}


def scale(rows):
    """How the server's cost grows with each dimension."""
    seconds = int(find(rows, "idle")[-1][0])
    parts, bounds = [], []
    charts = [[] for _ in POINT_FIGURES]
    for dimension, name in DIMENSIONS.items():
        sizes, columns = [], [[] for _ in POINT_FIGURES]
        totals = [0.0, 0.0]
        for size, *fields in find(rows, "point", dimension):
            sizes.append(int(size))
            values = [float(field) for field in fields]
            if dimension != "nodes":
                # Each size is an addition to the previous one.
                totals = [totals[at] + values[1 + at] for at in (0, 1)]
                values[1:3] = totals
            for column, value, (_, _, factor, _) in zip(columns, values, POINT_FIGURES, strict=True):
                column.append(value * factor if factor else value / seconds)
        body = []
        for at, (title, unit, _, floor) in enumerate(POINT_FIGURES):
            points = list(zip(sizes, columns[at], strict=True))
            curve = growth.fit(points, floor)
            charts[at].append((name, points, curve))
            more = growth.per_object(curve, sizes[-1]) if curve[2] else 0
            body.append([f"{title}{f', {unit}' if unit and unit not in title else ''}", *map(number, columns[at]), growth.describe(curve), f"{more:.3g}"])
            bounds.append(Bound(f"{name}: exponent of {title}", curve[2], growth.MAX_EXPONENT, needs_full=True))
        parts.append(table([name, *(f"{size:,}" for size in sizes), "growth", "one more"], body))
    folder = Path(os.environ.get("MEASURE_OUT", "."))
    for (title, unit, _, _), series in zip(POINT_FIGURES, charts, strict=True):
        growth.draw(folder / f"scale-{title.split(',')[0].replace(' ', '-')}.svg", title, unit, series)
    return "\n\n".join(parts), bounds


SECTIONS = {
    "scale": scale,
    "engine": engine,
    "memory": memory,
    "webhook": webhook,
    "admission": admission,
    "pages": pages,
}

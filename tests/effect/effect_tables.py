#!/usr/bin/env python3
"""Makes docs/effect.md from the records of `make effect`.

usage: effect_tables.py print   prints the page that follows from the records TRACE.tsv in MEASURE_OUT
       effect_tables.py write   also writes it to docs/effect.md; needs the full scale

Fails if a figure is missing, or if a run was not faithful: a request, node or step failed, or the
simulation was late.
"""

import os
import statistics
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/measure"))

import figures  # noqa: E402
import tables  # noqa: E402

PAGE = ROOT / "docs/effect.md"
# In the order of the page.
TRACES = {
    "rollouts": "new versions of services: rolling update, recreation, StatefulSet, DaemonSet",
    "autoscaling": "services that grow and shrink as in the course of a day",
    "zone-failover": "all nodes of one of three zones disappear",
    "node-upgrade": "nodes are drained and come back with an empty disk, a fiftieth of them at a time",
    "inference": "services with images of 8 to 40 GB on nodes with GPUs grow and shrink",
    "continuous-integration": "Jobs, each with an image of its own",
    "cron-jobs": "the same Jobs every minute",
    "workflows": "chains of bare pods that use the same ten images again and again",
    "bursts": "a driver, and ten seconds later many executors of the same image",
    "mixed": "services, inference, Jobs, workflows and bursts next to one another",
}
POLICIES = {
    "none": "without Prewarmer",
    "auto": "`nodes: auto`",
    "all": "`nodes: all`",
    "oracle": "all images known in advance (computed)",
}
HEADS = [
    "policy",
    "pod starts",
    "not started",
    "warm starts",
    "start p50, s",
    "p95, s",
    "p99, s",
    "from the registry, GB",
    "of these in vain, GB",
    "evicted images",
    "API writes",
    "tasks",
]
# Simulated time by which an event of a kubelet may be handled late, and by which its request may be
# answered late, in ms. A pod without a pull starts in about a second, and the scheduler and the
# controllers act on what they read.
MAX_LAG_MS = 1000
MAX_WRITE_DELAY_MS = 2000
UNKNOWN = "–"
INTRODUCTION = """# Effect

What Prewarmer is worth for pods that need images: real control plane, scheduler, controllers and
Prewarmer; [simulated nodes](../tests/fleet/README.md) with their kubelets, disks, links and one
registry. The [traces](../tests/effect/README.md) and the assumptions of the simulation decide the
figures: they compare policies, and do not predict those of another cluster.

- *Pod starts*: pods of workloads that ran, or had ended. *Not started*: pods that were bound to a
  node and did not run before they were deleted or the trace ended.
- *Warm starts*: the node had all images of the pod when its kubelet first needed them.
- *Start*: simulated time from the binding of a pod to its node until the kubelet reports that it runs.
- *In vain*: bytes that were evicted before a workload used them, or not used until the trace ended.
- *API writes*: of all clients, simulated kubelets included, without Events and Leases.
- The last row of each table is computed from the run without Prewarmer: it starts all pods warm, as
  fast as the warm starts of that run, and pulls only what pods use.

`make effect` repeats the runs."""


class Runs:
    """Figures of the runs of one trace."""

    def __init__(self, trace, rows):
        self.trace, self.values = trace, {}
        for _, name, policy, figure, value in (row for row in rows if row[0] == "figure" and len(row) == 5):
            if name == trace:
                self.values.setdefault((policy, figure), []).append(None if value == "-" else int(value))

    def policies(self):
        """Returns the policies with figures, in the order of the page."""
        found = {policy for policy, _ in self.values}
        return [policy for policy in POLICIES if policy in found]

    def all(self, policy, figure):
        """Returns the values of all runs; raises if there are none."""
        if (policy, figure) not in self.values:
            raise figures.MissingError(f"{self.trace} {policy} {figure}")
        return self.values[policy, figure]

    def median(self, policy, figure):
        """Returns the median of all runs, or None if one of them has no value."""
        values = self.all(policy, figure)
        return None if None in values else statistics.median(values)

    def warm_share(self, policy):
        """Returns the median of the shares of warm starts, in percent, or None without a pod start."""
        pairs = zip(self.all(policy, "warm"), self.all(policy, "starts"), strict=True)
        shares = [100 * warm / starts if starts else None for warm, starts in pairs]
        return None if None in shares else statistics.median(shares)


def shown(value, divisor=1, digits=0):
    return UNKNOWN if value is None else f"{value / divisor:,.{digits}f}"


def row(runs, policy):
    """Returns the cells of a policy."""
    median = lambda figure: runs.median(policy, figure)  # noqa: E731
    share = runs.warm_share(policy)
    cells = [POLICIES[policy], shown(median("starts")), shown(median("unstarted")), UNKNOWN if share is None else f"{share:.1f} %"]
    cells += [shown(median(figure), 1000, 2) for figure in ("p50_ms", "p95_ms", "p99_ms")]
    cells += [shown(median(figure), 1e9, 1) for figure in ("downloaded_bytes", "in_vain_bytes")]
    cells.append(shown(median("evictions")))
    # A computed policy sends no request.
    cells += [UNKNOWN if policy == "oracle" else shown(median(figure)) for figure in ("api_writes", "tasks")]
    return cells


def bounds(runs):
    """Returns the bounds of what makes the runs of a trace faithful."""
    found = []
    for name, figure, limit, needs_full in (
        ("failed requests, nodes and steps", "failures", 0, False),
        ("simulation late, ms", "lag_ms", MAX_LAG_MS, True),
        ("request of a kubelet late, ms", "write_delay_ms", MAX_WRITE_DELAY_MS, True),
    ):
        for policy in runs.policies():
            if policy != "oracle":
                worst = max(runs.all(policy, figure))
                found.append(figures.Bound(f"{runs.trace}, {policy}: {name}", worst, limit, needs_full=needs_full))
    return found


def section(trace, rows):
    """Returns the Markdown of a trace, and its bounds."""
    runs = Runs(trace, rows)
    if not runs.policies():
        raise figures.MissingError(f"figure {trace}")
    nodes, scale, seconds, seed, acceleration = figures.find(rows, "size", trace)[-1]
    count = len(runs.all(runs.policies()[0], "starts"))
    parts = [f"{nodes} nodes", f"{int(seconds) // 60} simulated minutes", f"seed {seed}"]
    if acceleration != "1":
        parts.append(f"{acceleration} simulated seconds in one")
    if scale != "full":
        parts.append(f"{scale} scale")
    parts.append("one run" if count == 1 else f"median of {count} runs")
    when, commit = figures.find(rows, "measured")[-1]
    parts.append(f"measured {when} at commit {commit}")
    title = f"## {trace.replace('-', ' ').capitalize()}\n\n{TRACES[trace][0].upper()}{TRACES[trace][1:]}; {', '.join(parts)}."
    body = [row(runs, policy) for policy in runs.policies()]
    return "\n\n".join([textwrap.fill(part, 100) for part in title.split("\n\n")] + [figures.table(HEADS, body)]), bounds(runs)


def origin(records):
    """Describes where and how the figures were measured, wrapped for the page."""
    loads = [float(tables.last(rows, "load", "0")) for rows in records.values()]
    priorities = sorted({one[1] for rows in records.values() for one in rows if one[0] == "priority"})
    details = [f"Kubernetes {tables.kubernetes('effect')}", tables.CLUSTER, tables.DEFAULT_INSTALL]
    details += [f"server at nice {priority}" for priority in priorities]
    if max(loads) > tables.QUIET_LOAD:
        details.append(f"other processes used the machine: load {max(loads):.1f} at the start of a trace")
    text = f"{tables.machine()}. {'; '.join(details)}."
    return textwrap.fill(text, width=100, break_long_words=False, break_on_hyphens=False)


def page(records):
    """Returns the page, and the bounds of all traces."""
    parts, found = [INTRODUCTION], []
    for trace in TRACES:
        if trace in records:
            text, limits = section(trace, records[trace])
            parts.append(text)
            found += limits
    if len(parts) == 1:
        raise figures.MissingError("trace")
    for bound in found:
        bound.check(full=os.environ["MEASURE_SCALE"] == "full")
    parts += ["## Measurement", origin(records)]
    return "\n\n".join(parts) + "\n", found


def main(arguments):
    if arguments not in (["print"], ["write"]):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(os.environ["MEASURE_OUT"])
    records = {trace: tables.read_record(folder / f"{trace}.tsv") for trace in TRACES if (folder / f"{trace}.tsv").exists()}
    try:
        text, found = page(records)
    except figures.MissingError as error:
        print(f"effect: the records have no {error}", file=sys.stderr)
        return 1
    print(text)
    beyond = [bound for bound in found if bound.passed is False]
    for bound in beyond:
        print(f"effect: {tables.bound_line(bound)[2:]}", file=sys.stderr)
    if beyond:
        return 1
    if arguments == ["write"]:
        if os.environ["MEASURE_SCALE"] != "full":
            print("effect: figures of the small scale do not belong on the page", file=sys.stderr)
            return 1
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

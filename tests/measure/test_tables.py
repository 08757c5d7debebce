"""Tests of tables.py and figures.py: python3 -m unittest discover tests/measure"""

import contextlib
import io
import math
import os
import re
import shutil
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path
from unittest import mock

import figures
import growth
import tables

SECTIONS = Path(__file__).with_name("sections.sh").read_text(encoding="utf-8")


def engine_rows(times, writes=1000):
    """A record of 100 nodes: three pairs of each kind; the server's times are `times`."""
    rows = [["size", "100", "5", "10"]]
    for kind in ("Job", "Pod"):
        for time in times:
            rows.append(["run", "baseline", kind, "10000", "1000"])
            rows.append(["run", "server", kind, str(time), str(writes), "105", "0", "11000"])
    return rows


SIZES = {"nodes": (100, 1000, 5000, 10000), "workloads": (100, 1000, 5000, 20000), "tasks": (10, 100, 1000, 10000), "watchers": (1, 10, 100, 1000)}


# Resident memory of the server in a record of the webhook's section.
WEBHOOK_MEMORY = [["memory", f"Prewarmer, {stage}", "24576", "1", "24576"] for stage in ("idle", "60 s after the load")]


def scale_rows(memory):
    """A record of all dimensions, in which `memory` returns the resident KiB at a size."""
    rows = [["idle", "30"]]
    for dimension, sizes in SIZES.items():
        for size in sizes:
            rows.append(["point", dimension, str(size), str(memory(size)), "100", "10", "3", "0", "300", "1100", "200"])
    return rows


class Growth(unittest.TestCase):
    def exponent(self, value, sizes=(100, 1000, 5000, 10000)):
        return growth.fit([(size, value(size)) for size in sizes], 1)[2]

    def test_exponent_of_known_curves(self):
        self.assertEqual(self.exponent(lambda n: 30), 0)
        self.assertAlmostEqual(self.exponent(lambda n: 30 + 0.01 * n), 1.0)
        self.assertAlmostEqual(self.exponent(lambda n: 30 + 0.5 * n**0.5), 0.5)
        self.assertAlmostEqual(self.exponent(lambda n: 30 + 1e-5 * n**2), 2.0)
        self.assertLessEqual(self.exponent(lambda n: 30 + 0.001 * n * math.log(n)), growth.MAX_EXPONENT)

    def test_noise_and_decline_are_constant(self):
        self.assertEqual(growth.fit([(100, 30.0), (1000, 30.9), (10000, 30.2)], 1)[2], 0)
        self.assertEqual(growth.fit([(100, 90.0), (1000, 60.0), (10000, 30.0)], 1)[2], 0)

    def test_cost_of_one_more(self):
        curve = growth.fit([(size, 30 + 0.01 * size) for size in (100, 1000, 5000, 10000)], 1)
        self.assertAlmostEqual(growth.per_object(curve, 10000), 0.01)

    def test_quadratic_memory_fails_the_section(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, MEASURE_OUT=folder), mock.patch.object(growth, "draw"):
            for memory, passed in ((lambda n: 30000 + 3 * n, True), (lambda n: 30000 + n * n // 100, False)):
                _, bounds = figures.scale(scale_rows(memory))
                for bound in bounds:
                    bound.check(full=True)
                verdicts = {bound.name: bound.passed for bound in bounds}
                self.assertEqual(verdicts["fake nodes: exponent of resident memory"], passed)

    @unittest.skipUnless(shutil.which("gnuplot"), "gnuplot is not installed")
    def test_chart_is_svg(self):
        with tempfile.TemporaryDirectory() as folder:
            points = [(100, 1.0), (1000, 10.0), (10000, 100.0)]
            path = Path(folder) / "chart.svg"
            growth.draw(path, "memory", "MiB", [("nodes", points, growth.fit(points, 0.1))])
            root = xml.etree.ElementTree.parse(path).getroot()
            self.assertTrue(root.tag.endswith("svg"))
            self.assertIn("nodes", "".join(root.itertext()))


class Figures(unittest.TestCase):
    def verdicts(self, section, rows, *, full=True):
        _, bounds = figures.SECTIONS[section](rows)
        for bound in bounds:
            bound.check(full=full)
        return {bound.name: bound.passed for bound in bounds}

    def test_median_of_pairs_decides(self):
        # One slow run does not fail the section, two of three do.
        self.assertTrue(self.verdicts("engine", engine_rows([9000, 20000, 9000]))["Job: time, server / baseline, median"])
        self.assertFalse(self.verdicts("engine", engine_rows([9000, 20000, 20000]))["Job: time, server / baseline, median"])

    def test_writes_have_a_bound(self):
        name = "Pod: API writes, server / baseline, median"
        self.assertTrue(self.verdicts("engine", engine_rows([9000] * 3, 1050))[name])
        self.assertFalse(self.verdicts("engine", engine_rows([9000] * 3, 1051))[name])

    def test_small_scale_leaves_time_undecided(self):
        verdicts = self.verdicts("engine", engine_rows([90000] * 3, 5000), full=False)
        self.assertEqual(set(verdicts.values()), {None})

    def test_shares_are_differences(self):
        rows = [["before 1", "ours", "0.005", "10"], ["before 1", "ours", "+Inf", "10"]]
        rows += [["after 1", "ours", "0.005", "108"], ["after 1", "ours", "0.025", "110"], ["after 1", "ours", "+Inf", "110"]]
        total, shares = figures.histogram(rows, "ours", [1])
        self.assertEqual((total, shares[0.005], shares[float("inf")]), (100, 0.98, 1.0))

    def admission_rows(self, slow, own=0.005):
        """A record of three turns of 100 reviews, of which `slow` are above 5 ms, and 20 of Go."""
        rows = [["size", "100", "50", "3"], ["failed_open", "0"], ["tasks", "2"], ["client", "ours", "p50 1 ms"], ["client", "peer", "p50 2 ms"]]
        for turn in (1, 2, 3):
            for source, above in (("ours", slow), ("peer", 20)):
                for when, times in (("before", turn - 1), ("after", turn)):
                    rows.append([f"{when} {turn}", source, "0.005", str(times * (100 - above))])
                    rows.append([f"{when} {turn}", source, "+Inf", str(times * 100)])
            for end, count in ((str(own), 99), ("+Inf", 100)):
                rows.append([f"after {turn}", "server", end, str(count)])
        return rows

    def test_admission_has_bounds_beside_go(self):
        slow, own = "reviews above 5 ms by the API server, Prewarmer / Go, median of the turns", "bucket of the server's own p99, s"
        for rows, expected in (
            (self.admission_rows(22), (True, True)),
            (self.admission_rows(23), (False, True)),
            (self.admission_rows(20, 0.01), (True, False)),
        ):
            verdicts = self.verdicts("admission", rows)
            self.assertEqual((verdicts[slow], verdicts[own]), expected)
            self.assertTrue(verdicts["admissions without a review"])

    def test_idle_use_has_a_bound(self):
        rows = [["size", "5000", "20", "100", "2000", "10000", "100"], ["stored", "10002", "2000"]]
        rows += [["run", "server", kind, "1000", "1", "1", "0", "1000"] for kind in ("Pod", "Job")]
        rows += [["memory", "idle", "1024", "512", "1024"], ["memory", "60 s after all of it was deleted", "1024", "512", "1024"]]
        rows += [["ready", "300"], ["ready", "200"]]
        names = ["processor time without work, %", "time from start to readiness, ms"]
        for used, ready, expected in (("120", "999", True), ("121", "1001", False)):
            verdicts = self.verdicts("memory", [*rows, ["idle", "60", used, "300"], ["ready", ready]])
            self.assertEqual([verdicts[name] for name in names], [expected, expected])

    def test_memory_that_is_kept_after_a_load_has_a_bound(self):
        rows = [["size", "5000", "20", "100", "2000", "10000", "100"], ["stored", "10002", "2000"], ["ready", "300"]]
        rows += [["run", "server", kind, "1000", "1", "1", "0", "1000"] for kind in ("Pod", "Job")]
        rows += [["idle", "60", "1", "1"], ["memory", "idle", "20480", "512", "20480"]]
        names = ["maximum with everything, MiB", "above idle, 60 s after all of it was deleted, MiB"]
        for kept, most, expected in ((28672, 65536, True), (28673, 65537, False)):
            end = ["memory", "60 s after all of it was deleted", str(kept), "512", str(most)]
            verdicts = self.verdicts("memory", [*rows, end])
            self.assertEqual([verdicts[name] for name in names], [expected, expected])

    def test_missing_figures_are_an_error(self):
        with self.assertRaises(figures.MissingError):
            figures.engine([["size", "100", "5", "10"]])
        with self.assertRaises(figures.MissingError):
            figures.lines([["load", "0.1"]])


class Tables(unittest.TestCase):
    def run_section(self, name, rows, scale="full"):
        """Returns the exit status of a section and what it printed."""
        with tempfile.TemporaryDirectory() as folder:
            text = "\n".join("\t".join(row) for row in rows)
            Path(folder, f"{name}.tsv").write_text(text, encoding="utf-8")
            variables = {"MEASURE_OUT": folder, "MEASURE_SCALE": scale, "MEASURE_COMMIT": "abc1234-dirty"}
            out = io.StringIO()
            with mock.patch.dict(os.environ, variables), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                status = tables.main(["section", name])
                page = Path(folder, "page.md")
                page.write_text(f"before\n<!-- table: {name} -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
                written = None
                if Path(folder, f"{name}.json").exists():
                    with mock.patch.object(tables, "PAGE", page):
                        if scale == "full":
                            tables.main(["write", name, "fuzz"])
                        else:
                            self.assertRaises(ValueError, tables.main, ["write", name])
                    written = page.read_text(encoding="utf-8")
            return status, out.getvalue(), written

    def test_page_has_what_was_printed(self):
        status, printed, page = self.run_section("soak", [["load", "0.1"], ["line", "flat"], ["seconds", "7"]])
        self.assertEqual(status, 0)
        self.assertEqual(page, f"before\n<!-- table: soak -->\n\n{printed}\n<!-- end -->\nafter\n")
        self.assertIn("- flat\n", printed)
        flat = " ".join(printed.split())
        self.assertIn("at commit abc1234-dirty, `make test-long SECTIONS=soak`, 7 s.", flat)
        self.assertIn("etcd without fsync, kube-controller-manager at 500 requests/s", flat)
        self.assertNotIn("other processes", flat)

    def test_load_of_the_machine_is_said(self):
        _, printed, _ = self.run_section("soak", [["load", "3.1"], ["line", "flat"]])
        self.assertIn("other processes used the machine: load 3.1", " ".join(printed.split()))

    def test_exceeded_bound_fails_the_section_by_name(self):
        rows = [["load", "0.1"], ["size", "5000"], ["resource", "page", "200001", "900000"]]
        status, printed, _ = self.run_section("pages", rows)
        self.assertEqual(status, 1)
        self.assertIn("pages: bytes of all, compressed: 200,001, at most 200,000: EXCEEDED", printed)

    def test_webhook_has_its_rows_and_the_load(self):
        rows = [["load", "0.1"], ["size", "7000", "1"], ["allocations", "90 allocations"], *WEBHOOK_MEMORY]
        for connections in ("1", "8", "64"):
            rows.append(["reviews", "ours", connections, "6000", "9000", "0.1", "0.2", "3"])
            rows.append(["reviews", "peer", connections, "1500", "800", "0.5", "1.4", "9"])
            rows.append(["reviews", "echo", connections, "9000", "18000", "0.1", "0.2", "1"])
            rows.append(["reviews", "parse", connections, "5000", "7000", "0.1", "0.2", "1"])
        status, printed, _ = self.run_section("webhook", rows)
        self.assertEqual(status, 0)
        self.assertIn("| 64 | Go | 1,500 | 800 |", printed)
        self.assertIn("Prewarmer / Go, median of all rounds: 11.25, at least 10.00: kept", printed)
        self.assertIn("Prewarmer / constant answer, median of all rounds: 2.00, at most 2.50: kept", printed)
        self.assertIn("resident memory without work, MiB: 24.00, at most 24.00: kept", printed)
        self.assertIn("above idle, 60 s after the load, MiB: 0.00, at most 8.00: kept", printed)

    def test_webhook_has_bounds_by_medians(self):
        def rows(ours):
            found = [["size", "7000", "1"], ["allocations", "90 allocations"], *WEBHOOK_MEMORY]
            for connections in ("1", "8", "64"):
                for own in ours:
                    found.append(["reviews", "ours", connections, "6000", str(own), "0.1", "0.2", "3"])
                    found.append(["reviews", "peer", connections, "1500", "800", "0.5", "1.4", "9"])
                    found.append(["reviews", "echo", connections, "9000", "18000", "0.1", "0.2", "1"])
                    found.append(["reviews", "parse", connections, "5000", "7000", "0.1", "0.2", "1"])
            return found

        for ours, expected in (([9000, 9000, 5000], {True}), ([9000, 4000, 4000], {False})):
            _, bounds = figures.SECTIONS["webhook"](rows(ours))
            for bound in bounds:
                bound.check(full=True)
            self.assertEqual({bound.passed for bound in bounds if "processor" in bound.name}, expected)

    def test_small_scale_is_not_written(self):
        _, _, page = self.run_section("soak", [["line", "flat"]], scale="small")
        self.assertIn("\nold\n", page)

    def test_every_section_has_a_place_on_the_page(self):
        names = re.search(r"^sections=\(([^)]*)\)", SECTIONS, re.MULTILINE)[1].split()
        page = tables.PAGE.read_text(encoding="utf-8")
        self.assertEqual(sorted(re.findall(r"^<!-- table: (.+) -->$", page, re.MULTILINE)), sorted(names))
        for name in names:
            tables.replace_table(page, name, "")
            self.assertIn(f"\nsection_{name}()", SECTIONS)


if __name__ == "__main__":
    unittest.main()

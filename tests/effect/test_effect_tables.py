"""Tests of effect_tables.py: python3 -m unittest discover tests/effect"""

import contextlib
import io
import os
import re
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import effect_tables
import figures

SOURCE = Path(__file__).parent
VALUES = {
    "starts": 200,
    "unstarted": 3,
    "warm": 50,
    "p50_ms": 1234,
    "p95_ms": 9000,
    "p99_ms": 20000,
    "downloaded_bytes": 5_000_000_000,
    "in_vain_bytes": 250_000_000,
    "evictions": 7,
}
REQUESTS = {"api_writes": 12345, "tasks": 12}
QUALITY = {"failures": 0, "lag_ms": 15, "write_delay_ms": 90}


def rows(trace="rollouts", policies=("none", "auto"), **changes):
    """A record of one run for each policy, and the computed policy."""
    found = [["load", "0.1"], ["measured", "2026-01-02", "abc1234"], ["size", trace, "200", "full", "1200", "1", "1"]]
    for policy in policies:
        values = VALUES | REQUESTS | QUALITY | changes
        found += [["figure", trace, policy, name, str(value)] for name, value in values.items()]
    found += [["figure", trace, "oracle", name, str(value)] for name, value in VALUES.items()]
    return found


class Sections(unittest.TestCase):
    def cells(self, record, policy, trace="rollouts"):
        text, _ = effect_tables.section(trace, record)
        [line] = [line for line in text.splitlines() if line.startswith(f"| {effect_tables.POLICIES[policy]} |")]
        return line.strip("| ").split(" | ")

    def test_figures_are_in_units_of_the_page(self):
        expected = ["200", "3", "25.0 %", "1.23", "9.00", "20.00", "5.0", "0.2", "7", "12,345", "12"]
        self.assertEqual(self.cells(rows(), "auto")[1:], expected)

    def test_computed_policy_sends_no_request(self):
        self.assertEqual(self.cells(rows(), "oracle")[-2:], ["–", "–"])

    def test_unknown_time_is_no_zero(self):
        self.assertEqual(self.cells(rows(p50_ms="-"), "auto")[4], "–")

    def test_share_without_a_start_is_unknown(self):
        self.assertEqual(self.cells(rows(starts=0, warm=0), "auto")[3], "–")

    def test_rounds_give_the_median(self):
        record = rows(p50_ms=1000) + rows(p50_ms=5000) + rows(p50_ms=2000)
        self.assertEqual(self.cells(record, "auto")[4], "2.00")
        self.assertIn("median of 3 runs", effect_tables.section("rollouts", record)[0])

    def test_policy_that_was_not_run_has_no_row(self):
        text, _ = effect_tables.section("rollouts", rows(policies=("none",)))
        self.assertNotIn("nodes: auto", text)
        self.assertIn("| without Prewarmer |", text)

    def test_missing_figure_is_an_error(self):
        for record in (rows(policies=())[:3], [one for one in rows() if "in_vain_bytes" not in one]):
            with self.assertRaises(figures.MissingError):
                effect_tables.section("rollouts", record)


class Page(unittest.TestCase):
    def run_main(self, command, records, scale="full"):
        """Returns the exit status, what was printed, and the page if it was written."""
        with tempfile.TemporaryDirectory() as folder:
            for trace, record in records.items():
                Path(folder, f"{trace}.tsv").write_text("\n".join("\t".join(one) for one in record), encoding="utf-8")
            variables = {"MEASURE_OUT": folder, "MEASURE_SCALE": scale}
            out, path = io.StringIO(), Path(folder, "effect.md")
            with mock.patch.dict(os.environ, variables), mock.patch.object(effect_tables, "PAGE", path):
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                    status = effect_tables.main([command])
            return status, out.getvalue(), path.read_text(encoding="utf-8") if path.exists() else None

    def test_traces_are_in_the_order_of_the_page(self):
        status, printed, page = self.run_main("write", {"mixed": rows("mixed"), "rollouts": rows()})
        self.assertEqual(status, 0)
        self.assertEqual(printed, page + "\n")
        self.assertEqual(re.findall(r"^## (.+)$", page, re.MULTILINE), ["Rollouts", "Mixed", "Measurement"])
        self.assertEqual(" ".join(page.split()).count("one run, measured 2026-01-02 at commit abc1234."), 2)
        self.assertIn("etcd without fsync", page)
        self.assertIn("StatefulSet, DaemonSet; 200 nodes,", page)

    def test_failed_request_fails_and_is_named(self):
        for scale in ("full", "small"):
            status, printed, page = self.run_main("print", {"rollouts": rows(failures=1)}, scale)
            self.assertEqual((status, page), (1, None))
            self.assertIn("rollouts, auto: failed requests, nodes and steps: 1.00, at most 0.00: EXCEEDED", printed)

    def test_late_run_is_not_written(self):
        for figure, late in (("lag_ms", 1001), ("write_delay_ms", 2001)):
            status, _, page = self.run_main("write", {"rollouts": rows(**{figure: late})})
            self.assertEqual((status, page), (1, None))
            self.assertEqual(self.run_main("print", {"rollouts": rows(**{figure: late})}, "small")[0], 0)

    def test_small_scale_is_not_written(self):
        self.assertEqual(self.run_main("write", {"rollouts": rows()}, "small")[::2], (1, None))

    def test_nothing_measured_gives_no_page(self):
        status, printed, page = self.run_main("write", {})
        self.assertEqual((status, page), (1, None))
        self.assertIn("the records have no trace", printed)

    def test_programs_know_the_same_traces(self):
        script = (SOURCE / "run.sh").read_text(encoding="utf-8")
        names = re.search(r"^all_traces=\(([^)]*)\)", script, re.MULTILINE)[1].split()
        code = (SOURCE / "src/trace/mod.rs").read_text(encoding="utf-8")
        self.assertEqual(names, list(effect_tables.TRACES))
        self.assertEqual(names, re.findall(r'Self::\w+ => "([a-z-]+)",', code.split("impl Kind")[1].split("enum Scale")[0]))


if __name__ == "__main__":
    unittest.main()

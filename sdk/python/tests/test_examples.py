"""Runs every example against a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable

import pytest

from .conftest import ROOT
from .harness import Live
from .test_live import MANIFEST, image

EXAMPLES = ROOT / "examples"
# A few nodes in several batches are enough; quickstart and existing_client use all nodes.
FEW = ("--node-selector", "type=fake", "--nodes", "4")


def run(*command: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs an example, and checks its exit status and output."""
    # UTF-8 on every machine, independent of its locale.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    if os.environ.get("PREWARMER_TEST_NAMESPACE"):
        environment["PREWARMER_NAMESPACE"] = os.environ["PREWARMER_TEST_NAMESPACE"]
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_all_examples_are_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [one.name for one in EXAMPLES.glob("*.py") if f'"{one.name}"' not in text] == []


def test_readme_contains_the_quickstart() -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    assert (EXAMPLES / "quickstart.py").read_text(encoding="utf-8").endswith(f'"""\n\n{code}')
    assert len(code.splitlines()) <= 6


def quickstart() -> None:
    assert "completed: 120 of 120 nodes are warm" in run(EXAMPLES / "quickstart.py").stdout


def wait_with_progress() -> None:
    good, bad = image(), image("missing")
    done = run(EXAMPLES / "wait_with_progress.py", *FEW, "--batch-size", "2", good, bad)
    assert f"{good}: warm on 4 nodes, failed on 0" in done.stdout
    assert f"{bad}: ImageNotFound" in done.stdout
    assert "% running" in done.stderr


def nightly_schedule() -> None:
    name = ("--name", f"test-{uuid.uuid4().hex[:8]}")
    first = run(EXAMPLES / "nightly_schedule.py", *FEW, *name, image()).stdout
    second = run(EXAMPLES / "nightly_schedule.py", *FEW, *name, "--now", "--delete", image()).stdout
    assert first.split()[0] == second.split()[0], "the schedule was made twice"
    assert "run 1: manual" in second
    assert "was deleted" in second


def ci_gate(words: str, code: int) -> None:
    with TemporaryDirectory() as folder:
        manifest = Path(folder, "deployment.yaml")
        manifest.write_text(MANIFEST.replace("nginx:1.27", image(words)).replace("50%", "4"))
        done = run(EXAMPLES / "ci_gate.py", "--timeout", "100", manifest, code=code)
    assert ("ImageNotFound" in done.stderr) is (code == 1)
    assert ("4/4 nodes" in done.stderr) is (code == 0)
    assert ("warm\n" in done.stdout) is (code == 0)


def async_many() -> None:
    images = [image() for _ in range(3)]
    out = run(EXAMPLES / "async_many.py", *FEW, *images).stdout
    assert all(f"{one}: completed, 100.0%" in out for one in images)


def existing_client() -> None:
    out = run(EXAMPLES / "existing_client.py").stdout
    assert "completed: 120/120 (100.0%)" in out
    assert "too late: the task has ended" in out
    assert out.endswith("100.0\n[]\n")


LIVE: dict[str, Callable[[], None]] = {
    "quickstart": quickstart,
    "wait_with_progress": wait_with_progress,
    "nightly_schedule": nightly_schedule,
    "ci_gate": lambda: ci_gate("app", 0),
    "ci_gate, closed": lambda: ci_gate("missing", 1),
    "async_many": async_many,
    "existing_client": existing_client,
}


@pytest.fixture(scope="module")
def running(live: Live) -> Iterator[dict[str, Future[None]]]:
    """Runs all examples concurrently, because they mostly wait for nodes."""
    with ThreadPoolExecutor(len(LIVE)) as pool:
        yield {name: pool.submit(example) for name, example in LIVE.items()}


@pytest.mark.parametrize("name", LIVE)
def test_an_example(live: Live, running: dict[str, Future[None]], name: str) -> None:
    running[name].result()


def test_ci_gate_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deployment.yaml").write_text(MANIFEST)
    monkeypatch.delenv("PREWARMER_URL", raising=False)
    done = run(EXAMPLES / "ci_gate.py", tmp_path / "deployment.yaml", code=1)
    assert "PREWARMER_URL" in done.stderr
    assert "Traceback" not in done.stderr

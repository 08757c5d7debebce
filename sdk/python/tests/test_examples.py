"""Every example is run against a server, as its reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from .conftest import ROOT
from .harness import Live
from .test_live import MANIFEST, image

EXAMPLES = ROOT / "examples"
SELECTOR = ("--node-selector", "type=fake")


def run(*command: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs an example, and expects how it ends."""
    # By its bytes on every machine, whatever its language.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_no_example_is_left_out() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [one.name for one in EXAMPLES.glob("*.py") if f'"{one.name}"' not in text] == []


def test_the_readme_is_the_quickstart() -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    assert (EXAMPLES / "quickstart.py").read_text(encoding="utf-8").endswith(f'"""\n\n{code}')
    assert len(code.splitlines()) <= 6


def test_quickstart(live: Live) -> None:
    assert "completed: 120 of 120 nodes are warm" in run(EXAMPLES / "quickstart.py").stdout


def test_wait_with_progress(live: Live) -> None:
    good, bad = image(), image("missing")
    done = run(EXAMPLES / "wait_with_progress.py", *SELECTOR, good, bad)
    assert re.search(rf"{good}: warm on [1-9]\d* nodes, failed on 0", done.stdout)
    assert f"{bad}: ImageNotFound" in done.stdout
    assert "% running" in done.stderr


def test_nightly_schedule(live: Live) -> None:
    name = ("--name", f"test-{uuid.uuid4().hex[:8]}")
    first = run(EXAMPLES / "nightly_schedule.py", *SELECTOR, *name, image()).stdout
    second = run(EXAMPLES / "nightly_schedule.py", *SELECTOR, *name, "--now", "--delete", image()).stdout
    assert first.split()[0] == second.split()[0], "the schedule was made twice"
    assert "run 1: manual" in second
    assert "was deleted" in second


@pytest.mark.parametrize(("words", "code"), [("app", 0), ("missing", 1)])
def test_ci_gate(live: Live, tmp_path: Path, words: str, code: int) -> None:
    manifest = tmp_path / "deployment.yaml"
    manifest.write_text(MANIFEST.replace("nginx:1.27", image(words)))
    done = run(EXAMPLES / "ci_gate.py", "--timeout", "100", manifest, code=code)
    assert ("ImageNotFound" in done.stderr) is (code == 1)
    assert ("warm\n" in done.stdout) is (code == 0)


def test_ci_gate_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deployment.yaml").write_text(MANIFEST)
    monkeypatch.delenv("PREWARMER_URL", raising=False)
    done = run(EXAMPLES / "ci_gate.py", tmp_path / "deployment.yaml", code=1)
    assert "PREWARMER_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_async_many(live: Live) -> None:
    images = [image() for _ in range(3)]
    out = run(EXAMPLES / "async_many.py", *SELECTOR, *images).stdout
    assert all(f"{one}: completed, 100.0%" in out for one in images)


def test_existing_client(live: Live) -> None:
    out = run(EXAMPLES / "existing_client.py").stdout
    assert "completed: 120/120 (100.0%)" in out
    assert "too late: the task has ended" in out
    assert out.endswith("100.0\n[]\n")

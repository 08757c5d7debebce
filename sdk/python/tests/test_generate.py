"""Tests of the generator of the synchronous client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from generate import AIO, CLIENT, TEXTS, synchronous

from .conftest import ROOT

SOURCE = AIO.read_text(encoding="utf-8")


def test_client_is_what_the_generator_writes(tmp_path: Path) -> None:
    written = tmp_path / "client.py"
    subprocess.run([sys.executable, ROOT / "generate.py", written], check=True)
    assert CLIENT.read_bytes() == written.read_bytes(), "client.py is not current: run generate.py"


@pytest.mark.parametrize("text", [text for text, _ in TEXTS])
def test_missing_text_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match="does not contain"):
        synchronous(SOURCE.replace(text, ""))


@pytest.mark.parametrize("rest", ["asyncio.run", "'''Returns an awaitable.'''", "# for asynchronous use"])
def test_asynchronous_rest_is_refused(rest: str) -> None:
    with pytest.raises(SystemExit, match=rf"not synchronous, .*: {rest}"):
        synchronous(f"{SOURCE}{rest}\n")

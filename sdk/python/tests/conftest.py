from __future__ import annotations

import os
from pathlib import Path

import pytest

from .harness import Live, not_run

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _own_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the variables that name a server, in tests without a server."""
    if "live" not in request.fixturenames:
        for name in ("PREWARMER_URL", "PREWARMER_TOKEN", "PREWARMER_CA_FILE", "PREWARMER_NAMESPACE"):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def live() -> Live:
    """Server for live tests."""
    url = os.environ.get("PREWARMER_URL")
    if not url:
        not_run("PREWARMER_URL is not set")
    return Live(url, os.environ.get("PREWARMER_TEST_NAMESPACE") or None)


@pytest.fixture
def read_token() -> str:
    """Token with read access only."""
    token = os.environ.get("PREWARMER_READ_TOKEN")
    if not token:
        not_run("PREWARMER_READ_TOKEN is not set")
    return token

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .harness import Live

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _own_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests without a server must not find one."""
    if "live" not in request.fixturenames:
        for name in ("PREWARMER_URL", "PREWARMER_TOKEN", "PREWARMER_CA_FILE", "PREWARMER_NAMESPACE"):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def live() -> Live:
    """The server that the tests may call."""
    url = os.environ.get("PREWARMER_URL")
    if not url:
        pytest.skip("NOT RUN: PREWARMER_URL is not set, so there is no server to call")
    return Live(url, os.environ.get("PREWARMER_TEST_NAMESPACE") or None)


@pytest.fixture
def read_token() -> str:
    """A token that may only read."""
    token = os.environ.get("PREWARMER_READ_TOKEN")
    if not token:
        pytest.skip("NOT RUN: PREWARMER_READ_TOKEN is not set, so nobody is there who may only read")
    return token

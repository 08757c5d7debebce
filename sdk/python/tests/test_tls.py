from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from prewarmer import AsyncPrewarmClient, PrewarmClient, TransportError

from .harness import TOKEN, Handle, not_run

CERTIFICATE = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
STATS = b'{"tasks": {}, "totalTasks": 0, "schedules": 0, "enabledSchedules": 0}'


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(STATS)

    def log_message(self, *values: object) -> None:
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a self-signed server certificate; the key is in the same directory."""
    if not shutil.which("openssl"):
        not_run("openssl is not installed (Debian package openssl)")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", *CERTIFICATE.split(), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.crt")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "ca.crt"


@pytest.fixture(scope="module")
def secure(authority: Path) -> Iterator[int]:
    """Port of a server with TLS."""
    server = HTTPServer(("127.0.0.1", 0), Page)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, authority.with_name("key.pem"))
    # The handler performs the handshake, so that a failed one does not stop the server.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    yield from _serving(server)


@pytest.fixture(scope="module")
def plain() -> Iterator[int]:
    """Port of a server without TLS."""
    yield from _serving(HTTPServer(("127.0.0.1", 0), Page))


def _serving(server: HTTPServer) -> Iterator[int]:
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(kind: str, url: str, **options: Any) -> TransportError:
    handle = Handle(kind, None, base_url=url, **options)
    with pytest.raises(TransportError) as raised:
        handle.call("get_stats")
    assert handle.clock.slept == [], "what does not mend by itself was tried again"
    return raised.value


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_certificate_that_is_not_trusted(kind: str, secure: int) -> None:
    error = refusal(kind, f"https://localhost:{secure}")
    assert f"the certificate of https://localhost:{secure}/api/v1/stats is not trusted (self" in str(error)
    assert "PREWARMER_CA_FILE" in str(error)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_server_without_tls(kind: str, plain: int) -> None:
    assert "the server may use plain http:// there" in str(refusal(kind, f"https://localhost:{plain}"))


def test_the_ca_is_given(secure: int, authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PrewarmClient(f"https://localhost:{secure}", verify=str(authority)) as client:
        assert client.get_stats().total_tasks == 0
    monkeypatch.setenv("PREWARMER_CA_FILE", str(authority))
    with PrewarmClient(f"https://localhost:{secure}") as client:
        assert client.get_stats().total_tasks == 0


def test_the_ca_is_given_to_the_asynchronous_client(secure: int, authority: Path) -> None:
    async def call() -> int:
        async with AsyncPrewarmClient(f"https://localhost:{secure}", verify=authority) as client:
            return (await client.get_stats()).total_tasks

    assert asyncio.run(call()) == 0


def test_network_log_does_not_contain_the_token(plain: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with PrewarmClient(f"http://localhost:{plain}", TOKEN) as client:
        client.get_stats()
    assert "/api/v1/stats" in caplog.text
    assert TOKEN not in caplog.text

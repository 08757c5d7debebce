"""Settings of a client, for both clients."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Union

import httpx

from ._calls import Call, T
from ._version import __version__
from .errors import PrewarmError

Token = Union[str, Callable[[], str]]
Verify = Union[bool, str, "os.PathLike[str]", ssl.SSLContext]

API = "/api/v1"


@dataclass(frozen=True)
class Settings:
    """Settings that apply to every call."""

    base: httpx.URL
    token: Token | None = field(repr=False)
    timeout: float
    retries: int
    retry_seconds: float
    namespace: str | None

    @classmethod
    def of(
        cls,
        base_url: str | None,
        token: Token | None,
        timeout: float,
        retries: int,
        retry_seconds: float,
        namespace: str | None,
    ) -> Settings:
        """Returns settings from the arguments of a client, with defaults from the environment."""
        base = _base(base_url or os.environ.get("PREWARMER_URL"))
        token = token or os.environ.get("PREWARMER_TOKEN")
        # An empty string overrides the environment.
        namespace = (os.environ.get("PREWARMER_NAMESPACE") if namespace is None else namespace) or None
        return cls(base, token, timeout, retries, retry_seconds, namespace)

    def url(self, call: Call[T]) -> httpx.URL:
        """Returns the URL of a call without its query."""
        return self.base.copy_with(raw_path=self.base.raw_path.rstrip(b"/") + call.path.encode())

    def headers(self, call: Call[T]) -> dict[str, str]:
        """Returns the headers of a call. A callable token is called each time, because tokens may be renewed."""
        headers = {"Accept": "application/json", "User-Agent": f"prewarmer-python/{__version__}", **call.headers}
        token = self.token() if callable(self.token) else self.token
        if token:
            headers["Authorization"] = f"Bearer {_checked(token)}"
        return headers

    def in_namespace(self, namespace: str | None) -> str | None:
        """Returns the namespace of a call: its argument, or the client's default."""
        return self.namespace if namespace is None else namespace


def trust(verify: Verify) -> bool | ssl.SSLContext:
    """Returns the certificate verification for httpx."""
    if verify is True:
        verify = os.environ.get("PREWARMER_CA_FILE") or True
    if isinstance(verify, (bool, ssl.SSLContext)):
        return verify
    path = Path(verify)
    try:
        return ssl.create_default_context(cafile=str(path))
    except OSError as error:
        raise PrewarmError(f"CA file {path} cannot be used: {error}") from error


def _base(given: str | None) -> httpx.URL:
    if not given:
        raise PrewarmError("base_url is required: set it or PREWARMER_URL, such as https://localhost:8080")
    try:
        url = httpx.URL(given.strip())
    except httpx.InvalidURL as error:
        raise PrewarmError(f"base_url is not a valid URL: {error}") from None
    if url.userinfo:
        raise PrewarmError("base_url must not contain a user or password; use a token")
    if url.scheme not in ("http", "https") or not url.host:
        raise PrewarmError(f"base_url must start with http:// or https://, such as https://localhost:8080: {given!r}")
    path = url.path.rstrip("/")
    return url.copy_with(path=path if path.endswith(API) else path + API, query=None, fragment=None)


def _checked(token: object) -> str:
    if not isinstance(token, str):
        raise PrewarmError("the token must be a string, or a callable that returns a string")
    # Removes the line break at the end of a file. Other characters that are invalid in a header are
    # rejected here, because the error of httpx would contain the token.
    token = token.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise PrewarmError("the token contains an invalid character")
    return token

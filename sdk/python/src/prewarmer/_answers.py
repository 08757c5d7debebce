"""What answers mean: shared by both clients."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl

import httpx
from pydantic import ValidationError

from . import errors
from ._calls import Call, T
from .models import ErrorBody

_CLASSES: dict[int, type[errors.ApiError]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    422: errors.BadRequest,
    429: errors.TooManyRequests,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
}
# What a proxy says in Prewarmer's stead without Prewarmer's words, and means the same.
_BY_PROXIES = {429, 502, 503, 504}
# How much of a strange body an error quotes.
_QUOTED = 200


def read(call: Call[T], response: httpx.Response) -> T:
    """The answer, or what it says is wrong."""
    if response.status_code >= 300:
        raise refusal(call.method, response)
    return parse(call.answer, response.content, response)


def parse(model: type[T], text: bytes | str, response: httpx.Response) -> T:
    """A model from JSON that a server sent."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        words = text if isinstance(text, str) else text.decode(errors="replace")
        why = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors()[:3])
        raise _strange(response, f"what is no {model.__name__} ({why})", words) from None


def refusal(method: str, response: httpx.Response) -> errors.PrewarmError:
    """The error that an answer tells of."""
    code = response.status_code
    if code < 400:
        target = response.headers.get("location", "")
        hint = f"a redirect to {target!r}, which is not followed: give the address of the API as base_url"
        return _strange(response, hint, "")
    try:
        body = ErrorBody.model_validate_json(response.content)
    except ValidationError:
        if code not in _BY_PROXIES:
            return _strange(response, "what is no error of Prewarmer", response.text)
        body = ErrorBody(error=_quote(response.text) or "no more was said")
    return _CLASSES.get(code, errors.ApiError)(
        code,
        body.error,
        details=body.details,
        request_id=response.headers.get("x-request-id"),
        task_id=body.task_id,
        status=body.status,
        retry_after=_retry_after(response.headers.get("retry-after")),
        method=method,
        url=_address(response.request.url),
    )


def unanswered(error: httpx.HTTPError, url: httpx.URL) -> errors.TransportError:
    """Why there is no answer, and what to do."""
    address = _address(url)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = "give the file of the CA as verify=, or in PREWARMER_CA_FILE"
            why = f"the certificate of {address} is not trusted ({cause.verify_message}): {hint}"
            return errors.TransportError(why, sent=False, transient=False)
        if isinstance(cause, ssl.SSLError):
            why = f"no TLS with {address} ({cause.reason or cause}): does the server speak plain http:// there?"
            return errors.TransportError(why, sent=False, transient=False)
    if isinstance(error, httpx.UnsupportedProtocol):
        return errors.TransportError(
            f"{address} is no address that can be called: {error}", sent=False, transient=False
        )
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
        hint = "check base_url or PREWARMER_URL, and that the server can be reached from here"
        return errors.TransportError(f"no connection to {address} ({what}): {hint}", sent=False)
    return errors.TransportError(f"no answer from {address} ({what})")


def next_page(response: httpx.Response) -> dict[str, str] | None:
    """What the Link header asks for as the next page. Only the query counts: a header names no other host."""
    target = response.links.get("next", {}).get("url")
    return dict(parse_qsl(httpx.URL(target).query.decode())) if target else None


def _strange(response: httpx.Response, what: str, body: str) -> errors.InvalidAnswer:
    url = _address(response.request.url)
    quoted = _quote(body)
    said = f": {quoted}" if quoted else ""
    hint = "" if response.is_redirect else ". Is base_url the address of Prewarmer, or is a proxy in between?"
    message = f"{url} answered {response.status_code} with {what}{said}{hint}"
    return errors.InvalidAnswer(message, status_code=response.status_code, url=url)


def _quote(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _QUOTED else f"{words[:_QUOTED]}..."


def _address(url: httpx.URL) -> str:
    return str(url.copy_with(query=None))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _retry_after(value: str | None) -> float | None:
    """Seconds, from seconds or a date."""
    if not value:
        return None
    try:
        if value.strip().isdecimal():
            return float(value)
        when = parsedate_to_datetime(value)
        aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return max(0.0, (aware - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):
        return None

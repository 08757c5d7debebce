"""Evaluation of responses, for both clients."""

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
# Status codes that a proxy returns without Prewarmer's error body, with the same meaning.
_BY_PROXIES = {429, 502, 503, 504}
# Maximum number of characters of an unexpected body in an error message.
_QUOTED = 200


def read(call: Call[T], response: httpx.Response) -> T:
    """Returns the decoded response, or raises its error."""
    if response.status_code >= 300:
        raise refusal(call.method, response)
    return parse(call.answer, response.content, response)


def parse(model: type[T], text: bytes | str, response: httpx.Response) -> T:
    """Decodes the JSON of a response into a model."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        words = text if isinstance(text, str) else text.decode(errors="replace")
        why = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors()[:3])
        raise _strange(response, f"an invalid {model.__name__} ({why})", words) from None


def refusal(method: str, response: httpx.Response) -> errors.PrewarmError:
    """Returns the error of a response."""
    code = response.status_code
    if code < 400:
        target = response.headers.get("location", "")
        hint = f"a redirect to {target!r}, which is not followed; set base_url to the URL of the API"
        return _strange(response, hint, "")
    try:
        body = ErrorBody.model_validate_json(response.content)
    except ValidationError:
        if code not in _BY_PROXIES:
            return _strange(response, "a body that is not an error of Prewarmer", response.text)
        body = ErrorBody(error=_quote(response.text) or "no error message")
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
    """Returns the error for a failed request without a response."""
    address = _address(url)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = "set the file of the CA in verify or PREWARMER_CA_FILE"
            why = f"the certificate of {address} is not trusted ({cause.verify_message}): {hint}"
            return errors.TransportError(why, sent=False, transient=False)
        if isinstance(cause, ssl.SSLError):
            why = f"TLS with {address} failed ({cause.reason or cause}): the server may use plain http:// there"
            return errors.TransportError(why, sent=False, transient=False)
    if isinstance(error, httpx.UnsupportedProtocol):
        return errors.TransportError(f"{address} is not a valid URL: {error}", sent=False, transient=False)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
        hint = "check base_url or PREWARMER_URL, and that the server is reachable"
        return errors.TransportError(f"no connection to {address} ({what}): {hint}", sent=False)
    return errors.TransportError(f"no response from {address} ({what})")


def next_page(response: httpx.Response) -> dict[str, str] | None:
    """Returns the query of the next page from the Link header, or None. Other parts of the URL are ignored."""
    target = response.links.get("next", {}).get("url")
    return dict(parse_qsl(httpx.URL(target).query.decode())) if target else None


def _strange(response: httpx.Response, what: str, body: str) -> errors.InvalidAnswer:
    url = _address(response.request.url)
    quoted = _quote(body)
    detail = f": {quoted}" if quoted else ""
    hint = "" if response.is_redirect else "; check that base_url is the URL of Prewarmer, and not of a proxy"
    message = f"{url} answered {response.status_code} with {what}{detail}{hint}"
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
    """Parses the header Retry-After, in seconds or as a date, and returns seconds."""
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

"""httpcore's exceptions as httpx's, what they say about an attempt, and whose request failed where."""

from __future__ import annotations

import ssl

import h11
import httpcore
import httpx

from lbclient.core import errors as core_errors
from lbclient.core.explain import Record
from lbclient.core.outcome import Failure

_AS_HTTPX: dict[type[Exception], type[httpx.HTTPError]] = {
    httpcore.TimeoutException: httpx.TimeoutException,
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.NetworkError: httpx.NetworkError,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.ProtocolError: httpx.ProtocolError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    h11.LocalProtocolError: httpx.LocalProtocolError,  # httpcore lets it through where a body is too short or too long
}

_FAILURES: tuple[tuple[type[httpx.HTTPError], Failure], ...] = (
    (httpx.ConnectError, "connect"),
    (httpx.ConnectTimeout, "connect"),
    (httpx.PoolTimeout, "local"),
    (httpx.TimeoutException, "timeout"),
    (httpx.NetworkError, "reset"),
    (httpx.RemoteProtocolError, "reset"),
)


class NoBackendAvailable(core_errors.NoBackendAvailable, httpx.ConnectError):
    """Nobody may be picked; the message says why each backend was passed over."""


class DrainTimeout(core_errors.DrainTimeout, httpx.ReadError):
    """The grace period of a drain ended, and with it the connection of this request."""


def as_httpx(exc: Exception) -> Exception:
    """`exc` as the exception that httpx's own transport would have raised for it."""
    if isinstance(exc, core_errors.DrainTimeout):
        return exc if isinstance(exc, DrainTimeout) else DrainTimeout(str(exc))
    for kind in type(exc).__mro__:
        mapped = _AS_HTTPX.get(kind)
        if mapped is not None:
            return mapped(_words(exc))
    return exc


def failure_of(exc: BaseException) -> Failure:
    """What an exception of httpx's says about the attempt that it ended."""
    if not isinstance(exc, Exception):
        return "cancelled"
    if isinstance(exc, core_errors.DrainTimeout):
        return "local"
    for kind, failure in _FAILURES:
        if isinstance(exc, kind):
            return failure
    return "local"


def explained(exc: BaseException, record: Record) -> None:
    """Give an exception its record, and a note that names the backend: httpx's own messages name none."""
    attempts = record.attempts
    if attempts:
        tried = ", ".join(f"{attempt.backend} ({attempt.outcome})" for attempt in attempts)
        exc.add_note(f"lbclient: pool {record.pool!r}, attempt {len(attempts)}: {tried}")
    exc.lbclient = record  # type: ignore[attr-defined]  # the documented place, next to response.extensions


def _words(exc: BaseException) -> str:
    """Its message; those of httpcore may be empty while the reason is further down."""
    seen: BaseException | None = exc
    while isinstance(
        seen, Exception
    ):  # behind a timeout there is a cancellation, whose words are the event loop's
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {seen.verify_message}"
        if str(seen):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    return type(exc).__name__

"""httpcore's exceptions as httpx's, what they say about an attempt, and whose request failed where."""

from __future__ import annotations

import ssl
from typing import Protocol

import h11
import httpcore
import httpx

from lbclient.core import errors as core_errors
from lbclient.core.explain import Record
from lbclient.core.outcome import Ending

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


class NoBackendAvailable(core_errors.NoBackendAvailable, httpx.ConnectError):
    """Nobody may be picked; the message says why each backend was passed over."""


class DeadlineExceeded(core_errors.DeadlineExceeded, httpx.TimeoutException):
    """The deadline of the request passed before a response came, or before it was whole."""


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


class Proven(Protocol):
    """What is known of an attempt besides its exception; see `Progress`."""

    @property
    def beaten(self) -> str | None: ...
    @property
    def said(self) -> Ending | None: ...
    @property
    def stale(self) -> bool: ...


def ending_of(exc: BaseException, progress: Proven) -> Ending:
    """The row of the table that an exception of httpx's, and what is proven besides, stand for.

    Args:
        exc: What ended an attempt before its response.
        progress: How far it had got.
    """
    if progress.beaten:
        return Ending.BEATEN
    if not isinstance(exc, Exception):
        return Ending.CANCELLED
    if isinstance(exc, httpx.PoolTimeout):
        return Ending.FULL
    if isinstance(exc, (httpx.ConnectError, httpx.ConnectTimeout)):
        return progress.said or Ending.UNREACHABLE
    ending = ending_of_body(exc)
    if ending is not Ending.TRUNCATED:
        return ending
    # What broke off is no body yet.
    return progress.said or (Ending.STALE if progress.stale else Ending.BROKEN)


def ending_of_body(exc: BaseException) -> Ending:
    """The row of what happened after the response's head."""
    if isinstance(exc, core_errors.DrainTimeout):
        return Ending.CUT
    if isinstance(exc, core_errors.DeadlineExceeded):
        return Ending.HURRIED
    if isinstance(exc, httpx.TimeoutException):
        return Ending.SLOW
    if isinstance(exc, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return Ending.TRUNCATED
    return Ending.OURS


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

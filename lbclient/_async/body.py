"""The request's body, and whether it can be sent a second time.

Bytes and multipart forms of seekable files can. A generator, a pipe or an open file can be read only once: a second
reading raises `StreamConsumed`, or finds the end of the file and silently sends nothing under the old Content-Length.
Those are replayed while nothing was read of them, or as far as what was read has been kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import httpx
from httpx._multipart import FileField, MultipartStream

Body: TypeAlias = "httpx.ByteStream | MultipartStream | OnceBody"


def body_of(request: httpx.Request, keep: int) -> Body:
    """What to send in place of `request.stream`.

    Args:
        request: The caller's.
        keep: Bytes of a body that can be read only once to keep for another attempt.

    Raises:
        TypeError: It is a request of another kind of client.
    """
    stream = request.stream
    if isinstance(stream, (httpx.ByteStream, OnceBody)):
        return stream
    if isinstance(stream, MultipartStream) and all(map(_is_rereadable, stream.fields)):
        return stream
    if not isinstance(stream, httpx.AsyncByteStream):
        raise TypeError(
            f"the body of {request!r} is {stream!r}, no httpx.AsyncByteStream; "
            "clients and transports of httpx and httpx2, and sync and async ones, do not mix"
        )
    return OnceBody(stream, keep)


def _is_rereadable(field: object) -> bool:
    """Whether httpx reads a field of a form from its beginning each time."""
    if not isinstance(field, FileField) or isinstance(field.file, (str, bytes)):
        return True
    seekable = getattr(field.file, "seekable", None)
    return seekable is not None and bool(seekable())


class OnceBody(httpx.AsyncByteStream):
    """A body that can be read once: what was read is kept, up to a limit, and the rest is still to come.

    Args:
        stream: The caller's.
        keep: Bytes.

    Attributes:
        raised: Whether the caller's stream raised: whatever that was, it is not the backend's doing.
    """

    def __init__(self, stream: httpx.AsyncByteStream, keep: int) -> None:
        self._stream = stream
        self._rest: AsyncIterator[bytes] | None = None
        self._kept: list[bytes] = []
        self._room = keep
        self._lost = False  # something was read and not kept
        self._reading = False
        self.raised = False

    def __repr__(self) -> str:
        return f"<OnceBody {'replayable' if self.replayable else 'not replayable'}, {len(self._kept)} parts kept>"

    @property
    def replayable(self) -> bool:
        """Whether all of it can be sent again. Not after a read that was interrupted: who knows what it took."""
        return not self._lost and not self._reading

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in list(self._kept):
            yield part
        if self._rest is None:
            self._rest = self._stream.__aiter__()
        while True:
            self._reading = True
            try:
                part = await anext(self._rest)
            except StopAsyncIteration:
                self._reading = False
                return
            except Exception:
                self.raised = True
                raise
            self._reading = False
            self._room -= len(part)
            if self._lost or self._room < 0:
                self._lost = True
                self._kept.clear()
            else:
                self._kept.append(part)
            yield part


def is_replayable(body: Body) -> bool:
    """Whether all of it can be sent again."""
    return not isinstance(body, OnceBody) or body.replayable

"""HTTP/2 over httpcore's connection class, with what it leaves undone when many requests share a connection.

The frames and the state are h2's and httpcore's. What differs here, each of it observed and each a test:

* The server's SETTINGS are waited for when the connection is opened, as gRPC does. So the number of streams is known
  before the first request, and who does not speak HTTP/2 after all has failed before anything of a request was sent.
* Streams are counted by `Connections`, where waiting for one has a timeout. httpcore's own semaphore has none, and lets
  one stream at a time through to a server that names no limit.
* A response that is given up is reset and its bytes are acknowledged. Otherwise the server goes on sending, the stream
  goes on counting against the limit, and the connection's window shrinks until nothing comes any more.
* A cancelled request finishes the frame that it is writing: half a frame, or a header block that was encoded and never
  sent, would break the connection for everybody on it.
* A read timeout is that of one request. In httpcore it fails all of them; and who waits for another one's read to
  return has no timeout.
* What came while nobody was reading (GOAWAY, a close) is read before the connection is used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpcore

if TYPE_CHECKING:
    import h2.events

MOST_STREAMS = 100
CANCEL = 8  # RFC 9113, 7: the stream is no longer needed
WRITE_WITHIN = 30.0  # seconds; a peer that reads nothing for so long is gone, whatever the caller's timeout
CATCH_UP_WITHIN = 0.05  # seconds; the kernel has the bytes already
CATCH_UP_READS = 10
_CLOSED = "the connection was closed while the request was in flight"


class HTTP2Connection(httpcore.AsyncHTTP2Connection):
    """One HTTP/2 connection. Call `start` first; private parts of httpcore's that it builds on are pinned by tests."""

    def __init__(
        self,
        origin: httpcore.Origin,
        stream: httpcore.AsyncNetworkStream,
        keepalive_expiry: float | None = None,
    ) -> None:
        super().__init__(origin, stream, keepalive_expiry)
        self._settled = False

    @property
    def stream_limit(self) -> int:
        """How many requests at a time the server and httpcore's own setting allow."""
        return min(MOST_STREAMS, self._h2_state.remote_settings.max_concurrent_streams)

    async def start(self, timeout: float | None) -> None:
        """Exchange prefaces: ours goes out, the server's SETTINGS come in.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            httpcore.ConnectError: The server closed, or what it sent is no HTTP/2.
            httpcore.ConnectTimeout: Its SETTINGS did not come in time.
        """
        request = _own_request(self._origin, read=None)
        try:
            with anyio.fail_after(timeout):
                await self._send_connection_init(request)
                self._max_streams = 0
                self._max_streams_semaphore = cast("Any", _NoSemaphore())
                self._sent_connection_init = True
                while not self._settled:
                    await self._receive_events(request)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"no HTTP/2 SETTINGS within {timeout} s") from exc
        except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
            raise httpcore.ConnectError(f"the server does not speak HTTP/2: {exc!r}") from exc

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """As httpcore's.

        Raises:
            httpcore.ConnectionNotAvailable: The server had closed, or begun to: nothing was sent.
        """
        if not self._events:
            await self._catch_up()
        try:
            return await super().handle_async_request(request)
        except httpcore.LocalProtocolError as exc:
            if self.is_closed():
                raise httpcore.ReadError(_CLOSED) from exc
            raise

    async def _catch_up(self) -> None:
        request = _own_request(self._origin, read=CATCH_UP_WITHIN)
        for _ in range(CATCH_UP_READS):
            if not self.is_available() or not self._network_stream.get_extra_info("is_readable"):
                break
            try:
                await self._receive_events(request)
            except httpcore.ReadTimeout:
                break  # nothing for us: a TLS record without data
            except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
                self._connection_error = True
                raise httpcore.ConnectionNotAvailable from exc
        if not self.is_available():
            raise httpcore.ConnectionNotAvailable

    # What httpcore calls

    async def _send_request_headers(self, request: httpcore.Request, stream_id: int) -> None:
        # The limit may have been lowered after this request was counted in.
        if self._h2_state.open_outbound_streams >= self.stream_limit:
            raise httpcore.ConnectionNotAvailable
        await super()._send_request_headers(request, stream_id)

    async def _receive_remote_settings_change(self, event: h2.events.RemoteSettingsChanged) -> None:
        self._settled = True

    async def _receive_stream_event(
        self, request: httpcore.Request, stream_id: int
    ) -> h2.events.ResponseReceived | h2.events.DataReceived | h2.events.StreamEnded:
        timeout = _timeouts(request).get("read")
        try:
            with anyio.fail_after(timeout):
                return await super()._receive_stream_event(request, stream_id)
        except TimeoutError as exc:
            raise httpcore.ReadTimeout(f"nothing came for this request within {timeout} s") from exc

    async def _read_incoming_data(self, request: httpcore.Request) -> list[h2.events.Event]:
        from h2.exceptions import ProtocolError

        try:
            return await super()._read_incoming_data(request)
        except httpcore.ReadTimeout as exc:
            if self._read_exception is exc:  # this request's, and not the connection's
                self._read_exception = None
                self._connection_error = self._write_exception is not None
            raise
        except ProtocolError as exc:
            # httpcore would call it our mistake, and in a body let h2's exception through.
            failure = (
                httpcore.ReadError(_CLOSED) if self.is_closed() else httpcore.RemoteProtocolError(str(exc))
            )
            self._connection_error = True
            self._read_exception = failure
            raise failure from exc

    async def _write_outgoing_data(self, request: httpcore.Request) -> None:
        if _timeouts(request).get("write") is None:
            request = _own_request(self._origin, read=None)
        with anyio.CancelScope(shield=True):
            await super()._write_outgoing_data(request)

    async def _response_closed(self, stream_id: int) -> None:
        with anyio.CancelScope(shield=True):
            try:
                if self.is_available() and self._give_up(stream_id):
                    await self._write_outgoing_data(_own_request(self._origin, read=None))
            except (httpcore.NetworkError, httpcore.TimeoutException):
                pass  # the next to use the connection finds out
            finally:
                await super()._response_closed(stream_id)

    def _give_up(self, stream_id: int) -> bool:
        """Acknowledge what was not read, and reset what has not ended. True when there is something to send."""
        state = self._h2_state
        sends = False
        for event in self._events.get(stream_id, ()):
            size = getattr(event, "flow_controlled_length", None)
            if size:
                state.acknowledge_received_data(size, stream_id)
                sends = True
        stream = state.streams.get(stream_id)
        if stream is not None and not stream.closed:
            state.reset_stream(stream_id, CANCEL)
            sends = True
        return sends


class _NoSemaphore:
    """In place of httpcore's: who gets to it has been counted already."""

    async def acquire(self) -> None:
        pass

    async def release(self) -> None:
        pass


def _own_request(origin: httpcore.Origin, read: float | None) -> httpcore.Request:
    """What the connection does on nobody's behalf; httpcore takes the timeouts off a request."""
    timeouts = {"read": read, "write": WRITE_WITHIN}
    url = httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=b"/")
    return httpcore.Request(b"GET", url, extensions={"timeout": timeouts})


def _timeouts(request: httpcore.Request) -> Mapping[str, Any]:
    extensions: Mapping[str, Any] = cast("Any", request).extensions
    return extensions.get("timeout") or MappingProxyType({})

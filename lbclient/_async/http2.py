"""HTTP/2 over httpcore's connection class, with what it leaves undone when many requests share a connection.

The frames and the state are h2's and httpcore's. What differs here, each of it observed and each a test:

* The server's SETTINGS are waited for when the connection is opened, as gRPC does. So the number of streams is known
  before the first request, and who does not speak HTTP/2 after all has failed before anything of a request was sent.
* Streams are counted by `Connections`, where waiting for one has a timeout. httpcore's own semaphore has none, and lets
  one stream at a time through to a server that names no limit.
* After a GOAWAY the streams that it leaves in go on until they end; httpcore fails them all, though the server answers.
* How a request ended says what is proven: `NotProcessed`, `GoingAway`, `sent`. httpcore sends some a second time.
* A server that has answered, or reset the stream, wants no more of the body. httpcore waits for room that never comes.
* A response that is given up is reset and its bytes are acknowledged. Otherwise the server goes on sending, the stream
  goes on counting against the limit, and the connection's window shrinks until nothing comes any more.
* A cancelled request finishes the frame that it is writing: half a frame, or a header block that was encoded and never
  sent, would break the connection for everybody on it.
* A read timeout is that of one request. In httpcore it fails all of them; and who waits for another one's read to
  return has no timeout.
* What came while nobody was reading (GOAWAY, a close) is read before the connection is used again.
* What comes before a response (1xx) and behind it (trailers) is told of.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import anyio
import httpcore

from lbclient._async.http11 import Informed
from lbclient._async.sockets import lock
from lbclient.core.facts import Header

if TYPE_CHECKING:
    import h2.events

MOST_STREAMS = 100
NO_ERROR, REFUSED_STREAM, CANCEL = 0, 7, 8  # RFC 9113, 7
WRITE_WITHIN = 30.0  # seconds; a peer that reads nothing for so long is gone, whatever the caller's timeout
CATCH_UP_WITHIN = 0.05  # seconds; the kernel has the bytes already
CATCH_UP_READS = 10
_CLOSED = "the connection was closed while the request was in flight"


class NotProcessed(httpcore.RemoteProtocolError):
    """The server promises that it has not looked at the request: any method may go elsewhere, nobody is to blame."""


class GoingAway(httpcore.RemoteProtocolError):
    """The server went away in good order, and without the answer that it had left open: it may have processed it."""


class Reset(httpcore.RemoteProtocolError):
    """The server ended this stream and no other.

    Attributes:
        code: Why; see RFC 9113, 7.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class HTTP2Connection(httpcore.AsyncHTTP2Connection):
    """One HTTP/2 connection. Call `start` first; private parts of httpcore's that it builds on are pinned by tests.

    Attributes:
        quiet: It has been idle between requests, and nothing has come since: an end now may be one from then.
    """

    def __init__(self, origin: httpcore.Origin, stream: httpcore.AsyncNetworkStream) -> None:
        super().__init__(origin, stream)
        from lbclient._async.goaway import LastingState  # h2 is an extra

        for name in ("_init_lock", "_state_lock", "_read_lock", "_write_lock"):
            setattr(self, name, lock())
        self._lasting = LastingState(self.CONFIG)
        self._h2_state = self._lasting
        self._settled = False
        self._new = True
        self._has_rested = False
        self.quiet = False
        self._queued: set[httpcore.Request] = set()
        self._sent: WeakSet[httpcore.Request] = WeakSet()
        self._beside: dict[int, tuple[Informed | None, list[Header]]] = {}  # 1xx and trailers, by stream

    @property
    def stream_limit(self) -> int:
        """How many requests at a time the server and httpcore's own setting allow."""
        return min(MOST_STREAMS, self._h2_state.remote_settings.max_concurrent_streams)

    def is_available(self) -> bool:
        """Whether new streams may start. Those that run may well go on when not."""
        return self._lasting.goaway is None and super().is_available()

    def sent(self, request: httpcore.Request) -> bool:
        """Whether anything of this very request was handed to the socket; the others on the connection do not count."""
        return request in self._sent

    async def start(self, timeout: float | None) -> None:
        """Exchange prefaces: ours goes out, the server's SETTINGS come in.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            httpcore.ConnectError: The server closed, began to, or what it sent is no HTTP/2.
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
                    await self._receive(request)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"no HTTP/2 SETTINGS within {timeout} s") from exc
        except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
            raise httpcore.ConnectError(f"the server does not speak HTTP/2: {exc!r}") from exc

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """As httpcore's; the extension "trailers" is a list that is filled when the body has been read.

        Raises:
            httpcore.ConnectionNotAvailable: The server had closed, or begun to: nothing was sent.
            httpcore.ConnectError: It did so before the first request: another connection would be no better.
            NotProcessed: See there.
            GoingAway: See there.
        """
        new, self._new = self._new, False
        try:
            if not self._events:
                await self._catch_up()
                if not self._events:  # nobody else has begun meanwhile
                    self.quiet = self._has_rested
            response = await super().handle_async_request(request)
            extensions: dict[str, Any] = cast("Any", response).extensions
            _, extensions["trailers"] = self._beside[extensions["stream_id"]]
            return response
        except httpcore.ConnectionNotAvailable as exc:
            if not new:
                raise
            raise httpcore.ConnectError("the server takes no request on a new connection") from exc
        except Reset as exc:
            if exc.code == REFUSED_STREAM:
                raise NotProcessed(f"not processed: {exc}") from exc
            raise
        except httpcore.LocalProtocolError as exc:
            if self.is_closed():
                raise httpcore.ReadError(_CLOSED) from exc
            raise
        except (httpcore.NetworkError, httpcore.RemoteProtocolError) as exc:
            goaway = self._lasting.goaway
            if goaway is None or self.is_closed():
                raise
            if goaway.code == NO_ERROR:
                raise GoingAway("the server went away (GOAWAY) and closed before it answered") from exc
            words = f"the server ended the connection: {_named(goaway.code)}"
            raise httpcore.RemoteProtocolError(words) from exc

    async def _catch_up(self) -> None:
        request = _own_request(self._origin, read=CATCH_UP_WITHIN)
        for _ in range(CATCH_UP_READS):
            if not self.is_available() or not self._network_stream.get_extra_info("is_readable"):
                break
            try:
                await self._receive(request)
            except httpcore.ReadTimeout:
                break  # nothing for us: a TLS record without data
            except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
                self._connection_error = True
                raise httpcore.ConnectionNotAvailable from exc
        if not self.is_available():
            raise httpcore.ConnectionNotAvailable

    # Sending, as httpcore calls it

    async def _send_request_headers(self, request: httpcore.Request, stream_id: int) -> None:
        # Either may have changed after this request was counted in.
        if not self.is_available() or self._h2_state.open_outbound_streams >= self.stream_limit:
            raise httpcore.ConnectionNotAvailable
        from h2.exceptions import ProtocolError

        self._beside[stream_id] = (cast("Any", request).extensions.get("on_informational"), [])
        self._queued.add(request)
        try:
            await super()._send_request_headers(request, stream_id)
        except ProtocolError:
            # The caller's mistake, half of it in our compression table and none in the server's: no more headers here.
            self._connection_error = True
            raise
        finally:
            self._queued.discard(request)

    async def _send_request_body(self, request: httpcore.Request, stream_id: int) -> None:
        if not _has_body(request) or self._over(stream_id):
            return  # what was not even begun to be read can go elsewhere as it is
        assert isinstance(request.stream, AsyncIterable)
        parts = aiter(request.stream)
        try:
            async for part in parts:
                await self._send_stream_data(request, stream_id, part)
        except _NoMoreWanted:
            return  # what the server said instead is among the events
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()
        await self._send_end_stream(request, stream_id)

    async def _wait_for_outgoing_flow(self, request: httpcore.Request, stream_id: int) -> int:
        if not self._moves(stream_id):
            timeout = _timeouts(request).get("write")
            reading = _own_request(self._origin, read=None)
            try:
                with anyio.fail_after(timeout):
                    while not self._moves(stream_id):
                        await self._receive(reading, unless=lambda: self._moves(stream_id))
            except TimeoutError as exc:
                words = f"the server made no room for the body within {timeout} s"
                raise httpcore.WriteTimeout(words) from exc
        if self._over(stream_id):
            raise _NoMoreWanted
        return self._flow(stream_id)

    async def _send_end_stream(self, request: httpcore.Request, stream_id: int) -> None:
        if not self._over(stream_id):
            await super()._send_end_stream(request, stream_id)

    async def _write_outgoing_data(self, request: httpcore.Request) -> None:
        timeout = _timeouts(request).get("write")
        with anyio.CancelScope(shield=True):
            async with self._write_lock:
                if self._write_exception is not None:
                    raise self._write_exception
                data = self._h2_state.data_to_send()
                if not data:
                    return
                self._sent.update(self._queued)
                self._queued.clear()
                try:
                    await self._network_stream.write(data, WRITE_WITHIN if timeout is None else timeout)
                except Exception as exc:
                    self._write_exception = exc
                    self._connection_error = True
                    raise

    def _flow(self, stream_id: int) -> int:
        """How much of a body may go out now; below 0 when the server has made the window smaller."""
        return min(
            self._h2_state.local_flow_control_window(stream_id), self._h2_state.max_outbound_frame_size
        )

    def _over(self, stream_id: int) -> bool:
        """Whether the server has answered in full, has reset the stream or will not look at it."""
        from h2.events import StreamEnded, StreamReset

        events = self._events[stream_id]
        return self._refused(stream_id) or any(
            isinstance(event, (StreamEnded, StreamReset)) for event in events
        )

    def _moves(self, stream_id: int) -> bool:
        """Whether the body has room to go on, or no need to."""
        return self._over(stream_id) or self._flow(stream_id) > 0

    def _refused(self, stream_id: int) -> bool:
        goaway = self._lasting.goaway
        return goaway is not None and stream_id > goaway.last_stream

    # Receiving, as httpcore calls it

    async def _receive_stream_event(
        self, request: httpcore.Request, stream_id: int
    ) -> h2.events.ResponseReceived | h2.events.DataReceived | h2.events.StreamEnded:
        from h2.events import StreamReset

        events = self._events[stream_id]
        if not events:  # most come together: headers, data and the end
            await self._wait_for_event(request, stream_id)
        event = events.pop(0)
        if isinstance(event, StreamReset):
            assert event.error_code is not None
            raise Reset(f"the server reset the stream: {_named(event.error_code)}", int(event.error_code))
        return event

    async def _wait_for_event(self, request: httpcore.Request, stream_id: int) -> None:
        timeout = _timeouts(request).get("read")
        events = self._events[stream_id]
        try:
            with anyio.fail_after(timeout):
                while not events:
                    if self._refused(stream_id):
                        raise Reset(
                            "the server went away (GOAWAY) before it looked at this stream", REFUSED_STREAM
                        )
                    await self._receive(request, unless=lambda: bool(events) or self._refused(stream_id))
        except TimeoutError as exc:
            raise httpcore.ReadTimeout(f"nothing came for this request within {timeout} s") from exc

    async def _receive_response_body(
        self, request: httpcore.Request, stream_id: int
    ) -> AsyncGenerator[bytes, None]:
        from h2.events import DataReceived, StreamEnded

        while True:
            event = await self._receive_stream_event(request, stream_id)
            if isinstance(event, DataReceived):
                assert event.data is not None
                self._h2_state.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
                await self._flush(request)
                yield event.data
            elif isinstance(event, StreamEnded):
                return

    async def _receive(self, request: httpcore.Request, unless: Callable[[], bool] = lambda: False) -> None:
        """Read once on behalf of all streams, `unless` that has come true while somebody else was reading."""
        from h2.events import (
            DataReceived,
            InformationalResponseReceived,
            RemoteSettingsChanged,
            ResponseReceived,
            StreamEnded,
            StreamReset,
            TrailersReceived,
        )

        async with self._read_lock:
            if unless():
                return
            for event in await self._read_incoming_data(request):
                if isinstance(event, (ResponseReceived, DataReceived, StreamEnded, StreamReset)):
                    if event.stream_id in self._events:
                        self._events[event.stream_id].append(event)
                elif isinstance(event, (InformationalResponseReceived, TrailersReceived)):
                    self._tell(event)
                elif isinstance(event, RemoteSettingsChanged):
                    self._settled = True
        await self._flush(request)

    def _tell(self, event: h2.events.InformationalResponseReceived | h2.events.TrailersReceived) -> None:
        if event.stream_id not in self._beside:
            return
        informed, trailers = self._beside[event.stream_id]
        headers = event.headers
        status = next((int(value) for name, value in headers if name == b":status"), None)
        if status is None:
            trailers += headers
        elif informed is not None and status != 100:
            informed(status, [header for header in headers if header[0] != b":status"])

    async def _flush(self, request: httpcore.Request) -> None:
        """Send what h2 has to acknowledge. Who has answered and closed takes it no more: no reason not to read on."""
        if not self._h2_state._data_to_send:
            return
        with contextlib.suppress(httpcore.NetworkError, httpcore.TimeoutException):
            await self._write_outgoing_data(request)

    async def _read_incoming_data(self, request: httpcore.Request) -> list[h2.events.Event]:
        from h2.exceptions import ProtocolError

        try:
            events = await super()._read_incoming_data(request)
            self.quiet = False
            return events
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
            self.quiet = False
            raise failure from exc

    # Ending

    async def _response_closed(self, stream_id: int) -> None:
        self._beside.pop(stream_id, None)
        with anyio.CancelScope(shield=True):
            try:
                if super().is_available() and self._give_up(stream_id):
                    await self._flush(_own_request(self._origin, read=None))
            finally:
                await super()._response_closed(stream_id)
                self._has_rested = self._has_rested or not self._events

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
        if stream is not None and not stream.closed and not self._refused(stream_id):
            state.reset_stream(stream_id, CANCEL)
            sends = True
        return sends


class _NoSemaphore:
    """In place of httpcore's: who gets to it has been counted already."""

    async def acquire(self) -> None:
        pass

    async def release(self) -> None:
        pass


class _NoMoreWanted(Exception):
    """The server wants no more of a request's body."""


def _own_request(origin: httpcore.Origin, read: float | None) -> httpcore.Request:
    """What the connection does on nobody's behalf; httpcore takes the timeouts off a request."""
    timeouts = {"read": read, "write": WRITE_WITHIN}
    url = httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=b"/")
    return httpcore.Request(b"GET", url, extensions={"timeout": timeouts})


def _has_body(request: httpcore.Request) -> bool:
    """As httpcore sees it, which has ended the stream with the headers when there is none."""
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in request.headers)


def _timeouts(request: httpcore.Request) -> Mapping[str, Any]:
    extensions: Mapping[str, Any] = cast("Any", request).extensions
    return extensions.get("timeout") or MappingProxyType({})


def _named(code: int) -> str:
    """An error code with its name in RFC 9113, where it has one."""
    from h2.errors import ErrorCodes

    return f"{ErrorCodes(code).name} ({int(code)})" if code in set(ErrorCodes) else f"error code {code}"

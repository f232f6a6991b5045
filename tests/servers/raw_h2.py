"""The server's side of a raw HTTP/2 connection: any frame at any moment, and a note of all that came.

A *script* is called with each connection's `Peer` in a thread of its own, and reads like the conversation:

    def refuse(peer: Peer) -> None:
        peer.reset(peer.request(), REFUSED_STREAM)
        peer.answer(peer.request())

    with RawServer(speak(refuse)) as server:
        ...

h2 keeps the compression and the windows. The frames that end things bypass its state machine, which would not let a
server go on after them; that some do, and that clients must bear it, is what the tests are about.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame

from tests.servers.raw import Connection, Handler

NO_STREAM_LEFT_OUT = 2**31 - 1

Script = Callable[["Peer"], None]
_E = TypeVar("_E", bound=Event)


class ClientClosed(OSError):
    """The client closed while the script waited for something."""


class Peer:
    """One connection after the prefaces, as its script sees it.

    Args:
        connection: The bytes below.
        settings: What is announced, on top of h2's own.
        reads_bodies: Open the windows again for what was received.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Mapping[SettingCodes, int] | None = None,
        *,
        reads_bodies: bool = True,
    ) -> None:
        self.connection = connection
        self.received: list[Event] = []
        """Everything that came, in order."""
        self.state = H2Connection(H2Configuration(client_side=False, validate_inbound_headers=False))
        self._reads_bodies = reads_bodies
        self._not_waited_for: list[Event] = []
        if settings:
            self.state.local_settings = Settings(client=False, initial_values=dict(settings))
        self.state.initiate_connection()
        self.flush()

    # Reading

    def wait_for(self, kind: type[_E], stream: int | None = None) -> _E:
        """The next event of this kind, on this stream or on any; it may have come before.

        Raises:
            ClientClosed: The client closed instead.
        """
        while True:
            for event in self._not_waited_for:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    self._not_waited_for.remove(event)
                    return event
            self._read()

    def _read(self) -> None:
        data = self.connection.read()
        if not data:
            raise ClientClosed(f"closed while {len(self.received)} events had come")
        events = self.state.receive_data(data)
        self.received += events
        self._not_waited_for += events
        for event in events:
            if isinstance(event, DataReceived) and self._reads_bodies:
                assert event.stream_id is not None
                self.state.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        self.flush()

    def headers(self) -> int:
        """The stream of the next request whose headers have come."""
        stream = self.wait_for(RequestReceived).stream_id
        assert stream is not None
        return stream

    def request(self) -> int:
        """The stream of the next request, once its body has come as well."""
        stream = self.headers()
        self.wait_for(StreamEnded, stream)
        return stream

    def wait_until_closed(self) -> None:
        """Read on until the client closes."""
        try:
            while True:
                self._read()
        except ClientClosed:
            pass

    def of(self, kind: type[_E]) -> list[_E]:
        """What came of this kind so far."""
        return [event for event in self.received if isinstance(event, kind)]

    # Sending

    def pause(self, seconds: float = 0.05) -> None:
        """Do nothing for a while: let arrive what was sent."""
        self.connection.server.closing.wait(seconds)

    def flush(self) -> None:
        """Send what h2 has to say."""
        self.connection.send(self.state.data_to_send())

    def send(self, *frames: Frame) -> None:
        """These frames, as they are."""
        self.connection.send(b"".join(frame.serialize() for frame in frames))

    def answer(self, stream: int, body: bytes = b"ok", status: int = 200) -> None:
        """A whole response."""
        self.head(stream, status)
        self.state.send_data(stream, body, end_stream=True)
        self.flush()

    def head(self, stream: int, status: int = 200) -> None:
        """The headers of a response, and no end."""
        self.state.send_headers(stream, [(":status", str(status)), ("x-stream", str(stream))])
        self.flush()

    def data(self, stream: int, part: bytes) -> None:
        """A part of a body, and no end."""
        self.state.send_data(stream, part)
        self.flush()

    def answer_rest(self, stream: int, part: bytes) -> None:
        """The rest of a body, and its end."""
        self.state.send_data(stream, part, end_stream=True)
        self.flush()

    def reset(self, stream: int, code: int) -> None:
        """RST_STREAM."""
        self.send(RstStreamFrame(stream, error_code=code))

    def goaway(self, last: int = NO_STREAM_LEFT_OUT, code: int = 0) -> None:
        """GOAWAY, after which this side may say whatever it likes."""
        self.send(GoAwayFrame(0, last_stream_id=last, error_code=code))


def speak(
    script: Script,
    settings: Mapping[SettingCodes, int] | None = None,
    *,
    reads_bodies: bool = True,
    peers: list[Peer] | None = None,
) -> Handler:
    """A handler for `RawServer`. The peers go to `peers`; when the script returns the connection ends with a FIN."""

    def handler(connection: Connection) -> None:
        peer = Peer(connection, settings, reads_bodies=reads_bodies)
        if peers is not None:
            peers.append(peer)
        script(peer)

    return handler

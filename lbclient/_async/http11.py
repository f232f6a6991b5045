"""HTTP/1.1 as a client speaks it, without I/O: what a request looks like, and what a response means.

A response is read by a machine of eight states. Each state is a method that takes bytes from a position on and returns
the position behind what it took; `_STEPS` says which method belongs to which state, and nothing else moves the machine:

    DONE        no response is under way: none was asked for yet, or the last one has been read
    HEAD        a status line and headers are awaited; 1xx responses are counted and skipped
    SIZED       a body of known length
    CHUNKS      a chunked body
    TRAILERS    what may follow the last chunk
    ENDLESS     a body that ends with the connection
    SWITCHED    after 101, or a CONNECT that was granted: the bytes are no longer HTTP's
    FAILED      what came was no HTTP/1.1; nothing that follows can mean anything

What has been read is left in attributes (`head`, `parts`, `trailers`) for the caller to take, because an object for
every event would cost as much as reading it.

Rules for whoever edits this:

* **A response has one meaning or none.** Where two readers could disagree about where a message ends, fail. Where the
  RFC demands that we read on all the same (Content-Length next to Transfer-Encoding), clear `reusable`: the bytes that
  another reader would have taken for the body must never become the next response.
* **`reusable` is only ever cleared.** One method sets it: the constructor.
* **Nothing waits for what cannot come.** An incomplete head or chunk line is looked at for what can no longer become
  legal, so a wrong line end fails at once instead of running into a timeout.
* **Everything that is kept is bounded**, before it is kept. The same bytes give the same result however they are cut.
* **Lines end with CRLF.** RFC 9112, 2.2, lets a recipient accept a bare LF; the ones in front of us may not, and the
  difference between two readers is what response splitting lives on.

It is pure Python and still a small part of the request that it belongs to: 5 us for a head of 5 headers and 13 us
for one of 21, against 45 and 82 us of h11; 5 us to write a request (Python 3.13, the best of many repetitions). Three
things make the difference: counting CR, LF and control characters in the whole head with `bytes.count` and
`bytes.translate` instead of matching each line; remembering the header names and status lines that have been found
to be legal; and remembering the last head of the connection, because a busy server says the same until its clock has
moved on by a second: a head that begins with those bytes, up to the empty line, needs no second look (1 us).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from httpcore import LocalProtocolError, RemoteProtocolError

from lbclient.core.facts import Header

Informed: TypeAlias = Callable[[int, list[Header]], None]
"""Who is told of informational responses, by status and headers; may not raise."""

MAX_HEAD = 100 * 1024  # bytes, as in httpcore
MAX_REMEMBERED_HEAD = 4096  # bytes
MAX_FIELDS = 1000
MAX_CHUNK_LINE = 4096  # bytes, extensions included
MAX_SIZE_DIGITS = 16  # hexadecimal, of a chunk: 64 bits
MAX_LENGTH_DIGITS = 19  # decimal, of a Content-Length: 63 bits
MAX_INTERIM = 100  # 1xx responses before the final one

_HEX: Final = b"0123456789abcdefABCDEF"
_TOKEN: Final = (
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # RFC 9110, 5.6.2
)
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_CONTROLS: Final = bytes(c for c in range(0x20) if c not in b"\t\r\n") + b"\x7f"

# What a header name is to framing. Remembered by name as it was written, which also proves that it is a token.
_ORDINARY, _LENGTH, _CODING, _OPTIONS, _HOST, _UPGRADE = range(6)
_KINDS: Final = {
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _OPTIONS,
    b"host": _HOST,
    b"upgrade": _UPGRADE,
}
_MOST_REMEMBERED = 2048
_kind_of: dict[bytes, int] = {}
_status_of: dict[bytes, tuple[bytes, int, bytes]] = {}


# Made for every response, and no NamedTuple: that takes half as long again.
@dataclass(slots=True)
class Head:
    """The head of a response.

    Attributes:
        http_version: `b"HTTP/1.1"` or `b"HTTP/1.0"`.
        status: 200 to 999, or 101.
        reason: As it came; may be empty.
        headers: As they came, in order; folded lines are joined by a space.
    """

    http_version: bytes
    status: int
    reason: bytes
    headers: list[Header]


class _Block(NamedTuple):
    """What a head says, whatever it answers; and its bytes, the empty line included."""

    raw: bytes
    version: bytes
    status: int
    reason: bytes
    headers: list[Header]
    length: int | None
    coding: bool
    keep: bool


class State(enum.IntEnum):
    """See the module's docstring."""

    DONE = 0
    HEAD = 1
    SIZED = 2
    CHUNKS = 3
    TRAILERS = 4
    ENDLESS = 5
    SWITCHED = 6
    FAILED = 7


_DONE, _HEAD, _SIZED, _CHUNKS, _TRAILERS, _ENDLESS, _SWITCHED, _FAILED = State


# Requests


class Lines:
    """The header lines of a request, checked and written down once; any number of requests may begin with them.

    Args:
        headers: As they go out; `Host` is moved to the front (RFC 9110, 7.2).

    Raises:
        LocalProtocolError: It would not be HTTP, or could be read in two ways.

    Attributes:
        written: The lines, from the end of the request line to that of the head.
        chunked: How the body is framed.
        length: Without chunks: how long the body is.
        close: They ask for the connection to be closed.
        upgrade: They offer another protocol.
    """

    __slots__ = ("chunked", "close", "length", "upgrade", "written")

    def __init__(self, headers: Sequence[Header]) -> None:
        self.chunked = self.close = self.upgrade = False
        self.length = 0
        pieces: list[bytes] = []
        hosts = 0
        length: bytes | None = None
        for name, value in headers:
            kind = _kind_of.get(name)
            if kind is None:
                kind = _learn(name, LocalProtocolError, "Illegal header name")
            if kind:
                if kind == _HOST:
                    hosts += 1
                    if pieces:
                        pieces[:0] = (b"\r\n", name, b": ", value)
                        continue
                elif kind == _LENGTH:
                    if length is not None and length != value:
                        raise LocalProtocolError("conflicting Content-Length headers")
                    if length is not None:
                        continue
                    length = value
                elif kind == _CODING:
                    if self.chunked or value.lower() != b"chunked":
                        raise LocalProtocolError("Only Transfer-Encoding: chunked is supported, and once")
                    self.chunked = True
                elif kind == _OPTIONS:
                    if value != b"keep-alive":  # what httpx says
                        self.close = self.close or b"close" in _tokens(value)
                else:
                    self.upgrade = True
            pieces += (b"\r\n", name, b": ", value)
        if hosts != 1:
            raise LocalProtocolError(
                "Missing mandatory Host: header" if not hosts else "Found multiple Host: headers"
            )
        if length is not None:
            if self.chunked:
                raise LocalProtocolError("Content-Length and Transfer-Encoding exclude each other")
            if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
                raise LocalProtocolError(f"bad Content-Length {length[:100]!r}")
            self.length = int(length)
        pieces.append(b"\r\n\r\n")
        written = b"".join(pieces)
        ends = len(pieces) // 4 + 1
        if (
            written.count(b"\r") != ends
            or written.count(b"\n") != ends
            or b": \t" in written
            or b":  " in written
            or b" \r\n" in written
            or b"\t\r\n" in written
            or len(written.translate(None, b"\0\x0b\x0c")) != len(written)
        ):
            _check_values(headers)
        self.written = written


class Outgoing:
    """A request on its way: its head, and the framing of its body.

    Args:
        method: A token.
        target: The request target.
        lines: The header lines.

    Raises:
        LocalProtocolError: It would not be HTTP.

    Attributes:
        head: The head, ready to be sent.
        lines: The header lines.
        method: The method.
    """

    __slots__ = ("_left", "head", "lines", "method")

    def __init__(self, method: bytes, target: bytes, lines: Lines) -> None:
        if not method or method.translate(None, _TOKEN):
            raise LocalProtocolError(f"Illegal method {method[:100]!r}")
        if not target or target.translate(None, _VISIBLE):
            raise LocalProtocolError(f"Illegal target {target[:100]!r}")
        self.method = method
        self.lines = lines
        self.head = b"%b %b HTTP/1.1%b" % (method, target, lines.written)
        self._left = lines.length

    @property
    def has_body(self) -> bool:
        """Whether something follows the head, if only the end of an empty body of chunks."""
        return self.lines.chunked or self.lines.length > 0

    def part(self, data: bytes) -> bytes:
        """What to send for a part of the body.

        Raises:
            LocalProtocolError: It is longer than its Content-Length says.
        """
        if self.lines.chunked:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # an empty chunk would be the end
        self._left -= len(data)
        if self._left < 0:
            raise LocalProtocolError("Too much data for declared Content-Length")
        return data

    def end(self) -> bytes:
        """What to send at the end of the body.

        Raises:
            LocalProtocolError: It is shorter than its Content-Length says.
        """
        if self.lines.chunked:
            return b"0\r\n\r\n"
        if self._left:
            raise LocalProtocolError("Too little data for declared Content-Length")
        return b""


def _check_values(headers: Sequence[Header]) -> None:
    """Each value by itself, after something in the whole head looked wrong."""
    for _, value in headers:
        illegal = len(value.translate(None, b"\0\r\n\x0b\x0c")) != len(value)
        if illegal or value.strip(b" \t") != value:
            raise LocalProtocolError(f"Illegal header value {value[:100]!r}")


# Responses


class ResponseReader:
    """Reads the responses of one connection, one after the other.

    Attributes:
        state: Where it is.
        head: Of the response under way, once it is there.
        parts: Of its body (after a switch: of what the other side says), until the caller takes them.
        trailers: What followed a chunked body.
        reusable: Whether the connection may carry another request, as far as responses tell.
        on_informational: Called with status and headers of each response that comes before the final one (1xx, less
            100 and 101); None for nobody.
    """

    __slots__ = (
        "_block",
        "_held",
        "_interim",
        "_left",
        "_method",
        "_received",
        "_scanned",
        "_upgrade",
        "head",
        "on_informational",
        "parts",
        "reusable",
        "state",
        "trailers",
    )

    def __init__(self) -> None:
        self.state = _DONE
        self.head: Head | None = None
        self.parts: list[bytes] = []
        self.trailers: list[Header] = []
        self.reusable = True
        self._block: _Block | None = None  # the last head that was no interim one
        self.on_informational: Informed | None = None
        self._held = b""  # an incomplete head, chunk line or line of trailers
        self._scanned = 0  # how much of it has been looked at
        self._left = 0  # of a sized body or of a chunk; see _read_chunks
        self._received = 0  # of a sized body before this part of it; for the words of an error
        self._interim = 0
        self._method = b""
        self._upgrade = False

    def __repr__(self) -> str:
        reuse = "" if self.reusable else ", not to be reused"
        return f"<ResponseReader {self.state.name}, {len(self.parts)} parts{reuse}>"

    def start(self, method: bytes, upgrade: bool = False) -> None:
        """A response is expected from now on.

        Args:
            method: Of the request: HEAD and CONNECT change what the response means.
            upgrade: The request offers another protocol, so 101 may answer it.
        """
        assert self.state is _DONE, self.state
        self.state = _HEAD
        self.head = None
        self._method = method
        self._upgrade = upgrade
        self._interim = 0
        if self.parts or self.trailers:
            self.parts = []
            self.trailers = []

    def feed(self, data: bytes) -> None:
        """Read what came.

        Raises:
            RemoteProtocolError: It is no HTTP/1.1, or exceeds a limit. What was read before is still there.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        position, end = 0, len(data)
        try:
            while position < end:
                position = _STEPS[self.state](self, data, position)
        except RemoteProtocolError:
            self.state = _FAILED
            self.reusable = False
            raise

    def end(self) -> None:
        """The other side closed.

        Raises:
            RemoteProtocolError: A response was under way.
        """
        self.reusable = False
        state = self.state
        if state is _DONE or state is _SWITCHED:
            return
        self.state = _FAILED
        if state is _ENDLESS:
            self.state = _DONE
        elif state is _HEAD:
            raise RemoteProtocolError("Server disconnected without sending a response.")
        elif state is _SIZED:
            total = self._received
            raise RemoteProtocolError(
                "peer closed connection without sending complete message body "
                f"(received {total - self._left} bytes, expected {total})"
            )
        else:
            raise RemoteProtocolError(
                "peer closed connection without sending complete message body (incomplete chunked read)"
            )

    # The states

    def _surplus(self, data: bytes, position: int) -> int:
        """Nobody asked for this: it must never be taken for the answer to what is asked next."""
        self.reusable = False
        return len(data)

    def _fail(self, data: bytes, position: int) -> int:
        raise RemoteProtocolError("data after what was no HTTP/1.1")

    def _read_head(self, data: bytes, position: int) -> int:
        block = self._block
        if block is None or not data.startswith(block.raw, position):
            end = data.find(b"\r\n\r\n", position, position + MAX_HEAD)
            if end < 0:
                return self._hold_head(data, position)
            block = self._read_block(data[position : end + 4])
        raw, version, status, reason, headers, length, coding, keep = block
        self._scanned = 0
        position += len(raw)
        if status < 200 and status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise RemoteProtocolError(f"more than {MAX_INTERIM} interim responses")
            if length is not None or coding:
                self.reusable = False  # it has no body, and somebody thought that it had one
            if self.on_informational is not None and status != 100:
                self.on_informational(status, headers)
            return position
        if not keep:
            self.reusable = False
        # RFC 9112, 6.3, in its order.
        if status == 101:
            if not self._upgrade:
                raise RemoteProtocolError("101 Switching Protocols, which nobody asked for")
            self.state = _SWITCHED
        elif self._method == b"CONNECT" and status < 300:
            self.state = _SWITCHED
        elif self._method == b"HEAD" or status == 304:
            self.state = _DONE
        elif status == 204:
            self.state = _DONE
            if length or coding:
                self.reusable = False
        elif coding:
            self.state = _CHUNKS
            self._left = _CHUNK_LINE
            if length is not None or version != b"HTTP/1.1":
                self.reusable = False
        elif length is None:
            self.state = _ENDLESS
            self.reusable = False
        else:
            self._left = self._received = length
            self.state = _SIZED if length else _DONE
        if self.state is _SWITCHED:
            self.reusable = False
        self.head = Head(version, status, reason, headers.copy())
        return position

    def _read_block(self, raw: bytes) -> _Block:
        """A head by itself. That of a response is remembered: the next one may be the same, byte for byte."""
        lines = self._lines(raw[:-4])
        version, status, reason = _status_of.get(lines[0]) or _learn_status(lines[0])
        del lines[0]
        headers, length, coding, options = _fields(lines)
        keep = version == b"HTTP/1.1" or options == b"keep-alive"
        if options is not None and options != b"keep-alive":
            tokens = _tokens(options)
            keep = b"close" not in tokens and (keep or b"keep-alive" in tokens)
        block = _Block(raw, version, status, reason, headers, length, coding, keep)
        if len(raw) <= MAX_REMEMBERED_HEAD and status >= 200:
            self._block = block
        return block

    def _hold_head(self, data: bytes, position: int) -> int:
        """An incomplete head: keep it, if it can still become a legal one."""
        start = data[position : position + 60]
        if not b"HTTP/1.".startswith(start[:7]):
            raise RemoteProtocolError(f"illegal status line {start!r}")
        return self._hold(data, position, MAX_HEAD, "the response's head is")

    def _hold(self, data: bytes, position: int, most: int, what: str) -> int:
        """The rest of `data`, an incomplete line or block of lines: keep it, if it can still become a legal one."""
        held = data[position:]
        if len(held) >= most:
            raise RemoteProtocolError(f"{what} longer than {most} bytes")
        _check_line_ends(held, self._scanned)
        self._scanned = len(held) - 1
        self._held = held
        return len(data)

    def _lines(self, block: bytes) -> list[bytes]:
        """The lines of a head or of trailers, in which every CR and every LF belongs to a CRLF."""
        lines = block.split(b"\r\n")
        ends = len(lines) - 1
        if (
            block.count(b"\r") != ends
            or block.count(b"\n") != ends
            or len(block.translate(None, _CONTROLS)) != len(block)
        ):
            raise RemoteProtocolError("an illegal character, or a line that does not end with CRLF")
        if ends > MAX_FIELDS:
            raise RemoteProtocolError(f"more than {MAX_FIELDS} header lines")
        return lines

    def _read_sized(self, data: bytes, position: int) -> int:
        size = len(data) - position
        left = self._left
        if size < left:
            self._left = left - size
            self.parts.append(data[position:] if position else data)
            return position + size
        end = position + left
        self._left = 0
        self.parts.append(data[position:end] if position or size > left else data)
        self.state = _DONE
        return end

    def _read_chunks(self, data: bytes, position: int) -> int:
        """`_left` is what is left of a chunk; or, negative, what has to come before the next one."""
        left, size = self._left, len(data)
        found: list[bytes] = []
        try:
            while position < size:
                if left > 0:
                    end = min(position + left, size)
                    found.append(data[position:end])
                    left -= end - position
                    position = end
                    if not left:
                        left = _CHUNK_END
                elif left == _CHUNK_END:
                    if size - position == 1 and data[position] == 13:
                        self._held = b"\r"
                        return size
                    if data[position : position + 2] != b"\r\n":
                        raise RemoteProtocolError("a chunk that does not end with CRLF")
                    position += 2
                    left = _CHUNK_LINE
                else:
                    end = data.find(b"\r\n", position, position + MAX_CHUNK_LINE)
                    if end < 0:
                        return self._hold(data, position, MAX_CHUNK_LINE, "a chunk's line is")
                    self._scanned = 0
                    left = _chunk_size(data[position:end])
                    position = end + 2
                    if not left:
                        self.state = _TRAILERS
                        return position
            return position
        finally:
            self._left = left
            if found:  # one part, or a body of tiny chunks would take forty times its size
                self.parts.append(found[0] if len(found) == 1 else b"".join(found))

    def _read_trailers(self, data: bytes, position: int) -> int:
        if data.startswith(b"\r\n", position):
            self.state = _DONE
            return position + 2
        end = data.find(b"\r\n\r\n", position, position + MAX_HEAD)
        if end < 0:
            return self._hold(data, position, MAX_HEAD, "the trailers are")
        self._scanned = 0
        self.trailers, length, coding, _ = _fields(self._lines(data[position:end]))
        if length is not None or coding:
            raise RemoteProtocolError("Content-Length or Transfer-Encoding in trailers")
        self.state = _DONE
        return end + 4

    def _read_endless(self, data: bytes, position: int) -> int:
        self.parts.append(data[position:] if position else data)
        return len(data)


_CHUNK_LINE, _CHUNK_END = 0, -1
_Step: TypeAlias = Callable[[ResponseReader, bytes, int], int]
_STEPS: Final[tuple[_Step, ...]] = (
    ResponseReader._surplus,
    ResponseReader._read_head,
    ResponseReader._read_sized,
    ResponseReader._read_chunks,
    ResponseReader._read_trailers,
    ResponseReader._read_endless,
    ResponseReader._read_endless,  # what was switched to ends with the connection as well
    ResponseReader._fail,
)


def _fields(lines: list[bytes]) -> tuple[list[Header], int | None, bool, bytes | None]:
    """Names and values; and of them what decides about framing: length, chunked, and the options of `Connection`."""
    fields: list[Header] = []
    length: bytes | None = None
    coding: bytes | None = None
    options: bytes | None = None
    for line in lines:
        name, colon, value = line.partition(b":")
        kind = _kind_of.get(name)
        if kind is None:
            if line[:1] in (b" ", b"\t"):
                _unfold(fields, line)
                continue
            kind = _learn(name, RemoteProtocolError, "illegal header name")
        if not colon:
            raise RemoteProtocolError(f"a header line without a colon: {line[:60]!r}")
        value = value.strip(b" \t")
        fields.append((name, value))
        if kind:
            if kind == _LENGTH:
                for one in value.split(b","):
                    one = one.strip(b" \t")
                    if not one.isdigit() or len(one) > MAX_LENGTH_DIGITS:
                        raise RemoteProtocolError(f"bad Content-Length {value[:60]!r}")
                    if length is not None and length != one:
                        raise RemoteProtocolError("conflicting Content-Length headers")
                    length = one
            elif kind == _CODING:
                if coding is not None or value.lower() != b"chunked":
                    raise RemoteProtocolError(f"Transfer-Encoding {value[:60]!r} is not chunked, once")
                coding = value
            elif kind == _OPTIONS:
                options = value.lower() if options is None else options + b"," + value.lower()
    return fields, None if length is None else int(length), coding is not None, options


def _unfold(fields: list[Header], line: bytes) -> None:
    """A line that continues the one before it (RFC 9112, 5.2)."""
    if not fields:
        raise RemoteProtocolError("the first header line is folded")
    name, value = fields[-1]
    if _kind_of.get(name) in (_LENGTH, _CODING, _OPTIONS):
        raise RemoteProtocolError(f"{name[:60]!r} is folded")
    fields[-1] = (name, (value + b" " + line.strip(b" \t")).strip(b" \t"))


def _learn(name: bytes, error: type[Exception], words: str) -> int:
    """What a header name is that is not known yet."""
    if not name or name.translate(None, _TOKEN):
        raise error(f"{words} {name[:100]!r}")
    kind = _KINDS.get(name.lower(), _ORDINARY)
    if len(name) <= 64:
        if len(_kind_of) >= _MOST_REMEMBERED:  # somebody invents names
            _kind_of.clear()
        _kind_of[name] = kind
    return kind


def _learn_status(line: bytes) -> tuple[bytes, int, bytes]:
    """The parts of a status line that is not known yet. Its characters have been checked."""
    version, code, reason = line[:8], line[9:12], line[13:]
    if (
        version not in (b"HTTP/1.1", b"HTTP/1.0")
        or line[8:9] != b" "
        or len(code) != 3
        or not code.isdigit()
        or code[:1] == b"0"
        or line[12:13] not in (b" ", b"")
    ):
        raise RemoteProtocolError(f"illegal status line {line[:60]!r}")
    known = version, int(code), reason
    if len(line) <= 64:
        if len(_status_of) >= _MOST_REMEMBERED:
            _status_of.clear()
        _status_of[line] = known
    return known


def _chunk_size(line: bytes) -> int:
    digits, semicolon, extension = line.partition(b";")
    if not semicolon:
        digits = digits.rstrip(b" \t")  # some servers pad them
    elif len(extension.translate(None, _CONTROLS + b"\r\n")) != len(extension):
        raise RemoteProtocolError("an illegal character in a chunk extension")
    if not 1 <= len(digits) <= MAX_SIZE_DIGITS or digits.translate(None, _HEX):
        raise RemoteProtocolError(f"illegal chunk size {line[:60]!r}")
    return int(digits, 16)


def _check_line_ends(held: bytes, start: int) -> None:
    """Of something incomplete: a CR or LF that stands alone will not become legal. A CR at the end may."""
    crlf = held.count(b"\r\n", start)
    lone_lf = held.count(b"\n", start) - crlf
    if start and held[start : start + 1] == b"\n":
        lone_lf -= 1  # its CR lies before
    if lone_lf or held.count(b"\r", start) - crlf > held.endswith(b"\r"):
        raise RemoteProtocolError("a line that does not end with CRLF")


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t") for token in value.lower().split(b",")]

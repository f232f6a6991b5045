"""The ASGI application behind every test server. Plain ASGI: no framework between the test and the wire."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import anyio

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

NAME = os.environ.get("NAME", "unnamed")


class State:
    """What a test can set and ask for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.health = 200
        self.count = 0
        self.payments: Counter[str] = Counter()


state = State()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Dispatch on the first path segment."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def http(scope: Scope, receive: Receive, send: Send) -> None:
    path: str = scope["path"]
    query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode()).items()}
    kind, _, rest = path.lstrip("/").partition("/")
    if kind not in ("health", "count", "payments", "reset"):
        state.count += 1

    if kind == "whoami":
        await respond(send, NAME.encode(), content_type=b"text/plain")
    elif kind == "echo":
        await echo(scope, receive, send)
    elif kind == "status":
        code = int(rest)
        bodyless = code in (204, 304)
        await drain(receive)
        await respond(send, b"" if bodyless else rest.encode(), status=code, length=not bodyless)
    elif kind == "slow":
        await anyio.sleep(float(query.get("seconds", "1")))
        await respond(send, b"slow", content_type=b"text/plain")
    elif kind == "stream":
        await stream(send, query)
    elif kind == "health":
        if scope["method"] == "POST":
            state.health = int(rest)
            await respond(send, b"set", content_type=b"text/plain")
        else:
            await respond(send, str(state.health).encode(), status=state.health, content_type=b"text/plain")
    elif kind == "redirect":
        await respond(send, b"", status=302, headers=[(b"location", query.get("to", "/").encode())])
    elif kind == "set-cookie":
        cookies = [f"{key}={value}; Path=/" for key, value in query.items()] or [f"app={NAME}; Path=/"]
        await respond(send, b"set", headers=[(b"set-cookie", cookie.encode()) for cookie in cookies])
    elif kind == "count":
        await respond_json(send, {"server": NAME, "count": state.count})
    elif kind == "pay":
        await drain(receive)
        state.payments[rest] += 1
        await respond(send, b"", status=204, length=False)
    elif kind == "payments":
        await respond_json(send, dict(state.payments))
    elif kind == "reset":
        state.reset()
        await respond(send, b"reset", content_type=b"text/plain")
    else:
        await respond_json(send, {"server": NAME, "path": path})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    length, digest = 0, hashlib.sha256()
    async for chunk in body_of(receive):
        length += len(chunk)
        digest.update(chunk)
    await respond_json(
        send,
        {
            "server": NAME,
            "method": scope["method"],
            "http_version": scope["http_version"],
            "raw_path": (scope.get("raw_path") or scope["path"].encode()).decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "headers": [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]],
            "client": list(scope.get("client") or ()),
            "length": length,
            "sha256": digest.hexdigest(),
        },
    )


async def stream(send: Send, query: dict[str, str]) -> None:
    chunks, size = int(query.get("chunks", "10")), int(query.get("size", "1024"))
    delay = float(query.get("delay", "0"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-server", NAME.encode())]})
    for index in range(chunks):
        if delay:
            await anyio.sleep(delay)
        body = bytes([ord("a") + index % 26]) * size
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Echo on /ws; the text `name` is answered with the server's name, `close` closes with 4001."""
    await receive()
    if scope["path"] != "/ws":
        await send({"type": "websocket.close", "code": 1008})
        return
    offered = scope.get("subprotocols") or [None]
    await send({"type": "websocket.accept", "subprotocol": offered[0]})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text, data = message.get("text"), message.get("bytes")
        if text == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "asked to"})
            return
        if text is not None:
            await send({"type": "websocket.send", "text": NAME if text == "name" else text})
        else:
            await send({"type": "websocket.send", "bytes": data})


async def body_of(receive: Receive) -> AsyncIterator[bytes]:
    """The chunks of the request's body."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def drain(receive: Receive) -> None:
    async for _ in body_of(receive):
        pass


async def respond_json(send: Send, value: object) -> None:
    await respond(send, json.dumps(value).encode(), content_type=b"application/json")


async def respond(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    content_type: bytes | None = None,
    headers: Headers = (),
    length: bool = True,
) -> None:
    pairs = [(b"x-server", NAME.encode()), *headers]
    if content_type is not None:
        pairs.append((b"content-type", content_type))
    if length:
        pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})

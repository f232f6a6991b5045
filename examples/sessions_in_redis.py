"""Sessions in Redis instead of sticky ones: any server knows every cart, so servers may come and go as they like.

Needs a redis-server (Debian, Ubuntu: apt install redis-server) and its client (pip install redis). Starts its own, on a
free port and without a file.
"""

import asyncio
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import httpx
import redis
from _servers import Server

from lbclient import AsyncBalancedTransport


class Shop(BaseHTTPRequestHandler):
    """Puts an item into the cart of the client's session, and says how many there are."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet
    server: Server
    sessions: ClassVar[redis.Redis]

    def do_POST(self) -> None:  # http.server's name
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        session = cookies["session"].value if "session" in cookies else uuid.uuid4().hex
        items = self.sessions.incr(f"cart:{session}")
        self.sessions.expire(f"cart:{session}", 3600)
        body = f"{self.server.name} {items}".encode()
        self.send_response(200)
        if "session" not in cookies:
            self.send_header("Set-Cookie", f"session={session}; Path=/; HttpOnly; SameSite=Lax")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        pass


@contextmanager
def redis_server(program: str) -> Iterator[redis.Redis]:
    """A Redis of our own that keeps nothing on disk, stopped in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port) as client:
                wait_until_it_answers(client)
                yield client
        finally:
            process.terminate()


def wait_until_it_answers(client: redis.Redis, within: float = 5.0) -> None:
    end = time.monotonic() + within
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


async def main() -> None:
    fleet = [Server(name, handler=Shop) for name in ("alpha", "beta", "gamma")]
    transport = AsyncBalancedTransport([server.url for server in fleet], algorithm="round_robin")
    anna = httpx.AsyncClient(transport=transport, base_url="http://shop")
    boris = httpx.AsyncClient(transport=transport, base_url="http://shop")
    carts = {"anna": 0, "boris": 0}
    seen: dict[str, set[str]] = {"anna": set(), "boris": set()}

    async def buy(times: int) -> None:
        for _ in range(times):
            for name, client in (("anna", anna), ("boris", boris)):
                server, items = (await client.post("/cart")).text.split()
                seen[name].add(server)
                carts[name] += 1
                assert int(items) == carts[name]

    await buy(5)
    print(f"carts {carts}, served by {seen}")
    assert all(len(servers) == 3 for servers in seen.values())
    # No session has to be waited for, or moves: the drain is over as soon as nothing is in flight.
    report = await transport.drain(fleet[0].url)
    fleet[0].stop()
    await buy(5)
    print(f"carts {carts} after {fleet[0].name} was drained in {report.waited:.3f} s and stopped")
    for client in (anna, boris):
        await client.aclose()
    for server in fleet[1:]:
        server.stop()


program = shutil.which("redis-server")
if program is None:
    print("skipped: this example needs redis-server (Debian, Ubuntu: apt install redis-server)")
else:
    with redis_server(program) as Shop.sessions:
        asyncio.run(main())

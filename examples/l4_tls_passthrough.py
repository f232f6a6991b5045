"""Layer 4: TLS connections to several services behind one port, told apart by the server name. Nothing is decrypted.

Needs trustme (pip install trustme), for the servers' certificates. The forwarder has none of their keys.
"""

import asyncio
import ssl
from typing import Any

from lbclient import Pool
from lbclient.l4 import TCPForwarder, TLSRoute, TLSRouter

try:
    import trustme
except ImportError:
    raise SystemExit("skipped: this example needs trustme (pip install trustme)") from None


async def start(ca: Any, name: str) -> asyncio.Server:
    """A server that says its name over TLS."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"this is {name}\n".encode())
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)


async def main() -> None:
    ca = trustme.CA()
    context = ssl.create_default_context()
    ca.configure_trust(context)
    servers = {name: await start(ca, name) for name in ("shop.example", "mail.example")}
    pools = {
        name: Pool([f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"], name=name)
        for name, server in servers.items()
    }
    router = TLSRouter([TLSRoute(sni=name, to=pool) for name, pool in pools.items()])
    async with TCPForwarder(router, "127.0.0.1", 0) as forwarder:
        for name in servers:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", forwarder.port, ssl=context, server_hostname=name
            )
            line = (await reader.readline()).decode().strip()
            certificate = writer.get_extra_info("peercert")["subjectAltName"]
            print(f"{line}, and its certificate says {certificate}")
            assert name in line
            writer.close()
        try:
            await asyncio.open_connection(
                "127.0.0.1", forwarder.port, ssl=context, server_hostname="other.example"
            )
        except ssl.SSLError as exc:
            print("other.example:", exc.reason)
    for server in servers.values():
        server.close()


asyncio.run(main())

"""Layer 4: Redis over a stream of `lbclient.l4.connect`; when its server dies, the next connection goes to another one.

Needs a redis-server (Debian, Ubuntu: apt install redis-server). Starts two, on free ports and without a file.
"""

import asyncio
from contextlib import ExitStack

from _programs import free_port, program, running
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from lbclient import Pool, TcpProbe, l4


class Redis:
    """As much of RESP, Redis' protocol, as it takes to say a command and to read a simple answer."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.reader = BufferedByteReceiveStream(stream)

    async def __call__(self, *words: str) -> str:
        said = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in (w.encode() for w in words))
        await self.stream.send(b"*%d\r\n%b" % (len(words), said))
        line = (await self.reader.receive_until(b"\r\n", 1024)).decode()
        if line[0] != "$":
            return line[1:]
        value = await self.reader.receive_exactly(int(line[1:]) + 2)
        return value[:-2].decode()


async def main() -> None:
    server = program("redis-server", "redis-server")
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        processes = []
        for port in ports:
            command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            processes.append(stack.enter_context(running(command, port)))
        pool = Pool(
            [f"tcp://127.0.0.1:{port}" for port in ports],
            algorithm="least_connections",
            probe=TcpProbe(interval=0.2, timeout=0.2, unhealthy_threshold=1),
        )
        async with l4.probing(pool):
            await l4.wait_until_ready(pool)
            async with await l4.connect(pool) as one, await l4.connect(pool) as two:
                print("two connections:", l4.connections(pool))
                for stream in (one, two):
                    redis = Redis(stream)
                    print(await redis("SET", "greeting", "hello"), await redis("GET", "greeting"), end="; ")
                    print("answered by", stream.extra(l4.StreamAttribute.backend).url)
            processes[0].kill()
            processes[0].wait()
            async with await l4.connect(pool) as stream:
                print(stream.extra(l4.StreamAttribute.record).explain())
                assert await Redis(stream)("PING") == "PONG"
                assert stream.extra(l4.StreamAttribute.backend).port == ports[1]


asyncio.run(main())

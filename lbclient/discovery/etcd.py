"""etcd v3, through its JSON gateway: the keys below a prefix are the backends.

    /services/orders/a1   http://10.0.0.5:8080
    /services/orders/a2   10.0.0.6:8080
    /services/orders/a3   {"url": "http://10.0.0.7:8080", "weight": 2, "zone": "a", "draining": false}
    /services/orders/a4   {"Addr": "10.0.0.8:8080", "Metadata": {"shard": 7}}

The last part of a key is whatever its writer likes: an instance's own name. A value is a URL, a host and port, an
object with the names of `Backend`'s arguments, or what etcd's own client for Go writes (`naming/endpoints`). Written
with a lease, a key goes when its server stops renewing it. Of two keys with the same URL the later one counts.
"""

from __future__ import annotations

import json
import logging
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import httpx

from lbclient.core.backend import Backend
from lbclient.core.checks import check_flag, check_number
from lbclient.core.source import Said
from lbclient.discovery.entry import backend_of
from lbclient.discovery.list_watch import ListWatch
from lbclient.discovery.registry import (
    Cert,
    Json,
    Lines,
    RegistryError,
    Verify,
    as_object,
    check,
    new_client,
    pieces_of,
    ssl_context,
)

logger = logging.getLogger("lbclient")


class Entries:
    """The keys below a prefix: what they say, and since when.

    Attributes:
        revision: Of the last change that is in it.
        cluster: The identity of the cluster that said so.
    """

    def __init__(self, source: Etcd, revision: int, cluster: str) -> None:
        self._source = source
        self._backends: dict[
            bytes, tuple[int, Backend]
        ] = {}  # with the revision in which the key was created
        self.revision = revision
        self.cluster = cluster

    def put(self, pair: Json) -> None:
        """A key has this value now. One that says no backend is none, and the log says so."""
        key, value = b64decode(pair["key"]), b64decode(pair.get("value", ""))
        try:
            backend = self._source.backend_of(value)
        except ValueError as exc:
            logger.warning("%s: %s is no backend: %s", self._source, key.decode(errors="replace"), exc)
            self._backends.pop(key, None)
        else:
            self._backends[key] = int(pair.get("create_revision", 0)), backend

    def delete(self, pair: Json) -> None:
        """A key is gone."""
        self._backends.pop(b64decode(pair["key"]), None)

    def said(self) -> Said:
        """See `View`."""
        newest: dict[str, tuple[int, Backend]] = {}
        for _, (created, backend) in sorted(self._backends.items()):
            known = newest.get(backend.url)
            if known is None or known[0] < created:
                newest[backend.url] = created, backend
        return tuple(backend for _, backend in newest.values())


class Etcd(ListWatch[httpx.AsyncClient, Entries]):
    """Says the backends below a prefix of etcd's keys.

    Args:
        prefix: Whole: "/services/orders/" does not match "/services/orders-old/a1".
        endpoints: URLs of the cluster's members; when one fails the next is asked.
        scheme: Of values that are a host and a port only.
        username, password: For a cluster with authentication.
        verify: For https: the path of a file with authorities, a context, or True for the system's.
        cert: The path of a client certificate with its key, or of both.
        timeout: Seconds to connect, and for everything but the watch; > 0.
        allow_empty: Whether no key at all means nobody. Otherwise the last set stays.

    Raises:
        ValueError, TypeError: An argument is out of its range.
    """

    longest_pause = 0.8

    def __init__(
        self,
        prefix: str,
        *,
        endpoints: Sequence[str] = ("http://127.0.0.1:2379",),
        scheme: str = "http",
        username: str | None = None,
        password: str | None = None,
        verify: Verify = True,
        cert: Cert | None = None,
        timeout: float = 5.0,
        allow_empty: bool = False,
    ) -> None:
        if not isinstance(prefix, str) or not prefix:
            raise ValueError(
                f"prefix is {prefix!r}; write the beginning of the keys, like '/services/orders/'"
            )
        if isinstance(endpoints, str) or not endpoints:
            raise ValueError(
                f"endpoints is {endpoints!r}; write a list of URLs, like ['http://127.0.0.1:2379']"
            )
        for url in endpoints:
            Backend(url)  # says what is wrong with it
        if (username is None) != (password is None):
            raise ValueError("username and password belong together; write both or neither")
        Backend(f"{scheme}://localhost:1")
        self._prefix = prefix
        self._endpoints = list(endpoints)
        self._scheme = scheme
        self._login = None if username is None else {"name": username, "password": password}
        self._verify = verify
        self._cert = cert
        self._timeout = check_number("timeout", timeout, above=0)
        self.allow_empty = check_flag("allow_empty", allow_empty)

    def __str__(self) -> str:
        return f"etcd {self._prefix}"

    def backend_of(self, value: bytes) -> Backend:
        """The backend that a value says.

        Raises:
            ValueError: It says none.
        """
        text = value.decode().strip()
        if not text.startswith("{"):
            return backend_of(text if "://" in text else f"{self._scheme}://{text}")
        entry: dict[str, Any] = json.loads(text)
        if "Addr" in entry:
            address, metadata = str(entry["Addr"]), entry.get("Metadata")
            entry = {"url": address if "://" in address else f"{self._scheme}://{address}"}
            if isinstance(metadata, dict):
                entry["metadata"] = metadata
        return backend_of(entry)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        """See `ListWatch`."""
        url = self._endpoints[0]
        context: ssl.SSLContext | bool = False
        if url.startswith("https"):
            context = await anyio.to_thread.run_sync(ssl_context, self._verify, self._cert)
        try:
            async with new_client(url, context, self._timeout) as client:
                if self._login is not None:
                    answer = await self._ask(client, "auth/authenticate", self._login)
                    client.headers["Authorization"] = answer["token"]
                yield client
        except (httpx.HTTPError, RegistryError):
            self._endpoints = [*self._endpoints[1:], url]  # another member may know better
            raise

    async def list(self, session: httpx.AsyncClient) -> Entries:
        """See `ListWatch`."""
        answer = await self._ask(session, "kv/range", self._range())
        header = answer["header"]
        entries = Entries(self, int(header["revision"]), header["cluster_id"])
        for pair in answer.get("kvs", ()):
            entries.put(pair)
        return entries

    async def follow(self, session: httpx.AsyncClient, view: Entries, heard: Callable[[], None]) -> bool:
        """See `ListWatch`."""
        create = {**self._range(), "start_revision": str(view.revision + 1), "progress_notify": True}
        timeout = httpx.Timeout(self._timeout, read=None)
        lines = Lines()
        async with session.stream(
            "POST", "/v3/watch", json={"create_request": create}, timeout=timeout
        ) as response:
            await check(response)
            async with pieces_of(response) as pieces:
                async for piece in pieces:
                    for line in lines.feed(piece):
                        message = as_object(line)
                        if self._take(message, view):
                            return True
                        if not message["result"].get("created"):
                            heard()
        return False

    def _take(self, message: Json, view: Entries) -> bool:
        """One message of a watch; whether it says that the view has to be listed anew."""
        result = message.get("result")
        if result is None:
            raise RegistryError(f"the watch failed: {str(message.get('error'))[:200]}")
        header = result["header"]
        if result.get("canceled"):
            if "compact_revision" in result:
                return True
            raise RegistryError(f"the watch was cancelled: {result.get('cancel_reason', 'no reason')}")
        if header["cluster_id"] != view.cluster or int(header.get("revision", 0)) < view.revision:
            return (
                True  # another cluster, or one that was restored from before: what it tells continues nothing
            )
        events = result.get("events", ())
        for event in events:
            pair = event["kv"]
            (view.delete if event.get("type") == "DELETE" else view.put)(pair)
            view.revision = max(view.revision, int(pair["mod_revision"]))
        if not events and not result.get("created"):
            view.revision = max(view.revision, int(header["revision"]))  # progress: nothing came in between
        return False

    def _range(self) -> Json:
        """Every key that begins with the prefix: up to the first that does not."""
        start = self._prefix.encode()
        end = start[:-1] + bytes([start[-1] + 1])  # UTF-8 has no byte 0xff
        return {"key": b64encode(start).decode(), "range_end": b64encode(end).decode()}

    async def _ask(self, client: httpx.AsyncClient, what: str, body: Json) -> Json:
        response = await client.post(f"/v3/{what}", json=body)
        await check(response)
        return as_object(response.content)

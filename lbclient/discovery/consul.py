"""Consul: the health endpoint of a service, asked with blocking queries.

A query names the index of the last answer, and Consul answers when there is another one, or after a while. The rules
for the index are Consul's own: one that goes back, or is not above zero, starts anew.

https://developer.hashicorp.com/consul/api-docs/features/blocking
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TypeAlias
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpx

from lbclient.core.backend import Backend
from lbclient.core.checks import check_flag, check_number
from lbclient.core.source import Said, Source
from lbclient.discovery.registry import (
    Cert,
    Json,
    RegistryError,
    Verify,
    as_list,
    check,
    new_client,
    ssl_context,
)

logger = logging.getLogger("lbclient")

Query: TypeAlias = list[tuple[str, str | int | float | bool | None]]

STATUSES = ("passing", "warning", "critical")
JITTER = 16  # Consul answers up to a sixteenth of the wait later


class Consul(Source):
    """Says the instances of a Consul service.

    An instance is as healthy as the worst of its checks. Its weight is the one that it has for that (`Weights.Passing`
    or `Weights.Warning`), its zone the datacenter unless its node says a `zone` in its metadata.

    Args:
        service: Its name.
        url: Of the agent; None: `CONSUL_HTTP_ADDR`, else http://127.0.0.1:8500.
        scheme: Of the backends: "http", "https", "tcp" or "udp".
        path: A path prefix of the backends.
        tags: All of which an instance has to have.
        datacenter: Another one than the agent's.
        statuses: Whom to take, by the worst of their checks: "passing", "warning".
        token: For access control; None: `CONSUL_HTTP_TOKEN`.
        namespace, partition: Of Consul Enterprise.
        stale: Whether any server may answer, and not only the leader.
        wait: Seconds after which Consul answers in any case; 1 to 600.
        pause: Seconds between two queries at least, however fast the service changes; >= 0.
        timeout: Seconds to connect, and that an answer may be late; > 0.
        verify: For https: the path of a file with authorities, a context, or True for the system's.
        cert: The path of a client certificate with its key, or of both.
        allow_empty: Whether no instance means nobody. Otherwise the last set stays.

    Raises:
        ValueError, TypeError: An argument is out of its range.
    """

    longest_pause = 10.0

    def __init__(
        self,
        service: str,
        *,
        url: str | None = None,
        scheme: str = "http",
        path: str = "",
        tags: Sequence[str] = (),
        datacenter: str | None = None,
        statuses: Collection[str] = ("passing",),
        token: str | None = None,
        namespace: str | None = None,
        partition: str | None = None,
        stale: bool = True,
        wait: float = 300.0,
        pause: float = 0.1,
        timeout: float = 5.0,
        verify: Verify = True,
        cert: Cert | None = None,
        allow_empty: bool = False,
    ) -> None:
        if not isinstance(service, str) or not service or "/" in service:
            raise ValueError(f"service is {service!r}; write the name of a service")
        if isinstance(tags, str):
            raise TypeError(f"tags is {tags!r}; write a list, like ['v2']")
        if isinstance(statuses, str) or not statuses or not set(statuses) <= set(STATUSES):
            raise ValueError(f"statuses is {statuses!r}; write a list of some of {', '.join(STATUSES)}")
        if url is None:
            url = os.environ.get("CONSUL_HTTP_ADDR") or "127.0.0.1:8500"
            url = url if "://" in url else f"http://{url}"
        Backend(url)  # says what is wrong with it
        Backend(f"{scheme}://localhost:1{path}")
        self._service = service
        self._url = url
        self._scheme = scheme
        self._path = path
        self._statuses = frozenset(statuses)
        self._wait = check_number("wait", wait, at_least=1, at_most=600)
        self._pause = check_number("pause", pause, at_least=0)
        self._timeout = check_number("timeout", timeout, above=0)
        self._verify = verify
        self._cert = cert
        self._token = os.environ.get("CONSUL_HTTP_TOKEN") if token is None else token
        self.allow_empty = check_flag("allow_empty", allow_empty)
        check_flag("stale", stale)
        asked = {"dc": datacenter, "ns": namespace, "partition": partition, "stale": "" if stale else None}
        self._query: Query = [(name, value) for name, value in asked.items() if value is not None]
        self._query += [("tag", tag) for tag in tags]
        if self._statuses == {"passing"}:
            self._query.append(("passing", "1"))

    def __str__(self) -> str:
        return f"Consul service {self._service}"

    async def watch(self) -> AsyncIterator[Said]:
        """See `Source`."""
        context: ssl.SSLContext | bool = False
        if self._url.startswith("https"):
            context = await anyio.to_thread.run_sync(ssl_context, self._verify, self._cert)
        headers = {"X-Consul-Token": self._token} if self._token else None
        late = self._wait + self._wait / JITTER + self._timeout
        index = 0
        async with new_client(self._url, context, self._timeout, headers) as client:
            while True:
                asked = anyio.current_time()
                params: Query = [*self._query]
                if index:
                    params += [("index", str(index)), ("wait", f"{self._wait:g}s")]
                timeout = httpx.Timeout(self._timeout, read=late if index else self._timeout)
                response = await client.get(
                    f"/v1/health/service/{quote(self._service)}", params=params, timeout=timeout
                )
                await check(response)
                yield self._backends(as_list(response.content))
                index = _next_index(index, response.headers.get("X-Consul-Index"))
                await anyio.sleep_until(asked + self._pause)

    def _backends(self, instances: Sequence[Json]) -> tuple[Backend, ...]:
        backends: dict[str, Backend] = {}
        for instance in instances:
            status = _worst(instance)
            if status not in self._statuses:
                continue
            try:
                backend = self._backend(instance, status)
            except ValueError as exc:  # a service without a port has port 0
                logger.warning("%s: %s is no backend: %s", self, instance["Service"].get("ID"), exc)
            else:
                backends[backend.url] = backend
        return tuple(backends[url] for url in sorted(backends))

    def _backend(self, instance: Json, status: str) -> Backend:
        node, service = instance["Node"], instance["Service"]
        address = service.get("Address") or node["Address"]  # empty: that of its node
        host = f"[{address}]" if ":" in address else address
        weights: Json = service.get("Weights") or {}
        meta: Json = node.get("Meta") or {}
        own: Json = service.get("Meta") or {}
        about = {"id": service.get("ID"), "node": node.get("Node"), "tags": tuple(service.get("Tags") or ())}
        return Backend(
            f"{self._scheme}://{host}:{service['Port']}{self._path}",
            weight=weights.get("Passing" if status == "passing" else "Warning", 1),
            zone=meta.get("zone") or node.get("Datacenter"),
            metadata={**own, **about},
        )


def _worst(instance: Json) -> str:
    """The status of its worst check; without checks it passes. What is in maintenance is critical."""
    found = {check.get("Status") for check in instance.get("Checks") or ()}
    return next((status for status in reversed(STATUSES) if status in found), "passing")


def _next_index(before: int, answered: str | None) -> int:
    """What to name in the next query.

    Raises:
        RegistryError: The answer has none: it is not Consul's.
    """
    if answered is None or not answered.isdigit():
        raise RegistryError(f"X-Consul-Index is {answered!r}")
    index = max(1, int(answered))  # 0 would be no blocking query
    return 0 if index < before else index

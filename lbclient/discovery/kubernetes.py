"""Kubernetes: the EndpointSlices of a service, listed and then watched.

The backends are the service's pods themselves, so requests take no hop through kube-proxy, and long connections do not
stick to one pod. The role that the pod's service account needs:

    rules: [{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}]

What the conditions of an endpoint mean here (KEP-1669, KEP-1672):

    ready, or not said                 it serves
    not ready, serving, terminating    it drains: no new picks, tied clients stay; where nobody is ready it serves
    anything else                      it is left out
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpx

from lbclient.core.backend import Backend
from lbclient.core.checks import check_flag, check_number, check_whole
from lbclient.core.source import Said, Trouble
from lbclient.discovery.kubernetes_api import Access, of_kubeconfig, of_service_account
from lbclient.discovery.list_watch import ListWatch
from lbclient.discovery.lookups import FAMILIES
from lbclient.discovery.registry import (
    Json,
    Lines,
    RegistryError,
    Verify,
    as_object,
    check,
    pieces_of,
)

GONE = 410
UNABLE = (400, 404, 422)  # what servers say that know no `sendInitialEvents`
ADDRESS_TYPES = {"A": "IPv4", "AAAA": "IPv6"}
LABEL = "kubernetes.io/service-name"
INITIAL_END = "k8s.io/initial-events-end"
PAGE = 500  # slices a list returns at a time
WATCH = (240, 360)  # seconds after which a watch is to end, and be taken up again perhaps at another server
GRACE = 30.0  # seconds that a server may be late with that


class Session(NamedTuple):
    """A client, and where in the API the slices of the namespace are."""

    client: httpx.AsyncClient
    path: str


class Endpoint(NamedTuple):
    """One address of one slice, as far as it matters here."""

    address: str
    port: int
    zone: str | None
    pod: str | None
    node: str | None
    where: str | None


class Slices:
    """The EndpointSlices of a service.

    Attributes:
        version: The resource version up to which everything is in it.
    """

    def __init__(self, source: Kubernetes, version: str, items: Sequence[Json] = ()) -> None:
        self._source = source
        self._raw: dict[str, Json] = {item["metadata"]["name"]: item for item in items}
        self._read: dict[str, tuple[list[Endpoint], list[Endpoint]]] = {}  # ready, draining
        self._backends: dict[tuple[Endpoint, bool], Backend] = {}
        self.version = version

    def take(self, event: Json) -> None:
        """An event of a watch: a slice came, changed or went; or (a bookmark) nothing did."""
        item = event["object"]
        meta = item["metadata"]
        if event["type"] != "BOOKMARK":
            name = meta["name"]
            self._read.pop(name, None)  # it is read when somebody wants to know
            if event["type"] == "DELETED":
                self._raw.pop(name, None)
            else:
                self._raw[name] = item
        self.version = meta["resourceVersion"]

    def said(self) -> Said:
        """See `View`."""
        source = self._source
        try:
            for name in self._raw.keys() - self._read.keys():
                self._read[name] = source.read(self._raw[name])
        except ValueError as exc:
            return Trouble(str(exc))
        inhabited = [name for name in sorted(self._raw) if any(self._read[name])]
        names = source.preferred({name: self._raw[name].get("addressType", "IPv4") for name in inhabited})
        serving = {endpoint[:2]: endpoint for name in names for endpoint in self._read[name][0]}
        draining = {endpoint[:2]: endpoint for name in names for endpoint in self._read[name][1]}
        if not serving:
            serving, draining = draining, {}
        before, self._backends = self._backends, {}
        for place, endpoint in draining.items():
            if place not in serving:
                known = before.get((endpoint, True))
                self._backends[endpoint, True] = known or source.backend(endpoint, draining=True)
        for endpoint in serving.values():
            known = before.get((endpoint, False))
            self._backends[endpoint, False] = known or source.backend(endpoint, draining=False)
        return tuple(backend for _, backend in sorted(self._backends.items(), key=_by_endpoint))


def _by_endpoint(item: tuple[tuple[Endpoint, bool], Backend]) -> tuple[str, int]:
    return item[0][0].address, item[0][0].port


class Kubernetes(ListWatch[Session, Slices]):
    """Says the endpoints of a Kubernetes service.

    Args:
        service: Its name, or "namespace/name".
        port: Of the endpoints: the name of one of their ports, or its number. None: the only one there is.
        scheme: Of the backends: "http", "https", "tcp" or "udp".
        path: A path prefix of the backends.
        host: What the backends see as `Host`, and whom their certificates name; None: their address.
        family: Of dual-stack services: "any", "ipv4", "ipv6", "prefer_ipv4" or "prefer_ipv6", which takes the other
            one only where the preferred one is missing.
        zone: Where this client runs: who is hinted to serve that zone is of that zone here. Others are of the zone they
            are hinted for, else of that they are in. Give the pool the same `zone=`, so that it prefers them.
        kubeconfig: The path of one. None: the service account of this pod, or outside a cluster the kubeconfig that
            kubectl would use.
        context: Of the kubeconfig; None: its current one.
        server, token, verify: The API's URL, a bearer token, and the path of a file with authorities or a context: for
            those who have neither of the two.
        timeout: Seconds to connect, and for everything but the watch; > 0.
        send_initial_events: Whether to ask for the list as a stream, too (KEP-3157). A server that cannot do so is
            asked for a list.
        allow_empty: Whether a service without endpoints means nobody, since addresses of pods that are gone are given
            to others. Otherwise the last set stays.

    Raises:
        ValueError, TypeError: An argument is out of its range.
    """

    longest_pause = 30.0

    def __init__(
        self,
        service: str,
        port: int | str | None = None,
        *,
        scheme: str = "http",
        path: str = "",
        host: str | None = None,
        family: str = "prefer_ipv4",
        zone: str | None = None,
        kubeconfig: str | os.PathLike[str] | None = None,
        context: str | None = None,
        server: str | None = None,
        token: str | None = None,
        verify: Verify = True,
        timeout: float = 5.0,
        send_initial_events: bool = False,
        allow_empty: bool = True,
    ) -> None:
        self._namespace, _, self._service = service.rpartition("/")
        if not self._service or "/" in self._namespace or service.startswith("/"):
            raise ValueError(f"service is {service!r}; write its name, or 'namespace/name'")
        if port is not None and (isinstance(port, bool) or not isinstance(port, (int, str))):
            raise TypeError(f"port is {port!r}; write the name or the number of the endpoints' port")
        if isinstance(port, int):
            check_whole("port", port, at_least=1, at_most=65535)
        if family not in FAMILIES:
            raise ValueError(f"family is {family!r}; write one of {', '.join(FAMILIES)}")
        if server is None and token is not None:
            raise ValueError("token belongs to server; write both, or neither")
        if server is not None:
            Backend(server)  # says what is wrong with it
        Backend(f"{scheme}://localhost:{port if isinstance(port, int) else 1}{path}", host=host)
        self._port = port
        self._scheme = scheme
        self._path = path
        self._host = host
        self._family = family
        self._zone = zone
        self._kubeconfig = None if kubeconfig is None else Path(kubeconfig)
        self._context = context
        self._access = None if server is None else Access(server, verify, token=token)
        self._timeout = check_number("timeout", timeout, above=0)
        self._streams = check_flag("send_initial_events", send_initial_events)
        self.allow_empty = check_flag("allow_empty", allow_empty)

    def __str__(self) -> str:
        name = f"{self._namespace}/{self._service}" if self._namespace else self._service
        return f"Kubernetes service {name}" + (f":{self._port}" if self._port is not None else "")

    # What endpoints come to

    def read(self, item: Json) -> tuple[list[Endpoint], list[Endpoint]]:
        """Those of a slice that are ready, and those that drain.

        Raises:
            ValueError: Which of its ports is meant is not clear.
        """
        ready: list[Endpoint] = []
        draining: list[Endpoint] = []
        port = self._port_of(item)
        if port is None:
            return ready, draining
        for endpoint in item.get("endpoints") or ():
            conditions: Json = endpoint.get("conditions") or {}
            is_ready = conditions.get("ready")
            if is_ready is None or is_ready:
                ready.append(self._endpoint(endpoint, port))
            elif conditions.get("serving") and conditions.get("terminating"):
                draining.append(self._endpoint(endpoint, port))
        return ready, draining

    def _port_of(self, item: Json) -> int | None:
        """The number of the slice's port that is meant; None when it has none."""
        wanted = "UDP" if self._scheme == "udp" else "TCP"
        ports = [p for p in item.get("ports") or () if (p.get("protocol") or "TCP") == wanted]
        if isinstance(self._port, str):
            ports = [p for p in ports if p.get("name") == self._port]
        elif self._port is not None:
            # Without ports, or with one that says no number, a slice stands for all of them (core/v1).
            fits = not ports or any(p.get("port") in (None, self._port) for p in ports)
            return self._port if fits else None
        numbers = {p.get("port") for p in ports} - {None}
        if len(numbers) > 1:
            names = ", ".join(f"{p.get('name')!r} ({p.get('port')})" for p in ports)
            raise ValueError(f"{self} has the ports {names}; write port=")
        return next(iter(numbers), None)

    def _endpoint(self, endpoint: Json, port: int) -> Endpoint:
        own = endpoint.get("zone")
        hints = endpoint.get("hints")
        zone = own
        if hints:
            hinted = [each["name"] for each in hints.get("forZones") or ()]
            zone = self._zone if self._zone in hinted else next(iter(hinted), own)
        target = endpoint.get("targetRef")
        pod = target.get("name") if target else None
        return Endpoint(endpoint["addresses"][0], port, zone, pod, endpoint.get("nodeName"), own)

    def preferred(self, types: dict[str, str]) -> list[str]:
        """The slices whose family is taken, by name. Those with names of hosts always are."""
        taken = [name for name, kind in types.items() if kind == "FQDN"]
        for family in FAMILIES[self._family]:
            of_family = [name for name, kind in types.items() if kind == ADDRESS_TYPES[family]]
            taken += of_family
            if of_family and self._family.startswith("prefer"):
                break
        return taken

    def backend(self, endpoint: Endpoint, *, draining: bool) -> Backend:
        """An endpoint as a backend."""
        address = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        about = {"pod": endpoint.pod, "node": endpoint.node, "zone": endpoint.where}
        return Backend(
            f"{self._scheme}://{address}:{endpoint.port}{self._path}",
            zone=endpoint.zone,
            host=self._host,
            draining=draining,
            metadata={name: value for name, value in about.items() if value is not None},
        )

    # Listing and watching

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Session, None]:
        """See `ListWatch`."""
        access = self._access
        if access is None:
            access = await anyio.to_thread.run_sync(self._find_access)
        namespace = quote(self._namespace or access.namespace, safe="")
        async with access.client(self._timeout) as client:
            client.params = client.params.set("labelSelector", f"{LABEL}={self._service}")
            yield Session(client, f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")

    def _find_access(self) -> Access:
        if self._kubeconfig is None and self._context is None:
            access = of_service_account()
            if access is not None:
                return access
        return of_kubeconfig(self._kubeconfig, self._context)

    async def list(self, session: Session) -> Slices:
        """See `ListWatch`."""
        if self._streams:
            streamed = await self._list_as_stream(session)
            if streamed is not None:
                return streamed
            self._streams = False
        items: list[Json] = []
        page: dict[str, str] = {}
        while True:
            response = await session.client.get(session.path, params={"limit": PAGE, **page})
            if response.status_code == GONE and page:  # the pages that are left are of a version that is gone
                items, page = [], {}
                continue
            await check(response)
            answer = as_object(response.content)
            items += answer.get("items") or ()
            meta = answer["metadata"]
            if not meta.get("continue"):
                return Slices(self, meta["resourceVersion"], items)
            page = {"continue": meta["continue"]}

    async def _list_as_stream(self, session: Session) -> Slices | None:
        """What a watch begins with; None when the server cannot do that."""
        view = Slices(self, "")

        def take(event: Json) -> bool:
            view.take(event)
            annotations: Json = event["object"]["metadata"].get("annotations") or {}
            return annotations.get(INITIAL_END) == "true"

        params = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        try:
            with anyio.fail_after(GRACE):
                if await self._watch(session, params, take):
                    return view
        except RegistryError as exc:
            if exc.status in UNABLE:
                return None
            raise
        raise RegistryError("the stream of the list ended before the list did")

    async def follow(self, session: Session, view: Slices, heard: Callable[[], None]) -> bool:
        """See `ListWatch`."""

        def take(event: Json) -> bool:
            view.take(event)
            heard()
            return False

        try:
            return await self._watch(session, {"resourceVersion": view.version}, take)
        except RegistryError as exc:
            if exc.status == GONE:
                return True
            raise

    async def _watch(self, session: Session, params: dict[str, str], take: Callable[[Json], bool]) -> bool:
        """Hand every event to `take`, until that says that it is enough, or the watch ends; whether it was enough.

        Raises:
            RegistryError: The server said that it cannot, by a status or an event.
        """
        seconds = random.randint(*WATCH)
        timeout = httpx.Timeout(self._timeout, read=seconds + GRACE)
        params = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds), **params}
        lines = Lines()
        async with session.client.stream("GET", session.path, params=params, timeout=timeout) as response:
            await check(response)
            async with pieces_of(response) as pieces:
                async for piece in pieces:
                    for line in lines.feed(piece):
                        event = as_object(line)
                        if event["type"] == "ERROR":
                            status = event["object"]
                            raise RegistryError(
                                f"{status.get('reason')}: {status.get('message')}", status.get("code", 500)
                            )
                        if take(event):
                            return True
        return False

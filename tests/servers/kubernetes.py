"""A double of the Kubernetes API: list and watch, as kube-apiserver does them. The app of a test server.

It is kept honest by a test in which Traefik's own client follows it. What tests tell it:

    POST   /ctl/objects                     {"items": [...]}: each is created, or replaced
    DELETE /ctl/objects/RESOURCE/NS/NAME
    POST   /ctl/compact                     versions before now are gone
    POST   /ctl/cut                         all watches end; with ?abort=1 in the middle of a chunk
    POST   /ctl/bookmark                    all watches that want to get one
    POST   /ctl/settings                    {"gone": "event" | "status", "streams": bool, "token": "...", "page": 500}
    POST   /ctl/reset                       no objects, default settings; all watches end
    POST   /ctl/churn?per_second&seconds    changes an endpoint, and another one, and so on
    GET    /ctl/log                         the requests so far
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Object = dict[str, Any]

KINDS = {
    "configmaps": ("ConfigMap", "v1"),
    "endpointslices": ("EndpointSlice", "discovery.k8s.io/v1"),
    "ingressclasses": ("IngressClass", "networking.k8s.io/v1"),
    "ingresses": ("Ingress", "networking.k8s.io/v1"),
    "namespaces": ("Namespace", "v1"),
    "nodes": ("Node", "v1"),
    "secrets": ("Secret", "v1"),
    "services": ("Service", "v1"),
}
OF_NO_NAMESPACE = ("ingressclasses", "namespaces", "nodes")
GROUPS = ("/api/v1", "/apis/discovery.k8s.io/v1", "/apis/networking.k8s.io/v1")
DEFAULTS: Object = {"gone": "event", "streams": True, "token": None, "page": None}


class State:
    """The objects, and every change since the last compaction."""

    def __init__(self) -> None:
        self.version = 100
        self.compacted = 0
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.changes: list[tuple[int, str, Object, bytes]] = []
        self.dropped = 0  # changes that were compacted away
        self.changed = asyncio.Event()
        self.cuts = 0
        self.aborts = False
        self.bookmarks = 0
        self.settings = dict(DEFAULTS)
        self.log: list[Object] = []

    def tell(self) -> None:
        event, self.changed = self.changed, asyncio.Event()
        event.set()

    def put(self, item: Object) -> None:
        resource = next(name for name, (kind, _) in KINDS.items() if kind == item["kind"])
        meta = item["metadata"]
        key = (resource, meta.get("namespace", ""), meta["name"])
        self.version += 1
        meta |= {"resourceVersion": str(self.version), "uid": f"uid-{meta['name']}"}
        item.setdefault("apiVersion", KINDS[resource][1])
        self._record("MODIFIED" if key in self.objects else "ADDED", resource, item)
        self.objects[key] = item

    def delete(self, resource: str, namespace: str, name: str) -> None:
        item = self.objects.pop((resource, namespace, name))
        self.version += 1
        item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        self._record("DELETED", resource, item)

    def _record(self, kind: str, resource: str, item: Object) -> None:
        self.changes.append((self.version, resource, item, event(kind, item)))


def event(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def bookmark(resource: str, version: int, *, initial_end: bool = False) -> bytes:
    kind, api = KINDS[resource]
    meta: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial_end:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    return event("BOOKMARK", {"kind": kind, "apiVersion": api, "metadata": meta})


def failure(code: int, reason: str, message: str) -> Object:
    words = {"status": "Failure", "message": message, "reason": reason, "code": code}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **words}


def refused(code: int, reason: str, message: str) -> Response:
    return JSONResponse(failure(code, reason, message), code)


state = State()


class Chosen:
    """What a request is about."""

    def __init__(self, request: Request) -> None:
        parts = request.path_params["path"].split("/")
        self.namespace = self.name = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            self.namespace, parts = parts[1], parts[2:]
        self.resource = parts[0]
        if len(parts) > 1:
            self.name = parts[1]
        selector = request.query_params.get("labelSelector", "")
        self.labels = [
            term.partition("=")[::2] for term in selector.split(",") if "=" in term and "!=" not in term
        ]

    def has(self, item: Object) -> bool:
        meta = item["metadata"]
        labels = meta.get("labels") or {}
        return (not self.namespace or meta.get("namespace", "") == self.namespace) and all(
            labels.get(name) == value.lstrip("=") for name, value in self.labels
        )

    def now(self) -> list[Object]:
        keys = sorted(key for key in state.objects if key[0] == self.resource)
        return [state.objects[key] for key in keys if self.has(state.objects[key])]


async def api(request: Request) -> Response:
    query = request.query_params
    state.log.append({"path": request.url.path, "query": dict(query)})
    token = state.settings["token"]
    if token is not None and request.headers.get("authorization") != f"Bearer {token}":
        return refused(401, "Unauthorized", "Unauthorized")
    chosen = Chosen(request)
    if chosen.resource not in KINDS:
        return refused(404, "NotFound", "the server could not find the requested resource")
    if chosen.name:
        item = state.objects.get((chosen.resource, chosen.namespace, chosen.name))
        return refused(404, "NotFound", f"{chosen.name!r} not found") if item is None else JSONResponse(item)
    return watch(chosen, query) if query.get("watch") in ("1", "true") else listing(chosen, query)


def listing(chosen: Chosen, query: Any) -> Response:
    version, start = state.version, 0
    if "continue" in query:
        version, start = map(int, query["continue"].split("."))
        if version < state.compacted:
            return refused(410, "Expired", "The provided continue parameter is too old")
    items = chosen.now()
    limit = int(state.settings["page"] or query.get("limit") or 0)
    meta: Object = {"resourceVersion": str(version)}
    if limit and start + limit < len(items):
        meta |= {"continue": f"{version}.{start + limit}", "remainingItemCount": len(items) - start - limit}
    page = items[start : start + limit] if limit else items
    kind, group = KINDS[chosen.resource]
    return JSONResponse({"kind": f"{kind}List", "apiVersion": group, "metadata": meta, "items": page})


def watch(chosen: Chosen, query: Any) -> Response:
    version = query.get("resourceVersion", "")
    initial = query.get("sendInitialEvents") == "true"
    if initial and not state.settings["streams"]:
        words = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless WatchList is enabled"
        return refused(422, "Invalid", words)
    if version not in ("", "0") and int(version) < state.compacted:
        words = f"too old resource version: {version} ({state.version})"
        if state.settings["gone"] == "status":
            return refused(410, "Expired", words)
        return StreamingResponse(
            iter([event("ERROR", failure(410, "Expired", words))]), media_type="application/json"
        )
    return StreamingResponse(events(chosen, query, version, initial), media_type="application/json")


async def events(chosen: Chosen, query: Any, version: str, initial: bool) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    ends = loop.time() + float(query.get("timeoutSeconds") or 1800)
    wants_bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
    cuts, bookmarks = state.cuts, state.bookmarks
    since = int(version or 0)
    if version in ("", "0") or initial:
        since = state.version
        for item in chosen.now():
            yield event("ADDED", item)
        if initial and wants_bookmarks:
            yield bookmark(chosen.resource, since, initial_end=True)
    index = 0  # of the next change, counted from the first ever
    while state.cuts == cuts and loop.time() < ends:
        changed = state.changed
        index = max(index, state.dropped)
        pending = state.changes[index - state.dropped :]
        index += len(pending)
        ready = [
            line
            for at, resource, item, line in pending
            if at > since and resource == chosen.resource and chosen.has(item)
        ]
        if ready:
            yield b"".join(ready)
        if state.bookmarks != bookmarks:
            bookmarks = state.bookmarks
            if wants_bookmarks:
                yield bookmark(chosen.resource, state.version)
        try:
            async with asyncio.timeout(ends - loop.time()):
                await changed.wait()
        except TimeoutError:
            return
    if state.aborts:
        yield b'{"type":"MODIFIED","obj'
        raise ConnectionAbortedError


async def control(request: Request) -> Response:
    action, query = request.path_params["action"], request.query_params
    if action == "objects":
        for item in (await request.json())["items"]:
            state.put(item)
    elif action == "compact":
        state.compacted = state.version
        state.dropped += len(state.changes)
        state.changes.clear()
    elif action == "cut":
        state.cuts += 1
        state.aborts = "abort" in query
    elif action == "bookmark":
        state.bookmarks += 1
    elif action == "settings":
        state.settings |= await request.json()
    elif action == "reset":
        state.cuts += 1
        state.aborts = False
        state.settings = dict(DEFAULTS)
        state.log.clear()
        state.objects.clear()
    elif action == "churn":
        await churn(float(query["per_second"]), float(query["seconds"]))
    state.tell()
    return JSONResponse({"version": state.version, "log": state.log})


async def churn(per_second: float, seconds: float) -> None:
    """In one slice after another an endpoint is not ready any more, and then ready again; then it is the next one."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    slices = [item for (resource, _, _), item in state.objects.items() if resource == "endpointslices"]
    made = 0
    while (passed := loop.time() - began) < seconds:
        while made < passed * per_second:
            at = made % len(slices)
            endpoints = list(slices[at]["endpoints"])
            which = (made // len(slices) // 2) % len(endpoints)
            ready = endpoints[which]["conditions"]["ready"]
            endpoints[which] = {**endpoints[which], "conditions": {"ready": not ready}}
            slices[at] = {**slices[at], "endpoints": endpoints, "metadata": dict(slices[at]["metadata"])}
            state.put(slices[at])
            made += 1
        state.tell()
        await asyncio.sleep(0.001)


async def delete(request: Request) -> Response:
    params = request.path_params
    state.delete(params["resource"], params["namespace"], params["name"])
    state.tell()
    return JSONResponse({"version": state.version})


async def discovery(request: Request) -> Response:
    path = request.url.path
    if path == "/version":
        return JSONResponse({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
    if path == "/api":
        return JSONResponse({"kind": "APIVersions", "versions": ["v1"]})
    if path == "/apis":
        groups = [
            {"name": name, "versions": [version], "preferredVersion": version}
            for name in ("discovery.k8s.io", "networking.k8s.io")
            for version in [{"groupVersion": f"{name}/v1", "version": "v1"}]
        ]
        return JSONResponse({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    group = path.removeprefix("/apis/").removeprefix("/api/")
    resources = [
        {
            "name": name,
            "singularName": "",
            "namespaced": name not in OF_NO_NAMESPACE,
            "kind": kind,
            "verbs": ["get", "list", "watch"],
        }
        for name, (kind, of) in KINDS.items()
        if of == group
    ]
    return JSONResponse(
        {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}
    )


async def health(request: Request) -> Response:
    return Response("ok")


app = Starlette(
    routes=[
        Route("/health", health),
        Route("/ctl/objects/{resource}/{namespace}/{name}", delete, methods=["DELETE"]),
        Route("/ctl/{action}", control, methods=["GET", "POST"]),
        *[Route(path, discovery) for path in ("/version", "/api", "/apis", *GROUPS)],
        Route("/api/v1/{path:path}", api),
        Route("/apis/{group}/v1/{path:path}", api),
    ]
)

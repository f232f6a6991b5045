"""A double of Consul's HTTP API: health and catalog with blocking queries. The app of a test server.

It is kept honest by a test in which Traefik's own client follows it. What tests tell it:

    POST /ctl/services   {"NAME": [{"id", "address", "port", ...}]}: all instances of these services
    POST /ctl/index      {"index": N}: the next answers have this index
    POST /ctl/settings   {"token": "...", "leader": bool}
    POST /ctl/reset      no services, default settings
    GET  /ctl/log        the requests so far
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Object = dict[str, Any]

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_WAIT = 600.0
DEFAULTS: Object = {"token": None, "leader": True}


class State:
    def __init__(self) -> None:
        self.index = 10
        self.services: dict[str, list[Object]] = {}
        self.changed = asyncio.Event()
        self.settings = dict(DEFAULTS)
        self.log: list[Object] = []

    def tell(self) -> None:
        event, self.changed = self.changed, asyncio.Event()
        event.set()


state = State()


def seconds(text: str) -> float:
    """A duration as Go writes it, of one unit."""
    unit = next(unit for unit in UNITS if text.endswith(unit))
    return float(text.removesuffix(unit)) * UNITS[unit]


async def answer(request: Request, found: Any) -> Response:
    """What `found` finds: at once, or when the index is above the one that is named, or when the wait is over."""
    query = request.query_params
    state.log.append({"path": request.url.path, "query": query.multi_items()})
    if (
        state.settings["token"] is not None
        and request.headers.get("x-consul-token") != state.settings["token"]
    ):
        return PlainTextResponse("Permission denied: token with AccessorID lacks permission", 403)
    if not state.settings["leader"]:
        return PlainTextResponse("No cluster leader", 500)
    index = int(query.get("index") or 0)
    if index > 0:
        wait = min(seconds(query.get("wait", "5m")), LONGEST_WAIT)
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait + random.random() * wait / 16
        while state.index == index and loop.time() < ends:
            changed = state.changed
            try:
                async with asyncio.timeout(ends - loop.time()):
                    await changed.wait()
            except TimeoutError:
                break
    headers = {
        "X-Consul-Index": str(state.index),
        "X-Consul-KnownLeader": "true",
        "X-Consul-LastContact": "0",
        "X-Consul-Effective-Consistency": "leader",
    }
    return JSONResponse(found(), headers=headers)


def instances(name: str, query: Any) -> list[Object]:
    tags = set(query.getlist("tag"))
    found = state.services.get(name, [])
    if "passing" in query:
        found = [each for each in found if set(each.get("statuses", ["passing"])) <= {"passing"}]
    return [each for each in found if tags <= set(each.get("tags", ()))]


def node_of(instance: Object) -> Object:
    datacenter, meta = instance.get("datacenter", "dc1"), instance.get("node_meta", {})
    return {"ID": "n", "Node": "node1", "Address": "127.0.0.1", "Datacenter": datacenter, "Meta": meta}


def checks_of(name: str, instance: Object) -> list[Object]:
    return [
        {
            "Node": "node1",
            "CheckID": f"check{number}:{instance['id']}",
            "Name": "check",
            "Status": status,
            "ServiceID": instance["id"],
            "ServiceName": name,
            "ServiceTags": [],
            "Output": "",
            "Notes": "",
        }
        for number, status in enumerate(instance.get("statuses", ["passing"]))
    ]


async def health_of_service(request: Request) -> Response:
    name = request.path_params["name"]

    def found() -> list[Object]:
        return [
            {
                "Node": node_of(each),
                "Service": {
                    "ID": each["id"],
                    "Service": name,
                    "Tags": each.get("tags", []),
                    "Address": each.get("address", ""),
                    "Meta": each.get("meta", {}),
                    "Port": each["port"],
                    "Weights": each.get("weights", {"Passing": 1, "Warning": 1}),
                    "EnableTagOverride": False,
                },
                "Checks": checks_of(name, each),
            }
            for each in instances(name, request.query_params)
        ]

    return await answer(request, found)


async def health_of_state(request: Request) -> Response:
    def found() -> list[Object]:
        return [
            check
            for name, all_of in state.services.items()
            for each in all_of
            for check in checks_of(name, each)
        ]

    return await answer(request, found)


async def catalog(request: Request) -> Response:
    def found() -> dict[str, list[str]]:
        return {
            name: sorted({tag for each in all_of for tag in each.get("tags", ())})
            for name, all_of in state.services.items()
        }

    return await answer(request, found)


async def catalog_of_service(request: Request) -> Response:
    name = request.path_params["name"]

    def found() -> list[Object]:
        return [
            {
                **{key: value for key, value in node_of(each).items() if key != "Meta"},
                "ServiceID": each["id"],
                "ServiceName": name,
                "ServiceAddress": each.get("address", ""),
                "ServicePort": each["port"],
                "ServiceTags": each.get("tags", []),
                "ServiceMeta": each.get("meta", {}),
                "ServiceWeights": each.get("weights", {"Passing": 1, "Warning": 1}),
            }
            for each in instances(name, request.query_params)
        ]

    return await answer(request, found)


async def control(request: Request) -> Response:
    action = request.path_params["action"]
    if action == "services":
        state.services |= await request.json()
        state.index += 1
    elif action == "index":
        state.index = (await request.json())["index"]
    elif action == "settings":
        state.settings |= await request.json()
    elif action == "reset":
        state.services.clear()
        state.settings = dict(DEFAULTS)
        state.log.clear()
        state.index += 1
    state.tell()
    return JSONResponse({"index": state.index, "log": state.log})


async def alive(request: Request) -> Response:
    return PlainTextResponse("ok")


async def agent(request: Request) -> Response:
    return JSONResponse({"Config": {"Datacenter": "dc1"}, "Member": {}})


app = Starlette(
    routes=[
        Route("/health", alive),
        Route("/ctl/{action}", control, methods=["GET", "POST"]),
        Route("/v1/agent/self", agent),
        Route("/v1/health/state/{state}", health_of_state),
        Route("/v1/health/service/{name}", health_of_service),
        Route("/v1/catalog/services", catalog),
        Route("/v1/catalog/service/{name}", catalog_of_service),
    ]
)

"""A cluster for tests: the double of the Kubernetes API in a process of its own, and what to tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx

from lbclient.discovery import Kubernetes
from tests.servers import Server

Object = dict[str, Any]


def endpoint(address: str, *, ready: bool | None = True, **more: Any) -> Object:
    """Conditions, or whatever else an endpoint has."""
    conditions = {"ready": ready, **more.pop("conditions", {})}
    return {
        "addresses": [address],
        "conditions": {name: value for name, value in conditions.items() if value is not None},
        **more,
    }


def a_slice(
    name: str,
    *endpoints: Object,
    ports: Sequence[Object] = ({"name": "http", "port": 8080},),
    kind: str = "IPv4",
    service: str = "shop",
    namespace: str = "default",
) -> Object:
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind,
        "ports": [{"protocol": "TCP", **port} for port in ports],
        "endpoints": list(endpoints),
    }


class Cluster:
    """What tests tell the double."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @property
    def url(self) -> str:
        return self.server.url

    def control(self, action: str, *, timeout: float = 10, body: Any = None, **query: Any) -> Any:
        url = f"{self.url}/ctl/{action}"
        response = httpx.post(url, params=query, json=body, timeout=timeout, trust_env=False)
        assert response.status_code == 200, response.text
        return response.json()

    def put(self, *items: Object) -> None:
        self.control("objects", body={"items": items})

    def delete(self, name: str, resource: str = "endpointslices", namespace: str = "default") -> None:
        httpx.delete(
            f"{self.url}/ctl/objects/{resource}/{namespace}/{name}", trust_env=False
        ).raise_for_status()

    def settings(self, **settings: Any) -> None:
        self.control("settings", body=settings)

    def asked(self, what: str = "endpointslices") -> list[Mapping[str, str]]:
        """The queries of the requests for that."""
        log: Iterable[Mapping[str, Any]] = self.control("log")["log"]
        return [entry["query"] for entry in log if what in entry["path"]]

    def ready(self) -> set[str]:
        """The URLs of all endpoints that are ready."""
        slices = httpx.get(f"{self.url}/apis/discovery.k8s.io/v1/endpointslices", trust_env=False).json()[
            "items"
        ]
        return {
            f"http://{each['addresses'][0]}:{item['ports'][0]['port']}"
            for item in slices
            for each in item["endpoints"]
            if each["conditions"]["ready"]
        }

    def source(self, service: str = "shop", port: int | str | None = None, **options: Any) -> Kubernetes:
        return Kubernetes(service, port, server=self.url, **options)

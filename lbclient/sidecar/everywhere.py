"""The admin of several workers, at the first of them: it acts on all, and shows the one that is asked for.

What changes something (a drain, a weight, a reload) is done by every worker. Metrics are those of all, each with the
number of its worker. Of what else there is to see, `?worker=2` is the second one's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

import httpx
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lbclient import Backend
from lbclient.asgi.proxy import ReverseProxy
from lbclient.asgi.types import App, Receive, Scope, Send
from lbclient.sidecar.worker import Worker

ANSWER_WITHIN = 10.0  # seconds, but for what is waited for


class Everywhere:
    """An ASGI app.

    Args:
        own: The admin of this worker, which is the first one.
        worker: It.
    """

    def __init__(self, own: App, worker: Worker) -> None:
        self._own = own
        self._number = worker.number
        own_transport = httpx.ASGITransport(own)
        self._clients = {worker.number: httpx.AsyncClient(transport=own_transport, trust_env=False)}
        self._proxies: dict[int, ReverseProxy] = {}
        for number in range(1, worker.count + 1):
            if number != worker.number:
                uds = worker.path_of(number)
                transport = httpx.AsyncHTTPTransport(uds=uds)
                self._clients[number] = httpx.AsyncClient(transport=transport, trust_env=False)
                backend = Backend("http://localhost", uds=uds)
                self._proxies[number] = ReverseProxy(
                    [backend],
                    via=None,
                    preserve_host=True,
                    timeout=httpx.Timeout(None, connect=ANSWER_WITHIN),
                )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._own(scope, receive, send)
            return
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("worker")
        if asked is not None and asked[0] not in map(str, self._clients):
            words = f"worker is {asked[0]!r}; the workers are {', '.join(map(str, self._clients))}"
            await JSONResponse({"error": words}, 404)(scope, receive, send)
        elif asked is not None:
            await self._proxies.get(int(asked[0]), self._own)(scope, receive, send)
        elif scope["method"] == "POST":
            await (await self._act(Request(scope, receive)))(scope, receive, send)
        elif scope["path"] == "/metrics":
            await (await self._metrics(Request(scope, receive)))(scope, receive, send)
        else:
            await self._own(scope, receive, send)

    async def _act(self, request: Request) -> Response:
        body = await request.body()
        answers = await self._ask(request, body, None if b'"wait"' in body else ANSWER_WITHIN)
        failed = [number for number, answer in answers.items() if answer.is_error]
        if failed and len(failed) < len(answers):
            answer = answers[failed[0]]
            words = f"worker {failed[0]}: {_error_of(answer)}; others have done it"
            return JSONResponse({"error": words}, answer.status_code)
        return _passed_on(answers[self._number])

    async def _metrics(self, request: Request) -> Response:
        answers = await self._ask(request, b"", ANSWER_WITHIN)
        if answers[self._number].is_error:  # who may not see them
            return _passed_on(answers[self._number])
        texts = {number: answer.text if answer.is_success else "" for number, answer in answers.items()}
        return Response(generate_latest(_Merged(texts)), media_type=CONTENT_TYPE_LATEST)

    async def _ask(self, request: Request, body: bytes, within: float | None) -> dict[int, httpx.Response]:
        """What each says to the same."""
        headers = [(name, value) for name, value in request.headers.raw if name not in _OF_THIS_CONNECTION]
        url = f"http://localhost{request.url.path}"

        async def ask(client: httpx.AsyncClient) -> httpx.Response:
            try:
                return await client.request(
                    request.method, url, headers=headers, content=body, timeout=within
                )
            except httpx.TransportError as exc:
                return httpx.Response(
                    502, json={"error": f"it does not answer: {str(exc) or type(exc).__name__}"}
                )

        answers = await asyncio.gather(*map(ask, self._clients.values()))
        return dict(zip(self._clients, answers, strict=True))

    async def aclose(self) -> None:
        """Close the connections to the others."""
        for client in self._clients.values():
            await client.aclose()
        for proxy in self._proxies.values():
            await proxy.aclose()


_OF_THIS_CONNECTION = (b"connection", b"content-length", b"transfer-encoding")


class _Merged(Collector):
    """The metrics of several processes, each labelled; of one that does not answer there are none."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("lbclient_sidecar_worker_up", "1 when a worker answers.", labels=["worker"])
        families: dict[str, Metric] = {up.name: up}
        for number, text in self._texts.items():
            up.add_metric([str(number)], bool(text))
            for family in text_string_to_metric_families(text):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={**sample.labels, "worker": str(number)}))
        return families.values()


def _error_of(answer: httpx.Response) -> str:
    try:
        told: Any = answer.json()
        return str(told["error"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return answer.text


def _passed_on(answer: httpx.Response) -> Response:
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Response(answer.content, answer.status_code, headers)

"""httpbin, directly and behind the reverse proxy: the same answers. With requests' own tests in tests/soak."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import httpx
import pytest

from lbclient.asgi import ReverseProxy
from tests.asgi.hosting import Host


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # wsgiref's name
        pass


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    """httpbin's own, and that of a proxy before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what httpbin imports
        from httpbin import app  # type: ignore[import-untyped]
    server = _Server(("127.0.0.1", 0), _Silent)
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    with Host(ReverseProxy([url], preserve_host=True), server_header=False, date_header=False) as host:
        yield url, host.url
    server.shutdown()
    thread.join()
    server.server_close()


ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/get?a=1&a=2&b=%20%2F", {}),
    ("POST", "/post", {"data": {"a": "1"}}),
    ("POST", "/post", {"files": {"f": ("name", b"content")}}),
    ("PUT", "/put", {"json": {"a": [1, 2]}}),
    ("PATCH", "/patch", {"content": b"\0\xff" * 1000}),
    ("DELETE", "/delete", {}),
    ("HEAD", "/get", {}),
    ("OPTIONS", "/get", {}),
    ("GET", "/status/418", {}),
    ("GET", "/status/204", {}),
    ("GET", "/redirect/3", {}),
    ("GET", "/absolute-redirect/2", {}),
    ("GET", "/relative-redirect/2", {}),
    ("GET", "/redirect-to?url=http%3A%2F%2Fexample.com%2F", {"follow_redirects": False}),
    ("GET", "/cookies/set?a=1&b=2", {}),
    ("GET", "/cookies/delete?a", {"headers": {"cookie": "a=1; c=3"}}),
    ("GET", "/basic-auth/user/pass", {"auth": ("user", "pass")}),
    ("GET", "/basic-auth/user/pass", {"auth": ("user", "wrong")}),
    ("GET", "/digest-auth/auth/user/pass", {"auth": httpx.DigestAuth("user", "pass")}),
    ("GET", "/gzip", {}),
    ("GET", "/deflate", {}),
    ("GET", "/stream/5", {}),
    ("GET", "/stream-bytes/10000?seed=1&chunk_size=100", {}),
    ("GET", "/bytes/1000?seed=1", {}),
    ("GET", "/range/100", {"headers": {"range": "bytes=10-19"}}),
    ("GET", "/etag/x", {"headers": {"if-none-match": "x"}}),
    ("GET", "/response-headers?x-a=1&x-a=2", {}),
    ("GET", "/encoding/utf8", {}),
    ("GET", "/anything/a%2Fb/%C3%A9?x=%26", {}),
    ("GET", "/no/such/page", {}),
]


@pytest.mark.parametrize(("method", "path", "options"), ASKED, ids=[f"{ask[0]} {ask[1]}" for ask in ASKED])
def test_the_same_answer(urls: tuple[str, str], method: str, path: str, options: dict[str, Any]) -> None:
    direct, proxied = (_ask(url, method, path, dict(options)) for url in urls)
    assert direct == proxied


def _ask(url: str, method: str, path: str, options: dict[str, Any]) -> Any:
    """What matters of an answer; the two have different URLs, and say what time it is."""
    headers = {"user-agent": "test", "host": "httpbin.example"} | options.pop("headers", {})
    with httpx.Client(base_url=url, follow_redirects=options.pop("follow_redirects", False)) as client:
        response = client.request(method, path, headers=headers, **options)
    kept = [
        (name, value)
        for name, value in response.headers.multi_items()
        if name not in ("connection", "content-length", "date", "server", "transfer-encoding", "via")
    ]
    volatile = path.startswith(("/digest-auth", "/stream/"))
    body = b"" if volatile or b"boundary" in response.content else _without_forwarding(response)
    return response.status_code, [] if volatile else sorted(kept), body


def _without_forwarding(response: httpx.Response) -> Any:
    try:
        told = response.json()
    except ValueError:
        return response.content
    if "headers" in told:
        ours = ("X-Forwarded", "Via", "Connection")
        told["headers"] = {k: v for k, v in told["headers"].items() if not k.startswith(ours)}
    return told

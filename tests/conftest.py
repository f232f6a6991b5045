"""Fixtures every test may use: both event loops, certificates, real servers, raw servers."""

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.servers import CertFiles, Handler, Kind, RawServer, Server, available, start

if TYPE_CHECKING:
    import trustme


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs twice."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def ca() -> "trustme.CA":
    """A certificate authority that only this test run trusts."""
    import trustme  # here, so that the core's tests run without it

    return trustme.CA()


@pytest.fixture(scope="session")
def server_cert(ca: "trustme.CA") -> "trustme.LeafCert":
    """For localhost, 127.0.0.1, and names ending in .lbclient.test."""
    return ca.issue_cert("localhost", "127.0.0.1", "*.lbclient.test")


@pytest.fixture(scope="session")
def server_cert_files(server_cert: "trustme.LeafCert", tmp_path_factory: pytest.TempPathFactory) -> CertFiles:
    """`server_cert` as files, for `start(..., tls=server_cert_files)`."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    directory = tmp_path_factory.mktemp("certificates")
    cert, key = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in server_cert.cert_chain_pems))
    private = load_pem_private_key(server_cert.private_key_pem.bytes(), password=None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return CertFiles(str(cert), str(key))


@pytest.fixture(scope="session")
def server_ssl_context(server_cert: "trustme.LeafCert") -> ssl.SSLContext:
    """For `RawServer(..., tls=server_ssl_context)`; offers HTTP/1.1 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    server_cert.configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_ssl_context(ca: "trustme.CA") -> ssl.SSLContext:
    """Trusts `ca` and nobody else; for `httpx.AsyncClient(verify=...)` and `Connect(verify=...)`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


class StartServer(Protocol):
    """The type of the `start_server` fixture; the arguments are those of `tests.servers.start`."""

    def __call__(
        self,
        kind: Kind = "uvicorn",
        *,
        app: str = ...,
        name: str | None = None,
        port: int = 0,
        uds: str | None = None,
        keep_alive: float = 60.0,
        tls: CertFiles | None = None,
        http2: bool = False,
        upstream: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Server: ...


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Servers of this test's own, to kill, suspend and restart; closed when it ends."""
    servers: list[Server] = []

    def start_one(kind: Kind = "uvicorn", **options: Any) -> Server:
        _skip_unless(kind)
        server = start(kind, **options)
        servers.append(server)
        return server

    yield start_one
    for server in servers:
        server.close()


class SharedServers(Protocol):
    """The type of the `servers` fixture."""

    def __call__(self, kind: Kind = "uvicorn", count: int = 3, *, tls: bool = False) -> list[Server]: ...


@pytest.fixture(scope="session")
def _server_cache() -> Iterator[dict[tuple[Kind, bool], list[Server]]]:
    cache: dict[tuple[Kind, bool], list[Server]] = {}
    yield cache
    for servers in cache.values():
        for server in servers:
            server.close()


@pytest.fixture
def servers(
    _server_cache: dict[tuple[Kind, bool], list[Server]], request: pytest.FixtureRequest
) -> SharedServers:
    """The first `count` running servers of a kind, kept for the whole session: healthy, their counts at zero.

    For tests that leave them running. (One that is down all the same is started again for the next test.)
    """

    def first(kind: Kind = "uvicorn", count: int = 3, *, tls: bool = False) -> list[Server]:
        _skip_unless(kind)
        running = _server_cache.setdefault((kind, tls), [])
        files: CertFiles | None = request.getfixturevalue("server_cert_files") if tls else None
        for server in running[:count]:
            server.reset()
        while len(running) < count:
            running.append(start(kind, name=f"{kind}-{len(running)}", tls=files))
        return running[:count]

    return first


class MakeRawServer(Protocol):
    """The type of the `raw_server` fixture; the arguments are those of `RawServer`."""

    def __call__(
        self,
        script: Handler | Sequence[Handler] | None = None,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        accept: bool = True,
        backlog: int = 128,
    ) -> RawServer: ...


@pytest.fixture
def raw_server() -> Iterator[MakeRawServer]:
    """Raw servers, stopped when the test ends; a handler that raised fails the test then."""
    running: list[RawServer] = []

    def make(script: Handler | Sequence[Handler] | None = None, **options: Any) -> RawServer:
        server = RawServer(script, **options)
        running.append(server)
        return server

    yield make
    failed: list[BaseException] = []
    for server in running:
        try:
            server.stop()
        except BaseException as error:  # noqa: BLE001  # stop the others first
            failed.append(error)
    if failed:
        raise failed[0]


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], Any]:
    """`vectors("envoy_maglev")` is that file of tests/vectors, parsed."""
    import json

    def load(name: str) -> Any:
        return json.loads((Path(__file__).parent / "vectors" / f"{name}.json").read_text())

    return load


def _skip_unless(kind: Kind) -> None:
    if not available(kind):
        pytest.skip(f"{kind} is not installed")

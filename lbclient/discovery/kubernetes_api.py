"""Where the Kubernetes API is, and who asks it: the service account of a pod, or a kubeconfig."""

from __future__ import annotations

import os
import ssl
import tempfile
from base64 import b64decode
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio.to_thread
import httpx

from lbclient.discovery.registry import Verify, new_client, ssl_context

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the API.

    Attributes:
        server: Its URL.
        verify: The authority of its certificate.
        namespace: The one that is meant when nobody says which.
        token: Sent with every request.
        token_file: Read for every request: tokens of service accounts are replaced every hour.
        login: User name and password.
        certificate, key: A client certificate, as PEM.
    """

    server: str
    verify: Verify = True
    namespace: str = "default"
    token: str | None = None
    token_file: Path | None = None
    login: tuple[str, str] | None = None
    certificate: str | None = None
    key: str | None = None

    @asynccontextmanager
    async def client(self, timeout: float) -> AsyncGenerator[httpx.AsyncClient, None]:
        """A client of the API."""
        context: ssl.SSLContext | bool = False
        if self.server.startswith("https"):
            context = await anyio.to_thread.run_sync(self._ssl_context)
        async with new_client(self.server, context, timeout) as client:
            if self.token_file is not None:
                client.auth = TokenFile(self.token_file)
            elif self.token is not None:
                client.headers["Authorization"] = f"Bearer {self.token}"
            elif self.login is not None:
                client.auth = httpx.BasicAuth(*self.login)
            yield client

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl_context(self.verify)
        if self.certificate is not None and self.key is not None:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # ssl reads no PEM from memory
                file.write(f"{self.certificate}\n{self.key}\n")
                file.flush()
                context.load_cert_chain(file.name)
        return context


class TokenFile(httpx.Auth):
    """The token that is in the file right now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See httpx."""
        request.headers["Authorization"] = f"Bearer {self._path.read_text().strip()}"
        yield request


def of_service_account(folder: Path = SERVICE_ACCOUNT) -> Access | None:
    """As a pod is meant to ask; None outside a cluster."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = folder / "token"
    if not host or not token.exists():
        return None
    namespace = folder / "namespace"
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        verify=str(folder / "ca.crt"),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        token_file=token,
    )


def of_kubeconfig(path: Path | None = None, context: str | None = None) -> Access:
    """As kubectl would ask.

    Args:
        path: The file; None: the first of `KUBECONFIG`, else `~/.kube/config`.
        context: Its name; None: the current one.

    Raises:
        ValueError: It does not say what is needed, or says it in a way that is not supported.
        OSError: It cannot be read.
        ImportError: It needs PyYAML.
    """
    try:
        import yaml
    except ImportError as exc:
        raise ImportError(
            "a kubeconfig needs PyYAML; install it with: pip install 'lbclient[discovery]'"
        ) from exc
    if path is None:
        named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
        path = Path(named) if named else Path.home() / ".kube" / "config"
    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no kubeconfig")
    whole = cast("Mapping[str, Any]", config)
    name = context or whole.get("current-context")
    chosen = _named(path, whole, "context", name)
    cluster = _named(path, whole, "cluster", chosen.get("cluster"))
    user: Mapping[str, Any] = _named(path, whole, "user", chosen["user"]) if chosen.get("user") else {}
    for plugin in ("exec", "auth-provider"):
        if plugin in user:
            raise ValueError(
                f"{path}: a user with {plugin!r} is not supported; write one with a token or tokenFile"
            )
    if not cluster.get("server"):
        raise ValueError(f"{path}: cluster {chosen.get('cluster')!r} has no server")
    authority = _pem(path, cluster, "certificate-authority")
    verify: Verify = True if authority is None else ssl.create_default_context(cadata=authority)
    if cluster.get("insecure-skip-tls-verify"):
        verify = False
    token_file = user.get("tokenFile")
    return Access(
        server=str(cluster["server"]).rstrip("/"),
        verify=verify,
        namespace=chosen.get("namespace") or "default",
        token=user.get("token"),
        token_file=None if token_file is None else path.parent / token_file,
        login=(user["username"], user.get("password", "")) if user.get("username") else None,
        certificate=_pem(path, user, "client-certificate"),
        key=_pem(path, user, "client-key"),
    )


def _named(path: Path, config: Mapping[str, Any], kind: str, name: str | None) -> Mapping[str, Any]:
    for entry in config.get(f"{kind}s") or ():
        if entry.get("name") == name:
            found: Mapping[str, Any] = entry.get(kind) or {}
            return found
    raise ValueError(f"{path} has no {kind} {name!r}")


def _pem(path: Path, section: Mapping[str, Any], key: str) -> str | None:
    """What a kubeconfig holds itself, or in another file that it names."""
    if section.get(f"{key}-data"):
        return b64decode(section[f"{key}-data"]).decode()
    return (path.parent / section[key]).read_text() if section.get(key) else None

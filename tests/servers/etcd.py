"""etcd on free ports, by itself."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers.daemon import Daemon, program
from tests.servers.ports import free_port


def _coded(text: str) -> str:
    return b64encode(text.encode()).decode()


class Etcd(Daemon):
    """One member, whose data survive a restart."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._peers = f"http://127.0.0.1:{free_port()}"
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=10)
        super().__init__(self._command_line, self._answers)

    def _command_line(self, directory: Path) -> Sequence[str]:
        etcd = program("etcd")
        assert etcd is not None
        return [
            *(etcd, "--data-dir", str(directory / "data"), "--unsafe-no-fsync", "--log-level", "error"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", self._peers, "--initial-advertise-peer-urls", self._peers),
            *("--initial-cluster", f"default={self._peers}"),
        ]

    def _answers(self) -> bool:
        try:
            return bool(self._client.get("/health").json()["health"] == "true")
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self._client.close()
        super().close()

    def ask(self, what: str, body: dict[str, Any], token: str = "") -> dict[str, Any]:
        response = self._client.post(
            f"/v3/{what}", json=body, headers={"Authorization": token} if token else {}
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def put(self, key: str, value: str, lease: str = "0") -> int:
        """Returns the revision of the change."""
        answer = self.ask("kv/put", {"key": _coded(key), "value": _coded(value), "lease": lease})
        return int(answer["header"]["revision"])

    def delete(self, key: str) -> None:
        self.ask("kv/deleterange", {"key": _coded(key)})

    def lease(self, seconds: int) -> str:
        """Its number; nobody renews it."""
        return str(self.ask("lease/grant", {"TTL": str(seconds)})["ID"])

    def revoke(self, lease: str) -> None:
        self.ask("lease/revoke", {"ID": lease})

    def compact(self, revision: int) -> None:
        self.ask("kv/compaction", {"revision": str(revision), "physical": True})


@pytest.fixture
def etcd() -> Iterable[Etcd]:
    """An etcd of this test's own."""
    if program("etcd") is None:
        pytest.skip("etcd is not installed")
    with Etcd() as server:
        yield server

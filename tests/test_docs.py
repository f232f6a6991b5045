"""The documentation says what is so: its links lead somewhere, and its blocks of code and configuration work."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest
from trustme import CA

from tests.conftest import MakeRawServer, SharedServers
from tests.servers.raw import Connection

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVERS = ("http://10.0.0.5:8080", "http://10.0.0.6:8080")


class Block(NamedTuple):
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def _blocks() -> list[Block]:
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    found: list[Block] = []
    for path in DOCUMENTS:
        text = path.read_text()
        for match in fenced.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(path.name, line, match[1], match[2]))
    return found


BLOCKS = _blocks()
PYTHON = [block for block in BLOCKS if block.language == "python"]

# What the prose around the blocks has introduced.
AROUND = """
import json
from typing import Any

import anyio
import httpx
from starlette.applications import Starlette
from starlette.types import ASGIApp

from lbclient import *
from lbclient import l4
from lbclient.asgi import *
from lbclient.discovery import *

pool = static = reports = stable = canary = Pool(["http://10.0.0.5:8080"])
backends = urls = ["http://10.0.0.5:8080"]
ordinal = "3"
response: httpx.Response
app: Any
"""
ELLIPSES = {"Router([...])": "Router([], default=pool)", "[...]": "urls", "secret=...": "secret=None"}


def _filled_in(text: str) -> str:
    for dots, instead in ELLIPSES.items():
        text = text.replace(dots, instead)
    return text


def test_there_are_blocks() -> None:
    assert len(PYTHON) > 20
    assert {block.language for block in BLOCKS} == {"", "python", "yaml", "json"}


def test_python_blocks_pass_mypy(tmp_path: Path) -> None:
    module = [AROUND]
    for number, block in enumerate(PYTHON):
        body = textwrap.indent(_filled_in(block.text), "    ")
        module.append(f"async def block_{number}() -> None:  # {block}\n{body}    return None\n")
    path = tmp_path / "blocks.py"
    path.write_text("\n".join(module))
    options = ["--config-file=", "--python-version=3.11", "--check-untyped-defs", f"--cache-dir={tmp_path}"]
    disabled = [f"--disable-error-code={code}" for code in ("no-redef", "union-attr", "used-before-def")]
    command = [sys.executable, "-m", "mypy", *options, *disabled, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr + path.read_text()


def _names() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(AROUND, names)
    return names


async def _run(text: str, names: dict[str, Any]) -> None:
    code = compile(_filled_in(text), "<documentation>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, names)
    else:
        exec(code, names)


def _block(document: str, containing: str) -> Block:
    (block,) = (block for block in PYTHON if block.document == document and containing in block.text)
    return block


def _at(text: str, urls: Mapping[str, str]) -> str:
    for written, real in urls.items():
        assert written in text
        text = text.replace(written, real)
    return text


async def test_the_first_example_runs_as_it_is(
    servers: SharedServers, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = dict(zip(SERVERS, (server.url for server in servers("uvicorn", 2)), strict=True))
    text = _at(_block("README.md", "explain()").text, urls)
    await _run(text.replace('"/42"', '"/whoami"'), {})
    said = capsys.readouterr().out
    assert said.startswith("pool default: 1 attempt\n")
    assert ": 200 after" in said


@pytest.mark.parametrize(
    ("document", "containing"),
    [
        ("README.md", "LeastConnections()"),
        ("retries.md", "stop_after_delay"),
        ("routing.md", "canary: 5"),
        ("clients.md", "def tokens"),
        ("clients.md", 'shared="orders"'),
        ("choosing.md", "Shadow("),
        ("discovery.md", "class Inventory"),
        ("testing.md", "FakeBackends(3"),
    ],
)
async def test_pools_are_made_as_they_are_written(document: str, containing: str) -> None:
    names = _names()
    if containing == "canary: 5":
        for name in ("static", "reports", "stable", "canary"):
            names[name] = names["Pool"](["http://10.0.0.5:8080"], name=name)
    text = _block(document, containing).text.replace("shadow.differed / shadow.picks", "shadow.differed")
    if document == "testing.md":
        text = text.replace("backends[0].requests[-1].headers", "backends[0].requests")
    await _run(text, names)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asgi_apps_are_made_as_they_are_written() -> None:
    names = _names()
    for block in PYTHON:
        if block.document == "asgi.md":
            await _run(block.text, names)
    app = names["app"]
    assert len(app.user_middleware) == 3
    app.build_middleware_stack()


def test_the_example_that_blocks_runs_as_it_is(servers: SharedServers) -> None:
    urls = dict(zip(SERVERS, (server.url for server in servers("uvicorn", 2)), strict=True))
    exec(_at(_block("clients.md", "httpx.Client(").text, urls), {})


async def test_connections_are_balanced_as_it_is_written(
    raw_server: MakeRawServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def pong(connection: Connection) -> None:
        while connection.read():
            connection.send(b"+PONG\r\n")

    real = [raw_server(pong).url.replace("http", "tcp") for _ in range(2)]
    names = _names()
    written = ("tcp://10.0.0.5:6379", "tcp://10.0.0.6:6379")
    await _run(_at(_block("l4.md", "l4.connect(pool)").text, dict(zip(written, real, strict=True))), names)
    assert "PONG" in capsys.readouterr().out
    text = _at(_block("l4.md", "TCPForwarder(pool").text, {written[0]: real[0], "6379": "0"})
    await _run(text, names)
    assert names["pool"].status().backends[0].admin == "disabled"


# Configuration


def _command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lbclient", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"SHOP_COOKIE_SECRET": "s" * 32}
    )


def test_the_configuration_of_the_sidecar_can_be_served(tmp_path: Path, ca: CA) -> None:
    (block,) = (block for block in BLOCKS if block.document == "sidecar.md" and block.language == "yaml")
    cert = ca.issue_cert("shop.example")
    (tmp_path / "shop.pem").write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
    (tmp_path / "shop.key").write_bytes(cert.private_key_pem.bytes())
    (tmp_path / "canary").write_text("c" * 32)
    config = tmp_path / "config.yaml"
    config.write_text(
        block.text.replace("/etc/tls/", f"{tmp_path}/").replace("/run/secrets/", f"{tmp_path}/")
    )
    result = _command("check", config)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_configuration_of_a_discovery_can_be_served(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if block.document == "discovery.md" and block.language == "yaml")
    (tmp_path / "token").write_text("t")
    config = tmp_path / "config.yaml"
    config.write_text(f"listeners: ['127.0.0.1:8080']\n{block.text}")
    result = _command("check", config)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_scenario_can_be_simulated(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if block.language == "json")
    scenario = tmp_path / "mine.json"
    scenario.write_text(block.text)
    assert json.loads(block.text)["name"] == "mine"
    brief = ("--clients", "2", "--seeds", "1", "--seconds", "2", "--algorithms", "random")
    result = _command("simulate", scenario, *brief)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "mine" in result.stdout


# Prose


def test_every_example_is_listed_by_its_first_words() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    for path in sorted((ROOT / "examples").glob("[a-z]*.py")):
        words = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        assert f"| [{path.stem}]({path.name}) | {words} |\n" in listed


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            found = (path.parent / file) if file else path
            assert found.exists(), target
            assert not anchor or anchor in _anchors(found), target


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

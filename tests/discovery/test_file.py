"""A file of backends: what it may say, what is said of its mistakes, and how its changes are followed."""

from __future__ import annotations

import builtins
import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from lbclient import Backend
from lbclient.discovery import File
from lbclient.discovery.fleet_file import FleetFileError, parse
from tests.discovery.sources import Heard, listening, until

A, B, C = "http://a:1", "http://b:1", "http://c:1"


@pytest.fixture
def anyio_backend() -> str:
    """Most here is about what is heard; `BOTH` are the tests that are about how."""
    return "asyncio"


BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


YAML = """\
backends:
  - http://a:1
  - url: http://b:1
    weight: 2.5
    zone: west
    priority: 1
    host: shop.example
    draining: true
    metadata: {env: prod}
"""
TOML = """\
[[backends]]
url = "http://a:1"

[[backends]]
url = "http://b:1"
weight = 2.5
zone = "west"
priority = 1
host = "shop.example"
draining = true
metadata = { env = "prod" }
"""
JSON = """\
{
  "backends": [
    "http://a:1",
    {"url": "http://b:1", "weight": 2.5, "zone": "west", "priority": 1,
     "host": "shop.example", "draining": true, "metadata": {"env": "prod"}}
  ]
}
"""
WHOLE = (
    Backend(A),
    Backend(
        B, weight=2.5, zone="west", priority=1, host="shop.example", draining=True, metadata={"env": "prod"}
    ),
)


@pytest.mark.parametrize(("kind", "text"), [("yaml", YAML), ("toml", TOML), ("json", JSON)])
def test_every_format_says_everything_a_backend_has(kind: str, text: str) -> None:
    assert parse(text, kind, "fleet") == WHOLE


@pytest.mark.parametrize(
    ("kind", "text"),
    [("yaml", "- http://a:1\n- url: http://b:1\n"), ("json", '["http://a:1", {"url": "http://b:1"}]')],
)
def test_the_list_may_stand_by_itself(kind: str, text: str) -> None:
    assert [backend.url for backend in parse(text, kind, "fleet")] == [A, B]


@pytest.mark.parametrize(
    ("kind", "text"), [("yaml", "backends: []"), ("json", "[]"), ("toml", "backends = []")]
)
def test_nobody_is_listed(kind: str, text: str) -> None:
    assert parse(text, kind, "fleet") == ()


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (
            "yaml",
            "backends:\n  - http://a:1\n  - url: http://b:1\n    weight: -1\n",
            "line 3: weight of http://b:1",
        ),
        ("yaml", "- http://a:1\n- nonsense\n", "line 2: backend 'nonsense' has no scheme"),
        ("yaml", "- http://a:1\n- {\n", "line 3: "),
        ("yaml", "- http://a:1\n- \x01\n", "line 1: "),
        ("yaml", "", "line 1: it has 'None' instead of a list"),
        ("yaml", "backends: http://a:1", "line 1: it has 'http://a:1' instead of a list"),
        ("yaml", "servers: [http://a:1]", "line 1: it has 'servers'; write a list under 'backends'"),
        ("yaml", "{}", "line 1: it has nothing; write a list under 'backends'"),
        ("yaml", "- http://a:1\n- 8080\n", "line 2: a backend's URL is a string"),
        ("yaml", "- weight: 1\n", "line 1: url is missing"),
        (
            "yaml",
            "- http://a:1\n- http://b:1\n- url: http://a:1/\n",
            "line 3: http://a:1 is in line 1 already",
        ),
        ("yaml", "- url: http://a:1\n  wieght: 2\n", "line 1: there is no 'wieght'; allowed are url, weight"),
        (
            "yaml",
            "- url: http://a:1\n  metadata: prod\n",
            "line 1: metadata is 'prod'; write a dict",
        ),
        ("yaml", "- url: http://a:1\n  zone: 3\n", "line 1: zone is 3; write a str"),
        ("yaml", "- url: http://a:1\n  draining: 1\n", "line 1: draining is 1; write a bool"),
        ("yaml", "- url: http://a:1\n  priority: high\n", "line 1: priority of http://a:1 is 'high'"),
        ("json", '["http://a:1",\n', "line 2: "),
        (
            "json",
            '{"x": {"backends": []},\n "backends": [\n"http://a:1",\n"nonsense"]}',
            "line 1: it has 'x'",
        ),
        ("json", '{"backends":\n ["http://a:1",\n  {"url": 3},\n"http://b:1"]}', "line 3: a backend's URL"),
        ("json", '{"backends": {"a": 1}}', "line 1: it has \"{'a': 1}\" instead of a list"),
        ("json", '{"servers": []}', "line 1: it has 'servers'"),
        ("json", "3", "line 1: it has '3' instead"),
        (
            "toml",
            "[[backends]]\nurl = 'http://a:1'\n[[backends]]\nurl = 'x'\n",
            "line 3: backend 'x' has no scheme",
        ),
        ("toml", "backends = [\n 'http://a:1',\n 'nonsense',\n]", "line 3: backend 'nonsense'"),
        (
            "toml",
            "backends = [\n {url = 'http://a:1'},\n {url = 'http://b:1', weight = -1}]",
            "line 3: weight",
        ),
        ("toml", "[[backends]]\nurl = \n", "line 2: "),
        ("toml", "[[backends]]\nurl = 'http", "line 2: "),
        ("toml", "backends = 3", "line 1: it has '3' instead"),
    ],
)
def test_a_mistake_is_told_with_its_line(kind: str, text: str, words: str) -> None:
    with pytest.raises(FleetFileError) as caught:
        parse(text, kind, "fleet")
    assert f"fleet, {words}" in str(caught.value)


def test_the_lines_of_json_survive_odd_white_space() -> None:
    text = '\n {"backends" :\n\n[ "http://a:1"\n ,\n{"url":"x"}\n]\n}\n'
    with pytest.raises(FleetFileError, match="line 6: backend 'x'"):
        parse(text, "json", "fleet")


# Construction


def test_the_format_follows_the_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in none of .json, .toml, .yaml, .yml; write format="):
        File(tmp_path / "fleet.conf")
    File(tmp_path / "fleet.conf", format="toml")
    with pytest.raises(TypeError, match=r"path is None; write the path of a file, like 'backends.yaml'"):
        File(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="format is 'xml'; write 'yaml', 'json' or 'toml'"):
        File(tmp_path / "fleet.xml", format="xml")
    with pytest.raises(ValueError, match="interval is 0"):
        File("fleet.json", interval=0)
    with pytest.raises(ValueError, match="settle is -1"):
        File("fleet.json", settle=-1)


# Following it


def write(path: Path, *urls: str) -> None:
    path.write_text(json.dumps(list(urls)))


@pytest.fixture(params=["watchfiles", "polling"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the package watchfiles, and as if it were not installed."""
    if request.param == "polling":
        without(monkeypatch, "watchfiles")
    return str(request.param)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def quick(path: Path, how: str, **options: Any) -> File:
    """With watchfiles nobody looks by himself for a minute: what is seen was told."""
    return File(path, interval=60 if how == "watchfiles" else 0.05, **options)


async def settle_in(heard: Heard, *urls: str) -> None:
    await until(lambda: heard.last == urls)
    await anyio.sleep(0.3)  # until the watch is in place


@BOTH
async def test_a_change_is_followed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "fleet.json"
    write(path, A)
    async with listening(quick(path, how)) as heard:
        await settle_in(heard, A)
        write(path, A, B)
        await until(lambda: heard.last == (A, B))


async def test_a_file_that_is_replaced_is_followed(tmp_path: Path, how: str) -> None:
    path, new = tmp_path / "fleet.json", tmp_path / "new"
    write(path, A)
    async with listening(quick(path, how)) as heard:
        await settle_in(heard, A)
        for urls in ((B,), (B, C)):
            write(new, *urls)
            new.rename(path)
            await until(lambda urls=urls: heard.last == urls)  # type: ignore[misc]


async def test_a_configmap_is_followed(tmp_path: Path, how: str) -> None:
    """Kubernetes' volumes: the file is a link through `..data`, which is swapped."""
    for number, urls in enumerate([(A,), (B,)]):
        (tmp_path / f"..{number}").mkdir()
        write(tmp_path / f"..{number}" / "fleet.json", *urls)
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "fleet.json").symlink_to("..data/fleet.json")
    async with listening(quick(tmp_path / "fleet.json", how)) as heard:
        await settle_in(heard, A)
        (tmp_path / "..data_tmp").symlink_to("..1")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await until(lambda: heard.last == (B,))


async def test_what_is_half_written_is_not_read(tmp_path: Path, how: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(f"- {A}\n")
    async with listening(quick(path, how, settle=0.6)) as heard:
        await settle_in(heard, A)
        with path.open("w") as file:
            for url in (A, B, C):
                file.write(f"- {url}\n")
                file.flush()
                await anyio.sleep(0.05)
        await until(lambda: heard.last == (A, B, C))
    assert set(heard.sets) == {(A,), (A, B, C)}
    assert heard.troubles == []


async def test_a_mistake_is_trouble_until_it_is_mended(tmp_path: Path, how: str) -> None:
    path = tmp_path / "fleet.json"
    write(path, A)
    async with listening(quick(path, how)) as heard:
        await settle_in(heard, A)
        path.write_text('["http://a:1",\n 3]')
        await until(lambda: bool(heard.troubles))
        assert "fleet.json, line 2: a backend's URL is a string" in heard.troubles[0]
        path.write_bytes(b"\xff\xfe\x00")
        await until(lambda: "utf-8" in heard.troubles[-1])
        write(path, B)
        await until(lambda: heard.last == (B,))


@BOTH
async def test_a_file_may_come_late_and_go(tmp_path: Path, how: str) -> None:
    path = tmp_path / "fleet.json"
    async with listening(quick(path, how)) as heard:
        await until(lambda: bool(heard.troubles))
        assert heard.troubles[0] == f"No such file or directory: {path}"
        await anyio.sleep(0.3)
        write(path, A)
        await until(lambda: heard.last == (A,))
        path.unlink()
        await until(lambda: len(heard.troubles) > 1 and heard.everything[-1] not in heard.sets)


async def test_without_notifications_it_is_looked_at_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    write(path, A)
    async with listening(File(path, interval=0.1, settle=0)) as heard:
        await until(lambda: len(heard.sets) > 3)
        assert set(heard.sets) == {(A,)}
        os.utime(path, (1, 1))
        write(path, B)
        await until(lambda: heard.last == (B,))


def test_yaml_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "yaml")
    with pytest.raises(ImportError, match=r"pip install 'lbclient\[discovery\]'"):
        parse("[]", "yaml", "fleet")

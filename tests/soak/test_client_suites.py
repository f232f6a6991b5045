"""The test suites of httpx and httpcore, with lbclient under their clients: the same passes and failures as without it.

They run in a network namespace of their own, in which there is nothing but loopback, and need the package index once,
for the sources and what the tests import. What goes over httpcore's mock networks, through proxies and over Unix
sockets is not ours to carry; the plugin leaves it to the original. So of httpcore's suite what counts is
`test_integration`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent / "plugins"
ROOT = Path(__file__).parents[2]

IMPORTED = [
    "httpx[brotli,cli,http2,socks,zstd]",
    "chardet",
    "cryptography",
    "hpack",
    "hyperframe",
    "pytest",
    "pytest-httpbin",
    "pytest-trio",
    "trio",
    "trustme",
    "uvicorn",
]

KNOWN = {
    "httpx": {
        "tests.test_exceptions::test_httpcore_exception_mapping",  # it puts a mock into httpx's own transport
        # There is no route to 10.255.255.1 here; httpx's microsecond is over before it is told, ours is not.
        "tests.test_timeouts::test_connect_timeout[asyncio]",
    },
    "httpcore": set[str](),
}
NOISY = {
    # httpcore's own connections, a mock network and a timeout of 10 ms: not ours, and not for a busy machine
    "tests.test_cancellations::test_h2_timeout_during_request[trio]",
    "tests.test_cancellations::test_h2_timeout_during_response[trio]",
    "tests.test_api::test_httpcore_lazy_loading",  # depends on who has imported httpcore before
    "tests.test_timeouts::test_write_timeout[trio]",  # a warning of trio's about a socket, when the collector runs
    "tests.test_timeouts::test_write_timeout[asyncio]",
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("suite", "at_least"), [("httpx", 1300), ("httpcore", 150)])
def test_the_same_passes_and_failures(suite: str, at_least: int, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here: run as root")
    python, sources = _prepare(suite, tmp_path)
    direct = _outcomes(python, sources, tmp_path / "direct.xml", [])
    ours = _outcomes(python, sources, tmp_path / "ours.xml", ["-p", "clients_over_lbclient"])
    assert len(direct) > at_least
    differing = {name for name in direct.keys() | ours.keys() if direct.get(name) != ours.get(name)}
    assert differing - NOISY == KNOWN[suite]


def _prepare(suite: str, directory: Path) -> tuple[Path, Path]:
    """A Python with what the tests import, and the sources of the suite."""
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    python = directory / "venv" / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if subprocess.run([*pip, "install", f"{ROOT}[http2]", *IMPORTED]).returncode:
        pytest.skip("the package index cannot be reached")
    asked = f"import importlib.metadata as m; print(m.version({suite!r}))"
    version = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    sdist = ["download", "--no-deps", "--no-binary", suite, "--dest", str(directory), f"{suite}=={version}"]
    if subprocess.run([*pip, *sdist]).returncode:
        pytest.skip(f"the package index has no sources of {suite}")
    archive = directory / f"{suite}-{version}.tar.gz"
    shutil.unpack_archive(archive, directory, filter="data")
    sources = directory / f"{suite}-{version}"
    shutil.rmtree(sources / suite)  # the installed one is tested
    return python, sources


def _outcomes(python: Path, sources: Path, report: Path, options: list[str]) -> dict[str, str]:
    """What became of each test."""
    command = f"ip link set lo up && exec {python} -m pytest -q tests --junitxml={report} {' '.join(options)}"
    subprocess.run(
        ["unshare", "-n", "sh", "-c", command],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": str(PLUGINS)},
        stdout=subprocess.DEVNULL,
    )
    outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = kinds[0] if kinds else "passed"
    return outcomes

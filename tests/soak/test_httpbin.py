"""requests' own test suite, with httpbin behind the reverse proxy: the same passes and failures as without it.

It runs in a network namespace of its own, in which there is nothing but loopback, and needs the package index once, for
the sources of requests and what its tests import.
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

KNOWN = {"tests.test_requests.TestRequests::test_proxy_authorization_preserved_on_request"}
"""Proxy-Authorization is for the next proxy and not passed on (RFC 9110, 11.7.2); httpbin is to show it, there."""


@pytest.mark.timeout(900)
def test_the_same_passes_and_failures(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here: run as root")
    python, sources = _prepare(tmp_path)
    direct = _outcomes(python, sources, tmp_path / "direct.xml", [])
    proxied = _outcomes(python, sources, tmp_path / "proxied.xml", ["-p", "httpbin_behind_proxy"])
    assert len(direct) > 500
    differing = {name for name in direct.keys() | proxied.keys() if direct.get(name) != proxied.get(name)}
    assert differing == KNOWN


def _prepare(directory: Path) -> tuple[Path, Path]:
    """A Python with what the tests import, and requests' sources."""
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    python = directory / "venv" / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wanted = [
        f"{ROOT}",
        "uvicorn",
        "httptools",
        "requests[socks]",
        "pytest",
        "pytest-mock",
        "pytest-httpbin",
        "trustme",
    ]
    if subprocess.run([*pip, "install", *wanted]).returncode:
        pytest.skip("the package index cannot be reached")
    sdist = ["download", "--no-deps", "--no-binary", "requests", "--dest", str(directory), "requests"]
    if subprocess.run([*pip, *sdist]).returncode:
        pytest.skip("the package index has no sources of requests")
    (archive,) = directory.glob("requests-*.tar.gz")
    shutil.unpack_archive(archive, directory, filter="data")
    return python, directory / archive.name.removesuffix(".tar.gz")


def _outcomes(python: Path, sources: Path, report: Path, options: list[str]) -> dict[str, str]:
    """What became of each test."""
    command = f"ip link set lo up && exec {python} -m pytest -q tests --junitxml={report} {' '.join(options)}"
    subprocess.run(
        ["unshare", "-n", "sh", "-c", command],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": f"src:{PLUGINS}"},
        stdout=subprocess.DEVNULL,
    )
    outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = kinds[0] if kinds else "passed"
    return outcomes

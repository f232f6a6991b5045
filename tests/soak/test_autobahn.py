"""Autobahn's fuzzing client against an echo server, directly and behind the reverse proxy.

The test suite is in Python 2 only. Where there is a Python 2.7 (`python2.7` on the path, or in pyenv) it is installed
into a folder of the test's own; elsewhere tests/asgi/test_websocket.py has to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from lbclient.asgi import ReverseProxy
from tests.asgi.hosting import Host
from tests.conftest import SharedServers

FAMILIES = {
    "protocol": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"],
    "large messages": ["9.1.*", "9.2.*", "9.3.*", "9.4.*"],
    "many messages": ["9.5.*", "9.6.*", "9.7.*", "9.8.*"],
    **{f"compression, {part}": [f"{part}.*"] for part in ("12.1", "12.2", "12.3", "12.4", "12.5")},
    **{f"compression, {part}": [f"{part}.*"] for part in (f"13.{n}" for n in range(1, 8))},
}
"""By what a run of under nine minutes can hold. Each hop negotiates its own compression."""

PASSED = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}

RUN = """
import site, sys
site.addsitedir(sys.argv[1])
from autobahntestsuite.wstest import run
sys.argv = ["wstest", "-m", "fuzzingclient", "-s", sys.argv[2]]
run()
"""


def python2() -> str | None:
    """A Python 2.7 that runs, if there is one (a shim of pyenv's is none)."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which("python2.7"), *map(str, pyenv.glob("2.7*/bin/python"))]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="module")
def wstest(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs Autobahn's test suite, less the file that says what it should do."""
    python = python2()
    if python is None:
        pytest.skip("Autobahn's test suite needs a Python 2.7")
    packages = tmp_path_factory.mktemp("autobahn")
    pip = [python, "-m", "pip", "install", "--quiet"]
    if subprocess.run([*pip, "--target", str(packages), "autobahntestsuite"]).returncode:
        pytest.skip("Autobahn's test suite cannot be installed")
    return [python, "-c", RUN, str(packages)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_case_fails_that_passes_directly(
    servers: SharedServers, wstest: list[str], family: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    (backend,) = servers("uvicorn", 1)
    with Host(ReverseProxy([backend.url])) as host:
        urls = {"direct": f"ws://127.0.0.1:{backend.port}/ws", "proxied": f"ws://127.0.0.1:{host.port}/ws"}
        specification = {
            "outdir": str(tmp_path / "reports"),
            "servers": [{"agent": agent, "url": url} for agent, url in urls.items()],
            "cases": FAMILIES[family],
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        path = tmp_path / "fuzz.json"
        path.write_text(json.dumps(specification))
        subprocess.run([*wstest, str(path)], stdout=subprocess.DEVNULL, check=True)
    report = json.loads((tmp_path / "reports" / "index.json").read_text())
    tally = Counter(case["behavior"] for case in report["direct"].values())
    print(
        f"\n{family}: {len(report['direct'])} cases in {time.monotonic() - began:.0f} s; directly {dict(tally)}"
    )
    assert report["direct"].keys() == report["proxied"].keys() != set()
    worse = {
        case: (direct["behavior"], report["proxied"][case]["behavior"])
        for case, direct in report["direct"].items()
        if direct["behavior"] in PASSED
        and (
            report["proxied"][case]["behavior"] not in PASSED
            or report["proxied"][case]["behaviorClose"] not in PASSED
        )
    }
    assert worse == {}

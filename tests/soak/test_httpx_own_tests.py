"""httpx's own tests, from its sdist, with our transport as its clients' default: no failure that bare httpx has not.

They run in a network namespace of their own, where there is nothing but loopback.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx
import pytest

PLUGIN = Path(__file__).with_name(
    "httpx_default.py"
)  # copied, since httpx's tests are a package `tests`, too
ALONE = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

ABOUT_HTTPX_ITSELF = {
    "tests/test_api.py::test_httpcore_lazy_loading",  # that httpx does not import httpcore before it is used: we do
    "tests/test_exceptions.py::test_httpcore_exception_mapping",  # replaces a method of its pool
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of the httpx that is installed, unpacked, without the package itself."""
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    folder = tmp_path_factory.mktemp("httpx")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run([*pip, f"httpx=={httpx.__version__}", "--dest", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("the sdist of httpx cannot be had")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    unpacked = next(path for path in folder.iterdir() if path.is_dir())
    shutil.rmtree(unpacked / "httpx")
    shutil.copy(PLUGIN, unpacked)
    return unpacked


def run(sources: Path, *options: str, engine: str = "auto") -> tuple[int, set[str]]:
    """How many of the tests passed, and which did not."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "-p", "no:randomly"]
    environment = {**os.environ, "PYTHONPATH": str(sources), "LBCLIENT_ENGINE": engine}
    done = subprocess.run(
        [*ALONE, *command, "--continue-on-collection-errors", *options, "tests"],
        cwd=sources,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout[-3000:] + done.stderr[-3000:]
    return int(passed[1]), set(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE))


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("engine", ["auto", "httpcore"])
def test_no_failure_that_bare_httpx_has_not(sources: Path, engine: str) -> None:
    plain, failing = run(sources)
    ours, failing_here = run(sources, "-p", "httpx_default", engine=engine)
    print(
        f"\nbare httpx: {plain} passed, {len(failing)} failed; lbclient: {ours} passed, {len(failing_here)} failed"
    )
    assert failing_here - failing <= ABOUT_HTTPX_ITSELF, failing_here - failing
    assert ours >= plain - len(ABOUT_HTTPX_ITSELF) > 1000

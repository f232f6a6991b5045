"""The benchmarks run: they fail on errors, and never on a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(module: str, *arguments: str, tmp_path: Path) -> dict[str, Any]:
    """What `python -m benchmarks.MODULE --quick` writes."""
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", "--json", str(results), *arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}  # those of the peers are not ours
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=55)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report: dict[str, Any] = json.loads(results.read_text())
    return report


@pytest.mark.parametrize("workload", ["small", "upload", "http2"])
def test_throughput(tmp_path: Path, workload: str) -> None:
    names = ["lbclient", "lbclient@httpcore", "httpx2"] + ["via-haproxy"] * (workload == "small")
    report = run(
        "throughput", "--workload", workload, "--concurrency", "3", "--targets", ",".join(names),
        tmp_path=tmp_path,
    )  # fmt: skip
    assert [row["target"] for row in report["rows"]] == ["httpx", *names]
    assert not any(row["errors"] for row in report["rows"])
    through = [row for row in report["rows"] if row["target"] == "via-haproxy"]
    assert all(row["total_cpu_us"] > row["cpu_us"] for row in through)


@pytest.mark.parametrize("loop", ["threads", "trio"])
def test_throughput_elsewhere(tmp_path: Path, loop: str) -> None:
    names = ["lbclient", "lbclient@httpcore", "httpx2"]
    report = run(
        "throughput", "--loop", loop, "--concurrency", "3", "--targets", ",".join(names), tmp_path=tmp_path
    )
    assert [row["target"] for row in report["rows"]] == ["httpx", *names]
    assert all(row["rps"] and not row["errors"] for row in report["rows"])


def test_connections(tmp_path: Path) -> None:
    report = run("connections", tmp_path=tmp_path)
    assert {row["target"] for row in report["rows"]} == {"httpx", "httpx2", "lbclient", "lbclient@httpcore"}
    opened = {row["target"]: row["connects"] for row in report["rows"]}
    assert opened["lbclient"] < 0.1


def test_hops(tmp_path: Path) -> None:
    report = run("hops", "--proxies", "haproxy,sidecar", "--concurrency", "1,3", tmp_path=tmp_path)
    rows = {(row["proxy"], row["concurrency"]): row for row in report["rows"]}
    assert {proxy for proxy, _ in rows} == {"no hop", "haproxy", "sidecar"}
    assert all(rows[proxy, 3]["cpu_us"] > 0 for proxy in ("haproxy", "sidecar"))


def test_l4(tmp_path: Path) -> None:
    report = run("l4", "--targets", "direct,lbclient,anyio streams", tmp_path=tmp_path)
    rows = {row["target"]: row for row in report["rows"]}
    assert set(rows) == {"direct", "lbclient", "anyio streams"}
    assert all(row["connections"] and row["mib"] and row["exchanges"] for row in rows.values())
    assert rows["lbclient"]["connection_us"] > 0


def test_picture_and_readme(tmp_path: Path) -> None:
    run("throughput", "--concurrency", "1,2", "--targets", "lbclient", tmp_path=tmp_path)
    picture = tmp_path / "throughput.svg"
    command = [sys.executable, "-m", "benchmarks.plot", str(tmp_path / "results.json"), str(picture)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=55, env={**os.environ, "PYTHONWARNINGS": "default"})
    assert "<svg" in picture.read_text()
    (tmp_path / "results.json").rename(tmp_path / "small.json")
    run("picks", "--algorithms", "round_robin,maglev", "--sizes", "3,10", tmp_path=tmp_path)
    (tmp_path / "results.json").rename(tmp_path / "picks.json")
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    (tmp_path / "docs").mkdir()
    command = [sys.executable, "-m", "benchmarks.readme", str(tmp_path), str(readme)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=55)
    text = readme.read_text()
    before, _, rest = (ROOT / "README.md").read_text().partition("<!-- benchmark:start -->")
    assert text.startswith(before)
    assert text.endswith(rest.partition("<!-- picks:end -->")[2])
    assert "| 1, CPU per request | " in text
    assert "| algorithm | 3 | 10 | update of 10, ms | bytes a backend |" in text
    assert "| `maglev` | " in text
    assert (tmp_path / "docs" / "throughput.svg").exists()

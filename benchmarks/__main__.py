"""Everything that README shows, one after the other: `python -m benchmarks RESULTS`.

RESULTS is a directory for the JSON files and the picture. Half an hour; `--quick` is a smoke test of two minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.workloads import WORKLOADS

COMPARED = "httpx2,lbclient,lbclient@httpcore,httpx-aiohttp"


def main() -> int:
    arguments = sys.argv[1:]
    quick = ["--quick"] if "--quick" in arguments else []
    named = [each for each in arguments if not each.startswith("-")]
    if len(named) != 1 or len(named) + len(quick) != len(arguments):
        raise SystemExit("usage: python -m benchmarks [--quick] RESULTS")
    results = Path(named[0])
    results.mkdir(parents=True, exist_ok=True)
    concurrency = "1,10,100" if quick else "1,10,50,100,300"
    runs = {"small": ["throughput", "--concurrency", concurrency]}
    for name in WORKLOADS:
        if name != "small":
            at = ["--concurrency", "10,50", "--targets", COMPARED]
            runs[name] = ["throughput", "--workload", name, *at]
    for loop in ("uvloop", "trio"):
        targets = COMPARED if loop == "uvloop" else "httpx2,lbclient"  # aiohttp is asyncio's
        runs[loop] = ["throughput", "--loop", loop, "--concurrency", "1,50", "--targets", targets]
    runs |= {"connections": ["connections"], "picks": ["picks"], "l4": ["l4"]}
    worst = 0
    for name, (module, *options) in runs.items():
        print(f"\n# {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *options]
        ended = subprocess.run([*command, "--json", str(results / f"{name}.json"), *quick], check=False)
        worst = max(worst, ended.returncode)
    drawing = [str(results / "small.json"), str(results / "throughput.svg")]
    ended = subprocess.run([sys.executable, "-m", "benchmarks.plot", *drawing], check=False)
    return max(worst, ended.returncode)


if __name__ == "__main__":
    sys.exit(main())

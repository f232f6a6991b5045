"""Everything that README shows, one after the other: `python -m benchmarks RESULTS`.

RESULTS is a directory for the JSON files and the picture. Some 50 minutes; `--brief` measures less of it, and less
often, in 20 minutes, `--quick` is a smoke test of three. `python -m benchmarks.readme RESULTS` puts the figures into
README.md.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from benchmarks.workloads import WORKLOADS

COMPARED = "httpx2,lbclient,lbclient@httpcore,httpx-aiohttp"
SHOWN = f"null,{COMPARED},via-nginx,via-haproxy,via-envoy"
LOOPS = (
    ("uvloop", COMPARED, "1,50"),
    ("trio", "httpx2,lbclient,lbclient@httpcore", "1,10,50"),  # aiohttp is asyncio's
    ("threads", "httpx2,lbclient,lbclient@httpcore", "1,10"),
)
USAGE = "usage: python -m benchmarks [--brief | --quick] RESULTS"


def runs(*, brief: bool, quick: bool) -> dict[str, list[str]]:
    """What is run, by the name of its results."""
    some = brief or quick
    rounds = ["--rounds", "3"] if brief else []
    few = ["--rounds", "2"] if brief else []
    at = "1,10,100" if quick else "1,10,50,100,300"
    small = ["--concurrency", at, *(["--targets", SHOWN] if brief else [])]
    found = {"small": ["throughput", *small, *rounds]}
    # Bare httpx is not asked for a thousand at a time: it would answer none in its window.
    alone = ["--baseline", "lbclient", "--targets", "lbclient@httpcore"]
    found["thousand"] = ["throughput", *alone, "--concurrency", "100,1000", *rounds]
    for name in WORKLOADS:
        if name != "small":
            at = "10" if some else "10,50"
            targets = ["--targets", COMPARED]
            found[name] = ["throughput", "--workload", name, "--concurrency", at, *targets, *few]
    for loop, compared, several in LOOPS:
        if loop != "threads" and importlib.util.find_spec(loop) is None:
            continue  # trio brings sniffio, which moves the baseline of all else: have it in another environment
        found[loop] = ["throughput", "--loop", loop, "--concurrency", several, "--targets", compared, *few]
    repetitions = ["--repetitions", "3"] if brief else []
    once = ["--rounds", "1"] if brief else []
    found |= {"connections": ["connections"], "picks": ["picks", *repetitions]}
    found |= {"hops": ["hops", *few], "l4": ["l4", *once]}
    return found


def main() -> int:
    arguments = sys.argv[1:]
    options = [each for each in arguments if each.startswith("-")]
    if len(arguments) != len(options) + 1 or options not in ([], ["--brief"], ["--quick"]):
        raise SystemExit(USAGE)
    quick = [each for each in options if each == "--quick"]
    results = Path(next(each for each in arguments if each not in options))
    results.mkdir(parents=True, exist_ok=True)
    worst = 0
    for name, (module, *settings) in runs(brief=options == ["--brief"], quick=bool(quick)).items():
        print(f"\n# {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *settings]
        ended = subprocess.run([*command, "--json", str(results / f"{name}.json"), *quick], check=False)
        worst = max(worst, ended.returncode)
    drawing = [str(results / "small.json"), str(results / "throughput.svg")]
    ended = subprocess.run([sys.executable, "-m", "benchmarks.plot", *drawing], check=False)
    return max(worst, ended.returncode)


if __name__ == "__main__":
    sys.exit(main())

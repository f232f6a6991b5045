"""What must hold for the project as a whole, whatever is in it."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "lbclient" / "core"

NO_IO = frozenset(
    {
        "__future__",
        "abc",
        "array",
        "base64",
        "binascii",
        "bisect",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "datetime",
        "difflib",
        "email",  # email.utils: HTTP dates
        "enum",
        "fnmatch",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "http",  # http.HTTPStatus and http.cookies; its client and server are forbidden below
        "importlib",  # importlib.util: is an extra there?
        "ipaddress",
        "itertools",
        "json",
        "logging",
        "math",
        "operator",
        "os.register_at_fork",
        "random",
        "re",
        "reprlib",
        "secrets",
        "statistics",
        "string",
        "struct",
        "sys",
        "textwrap",
        "threading",  # its locks
        "time",  # as the default of clock=
        "types",
        "typing",
        "urllib",  # urllib.parse; urllib.request is forbidden below
        "warnings",
        "weakref",
        "zlib",
    }
)
"""The part of the standard library that decides, and neither reads nor writes."""

FORBIDDEN = ("http.client", "http.server", "http.cookiejar", "urllib.request", "urllib.error", "time.sleep")

OTHERS = frozenset({"tenacity", "xxhash"})
"""What else core may import; xxhash is an extra that it imports where it hashes."""

SKIPPED = {"build", "dist", "node_modules", "htmlcov"}
TEXTS = {"", ".py", ".pyi", ".toml", ".md", ".json", ".cfg", ".ini", ".yml", ".yaml", ".sh", ".txt", ".html"}


def test_every_file_of_vectors_is_replayed() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    unused = [p.stem for p in (ROOT / "tests" / "vectors").glob("*.json") if f'{p.stem}.json"' not in tests]
    assert [name for name in unused if f'"{name}"' not in tests] == []


def project_files() -> Iterator[Path]:
    """Every file of the checkout, without environments, caches and what git keeps."""
    stack = [ROOT]
    while stack:
        for path in stack.pop().iterdir():
            inside = path.relative_to(ROOT).parts
            if inside[-1] in SKIPPED or (inside[-1].startswith(".") and inside[-1] not in (".ci", ".github")):
                continue
            if path.is_dir():
                if inside[-1] != "__pycache__" and not inside[-1].endswith(".egg-info"):
                    stack.append(path)
            else:
                yield path


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever in the file.

    Without the standard library's names that stand under `if TYPE_CHECKING:` for annotations only.
    """
    tree = ast.parse(path.read_text(), str(path))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types and _standard(node):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def _standard(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module]
    return all(name.partition(".")[0] in sys.stdlib_module_names for name in names)


def offence(name: str) -> str | None:
    """Why core may not import this; None when it may."""
    if name == "lbclient" or name.startswith("lbclient."):
        return None if name.startswith("lbclient.core") else "another part of lbclient"
    if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN):
        return "I/O"
    top = name.partition(".")[0]
    return (
        None if top in NO_IO | OTHERS or name in NO_IO else "neither I/O-free standard library nor tenacity"
    )


def test_core_imports_nothing_that_does_io() -> None:
    files = sorted(CORE.rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}: {why}"
        for path in files
        for line, name in imports_of(path)
        if (why := offence(name))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "name",
    [
        "anyio",
        "asyncio",
        "http.client",
        "httpx.URL",
        "lbclient.Pool",
        "lbclient._async.transport",
        "os",
        "selectors",
        "socket",
        "ssl.SSLContext",
        "subprocess",
        "time.sleep",
        "urllib.request.urlopen",
    ],
)
def test_the_import_check_sees(name: str) -> None:
    assert offence(name)


@pytest.mark.parametrize(
    "name",
    [
        "time",
        "time.monotonic",
        "urllib.parse.urlsplit",
        "lbclient.core.pool.Pool",
        "tenacity.stop_after_attempt",
    ],
)
def test_the_import_check_lets_pass(name: str) -> None:
    assert offence(name) is None


def test_core_works_without_the_shell() -> None:
    """Importing core by itself does not bring in the network."""
    code = (
        "import sys, types; package = types.ModuleType('lbclient'); package.__path__ = ['lbclient'];"
        "sys.modules['lbclient'] = package; import lbclient.core;"
        "print(*sorted({'httpx', 'httpcore', 'trio', 'anyio', 'lbclient._async'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = re.compile(r"^(utils?|helpers?|common|misc)(_.*)?\.py$|_(utils?|helpers?)\.py$")
    assert [str(path) for path in project_files() if drawers.search(path.name)] == []


def test_importing_is_silent() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import lbclient"], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_importing_brings_no_extra_with_it() -> None:
    """An extra is imported where it is used; `import lbclient` adds nothing heavy to httpx and tenacity."""
    extras = [
        "h2",
        "httpx2",
        "xxhash",
        "rich",
        "uvicorn",
        "pydantic",
        "prometheus_client",
        "opentelemetry",
        "trio",
        "starlette",
        "hypercorn",
        "granian",
        "yaml",
    ]
    extras += ["dns", "watchfiles"]
    # httpx and httpcore themselves import some of them when they are installed: that is theirs to do
    code = (
        "import sys, httpx, httpcore, tenacity; before = set(sys.modules); import lbclient;"
        f"print(*sorted(set({extras!r}) & (set(sys.modules) - before)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_nothing_points_outside_the_checkout() -> None:
    """No path of somebody's machine, no neighbour of the checkout."""
    outside = re.compile(r"\.\.[/]shared\b|(?<![\w./:~-])/(root|home/[\w.-]+|Users/[\w.-]+)/\S")
    places = [f"{ROOT.parent}/shared"] if ROOT.parent != Path("/") else []
    if len(ROOT.parts) > 2:  # "/app" is also the path of a URL
        places.append(f"{ROOT}/")
    found = []
    for path in project_files():
        if path.suffix in TEXTS and path != Path(__file__).resolve():
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if outside.search(line) or any(place in line for place in places):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def checkout(folder: Path) -> Path:
    """What scripts/unasync.py reads and writes, in a folder without .venv."""
    shutil.copytree(ROOT / "lbclient", folder / "lbclient", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("scripts", "tests", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def check_twins(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = f"import runpy; runpy.run_path({str(folder / 'scripts/unasync.py')!r}, run_name='__main__')"
    command = [sys.executable, *options, "-c", script, "--check"]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": ""}, cwd=folder)


def test_a_twin_that_somebody_has_edited_is_stale(tmp_path: Path) -> None:
    twin = checkout(tmp_path) / "lbclient" / "_sync" / "deploy.py"
    twin.write_text(twin.read_text() + "# but for this\n")
    done = check_twins(tmp_path)
    assert (done.returncode, done.stderr) == (1, "stale: lbclient/_sync/deploy.py; run scripts/unasync.py\n")


def test_without_ruff_no_twin_is_called_stale(tmp_path: Path) -> None:
    done = check_twins(checkout(tmp_path), "-I", "-S")  # without site-packages
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs ruff" in done.stderr
    assert "stale" not in done.stderr

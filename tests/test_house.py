"""The rules of the house that a machine can check."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 300
MAX_BYTES = 2 * 2**20
MACHINE_PATH = re.compile(rb"(?<![\w.:/~-])/(?:home|root|work|opt|Users)/")
HEAVY = {
    "jinja2",
    "matplotlib",
    "pandas",
    "rich",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.sparse",
    "sklearn",
    "typer",
}


def git_files(*options: str) -> list[Path] | None:
    """Files that git lists; None outside a git checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return None
    listed = subprocess.run(["git", "ls-files", "-z", *options], cwd=ROOT, check=True, capture_output=True)
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def source_files() -> list[Path]:
    """Python files under src, tracked or not, less what git ignores."""
    files = git_files("-co", "--exclude-standard")
    if files is None:
        files = list((ROOT / "src").rglob("*"))
    return [path for path in files if path.suffix == ".py" and path.is_relative_to(ROOT / "src")]


def names(paths: list[Path]) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def test_source_files_are_short():
    long = [path for path in source_files() if len(path.read_text("utf-8").splitlines()) > MAX_LINES]
    assert not long, f"over {MAX_LINES} lines, so one room does two jobs: {names(long)}"


def test_every_module_has_a_subject():
    drawers = [path for path in source_files() if path.stem in {"utils", "util", "helpers", "misc"}]
    assert not drawers, f"name the module after what it does: {names(drawers)}"


def test_the_repository_stays_small():
    files = git_files()
    if files is None:
        pytest.skip("not a git checkout")
    large = [path for path in files if path.stat().st_size > MAX_BYTES]
    assert not large, f"over {MAX_BYTES} bytes: {names(large)}"


def test_no_file_names_a_path_of_one_machine():
    files = git_files("-co", "--exclude-standard")
    if files is None:
        pytest.skip("not a git checkout")
    tied = [path for path in files if MACHINE_PATH.search(path.read_bytes())]
    assert not tied, f"absolute paths of somebody's machine: {names(tied)}"


def test_imports_flow_one_way():
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_front_door_loads_nothing_heavy():
    command = "import json, sys, featgeo; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    loaded = HEAVY.intersection(json.loads(done.stdout))
    assert not loaded, f"`import featgeo` must leave these to the functions that need them: {sorted(loaded)}"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_benchmarks_take_from_the_library_is_there(path):
    """They are run by hand: a name that has moved would be found only then."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "featgeo":
            for alias in node.names:
                if not hasattr(importlib.import_module(node.module), alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")

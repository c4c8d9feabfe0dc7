"""Run experiments, keep what is finished, draw, and write the page.

Under ``out`` lie ``results/<name>.json``, ``figures/<name>-<key>.png`` and ``.svg``, and ``validation.md``. A result is
kept, and its experiment not run again, while the following stay the same: quick or full, the seed, the versions of
featgeo, torch, numpy and scipy, and the code of every featgeo module that the experiment imports, comments apart.
Failures are always run again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy
import torch
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

import featgeo
from featgeo.errors import FeatgeoError
from featgeo.experiments.catalogue import CATALOGUE
from featgeo.experiments.page import write_page
from featgeo.experiments.record import Experiment, Result, Settings, Skip

PNG_DPI = 100
BAD = ("failed", "error")


def validate(
    quick: bool = False,
    only: Sequence[str] = (),
    seed: int = 0,
    out: str | Path = "validation",
    fresh: bool = False,
    *,
    progress: bool = True,
    catalogue: Sequence[Experiment] = CATALOGUE,
) -> int:
    """Run the validation of the theory and write its page.

    Args:
        quick: reduced runs, under a minute together.
        only: names of experiments; all where it is empty.
        seed: from which all random numbers follow.
        out: the folder of results, figures and page.
        fresh: run again what is finished.
        progress: whether to show progress bars and what came out.
        catalogue: the experiments there are.

    Returns:
        Exit status: 0 if everything passed or was skipped for want of data, 1 if anything failed.

    Raises:
        FeatgeoError: an unknown name; an ``out`` that cannot be written.
    """
    unknown = set(only) - {experiment.name for experiment in catalogue}
    if unknown:
        names = ", ".join(experiment.name for experiment in catalogue)
        raise FeatgeoError("only", ", ".join(sorted(unknown)), f"The experiments are: {names}.")
    folder = Path(out)
    try:
        for part in ("results", "figures"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatgeoError(
            "out", f"{folder}, which cannot be written ({error})", "Choose another."
        ) from error
    chosen = [e for e in catalogue if e.name in only or not only]
    statuses = []
    with _one_thread():
        for experiment in chosen:
            job = _Job(experiment, list(catalogue).index(experiment), quick, seed, folder, progress)
            statuses.append(job.finish(fresh))
    write_page(folder / "results", folder / "validation.md")
    return int(any(status in BAD for status in statuses))


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch and BLAS: the problems are small, and threads that wait for each other cost more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Job:
    """One experiment under given settings."""

    experiment: Experiment
    position: int
    quick: bool
    seed: int
    folder: Path
    progress: bool

    @property
    def path(self) -> Path:
        return self.folder / "results" / f"{self.experiment.name}.json"

    def finish(self, fresh: bool) -> str:
        """Run, or keep what is finished; the status."""
        key = self._key()
        record = None if fresh else self._kept(key)
        if record is None:
            record = self._run() | {"key": key}
        elif self._drawn(record):
            return str(record["status"])
        if "tables" in record:
            record = self._draw(record)
        _write(self.path, record)
        self._say(f"{self.experiment.name}: {record['status']}")
        return str(record["status"])

    def _key(self) -> dict[str, Any]:
        code = code_of(self.experiment.run.__module__)
        return {"quick": self.quick, "seed": self.seed, "code": code, "versions": versions()}

    def _kept(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The finished record of an earlier run under the same key."""
        try:
            record: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        if _comparable(record.get("key", {})) != _comparable(key) or record.get("status") != "passed":
            return None
        self._say(f"{self.experiment.name}: finished before, kept")
        return record

    def _drawn(self, record: dict[str, Any]) -> bool:
        names = record.get("figures", {})
        return all(
            (self.folder / "figures" / f"{n}{end}").exists() for n in names for end in (".png", ".svg")
        )

    def _run(self) -> dict[str, Any]:
        """Compute; whatever happens becomes a record."""
        experiment = self.experiment
        record: dict[str, Any] = {
            "name": experiment.name,
            "position": self.position,
            **{field: getattr(experiment, field) for field in ("title", "claim", "setup")},
        }
        began = time.perf_counter()
        with tqdm(total=1.0, desc=experiment.name, bar_format=_BAR, disable=not self.progress) as bar:

            def moved(fraction: float, what: str) -> None:
                bar.set_postfix_str(what, refresh=False)
                bar.update(max(0.0, min(1.0, fraction) - bar.n))

            try:
                result = experiment.run(Settings(self.quick, self.seed, moved))
                record |= result.to_dict()
                record["status"] = "passed" if result.passed else "failed"
                moved(1.0, "")
            except Skip as skip:
                record |= {"status": "skipped", "reason": skip.line}
            except Exception as error:
                record |= {"status": "error", "reason": f"{type(error).__name__}: {error}"}
                self._say(traceback.format_exc())
        return record | {"seconds": round(time.perf_counter() - began, 1)}

    def _draw(self, record: dict[str, Any]) -> dict[str, Any]:
        """Save the figures; a figure that cannot be drawn is a failure too."""
        result = Result.from_dict(record)
        captions = {}
        try:
            for key, figure in self.experiment.draw(result).items():
                name = f"{self.experiment.name}-{key}"
                save_figure(figure, self.folder / "figures" / name)
                captions[name] = result.captions.get(key, "")
        except Exception as error:
            self._say(traceback.format_exc())
            record |= {"status": "error", "reason": f"drawing: {type(error).__name__}: {error}"}
        return record | {"figures": captions}

    def _say(self, text: str) -> None:
        if self.progress:
            tqdm.write(text, file=sys.stderr)


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"


def save_figure(figure: Figure, path: Path) -> None:
    """PNG and SVG beside each other, the same bytes for the same figure."""
    with mpl.rc_context({"svg.hashsalt": "featgeo", "svg.fonttype": "path"}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        figure.savefig(path.with_suffix(".png"), dpi=PNG_DPI, metadata={"Software": None})


def versions() -> dict[str, str]:
    """Of everything that the numbers depend on."""
    return {
        "featgeo": featgeo.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "matplotlib": mpl.__version__,
    }


def code_of(module: str) -> str:
    """A digest of the code of a module and of every featgeo module that it imports, directly or not."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name], imported = _read(name)
        waiting += imported
    text = "\n".join(f"{name} {found[name]}" for name in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """A module's syntax tree as text (free of comments and layout) and the featgeo modules that it imports."""
    origin = sys.modules[module].__file__ if module in sys.modules else None
    if origin is None:
        spec = importlib.util.find_spec(module)
        origin = spec.origin if spec else None
    if origin is None:
        return "", ()
    tree = ast.parse(Path(origin).read_text("utf-8"))
    wanted = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    modules = (name for name in sorted(wanted) if name.startswith("featgeo."))
    return ast.dump(tree), tuple(name for name in modules if _is_module(name))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _comparable(key: dict[str, Any]) -> dict[str, Any]:
    """A key without what numbers do not depend on."""
    kept = {k: v for k, v in key.get("versions", {}).items() if k not in ("python", "matplotlib")}
    return key | {"versions": kept}


def _write(path: Path, record: dict[str, Any]) -> None:
    """All at once, so that an interruption leaves the old file or the new one."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True)
    part = path.with_suffix(".part")
    part.write_text(text + "\n", "utf-8")
    part.replace(path)

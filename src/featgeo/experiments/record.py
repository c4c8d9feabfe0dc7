"""What an experiment is, what it is given and what it hands back. This is the interface between runner and experiments.

An experiment is one module that ends in

    EXPERIMENT = Experiment(name="order", title="...", claim="...", setup="...", run=run, draw=draw)

with ``run(settings: Settings) -> Result`` and ``draw(result: Result) -> dict[str, matplotlib Figure]``, and that is
listed in ``catalogue.py``. The rules:

- ``run`` computes, with every random number from ``settings.seed`` and local generators, and returns a ``Result``:
  tables, numbers, checks, a verdict *computed* from them (f-strings; no figure is typed), and in ``series`` the points
  behind the figures. Everything in it must be JSON-able: str, bool, int, float, None, lists and dicts of these with
  string keys (``tensor.tolist()``, ``float(x)``); NaN and infinity are stored as null, and read back as None.
- ``settings.quick`` asks for a reduced run of a few seconds that passes the same checks or, where fewer samples carry
  less, their quick bounds; ``settings.progress(fraction, "what is being done")`` moves the progress bar.
- A check is ``at_least(name, value, bound)``, ``at_most(...)`` or ``holds(name, condition)``; NaN never passes. A check
  that fails makes the experiment fail: it is shown as failing and the command's exit status is 1.
- ``draw`` makes figures from the Result alone (it is also given Results read back from JSON) with
  ``matplotlib.figure.Figure``, never pyplot. A figure is saved as ``figures/<experiment>-<key>.png`` and ``.svg``;
  its caption is ``result.captions[key]``. Draw few enough points for a PNG under 150 KiB (use ``rasterized=True`` for
  scatter plots of more than about a thousand points, to keep the SVG small too).
- Data that is not installed: ``raise Skip("Fashion-MNIST", "apt install dataset-fashion-mnist")`` for a whole
  experiment, or append ``Skip(...)``'s ``.line`` to ``result.skipped`` for a part of one. An exception of any other
  kind is recorded as a failure, never as a skip.
- FeatgeoWarnings are errors in the tests: catch those that the experiment expects, and show them in its tables.
- A finished result is kept and not computed again while settings, versions and the code that the experiment imports
  stay the same (see ``runner.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | bool | int | float | None
Progress = Callable[[float, str], None]


class Skip(Exception):
    """Data or a program that is not installed.

    Args:
        what: is missing.
        remedy: the line that installs it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        self.line = f"{what} is not installed. To get it: {remedy}"
        super().__init__(self.line)


def _silent(fraction: float, what: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Settings:
    """What an experiment is asked for.

    Attributes:
        quick: a reduced run of a few seconds.
        seed: from which all random numbers follow.
        progress: called with the fraction done, in [0, 1], and what is being done.
    """

    quick: bool = False
    seed: int = 0
    progress: Progress = _silent


@dataclass(frozen=True)
class Table:
    """Rows of text, numbers, truth values or None under named columns. The page rounds numbers, the JSON does not."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.title!r}: {len(wrong[0])} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Check:
    """A number and the bound it has to keep; made by :func:`at_least`, :func:`at_most` and :func:`holds`."""

    name: str
    value: float | bool | None
    bound: str
    passed: bool


def at_least(name: str, value: float, bound: float) -> Check:
    """value ≥ bound."""
    return Check(name, _finite(value), f"≥ {bound:g}", bool(value >= bound))


def at_most(name: str, value: float, bound: float) -> Check:
    """value ≤ bound."""
    return Check(name, _finite(value), f"≤ {bound:g}", bool(value <= bound))


def holds(name: str, condition: bool) -> Check:
    """A statement that is true or not."""
    return Check(name, bool(condition), "yes", bool(condition))


@dataclass
class Result:
    """What an experiment found.

    Attributes:
        tables: shown in this order.
        numbers: the headline figures by name, for the reader of the JSON.
        checks: what must be true.
        verdict: one paragraph (Markdown), computed from the numbers.
        series: the points behind the figures.
        captions: of the figures, by their key.
        skipped: parts that could not run, and how to get what they need (``Skip(...).line``).
    """

    tables: list[Table] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    verdict: str = ""
    series: dict[str, Any] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check passed, and there is at least one."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it; NaN and infinity become None.

        Raises:
            TypeError: where something in it is not JSON-able.
        """
        plain: dict[str, Any] = _plain(asdict(self), "result")
        return plain

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """The inverse of :meth:`to_dict`; further keys are ignored."""
        return cls(
            tables=[Table(**table) for table in data["tables"]],
            checks=[Check(**check) for check in data["checks"]],
            **{key: data[key] for key in ("numbers", "verdict", "series", "captions", "skipped")},
        )


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: of its files and of ``--only``: lower-case letters, digits and underscores.
        title: heading on the page.
        claim: what the theory says (Markdown).
        setup: how it is put to the test (Markdown).
        run: computes.
        draw: figures by key.
    """

    name: str
    title: str
    claim: str
    setup: str
    run: Callable[[Settings], Result]
    draw: Callable[[Result], dict[str, Figure]]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(value: Any, where: str) -> Any:
    """The same in JSON's own types."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(
        f"{where} is a {type(value).__name__}, which JSON does not know; use float() or .tolist()"
    )


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} has the key {key!r}; JSON knows only text as keys")
    return key

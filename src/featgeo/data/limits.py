"""When a pass over the data ends before the data do."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from featgeo.errors import FeatgeoError

T = TypeVar("T")
FIRST_CHECK = 8  # batches before it is first asked whether the figures have settled
CHECK_STEP = math.sqrt(2)  # then after so many times as many


@dataclass(frozen=True)
class Limits:
    """How much of the data is read at most.

    Attributes:
        max_batches: number of batches.
        max_seconds: since `begin`; at least one batch is read whatever it is.
        tol: how well the figures must be known for the pass to end.
        begin: reading of time.perf_counter.
        reason: what is said where the number of batches ends a pass.
    """

    max_batches: int | None = None
    max_seconds: float | None = None
    tol: float | None = None
    begin: float = field(default_factory=time.perf_counter)
    reason: str = "max_batches"

    def __post_init__(self) -> None:
        whole = isinstance(self.max_batches, int) and not isinstance(self.max_batches, bool)
        if self.max_batches is not None and not (whole and self.max_batches >= 1):
            raise FeatgeoError("max_batches", f"{self.max_batches!r}", "Pass a whole number of at least 1.")
        for name in ("max_seconds", "tol"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise FeatgeoError(name, f"{value!r}", "Pass a positive number.")

    def reached(self, batches: int, share: float = 1.0) -> str:
        """Which limit ends the pass after so many batches, empty where none does.

        Args:
            batches: read so far.
            share: of the seconds that this pass may use.
        """
        if self.max_batches is not None and batches >= self.max_batches:
            return self.reason
        if self.max_seconds is not None and time.perf_counter() - self.begin >= share * self.max_seconds:
            return "max_seconds"
        return ""


def checks() -> Iterator[int]:
    """After how many batches it is asked whether the figures have settled."""
    batches = float(FIRST_CHECK)
    while True:
        yield round(batches)
        batches *= CHECK_STEP


class First(Iterable[T]):
    """The first so many batches of data, pass after pass: what a pass that was ended early has read."""

    def __init__(self, data: Iterable[T], count: int) -> None:
        self.data, self.count = data, count

    def __len__(self) -> int:
        """Number of batches."""
        return self.count

    def __iter__(self) -> Iterator[T]:
        return islice(self.data, self.count)

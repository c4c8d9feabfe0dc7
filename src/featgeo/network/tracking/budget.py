"""What tracking may cost: the clock of training beside that of analyses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

RECENT = 3  # analyses of which the dearest is what the next one is expected to cost


@dataclass(frozen=True)
class Cost:
    """What tracking has cost so far.

    Attributes:
        analyses: number of analyses, failed ones included.
        seconds: that they took together.
        training_seconds: of training meanwhile, analyses not counted.
        put_off: number of steps at which an analysis was due and did not fit the budget.
        budget: most seconds of analysis per second of training.
    """

    analyses: int
    seconds: float
    training_seconds: float
    put_off: int
    budget: float

    @property
    def share(self) -> float:
        """Seconds of analysis per second of training."""
        return self.seconds / self.training_seconds if self.training_seconds > 0 else float(self.seconds > 0)

    def __str__(self) -> str:
        return (
            f"{self.analyses} analyses in {self.seconds:.3g} s, {self.share:.1%} of {self.training_seconds:.3g} s of "
            f"training (budget {self.budget:.1%}; put off at {self.put_off} steps)"
        )


class Meter:
    """Two clocks of which one runs at a time, and whether another analysis fits the budget.

    An analysis fits when the time of all analyses, with what the dearest of the last three took for the next, is at
    most ``budget`` times the time of training. Of the first one nothing is known beforehand, so it always fits; the
    following ones wait until the training has paid for it.

    Args:
        budget: most seconds of analysis per second of training.
        clock: seconds that only grow.
    """

    def __init__(self, budget: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.budget, self.clock = budget, clock
        self.costs: list[float] = []
        self.training = 0.0
        self.put_off = 0
        self._since: float | None = None

    def tick(self) -> None:
        """Note that training has gone on until now; the first call, or a first analysis, starts its clock."""
        now = self.clock()
        if self._since is not None:
            self.training += now - self._since
        self._since = now

    def fits(self) -> bool:
        """Whether another analysis fits the budget; where not, it counts as put off."""
        expected = max(self.costs[-RECENT:], default=0.0)
        fitting = not self.costs or sum(self.costs) + expected <= self.budget * self.training
        self.put_off += not fitting
        return fitting

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time inside as that of an analysis, not of training."""
        begin = self.clock()
        try:
            yield
        finally:
            now = self.clock()
            self.costs.append(now - begin)
            self._since = now

    def read(self) -> Cost:
        """The cost until now."""
        return Cost(len(self.costs), sum(self.costs), self.training, self.put_off, self.budget)

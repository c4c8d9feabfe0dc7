"""Whether the figures of all layers have settled, so that a pass over the data can end."""

from __future__ import annotations

import math
from collections.abc import Callable

from featgeo.network.layers import Layer
from featgeo.network.look import Outlook
from featgeo.network.precision import standard_errors
from featgeo.network.sweep import Sweep
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import Risk

HALF = 2  # checks after which the data have doubled

Figures = dict[str, tuple[float, float, float]]  # layer -> alignment, gain available, gain used


class Settling:
    """Asked again and again as the data grow; remembers what it saw.

    Figures have settled when for every layer the standard errors of the alignment and, relative to the gain available,
    of both gains are at most `tol`, and none of them has moved by more than `tol` since half as much data had been
    read. The second says what standard errors cannot: W* fits noise as well, so that with N samples figures are off by
    about a/N; what is left of that is what it lost while the data doubled.

    Args:
        tol: the tolerance.
        outcome: risk and output operating point of what has been found.
        layers: by name.
        weight_decay: λ.
    """

    def __init__(
        self,
        tol: float,
        outcome: Callable[[Sweep], tuple[Risk, OperatingPoint]],
        layers: dict[str, Layer],
        weight_decay: float,
    ) -> None:
        self.tol, self.outcome, self.layers, self.weight_decay = tol, outcome, layers, weight_decay
        self.history: list[Figures] = []

    def __call__(self, found: Sweep) -> bool:
        """Whether the figures have settled."""
        if (found.pair.covariance.diagonal()[found.width :] <= 0).all():
            return False  # one class so far, as in data that are sorted
        risk, output = self.outcome(found)
        figures: Figures = {}
        worst = 0.0
        for name, moments in found.layers.items():
            outlook = Outlook.of(self.layers[name], name, found, risk, output, self.weight_decay)
            stand = outlook.average()
            fit = outlook.fit(stand)
            unit = fit.gain_available or 1.0
            figures[name] = fit.alignment, fit.gain_available, fit.gain_used
            if moments.count <= outlook.whitener.rank + 1:
                worst = math.inf
            for error, size in zip(standard_errors(outlook, stand, fit), (1.0, unit, unit), strict=True):
                worst = max(worst, (error or 0.0) / size)
        self.history.append(figures)
        return worst <= self.tol and self._moved(figures) <= self.tol

    def _moved(self, figures: Figures) -> float:
        """The largest change since half the data; infinite where that was not looked at."""
        if len(self.history) <= HALF:
            return math.inf
        before, changes = self.history[-1 - HALF], [0.0]
        for name, (alignment, available, used) in figures.items():
            if name not in before:
                return math.inf
            unit = available or 1.0
            if math.isnan(alignment) != math.isnan(before[name][0]):
                return math.inf
            if not math.isnan(alignment):  # a layer without effect has none, and stays so
                changes.append(abs(alignment - before[name][0]))
            changes += [abs(available - before[name][1]) / unit, abs(used - before[name][2]) / unit]
        return max(changes)

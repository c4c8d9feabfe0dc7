"""Scores of several feature sets for one task, side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from featgeo.apply.transfer import TransferScore
from featgeo.errors import FeatgeoError
from featgeo.show.ranking import ranking_plot
from featgeo.show.style import Drawing


@dataclass(frozen=True)
class Ranking:
    """Scores of several feature sets for one task; higher is better.

    Attributes:
        scores: name -> method -> score, in the order in which the sets were given (for layers: called).
        methods: the first one orders the frame.
        skipped: name -> why there is no score.
        warnings: what is odd about the task or a set.
    """

    scores: dict[str, dict[str, TransferScore]]
    methods: tuple[str, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """The name with the highest score of the first method."""
        return max(self.scores, key=self._value)

    def _value(self, name: str) -> float:
        score = self.scores[name].get(self.methods[0])
        return -math.inf if score is None else score.value

    def to_frame(self, sort: bool = True) -> pd.DataFrame:
        """A row per feature set, the best first: features, and for every method the score and its standard error.

        Args:
            sort: by the first method; otherwise in the order given.
        """
        names = sorted(self.scores, key=self._value, reverse=True) if sort else list(self.scores)
        frame = pd.DataFrame(index=pd.Index(names, name="features of"))
        widths = [max((score.features for score in self.scores[name].values()), default=0) for name in names]
        frame["features"] = widths
        for method in self.methods:
            found = [self.scores[name].get(method) for name in names]
            frame[method] = [float("nan") if score is None else score.value for score in found]
            frame[f"{method} se"] = [
                float("nan") if score is None else score.standard_error for score in found
            ]
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the order given."""
        rows = {
            name: {method: vars(score) for method, score in found.items()}
            for name, found in self.scores.items()
        }
        return {
            "methods": list(self.methods),
            "scores": rows,
            "skipped": self.skipped,
            "warnings": list(self.warnings),
        }

    def plot(self, method: str | None = None, sort: bool = False) -> Drawing:
        """Dots with two standard errors to both sides.

        Args:
            method: which score; the first by default.
            sort: the best first; otherwise in the order given, which for layers is that of depth.
        """
        method = method or self.methods[0]
        if method not in self.methods:
            raise FeatgeoError("method", f"{method!r}", f"This ranking has: {', '.join(self.methods)}.")
        names = list(self.to_frame(sort).index)
        found = {name: self.scores[name][method] for name in names if method in self.scores[name]}
        unit = next(score.unit for score in found.values())
        return ranking_plot({name: (s.value, s.standard_error) for name, s in found.items()}, method, unit)

    def __str__(self) -> str:
        lines = [self.to_frame().to_string(float_format=lambda value: f"{value:.4g}")]
        lines += [f"skipped: {name} ({why})" for name, why in self.skipped.items()]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

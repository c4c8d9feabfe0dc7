"""Models built by a plan: at given ranks, within a budget, or within a given increase of the loss."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from torch import nn

from featgeo.apply.budget import allocate
from featgeo.apply.correct import cut_in_turn, truncate
from featgeo.apply.factor import dense_cost, thin_cost
from featgeo.apply.plan import Plan
from featgeo.apply.readout import refit_readout
from featgeo.apply.survey import measure
from featgeo.theory.losses import CanonicalLoss

TRIALS = 7  # budgets tried to meet a limit of the loss


@dataclass(frozen=True)
class Made:
    """A model that was built, with the metric and the ranks it was built by, and its loss on the data."""

    model: nn.Module
    metric: str
    ranks: dict[str, int | None]
    loss: float


@dataclass(frozen=True)
class Maker:
    """Builds compressed models by a plan."""

    plan: Plan
    refit: bool
    stages: int
    progress: bool

    def build(self, metric: str, ranks: dict[str, int | None]) -> Made:
        """The model with these ranks."""
        plan, cut = self.plan, copy.deepcopy(self.plan.model)
        outlook = plan.outlooks[metric]
        if self.refit:
            cut_in_turn(
                plan.run, plan.data, plan.layers, outlook.roots, ranks, cut, self.stages, self.progress
            )
            last = plan.found.readout
            if last in plan.layers and isinstance(plan.loss, CanonicalLoss) and any(ranks.values()):
                refit_readout(plan.run, cut, last, plan.data, plan.loss)
        else:
            thin = {name: outlook.modes[name].thin(r) for name, r in ranks.items() if r is not None}
            truncate(cut, plan.layers, thin)
        return Made(cut, metric, ranks, measure(plan.run.on(cut), plan.data, plan.loss))

    def best(self, budget: int, search: bool) -> Made:
        """Of the plan's candidates, the one with the least loss on the data."""
        made: Made | None = None
        for metric, ranks in self.plan.candidates(budget):
            trial = self.build(metric, ranks)
            if made is None or trial.loss < made.loss:
                made = trial
            if not search:
                break
        assert made is not None
        return made

    def smallest(self, increase: float, search: bool) -> Made:
        """The smallest model found, by bisection of the budget, whose loss is larger by no more than this."""
        plan, limit = self.plan, self.plan.found.loss + increase
        low, high = plan.least, plan.total
        found: Made | None = None
        budget = self._guess(increase)
        for _ in range(TRIALS):
            trial = self.best(budget, search)
            if trial.loss <= limit:
                found, high = trial, min(budget, self.cost(trial.ranks))
            else:
                low = budget
            budget = int(math.sqrt(low * high))
            if high - low < 0.01 * plan.total:
                break
        if found is None:
            found = self.best(plan.total, search)
        return found

    def _guess(self, increase: float) -> int:
        """The least budget whose predicted increases add up to no more than this."""
        plan = self.plan
        options = next(iter(plan.outlooks.values())).options(plan.layers)
        low, high = plan.least, plan.total
        while high - low > max(1, plan.total // 1000):
            middle = (low + high) // 2
            chosen = allocate(options, middle)
            if sum(option.loss for option in chosen.values()) <= increase:
                high = middle
            else:
                low = middle
        return high

    def cost(self, ranks: dict[str, int | None]) -> int:
        """Parameters of the layers considered at these ranks."""
        return sum(
            dense_cost(layer) if ranks[name] is None else thin_cost(layer, ranks[name] or 0)
            for name, layer in self.plan.layers.items()
        )

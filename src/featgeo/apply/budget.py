"""Which rank each layer gets: a knapsack with one choice a layer, by predicted loss per parameter.

Every layer offers its ranks and 'dense'. The choices that some price λ of a parameter makes best (the lower convex
hull of loss against cost) are bought in order of loss saved per parameter, which is the exact optimum at the budgets
where the hull has its corners; what is left of the budget then buys whatever single exchange still saves most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from featgeo.errors import FeatgeoError


@dataclass(frozen=True)
class Option:
    """One choice for one layer.

    Attributes:
        cost: parameters.
        loss: predicted increase of the loss.
        rank: of the thin layers; None keeps the layer dense.
    """

    cost: int
    loss: float
    rank: int | None


def frontier(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull of loss against cost, cheapest first: every further choice costs more and loses less."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.cost, o.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _slope(hull[-1], option) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(one: Option, other: Option) -> float:
    """Loss saved per parameter."""
    return (one.loss - other.loss) / (other.cost - one.cost)


def allocate(layers: dict[str, list[Option]], budget: int) -> dict[str, Option]:
    """One option for each layer, together within the budget, of least predicted loss.

    Raises:
        FeatgeoError: where the cheapest options cost more than the budget.
    """
    hulls = {name: frontier(options) for name, options in layers.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    spent = sum(option.cost for option in chosen.values())
    if spent > budget:
        raise FeatgeoError(
            "budget",
            f"{budget} parameters for these layers, of which rank 1 everywhere needs {spent}",
            "Allow more, or exclude layers with layers=.",
        )
    steps = sorted(
        ((_slope(a, b), name, i) for name, hull in hulls.items() for i, (a, b) in enumerate(pairwise(hull))),
        reverse=True,
    )
    for _, name, i in steps:
        option = hulls[name][i + 1]
        more = option.cost - chosen[name].cost
        if chosen[name] is hulls[name][i] and spent + more <= budget:
            chosen[name], spent = option, spent + more
    while True:
        left = budget - spent
        better = [
            (chosen[name].loss - option.loss, name, option)
            for name, options in layers.items()
            for option in options
            if option.loss < chosen[name].loss and option.cost - chosen[name].cost <= left
        ]
        if not better:
            return chosen
        _, name, option = max(better, key=lambda item: item[0])
        spent += option.cost - chosen[name].cost
        chosen[name] = option


def uniform(layers: dict[str, list[Option]], share: float) -> dict[str, Option]:
    """In every layer the choice of least predicted loss within the same share of its dense cost."""
    chosen = {}
    for name, options in layers.items():
        dense = max(option.cost for option in options)
        within = [option for option in options if option.cost <= share * dense]
        if not within:
            least = min(option.cost for option in options) / dense
            raise FeatgeoError(
                "budget", f"{share:.3f} of layer '{name}', which needs {least:.3f}", "Allow more."
            )
        chosen[name] = min(within, key=lambda option: (option.loss, option.cost))
    return chosen

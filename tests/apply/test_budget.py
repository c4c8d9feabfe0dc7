"""The allocation of ranks against all combinations."""

from __future__ import annotations

import itertools

import pytest
import torch

from featgeo.apply.budget import Option, allocate, frontier
from featgeo.errors import FeatgeoError


def problem(seed: int, layers: int = 3, ranks: int = 5) -> dict[str, list[Option]]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for layer in range(layers):
        losses = torch.rand(ranks, generator=generator).sort(descending=True).values.tolist()
        each = int(torch.randint(3, 12, (1,), generator=generator))
        options = [Option(each * (r + 1), loss, r + 1) for r, loss in enumerate(losses)]
        made[str(layer)] = [*options, Option(each * (ranks + 2), 0.0, None)]
    return made


def brute(layers: dict[str, list[Option]], budget: int) -> float:
    sums = [
        (sum(o.cost for o in choice), sum(o.loss for o in choice))
        for choice in itertools.product(*layers.values())
    ]
    return min(loss for cost, loss in sums if cost <= budget)


@pytest.mark.parametrize("seed", range(10))
def test_exact_at_the_corners_and_never_over_budget(seed: int) -> None:
    layers = problem(seed)
    hulls = {name: frontier(options) for name, options in layers.items()}
    steps = sorted(
        ((a.loss - b.loss) / (b.cost - a.cost), b.cost - a.cost)
        for hull in hulls.values()
        for a, b in itertools.pairwise(hull)
    )[::-1]
    corner = sum(hull[0].cost for hull in hulls.values())
    for _, more in steps:
        corner += more
        chosen = allocate(layers, corner)
        assert sum(o.loss for o in chosen.values()) == pytest.approx(brute(layers, corner), abs=1e-12)
    full = sum(options[-1].cost for options in layers.values())
    for budget in range(corner // 3, full, 3):
        try:
            chosen = allocate(layers, budget)
        except FeatgeoError:
            assert budget < sum(options[0].cost for options in layers.values())
            continue
        assert sum(o.cost for o in chosen.values()) <= budget
        worst_step = max(a.loss - b.loss for hull in hulls.values() for a, b in itertools.pairwise(hull))
        assert sum(o.loss for o in chosen.values()) <= brute(layers, budget) + worst_step


def test_all_dense_where_there_is_room() -> None:
    layers = problem(0)
    assert all(o.rank is None for o in allocate(layers, 10_000).values())


def test_too_little() -> None:
    with pytest.raises(FeatgeoError, match="rank 1 everywhere needs"):
        allocate(problem(0), 3)

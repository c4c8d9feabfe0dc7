"""The clocks: training and analyses are told apart, and analyses stay within their share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featgeo.network.tracking.budget import Meter


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(budget: float, steps: list[float], costs: list[float]) -> list[tuple[float, float, int]]:
    """(tracking, training, analyses) after each step of a loop in which an analysis is always due."""
    clock, seen = Clock(), []
    meter, left = Meter(budget, clock), iter(costs)
    meter.tick()
    for step in steps:
        clock.now += step
        meter.tick()
        if meter.fits():
            with meter.spending():
                clock.now += next(left)
        cost = meter.read()
        seen.append((cost.seconds, cost.training_seconds, cost.analyses))
    return seen


def test_time_of_analyses_is_not_time_of_training() -> None:
    seen = run(0.5, [1.0] * 4, [0.25] * 4)
    assert seen == [(0.25, 1.0, 1), (0.5, 2.0, 2), (0.75, 3.0, 3), (1.0, 4.0, 4)]


def test_the_first_step_or_analysis_starts_the_clock() -> None:
    clock = Clock()
    meter = Meter(0.1, clock)
    clock.now += 1000
    meter.tick()
    assert meter.read().training_seconds == 0
    other = Meter(0.1, clock)
    with other.spending():  # before the loop
        clock.now += 3
    assert other.read().share == 1.0
    clock.now += 59
    other.tick()
    assert not other.fits()
    clock.now += 1
    other.tick()
    assert other.fits()
    assert (other.read().training_seconds, other.read().put_off) == (60, 1)


def test_an_analysis_that_raises_is_paid_for() -> None:
    clock = Clock()
    meter = Meter(0.1, clock)

    def fail() -> None:
        with meter.spending():
            clock.now += 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert meter.read().seconds == 2.0


@given(
    st.floats(0.01, 2.0),
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=60),
    st.floats(0.001, 5.0),
)
def test_with_steady_costs_the_share_is_never_above_the_budget_once_the_first_is_paid(
    budget: float, steps: list[float], cost: float
) -> None:
    for spent, trained, analyses in run(budget, steps, [cost] * len(steps)):
        assert spent <= max(cost, budget * trained) * (1 + 1e-9)
        assert analyses >= 1


@given(
    st.lists(st.floats(0.5, 2.0), min_size=5, max_size=60),
    st.lists(st.floats(0.1, 0.4), min_size=60, max_size=60),
)
def test_with_unsteady_costs_it_is_above_by_one_misjudged_analysis_at_most(
    steps: list[float], costs: list[float]
) -> None:
    budget = 0.2
    for spent, trained, analyses in run(budget, steps, costs):
        assert spent <= max(costs[0], budget * trained + max(costs) - min(costs)) * (1 + 1e-9)
        assert analyses >= 1


def test_a_generous_budget_puts_nothing_off() -> None:
    assert run(10.0, [1.0] * 20, [1.0] * 20)[-1][2] == 20


def test_the_cost_says_what_it_is() -> None:
    clock = Clock()
    meter = Meter(0.25, clock)
    meter.tick()
    clock.now += 10
    meter.tick()
    with meter.spending():
        clock.now += 1
    assert str(meter.read()) == (
        "1 analyses in 1 s, 10.0% of 10 s of training (budget 25.0%; put off at 0 steps)"
    )

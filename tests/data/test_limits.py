"""When a pass ends, and what later passes read."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from featgeo.data.limits import FIRST_CHECK, First, Limits, checks
from featgeo.errors import FeatgeoError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batches": 0}, "max_batches: found 0"),
        ({"max_batches": 1.5}, r"max_batches: found 1\.5"),
        ({"max_batches": True}, "max_batches: found True"),
        ({"max_seconds": 0}, "max_seconds: found 0"),
        ({"max_seconds": float("nan")}, "max_seconds: found nan"),
        ({"max_seconds": "1"}, "max_seconds: found '1'"),
        ({"tol": -1e-3}, r"tol: found -0\.001"),
        ({"tol": float("inf")}, "tol: found inf"),
    ],
)
def test_limits_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FeatgeoError, match=message):
        Limits(**options)


def test_the_limit_that_is_reached_is_named() -> None:
    limits = Limits(max_batches=3)
    assert [limits.reached(count) for count in (1, 2, 3, 4)] == ["", "", "max_batches", "max_batches"]
    assert Limits(max_batches=3, reason="max_seconds").reached(3) == "max_seconds"
    late = Limits(max_seconds=10, begin=time.perf_counter() - 6)
    assert late.reached(1) == ""
    assert late.reached(1, share=0.5) == "max_seconds"
    assert Limits().reached(10**9) == ""


def test_checks_double_the_data_every_second_time() -> None:
    found = list(itertools.islice(checks(), 11))
    assert found[0] == FIRST_CHECK
    assert all(later == 2 * earlier for earlier, later in itertools.pairwise(found[::2]))
    assert found == sorted(set(found))


def test_a_later_pass_reads_what_the_first_has_read() -> None:
    data = First([1, 2, 3, 4, 5], 3)
    assert list(data) == list(data) == [1, 2, 3]
    assert len(data) == 3

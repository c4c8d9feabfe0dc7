"""The operating points put to the test: the quick run passes and is drawn."""

from featgeo.experiments.operating_points import POINTS, draw, run
from featgeo.experiments.record import Result, Settings


def test_the_quick_run_passes_and_is_drawn() -> None:
    result = run(Settings(quick=True))
    assert result.passed, [check for check in result.checks if not check.passed]
    read = Result.from_dict(result.to_dict())
    assert {row["at"] for row in read.series["rows"]} == set(POINTS)
    assert set(draw(read)) == set(read.captions)

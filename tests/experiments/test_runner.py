"""The runner, on experiments made for the purpose."""

import json
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from featgeo.errors import FeatgeoError
from featgeo.experiments.page import write_page
from featgeo.experiments.record import Experiment, Result, Settings, Skip, Table, at_least, at_most, holds
from featgeo.experiments.runner import code_of, validate

CALLS = []


def result(value=3.0):
    return Result(
        tables=[Table("Found", ["name", "value"], [["a", value], ["b", None]])],
        numbers={"value": value},
        checks=[at_least("value", value, 2.8)],
        verdict=f"It is {value:.1f}.",
        series={"points": [1.0, value]},
        captions={"line": "A line."},
    )


def draw(found: Result):
    figure = Figure()
    figure.subplots().plot(found.series["points"])
    return {"line": figure}


def good(settings: Settings):
    CALLS.append("good")
    settings.progress(0.5, "half")
    return result()


def bad(settings: Settings):
    CALLS.append("bad")
    return result(2.0)


def broken(settings: Settings):
    raise ZeroDivisionError("one over nothing")


def absent(settings: Settings):
    raise Skip("Fashion-MNIST", "apt install dataset-fashion-mnist")


def interrupted(settings: Settings):
    raise KeyboardInterrupt


def experiment(name, run):
    return Experiment(name, f"Title of {name}", "It holds.", "By trying.", run, draw)


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


def go(out, *experiments, **options):
    return validate(out=out, progress=False, catalogue=experiments, **options)


def record(out, name):
    return json.loads((out / "results" / f"{name}.json").read_text("utf-8"))


def test_a_finished_experiment_is_not_run_again_after_an_interruption(tmp_path):
    first, second = experiment("good", good), experiment("second", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, first, second)
    assert CALLS == ["good"]
    assert go(tmp_path, first, replace(second, run=bad)) == 1
    assert CALLS == ["good", "bad"]
    assert "Title of good" in (tmp_path / "validation.md").read_text("utf-8")


@pytest.mark.parametrize("change", [{"seed": 1}, {"quick": True}, {"fresh": True}])
def test_other_settings_are_run(tmp_path, change):
    one = experiment("good", good)
    go(tmp_path, one)
    go(tmp_path, one, **change)
    assert CALLS == ["good", "good"]


def test_other_code_or_versions_are_run(tmp_path):
    one = experiment("good", good)
    go(tmp_path, one)
    stored = tmp_path / "results" / "good.json"
    for path in (("code",), ("versions", "torch")):
        old = json.loads(stored.read_text("utf-8"))
        place = old["key"]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = "another"
        stored.write_text(json.dumps(old), "utf-8")
        CALLS.clear()
        go(tmp_path, one)
        assert CALLS == ["good"], path


def test_a_lost_figure_is_drawn_again_without_running(tmp_path):
    one = experiment("good", good)
    go(tmp_path, one)
    picture = tmp_path / "figures" / "good-line.svg"
    before = picture.read_bytes()
    picture.unlink()
    go(tmp_path, one)
    assert CALLS == ["good"]
    assert picture.read_bytes() == before


def test_failures_are_shown_and_make_the_exit_status(tmp_path):
    assert go(tmp_path, experiment("good", good)) == 0
    assert go(tmp_path, experiment("bad", bad), experiment("broken", broken), experiment("good", good)) == 1
    page = (tmp_path / "validation.md").read_text("utf-8")
    assert "| [Title of bad](#bad) | ❌ fails | 0 of 1 |" in page
    assert "| value | 2.0 | ≥ 2.8 | ❌ fails |" in page.replace("| 2 |", "| 2.0 |")
    assert "❌ broke off" in page
    assert "ZeroDivisionError: one over nothing" in page
    assert record(tmp_path, "broken")["status"] == "error"


def test_failures_are_run_again(tmp_path):
    for _ in range(2):
        go(tmp_path, experiment("bad", bad))
    assert CALLS == ["bad", "bad"]


def test_a_figure_that_cannot_be_drawn_is_a_failure(tmp_path):
    one = replace(experiment("good", good), draw=lambda found: {"line": found.series["nothing"]})
    assert go(tmp_path, one) == 1
    assert "KeyError" in record(tmp_path, "good")["reason"]


def test_an_experiment_without_checks_does_not_pass(tmp_path):
    assert go(tmp_path, experiment("idle", lambda settings: Result())) == 1


def test_missing_data_is_shown_as_skipped_with_the_remedy(tmp_path):
    assert go(tmp_path, experiment("absent", absent), experiment("good", good)) == 0
    page = (tmp_path / "validation.md").read_text("utf-8")
    assert "⏭️ skipped" in page
    assert "apt install dataset-fashion-mnist" in page


def test_only_runs_the_named_and_keeps_the_others_on_the_page(tmp_path):
    both = experiment("good", good), experiment("bad", bad)
    go(tmp_path, *both)
    CALLS.clear()
    assert go(tmp_path, *both, only=["good"], fresh=True) == 0
    assert CALLS == ["good"]
    page = (tmp_path / "validation.md").read_text("utf-8")
    assert page.index("Title of good") < page.index("Title of bad")


def test_an_unknown_name_and_an_unwritable_folder_are_refused(tmp_path):
    with pytest.raises(FeatgeoError, match=r"^only: found nothing"):
        go(tmp_path, experiment("good", good), only=["nothing"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FeatgeoError, match=r"^out: "):
        go(tmp_path / "file", experiment("good", good))


def test_figures_are_the_same_bytes_and_small(tmp_path):
    for place in ("a", "b"):
        go(tmp_path / place, experiment("good", good))
    for end in ("png", "svg"):
        one, two = ((tmp_path / p / "figures" / f"good-line.{end}").read_bytes() for p in ("a", "b"))
        assert one == two
        assert len(one) < 150 * 1024


def test_the_page_comes_from_the_results_alone(tmp_path):
    go(tmp_path, experiment("good", good))
    page = tmp_path / "validation.md"
    before = page.read_text("utf-8")
    stored = tmp_path / "results" / "good.json"
    changed = json.loads(stored.read_text("utf-8"))
    changed["tables"][0]["rows"][0][1] = 4.25
    stored.write_text(json.dumps(changed), "utf-8")
    write_page(tmp_path / "results", page)
    assert page.read_text("utf-8") == before.replace("| a | 3 |", "| a | 4.25 |")


def test_results_survive_json():
    found = result(float("nan"))
    assert not found.passed
    back = Result.from_dict(json.loads(json.dumps(found.to_dict())))
    assert back.tables[0].rows[0] == ["a", None]
    assert back.checks[0].value is None
    with pytest.raises(TypeError, match=r"result\.numbers\.x is a set"):
        Result(numbers={"x": {1}}).to_dict()


def test_checks_compare_and_nan_never_passes():
    assert at_least("x", 3.0, 3.0).passed
    assert not at_least("x", 2.9, 3.0).passed
    assert at_most("x", 3.0, 3.0).passed
    assert not at_most("x", 3.1, 3.0).passed
    assert not at_least("x", float("nan"), 3.0).passed
    assert not at_most("x", float("nan"), 3.0).passed
    assert holds("x", True).passed
    assert not holds("x", False).passed
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("t", ["a", "b"], [[1]])


def test_the_digest_covers_what_an_experiment_imports():
    digests = {code_of(f"featgeo.experiments.{name}") for name in ("order", "hidden", "saturation", "exact")}
    assert len(digests) == 4

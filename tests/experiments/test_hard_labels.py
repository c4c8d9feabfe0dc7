"""Collapse, and the head in one step."""

import pytest
import torch

from featgeo import local_problem
from featgeo.experiments.collapse import collapse, duality, head_formula
from featgeo.network.analyze import analyze

COUNTS = (5, 8, 12, 15)


def labels() -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))


def test_the_rank_solution_of_deterministic_labels_is_collapsed_as_derived() -> None:
    joint = torch.nn.functional.one_hot(labels()).double() / len(labels())
    problem = local_problem(joint.numpy())
    assert problem.singular_values[:3].tolist() == pytest.approx([1] * 3, abs=1e-12)
    solution = problem.low_rank(3)
    for whitened in (False, True):
        found = collapse(solution.feature, labels(), whitened)
        assert max(found[key] for key in ("within", "angle", "spread")) < 1e-9
        assert found["equiangular"] > 0.05  # the classes are not balanced: no simplex
    assert duality(solution.weight, solution.feature, labels()) == pytest.approx(1, abs=1e-9)


def test_mixed_features_are_collapsed_only_when_whitened() -> None:
    joint = torch.nn.functional.one_hot(labels()).double() / len(labels())
    feature = (
        local_problem(joint.numpy()).low_rank(3).feature @ torch.diag(torch.tensor([5.0, 1.0, 0.2])).double()
    )
    assert collapse(feature, labels(), False)["angle"] > 0.1
    assert collapse(feature, labels(), True)["angle"] < 1e-9


def test_one_step_head_and_within_class_variance_from_the_spectrum() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    features = centres[labels()] + 0.5 * torch.randn(
        len(labels()), 6, generator=generator, dtype=torch.float64
    )
    model = torch.nn.Linear(6, 4, dtype=torch.float64)
    view = analyze(model, (features, labels()))[""].view("average")
    assert view.optimal_weight is not None
    assert head_formula(features, labels(), view.optimal_weight) < 1e-9
    assert head_formula(features, labels(), 1.1 * view.optimal_weight) > 0.05
    predicted = sum(value**-2 - 1 for value in view.spectrum[:3]) / 4
    assert collapse(features, labels(), True)["within"] == pytest.approx(predicted, rel=1e-9)

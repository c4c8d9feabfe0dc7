"""Modes during training."""

import math

import pytest
import torch
from torch import nn

from featgeo import local_problem
from featgeo.experiments.modes_over_time import (
    Task,
    descend,
    graded_table,
    half_times,
    network,
    predicted_half_times,
    table_task,
)


def test_graded_table_has_the_singular_values_asked_for() -> None:
    values = (0.2, 0.1, 0.05)
    joint = graded_table(8, 5, values, torch.Generator().manual_seed(0))
    problem = local_problem(joint.numpy())
    assert problem.singular_values[:3].tolist() == pytest.approx(list(values), abs=1e-12)
    assert joint.sum(0).tolist() == pytest.approx([0.2] * 5, abs=1e-14)
    assert graded_table(8, 5, (3.0, 1.0), torch.Generator().manual_seed(0)).min() >= 0


def test_task_has_the_modes_of_the_local_problem() -> None:
    task = table_task(3, 0.2)
    problem = local_problem((task.targets / len(task.targets)).numpy())
    assert torch.allclose(task.values, problem.singular_values[: len(task.values)], atol=1e-12)


def test_the_local_optimum_has_strength_one_and_features_that_capture_every_mode() -> None:
    task = table_task(1, 0.1)
    solution = local_problem((task.targets / len(task.targets)).numpy()).low_rank(5)
    outputs = solution.feature @ solution.weight.T + solution.bias
    assert task.strengths(outputs).tolist() == pytest.approx([1] * 5, abs=1e-9)
    assert task.captured(solution.feature).tolist() == pytest.approx([1] * 5, abs=1e-9)
    assert task.angles(solution.feature[:, :2], 2).max() < 1e-3
    assert task.angles(solution.feature[:, 3:], 2).min() > 89.9


@pytest.mark.parametrize("seed", [7, 8])
def test_half_times_near_the_bayes_action(seed: int) -> None:
    task, rate, steps = table_task(seed, 0.005), 40.0, list(range(0, 2400, 20))
    model = network((10, 8, 6), nn.Identity, 0.01, seed, bias=False)
    basis = torch.linalg.qr(
        torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ).Q
    with torch.no_grad():  # one hidden direction a mode, so that modes do not meet
        model[0].weight.copy_(1.5e-3 * basis @ task.right.T)
        model[-1].weight.copy_(1.5e-3 * task.left @ basis.T)
    predicted = predicted_half_times(model, task, rate)
    strengths = []
    for _, state in descend(model, task, steps[-1], rate, 0.0, steps):
        model.load_state_dict(state)
        strengths.append(task.strengths(model(task.inputs).detach()).tolist())
    assert half_times(steps, strengths) == pytest.approx(predicted, rel=0.02)


def test_half_times_interpolate_and_say_where_there_is_none() -> None:
    times = half_times([0, 10, 20], [[0.0, 0.0], [0.25, 0.1], [0.75, 0.2]])
    assert times[0] == pytest.approx(15)
    assert math.isnan(times[1])


def test_modes_of_deterministic_labels_are_all_one() -> None:
    labels = torch.nn.functional.one_hot(torch.arange(40) % 4).double()
    task = Task.of(torch.eye(40, dtype=torch.float64), labels)
    assert task.values.tolist() == pytest.approx([1] * 3, abs=1e-12)

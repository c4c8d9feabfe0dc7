"""Bad input: every mistake is one FeatgeoError that names the argument."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from featgeo import FeatgeoError

JOINT = np.array([[0.2, 0.1, 0.05], [0.1, 0.2, 0.05], [0.05, 0.05, 0.2]])
PROBLEM = fg.local_problem(JOINT)


@pytest.fixture(autouse=True)
def _without_type_checker() -> Iterator[None]:
    """Users run without it, and mistyped arguments are among the mistakes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def tail() -> nn.Module:
    return nn.Sequential(nn.Tanh(), nn.Linear(4, 3)).double()


def replaced(value: float) -> np.ndarray:
    table = JOINT.copy()
    table[1, 2] = value
    return table


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target[:, None]).square().sum(1)


JOINTS: dict[str, tuple[object, str]] = {
    "negative": (replaced(-0.1), r"negative entry at \[1, 2\]"),
    "nan": (replaced(float("nan")), "NaN or infinite"),
    "infinite": (replaced(float("inf")), "NaN or infinite"),
    "zeros": (JOINT * 0, "only zeros"),
    "one dimension": (JOINT[0], r"shape \(3,\)"),
    "three dimensions": (JOINT[None], r"shape \(1, 3, 3\)"),
    "empty": (np.zeros((0, 3)), r"shape \(0, 3\)"),
    "text": ([["a", "b"]], "not numeric"),
    "ragged": ([[1, 2], [3]], "not numeric"),
    "complex": (JOINT + 1j, "complex"),
    "complex tensor": (torch.tensor(JOINT) + 1j, "complex"),
    "unequal columns": (([1, 2], [1]), "sample columns"),
    "empty columns": (([], []), "sample columns"),
    "three columns": (([1], [1], [1]), "tuple of 3"),
    "none": (None, "NaN"),
}


@pytest.mark.parametrize(("joint", "found"), JOINTS.values(), ids=JOINTS)
def test_joint(joint: object, found: str) -> None:
    with pytest.raises(FeatgeoError, match=rf"^joint: found .*{found}"):
        fg.local_problem(joint)


VALUES: dict[str, tuple[str, object, str]] = {
    "label too large": ("cross_entropy", [0, 1, 7], "labels from 0 to 7 for 3 outputs"),
    "negative label": ("cross_entropy", torch.tensor([0, 1, -1]), "labels from -1"),
    "float labels": ("cross_entropy", [0.0, 1.0, 2.0], "float64"),
    "soft labels do not sum to one": ("cross_entropy", JOINT, "do not sum to 1"),
    "negative soft labels": ("cross_entropy", [[2.0, -1.0, 0.0], [1, 0, 0], [0, 1, 0]], "negative"),
    "too few labels": ("cross_entropy", [0, 1], r"shape \(2,\) for 3 columns"),
    "text labels": ("cross_entropy", ["a", "b", "c"], "not numeric"),
    "none for mse": ("mse", None, "none"),
    "none for bce": ("bce", None, "none"),
    "too few": ("mse", [1.0, 2.0], r"shape \(2,\) for 3 columns"),
    "a scalar": ("mse", 3.0, r"shape \(\)"),
    "nan": ("mse", [1.0, float("nan"), 2.0], "NaN"),
    "infinite": ("poisson", [1.0, float("inf"), 2.0], "infinite"),
    "text": ("mse", ["a", "b", "c"], "not numeric"),
    "three dimensions": ("mse", np.zeros((3, 2, 2)), "shape"),
    "outside the unit interval": ("bce", [0.0, 1.0, 2.0], r"outside \[0, 1\]"),
    "negative counts": ("poisson", [0, 1, -2], "negative"),
}


@pytest.mark.parametrize(("loss", "values", "found"), VALUES.values(), ids=VALUES)
def test_y_values(loss: str, values: object, found: str) -> None:
    with pytest.raises(FeatgeoError, match=rf"^y_values: found .*{found}"):
        fg.local_problem(JOINT, loss=loss, y_values=values)


LOSSES: dict[str, tuple[object, str]] = {
    "unknown name": ("hinge", "'hinge'.*Known names: bce, cross_entropy, mse, poisson"),
    "no loss": (3, "int"),
    "BCELoss": (nn.BCELoss(), "nn.BCELoss, which wants probabilities.*BCEWithLogitsLoss"),
    "L1Loss": (nn.L1Loss(), "nn.L1Loss, whose second derivative is zero"),
    "scalar": (lambda z, y: squared(z, y).mean(), r"shape \(\) returned for 3 samples.*reduction='none'"),
    "matrix": (lambda z, y: (z - y[:, None]).square(), r"shape \(3, 1\) returned"),
    "no tensor": (lambda z, y: 3.0, "a float returned"),
    "absolute": (lambda z, y: (z - y[:, None]).abs().sum(1), "no second derivative"),
}


@pytest.mark.parametrize(("loss", "found"), LOSSES.values(), ids=LOSSES)
def test_loss(loss: object, found: str) -> None:
    with pytest.raises(FeatgeoError, match=rf"^loss: found .*{found}"):
        fg.local_problem(JOINT, loss=loss, y_values=[0.0, 1.0, 1.0], width=1)


CALLS: dict[str, tuple[str, Callable[[], object]]] = {
    "tail without width": ("width", lambda: fg.local_problem(JOINT, tail=tail())),
    "callable without width": (
        "width",
        lambda: fg.local_problem(JOINT, loss=squared, y_values=[0.0, 1.0, 2.0]),
    ),
    "wrong width": ("tail", lambda: fg.local_problem(JOINT, tail=tail(), width=5)),
    "width zero": ("tail", lambda: fg.local_problem(JOINT, tail=tail(), width=0)),
    "negative width": ("tail", lambda: fg.local_problem(JOINT, tail=tail(), width=-1)),
    "single precision tail": ("tail", lambda: fg.local_problem(JOINT, tail=tail().float(), width=4)),
    "too few outputs": ("tail", lambda: fg.local_problem(JOINT, tail=nn.Linear(4, 2).double(), width=4)),
    "flat outputs": ("tail", lambda: fg.local_problem(JOINT, tail=lambda z: z.sum(1), width=4)),
    "nan outputs": ("tail", lambda: fg.local_problem(JOINT, tail=lambda z: z * float("nan"), width=3)),
    "start of another width": (
        "start",
        lambda: fg.local_problem(JOINT, tail=tail(), width=4, start=np.zeros(3)),
    ),
    "nan start": ("start", lambda: fg.local_problem(JOINT, tail=tail(), width=4, start=np.full(4, np.nan))),
    "unknown target": ("target", lambda: fg.local_problem(JOINT, target="exakt")),
    "unknown metric": ("metric", lambda: fg.local_problem(JOINT, metric="fisher")),
    "rank zero": ("k", lambda: PROBLEM.low_rank(0)),
    "negative rank": ("k", lambda: PROBLEM.low_rank(-2)),
    "fractional rank": ("k", lambda: PROBLEM.low_rank(1.5)),
    "negative decay": ("weight_decay", lambda: PROBLEM.optimal_weight(np.eye(3), weight_decay=-1e-9)),
    "nan decay": ("weight_decay", lambda: PROBLEM.optimal_weight(np.eye(3), weight_decay=float("nan"))),
    "infinite decay": ("weight_decay", lambda: PROBLEM.optimal_weight(np.eye(3), weight_decay=float("inf"))),
    "feature rows": ("feature", lambda: PROBLEM.optimal_weight(np.eye(4))),
    "feature dimensions": ("feature", lambda: PROBLEM.optimal_weight(np.zeros((3, 1, 1)))),
    "nan feature": ("feature", lambda: PROBLEM.optimal_weight(np.full((3, 2), np.nan))),
    "text feature": ("feature", lambda: PROBLEM.optimal_weight([["a"], ["b"], ["c"]])),
    "weight rows": ("weight", lambda: PROBLEM.optimal_feature(np.eye(4))),
    "flat weight": ("weight", lambda: PROBLEM.optimal_feature(np.zeros(3))),
    "infinite weight": ("weight", lambda: PROBLEM.optimal_feature(np.full((3, 1), np.inf))),
    "bias for features": ("bias", lambda: PROBLEM.optimal_feature(np.eye(3), np.zeros(2))),
    "widths differ": ("weight", lambda: PROBLEM.local_loss(np.zeros((3, 2)), np.zeros(3), np.zeros((3, 1)))),
    "widths differ, exact": (
        "weight",
        lambda: PROBLEM.exact_loss(np.zeros((3, 2)), np.zeros(3), np.zeros((3, 1))),
    ),
    "bias of another width": (
        "bias",
        lambda: PROBLEM.local_loss(np.zeros((3, 2)), np.zeros(2), np.zeros((3, 2))),
    ),
    "scalar bias": ("bias", lambda: PROBLEM.exact_loss(np.zeros((3, 2)), 0.0, np.zeros((3, 2)))),
    "row beyond the table": ("x", lambda: PROBLEM.divergence(3)),
    "negative row": ("x", lambda: PROBLEM.divergence(-1)),
}


@pytest.mark.parametrize(("argument", "call"), CALLS.values(), ids=CALLS)
def test_argument(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(FeatgeoError, match=rf"^{argument}: found ") as caught:
        call()
    assert caught.value.argument == argument
    assert caught.value.found
    assert caught.value.remedy


def test_the_error_is_a_value_error_that_survives_pickling() -> None:
    with pytest.raises(FeatgeoError) as caught:
        PROBLEM.low_rank(0)
    assert isinstance(caught.value, ValueError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.argument, copy.found, copy.remedy) == (
        caught.value.argument,
        caught.value.found,
        caught.value.remedy,
    )
    assert str(copy) == str(caught.value)


def test_what_is_unusual_but_right_is_accepted() -> None:
    """Lists, integers, half precision, tensors that ask for gradients, more modes than there are."""
    assert fg.local_problem([[3, 1], [1, 3]]).dependence == pytest.approx(0.5)
    assert fg.local_problem(torch.ones(3, 3, dtype=torch.float16)).dependence == pytest.approx(0.0)
    assert not fg.local_problem(torch.tensor(JOINT, requires_grad=True)).B.requires_grad
    assert PROBLEM.low_rank(9).feature.shape == (3, 9)
    assert torch.equal(PROBLEM.low_rank(9).weight[:, 2:], torch.zeros(3, 7).double())
    flat, column = PROBLEM.optimal_weight([1.0, 2.0, 4.0]), PROBLEM.optimal_weight([[1.0], [2.0], [4.0]])
    assert torch.equal(flat[0], column[0])


def test_a_loss_without_a_second_derivative_is_refused() -> None:
    with pytest.raises(FeatgeoError, match="no second derivative of 'MultiMarginLoss'"):
        fg.local_problem(JOINT, loss=nn.MultiMarginLoss(), width=3)

"""From a joint distribution, a loss and a tail to the LocalProblem they define."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.theory.bayes import Tail, bayes_action
from featgeo.theory.joint import as_float64, joint_notes, read_joint
from featgeo.theory.linalg import psd_factor, thin_svd
from featgeo.theory.local import LocalProblem
from featgeo.theory.losses import CanonicalLoss, Loss
from featgeo.theory.named import LossLike, resolve_loss
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import conditional_risks, hessian_of, make_risk, output_scores

TARGETS = ("first_order", "exact")
METRICS = ("auto", "gauss_newton", "hessian")


def _read_targets(loss: Loss, size: int, y_values: ArrayLike | Tensor | None, labels: object) -> Tensor:
    """What the loss is given for each of the |Y| values of y."""
    if y_values is None and loss.name == "cross_entropy":
        return torch.arange(size)
    if y_values is None and labels is not None:
        y_values = labels  # type: ignore[assignment]
    if y_values is None:
        if isinstance(loss, CanonicalLoss):
            raise FeatgeoError(
                "y_values", "none", f"Loss '{loss.name}' needs the value of every y: (|Y|,) or (|Y|, d)."
            )
        return torch.arange(size)
    values = as_float64(y_values, "y_values")
    if values.shape[:1] != (size,):
        raise FeatgeoError(
            "y_values",
            f"shape {tuple(values.shape)} for {size} columns of the joint",
            "Pass one value per column.",
        )
    if loss.name == "cross_entropy":
        kind = (
            y_values.dtype if isinstance(y_values, Tensor) else torch.from_numpy(np.asarray(y_values)).dtype
        )
        return values.to(torch.int64) if values.ndim == 1 and not kind.is_floating_point else values
    return values[:, None] if values.ndim == 1 and isinstance(loss, CanonicalLoss) else values


def _displacement(
    loss: Loss,
    targets: Tensor,
    joint: Tensor,
    tail: Tail | None,
    point: OperatingPoint,
    factor: Tensor,
    exact: bool,
) -> Tensor:
    """t(x) (|X|, n): -H⁺ E[s(Y) | X=x], or the exact c_{Y|X=x} - c; zero where P_X(x) = 0."""
    if exact:
        risks = conditional_risks(loss, targets, joint, len(point.output))
        displacement = (
            torch.stack([bayes_action(risk, tail, point.action).action for risk in risks]) - point.action
        )
    else:
        scores = output_scores(loss, targets, point.output) @ point.jacobian
        p_x = joint.sum(1, keepdim=True)
        conditional = joint / torch.where(p_x > 0, p_x, 1.0)
        inverse = thin_svd(factor).pseudo_inverse
        displacement = -(conditional @ (scores - joint.sum(0) @ scores)) @ inverse @ inverse.T
    return torch.where(joint.sum(1)[:, None] > 0, displacement, 0.0)


def _output_width(tail: Tail, width: int) -> int:
    """Number of outputs of a tail, by running it once."""
    try:
        outputs = tail(torch.zeros(1, width, dtype=torch.float64))
    except RuntimeError as error:
        raise FeatgeoError(
            "tail",
            f"a failure on float64 input of shape (1, {width}): {error}",
            "Check width; call tail.double().",
        ) from error
    if outputs.ndim != 2 or not torch.isfinite(outputs).all():
        raise FeatgeoError(
            "tail", f"output of shape {tuple(outputs.shape)} or NaN", "A tail maps (m, n) to (m, d)."
        )
    return outputs.shape[1]


def local_problem(
    joint: ArrayLike | Tensor | tuple[object, object],
    loss: LossLike = "cross_entropy",
    *,
    y_values: ArrayLike | Tensor | None = None,
    tail: nn.Module | Tail | None = None,
    width: int | None = None,
    target: Literal["first_order", "exact"] = "first_order",
    metric: Literal["auto", "gauss_newton", "hessian"] = "auto",
    start: ArrayLike | Tensor | None = None,
) -> LocalProblem:
    """The local problem of one layer on a finite joint distribution.

    Args:
        joint: counts or probabilities joint[x, y], or a pair (x, y) of sample columns.
        loss: a named loss, a torch.nn loss module, or a per-sample callable.
        y_values: the target behind each y, (|Y|,) or (|Y|, d); not needed for cross_entropy.
        tail: everything after a hidden layer, activation included: maps z (m, n) to outputs (m, d), in float64.
        width: n, the number of neurons of the layer; needed with ``tail`` and for a callable loss.
        target: displacement t(x) to first order, or from the Bayes action of every P_{Y|X=x}.
        metric: ``gauss_newton``, the exact ``hessian``, or ``auto``: Gauss-Newton where the tail reaches the
            output's Bayes action, where the two agree, and the exact Hessian elsewhere.
        start: z (n,) from which a Bayes action without a closed form is searched; zeros by default.

    Returns:
        The problem. Assumptions that fail are in its ``warnings`` and are also warned about.

    Raises:
        FeatgeoError: where an argument does not describe a problem.
    """
    for argument, value, known in (("target", target, TARGETS), ("metric", metric, METRICS)):
        if value not in known:
            raise FeatgeoError(argument, repr(value), f"Known: {', '.join(known)}.")
    table, labels = read_joint(joint)
    chosen = resolve_loss(loss)
    targets = _read_targets(chosen, table.shape[1], y_values, labels)
    canonical = isinstance(chosen, CanonicalLoss)
    if width is None and (tail is not None or not canonical):
        raise FeatgeoError(
            "width", "none", "Pass the layer's number of neurons with a tail or a callable loss."
        )
    if tail is None:
        outputs = width if not canonical else table.shape[1] if targets.ndim == 1 else targets.shape[1]
    else:
        outputs = _output_width(tail, width or 0)
    try:
        targets = chosen.check(targets, outputs or 0)
    except FeatgeoError as error:  # the losses speak of targets; this function's user has y_values and a tail
        argument = "y_values" if y_values is not None or tail is None else "tail"
        raise FeatgeoError(argument, error.found, error.remedy) from error
    risk = make_risk(chosen, targets, table.sum(0), outputs or 0)
    begin = torch.zeros(width or 0, dtype=torch.float64) if start is None else as_float64(start, "start")
    if begin.shape != ((width or 0),):
        raise FeatgeoError("start", f"shape {tuple(begin.shape)}", f"Pass one value per neuron: ({width},).")
    point = bayes_action(risk, tail, begin)
    if (
        not canonical
        and not risk.factor(point.output).any()
        and output_scores(chosen, targets, point.output).any()
    ):
        raise FeatgeoError(
            "loss", f"no second derivative in '{chosen.name}' at the Bayes action", "Use a smooth loss."
        )
    notes = joint_notes(table) + point.notes()
    factor = point.factor
    if metric == "hessian" or (metric == "auto" and not point.reached):
        through: Tail = tail if tail is not None else (lambda z: z)
        factor, negative = psd_factor(hessian_of(lambda z: risk.value(through(z)), point.action))
        if negative < -1e-8:
            notes.append(
                f"layer: the exact Hessian has negative curvature ({negative:.1e} of its largest); cut off."
            )
    for note in notes:
        warnings.warn(note, FeatgeoWarning, stacklevel=2)
    exact = target == "exact"
    displacement = _displacement(chosen, targets, table, tail, point, factor, exact)
    return LocalProblem(table, chosen, targets, tail, point, factor, displacement, exact, tuple(notes))

"""solve_head(): the last layer of a network on given features, in one pass or at its exact optimum."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from featgeo.apply.fit import Fit, Problem, Refine, fit
from featgeo.apply.gather import WeightLike, gather
from featgeo.apply.model_features import model_features
from featgeo.apply.path import search_path
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.keep import undisturbed
from featgeo.network.layers import neurons_of
from featgeo.network.run import Forward
from featgeo.theory.named import LossLike, resolve_loss


@dataclass(frozen=True)
class Head:
    """A linear head z = W f + b.

    Attributes:
        weight: W (d, k), on the features' device.
        bias: b (d,), zero for a head without one.
        loss: name of the loss.
        weight_decay: λ of λ/2 ‖W‖².
        objective: mean loss + penalty, in loss units; NaN for a one-pass head, which has not seen it (but for ``mse``).
        predicted: what the local quadratic says the objective of a one-pass head is; far too low on hard labels.
        gap: how far the objective is above its minimum, as the last step estimates it; NaN for a one-pass head.
        steps: refining steps.
        passes: over all rows.
        converged: whether the exact optimum was reached; None where it was not asked for.
        path: of several weight decays, one row each: ``weight_decay``, ``objective``, and with ``cv`` the mean
            held-out loss ``cv_loss``, its standard error ``cv_error`` and the number of folds ``cv_folds``.
        warnings: what does not hold.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    loss: str
    weight_decay: float
    objective: float
    predicted: float = math.nan
    gap: float = math.nan
    steps: int = 0
    passes: int = 1
    converged: bool | None = None
    path: tuple[dict[str, float], ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()

    def __call__(self, features: Any) -> Tensor:
        """Outputs (m, d) of features (m, k), dense or sparse."""
        if sparse.issparse(features):
            product = features @ self.weight.to("cpu", torch.float64).numpy().T
            return torch.from_numpy(np.asarray(product)).to(self.weight) + self.bias
        return torch.as_tensor(features).to(self.weight) @ self.weight.T + self.bias

    def __str__(self) -> str:
        outputs, inputs = self.weight.shape
        lines = [
            f"head of {inputs:,} features and {outputs:,} outputs, {self.loss}, weight decay {self.weight_decay:.3g}"
        ]
        if math.isnan(self.objective):
            lines.append("one pass, objective not evaluated: refine='exact' gives the optimum")
        else:
            gap = f", about {self.gap:.1g} above the least" if self.gap > 0 else ""
            steps = f" after {self.steps} step{'' if self.steps == 1 else 's'}" if self.steps else ""
            lines.append(
                f"objective {self.objective:.6g}{gap}{steps}" + (", optimal" if self.converged else "")
            )
        if self.path:
            lines.append(f"weight decay chosen among {len(self.path)}; the path has all")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])

    def to_linear(self) -> nn.Linear:
        """The head as a layer."""
        outputs, inputs = self.weight.shape
        layer = nn.Linear(inputs, outputs, device=self.weight.device, dtype=self.weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return layer


def solve_head(
    features: Any,
    targets: Any = None,
    loss: LossLike = "cross_entropy",
    *,
    weight_decay: float | Sequence[float] = 0.0,
    refine: Refine = 0,
    sample_weight: WeightLike = None,
    cv: int = 5,
    layer: str | None = None,
    forward: Forward | None = None,
    outputs: int | None = None,
    bias: bool = True,
    tolerance: float = 1e-9,
    max_steps: int = 200,
    progress: bool = False,
) -> Head:
    """The best linear head on given features: the local solution in one pass, or refined to the exact optimum.

    The objective is the mean loss plus λ/2 ‖W‖², the bias unpenalised. The local solution minimises its quadratic
    about the best constant output: W* = -H⁺ C Σ⁺ (exact for ``mse``). It is fast, a start, an initialisation; on hard
    labels it classifies about like a discriminant analysis, less well than the exact optimum.

    Args:
        features: (N, k), a tensor, array or SciPy sparse matrix; or a re-iterable of batches (features, targets), which
            may be larger than memory; or a model, whose features before ``layer`` are used. With a label per position
            (tokens, pixels) every labelled position is a row, and the last layer may be a convolution.
        targets: (N, ...) as the loss wants them; None with batches; with a model the data (a loader or a pair).
        loss: a name, a torch.nn loss, or a callable (outputs, targets) -> per-sample values.
        weight_decay: λ; or several, of which the one with the least cross-validated loss is taken.
        refine: 0: one pass. A number: that many Newton steps from there, one pass each. "exact": to the optimum.
        sample_weight: (N,), in the order of the rows; or a function (features, targets) -> weights (m,), which is what
            suits batches in random order.
        cv: folds, where there are several weight decays (stratified by class for hard labels).
        layer: with a model: the name of its last layer; found by itself where None.
        forward: with a model: called with it and the inputs of a batch, returns the outputs; as for
            :func:`featgeo.analyze`.
        outputs: number of outputs d, where the targets do not tell; with batches and integer labels it saves a pass.
        bias: whether the head has one.
        tolerance: relative gap to the minimum at which the exact optimum counts as reached.
        max_steps: most steps to it.
        progress: whether to show a progress bar.

    Returns:
        A :class:`Head`. What does not hold (an absent class, no convergence) is carried in it and warned about.

    Raises:
        FeatgeoError: where features, targets, weights and loss do not suit each other.
    """
    decays = _check_options(weight_decay, refine, cv, tolerance, max_steps)
    chosen = resolve_loss(loss)
    if isinstance(features, nn.Module):
        with undisturbed(features):
            batches = model_features(features, targets, layer, chosen.ignore_index, forward)
            return solve_head(
                batches,
                None,
                chosen,
                weight_decay=weight_decay,
                refine=refine,
                sample_weight=sample_weight,
                cv=cv,
                outputs=neurons_of(batches.layer),
                bias=batches.layer.bias is not None,
                tolerance=tolerance,
                max_steps=max_steps,
                progress=progress,
            )
    if layer is not None:
        raise FeatgeoError("layer", f"{layer!r} beside features", "It names a layer of a model.")
    if forward is not None:
        raise FeatgeoError("forward", f"{forward!r} beside features", "It calls a model.")
    rows, width = gather(features, targets, chosen, outputs, sample_weight, refine == 0 and len(decays) == 1)
    problem = Problem(rows, chosen, width, bias, refine, tolerance, max_steps, progress)
    if len(decays) == 1:
        return _head(problem, fit(problem, decays[0]), decays[0])
    path, best, found, notes = search_path(problem, decays, cv)
    return _head(problem, found, best, path, tuple(notes))


def _check_options(
    weight_decay: float | Sequence[float], refine: Refine, cv: int, tolerance: float, max_steps: int
) -> list[float]:
    """The weight decays, descending."""
    decays = [weight_decay] if isinstance(weight_decay, int | float) else list(weight_decay)
    if not decays or not all(isinstance(d, int | float) and 0 <= d < math.inf for d in decays):
        raise FeatgeoError("weight_decay", f"{weight_decay!r}", "Pass one or more numbers, at least 0.")
    if refine != "exact" and (not isinstance(refine, int) or isinstance(refine, bool) or refine < 0):
        raise FeatgeoError("refine", f"{refine!r}", "Pass 0, a number of steps, or 'exact'.")
    if len(decays) > 1 and (not isinstance(cv, int) or cv < 2):
        raise FeatgeoError("cv", f"{cv!r}", "Pass a number of folds, at least 2.")
    if not tolerance > 0:
        raise FeatgeoError("tolerance", f"{tolerance!r}", "It must be positive.")
    if max_steps < 1:
        raise FeatgeoError("max_steps", f"{max_steps!r}", "It must be at least 1.")
    return sorted({float(d) for d in decays}, reverse=True)


def _head(
    problem: Problem,
    found: Fit,
    weight_decay: float,
    path: tuple[dict[str, float], ...] = (),
    notes: tuple[str, ...] = (),
) -> Head:
    """The head in the features' precision, with what does not hold about it."""
    notes = (*notes, *_notes(problem, found))
    for text in notes:
        warnings.warn(text, FeatgeoWarning, stacklevel=3)
    rows, own = problem.rows, torch.float64
    if isinstance(rows.x, Tensor):
        own = rows.x.dtype
    elif rows.x is None and problem.local is not None:  # a stream of which nothing was held
        own = problem.local.precision
    return Head(
        weight=found.weight.to(own),
        bias=(found.bias if problem.bias else torch.zeros_like(found.bias)).to(own),
        loss=problem.loss.name,
        weight_decay=weight_decay,
        objective=found.value,
        predicted=found.predicted,
        gap=found.gap,
        steps=found.steps,
        passes=found.passes,
        converged=found.converged,
        path=path,
        warnings=notes,
    )


def _notes(problem: Problem, found: Fit) -> list[str]:
    """The assumptions that fail, in words."""
    notes, infinite = [], list(found.constant.infinite)
    if infinite and problem.loss.name == "cross_entropy":
        notes.append(f"data: classes {infinite[:8]} are absent; their outputs are constant.")
    elif infinite:
        notes.append(f"data: outputs {infinite[:8]} have constant targets; their best bias is infinite.")
    if not found.constant.converged:
        notes.append("the best constant output did not converge; it may lie at infinity.")
    if found.converged is False:
        notes.append(
            f"no convergence in {found.steps} steps: a further decrease of {found.gap:.1e} is promised. Without a "
            "penalty, classes that the features separate have no finite optimum: pass weight_decay > 0."
        )
    return notes

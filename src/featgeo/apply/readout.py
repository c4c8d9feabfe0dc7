"""The last layer of a cut network, refitted to what the whole network answers.

For a canonical loss A(g) - ⟨g, T⟩ the whole network's answer to x is the mean statistic ∇A(g(x)), and
E[A(g') - ⟨g', ∇A(g)⟩] is, up to a constant, the divergence of the cut network's answers from it. It is convex in the
last layer's weights, needs no labels, and is solved on white features, where L-BFGS meets no bad scaling. How far the
layer may leave its old outputs is chosen, where samples are few, by what a fit to every other one makes of the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featgeo.apply.correct import spread_of
from featgeo.data.batches import Batches
from featgeo.data.moments import Moments
from featgeo.network.layout import those
from featgeo.network.run import Runner, forward_batch
from featgeo.network.taps import tapping
from featgeo.theory.linalg import Whitener, whiten
from featgeo.theory.losses import CanonicalLoss

LEANS = (
    1e-3,
    1e-2,
    1e-1,
    1.0,
    math.inf,
)  # weights of the squared distance from the outputs before; no refit at last
ENOUGH = 8  # samples a feature from which the least lean will do
ENTRIES = 1 << 25  # most entries of features kept
STEPS = 100


@dataclass(frozen=True)
class _Frame:
    """White features of a last layer, with a column of ones where it has a bias."""

    whitener: Whitener
    shift: Tensor
    bias: bool

    @classmethod
    def of(cls, features: Tensor, last: nn.Linear) -> _Frame:
        moments, bias = Moments.of(features), last.bias is not None
        more = spread_of(moments) - moments.covariance.diagonal()
        whitener = whiten(moments.covariance + more.diag(), last.weight.dtype, moments.mean)
        return cls(whitener, moments.mean if bias else torch.zeros_like(moments.mean), bias)

    def sides(self, features: Tensor) -> Tensor:
        """(N, r), or (N, r + 1) with the ones."""
        white = self.whitener.white(features - self.shift)
        return torch.cat([white, torch.ones_like(white[:, :1])], 1) if self.bias else white


def _features(run: Runner, cut: nn.Module, last: nn.Linear, data: Batches) -> tuple[Tensor, Tensor]:
    """Features of the cut network's last layer (N, r) and outputs of the whole network (N, d), float64 on the CPU."""
    rows: list[Tensor] = []
    answers: list[Tensor] = []
    run_cut = run.on(cut)

    def keep(_name: str, x: Tensor, _output: Tensor) -> None:
        rows.append(x.detach().flatten(0, -2).cpu())

    entries = 0
    for number, (inputs, targets) in enumerate(data):
        outputs = forward_batch(run, inputs, number)
        with tapping({"": last}, keep):
            forward_batch(run_cut, inputs, number)
        _, kept = run.layout.labelled(outputs, targets)
        rows[-1] = those(rows[-1], kept)
        answers.append(those(outputs, kept).cpu())
        entries += rows[-1].numel()
        if entries > ENTRIES:
            break
    return torch.cat(rows).to(torch.float64), torch.cat(answers).to(torch.float64)


def refit_readout(run: Runner, cut: nn.Module, name: str, data: Batches, loss: CanonicalLoss) -> None:
    """Overwrite the last layer of a cut network (its second thin one) by the best for the whole network's answers."""
    last = _last(cut, name)
    features, answers = _features(run, cut, last, data)
    wanted = loss.mean(answers)
    old = torch.nn.functional.linear(features, *(p.detach().cpu().double() for p in last.parameters()))
    lean = _lean(loss, features, old, wanted, last)
    if math.isinf(lean):
        return
    frame = _Frame.of(features, last)
    found = _change(loss, frame.sides(features), old, wanted, lean)
    if not torch.isfinite(found).all():
        return
    weight = frame.whitener.back(found[:, : frame.whitener.rank])
    last.weight.data += weight.to(last.weight)
    if last.bias is not None:
        last.bias.data += (found[:, -1] - weight @ frame.shift).to(last.bias)


def _last(cut: nn.Module, name: str) -> nn.Linear:
    """The layer itself, or the second of its thin ones."""
    layer = cut.get_submodule(name)
    layer = layer[-1] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(layer, nn.Linear)
    return layer


def _divergence(loss: CanonicalLoss, outputs: Tensor, wanted: Tensor) -> Tensor:
    """E[A(g') - ⟨g', ∇A(g)⟩]."""
    return (loss.log_partition(outputs) - (outputs * wanted).sum(1)).mean()


def _change(loss: CanonicalLoss, sides: Tensor, old: Tensor, wanted: Tensor, lean: float) -> Tensor:
    """What is added to the outputs on white features (d, r)."""
    change = torch.zeros(old.shape[1], sides.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([change], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def objective() -> Tensor:
        solver.zero_grad()
        step = sides @ change.T
        value = _divergence(loss, old + step, wanted) + lean * step.square().sum(1).mean()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(objective)
    return change.detach()


def _lean(loss: CanonicalLoss, features: Tensor, old: Tensor, wanted: Tensor, last: nn.Linear) -> float:
    """The lean with which fits to one half of the samples answer most like the whole network on the other."""
    if len(features) >= ENOUGH * features.shape[1]:
        return LEANS[0]
    if len(features) < 4:
        return math.inf
    errors = [0.0] * len(LEANS)
    halves = slice(0, None, 2), slice(1, None, 2)
    for own, rest in (halves, halves[::-1]):
        frame = _Frame.of(features[own], last)
        sides, others = frame.sides(features[own]), frame.sides(features[rest])
        for i, lean in enumerate(LEANS):
            step = 0.0 if math.isinf(lean) else others @ _change(loss, sides, old[own], wanted[own], lean).T
            errors[i] += _divergence(loss, old[rest] + step, wanted[rest]).item()
    return LEANS[min(range(len(LEANS)), key=lambda i: (math.isnan(errors[i]), errors[i]))]

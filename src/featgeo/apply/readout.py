"""The last layer of a cut network, refitted to what the whole network answers.

For a canonical loss A(g) - ⟨g, T⟩ the whole network's answer to x is the mean statistic ∇A(g(x)), and
E[A(g') - ⟨g', ∇A(g)⟩] is, up to a constant, the divergence of the cut network's answers from it. It is convex in the
last layer's weights, needs no labels, and is solved on white features, where L-BFGS meets no bad scaling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featgeo.data.batches import Batches
from featgeo.data.moments import Moments
from featgeo.network.run import forward_batch, runner_of
from featgeo.network.taps import tapping
from featgeo.theory.linalg import whiten
from featgeo.theory.losses import CanonicalLoss

LEAN = 1e-3  # weight of the squared distance from the outputs before, against the loss
ENTRIES = 1 << 25  # most entries of features kept
STEPS = 100


def _features(whole: nn.Module, cut: nn.Module, last: nn.Linear, data: Batches) -> tuple[Tensor, Tensor]:
    """Features of the cut network's last layer (N, r) and outputs of the whole network (N, d), float64 on the CPU."""
    rows: list[Tensor] = []
    answers: list[Tensor] = []
    run_whole, run_cut = runner_of(whole), runner_of(cut)

    def keep(_name: str, x: Tensor, _output: Tensor) -> None:
        rows.append(x.detach().cpu())

    kept = 0
    for number, (inputs, _) in enumerate(data):
        answers.append(forward_batch(run_whole, inputs, number).cpu())
        with tapping({"": last}, keep):
            forward_batch(run_cut, inputs, number)
        kept += rows[-1].numel()
        if kept > ENTRIES:
            break
    return torch.cat(rows).to(torch.float64), torch.cat(answers).to(torch.float64)


def refit_readout(whole: nn.Module, cut: nn.Module, name: str, data: Batches, loss: CanonicalLoss) -> None:
    """Overwrite weight and bias of the last layer (of its second thin layer) with the best for the whole's answers."""
    last = _last(cut, name)
    features, answers = _features(whole, cut, last, data)
    wanted = loss.mean(answers)
    whitener = whiten(Moments.of(features).covariance, last.weight.dtype)
    shift = features.mean(0) if last.bias is not None else torch.zeros(features.shape[1], dtype=torch.float64)
    sides = whitener.white(features - shift)
    if last.bias is not None:
        sides = torch.cat([sides, torch.ones_like(sides[:, :1])], 1)
    old = torch.nn.functional.linear(features, *(p.detach().cpu().double() for p in last.parameters()))
    change = torch.zeros(old.shape[1], sides.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([change], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def objective() -> Tensor:
        solver.zero_grad()
        step = sides @ change.T
        value = (loss.log_partition(old + step) - ((old + step) * wanted).sum(1)).mean()
        value = value + LEAN * step.square().sum(1).mean()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(objective)
    found = change.detach()
    if not torch.isfinite(found).all():
        return
    weight = whitener.back(found[:, : whitener.rank])
    last.weight.data += weight.to(last.weight)
    if last.bias is not None:
        last.bias.data += (found[:, -1] - weight @ shift).to(last.bias)


def _last(cut: nn.Module, name: str) -> nn.Linear:
    """The layer itself, or the second of its thin ones."""
    layer = cut.get_submodule(name)
    layer = layer[-1] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(layer, nn.Linear)
    return layer

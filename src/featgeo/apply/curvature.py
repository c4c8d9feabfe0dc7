"""The metric that the loss gives a layer's pre-activation, and what cutting each of its modes does to the loss.

Two metrics. *Near* is that of Gauss and Newton at the activations as they are, H = E Σ_t J_tᵀ M J_t over samples and
positions t with J_t = ∂g/∂z_t and M the curvature of the loss in the outputs g. It is right for small cuts, and blind
where the network is sure of itself, which is where large cuts do their harm. *Far* is that of the average tail, J̄ᵀ M J̄
with J̄ the regression of the outputs on the layer's and M at the Bayes action: what matters over the whole spread of the
data. benchmarks/compress_metrics.py has both, and others, at all ranks of a layer.

What a cut does is then predicted with the tail linear and the loss exact, E[loss(g - Σ_cut a_i, y)] - E[loss(g, y)]
where a_i = Σ_t J_t A_i B_i (f_t - μ) is what mode i contributes to the outputs: no Kronecker factors in it, and no
quadratic in the loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from featgeo.apply.draw import Draw, labelled_samples
from featgeo.apply.factor import Dense
from featgeo.apply.modes import Metric, Modes
from featgeo.apply.positions import per_sample
from featgeo.data.batches import Batches
from featgeo.data.inputs import Inputs, by_sample
from featgeo.data.moments import Moments
from featgeo.network.layers import respond
from featgeo.network.run import Runner, checked_targets, forward_batch
from featgeo.network.taps import tapping
from featgeo.theory.layer import average_tail
from featgeo.theory.linalg import whiten
from featgeo.theory.losses import CanonicalLoss, Loss

DENSE = 32  # outputs up to which every one of them is differentiated
SKETCH = 16  # random directions per sample beyond


def hessians(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """∂²loss/∂g² (m, d, d) of every sample, in the outputs' dtype; only its positive part counts."""
    if isinstance(loss, CanonicalLoss):
        factors = torch.func.vmap(loss.factor)(outputs)
        return factors.mT @ factors
    with torch.enable_grad():
        g = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss.values(g, targets).sum(), g, create_graph=True)
        if not slope.requires_grad:
            return outputs.new_zeros(*outputs.shape, outputs.shape[1])
        rows = [torch.autograd.grad(slope[:, i].sum(), g, retain_graph=True)[0] for i in range(g.shape[1])]
    return torch.stack(rows, 1).detach()


def output_roots(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Rows R (m, c, d) with RᵀR the output metric of every sample; exact up to DENSE outputs, else a sketch."""
    metric = hessians(loss, outputs, targets)
    values, vectors = torch.linalg.eigh((metric + metric.mT) / 2)
    roots = (vectors * values.clamp_min(0).sqrt()[:, None]).mT
    if outputs.shape[1] <= DENSE:
        return roots[:, (values.amax(0) > 1e-7 * values.max()).nonzero()[:, 0]]
    signs = torch.randint(0, 2, (len(roots), SKETCH, roots.shape[1]), device=roots.device) * 2 - 1
    return signs.to(roots) @ roots / SKETCH**0.5


@dataclass(frozen=True)
class Probe:
    """What derivatives are taken on.

    Attributes:
        run: the model, in evaluation mode.
        data: the batches.
        loss: the loss.
        samples: about how many samples to use, evenly from all batches.
        total: how many there are.
    """

    run: Runner
    data: Batches
    loss: Loss
    samples: int
    total: int

    def batches(self) -> Iterator[tuple[int, Inputs, Tensor]]:
        """Number of the batch, inputs and targets of the samples to use; each has a labelled row."""
        step, offset = max(1, self.total // self.samples), 0
        for number, (inputs, targets) in enumerate(self.data):
            chosen = slice((-offset) % step, None, step)
            offset += len(targets)
            some = by_sample(inputs, itemgetter(chosen)), targets[chosen]
            some = labelled_samples(self.run.layout, *some)
            if len(some[1]):
                yield number, *some

    def draws(self) -> Iterator[tuple[int, Inputs, Tensor, Draw]]:
        """The same with a labelled row of each sample; several times where that makes about ``samples`` rows."""
        for number, inputs, targets in self.batches():
            positions = self.run.layout.counting(targets).shape[1]
            turns = min(positions, -(-self.samples // self.total))
            for turn in range(turns):
                yield number, inputs, targets, Draw.of(self.run.layout, targets, number, turn, turns)

    def drawn(self, outputs: Tensor, targets: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """The output rows (m, d) that were drawn, their targets as the loss wants them, and their weights."""
        with torch.enable_grad():
            rows = draw.rows(outputs)
        wanted = draw.rows(self.run.layout.targets(targets))
        return rows, checked_targets(self.loss, wanted, rows), draw.weight.to(rows)


def linear_pass(
    run: Runner, layers: dict[str, Dense], inputs: Inputs, number: int
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Outputs with their graph, and every layer's input and output in it."""
    seen: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}

    def receive(name: str, x: Tensor, output: Tensor) -> Tensor:
        seen[name] = x.detach()
        made[name] = output if output.requires_grad else output.detach().requires_grad_()
        return made[name].clone()  # what follows may work in place

    with torch.enable_grad(), tapping(layers, receive):
        outputs = forward_batch(run, inputs, number)
    return outputs, seen, made


def gradients(outputs: Tensor, made: dict[str, Tensor], rows: Tensor) -> Iterator[dict[str, Tensor]]:
    """For every column c of rows (m, c, d): name -> ∂⟨rows_c, g⟩/∂z."""
    names = list(made)
    for column in rows.unbind(1):
        found = torch.autograd.grad(
            outputs, [made[name] for name in names], column.to(outputs), retain_graph=True, allow_unused=True
        )
        yield {n: torch.zeros_like(made[n]) if g is None else g for n, g in zip(names, found, strict=True)}


def far_metric(actions: Moments, output_metric: Tensor) -> Tensor:
    """The far metric J̄ᵀ M J̄ (n, n) from the moments of a layer's output with the model's as companion."""
    root = Metric.of(output_metric).root
    size = len(actions.mean)
    unit, nothing = torch.eye(size, dtype=torch.float64), torch.zeros_like(output_metric)
    tail = average_tail(
        actions.cross_covariance, nothing, unit, whiten(actions.covariance, torch.float32), root
    )
    slopes = root @ tail.jacobian
    return slopes.T @ slopes


def output_metric(probe: Probe, answers: Moments) -> Tensor:
    """M (d, d) at the Bayes action; for a loss without a closed form of it, its mean at the mean output."""
    if isinstance(probe.loss, CanonicalLoss):
        factor = probe.loss.factor(probe.loss.action(answers.companion)[0])
        return factor.T @ factor
    total, count = torch.zeros(len(answers.mean), len(answers.mean), dtype=torch.float64), 0.0
    for _, _, targets, draw in probe.draws():
        everywhere = answers.mean.to(probe.run.device, probe.run.dtype)
        everywhere = everywhere.expand(len(probe.run.layout.targets(targets)), -1)
        outputs, wanted, weight = probe.drawn(everywhere, targets, draw)
        curved = hessians(probe.loss, outputs, wanted) * weight[:, None, None]
        total += curved.sum(0).double().cpu()
        count += weight.sum().item()
    return total / count


def metrics(probe: Probe, layers: dict[str, Dense]) -> dict[str, Tensor]:
    """The near metric H (n, n) of every layer, float64 on the CPU."""
    sums = {name: torch.zeros(0) for name in layers}
    count = 0.0
    for number, inputs, targets, draw in probe.draws():
        outputs, _, made = linear_pass(probe.run, layers, inputs, number)
        rows, wanted, weight = probe.drawn(outputs, targets, draw)
        roots = output_roots(probe.loss, rows.detach(), wanted) * weight.sqrt()[:, None, None]
        for found in gradients(rows, made, roots):
            for name, slope in found.items():
                slopes = per_sample(layers[name], slope).flatten(0, 1)
                product = (slopes.T @ slopes).to(torch.float64)
                sums[name] = product if not sums[name].numel() else sums[name] + product
        count += weight.sum().item()
    return {name: (matrix / count).cpu() for name, matrix in sums.items()}


@dataclass
class _Batch:
    """A batch for predictions: outputs, targets, weights and losses, and the rows (m, c, d) to differentiate along."""

    outputs: Tensor
    targets: Tensor
    weight: Tensor
    losses: Tensor
    rows: Tensor
    exact: bool

    @classmethod
    def of(cls, loss: Loss, outputs: Tensor, targets: Tensor, weight: Tensor) -> _Batch:
        losses, width = loss.values(outputs, targets), outputs.shape[1]
        if width <= DENSE:
            unit = torch.eye(width).to(outputs)
            return cls(outputs, targets, weight, losses, unit.expand(len(outputs), -1, -1), True)
        with torch.enable_grad():
            g = outputs.clone().requires_grad_()
            (slope,) = torch.autograd.grad(loss.values(g, targets).sum(), g)
        rows = torch.cat([slope[:, None], output_roots(loss, outputs, targets)], 1)
        return cls(outputs, targets, weight, losses, rows, False)

    def increase(self, loss: Loss, cut: Tensor) -> Tensor:
        """Weighted sum of what the loss gains where `cut` (m, c) is taken off; its quadratic in a sketch."""
        if self.exact:
            more = loss.values(self.outputs - cut, self.targets) - self.losses
        else:
            more = 0.5 * cut[:, 1:].square().sum(1) - cut[:, 0]
        return (more * self.weight).sum(dtype=torch.float64)


def _cuts(
    probe: Probe,
    layers: dict[str, Dense],
    modes: dict[str, Modes],
) -> Iterator[tuple[_Batch, dict[str, Tensor]]]:
    """Batch by batch, what cutting each layer to rank 0..ρ takes off the outputs, along its rows (m, ρ + 1, c)."""
    for number, inputs, targets, draw in probe.draws():
        outputs, seen, made = linear_pass(probe.run, layers, inputs, number)
        rows, wanted, weight = probe.drawn(outputs, targets, draw)
        free = rows.detach()
        batch = _Batch.of(probe.loss, free, wanted, weight)
        inner = {}
        for name, layer in layers.items():
            first, mean = modes[name].first, modes[name].mean
            read = respond(layer, seen[name].to(free), first, seen[name])
            inner[name] = per_sample(layer, read) - (first @ mean).to(free)
        effects: dict[str, list[Tensor]] = {name: [] for name in layers}
        for found in gradients(rows, made, batch.rows):
            for name, slope in found.items():
                outer = per_sample(layers[name], slope.to(free)) @ modes[name].second.to(free)
                effects[name].append((outer * inner[name]).sum(1))
        cuts = {}
        for name, columns in effects.items():
            each = torch.stack(columns, 2)
            cuts[name] = torch.cat([each.flip(1).cumsum(1).flip(1), torch.zeros_like(each[:, :1])], 1)
        yield batch, cuts


def curves(
    probe: Probe,
    layers: dict[str, Dense],
    modes: dict[str, Modes],
) -> dict[str, Tensor]:
    """Predicted increase of the loss for every layer cut alone to rank 0..ρ: name -> (ρ + 1,)."""
    sums: dict[str, Tensor] = {}
    count = 0.0
    for batch, cuts in _cuts(probe, layers, modes):
        for name, cut in cuts.items():
            found = torch.stack([batch.increase(probe.loss, at_rank) for at_rank in cut.unbind(1)])
            sums[name] = sums[name] + found if name in sums else found
        count += batch.weight.sum().item()
    return {name: (value / count).cpu() for name, value in sums.items()}


def joint_increase(
    probe: Probe,
    layers: dict[str, Dense],
    modes: dict[str, Modes],
    ranks: dict[str, int],
) -> float:
    """Predicted increase of the loss for these layers cut together to these ranks."""
    chosen = {name: layers[name] for name in ranks}
    summed, count = 0.0, 0.0
    for batch, cuts in _cuts(probe, chosen, modes):
        together = torch.stack([cut[:, ranks[name]] for name, cut in cuts.items()]).sum(0)
        summed += batch.increase(probe.loss, together).item()
        count += batch.weight.sum().item()
    return summed / count

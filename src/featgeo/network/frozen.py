"""A bypassed layer frozen at a constant while the rest of the network still sees the input.

With another road to the output the tail g(z, x) depends on x. At a constant action z = c the scores are
s = J(x)ᵀ ∂loss/∂g and the metric is H = E[J(x)ᵀ M(x) J(x)], J = ∂g/∂z summed over positions and M = ∂²loss/∂g², both
at g(c, x): one pass over samples accumulates C = E[s (f - μ)ᵀ] and H. The Bayes action is the c with the least mean
loss. M = RᵀR is drawn through the tail along the frames of :mod:`featgeo.network.backward`: rows vᵀ R J, exact where
there are few outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads its parts when they are used: scipy.optimize takes a quarter of a second
import torch
from numpy.typing import NDArray
from torch import Tensor

from featgeo.data.batches import Batch
from featgeo.data.inputs import position_mask, sample_count
from featgeo.network.arrange import Arrangement, over_calls, placed
from featgeo.network.backward import by_rows, frames, signed
from featgeo.network.layers import Layer
from featgeo.network.layout import those
from featgeo.network.run import Runner, labelled_rows
from featgeo.network.taps import Frame, Seen, reader, tapping
from featgeo.theory.losses import CanonicalLoss, Loss

MAX_STEPS = 60  # of the search for a Bayes action, each about three forward passes
CHUNK = 2**22  # numbers in the metrics of the samples that are formed at once


@dataclass(frozen=True)
class Slope:
    """Mean loss, gradient and metric of a constant action.

    Attributes:
        loss: E[loss(g(c, x), y)].
        gradient: E[s] (n,).
        metric: H (n, n).
    """

    loss: float
    gradient: Tensor
    metric: Tensor


@dataclass(frozen=True)
class FrozenRows:
    """One batch with the layer frozen at a constant.

    Attributes:
        outputs: g(c, x) (r, d) of the rows that count.
        targets: checked targets of these rows.
        scores: s (r, n).
        factors: rows vᵀ R J (r, p, n).
        projected: vᵀ R (r, p, d).
    """

    outputs: Tensor
    targets: Tensor
    scores: Tensor
    factors: Tensor
    projected: Tensor


@dataclass(frozen=True)
class FrozenLayer:
    """A layer that can be frozen at constants.

    Attributes:
        run: the model, in evaluation mode.
        layer: the layer.
        lie: how its tensors lie.
        batches: the samples.
        loss: the loss.
        seed: of the directions.
    """

    run: Runner
    layer: Layer
    lie: Arrangement
    batches: list[Batch]
    loss: Loss
    seed: int = 0

    def _outputs(self, inputs: object, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output rows with the layer frozen at z, and the constants that took the place of its outputs."""
        made: list[Tensor] = []
        wanted = torch.is_grad_enabled()  # here: a model's own forward may run parts without

        def constant(_name: str, _x: Tensor, output: Tensor) -> Tensor:
            filled = placed(self.layer, self.lie, z.expand(sample_count(inputs), -1), output.detach())
            made.append(filled if filled.requires_grad else filled.requires_grad_(wanted))
            return filled.clone() if wanted else filled

        with tapping({"": self.layer}, constant):
            outputs = self.run.rows(self.run(inputs))
        return outputs if outputs.dtype == torch.float64 else outputs.float(), made

    def outputs(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Per batch, the output rows (r, d) that count with the layer frozen at z, and their checked targets."""
        for inputs, targets in self.batches:
            outputs, _ = self._outputs(inputs, z)
            yield labelled_rows(self.run, self.loss, outputs, targets)

    def gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """E[loss] with the layer frozen at z, and its gradient (n,)."""
        total, count, gradient = 0.0, 0, torch.zeros_like(z)
        for inputs, targets in self.batches:
            with torch.enable_grad():
                leaf = z.to(self.layer.weight).clone().requires_grad_()
                outputs, _ = self._outputs(inputs, leaf)
                rows, checked = labelled_rows(self.run, self.loss, outputs, targets)
                loss = self.loss.values(rows, checked).sum()
                if loss.requires_grad:
                    gradient += torch.autograd.grad(loss, leaf, materialize_grads=True)[0].to(z)
            total, count = total + loss.item(), count + len(rows)
        return total / count, gradient / count

    def rows(self, z: Tensor) -> Iterator[FrozenRows]:
        """Scores and metric, batch by batch, with the layer frozen at z."""
        generator = torch.Generator().manual_seed(self.seed)
        for inputs, targets in self.batches:
            with torch.enable_grad():
                outputs, made = self._outputs(inputs, z)
                _, kept = self.run.layout.labelled(outputs, targets)
                kept = None if kept is None else kept.to(outputs.device)
                counted, checked = labelled_rows(self.run, self.loss, outputs.detach(), targets)
                directions = frames(len(outputs), outputs.shape[1], generator)
                directions = signed(directions, generator) if self.run.layout.expand else directions
                slopes = torch.zeros_like(outputs)
                slopes[slice(None) if kept is None else kept] = output_slopes(self.loss, counted, checked)
                along = outputs.new_zeros(len(outputs), directions.shape[2], outputs.shape[1])
                chosen = directions.to(outputs) if kept is None else directions.to(outputs)[kept]
                along[slice(None) if kept is None else kept] = projected(self.loss, counted, checked, chosen)
                every = [slopes, *along.unbind(1)]
                found = [self._pulled(outputs, made, each, sample_count(inputs)) for each in every]
            if kept is not None:
                found, along = [each[kept] for each in found], along[kept]
            yield FrozenRows(counted, checked, found[0], torch.stack(found[1:], 1), along)

    def _pulled(self, outputs: Tensor, made: list[Tensor], along: Tensor, samples: int) -> Tensor:
        """Gradients of ⟨along, g⟩ with respect to the constant, as rows (r, n)."""
        if not outputs.requires_grad:
            return outputs.new_zeros(len(outputs), self.layer.weight.shape[0])
        slopes = torch.autograd.grad(outputs, made, along, retain_graph=True, materialize_grads=True)
        return by_rows(self.layer, self.lie, list(slopes), samples, self.run.layout).detach()

    def slope(self, z: Tensor) -> Slope:
        """Loss, gradient and metric at a constant."""
        size = len(z)
        total, count = 0.0, 0
        gradient, metric = z.new_zeros(size), z.new_zeros(size, size)
        for rows in self.rows(z):
            total += self.loss.values(rows.outputs, rows.targets).sum(dtype=torch.float64).item()
            count += len(rows.outputs)
            gradient += rows.scores.to(z).sum(0)
            flat = rows.factors.flatten(0, 1)
            metric += (flat.T @ flat).to(z)
        return Slope(total / count, gradient / count, metric / count)

    def features(self, lie_seen: Seen) -> Iterator[tuple[Tensor, Tensor]]:
        """Per batch, feature rows (r, k) and output rows (r, d) that count, of the network as it is."""
        frame = Frame(expand=self.run.layout.expand)
        calls: list[tuple[Tensor, Tensor | int]] = []
        read = reader(
            {"": self.layer}, lambda _n, rows, count: calls.append((rows, count)), {"": lie_seen}, frame
        )
        for inputs, targets in self.batches:
            calls.clear()
            frame.samples, frame.keep = sample_count(inputs), position_mask(inputs)
            with tapping({"": self.layer}, read):
                outputs = self.run.rows(self.run(inputs))
            rows = over_calls(calls, frame.expand)
            if self.run.layout.repeated:  # one output for all positions: the products are those of their mean
                rows = rows.unflatten(0, (len(outputs), -1)).mean(1)
            _, kept = self.run.layout.labelled(outputs, targets)
            outputs = those(outputs, kept)
            yield those(rows, kept), outputs.to(torch.promote_types(outputs.dtype, torch.float32), copy=True)


def output_slopes(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """∂loss/∂g (r, d) of every row."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(loss.values(leaf, targets).sum(), leaf)
    return slopes.detach()


def curved(loss: Loss, outputs: Tensor, targets: Tensor, change: Tensor) -> Tensor:
    """∂²loss/∂g² · change (r, d) of every row."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(loss.values(leaf, targets).sum(), leaf, create_graph=True)
        if not slopes.requires_grad:
            return torch.zeros_like(outputs)
        (found,) = torch.autograd.grad(slopes, leaf, change)
    return found.detach()


def projected(loss: Loss, outputs: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
    """Rows vᵀ R (r, p, d) of factors R of ∂²loss/∂g² at every row, for directions (r, d, p)."""
    width, found = outputs.shape[1], []
    step = max(1, CHUNK // width**2)
    for start in range(0, len(outputs), step):
        part = slice(start, start + step)
        found.append(directions[part].transpose(1, 2) @ _factors(loss, outputs[part], targets[part]))
    return torch.cat(found) if found else directions.transpose(1, 2)


def _factors(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """R (r, d, d) with RᵀR = ∂²loss/∂g² at every row; negative curvature is cut off."""
    if isinstance(loss, CanonicalLoss):
        return torch.vmap(loss.factor)(outputs)

    def value(output: Tensor, target: Tensor) -> Tensor:
        return loss.values(output[None], target[None]).sum()

    hessians = torch.vmap(torch.func.jacrev(torch.func.jacrev(value)))(outputs, targets).detach()
    values, vectors = torch.linalg.eigh(hessians)
    return values.clamp_min(0).sqrt()[:, :, None] * vectors.transpose(1, 2)


@dataclass(frozen=True)
class FrozenAction:
    """The Bayes action of a layer beside another road.

    Attributes:
        action: c (n,).
        steps: Gauss-Newton steps taken.
        decrement: the further decrease of the loss that a step promises.
        converged: whether that is little.
        rank: of the metric at the start; below n the action is not unique.
        usual: diagonal of the metric at the start (n,).
    """

    action: Tensor
    steps: int
    decrement: float
    converged: bool
    rank: int
    usual: Tensor


def frozen_action(frozen: FrozenLayer, start: Tensor, precision: torch.dtype) -> FrozenAction:
    """The constant with the least mean loss that a search from a start finds.

    Quasi-Newton steps (BFGS) in coordinates that the metric at the start makes round, and only in its range: where the
    action is not unique the search does not move along the directions that make no difference, and ends near the one
    that is nearest the start.
    """
    exact = precision == torch.float64
    begin = frozen.slope(start)
    values, vectors = torch.linalg.eigh(begin.metric)
    seen = values > 64 * torch.finfo(precision).eps * values.max().clamp_min(torch.finfo(torch.float64).tiny)
    back = vectors[:, seen] / values[seen].sqrt()  # (n, r), from round coordinates

    def both(round_: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, gradient = frozen.gradient(start + back @ torch.from_numpy(round_))
        return loss, (back.T @ gradient).numpy()

    level = 1e-10 if exact else 1e-4 * max(1.0, abs(begin.loss)) ** 0.5
    options = {"gtol": level, "maxiter": MAX_STEPS, "norm": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps lost in rounding: what was reached is judged below
        found: Any = scipy.optimize.minimize(  # type: ignore[call-overload]
            both, np.zeros(back.shape[1]), jac=True, method="BFGS", options=options
        )
    place, slope, steps = found.x, found.jac, int(found.nit)
    while exact and np.linalg.norm(slope) > 1e-13:  # beyond what differences of the loss can tell
        other = place - found.hess_inv @ slope
        new = both(other)[1]
        if not np.linalg.norm(new) < np.linalg.norm(slope) / 2:
            break
        place, slope, steps = other, new, steps + 1
    size = float(np.linalg.norm(slope))
    converged = size <= max(level, 1e-7 if exact else 1e-3)
    action = start + back @ torch.from_numpy(place)
    return FrozenAction(action, steps, 0.5 * size**2, converged, int(seen.sum()), begin.metric.diagonal())

"""The mean Jacobian E[∂g/∂z] of the tails of many layers at once, by a few backward passes.

Each sample's outputs are projected on directions v of its own (an orthonormal frame, drawn at random and scaled so that
E[v vᵀ] = I), and the gradient of v·g with respect to every layer's output is one backward pass: v (∂(v·g)/∂z) is an
unbiased estimate of ∂g/∂z. With as many directions as outputs the frame is the identity and nothing is estimated but
the mean over the samples. A shift of z is one at all positions alike, so gradients are summed over positions and over
the calls of a shared layer; where every position is a row, the independent signs of the frames leave the derivative of
a position's output with respect to its own z. It is the causal sibling of the average tail, to which it is equal for
Gaussian z (Stein's lemma): what another road carries is not credited to the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featgeo.data.batches import Batch
from featgeo.data.inputs import sample_count
from featgeo.network.arrange import Arrangement, gathered
from featgeo.network.layers import Layer
from featgeo.network.layout import Layout
from featgeo.network.run import Runner
from featgeo.network.taps import tapping

EXACT = 16  # outputs up to which every direction is followed
DIRECTIONS = 8  # followed where there are more outputs
GROUPS = 8  # of samples, whose differences give the error


@dataclass(frozen=True)
class MeanJacobian:
    """An estimate of E[∂g/∂z].

    Attributes:
        parts: estimates from disjoint groups of samples (groups, d, n), float64 on the CPU.
        weights: share of the rows in each group (groups,).
        directions: backward passes per sample.
    """

    parts: Tensor
    weights: Tensor
    directions: int

    @property
    def mean(self) -> Tensor:
        """The estimate (d, n)."""
        return torch.einsum("g,gdn->dn", self.weights, self.parts)

    def without(self, group: int) -> Tensor:
        """The estimate from all other groups (d, n)."""
        weights = self.weights.clone()
        weights[group] = 0
        return torch.einsum("g,gdn->dn", weights / weights.sum(), self.parts)


def frames(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Directions (rows, d, p) with E[v vᵀ] summed over p equal to the identity; exactly so where p is d."""
    if width <= EXACT:
        return torch.eye(width, dtype=torch.float64).expand(rows, -1, -1)
    drawn = torch.randn(rows, width, DIRECTIONS, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn).Q * (width / DIRECTIONS) ** 0.5


def signed(directions: Tensor, generator: torch.Generator) -> Tensor:
    """Frames (rows, d, p) with an independent sign for each row and direction."""
    signs = torch.randint(2, (len(directions), 1, directions.shape[2]), generator=generator) * 2.0 - 1
    return directions * signs


def mean_jacobians(
    run: Runner, layers: dict[str, Layer], lies: dict[str, Arrangement], batches: list[Batch], seed: int = 0
) -> dict[str, MeanJacobian]:
    """Mean Jacobians of the tails of some layers; every backward pass serves all of them.

    Args:
        run: the model, in evaluation mode.
        layers: by name.
        lies: how their tensors lie.
        batches: the samples.
        seed: of the directions, which do not depend on the layers asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    rows = torch.zeros(GROUPS, dtype=torch.float64)
    followed, start = 0, 0
    for inputs, targets in batches:
        made: dict[str, list[Tensor]] = {}

        def look(name: str, _x: Tensor, output: Tensor, made: dict[str, list[Tensor]] = made) -> Tensor:
            z = output if output.requires_grad else output.detach().requires_grad_()
            made.setdefault(name, []).append(z)
            return z.clone()  # what the tail does in place is done to a copy

        with torch.enable_grad(), tapping(layers, look):
            outputs = run.rows(run(inputs))
            if not outputs.requires_grad:  # no gradient flows back to any layer: all are zero
                outputs = outputs + sum(0 * z.flatten()[0] for zs in made.values() for z in zs)
        _, kept = run.layout.labelled(outputs, targets)
        directions = frames(len(outputs), outputs.shape[1], generator)
        directions = signed(directions, generator) if run.layout.expand else directions
        followed = directions.shape[2]
        group = (torch.arange(start, start + len(outputs)) % GROUPS).to(outputs.device)
        counts = outputs.new_zeros(len(outputs))
        counts[slice(None) if kept is None else kept.to(outputs.device)] = 1
        member = torch.nn.functional.one_hot(group, GROUPS).to(outputs.dtype)
        rows += (counts @ member).double().cpu()
        start += len(outputs)
        directions = directions.to(outputs) * counts[:, None, None]
        tensors = [z for zs in made.values() for z in zs]
        for k in range(followed):
            along = directions[:, :, k]
            slopes = iter(
                torch.autograd.grad(
                    outputs,
                    tensors,
                    along,
                    retain_graph=k + 1 < followed,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
            both = torch.einsum("rg,rd->rgd", member, along).flatten(1)
            for name, zs in made.items():
                found = by_rows(
                    layers[name], lies[name], [next(slopes) for _ in zs], sample_count(inputs), run.layout
                )
                part = (both.to(found).T @ found).double().cpu().unflatten(0, (GROUPS, -1))
                sums[name] = sums[name] + part if name in sums else part
    share = rows / rows.sum()
    return {
        name: MeanJacobian(total / rows.clamp_min(1)[:, None, None], share, followed)
        for name, total in sums.items()
    }


def by_rows(layer: Layer, lie: Arrangement, slopes: list[Tensor], samples: int, layout: Layout) -> Tensor:
    """Gradients at the outputs of a layer's calls as rows (r, n): summed over positions, or one position a row."""
    found = torch.cat([gathered(layer, lie, slope, samples) for slope in slopes], 1)
    if layout.expand and not layout.repeated:
        return found.flatten(0, 1)
    return found.mean(1) if layout.repeated else found.sum(1)

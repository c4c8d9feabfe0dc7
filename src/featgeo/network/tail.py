"""Everything after a layer as a function of one action, and whether there is another road to the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from featgeo.data.inputs import Inputs, by_sample, sample_count
from featgeo.network.arrange import Arrangement, placed
from featgeo.network.attempt import attempt
from featgeo.network.layers import Layer
from featgeo.network.roads import variation
from featgeo.network.taps import Forward, as_rows, replacing, standing_in, tapping

COPIES = "a forward pass of copies of one sample, with a layer frozen"
ALONE = "It must take batches of any size, one sample included (BatchNorm needs running statistics)."


class Known(NamedTuple):
    """What a layer puts out for one sample (1, ...), the samples first, and how its tensors lie."""

    layer: nn.Module
    lie: Arrangement
    first: Tensor

    def alike(self, count: int) -> Tensor:
        """What it puts out for so many copies of the sample, in the memory of one."""
        return self.lie.last(self.first.expand(count, *self.first.shape[1:]))

    def copies(self, count: int, *_: object, **__: object) -> Tensor:
        """The same in memory of its own: what comes behind may work in place."""
        return self.alike(count).clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Usual:
    """What a model makes of some probes, with no layer frozen.

    Attributes:
        rows: its output rows (m, d).
        known: what layers that are called once put out for the first probe, in the order of the calls.
    """

    rows: Tensor
    known: dict[str, Known]

    @classmethod
    def of(
        cls,
        forward: Forward,
        layers: Mapping[str, Layer],
        lies: Mapping[str, Arrangement],
        probe: Inputs,
        rows: Callable[[Tensor], Tensor] = as_rows,
    ) -> Usual:
        """Run the model on the probes.

        Args:
            forward: runs the model on a batch of inputs.
            layers: by name.
            lies: how their tensors lie.
            probe: some samples of the inputs (m, ...).
            rows: from the model's output to rows.
        """
        known: dict[str, list[Known]] = {}

        def keep(name: str, _x: Tensor, output: Tensor) -> None:
            lie = lies[name]
            first = lie.first(output.detach())[:1].clone()
            known.setdefault(name, []).append(Known(modules[name], lie, first))

        modules = {
            name: layer
            for name, layer in layers.items()
            if isinstance(layer, nn.Module) and not lies[name].merged
        }
        with tapping(modules, keep):
            made = rows(forward(probe)).clone()
        return cls(made, {name: calls[0] for name, calls in known.items() if len(calls) == 1})

    def until(self, name: str) -> list[Known]:
        """Those up to a layer and with it; none where it is not among them."""
        names = list(self.known)
        return [self.known[each] for each in names[: names.index(name) + 1]] if name in names else []


class FrozenTail:
    """Everything after a layer as a function of one action: z (m, n) -> outputs (m, d).

    The layer's output is replaced by z at every position while the model runs on copies of one probe sample; that the
    choice of sample does not matter is what :meth:`bypass` checks. What the layers up to this one put out is then the
    same for every action, and where it is known they need not run.

    Args:
        forward: runs the model on a batch of inputs.
        layer: the layer.
        probe: some samples of the inputs (p, ...), p >= 2 for the check.
        lie: how the layer's tensors lie.
        rows: from the model's output to rows (m, d).
        known: what layers up to this one put out for the first probe, its own last; none where that is not known.
    """

    def __init__(
        self,
        forward: Forward,
        layer: Layer,
        probe: Inputs,
        lie: Arrangement = Arrangement(),  # noqa: B008 -- frozen
        rows: Callable[[Tensor], Tensor] = as_rows,
        known: Sequence[Known] = (),
    ) -> None:
        self.forward, self.layer, self.probe, self.lie, self.rows = forward, layer, probe, lie, rows
        self.known = known
        self.count = sample_count(probe)

    def _run(self, inputs: Inputs, z: Tensor, known: Sequence[Known] = ()) -> Tensor:
        with self._frozen(z, known):
            made = self.rows(attempt(self.forward, inputs, COPIES, ALONE))
            return made.to(z, copy=True)  # a model may use the memory of its outputs again

    def _frozen(self, z: Tensor, known: Sequence[Known]) -> AbstractContextManager[None]:
        if not known:
            return replacing(self.layer, lambda _x, output: placed(self.layer, self.lie, z, output))
        *before, own = known
        forwards: dict[nn.Module, Callable[..., Tensor]] = {
            each.layer: partial(each.copies, len(z)) for each in before
        }
        forwards[own.layer] = lambda *_, **__: placed(self.layer, self.lie, z, own.alike(len(z)))
        return standing_in(forwards)

    def __call__(self, z: Tensor) -> Tensor:
        """Outputs (m, d) of the actions z (m, n), differentiable in z."""
        inputs = by_sample(self.probe, lambda part: part[:1].expand(len(z), *part.shape[1:]))
        made = self._run(inputs, z, self.known)
        if len(made) == len(z):
            return made
        return made.unflatten(0, (len(z), -1))[:, 0]  # all positions are alike

    def bypass(self, z: Tensor, free: Tensor | None = None) -> float:
        """How much the output varies with the input when the layer is frozen at z (n,), relative to when it is not.

        0 where the layer is the only road to the output, rounding aside; NaN with fewer than two probes.

        Args:
            z: the action.
            free: the output rows of the probes, the layer not frozen, where they are known already.
        """
        if self.count < 2:
            return float("nan")
        frozen = self._run(self.probe, z.expand(self.count, -1))
        free = self.rows(self.forward(self.probe)).clone() if free is None else free
        return variation(frozen, free, self.layer.weight.dtype)

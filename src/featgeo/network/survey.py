"""A look at a model with two or three samples, before the data are gone through: where each layer has its samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from operator import itemgetter

import torch
from torch import Tensor

from featgeo.data.inputs import Inputs, by_sample, sample_count
from featgeo.errors import FeatgeoError
from featgeo.network.arrange import Arrangement
from featgeo.network.attempt import attempt, lacking
from featgeo.network.layers import SPATIAL, Layer, as_matrix, respond
from featgeo.network.roads import BYPASS, variations
from featgeo.network.taps import UNEVEN, Forward, as_rows, tapping

ALIEN = "its output is not its weight times its input (a hook, an adapter or a forward of its own changes it)"
TANGLED = "samples and positions are mixed in its input in no order that is known"
ROUNDINGS = 64  # relative to the largest output, by which an output may differ from W f + b
TOLD = 1e-3  # relative to the largest output, by which it may change with the other samples of the batch


@dataclass
class Survey:
    """What a few samples showed.

    Attributes:
        lies: by layer, where its samples are; layers that were not called are left out.
        aliens: layers that are not what they seem to be, with the reason.
        output: shape of the model's output for one sample.
        within: layers whose output has another size than the model's.
        variations: by layer, what still varies while it is frozen; layers of which the samples did not tell are left
            out.
        lone: whether a sample's output is the same whatever other samples are in the batch.
        channels: the dimension of the model's output that holds its entries, as far as the last layer shows: 1 after a
            convolution, -1 after a linear layer.
        samples: how many the first batch had.
    """

    lies: dict[str, Arrangement] = field(default_factory=dict)
    aliens: dict[str, str] = field(default_factory=dict)
    output: tuple[int, ...] = ()
    within: set[str] = field(default_factory=set)
    variations: dict[str, float] = field(default_factory=dict)
    lone: bool = True
    channels: int | None = None
    samples: int = 0

    @property
    def bypassed(self) -> bool:
        """Whether another road leads past some layer, or the samples were too few to tell."""
        return not self.variations or any(not value <= BYPASS for value in self.variations.values())


def survey(forward: Forward, layers: dict[str, Layer], inputs: Inputs) -> Survey:
    """Run the model on three samples and on two: the dimension of a layer's input that shrinks is that of the samples.

    Args:
        forward: runs the model, in evaluation mode.
        layers: by name.
        inputs: a batch, of which the first samples are taken.
    """
    found = Survey(samples=sample_count(inputs))
    count = min(3, found.samples)
    some = by_sample(inputs, lambda part: part[:count])
    outputs, calls = dict[str, Tensor](), dict[str, list[Tensor]]()

    def compare(name: str, x: Tensor, output: Tensor) -> None:
        outputs.setdefault(name, output.detach().clone())
        calls.setdefault(name, []).append(x.detach().clone())
        if not _responds(layers[name], x, output):
            found.aliens[name] = ALIEN

    with tapping(layers, compare):
        made = _run(forward, some)
    shape = getattr(made, "shape", ())
    found.output = tuple(shape[1:])
    found.within = {name for name, output in outputs.items() if output.numel() != math.prod(shape)}
    found.channels = _channels(layers, outputs, shape)
    if count < 3:
        return _few(forward, layers, some, count, found)
    three = {name: xs[0] for name, xs in calls.items()}
    two, fewer = _inputs(forward, layers, by_sample(some, itemgetter(slice(2))))
    found.lone = _lone(made, fewer)
    merged = {}
    for name in three.keys() & two.keys():
        axis, together = _samples_in(three[name].shape, two[name].shape)
        found.lies[name] = Arrangement(axis)
        if together:
            merged[name] = three[name]
    if merged:
        turned, _ = _inputs(forward, layers, by_sample(some, lambda part: part.flip(0)))
        for name, x in merged.items():
            lie = _order(x, turned[name])
            if lie is None:
                found.aliens[name] = TANGLED
            else:
                found.lies[name] = lie
    for name, lie in found.lies.items():
        if not (
            all(lie.fits(layers[name], x, 3) for x in calls[name]) and lie.fits(layers[name], two[name], 2)
        ):
            found.aliens.setdefault(name, UNEVEN)
    told = {name: lie for name, lie in found.lies.items() if name not in found.aliens}
    found.variations = variations(forward, layers, told, some, outputs, as_rows(made), found.samples)
    return found


def _few(forward: Forward, layers: dict[str, Layer], some: Inputs, count: int, found: Survey) -> Survey:
    """What one or two samples tell by copies of them: which dimension of a layer's input grows with their number.

    One sample that cannot be copied (a graph, with its nodes as positions) has all rows of its layers to itself.
    """
    copies = by_sample(some, lambda part: part[[0, *[count - 1] * 2]])
    try:
        three, made = _inputs(forward, layers, copies)
        two, _ = _inputs(forward, layers, by_sample(copies, itemgetter(slice(2))))
    except FeatgeoError:
        if count > 1:
            raise
        made = None
    if count == 1 and not (isinstance(made, Tensor) and made.ndim and len(made) == 3):
        one, _ = _inputs(forward, layers, some)
        merged = {name for name, x in one.items() if not isinstance(layers[name], SPATIAL) and len(x) > 1}
        found.lies = {name: Arrangement(merged=name in merged) for name in one}
        return found
    turned = {} if count == 1 else _inputs(forward, layers, by_sample(copies, lambda part: part.flip(0)))[0]
    for name in three.keys() & two.keys():
        axis, together = _samples_in(three[name].shape, two[name].shape)
        order = _order(three[name], turned[name]) if together and turned else None
        found.lies[name] = lie = order or Arrangement(axis)  # of one sample the order cannot be told
        if together and order is None:
            found.aliens.setdefault(name, TANGLED)
        elif not (lie.fits(layers[name], three[name], 3) and lie.fits(layers[name], two[name], 2)):
            found.aliens.setdefault(name, UNEVEN)
    return found


def _channels(layers: dict[str, Layer], outputs: dict[str, Tensor], shape: tuple[int, ...]) -> int | None:
    """Where the last layer called puts its channels in a model output of this shape; None where that is not clear."""
    if not outputs or len(shape) < 3:
        return None
    name, last = next(reversed(outputs.items()))
    own, made = 1 if isinstance(layers[name], SPATIAL) else -1, last.shape
    turned = (made[0], *made[2:], made[1]) if own == 1 else (made[0], made[-1], *made[1:-1])
    if made == shape or (len(made) == len(shape) and made[own] == shape[own] and turned != shape):
        return own
    return -1 if own == 1 and turned == shape else 1 if turned == shape else None


def _lone(three: object, two: object) -> bool:
    """Whether the outputs for two samples are those that they had among three.

    Raises:
        FeatgeoError: where each sample has an output for every sample.
    """
    if not isinstance(three, Tensor) or not isinstance(two, Tensor) or not three.ndim:
        return True
    if three.shape[1:] != two.shape[1:]:
        raise FeatgeoError(
            "model",
            f"outputs of shape {tuple(three.shape)} for three samples and {tuple(two.shape)} for two",
            "The number of outputs must not change with the batch. Where samples are compared with each other, let "
            "forward= return what is compared, and compare in a loss of your own.",
        )
    if (len(three), len(two)) != (3, 2) or not three.numel():
        return True
    rows, alone = as_rows(three)[:2].double(), as_rows(two).double()
    rounding = ROUNDINGS * torch.finfo(three.dtype).eps if three.is_floating_point() else 0.0
    return not (rows - alone).abs().max() > max(rounding, TOLD) * rows.abs().max()


def _inputs(forward: Forward, layers: dict[str, Layer], batch: Inputs) -> tuple[dict[str, Tensor], object]:
    """The input of each layer's first call, and the model's output."""
    calls: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor, _output: Tensor | None) -> None:
        calls.setdefault(name, x.detach().clone())

    with tapping(layers, keep, outputs=False):
        made = _run(forward, batch)
    return calls, made


def _run(forward: Forward, inputs: Inputs) -> object:
    """What the model makes of some samples; a failure says what they were."""
    made = attempt(
        forward,
        inputs,
        "a forward pass of the first samples",
        lacking(getattr(forward, "model", None), inputs)
        or "Check that the data are what the model takes, in batches of any size, with the samples in dimension 0. A "
        "graph whose nodes cannot be taken apart is one sample with its nodes as positions: pass x[None], y[None] and "
        "forward=lambda model, inputs: model(inputs[0], edges)[None].",
    )
    # a model may use the memory of its outputs again
    return made.clone() if isinstance(made, Tensor) else made


def _responds(layer: Layer, x: Tensor, output: Tensor) -> bool:
    """Whether the output is W f + b, rounding aside."""
    wanted = respond(layer, x, as_matrix(layer, layer.weight.detach()), output)
    bias = torch.zeros_like(wanted[:0]).sum() if layer.bias is None else layer.bias.detach()
    if isinstance(layer, SPATIAL):
        bias = bias.reshape(-1, *(1,) * len(layer.kernel_size)) if bias.ndim else bias
    if wanted.shape != output.shape:
        return False
    size = wanted.abs().max() + bias.abs().max()
    gap = (wanted + bias - output).abs().max()
    return not gap > ROUNDINGS * torch.finfo(output.dtype).eps * size


def _samples_in(three: torch.Size, two: torch.Size) -> tuple[int, bool]:
    """The dimension that holds the samples, and whether positions are there as well."""
    sizes = list(zip(three, two, strict=True))[:-1] if len(three) == len(two) else []
    for axis, size in enumerate(sizes):
        if size == (3, 2):
            return axis, False
    together = bool(sizes) and sizes[0][0] * 2 == sizes[0][1] * 3 and sizes[0][0] > 0
    return 0, together


def _order(x: Tensor, turned: Tensor) -> Arrangement | None:
    """How three samples and their positions share dimension 0, by what becomes of it when the samples are turned."""
    for axis, by in ((0, x.unflatten(0, (3, -1)).flip(0)), (1, x.unflatten(0, (-1, 3)).flip(1))):
        if torch.allclose(by.flatten(0, 1), turned, rtol=1e-3, atol=1e-3 * x.abs().max().item()):
            return Arrangement(axis, merged=True)
    return None

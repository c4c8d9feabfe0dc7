"""What enters the layers of a network, kept in memory for scores that need every sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from featgeo.apply.positions import layout_in, per_sample
from featgeo.data.batches import Batches
from featgeo.data.inputs import position_mask, sample_count
from featgeo.errors import FeatgeoError
from featgeo.network.arrange import Arrangement, over_calls
from featgeo.network.features import feature_rows
from featgeo.network.keep import undisturbed
from featgeo.network.layers import SPATIAL, Layer
from featgeo.network.layout import those
from featgeo.network.run import Forward, forward_batch, runner_of
from featgeo.network.select import Layers, split_layers
from featgeo.network.taps import ELSEWHERE, UNEVEN, tapping
from featgeo.network.together import unwrapped

OUTPUT = "(output)"  # the name under which a network's outputs go


def layer_features(
    model: nn.Module,
    data: object,
    layers: Layers = None,
    *,
    forward: Forward | None = None,
    samples: int | None = None,
    batch_size: int = 256,
    ignore_index: int | None = -100,
    progress: bool = False,
) -> tuple[dict[str, Tensor], Tensor, dict[str, str]]:
    """Features of the layers of a network, in one forward pass, and the targets in the same order.

    The features of a layer are its input, averaged over positions (pixels; tokens, without the padding that a mapping
    of inputs names): what a head put in its place would see. The last layer's are therefore the penultimate features,
    and the network's outputs come last, as "(output)". With a label per position every labelled position is a row, for
    layers that have these positions. The model is left exactly as it was found.

    Args:
        model: maps a batch of inputs to outputs (m, d).
        data: a re-iterable of (inputs, targets) or of mappings with labels among them, or a pair of tensors or arrays.
        layers: as for ``analyze``: names, patterns, classes of modules or predicates; all layers by default.
        forward: called with the model and the inputs of a batch, returns the outputs; as for ``analyze``.
        samples: stop after that many (rows).
        batch_size: for a pair.
        ignore_index: the label of samples, or positions, that do not count.
        progress: whether to show a progress bar.

    Returns:
        Features by name, in the order of the calls, (samples, channels) on the model's device in float32 or better;
        the targets (samples, ...); and by name why a layer was skipped.

    Raises:
        FeatgeoError: where model and data do not suit each other.
    """
    if not isinstance(model, nn.Module):
        raise FeatgeoError("model", f"a {type(model).__name__}", "Pass a torch.nn.Module.")
    if samples is not None and samples < 1:
        raise FeatgeoError("samples", f"{samples}", "It must be at least 1.")
    model = unwrapped(model)
    taps, skipped = split_layers(model, layers)
    rows: dict[str, list[Tensor]] = {}
    calls: dict[str, list[tuple[Tensor, Tensor | int]]] = {}
    targets: list[Tensor] = []
    count, size, keep = 0, 0, None
    counted = torch.zeros(0)  # which positions of which samples are rows

    def look(name: str, x: Tensor, _output: object) -> None:
        layer = taps[name]
        if not Arrangement().fits(layer, x, size):
            skipped[name] = UNEVEN
        elif not run.layout.expand:
            calls.setdefault(name, []).append((pooled_input(layer, x, keep), 1))
        elif (parts := per_sample(layer, x)).shape[:2] == counted.shape:
            calls.setdefault(name, []).append((in_precision(parts.flatten(0, 1)), 1))
        else:
            skipped[name] = ELSEWHERE

    with undisturbed(model):
        run, batches = runner_of(model, forward), Batches(data, batch_size)
        run.layout = layout_in(run, taps, batches, ignore_index, compared=False)
        bar = tqdm(batches, total=len(batches) or None, desc="features", unit="batch", disable=not progress)
        with tapping(taps, look, outputs=False):
            for number, (inputs, batch) in enumerate(bar):
                calls.clear()
                size, keep = sample_count(inputs), position_mask(inputs)
                counted = run.layout.counting(batch)
                outputs = forward_batch(run, inputs, number)
                labels, kept = run.layout.labelled(outputs, batch)
                for name, found in calls.items():
                    rows.setdefault(name, []).append(those(over_calls(found, expand=False), kept))
                rows.setdefault(OUTPUT, []).append(those(outputs, kept).clone())
                targets.append(labels.to(outputs.device))
                count += len(labels)
                if samples is not None and count >= samples:
                    break
    if not count:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    for name in taps:
        if len(rows.get(name, [])) < len(targets):
            skipped.setdefault(name, "called for some batches only" if name in rows else "never called")
    rows[OUTPUT] = rows.pop(OUTPUT)  # comes last
    features = {
        name: torch.cat(_of_one_width(name, parts))[:samples]
        for name, parts in rows.items()
        if name not in skipped
    }
    return features, torch.cat(_of_one_width("targets", targets))[:samples], skipped


def pooled_input(layer: Layer, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """What enters a layer (m, channels), averaged over positions: a tensor of its own, in float32 or better.

    For a linear layer these are the features of ``analyze``; for a convolution the means of the channels instead of
    the mean patch, which repeats them once per tap.
    """
    if isinstance(layer, SPATIAL):
        return x.flatten(2).mean(2, dtype=torch.promote_types(x.dtype, torch.float32))
    fits = keep is not None and x.ndim == 3 and x.shape[1] == keep.shape[1]
    rows = feature_rows(layer, x, keep=keep.to(x.device) if fits and keep is not None else None)
    return in_precision(rows)


def in_precision(rows: Tensor) -> Tensor:
    """A copy in float32 or better."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32), copy=True)


def _of_one_width(name: str, parts: list[Tensor]) -> list[Tensor]:
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        raise FeatgeoError("data", f"'{name}' of shapes {shapes} in different batches", "Use one shape.")
    return parts

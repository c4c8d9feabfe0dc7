"""What compress() found: the smaller model and the account of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from featgeo.apply.factor import find_layers, swap, thin_layers
from featgeo.errors import FeatgeoError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerCut:
    """One layer of the table. Losses in loss units, increases of this layer cut alone, without any refitting.

    Attributes:
        name: in ``named_modules()``.
        kind: its class.
        status: cut, dense (kept as one layer; refitted where an earlier one was cut) or skipped.
        shape: outputs and inputs of its matrix.
        rank: of the thin layers, or None.
        before: parameters before, bias included.
        after: parameters after.
        predicted: increase of the loss that was predicted.
        measured: increase of the loss that was measured on the same samples.
        reason: why it was skipped.
    """

    name: str
    kind: str
    status: str
    shape: tuple[int, int] = (0, 0)
    rank: int | None = None
    before: int = 0
    after: int = 0
    predicted: float = float("nan")
    measured: float = float("nan")
    reason: str = ""


@dataclass(frozen=True)
class Compression:
    """A compressed model.

    Attributes:
        model: a plain ``nn.Module``, a copy of the original with thin layers in place of some.
        layers: one row for every layer with parameters of its own.
        loss: name of the loss.
        loss_before: mean loss of the original on the data.
        loss_after: mean loss of the compressed model on the same data.
        predicted: increase predicted for all cuts together, before any refitting.
        truncated: increase measured for the same, on the same samples.
        parameters: of the whole model before and after.
        samples: number of samples.
        metric: near or far, the one whose cut was kept.
        warnings: what to know before relying on it.
    """

    model: nn.Module
    layers: tuple[LayerCut, ...]
    loss: str
    loss_before: float
    loss_after: float
    predicted: float
    truncated: float
    parameters: tuple[int, int]
    samples: int
    metric: str
    warnings: tuple[str, ...] = ()

    @property
    def considered(self) -> tuple[int, int]:
        """Parameters before and after of the layers considered: those with status cut or dense."""
        return sum(layer.before for layer in self.layers), sum(layer.after for layer in self.layers)

    @property
    def ratio(self) -> float:
        """Parameters kept over parameters before, biases included, of the layers considered."""
        before, after = self.considered
        return after / before

    @property
    def ranks(self) -> dict[str, int]:
        """Ranks of the layers that were cut."""
        return {layer.name: layer.rank for layer in self.layers if layer.rank is not None}

    def to_frame(self) -> pd.DataFrame:
        """One row a layer."""
        import pandas as pd  # heavy: only where a frame is wanted

        return pd.DataFrame([vars(layer) for layer in self.layers]).set_index("name")

    def save(self, path: str | Path) -> None:
        """Write the weights as safetensors, with the ranks in the header, for :func:`load_compressed`."""
        save_model(self.model, str(path), {"featgeo_ranks": json.dumps(self.ranks)})

    def __str__(self) -> str:
        (before, after), (all_before, all_after) = self.considered, self.parameters
        wide = max([12, *(len(layer.name) for layer in self.layers if layer.status != "skipped")])
        lines = [
            f"{'layer':{wide}} {'kind':8} {'shape':>11} {'rank':>5} {'before':>11} {'after':>11} "
            f"{'predicted':>10} {'measured':>10}"
        ]
        skipped: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.status == "skipped":
                skipped.setdefault(layer.reason, []).append(layer.name)
                continue
            shape = f"{layer.shape[0]}x{layer.shape[1]}"
            rank = "dense" if layer.rank is None else str(layer.rank)
            predicted, measured = (
                f"{v:10.3g}" if v == v else f"{'-':>10}" for v in (layer.predicted, layer.measured)
            )
            lines.append(
                f"{layer.name:{wide}} {layer.kind:8} {shape:>11} {rank:>5} {layer.before:11,} {layer.after:11,} "
                f"{predicted} {measured}"
            )
        for reason, names in skipped.items():
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            lines.append(f"skipped: {shown}: {reason}")
        lines += [
            f"parameters of the layers considered, biases included: {after:,} of {before:,} (ratio {self.ratio:.4f})",
            f"parameters of the whole model: {all_after:,} of {all_before:,} ({all_after / all_before:.4f})",
            f"{self.loss} on {self.samples:,} samples: {self.loss_before:.5g} before, {self.loss_after:.5g} after",
            f"cuts alone, nothing refitted: predicted increase {self.predicted:.3g}, measured {self.truncated:.3g}",
            *(f"warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: everything but the model."""
        plain = {key: value for key, value in vars(self).items() if key not in ("model", "layers")}
        return {**plain, "ratio": self.ratio, "layers": [vars(layer) for layer in self.layers]}


def load_compressed(model: nn.Module, path: str | Path) -> nn.Module:
    """A compressed model from a fresh original and what :meth:`Compression.save` wrote.

    Args:
        model: of the original's architecture; becomes the compressed model in place.
        path: the safetensors file.

    Raises:
        FeatgeoError: where the file cannot be read, was not written by ``save``, or does not fit the model.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            ranks = json.loads((file.metadata() or {})["featgeo_ranks"])
    except (OSError, SafetensorError, KeyError) as error:
        raise FeatgeoError(
            "path", f"{path}, which is no compressed model ({error})", "Pass what Compression.save wrote."
        ) from error
    layers, _ = find_layers(model)
    for name, rank in ranks.items():
        if name not in layers:
            raise FeatgeoError(
                "model", f"no layer '{name}' that can be cut", "Pass the original architecture."
            )
        swap(model, name, thin_layers(layers[name], rank))
    try:
        load_model(model, str(path))
    except RuntimeError as error:
        raise FeatgeoError(
            "model", f"one that {path} does not fit ({error})", "Pass the original architecture."
        ) from error
    return model


def parameters_of(model: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def restore_modes(cut: nn.Module, modes: dict[str, bool]) -> None:
    """Give every module the mode of the original's module of its name; thin layers that of the layer they replace."""
    for name, module in cut.named_modules():
        while name not in modes:
            name = name.rpartition(".")[0]
        module.training = modes[name]

"""A report's plain data as rows: one layer at one operating point, numbers checked, None where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featgeo.errors import FeatgeoError
from featgeo.theory.named import NON_NEGATIVE

POINTS = ("average", "bayes", "jacobian")  # the operating points, in the order in which they are shown
OWN = "own"  # instead of one of them: each layer's own, where the report chose different ones


@dataclass(frozen=True)
class Row:
    """One layer at one operating point, ready to be shown.

    The numbers mean what the fields of the same name mean in a report's view; all are None where the layer has no view
    at this operating point.

    Attributes:
        name: of the layer, control characters replaced.
        kind: class name of the module.
        neurons: n, 0 where the layer was skipped.
        inputs: k.
        status: ``analysed``, ``bypassed`` or ``skipped``.
        reason: why not analysed in full, else empty.
        warnings: assumptions that fail, without the layer's name at their beginning.
        has_view: whether there is a view at this operating point.
        significant: number of modes above the noise floor.
        rank99: number of modes that hold 99 % of the gain of the significant ones.
        width_curve: predicted loss with 0, 1, 2, ... modes kept.
        remark: what is to be said of its view here, else empty.
        promised: whether the gain available exceeds the loss of the best constant, which no loss does that is never
            negative.
    """

    name: str
    kind: str
    neurons: int
    inputs: int
    status: str
    reason: str
    warnings: tuple[str, ...] = ()
    has_view: bool = False
    alignment: float | None = None
    scale: float | None = None
    locality: float | None = None
    agreement: float | None = None
    gain_available: float | None = None
    gain_used: float | None = None
    gain_adjusted: float | None = None
    gap_weight: float | None = None
    alignment_error: float | None = None
    gain_available_error: float | None = None
    gain_used_error: float | None = None
    gap_bias: float | None = None
    gap_rank: float | None = None
    noise_floor: float | None = None
    constant_loss: float | None = None
    predicted_loss: float | None = None
    tail_r2: float | None = None
    spectrum: tuple[float, ...] = ()
    saturated: int | None = None
    nulls: dict[str, tuple[float, ...]] = field(default_factory=dict)
    significant: int | None = None
    rank99: int | None = None
    width_curve: tuple[float, ...] = ()
    remark: str = ""
    promised: bool = False

    @property
    def size(self) -> str:
        """Neurons x inputs, or empty where unknown."""
        return f"{self.neurons:,} × {self.inputs:,}" if self.neurons else ""

    @property
    def gain_drawn(self) -> float:
        """The gain available, as far as there is loss for it."""
        gain, loss = self.gain_available or 0.0, self.constant_loss or 0.0
        return min(gain, loss) if self.promised else gain

    @property
    def null_values(self) -> tuple[float, ...]:
        """Alignments under all nulls together."""
        return tuple(value for values in self.nulls.values() for value in values)


NUMBERS = (
    "alignment", "scale", "locality", "agreement", "gain_available", "gain_used", "gain_adjusted", "gap_weight",
    "gap_bias", "gap_rank", "noise_floor", "constant_loss", "predicted_loss", "tail_r2", "alignment_error",
    "gain_available_error", "gain_used_error",
)  # fmt: skip


def checked(data: Any) -> Mapping[str, Any]:
    """The data, if it is a report's.

    Raises:
        FeatgeoError: where it is not.
    """
    needed = {"layers", "loss", "loss_value", "constant_loss", "samples", "at"}
    missing = needed.difference(data) if isinstance(data, Mapping) else needed
    if missing or not isinstance(data["layers"], Mapping):
        found = f"a dict without {sorted(missing)}" if isinstance(data, Mapping) else type(data).__name__
        raise FeatgeoError(
            "data", found, "Pass Report.to_dict(), or what json.load reads from a saved report."
        )
    return data


def points(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Operating points that at least one layer has, each layer's own first where these differ from the report's.

    The report's own where no layer has any.
    """
    layers = [layer for layer in data["layers"].values() if layer["views"]]
    found = {at for layer in layers for at in layer["views"]}
    known = tuple(at for at in POINTS if at in found) + tuple(sorted(found.difference(POINTS)))
    mixed = len({_own(layer, data["at"]) for layer in layers if data["at"] in layer["views"]}) > 1
    return (OWN,) * mixed + known or (data["at"],)


def first_point(data: Mapping[str, Any]) -> str:
    """The operating point shown first: each layer's own where they differ, or the report's, if any layer has it."""
    available = points(data)
    return data["at"] if data["at"] in available and OWN not in available else available[0]


def rows(data: Mapping[str, Any], at: str | None = None) -> list[Row]:
    """One row per layer, in the report's order, at an operating point (the one shown first by default)."""
    at = at or first_point(data)
    layers = data["layers"].items()
    bounded = data["loss"] in NON_NEGATIVE
    return [
        _row(name, layer, _own(layer, data["at"]) if at == OWN else at, bounded) for name, layer in layers
    ]


def _own(layer: Mapping[str, Any], otherwise: str) -> str:
    """The operating point that the report reads a layer at."""
    own = printable(layer.get("default"))
    return own if own in layer["views"] else otherwise


def finite(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def printable(text: Any) -> str:
    """Text with line breaks, escape codes and other control characters replaced: names come from other people."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(text))


def _row(name: str, layer: Mapping[str, Any], at: str, bounded: bool) -> Row:
    shown = printable(name) or "(the model)"
    common: dict[str, Any] = {
        "name": shown,
        "kind": printable(layer["kind"]),
        "neurons": int(layer["neurons"] or 0),
        "inputs": int(layer["inputs"] or 0),
        "status": printable(layer["status"]),
        "reason": printable(layer.get("reason", "")),
        "warnings": tuple(
            printable(text).removeprefix(f"layer '{shown}': ") for text in layer.get("warnings", ())
        ),
    }
    view = layer["views"].get(at)
    if view is None:
        return Row(**common)
    numbers: dict[str, Any] = {key: finite(view.get(key)) for key in NUMBERS}
    values = tuple(value for item in view["spectrum"] if (value := finite(item)) is not None)
    spectrum = values if len(values) == len(view["spectrum"]) else ()
    floor, gain, loss = (numbers[key] for key in ("noise_floor", "gain_available", "constant_loss"))
    significant = sum(value > floor for value in spectrum) if floor is not None else len(spectrum)
    return Row(
        **common,
        **numbers,
        has_view=True,
        spectrum=spectrum,
        saturated=len(view.get("saturated") or ()),
        nulls={
            printable(null): tuple(value for item in items if (value := finite(item)) is not None)
            for null, items in (view.get("nulls") or {}).items()
        },
        significant=significant,
        rank99=_rank(spectrum[:significant], 0.99),
        width_curve=_width_curve(loss, spectrum),
        remark=printable(view.get("remark") or ""),
        promised=bounded and gain is not None and loss is not None and gain > loss,
    )


def _rank(spectrum: tuple[float, ...], fraction: float) -> int:
    total, kept = sum(value**2 for value in spectrum), 0.0
    for count, value in enumerate(spectrum):
        if kept >= fraction * total * (1 - 1e-12):
            return count
        kept += value**2
    return len(spectrum)


def _width_curve(constant_loss: float | None, spectrum: tuple[float, ...]) -> tuple[float, ...]:
    if constant_loss is None:
        return ()
    curve = [constant_loss]
    for value in spectrum:
        curve.append(curve[-1] - 0.5 * value**2)
    return tuple(curve)

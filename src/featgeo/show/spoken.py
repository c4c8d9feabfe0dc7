"""Figures in words, with their numbers: read aloud in the place of a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featgeo.show.rows import first_point, rows
from featgeo.show.words import POINT_NAMES, number, unit

LISTED = 12  # longest list of layers that is read out in full


def alignment(data: Mapping[str, Any]) -> str:
    """Figure (a) in words."""
    found = [row for row in rows(data) if row.has_view]
    each = (
        f"{r.name} {number(r.alignment, decimals=2)} with locality {number(r.locality, decimals=2)}"
        for r in found
    )
    return _read_out(
        f"Alignment and locality per layer at the {_point(data)}", each, [r.alignment for r in found]
    )


def gain(data: Mapping[str, Any], at: str) -> str:
    """Figure (b) in words."""
    found = [row for row in rows(data, at) if row.has_view]
    each = (
        f"{r.name} uses {number(r.gain_used)} of {number(r.gain_available)}, losing {number(r.gap_weight)} to weights, "
        f"{number(r.gap_bias)} to bias, {number(r.gap_rank)} to rank"
        for r in found
    )
    return _read_out(
        f"Gain in {unit(data)} per layer", each, [r.gain_available for r in found], "available gain"
    )


def spectrum(data: Mapping[str, Any], at: str) -> str:
    """Figure (c) in words."""
    found = [row for row in rows(data, at) if row.spectrum]
    each = (
        f"{r.name} has {r.significant} of {len(r.spectrum)} modes above the noise floor {number(r.noise_floor)}, "
        f"the largest {number(r.spectrum[0])}"
        for r in found
    )
    return _read_out(
        "Singular values per layer", each, [r.spectrum[0] for r in found], "largest singular value"
    )


def width(data: Mapping[str, Any], at: str) -> str:
    """Figure (d) in words."""
    found = [row for row in rows(data, at) if row.width_curve]
    each = (f"{r.name} reaches {number(r.width_curve[-1])}, 99 % of it with {r.rank99} modes" for r in found)
    start = f"Predicted loss against the number of modes kept, beside the model's loss {number(data['loss_value'])}"
    return _read_out(start, each, [r.width_curve[-1] for r in found], "predicted loss with all modes")


def _point(data: Mapping[str, Any]) -> str:
    return POINT_NAMES.get(first_point(data), first_point(data))


def _read_out(
    start: str, each: Iterable[str], values: Sequence[float | None], what: str = "alignment"
) -> str:
    sentences = list(each)
    known = [value for value in values if value is not None]
    if not sentences or not known:
        return f"{start}: no layer has this number."
    if len(sentences) <= LISTED:
        return f"{start}: " + "; ".join(sentences) + "."
    return (
        f"{start}: {len(sentences)} layers, {what} from {number(min(known))} to {number(max(known))}. First layer: "
        f"{sentences[0]}. Last layer: {sentences[-1]}. The table lists every layer."
    )

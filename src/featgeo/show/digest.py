"""What a report comes to, in sentences: the headline, warnings and findings, each said once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featgeo.show.rows import finite, first_point, printable, rows
from featgeo.show.words import POINT_NAMES, listed, loss_name, number, sentence

LOW = 0.5  # agreement below which the quadratic misses half of the actual decrease of the loss
FEW = 4  # most names in one reason of an error
APART = 3  # most texts that are kept apart although they differ in their numbers only
NUMBER = re.compile(r"\d(?:[\d.,e+-]*\d)?")
STOPPED = {
    "max_batches": "ended by max_batches",
    "max_seconds": "ended by max_seconds",
    "tol": "figures settled",
}
SEVERITIES = {"act": "Act", "doubt": "Doubt", "note": "Note"}


def headline(data: Mapping[str, Any]) -> list[str]:
    """What to know first, one sentence each: the loss, where to look, what not to trust."""
    found = rows(data)
    shown = [row for row in found if row.has_view]
    lines = [_loss_sentence(data)]
    aligned = [(row.alignment, row.name) for row in shown if row.alignment is not None]
    if len(aligned) > 1:
        (low, worst), (high, best) = min(aligned), max(aligned)
        lines.append(
            f"Look first at {worst}, whose weights align least with their local optimum "
            f"({number(low, decimals=2)}); {best} aligns best ({number(high, decimals=2)})."
        )
    elif aligned:
        lines.append(f"The weights of {aligned[0][1]} have alignment {number(aligned[0][0], decimals=2)}.")
    doubtful = [row.name for row in shown if row.agreement is not None and row.agreement < LOW]
    if doubtful and len(doubtful) == len(shown) > 1:
        lines.insert(
            1,
            f"Read with caution: in none of the {len(shown)} layers does the local picture predict even half of the "
            "actual decrease of the loss, so take alignments as directions and leave gains and gaps aside.",
        )
    elif doubtful:
        lines.append(
            f"Read with caution: in {len(doubtful)} of {len(shown)} layers ({listed(doubtful, 3)}) the local picture "
            "predicts less than half of the actual decrease of the loss."
        )
    missing = len(found) - len(shown)
    if missing:
        lines.append(f"{missing} of {len(found)} layers could not be analysed; the table says why.")
    return lines


def _loss_sentence(data: Mapping[str, Any]) -> str:
    share = removed(data)
    said = (
        f"On {data['samples']:,} samples the model's {loss_name(data)} is {number(data['loss_value'])}; "
        f"the best constant output has {number(data['constant_loss'])}"
    )
    if share is None:
        return said + "."
    if share <= 0:
        return said + ", so the model is no better than a constant."
    return said + f", so the model removes {share:.0%} of it."


def removed(data: Mapping[str, Any]) -> float | None:
    """Share of the best constant's loss that the model removes; None where that says nothing."""
    value, constant = finite(data["loss_value"]), finite(data["constant_loss"])
    return None if value is None or constant is None or constant <= 0 or value < 0 else 1 - value / constant


def caption(data: Mapping[str, Any], at: str | None = None) -> str:
    """One line: samples, loss, operating point, weight decay, what ended the pass if not the data."""
    at = at or first_point(data)
    parts = [
        f"{data['samples']:,} samples",
        f"{loss_name(data)} {number(data['loss_value'])}",
        f"best constant {number(data['constant_loss'])}",
        f"at the {POINT_NAMES.get(at, printable(at))}",
    ]
    if data.get("weight_decay"):
        parts.append(f"weight decay {data['weight_decay']:g}")
    if ended := STOPPED.get(data.get("stopped", "data")):
        parts.append(f"{ended} after {data.get('batches', 0):,} batches")
    return " · ".join(parts)


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """(name, text) pairs as text -> names: what many layers share is said once, its numbers as ranges if need be."""
    patterns: dict[str, dict[str, list[str]]] = {}
    for name, text in pairs:
        patterns.setdefault(_without_numbers(text), {}).setdefault(text, []).append(name)
    groups: dict[str, list[str]] = {}
    for pattern, texts in patterns.items():
        if len(texts) > APART:
            texts = {_ranged(list(texts), pattern): [name for names in texts.values() for name in names]}
        groups.update(texts)
    return groups


def _ranged(texts: Sequence[str], pattern: str) -> str:
    """Texts that differ in their numbers only, as one with ranges; the pattern where that cannot be."""
    found = [NUMBER.findall(text) for text in texts]
    if len({len(numbers) for numbers in found}) > 1:
        return pattern
    try:
        spans = [
            sorted(set(column), key=lambda part: float(part.replace(",", "")))
            for column in zip(*found, strict=True)
        ]
    except ValueError:  # no numbers after all
        return pattern
    told = iter([span[0] if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans])
    return NUMBER.sub(lambda _: next(told), texts[0])


def because(skipped: Mapping[str, str]) -> str:
    """Names (or none) with the reasons why they were skipped, each reason once."""
    told = grouped((name or "(the model)", reason) for name, reason in skipped.items())
    return "; ".join(f"{listed(names, FEW)} ({reason})" for reason, names in told.items()) or "nothing"


def _without_numbers(text: str) -> str:
    """The text with an ellipsis for every number and every list of numbers."""
    return re.sub(r"…(?:, …)*(?: \.\.\.)?", "…", NUMBER.sub("…", text))


def warnings(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Each warning once, with the layers that it is about; none for the report's own."""
    general: dict[str, list[str]] = {sentence(text): [] for text in data.get("warnings") or ()}
    about = ((row.name, sentence(text)) for row in rows(data) for text in row.warnings)
    return {**general, **grouped(about)}


@dataclass(frozen=True)
class FindingGroup:
    """One finding with all the layers that it is about.

    Attributes:
        kind: ``act``, ``doubt`` or ``note``.
        title: a sentence.
        remedy: a sentence, empty where it differs from layer to layer.
        layers: name, detail and the layer's own remedy (empty where it is common), one each.
        call: Python that does it, empty where there is none.
    """

    kind: str
    title: str
    remedy: str
    layers: tuple[tuple[str, str, str], ...]
    call: str = ""

    @property
    def severity(self) -> str:
        """The kind as a word for people."""
        return SEVERITIES[self.kind]


def findings(data: Mapping[str, Any]) -> list[FindingGroup]:
    """The findings, what calls for action first, one group per title."""
    groups: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    calls: dict[tuple[str, str], str] = {}
    for item in data.get("findings") or ():
        kind = item["severity"] if item["severity"] in SEVERITIES else "note"
        entry = printable(item["layer"]), sentence(item["detail"]), sentence(item["remedy"])
        key = kind, sentence(item["title"])
        groups.setdefault(key, []).append(entry)
        calls.setdefault(key, printable(item.get("call") or ""))
    found = []
    for kind in SEVERITIES:
        for (of_kind, title), entries in groups.items():
            if of_kind == kind:
                common = entries[0][2] if len({remedy for _, _, remedy in entries}) == 1 else ""
                layers = tuple((name, detail, "" if common else remedy) for name, detail, remedy in entries)
                found.append(FindingGroup(kind, title, common, layers, calls[kind, title]))
    return found

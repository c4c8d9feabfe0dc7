"""Words that every view shares: numbers as text, names, the glossary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from featgeo.show.rows import OWN, Row, finite, printable

DASH = "–"
POINT_NAMES = {
    OWN: "layer's own point", "average": "average tail", "bayes": "Bayes action", "jacobian": "mean Jacobian",
}  # fmt: skip
POINT_WORDS = {
    OWN: "Each layer as findings read it: at the mean Jacobian where another road bypasses it, so that what that road "
    "carries is not credited to the layer; else at the report's operating point.",
    "average": "The rest of the network is linearised over the data it sees. Reaches beyond the local region; tail R² "
    "says how far to trust it.",
    "jacobian": "The rest of the network is linearised by its mean derivative, for layers that another road bypasses: "
    "what that road carries is not credited to the layer.",
    "bayes": "The rest of the network is linearised at the best constant output, as in the paper. Exact near that "
    "point; locality says whether the layer is near.",
}
GLOSSARY = (
    ("Alignment", "How closely what the layer's weights do to its features points the way of the locally optimal "
     "weights: 1 is the same direction, 0 unrelated, below 0 opposed."),
    ("Standard error", "After ±: how far an alignment or a gain would typically be off for data of the same kind and "
     "number, judged by how much samples and batches vary."),
    ("Scale", "How long the layer's response is beside the optimal one: above 1 it overshoots, below 1 it holds back."),
    ("Locality", "How far the linear picture of the layers above and of the loss holds over what this layer puts "
     "out, from 0 to 1: where it is low the other numbers of the row mean little."),
    ("Agreement", "Of the predicted and the actual decrease of the loss, the smaller over the larger, from 0 to 1: "
     "near 0 gains and losses are directions at best."),
    ("Gain available", "What the layer's input features allow the loss to fall, through the rest of the network."),
    ("Gain used", "The part of that decrease which the present weights attain; negative where they do harm."),
    ("Gain adjusted", "The gain available, less what noise alone would show with this many samples and features."),
    ("Gap: weight, bias, rank", "What is lost because the weights, or the mean output, are not optimal, and what the "
     "features would still offer to a read-out that does not have to pass through the rest of the network."),
    ("Mode", "One independent direction along which the features tell something of the target; its singular value σ "
     "adds ½σ² to the gain."),
    ("Noise floor", "Modes below this singular value cannot be told from chance at the 5 % level."),
    ("Rank 99 %", "How many modes hold 99 % of the gain of all modes above the noise floor: the width that the layer "
     "needs."),
    ("Tail R²", "How linear the rest of the network is over the data: 1 is exactly linear."),
    ("Saturated", "Neurons whose derivative vanishes at the Bayes action, so that the paper's theorem is silent about "
     "them."),
    ("Operating point", "Where the rest of the network is replaced by a linear map: over the data (average tail) or at "
     "the best constant output (Bayes action)."),
    ("Bayes action", "The constant output with the least mean loss; what a model can do that ignores its input."),
    ("Null", "The alignment where there is nothing to find, for example with shuffled labels: what chance shows."),
)  # fmt: skip


def number(value: float | None, digits: int = 3, decimals: int | None = None) -> str:
    """A number for people: significant digits, or a fixed number of decimals; a dash where there is none."""
    value = finite(value)
    if value is None:
        return DASH
    if value == 0 and decimals is None:
        return "0"
    if decimals is not None:
        text = f"{value:.{decimals}f}"
    elif not 1e-3 <= abs(value) < 1e6:
        text = f"{value:.{digits - 1}e}"
    else:
        before = len(f"{abs(value):.0f}") if abs(value) >= 1 else 0
        leading = 0 if abs(value) >= 0.1 else 1 if abs(value) >= 0.01 else 2
        text = f"{value:,.{max(0, digits - before + leading)}f}"
    return (
        "0" + text[2:]
        if text.startswith("-0") and not float(text.replace(",", ""))
        else text.replace("-", "−", 1)
    )


def percent(share: float | None) -> str:
    """A share as whole per cent; a dash where there is none."""
    if share is None:
        return DASH
    return f"{round(100 * share)}%".replace("-", "−")


def margin(value: float | None) -> str:
    """A standard error as text, two digits at most; empty where there is none."""
    return "" if finite(value) is None else f"± {number(value, digits=1)}"


def unit(data: Mapping[str, Any]) -> str:
    """Unit of the gains."""
    return "nats" if data["loss"] in ("cross_entropy", "bce", "poisson") else "loss units"


def loss_name(data: Mapping[str, Any]) -> str:
    """The loss, as people write it."""
    names = {"cross_entropy": "cross-entropy", "mse": "mean squared error", "bce": "binary cross-entropy"}
    return names.get(data["loss"], printable(data["loss"]).replace("_", " "))


def listed(names: Sequence[str], limit: int) -> str:
    """Names with commas, those that differ in one number as one (``layer.{0-5}.dense``), the rest counted."""
    names = _families(names)
    shown = names if len(names) <= limit + 1 else names[:limit]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _families(names: Sequence[str]) -> list[str]:
    """The names, three or more that differ in one number of their path only put together as ``{0-5,7}``."""
    families: dict[tuple[str, ...], list[int]] = {}
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts):
            if part.isdigit() and len(parts) > 1:
                families.setdefault((*parts[:i], "{}", *parts[i + 1 :]), []).append(int(part))
    told: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        keys = [(*parts[:i], "{}", *parts[i + 1 :]) for i, part in enumerate(parts) if part.isdigit()]
        best = max(keys, key=lambda key: len(families.get(key, ())), default=())
        numbers = sorted(set(families.get(best, ())))
        told[".".join(best).replace("{}", f"{{{_runs(numbers)}}}") if len(numbers) > 2 else name] = None
    return list(told)


def _runs(numbers: Sequence[int]) -> str:
    """Ascending numbers with commas, runs of three or more as their ends."""
    text: list[str] = []
    for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        values = [str(value) for _, value in run]
        text += [f"{values[0]}-{values[-1]}"] if len(values) > 2 else values
    return ",".join(text)


def sentence(text: Any) -> str:
    """The text with a capital at its beginning and a stop at its end."""
    text = printable(text).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) or not text else ".")


def row_notes(row: Row, at: str) -> list[str]:
    """Why a row is incomplete or special, in words, one thing each."""
    if row.has_view or row.status == "skipped":
        gain, loss = number(row.gain_available), number(row.constant_loss)
        told = f"gain of {gain} promised where there is {loss} to gain" if row.promised else ""
        return [text for text in (row.reason, row.remark, told) if text]
    return [row.reason or f"not analysed at this operating point ({POINT_NAMES.get(at, at)})"]


def row_note(row: Row, at: str) -> str:
    """All of it; empty where nothing is to be said."""
    return "; ".join(row_notes(row, at))

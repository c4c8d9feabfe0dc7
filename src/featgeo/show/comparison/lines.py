"""A comparison's plain data as lines: one layer over all reports, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featgeo.errors import FeatgeoError
from featgeo.show import digest, words
from featgeo.show.rows import Row, checked, finite, printable, rows

NAMED = 4  # most layers that a finding names
LEAST = 1e-3  # relative difference of two losses that is one


@dataclass(frozen=True)
class Number:
    """A number that layers are compared by.

    Attributes:
        field: of a row.
        title: for people.
        decimals: fixed ones, or significant digits where there are none.
        bounded: whether it lies in [0, 1], or in [-1, 1] with what is below 0 of no use.
        word: of the glossary.
    """

    field: str
    title: str
    decimals: int | None = None
    bounded: bool = False
    word: str = ""

    def text(self, row: Row) -> str:
        """The number in a row, with its standard error where there is one; a dash where there is no number."""
        value = getattr(row, self.field)
        if value is None:
            return words.DASH
        told = str(value) if isinstance(value, int) else words.number(value, decimals=self.decimals)
        return f"{told} {words.margin(getattr(row, f'{self.field}_error', None))}".rstrip()


NUMBERS = (
    Number("alignment", "Alignment", 2, True, "Alignment"),
    Number("locality", "Locality", 2, True, "Locality"),
    Number("agreement", "Agreement", 2, True, "Agreement"),
    Number("scale", "Scale", 2, False, "Scale"),
    Number("gain_used", "Gain used", None, False, "Gain used"),
    Number("gain_available", "Gain available", None, False, "Gain available"),
    Number("rank99", "Rank 99 %", None, False, "Rank 99 %"),
)


def reports_of(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The reports by the names that people see.

    Raises:
        FeatgeoError: where the data is no comparison.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("reports"), Mapping) or not data["reports"]:
        raise FeatgeoError("data", f"a {type(data).__name__}", "Pass Comparison.to_dict().")
    return {printable(name) or "(no name)": checked(report) for name, report in data["reports"].items()}


def lines(data: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Name of a report -> rows of all layers that any report has, in one order; empty rows where it has not."""
    found = {
        name: {row.name: row for row in rows(report, data["at"])} for name, report in reports_of(data).items()
    }
    order = layer_order([list(of_report) for of_report in found.values()])
    return {
        name: [of_report.get(layer, Row(layer, "", 0, 0, "absent", "")) for layer in order]
        for name, of_report in found.items()
    }


def layer_order(lists: Sequence[Sequence[str]]) -> list[str]:
    """All names once: those of the first list in its order, each further one after its neighbour before it."""
    order: list[str] = []
    for names in lists:
        place = 0
        for name in names:
            if name in order:
                place = order.index(name) + 1
            else:
                order.insert(place, name)
                place += 1
    return order


def headline(data: Mapping[str, Any]) -> str:
    """One sentence: which model has the lowest loss, where losses compare."""
    reports = reports_of(data)
    losses = {
        name: value for name, report in reports.items() if (value := finite(report["loss_value"])) is not None
    }
    if len({report["loss"] for report in reports.values()}) > 1 or len(losses) < 2:
        return f"{len(reports)} reports side by side."
    best, worst = min(losses, key=losses.__getitem__), max(losses, key=losses.__getitem__)
    said = words.loss_name(reports[best])
    if losses[worst] - losses[best] <= LEAST * abs(losses[worst]):
        return f"{len(reports)} reports side by side; all have the same {said}, {words.number(losses[best])}."
    return (
        f"Of {len(reports)} models {best} has the lowest {said}, {words.number(losses[best])}; "
        f"{worst} has the highest, {words.number(losses[worst])}."
    )


MODEL_COLUMNS = ("Loss", "Best constant", "Removed", "Samples", "Layers analysed", "Act", "Doubt", "Note")


def models(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Name of a report -> what is said of the whole model, as text under :data:`MODEL_COLUMNS`."""
    found = {}
    for name, report in reports_of(data).items():
        shown = rows(report, data["at"])
        kinds = [item["severity"] for item in report.get("findings") or ()]
        found[name] = [
            words.number(report["loss_value"]),
            words.number(report["constant_loss"]),
            words.percent(digest.removed(report)),
            f"{report['samples']:,}",
            f"{sum(row.has_view for row in shown)} of {len(shown)}",
            *(str(kinds.count(kind)) for kind in digest.SEVERITIES),
        ]
    return found


def findings(data: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Severity, title, and for each report the layers that the finding is about; what calls for action first."""
    reports = reports_of(data)
    groups = {
        name: {(g.kind, g.title): g for g in digest.findings(report)} for name, report in reports.items()
    }
    keys = dict.fromkeys(key for found in groups.values() for key in found)
    order = list(digest.SEVERITIES)
    table = []
    for kind, title in sorted(keys, key=lambda key: order.index(key[0])):
        cells = []
        for found in groups.values():
            group = found.get((kind, title))
            names = [layer for layer, _, _ in group.layers] if group else []
            cells.append(words.listed(names, NAMED))
        table.append((digest.SEVERITIES[kind], title.rstrip("."), cells))
    return table


def caption(data: Mapping[str, Any]) -> str:
    """One line: the operating point and the unit of gains."""
    first = next(iter(reports_of(data).values()))
    point = words.POINT_NAMES.get(data["at"], printable(data["at"]))
    return f"at the {point} · gains in {words.unit(first)}"

"""A comparison as HTML: one self-contained page, and a fragment for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featgeo.show import words
from featgeo.show.comparison import plots
from featgeo.show.comparison.lines import (
    MODEL_COLUMNS,
    NUMBERS,
    Number,
    caption,
    findings,
    headline,
    lines,
    models,
    reports_of,
)
from featgeo.show.html import environment, glossary, plain_json
from featgeo.show.rows import Row, printable
from featgeo.show.style import themed_svg

READ_OUT = 40  # most marks of a figure that are read out one by one
WORDS = ("Operating point", "Rank 99 %", "Gain adjusted", "Standard error")


def page(data: Mapping[str, Any]) -> str:
    """One self-contained page: it loads nothing, and works without scripts.

    Args:
        data: ``Comparison.to_dict()``.

    Raises:
        FeatgeoError: where the data is no comparison.
    """
    found = lines(data)
    names = [row.name for row in next(iter(found.values()))]
    drawn = plots.shown_reports(data)
    first = next(iter(reports_of(data).values()))
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            **_shared(data, found),
            plain=plain_json(data),
            longest=max(map(len, names), default=0),
            drawn=f"{len(drawn)} of {len(found)} models, evenly spread" if len(drawn) < len(found) else "",
            alignment=themed_svg(plots.alignment(data), _spoken(found, drawn, NUMBERS[:2]), "alignment"),
            gain=themed_svg(plots.gain(data), _spoken(found, drawn, NUMBERS[4:6]), "gain"),
            point_words=words.POINT_WORDS.get(data["at"], ""),
            point_name=words.POINT_NAMES.get(data["at"], printable(data["at"])),
            unit=words.unit(first),
            glossary=glossary({number.word for number in NUMBERS} | {*WORDS}),
        )
    )


def fragment(data: Mapping[str, Any]) -> str:
    """Compact tables of models, alignment and gain used, styled within themselves, without ids or scripts.

    Args:
        data: ``Comparison.to_dict()``.

    Raises:
        FeatgeoError: where the data is no comparison.
    """
    shared = _shared(data, lines(data))
    shared["tables"] = [table for table in shared["tables"] if table["field"] in ("alignment", "gain_used")]
    return environment().get_template("comparison_fragment.html.j2").render(**shared)


def _shared(data: Mapping[str, Any], found: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    return {
        "headline": headline(data),
        "caption": caption(data),
        "notes": [words.sentence(note) for note in data.get("notes") or ()],
        "names": list(found),
        "model_columns": MODEL_COLUMNS,
        "models": models(data),
        "tables": [_table(number, found) for number in NUMBERS],
        "findings": findings(data),
        "dash": words.DASH,
    }


def _table(number: Number, found: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """One number of all layers and reports: for each layer its name, kinds and cells (text, share of a full bar)."""
    every = list(found.values())
    rows = []
    for i, first in enumerate(every[0]):
        of_layer = [report[i] for report in every]
        kinds = dict.fromkeys(
            f"{row.kind}, {row.size}" if row.size else row.kind for row in of_layer if row.kind
        )
        cells = []
        for row in of_layer:
            value = getattr(row, number.field)
            share = None if value is None or not number.bounded else min(max(value, 0.0), 1.0)
            cells.append((number.text(row), share, row.status if row.status != "analysed" else ""))
        rows.append((first.name, words.listed(list(kinds), 2), cells, any(row.has_view for row in of_layer)))
    meaning = next((text for word, text in words.GLOSSARY if word == number.word), "")
    return {"field": number.field, "title": number.title, "rows": rows, "meaning": meaning}


def _spoken(found: Mapping[str, Sequence[Row]], drawn: Sequence[str], numbers: Sequence[Number]) -> str:
    """A figure in words, with its numbers."""
    title = " and ".join(number.title.lower() for number in numbers)
    layers = [row.name for row in found[drawn[0]]]
    start = f"{title.capitalize()} of {len(layers)} layers in {len(drawn)} models"
    if len(layers) * len(drawn) > READ_OUT:
        return f"{start}: {', '.join(drawn)}. The tables below list every number."
    told = []
    for i, layer in enumerate(layers):
        each = (f"{name} {' and '.join(n.text(found[name][i]) for n in numbers)}" for name in drawn)
        told.append(f"{layer}: {', '.join(each)}")
    return f"{start}. {'; '.join(told)}."

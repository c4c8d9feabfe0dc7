"""A report as HTML: one self-contained page, and a fragment for notebooks."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from featgeo.show import digest, plots, spoken, words
from featgeo.show.rows import OWN, Row, checked, finite, first_point, points, printable, rows
from featgeo.show.style import themed_svg


def page(data: Mapping[str, Any]) -> str:
    """One self-contained page: it loads nothing, and works without scripts.

    Args:
        data: ``Report.to_dict()``, or what was read from a saved report.

    Raises:
        FeatgeoError: where the data is no report.
    """
    data = checked(data)
    first = first_point(data)
    order = sorted(points(data), key=lambda at: at != first)
    found = rows(data)
    nulls = dict.fromkeys(null for at in order for row in rows(data, at) for null in row.nulls)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **_shared(data),
            plain=plain_json(data),
            loss_name=words.loss_name(data),
            loss_value=words.number(data["loss_value"]),
            tiles=_tiles(data, found),
            unit=words.unit(data),
            longest=max((len(row.name) for row in found), default=0),
            chance=words.listed(list(nulls), 6),
            alignment=themed_svg(plots.alignment(data), spoken.alignment(data), "alignment"),
            views=[_view(data, at, index) for index, at in enumerate(order)],
            glossary=glossary(),
            footer=_footer(data),
        )
    )


def fragment(data: Mapping[str, Any]) -> str:
    """A compact table with findings and warnings, styled within itself, without ids or scripts, for a notebook.

    Args:
        data: ``Report.to_dict()``, or what was read from a saved report.

    Raises:
        FeatgeoError: where the data is no report.
    """
    data = checked(data)
    template = environment().get_template("fragment.html.j2")
    return template.render(
        **_shared(data), rows=rows(data), at=first_point(data), caption=digest.caption(data)
    )


@cache
def environment() -> Environment:
    """Templates of the folder ``page``, with the filters that they share."""
    folder = files("featgeo.show") / "page"
    environment = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=words.number,
        margin=words.margin,
        note=words.row_note,
        sentence=words.sentence,
        breakable=_breakable,
    )
    return environment


def _breakable(name: str) -> Markup:
    """A name that may break after its dots and underscores, and before capitals within words."""
    return Markup(re.sub(r"(?<=[._])|(?<=[a-z])(?=[A-Z])", "<wbr>", str(escape(name))))


def _shared(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "headline": digest.headline(data),
        "warnings": {text: words.listed(names, 6) for text, names in digest.warnings(data).items()},
        "findings": digest.findings(data),
        "dash": words.DASH,
    }


def _view(data: Mapping[str, Any], at: str, index: int) -> dict[str, Any]:
    """What the page shows at one operating point."""
    found = rows(data, at)
    lowest = min((row.width_curve[-1] for row in found if row.width_curve), default=0.0)
    return {
        "at": at,
        "name": words.POINT_NAMES.get(at, printable(at)),
        "words": words.POINT_WORDS.get(at, ""),
        "average": at in ("average", OWN),
        "rows": found,
        "below_zero": lowest < 0,
        "gain": themed_svg(plots.gain(data, at), spoken.gain(data, at), f"gain-{index}"),
        "spectrum": themed_svg(plots.spectrum(data, at), spoken.spectrum(data, at), f"spectrum-{index}"),
        "width": themed_svg(plots.width_curve(data, at), spoken.width(data, at), f"width-{index}"),
    }


def _tiles(data: Mapping[str, Any], found: list[Row]) -> list[tuple[str, str]]:
    return [
        ("Loss of the model", words.number(data["loss_value"])),
        ("Best constant output", words.number(data["constant_loss"])),
        ("Removed by the model", words.percent(digest.removed(data))),
        ("Samples", f"{data['samples']:,}"),
        ("Layers analysed", f"{sum(row.has_view for row in found)} of {len(found)}"),
    ]


def _footer(data: Mapping[str, Any]) -> str:
    versions = " · ".join(
        printable(f"{name} {version}") for name, version in (data.get("versions") or {}).items()
    )
    seconds = finite(data.get("seconds"))
    parts = [digest.caption(data), versions, f"{seconds:.1f} s" if seconds else ""]
    return " · ".join(part for part in parts if part)


def glossary(chosen: Collection[str] | None = None) -> list[tuple[str, str, str]]:
    """Key, word and meaning of all words, or of those chosen."""
    return [(_key(word), word, text) for word, text in words.GLOSSARY if chosen is None or word in chosen]


def _key(word: str) -> str:
    """A glossary word as part of an id: letters, digits and single dashes."""
    plain = "".join(
        sign if sign.isascii() and sign.isalnum() else " " for sign in word.lower().replace("²", "2")
    )
    return "-".join(plain.split())


def plain_json(value: Any) -> Any:
    """The data with NaN and infinity as null, which is all that JSON has for them."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

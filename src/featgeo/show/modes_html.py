"""The modes of a table as one self-contained HTML page, from plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from featgeo.show.html import environment
from featgeo.show.rows import printable
from featgeo.show.style import themed_svg
from featgeo.show.tables import KIND_WORDS, biplot, heat_map, scree

DASH = "–"
LISTED_MODES = 20
WIDE = 20  # categories from which on a heat map scrolls on a phone instead of shrinking


def modes_page(data: Mapping[str, Any]) -> str:
    """One self-contained page: it loads nothing, and works without scripts.

    Args:
        data: ``ModalDecomposition.to_dict()``.
    """
    names = [printable(name) for name in data["names"]]
    correlations, test = data["correlations"], data["significance"]
    sides = [
        _side(data[key], name, size)
        for key, name, size in zip(("rows", "columns"), names, data["shape"], strict=True)
    ]
    shown = list(range(1, min(2, len(correlations)) + 1))
    return (
        environment()
        .get_template("modes.html.j2")
        .render(
            title=" × ".join(names),
            names=names,
            lead=_lead(data, names),
            tiles=_tiles(data),
            warnings=[printable(text) for text in data["warnings"]],
            test_words=_test_words(test),
            columns=["Correlation", "Inertia", "Share"] + (["Corrected", "Null 95 %", "p"] if test else []),
            modes=_modes(data),
            count=len(correlations),
            shown=shown,
            sides=sides,
            scree=Markup(themed_svg(scree(data), _spoken(data), "scree")),
            heat_map=Markup(themed_svg(heat_map(data), f"Heat map of B, {names[0]} by {names[1]}.", "heat")),
            wide=max(len(data["matrix"]["rows"]), len(data["matrix"]["columns"])) > WIDE,
            biplots=_biplots(data, names) if correlations else [],
        )
    )


def _lead(data: Mapping[str, Any], names: list[str]) -> str:
    if not data["correlations"]:
        return f"No mode of dependence between {names[0]} and {names[1]} was kept."
    first, shares = data["correlations"][0], data["shares"]
    text = f"The maximal correlation of {names[0]} and {names[1]} is {first:.3f}; "
    text += f"its mode holds {shares[0]:.0%} of the inertia."
    test = data["significance"]
    if test:
        found, count = test["n_significant"], len(data["correlations"])
        text += f" {found} of {count} modes stand out from what independence gives at the {test['alpha']:.0%} level."
    return text


def _tiles(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Observations", f"{data['total']:,.6g}"),
        ("Table", f"{data['shape'][0]:,} × {data['shape'][1]:,}"),
        ("Inertia", f"{data['inertia']:.4f}"),
        ("χ²", f"{data['chi2']:,.1f}"),
        ("p of independence", _p(data["p_value"])),
        ("Mutual information", f"{data['mutual_information']:.4f} nats"),
        ("Its local approximation", f"{data['local_information']:.4f} nats"),
    ]


def _modes(data: Mapping[str, Any]) -> list[list[str]]:
    lines = []
    test = data["significance"]
    for k, (correlation, share) in enumerate(zip(data["correlations"], data["shares"], strict=True)):
        line = [f"{correlation:.4f}", f"{correlation**2:.5f}", f"{share:.1%}"]
        if test:
            line += [f"{test['corrected'][k]:.4f}", f"{test['null_high'][k]:.4f}", _p(test["p_values"][k])]
        lines.append(line)
    return lines[:LISTED_MODES]


def _test_words(test: Mapping[str, Any] | None) -> str:
    if not test:
        return "Its significance was not tested."
    return (
        f"p is the chance of so large a correlation if only the modes before were real ({test['method']} null, "
        f"{test['n_resamples']:,} draws); the corrected correlation is freed of what sampling noise adds."
    )


def _biplots(data: Mapping[str, Any], names: list[str]) -> list[tuple[str, Markup]]:
    titles = {
        "symmetric": "Symmetric map",
        "rows": f"Row-principal map ({names[0]})",
        "columns": f"Column-principal map ({names[1]})",
    }
    found = []
    for kind, words in KIND_WORDS.items():
        title = f"{titles[kind]}: {words}."
        figure = biplot(data, kind)  # type: ignore[arg-type]
        found.append((title, Markup(themed_svg(figure, title, f"map-{kind}"))))
    return found


def _side(side: Mapping[str, Any], name: str, size: int) -> dict[str, Any]:
    lines = []
    for i, label in enumerate(side["labels"]):
        values = [_number(side["masses"][i], 4), _number(side["inertia"][i], 5)]
        for k in range(min(2, len(side["coordinates"][i]))):
            values += [
                _number(side[key][i][k], 3) for key in ("coordinates", "contributions", "squared_cosines")
            ]
        lines.append((printable(label), values))
    all_of_them = len(lines) == size
    caption = (
        f"All {size:,} categories"
        if all_of_them
        else f"The {len(lines):,} of {size:,} categories with most inertia"
    )
    return {"name": name, "lines": lines, "caption": caption}


def _number(value: float, digits: int) -> str:
    return DASH if not math.isfinite(value) else f"{value:.{digits}f}"


def _p(value: float) -> str:
    return DASH if not math.isfinite(value) else "< 1e-300" if value < 1e-300 else f"{value:.2g}"


def _spoken(data: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{value:.3f}" for value in data["correlations"][:8])
    return f"Correlations by mode: {listed}." if listed else "No modes."

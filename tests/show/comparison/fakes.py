"""Comparisons as plain data, made up."""

from __future__ import annotations

from typing import Any

from tests.show.fakes import fake_layer, fake_report, five_layers, many_layers


def fake_comparison(reports: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {"reports": reports, "at": "average", "notes": [], **changes}


def two() -> dict[str, Any]:
    """Two models of which one has fewer layers and findings, with a note."""
    small = fake_report(
        [fake_layer("conv1", "Conv2d", 16, 27, 0.1), fake_layer("head", "Linear", 10, 16, 0.9)]
    )
    note = "The numbers of samples differ (large: 10,000, small: 5,000): noise floors and ranks do, too."
    return fake_comparison({"large": five_layers(), "small": {**small, "loss_value": 1.9}}, notes=[note])


def twelve() -> dict[str, Any]:
    """Twelve checkpoints of a deep network, with long names."""
    reports = {f"checkpoints/epoch-{i:03d}.safetensors": many_layers(20) for i in range(12)}
    return fake_comparison(
        {name: {**data, "loss_value": 4 / (i + 1)} for i, (name, data) in enumerate(reports.items())}
    )

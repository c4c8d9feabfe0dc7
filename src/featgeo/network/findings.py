"""Plain words about a report: each finding has a threshold that is written here, a number, and what to do."""

from __future__ import annotations

from dataclasses import replace

from featgeo.network.report import Report
from featgeo.network.views import Finding, LayerReport

GAP = 0.1  # share of the gain of W* that the weights miss
WIDE = 0.5  # share of the neurons that the modes for 99 % of the gain need
LOCAL = 0.8  # locality below which the quadratic's numbers are doubted (docs/validation.md, whole networks)
AGREES = 0.5  # the same for the agreement of predicted and actual decrease


def find(report: Report) -> Report:
    """The report with its findings filled in."""
    found: list[Finding] = []
    for layer in report.analysed:
        found += _findings(layer)
    return replace(report, findings=tuple(found))


def _findings(layer: LayerReport) -> list[Finding]:
    view, found = layer.view(), []
    signal, last = view.significant > 0, layer.is_output
    missed = (
        1 + view.scale**2 - 2 * view.alignment * view.scale
    )  # ‖U - U*‖²/‖U*‖², U = R W Σ^½; gap over gain at λ = 0
    if not signal:
        found.append(
            Finding(
                layer.name,
                "no mode stands above the noise",
                f"largest singular value {max(view.spectrum, default=0):.3g}, noise floor {view.noise_floor:.3g}",
                "Analyse more samples, or look for labels that do not belong to these inputs.",
                "doubt",
            )
        )
    local = view.locality >= LOCAL and view.agreement >= AGREES
    if signal and not local:
        found.append(
            Finding(
                layer.name,
                "outside the local region",
                f"the quadratic predicts a loss of {view.predicted_loss:.3g} (locality {view.locality:.2f}, "
                f"agreement {view.agreement:.2f})",
                "Read the alignment as a direction only; do not believe its gains and gaps.",
                "doubt",
            )
        )
    if last and signal and local and missed > GAP:
        found.append(
            Finding(
                layer.name,
                "the last layer is not optimal for its features",
                f"alignment {view.alignment:.2f} and scale {view.scale:.2f} miss {missed:.0%} of the gain of W*",
                "Train it longer, or refit it on frozen features.",
                "act",
            )
        )
    if layer.views.get("bayes") and layer.views["bayes"].saturated:
        neurons = layer.views["bayes"].saturated
        found.append(
            Finding(
                layer.name,
                "neurons saturated at the Bayes action",
                f"{len(neurons)} of {layer.neurons} ({', '.join(map(str, neurons[:8]))})",
                "The theorem does not cover them; rely on the average tail.",
                "note",
            )
        )
    if layer.feature_rank < layer.inputs:
        found.append(
            Finding(
                layer.name,
                "features are rank-deficient",
                f"rank {layer.feature_rank} of {layer.inputs}",
                "Constant or duplicated features can be removed without loss.",
                "note",
            )
        )
    rank = view.rank(0.99)
    if signal and not last and layer.status == "analysed" and rank < WIDE * layer.neurons:
        found.append(
            Finding(
                layer.name,
                "wider than its modes need",
                f"modes for 99 % of the gain: {rank}; it has {layer.neurons} neurons",
                f"Consider about {rank} neuron{'s' * (rank != 1)}, or a factorised layer of that rank.",
                "note",
            )
        )
    return found

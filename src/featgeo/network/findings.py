"""Findings about a report, with number, threshold, what to do and the call that does it (docs/findings.md says why)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

from featgeo.network.report import Report
from featgeo.network.views import Finding, LayerReport
from featgeo.theory.named import NAMED, NON_NEGATIVE

SIGNAL = 1  # modes that must stand above the noise floor (5 % level)
UNFELT = 1e-9  # gain available over the loss of the best constant, at which the output does not feel it
LOCAL = 0.8  # locality below which the quadratic's numbers are doubted (docs/validation.md, networks)
AGREES = 0.5  # the same for the agreement of predicted and actual decrease
FELT = 1e-6  # change of the loss, relative to it, below which a step's is rounding
STEP = 2.0  # factor by which a small step towards W* may miss its prediction (docs/validation.md, beyond the region)
PROMISED = 1  # gain available over the loss of the best constant, of losses that are never negative
GAP = 0.1  # share of the gain of W* that the weights of the last layer miss
LOST = 0.1  # share of the gain that a linear read-out has before a layer and no longer has after it
CHANCE = 2.0  # standard deviations of chance that the loss of gain must exceed, too
DEAD = 0.02  # share of a layer's neurons, one in fifty, that are dead or saturated
DEPENDENT = 0.01  # share of a layer's features that others determine linearly, beside those that never vary
WIDE = 0.5  # share of the neurons that the modes for 99 % of the gain need
EVIDENCE = 100  # samples below which nothing is found but doubts: what none of 100 shows, up to 3 in 100 may still do
FREE = 0.01  # share of the loss that may be lost where what is removed does nothing
HEADS = ("Linear", "Conv1d", "Conv2d", "Conv3d")  # last layers that solve_head solves for
LISTED = 8  # most neurons that a finding names


def find(report: Report) -> Report:
    """The report with its findings filled in."""
    found = [finding for layer in report.analysed for test in TESTS for finding in test(report, layer)]
    found += list(_lost_along_depth(report))
    if report.samples < EVIDENCE:
        found = [finding for finding in found if finding.severity == "doubt"] + _withheld(report, found)
    order = list(report.layers)
    return replace(report, findings=tuple(sorted(found, key=lambda finding: order.index(finding.layer))))


def _withheld(report: Report, found: list[Finding]) -> list[Finding]:
    """For each layer of which too few samples would have something found, that they are."""
    titles: dict[str, list[str]] = {}
    for finding in found:
        if finding.severity != "doubt":
            titles.setdefault(finding.layer, []).append(finding.title)
    remedy = f"Analyse {EVIDENCE} or more before believing it."
    told = {name: f"on these {report.samples}, {' and '.join(seen)}" for name, seen in titles.items()}
    fixed = remedy, "doubt", "", report.samples, EVIDENCE
    return [Finding(name, "too few samples to tell", detail, *fixed) for name, detail in told.items()]


def has_signal(layer: LayerReport) -> bool:
    """Whether the layer's features tell something of the targets."""
    return bool(layer.significant >= SIGNAL)


def is_local(layer: LayerReport) -> bool:
    """Whether the quadratic's numbers can be believed for this layer."""
    return bool(layer.locality >= LOCAL and layer.agreement >= AGREES)


def _attainable(report: Report, layer: LayerReport) -> bool:
    """Whether the loss that the quadratic promises W* can be: of these losses none is below zero."""
    return report.loss not in NON_NEGATIVE or bool(layer.gain_available <= PROMISED * layer.constant_loss)


def _call(report: Report, name: str, more: str = "") -> str:
    """The call with the arguments that this report had."""
    loss = f'"{report.loss}"' if report.loss in NAMED else "loss"
    return f"fg.{name}(model, data, {loss}{more})"


def _almost_free(report: Report) -> str:
    """What compress() is asked for where something does nothing: the smallest model of about the same loss."""
    allowed = FREE * abs(report.loss_value)
    return f", max_loss_increase={allowed:.1g}" if allowed > 0 else ", budget=0.9"


def _noise(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """No mode of the features stands above what chance would show."""
    if layer.gain_available <= UNFELT * abs(layer.constant_loss):
        yield Finding(
            layer.name,
            "what its output has in common changes nothing",
            f"gain available {layer.gain_available:.1e}",
            "One action for all positions says nothing of this layer; an attention's keys are so, for a softmax does "
            "not see what they all share.",
            "doubt",
            "",
            layer.gain_available,
            UNFELT,
        )
    elif not has_signal(layer):
        yield Finding(
            layer.name,
            "no mode stands above the noise",
            f"largest singular value {max(layer.spectrum, default=0):.3g}, noise floor {layer.noise_floor:.3g}",
            "Analyse more samples, or look for labels that do not belong to these inputs.",
            "doubt",
            _call(report, "analyze", ", nulls=True"),
            layer.significant,
            SIGNAL,
        )


def _far(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """The layer is outside the region in which the quadratic describes the loss."""
    if has_signal(layer) and not is_local(layer):
        by_locality = not layer.locality >= LOCAL
        yield Finding(
            layer.name,
            "outside the local region",
            f"the quadratic predicts a loss of {layer.predicted_loss:.3g} (locality {layer.locality:.2f}, "
            f"agreement {layer.agreement:.2f})",
            "Read the alignment as a direction only, beside the nulls; do not believe its gains and gaps.",
            "doubt",
            _call(report, "analyze", ", nulls=True"),
            layer.locality if by_locality else layer.agreement,
            LOCAL if by_locality else AGREES,
        )


def _promised(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """The quadratic goes on falling where the loss has long reached its least value."""
    if not _attainable(report, layer):
        yield Finding(
            layer.name,
            "more gain is promised than there is loss",
            f"gain available {layer.gain_available:.3g}, {layer.gain_adjusted:.3g} less what noise shows, where the "
            f"layer at its best constant leaves a loss of {layer.constant_loss:.3g}",
            "Read its gains as proportions at most: the loss ends at zero, the quadratic does not.",
            "doubt",
            _call(report, "analyze", ", nulls=True"),
            layer.gain_available / layer.constant_loss if layer.constant_loss else float("inf"),
            PROMISED,
        )


def _step(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """A small step towards W* was measured, and did not do what the quadratic says."""
    step = layer.view().step
    if step is None or not has_signal(layer) or not is_local(layer):
        return
    if max(map(abs, step)) <= FELT * abs(report.loss_value):
        return
    ratio = step[1] / step[0] if step[0] else 1.0
    if not 1 / STEP <= ratio <= STEP:
        yield Finding(
            layer.name,
            "a step towards W* does not do what is predicted",
            f"predicted change of the loss {step[0]:.2e}, measured {step[1]:.2e}",
            "Do not move the layer there: what the rest of the network has made of it is not in the quadratic.",
            "doubt",
            _call(report, "analyze", ", steps=True"),
            ratio,
            STEP,
        )


def _head(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """The last layer's weights are not the best for the features that it is given."""
    # ‖U - U*‖²/‖U*‖² with U = R W Σ^½: the gap over the gain at λ = 0, and its like at λ > 0
    missed = 1 + layer.scale**2 - 2 * layer.alignment * layer.scale
    if (
        layer.is_output
        and has_signal(layer)
        and is_local(layer)
        and _attainable(report, layer)
        and missed > GAP
    ):
        penalty = f", weight_decay={report.weight_decay:g}" if report.weight_decay else ""
        yield Finding(
            layer.name,
            "the last layer is not optimal for its features",
            f"alignment {layer.alignment:.2f} and scale {layer.scale:.2f} miss {missed:.0%} of the gain of W*",
            "Refit it on the features as they are, or train it longer.",
            "act",
            _call(report, "solve_head", penalty + ', refine="exact"') if layer.kind in HEADS else "",
            missed,
            GAP,
        )


def _saturated(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """Neurons whose derivative vanishes at the Bayes action."""
    view = layer.views.get("bayes")
    if view and len(view.saturated) > DEAD * layer.neurons:
        yield Finding(
            layer.name,
            "neurons saturated at the Bayes action",
            f"{len(view.saturated)} of {layer.neurons} ({_numbers(view.saturated)})",
            "The theorem does not cover them; rely on the average tail.",
            "note",
            _call(report, "analyze", ', at="average"'),
            len(view.saturated) / layer.neurons,
            DEAD,
        )


def _dead(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """Neurons before this layer that put out the same value for every sample."""
    if layer.depth and len(layer.constant_features) > DEAD * layer.inputs:
        yield Finding(
            layer.name,
            "neurons before it are dead",
            f"{len(layer.constant_features)} of the {layer.inputs} features that it reads never vary on these data "
            f"({_numbers(layer.constant_features)})",
            "Draw their weights anew and train on, or take them out.",
            "act",
            _call(report, "compress", _almost_free(report)),
            len(layer.constant_features) / layer.inputs,
            DEAD,
        )


def _dependent(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """Features that are determined by others; constant ones count only where no neuron made them."""
    constant = len(layer.constant_features)
    dependent = layer.inputs - layer.feature_rank - (constant if layer.depth else 0)
    means = layer.averaged and not report.positions  # what means over positions lack, positions may have
    limited = layer.feature_rank >= report.samples - 1  # by the number of samples
    if dependent > DEPENDENT * layer.inputs and not (means or limited):
        norm = " Behind a layer norm one direction is always missing: no fault." if dependent == 1 else ""
        never = f", {constant} never vary" if constant else ""
        yield Finding(
            layer.name,
            "features are rank-deficient",
            f"rank {layer.feature_rank} of {layer.inputs}{never}",
            f"Constant or duplicated features can be removed without loss.{norm}",
            "note",
            _call(report, "compress", _almost_free(report)),
            dependent / layer.inputs,
            DEPENDENT,
        )


def _wide(report: Report, layer: LayerReport) -> Iterator[Finding]:
    """A hidden layer has many more neurons than its modes need."""
    rank, coarse = layer.rank(0.99), layer.rank(0.95)
    if (
        has_signal(layer)
        and not layer.is_output
        and layer.status == "analysed"
        and rank < WIDE * layer.neurons
    ):
        yield Finding(
            layer.name,
            "wider than its modes need",
            f"modes for 95 % and 99 % of the gain: {coarse} and {rank}; it has {layer.neurons} neurons",
            f"Consider about {rank} neuron{'s' * (rank != 1)}, or a factorised layer of that rank, and measure the "
            "loss.",
            "note",
            _call(report, "suggest_widths"),
            rank / layer.neurons,
            WIDE,
        )


def _lost_along_depth(report: Report) -> Iterator[Finding]:
    """Layers after which a linear read-out can gain less than before them.

    Everything passes through a layer that is the only road to the output, so two such layers in succession read the
    same signal, before and after the first of them. (Around a bypassed layer another road may carry what it drops; and
    where features are means over positions, what they lack may lie in the differences between positions.)
    """
    road = sorted((layer for layer in report.analysed if layer.status == "analysed"), key=lambda x: x.depth)
    for layer, above in pairwise(road):
        less = layer.gain_features - above.gain_features
        lost = less / layer.gain_features if layer.gain_features > 0 else 0.0
        if (
            has_signal(layer)
            and not above.averaged
            and lost > LOST
            and less > CHANCE * layer.gain_features_noise
        ):
            yield Finding(
                layer.name,
                "gain is lost along depth",
                f"a linear read-out of what it reads gains {layer.gain_features:.3g}, of what '{above.name}' reads "
                f"{above.gain_features:.3g}: {lost:.0%} less",
                "Widen it or train it longer; meanwhile features are best taken before it.",
                "act",
                _call(report, "rank_layers"),
                lost,
                LOST,
            )


def _numbers(neurons: tuple[int, ...]) -> str:
    """The first few numbers, and whether there are more."""
    return ", ".join(map(str, neurons[:LISTED])) + (" ..." if len(neurons) > LISTED else "")


TESTS: tuple[Callable[[Report, LayerReport], Iterator[Finding]], ...] = (
    _noise, _far, _promised, _step, _head, _saturated, _dead, _dependent, _wide,
)  # fmt: skip

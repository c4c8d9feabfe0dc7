"""analyze(): a trained network beside the local geometry of its loss."""

from __future__ import annotations

import math
import re
import time
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import torch
from torch import nn

from featgeo.data.batches import Batch, Batches
from featgeo.data.limits import First, Limits
from featgeo.data.processes import Processes
from featgeo.data.subset import Subset
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.findings import find
from featgeo.network.judge import Bench
from featgeo.network.keep import home_of, undisturbed
from featgeo.network.layers import Layer
from featgeo.network.layout import Positions, causal, layout_of
from featgeo.network.nulls import null_alignments
from featgeo.network.report import POINTS, Report
from featgeo.network.run import Forward, Runner, runner_of
from featgeo.network.select import Layers, kind_of, modules_of, split_layers
from featgeo.network.settle import Settling
from featgeo.network.survey import Survey, survey
from featgeo.network.sweep import Pass, sweep
from featgeo.network.taps import ELSEWHERE, UNEVEN
from featgeo.network.targets import data_notes, read_targets
from featgeo.network.together import one_model, unwrapped
from featgeo.network.views import LayerReport
from featgeo.show.digest import because
from featgeo.theory.named import LossLike, resolve_loss

REDRAWS = 3
WHOLE = "; positions='reduce' takes those of a sample together"
COMPANY = (
    "model: what it puts out for a sample changes with the other samples of the batch, or from call to call; the "
    "numbers are of batches like these, and what is said of a layer frozen on one sample is to be doubted."
)
SINGLE = (
    "data: all rows are positions of one sample (nodes of one graph). Standard errors and noise floors count them as "
    "independent, which they are not: take both as too small."
)


def analyze(
    model: nn.Module,
    data: object,
    loss: LossLike = "cross_entropy",
    *,
    at: Literal["average", "bayes", "jacobian"] | None = None,
    layers: Layers = None,
    positions: Positions | None = None,
    forward: Forward | None = None,
    subset: int = 512,
    steps: bool = False,
    weight_decay: float = 0.0,
    nulls: bool | int = False,
    max_batches: int | None = None,
    max_seconds: float | None = None,
    tol: float | None = None,
    batch_size: int = 256,
    progress: bool = False,
    seed: int = 0,
    group: Any = None,
) -> Report:
    """Compare every layer of a trained network with the optimum of its local problem, in one pass over the data.

    The model is run in evaluation mode and left exactly as it was found: modes, hooks, gradients, parameters, random
    state, also when something is raised.

    Args:
        model: any module that maps a batch of inputs to outputs (m, d), or (m, ..., d) with a target per position.
            Linear layers, convolutions and the projections of nn.MultiheadAttention (rows ``q_proj``, ``k_proj``,
            ``v_proj``, ``out_proj``) are analysed; every other module with parameters gets a row that says why not.
        data: a re-iterable of (inputs, targets), or a pair of tensors or arrays. Inputs may be a tensor, a tuple
            (passed by position) or a mapping (passed by keyword); a batch may also be one mapping with the targets
            under ``labels``, as Hugging Face collators make them. Positions that ``attention_mask`` (or a key padding
            mask) marks as padding take no part in averages, nor do rows with the label that the loss ignores (-100).
            Labels that are the ``input_ids`` themselves are shifted by one, as causal language models do.
        loss: a name, a torch.nn loss, or a callable (outputs, targets) -> per-sample values. A callable costs one
            more pass, over the targets.
        at: the operating point shown first, where a layer has it. ``average`` and ``bayes`` are computed for every
            layer whose output is the only road to the model's. A layer that another road bypasses has ``average`` and
            ``jacobian``, and ``bayes`` only where it is asked for here, for it takes many passes. By default
            ``average``, and ``jacobian`` for bypassed layers.
        layers: which to analyse, all by default: a name, a pattern with ``*``, a module class, a function of name and
            module, or a sequence of these.
        positions: whether features are averaged over positions ("reduce") or every position is a row ("expand"). By
            default the shapes decide: one target per sample reduces, one per position expands.
        forward: called with the model and the inputs of a batch, returns the outputs, where ``model(inputs)``,
            ``model(*inputs)`` or ``model(**inputs)``, and ``.logits`` of what comes back, are not what is wanted.
        subset: number of samples, drawn at random, for the passes that only bypassed layers need: backward passes for
            all of them together and a few frozen forward passes for each. 0 leaves these views out. Which layers are
            bypassed is looked for all the same, on three samples: only of the others may it be said that the Bayes
            action of the paper is theirs, and every row says which it is.
        steps: whether every view of every layer is put to the test by a small step towards its W* (``View.step``), at
            the cost of a forward pass over the subset each; bypassed layers' views always are.
        weight_decay: λ of a penalty λ/2 ‖W‖² that the training had; alignments then refer to the penalised optimum.
        nulls: also what alignments mean nothing: labels shuffled, layer weights re-drawn (that many times; True: 3;
            each draw costs a forward pass per layer).
        max_batches: read so many batches at most.
        max_seconds: end the pass over the data after so many seconds (one batch is always read); the report is of
            what was seen until then.
        tol: end the pass when the standard errors of all alignments, and of all gains relative to the gain available,
            are at most this, and none has moved by more since half as much data had been read (docs/scale.md).
        batch_size: for a pair of tensors.
        progress: whether to show a progress bar.
        seed: of the nulls.
        group: where torch.distributed is initialised, the processes that analyse together: each calls this with the
            same model and its own shard of the data (which may be empty), and each returns the same report. By
            default all processes; a process group; or False for this process alone. See docs/scale.md.

    Returns:
        A :class:`Report`; assumptions that fail are carried in it and also warned about.

    Raises:
        FeatgeoError: where the model, the data or the loss do not suit each other, or no layer can be analysed.
    """
    begin = time.perf_counter()
    home = home_of(model)[0] if isinstance(model, nn.Module) else "cpu"
    together = Processes(group, home)
    with together.guarded():
        if not isinstance(model, nn.Module):
            raise FeatgeoError("model", f"a {type(model).__name__}", "Pass a torch.nn.Module.")
        model = unwrapped(model)
        if at not in (None, *POINTS):
            raise FeatgeoError("at", f"{at!r}", f"Pass one of {', '.join(map(repr, POINTS))}, or None.")
        if not isinstance(subset, int) or subset < 0:
            raise FeatgeoError("subset", f"{subset!r}", "Pass a number of samples, or 0.")
        if not 0 <= weight_decay < math.inf:
            raise FeatgeoError("weight_decay", f"{weight_decay}", "It must be at least 0 and finite.")
        if not isinstance(nulls, int) or nulls < 0:
            raise FeatgeoError("nulls", f"{nulls!r}", "Pass True, False or a number of draws.")
        limits = Limits(max_batches, max_seconds, tol, begin)
        chosen, batches = resolve_loss(loss), Batches(data, batch_size, empty=together.size > 1)
        taps, skipped = split_layers(model, layers)
        if not taps:
            raise FeatgeoError("model", "no Linear or Conv layer to analyse", f"Skipped: {because(skipped)}.")
        options = (at, weight_decay, positions, int(nulls), tol, seed, subset, steps, chosen.name, list(taps))
        with undisturbed(model), one_model(model, together, options):
            run = runner_of(model, forward, together)
            seen = _first_look(run, taps, batches, positions, chosen.ignore_index)
            targets, limits = read_targets(chosen, run, batches, limits)
            settled = Settling(tol, targets.outcome, taps, weight_decay) if tol else None
            some = Subset(subset, seed)
            wanted = steps or seen.bypassed or batches.once
            batches.watch = some.offer if subset and wanted else None
            found = sweep(
                Pass(run, chosen, targets.statistic, taps, seen), batches, limits, settled, progress
            )
            risk, output = targets.outcome(found)
            notes = data_notes(chosen, run, found, output)
            if not seen.lone:
                notes.append(COMPANY)
            if run.layout.expand and seen.samples == found.batches == 1:
                notes.append(SINGLE)
            batches.watch = None
            again = batches if found.stopped == "data" else First(batches, found.read)

            def kept() -> list[Batch]:
                """The subset; of another pass where the first look saw no need of it."""
                for batch in () if some.seen else again:
                    some.offer(*batch)
                return some.shared(together, batch_size)

            bench = Bench(
                run, taps, found, chosen, targets.statistic, risk, output, weight_decay, at, kept, steps,
                seen.variations,
            )  # fmt: skip
            judged, reports = bench.judge(), {}
            for name, module in modules_of(model):
                kind = kind_of(module)
                if name in taps and (obstacle := found.seen[name].obstacle):
                    if run.layout.expand and obstacle == UNEVEN:
                        obstacle = ELSEWHERE + ("" if chosen.name == "cross_entropy" else WHOLE)
                    reports[name] = LayerReport(
                        name, kind, 0, 0, "skipped", obstacle, default=at or "average"
                    )
                elif name in taps:
                    reports[name] = judged[name]
                elif name in skipped:
                    reports[name] = LayerReport(
                        name, kind, 0, 0, "skipped", skipped[name], default=at or "average"
                    )
            if not any(report.views for report in reports.values()):
                reasons = because({name: report.reason for name, report in reports.items()})
                raise FeatgeoError("model", "no layer that can be analysed", f"Skipped: {reasons}.")
            if nulls:
                draws = REDRAWS if nulls is True else int(nulls)
                reports = null_alignments(
                    reports, run, again, taps, found, risk, output, weight_decay, draws, seed
                )
        report = Report(
            layers=reports,
            loss=chosen.name,
            loss_value=found.loss,
            constant_loss=output.loss,
            samples=found.pair.count,
            processes=together.size,
            positions=run.layout.expand,
            batches=found.batches,
            stopped=found.stopped,
            outputs=found.width,
            at=at or "average",
            weight_decay=weight_decay,
            warnings=tuple(notes),
            seconds=max(together.gather(time.perf_counter() - begin)),
            versions={"featgeo": _version(), "torch": torch.__version__},
        )
        for text in (*notes, *_told_once(report)):
            if together.first:
                warnings.warn(text, FeatgeoWarning, stacklevel=2)
        return find(report)


def _told_once(report: Report) -> list[str]:
    """The layers' warnings, those that differ in names and numbers only told of one layer and counted."""
    alike: dict[str, list[str]] = {}
    for layer in report:
        for text in layer.warnings:
            alike.setdefault(re.sub(r"[\d.,]+", "", text.replace(f"'{layer.name}'", "")), []).append(text)
    return [
        first
        + (
            f" The same goes for {len(others)} more layer{'s' * (len(others) > 1)}: see the report."
            if others
            else ""
        )
        for first, *others in alike.values()
    ]


@cache
def _version() -> str:
    """The installed version, where featgeo is installed rather than on the path."""
    try:
        return version("featgeo")
    except PackageNotFoundError:
        return "not installed"


def _first_look(
    run: Runner, taps: dict[str, Layer], data: Batches, positions: Positions | None, ignored: int | None
) -> Survey:
    """A survey of the first batch; from now on the runner knows how outputs and targets become rows."""
    first, found = data.peek(), None
    if first is not None:
        inputs, targets = first
        shown = survey(run, taps, inputs)
        layout = layout_of(shown.output, targets, positions, ignored, shown.channels)
        found = shown, causal(layout, inputs, targets)
    looks = [look for look in run.processes.gather(found) if look]
    if not looks:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    seen, run.layout = looks[0]
    return seen

"""compress(): a smaller network whose loss is as near the original's as its budget allows."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace

import torch
from torch import nn

from featgeo.apply.compression import Compression, LayerCut, parameters_of, restore_modes
from featgeo.apply.correct import truncate
from featgeo.apply.curvature import joint_increase
from featgeo.apply.factor import dense_cost, thin_cost
from featgeo.apply.making import Made, Maker
from featgeo.apply.plan import METRICS, Plan, look, working_copy
from featgeo.apply.survey import measure
from featgeo.data.batches import Batches
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.keep import undisturbed
from featgeo.network.run import Forward
from featgeo.network.select import Layers
from featgeo.theory.named import LossLike, resolve_loss


def compress(
    model: nn.Module,
    data: object,
    loss: LossLike = "cross_entropy",
    *,
    budget: float | int | None = None,
    max_loss_increase: float | None = None,
    layers: Layers = None,
    forward: Forward | None = None,
    refit: bool = True,
    search: bool = True,
    samples: int = 1024,
    stages: int = 12,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> Compression:
    """Replace Linear and Conv layers by pairs of thin ones, chosen by what they do to the loss.

    Each layer is cut to its first modes in the metric of the loss on one side and of its features on the other; the
    ranks share one budget by predicted increase of the loss; layers are cut in turn, each refitted in closed form to
    what it computed before, and the last layer to the original's answers. The model is left exactly as it was.

    Args:
        model: any module that maps a batch of inputs to outputs (m, d).
        data: a re-iterable of (inputs, targets), or a pair of tensors or arrays: training data, passed several times.
            Padding is left out where a mapping of inputs says so (`attention_mask`).
        loss: a name, a torch.nn loss, or a callable (outputs, targets) -> per-sample values.
        budget: a share in (0, 1] of the parameters of the layers considered (biases included), as a float; or the
            parameters of the whole compressed model, as an int.
        max_loss_increase: instead, the smallest model found whose mean loss on these data is larger by no more (loss
            units).
        layers: names, patterns, classes or predicates of the layers to consider; all by default.
        forward: called with the model and the inputs of a batch, returns the outputs; as for :func:`featgeo.analyze`.
        refit: whether the layers are refitted as earlier ones are cut, and the last to the original's answers.
        search: whether to build the model under each of the metrics and allocations and keep the best on these data
            (at most four); otherwise the likeliest one only.
        samples: about how many samples derivatives are taken on.
        stages: how often statistics are renewed while layers are cut in turn; each costs two passes.
        batch_size: for a pair of tensors.
        seed: of the sketch that stands for the outputs where there are more than 32.
        progress: whether to show progress bars.

    Returns:
        A :class:`featgeo.apply.compression.Compression`.

    Raises:
        FeatgeoError: where the budget cannot be met, no layer can be cut, or model, data and loss do not suit.
    """
    _check(budget, max_loss_increase, samples, stages)
    chosen, batches = resolve_loss(loss), Batches(data, batch_size)
    work = working_copy(model)
    modes = {name: module.training for name, module in model.named_modules(remove_duplicate=False)}
    with undisturbed(work):
        torch.manual_seed(seed)
        plan, skipped = look(
            work, batches, chosen, layers, samples, METRICS if search else METRICS[:1], progress, forward
        )
        maker = Maker(plan, refit, stages, progress)
        if budget is not None:
            made = maker.best(_allowed(budget, plan), search)
        else:
            assert max_loss_increase is not None
            made = maker.smallest(max_loss_increase, search)
        result = _account(plan, made, skipped, maker)
    restore_modes(result.model, modes)
    for text in result.warnings:
        warnings.warn(text, FeatgeoWarning, stacklevel=2)
    return result


def _check(budget: float | int | None, increase: float | None, samples: int, stages: int) -> None:
    """Refuse arguments that mean nothing."""
    if (budget is None) == (increase is None):
        found = "neither" if budget is None else "both"
        raise FeatgeoError("budget, max_loss_increase", found, "Pass one of the two.")
    if isinstance(budget, bool) or not isinstance(budget, float | int | None):
        raise FeatgeoError(
            "budget", f"a {type(budget).__name__}", "Pass a share as a float, or a number as an int."
        )
    if isinstance(budget, float) and not 0 < budget <= 1:
        raise FeatgeoError(
            "budget", f"{budget}", "A share lies in (0, 1]; pass an int for a number of parameters."
        )
    if increase is not None and not 0 < increase < math.inf:
        raise FeatgeoError("max_loss_increase", f"{increase}", "It must be positive and finite.")
    for name, value in (("samples", samples), ("stages", stages)):
        if not isinstance(value, int) or value < 1:
            raise FeatgeoError(name, f"{value!r}", "It must be a whole number of at least 1.")


def _allowed(budget: float | int, plan: Plan) -> int:
    """Parameters that the layers considered may have."""
    rest = parameters_of(plan.model) - plan.total
    allowed = int(budget * plan.total) if isinstance(budget, float) else budget - rest
    if allowed < plan.least:
        wanted = (
            f"{budget} of {plan.total:,} parameters"
            if isinstance(budget, float)
            else f"{budget:,} parameters"
        )
        least = f"{plan.least / plan.total:.4f}" if isinstance(budget, float) else f"{plan.least + rest:,}"
        raise FeatgeoError(
            "budget",
            f"{wanted}, where rank 1 everywhere needs {least}",
            "Allow more, or train a smaller model.",
        )
    return allowed


def _account(plan: Plan, made: Made, skipped: dict[str, str], maker: Maker) -> Compression:
    """The table: what each cut was predicted to do alone and what it does, on the samples of the prediction."""
    outlook, model = plan.outlooks[made.metric], plan.model
    part = Batches([(x, y) for _, x, y in plan.probe.batches()])
    base = measure(plan.run, part, plan.loss)

    def truncated(ranks: dict[str, int]) -> float:
        trial = copy.deepcopy(model)
        truncate(trial, plan.layers, {name: outlook.modes[name].thin(rank) for name, rank in ranks.items()})
        return measure(plan.run.on(trial), part, plan.loss) - base

    cut = {name: rank for name, rank in made.ranks.items() if rank is not None}
    rows = []
    for name, module in model.named_modules():
        if name in plan.layers:
            layer, rank = plan.layers[name], made.ranks[name]
            outputs, inputs = layer.weight.flatten(1).shape
            row = LayerCut(
                name,
                type(layer).__name__,
                "dense",
                (outputs, inputs),
                None,
                dense_cost(layer),
                dense_cost(layer),
            )
            if rank is not None:
                predicted = outlook.curves[name][rank].item()
                row = replace(
                    row, status="cut", rank=rank, after=thin_cost(layer, rank),
                    predicted=predicted, measured=truncated({name: rank}),
                )  # fmt: skip
            rows.append(row)
        elif name in skipped:
            rows.append(LayerCut(name, type(module).__name__, "skipped", reason=skipped[name]))
    predicted = measured = 0.0
    if cut:
        predicted = joint_increase(plan.probe, plan.layers, outlook.modes, cut)
        measured = truncated(cut)
    notes = [
        f"layer '{name}': {plan.found.moments[name].count} feature rows for {plan.layers[name].weight[0].numel()} "
        "features; directions that the data do not show are lost. Pass more data."
        for name in cut
        if plan.found.moments[name].count <= plan.layers[name].weight[0].numel()
    ]
    return Compression(
        model=made.model,
        layers=tuple(rows),
        loss=plan.loss.name,
        loss_before=plan.found.loss,
        loss_after=made.loss,
        predicted=predicted,
        truncated=measured,
        parameters=(parameters_of(model), parameters_of(made.model)),
        samples=plan.found.samples,
        metric=made.metric,
        warnings=tuple(notes),
    )

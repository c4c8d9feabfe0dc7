"""One of several weight decays, by cross-validation; one eigendecomposition a fold serves the whole path."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from featgeo.apply.fit import SQUARE, Fit, Problem, fit, fit_path
from featgeo.apply.onepass import Sums, SumStream, constant_of, shift_of
from featgeo.apply.rows import Block, Rows
from featgeo.errors import FeatgeoError
from featgeo.theory.losses import CanonicalLoss

Path = tuple[dict[str, float], ...]
ENOUGH = 1e-8  # relative gap of the heads that are only compared


def folds_of(rows: Rows, folds: int) -> Tensor:
    """The fold (N,) of every held row: random, and even in every class of hard labels."""
    order = torch.randperm(rows.count, generator=torch.Generator().manual_seed(0))
    labels = rows.y.cpu()
    if labels.ndim == 1 and not labels.is_floating_point():
        order = order[labels[order].argsort(stable=True)]
    fold = torch.empty(rows.count, dtype=torch.int64)
    fold[order] = torch.arange(rows.count) % folds
    return fold


def search_path(problem: Problem, decays: list[float], folds: int) -> tuple[Path, float, Fit, list[str]]:
    """The held-out loss of every weight decay, and the head at the best.

    Args:
        problem: what is to be found.
        decays: descending.
        folds: at least 2.

    Returns:
        A row per weight decay, the best one, the head of all data at it, and what was left out.

    Raises:
        FeatgeoError: where no fold can be used.
    """
    rows, notes = problem.rows, []
    if rows.in_memory and rows.count < folds:
        raise FeatgeoError("cv", f"{folds} folds for {rows.count} samples", "Use fewer folds.")
    moments = problem.refine == 0 and rows.width <= SQUARE and rows.width <= rows.count
    if not rows.in_memory and problem.refine != 0:
        notes.append(
            "the features do not fit in memory: weight decays were compared by their one-pass heads."
        )
    elif rows.in_memory and not moments:
        losses, totals = _by_fits(problem, decays, folds, notes)
        return _best(problem, decays, losses, totals, notes)
    if rows.width > SQUARE:
        raise FeatgeoError("features", f"a stream of width {rows.width}", "Pass one weight_decay.")
    losses, totals = _by_moments(problem, decays, folds, notes)
    return _best(problem, decays, losses, totals, notes)


def _best(
    problem: Problem, decays: list[float], losses: list[Tensor], totals: list[float], notes: list[str]
) -> tuple[Path, float, Fit, list[str]]:
    """From held-out losses per fold and weight decay to the choice."""
    if not losses:
        raise FeatgeoError(
            "cv", f"no fold that can be used ({'; '.join(notes)})", "Use fewer folds, or merge rare classes."
        )
    table, share = torch.stack(losses), torch.tensor(totals, dtype=torch.float64)
    share = share / share.sum()
    mean = share @ table
    spread = ((share @ (table - mean).square()) / max(1, len(table) - 1)).sqrt()
    path = tuple(
        {"weight_decay": d, "cv_loss": m, "cv_error": e, "cv_folds": len(table)}
        for d, m, e in zip(decays, mean.tolist(), spread.tolist(), strict=True)
    )
    best = decays[int(mean.nan_to_num(nan=math.inf).argmin())]
    return path, best, fit(problem, best), notes


def _held_out(problem: Problem, thetas: list[Tensor], mean: Tensor, block: Block) -> Tensor:
    """Summed loss of a block under every head, in one product."""
    outputs = replace(block, shift=mean.to(problem.rows.device)).outputs(torch.cat(thetas))
    values = [problem.loss.values(z, block.y) for z in outputs.split(problem.width, dim=1)]
    weights = torch.ones_like(values[0], dtype=torch.float64) if block.w is None else block.w
    return torch.stack([weights @ v.to(torch.float64) for v in values])


def _missing(infinite: tuple[int, ...], everywhere: tuple[int, ...], fold: int) -> str:
    """Why a fold cannot be used: what its training part lacks though the data have it."""
    lacking = sorted(set(infinite) - set(everywhere))
    if not lacking:
        return ""
    return f"fold {fold} was skipped: classes or outputs {lacking[:8]} do not vary in its training part."


def _by_fits(
    problem: Problem, decays: list[float], folds: int, notes: list[str]
) -> tuple[list[Tensor], list[float]]:
    """Losses by fitting every training part, each weight decay starting from the last."""
    rows, losses, totals = problem.rows, [], []
    whole = constant_of(problem.loss, rows.y, rows.w, problem.width, problem.bias)
    place = folds_of(rows, folds)
    for fold in range(folds):
        train, held = (rows.take((chosen).nonzero()[:, 0]) for chosen in (place != fold, place == fold))
        if not train.total > 0 or not held.total > 0:
            notes.append(f"fold {fold} was skipped: its samples have no weight.")
            continue
        found = constant_of(problem.loss, train.y, train.w, problem.width, problem.bias)
        reason = _missing(found.infinite, whole.infinite, fold)
        if reason:
            notes.append(reason)
            continue
        part = replace(problem, rows=train, tolerance=max(ENOUGH, problem.tolerance), progress=False)
        heads = fit_path(part, decays)
        thetas, mean = [head.theta for head in heads], heads[0].mean
        summed = sum(
            (_held_out(problem, thetas, mean, Block(x, y, w)) for x, y, w in held.raw()),
            torch.zeros(len(decays), dtype=torch.float64),
        )
        losses.append(summed / held.total)
        totals.append(held.total)
    return losses, totals


def _by_moments(
    problem: Problem, decays: list[float], folds: int, notes: list[str]
) -> tuple[list[Tensor], list[float]]:
    """Losses of one-pass heads: sums of every fold in one pass, all held-out losses in a second."""
    loss, width, bias = problem.loss, problem.width, problem.bias
    constant = None if isinstance(loss, CanonicalLoss) else problem.constant
    streams: dict[int, SumStream] = {}
    shift: Tensor | None = None
    for fold, block in _parted(problem.rows, folds):
        shift = shift_of(block.x, bias) if shift is None else shift
        if fold not in streams:
            streams[fold] = SumStream(loss, width, constant, shift)
        streams[fold].add(block.x, block.y, block.w)
    sums = {fold: stream.result() for fold, stream in streams.items()}
    every = _total(list(sums.values()))
    whole = every.local(loss, constant, bias)
    heads: dict[int, tuple[list[Tensor], Tensor]] = {}
    for fold, own in sorted(sums.items()):
        rest = every.plus(own, -1)
        if not own.total > 0 or not rest.total > 1e-9 * every.total:
            notes.append(f"fold {fold} was skipped: its samples have no weight.")
            continue
        local = rest.local(loss, constant, bias)
        reason = _missing(local.constant.infinite, whole.constant.infinite, fold)
        if reason:
            notes.append(reason)
        else:
            heads[fold] = local.path(decays), local.mean
    losses = {fold: torch.zeros(len(decays), dtype=torch.float64) for fold in heads}
    totals = dict.fromkeys(heads, 0.0)
    for fold, block in _parted(problem.rows, folds):
        if fold in heads:
            losses[fold] += _held_out(problem, *heads[fold], block)
            totals[fold] += block.total
    for fold in heads:
        if abs(totals[fold] - sums[fold].total) > 1e-9 * every.total:
            raise FeatgeoError("features", "another order in the second pass", "Do not shuffle for a path.")
    return [losses[f] / totals[f] for f in heads], [totals[f] for f in heads]


def _total(parts: list[Sums]) -> Sums:
    every = parts[0]
    for part in parts[1:]:
        every = every.plus(part)
    return every


def _parted(rows: Rows, folds: int) -> Iterator[tuple[int, Block]]:
    """Blocks by fold: of held rows as :func:`folds_of` says, of a stream every row in its turn."""
    place = folds_of(rows, folds) if rows.in_memory else None
    seen = 0
    for x, y, w in rows.raw():
        at = torch.arange(seen, seen + len(y)) % folds if place is None else place[seen : seen + len(y)]
        seen += len(y)
        for fold in range(folds):
            index = (at == fold).nonzero()[:, 0]
            if len(index):
                part = Rows(x, y, w).take(index)
                yield fold, Block(part.x, part.y, part.w)

"""Which metric should choose what is cut: the first layer of digit networks at a few ranks, each metric in turn.

Run: python benchmarks/compress_metrics.py [--networks 5]
Prints the mean training loss with only the first layer cut, and in brackets after the layers behind it were refitted.
Every metric but the first acts on white features. Bayes action and average tail are the operating points of analyze();
near and far are the last two rows leaning on the pre-activations, as compress() uses them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings

import torch
import torch.nn.functional as F
from compress import digits
from torch import Tensor, nn

from featgeo.apply.correct import cut_in_turn, truncate
from featgeo.apply.curvature import metrics
from featgeo.apply.modes import Metric, Modes, ridged
from featgeo.apply.plan import look, working_copy
from featgeo.apply.readout import refit_readout
from featgeo.data.batches import Batches
from featgeo.network.keep import undisturbed
from featgeo.network.layers import weight_matrix
from featgeo.theory.bayes import bayes_action
from featgeo.theory.layer import average_tail
from featgeo.theory.linalg import whiten
from featgeo.theory.named import resolve_loss
from featgeo.theory.risk import make_risk

RANKS = (2, 3, 4, 6, 8, 12)
LAYER = "0"


def operating_points(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """H (n, n) of the first layer at the Bayes action and with the average tail."""
    loss, double = resolve_loss("cross_entropy"), copy.deepcopy(model).double()
    risk = make_risk(loss, y, torch.full((len(y),), 1 / len(y), dtype=torch.float64), 10)
    output = bayes_action(risk, start=torch.zeros(10, dtype=torch.float64))
    f = x.double()
    z, g = double[0](f).detach(), double(f).detach()
    point = bayes_action(risk, double[1:], z.mean(0), precision=torch.float64)
    root = risk.factor(point.output) @ point.jacobian
    centred = f - f.mean(0)
    tail = average_tail(
        (g - g.mean(0)).T @ centred / len(f), torch.cov(g.T, correction=0), weight_matrix(double[0])[0],
        whiten(centred.T @ centred / len(f)), output.factor,
    )  # fmt: skip
    average = output.factor @ tail.jacobian
    return {"Bayes action": root.T @ root, "average tail": average.T @ average}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", type=int, default=5)
    found: dict[str, list[list[tuple[float, float]]]] = {}
    warnings.simplefilter("ignore")
    for seed in range(parser.parse_args().networks):
        model, (x, y), _ = digits(seed)
        work = working_copy(model)
        with undisturbed(work):
            plan, _ = look(work, Batches((x, y)), resolve_loss("cross_entropy"), samples=len(x))
            layer, moments = plan.layers[LAYER], plan.found.moments[LAYER]
            weight, bias = weight_matrix(layer)
            spread = weight @ moments.covariance @ weight.T
            matrices = operating_points(work, x, y)
            matrices["Gauss-Newton"] = metrics(plan.probe, {LAYER: layer})[LAYER]
            roots = {name: Metric.of(matrix) for name, matrix in matrices.items()}
            for name, short in (("Gauss-Newton", "near"), ("average tail", "far")):
                roots[short] = Metric.of(ridged(matrices[name], spread, 0.5))
            plain = Metric.identity(len(weight))
            for name, root in {"plain SVD": plain, "activations": plain, **roots}.items():
                white = whiten(
                    torch.eye(64, dtype=torch.float64) if name == "plain SVD" else moments.covariance
                )
                mean = 0 * moments.mean if name == "plain SVD" else moments.mean
                modes = Modes.of(weight @ white.root, root, white, weight @ mean + bias, mean)
                row = []
                for rank in RANKS:
                    cut, refitted = copy.deepcopy(work), copy.deepcopy(work)
                    truncate(cut, plan.layers, {LAYER: modes.thin(rank)})
                    ranks = {key: rank if key == LAYER else None for key in plan.layers}
                    lean = {key: plan.outlooks["near"].roots[key] for key in plan.layers} | {LAYER: root}
                    cut_in_turn(plan.run, plan.data, plan.layers, lean, ranks, refitted, 64)
                    refit_readout(plan.run, refitted, str(plan.found.readout), plan.data, plan.loss)
                    row.append((F.cross_entropy(cut(x), y).item(), F.cross_entropy(refitted(x), y).item()))
                found.setdefault(name, []).append(row)
            found.setdefault("uncut", []).append([(plan.found.loss,) * 2] * len(RANKS))
    print(f"{'metric':18}" + "".join(f"{f'rank {rank}':>18}" for rank in RANKS))
    for name, runs in found.items():
        cells = (
            "{:.3f} ({:.3f})".format(*(statistics.mean(pair[i] for pair in column) for i in range(2)))
            for column in zip(*runs, strict=True)
        )
        print(f"{name:18}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()

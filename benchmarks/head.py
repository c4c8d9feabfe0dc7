"""solve_head() against other ways to the same optimum: time to come within 1e-3 of it, on the same data in one run.

Run: python benchmarks/head.py [--data fashion cifar10 efficientnet minilm] [--decay 1e-4] [--repeats 3] [--threads 2]
[--slow] [--quick]
``fashion``: the 60,000 × 784 pixels of Fashion-MNIST (Debian: apt-get install dataset-fashion-mnist). ``cifar10``: what
enters the last layer of EfficientNet-Lite0, pretrained on ImageNet, on 50,000 images of CIFAR-10; ``efficientnet``: on
4,000 of them. ``minilm``: the last block of a sentence encoder on complaints of eight kinds. The features are those of
benchmarks/feature_sets.py, kept in its folder.

All on float32 features. Ours gets the fewest steps that suffice, scikit-learn the fewest (to a quarter), found
beforehand and not counted; torch's L-BFGS is stopped by an oracle that knows the optimum and sees every value of the
objective that it computes. What ours takes to stop by itself, told to come within 1e-3, is a row of its own.
``--slow`` adds newton-cholesky to the pixels, where one of its steps takes a minute; ``--quick`` leaves scikit-learn
out.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from feature_sets import TRAIN, feature_sets, sources
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import featgeo as fg

WITHIN = 1e-3
PATIENCE = 10  # times ours, after which a solver that is not there is given up
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def pixels() -> Data:
    """Train and test images as rows in [0, 1], with labels."""
    x, y, x_test, y_test = (torch.as_tensor(part) for part in sources.fashion_mnist())
    scale = 255 if x.max() > 1 else 1
    return x.flatten(1).float() / scale, y.long(), x_test.flatten(1).float() / scale, y_test.long()


def pretrained(task: str, name: str, train: int = TRAIN) -> Data:
    """Features of a pretrained network for a task, with labels."""
    sets, targets = feature_sets(task)
    x, y = torch.from_numpy(sets[name]), torch.from_numpy(targets).long()
    return x[:train], y[:train], x[train:], y[train:]


DATA: dict[str, Callable[[], Data]] = {
    "fashion": pixels,
    "cifar10": lambda: pretrained("cifar10-whole", "efficientnet/_fc", 50_000),
    "efficientnet": lambda: pretrained("cifar10", "efficientnet/_fc"),
    "minilm": lambda: pretrained("complaints", "minilm/block 6"),
}


def objective(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, decay: float) -> float:
    """Mean cross-entropy + λ/2 ‖W‖², in float64."""
    total = 0.0
    for rows, labels in zip(x.split(4096), y.split(4096), strict=True):
        outputs = rows.double() @ weight.double().T + bias.double()
        total += F.cross_entropy(outputs, labels, reduction="sum").item()
    return total / len(x) + decay / 2 * weight.double().square().sum().item()


def objective_of(head: fg.Head, x: Tensor, y: Tensor, decay: float) -> float:
    """The same of a head."""
    return objective(x, y, head.weight, head.bias, decay)


def timed(job: Callable[[], object]) -> tuple[float, object]:
    """Seconds of a call, and what it gave."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


class Reached(Exception):
    """The objective fell below the goal."""


def steps_of_ours(x: Tensor, y: Tensor, decay: float, goal: float) -> int:
    """The fewest steps after which solve_head's objective is below the goal."""

    def reached(steps: int) -> bool:
        return objective_of(by_featgeo(x, y, decay, steps), x, y, decay) <= goal

    steps = fg.solve_head(x, y, weight_decay=decay, refine="exact", tolerance=WITHIN).steps
    while not reached(steps):
        steps += 1
    while steps > 1 and reached(steps - 1):
        steps -= 1
    return steps


def by_featgeo(x: Tensor, y: Tensor, decay: float, steps: int) -> fg.Head:
    """solve_head stopped after some steps."""
    return fg.solve_head(x, y, weight_decay=decay, refine="exact", max_steps=steps)


def by_torch(x: Tensor, y: Tensor, decay: float, goal: float) -> float:
    """Seconds of torch's L-BFGS, unpreconditioned, until the objective is below the goal (NaN: never)."""
    head = nn.Linear(x.shape[1], int(y.max()) + 1)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    solver = torch.optim.LBFGS(
        head.parameters(),
        max_iter=2000,
        max_eval=4000,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(head(x), y) + decay / 2 * head.weight.square().sum()
        if value.item() <= goal:
            raise Reached
        value.backward()
        return value

    start = time.perf_counter()
    try:
        solver.step(closure)
    except Reached:
        return time.perf_counter() - start
    return float("nan")


def by_sklearn(x: Tensor, y: Tensor, decay: float, solver: str, steps: int) -> LogisticRegression:
    """LogisticRegression stopped after some steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=1 / (decay * len(x)), solver=solver, max_iter=steps, tol=1e-12)
        return model.fit(x.numpy(), y.numpy())


def fewest_steps(
    x: Tensor, y: Tensor, decay: float, solver: str, goal: float, patience: float
) -> tuple[int, float, bool]:
    """The fewest iterations (to a quarter) that reach the goal, their time, and whether they do.

    Gives up after a run that took longer than the patience (seconds) and did not get there: its time is a lower bound.
    """

    def run(steps: int) -> tuple[float, bool]:
        seconds, model = timed(lambda: by_sklearn(x, y, decay, solver, steps))
        assert isinstance(model, LogisticRegression)
        found = objective(x, y, torch.tensor(model.coef_), torch.tensor(model.intercept_), decay)
        return seconds, found <= goal

    steps = 2 if solver == "newton-cholesky" else 50
    while True:
        seconds, reached = run(steps)
        if reached or seconds > patience:
            break
        steps *= 2
    if reached and steps > 2:
        middle = round(0.75 * steps)
        sooner, enough = run(middle)
        return (middle, sooner, True) if enough else (steps, seconds, True)
    return steps, seconds, reached


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return (outputs.argmax(1) == labels).double().mean().item()


def compare(name: str, data: Data, decay: float, repeats: int, slow: bool, quick: bool) -> None:
    """Print the table of one data set."""
    x, y, x_test, y_test = data
    print(f"\n{name}: {len(x):,} × {x.shape[1]}, {int(y.max()) + 1} classes, λ = {decay:g}")
    fg.solve_head(x[:3000], y[:3000], weight_decay=decay, refine="exact", tolerance=1e-2)  # warm
    total, best = timed(lambda: fg.solve_head(x, y, weight_decay=decay, refine="exact"))
    assert isinstance(best, fg.Head)
    goal = best.objective * (1 + WITHIN)
    steps = steps_of_ours(x, y, decay, goal)
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        run, near = timed(lambda: fg.solve_head(x, y, weight_decay=decay, refine="exact", tolerance=WITHIN))
        assert isinstance(near, fg.Head)
        reached = objective_of(near, x, y, decay) / best.objective - 1
        times.setdefault("featgeo, stopping by itself", []).append(run)
        times.setdefault("featgeo, within 1e-3", []).append(timed(lambda: by_featgeo(x, y, decay, steps))[0])
        times.setdefault("featgeo, one pass", []).append(
            timed(lambda: fg.solve_head(x, y, weight_decay=decay))[0]
        )
        times.setdefault("torch L-BFGS", []).append(by_torch(x, y, decay, goal))
    patience = PATIENCE * statistics.median(times["featgeo, within 1e-3"])
    solvers = [] if quick else ["lbfgs", *(["newton-cholesky"] if slow or x.shape[1] <= 400 else [])]
    for solver in solvers:
        count, seconds, there = fewest_steps(x, y, decay, solver, goal, patience)
        key = f"scikit-learn {solver}, {count} steps{'' if there else ': not there'}"
        runs = [seconds]
        if there:
            runs += [
                timed(lambda s=solver, c=count: by_sklearn(x, y, decay, s, c))[0] for _ in range(repeats - 1)
            ]  # type: ignore[misc]
        times[key] = runs
    medians = {key: statistics.median(values) for key, values in times.items()}
    ours = medians.pop("featgeo, within 1e-3")
    one_pass, own = medians.pop("featgeo, one pass"), medians.pop("featgeo, stopping by itself")
    print(
        f"  objective {best.objective:.8f}, gap {best.gap:.1e}; ours stopped {reached:.1e} above it (relative)"
    )
    print(f"  {'featgeo, exact to 1e-9':38}{total:9.2f} s   {best.passes} passes")
    print(f"  {'featgeo, stopping by itself':38}{own:9.2f} s")
    print(f"  {f'featgeo, within 1e-3, {steps} steps':38}{ours:9.2f} s")
    for key, value in medians.items():
        print(f"  {key:38}{value:9.2f} s   {value / ours:6.1f} × ours")
    print(f"  best peer / ours: {min(v for v in medians.values() if v == v) / ours:.1f}")
    print(end="", flush=True)
    if quick:
        return
    full, _ = timed(
        lambda: LogisticRegression(C=1 / (decay * len(x)), max_iter=10_000).fit(x.numpy(), y.numpy())
    )
    lda_time, lda = timed(lambda: LinearDiscriminantAnalysis().fit(x.numpy(), y.numpy()))
    assert isinstance(lda, LinearDiscriminantAnalysis)
    head = fg.solve_head(x, y, weight_decay=decay)
    print(
        f"  one pass {one_pass:.3f} s: a full fit of scikit-learn (lbfgs, its own tolerance) {full / one_pass:.0f} ×, "
        f"ours {total / one_pass:.0f} ×, LDA {lda_time / one_pass:.1f} ×"
    )
    print(
        f"  test accuracy: one pass {accuracy(head(x_test), y_test):.4f}, "
        f"LDA {np.mean(lda.predict(x_test.numpy()) == y_test.numpy()):.4f}, "
        f"full fit {accuracy(best(x_test), y_test):.4f}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--decay", type=float, default=1e-4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    print(f"{torch.get_num_threads()} threads, medians of {options.repeats} interleaved runs")
    for name in options.data:
        compare(name, DATA[name](), options.decay, options.repeats, options.slow, options.quick)


if __name__ == "__main__":
    main()

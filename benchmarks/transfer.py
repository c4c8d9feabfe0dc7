"""Which transfer score tells the best features? Rank correlation with the accuracy of exactly fitted heads.

Run: python examples/sources.py --get fashion_mnist cifar10 imdb complaints california_housing mobilenet_v2 geoclip
     python benchmarks/transfer.py [--tasks fashion cifar10 reviews complaints "house prices"] [--samples 500 4000]
     In the environment of `make examples`. Features and accuracies are computed once and kept in the folder of data
     (an hour, most of it heads on 4,000 samples); --heads fits heads only, --fresh fits them again. With 500 samples a
     later run takes two minutes.

Feature sets: layers of EfficientNet-Lite0 and MobileNetV2 trained on ImageNet and of MobileNetV2 with random weights,
and pixels, on Fashion-MNIST and CIFAR-10; blocks of the MiniLM sentence encoder, trained and not, and word frequencies,
on film reviews and complaints; layers of GeoCLIP's location encoder on log house prices (a square loss).

The truth: accuracy on 4,000 samples (3,000 complaints) held out, or R², of a linear head on centred features divided by
their root mean square, fitted to convergence by scikit-learn with the L2 penalty that a fifth of the samples chooses
(logistic), or leaving one out (ridge). Intervals: 95 %, resampling the feature sets within each task.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from feature_sets import FOLDER, TASKS, TRAIN, feature_sets
from scipy.stats import kendalltau, spearmanr
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss

from featgeo.apply.transfer import OF_FEATURES, score_sample
from featgeo.apply.transfer_sample import make_sample
from featgeo.errors import FeatgeoWarning
from featgeo.theory.named import resolve_loss

PENALTIES = np.logspace(-4, 2, 7)  # C of scikit-learn
DRAWS = 2000
TIMED = 5  # every so many feature sets a head is timed


def fit_head(x: np.ndarray, y: np.ndarray, test: np.ndarray, held: np.ndarray) -> float:
    """Held-out accuracy, or R², of the head."""
    mean = x.mean(0)
    scale = np.sqrt(np.square(x - mean).mean()) or 1.0
    x, test = (x - mean) / scale, (test - mean) / scale
    if y.dtype.kind == "f":
        return float(RidgeCV(np.logspace(-4, 6, 21)).fit(x, y).score(test, held))
    cut = len(x) * 4 // 5
    head = LogisticRegression(warm_start=True, max_iter=5000, tol=1e-3)
    best, chosen = np.inf, PENALTIES[0]
    for penalty in PENALTIES:
        head.C = penalty
        head.fit(x[:cut], y[:cut])
        loss = log_loss(y[cut:], head.predict_proba(x[cut:]), labels=head.classes_)
        if loss > best:
            break  # convex enough: it only gets worse from here
        best, chosen = loss, penalty
    return float(LogisticRegression(C=chosen, max_iter=20_000, tol=1e-6).fit(x, y).score(test, held))


def accuracies(task: str, samples: int, fresh: bool) -> dict[str, float]:
    """Of the heads on all feature sets of a task, from the file where they are kept or fitted now."""
    path = FOLDER / f"heads-{task}-{samples}.json"
    if not path.exists() or fresh:
        sets, y = feature_sets(task)
        found = {}
        for name, rows in sets.items():
            rows = rows.astype(np.float64)
            found[name] = fit_head(rows[:samples], y[:samples], rows[TRAIN:], y[TRAIN:])
            print(f"{task}, {samples} samples, {name} ({rows.shape[1]}): {found[name]:.4f}", flush=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def scores(task: str, samples: int, methods: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score and seconds of every method on every feature set; each method pays for its own decompositions."""
    sets, targets = feature_sets(task)
    y = torch.from_numpy(targets[:samples])
    loss = resolve_loss("mse" if y.is_floating_point() else "cross_entropy")
    values, seconds = {}, {}
    for place, (name, rows) in enumerate(sets.items()):
        x = torch.from_numpy(rows[:samples])
        values[name], seconds[name] = {}, {}
        for method in methods:
            if method == "gbc" and y.is_floating_point():
                continue
            start = time.perf_counter()
            values[name][method] = score_sample(make_sample(x, y, loss), method).value
            seconds[name][method] = time.perf_counter() - start
        if place % TIMED == 0:
            start = time.perf_counter()
            wide = rows.astype(np.float64)
            fit_head(wide[:samples], targets[:samples], wide[TRAIN:], targets[TRAIN:])
            seconds[name]["head"] = time.perf_counter() - start
    return pd.DataFrame(values).T, pd.DataFrame(seconds).T


def agreement(
    correlate: Callable[[np.ndarray, np.ndarray], tuple[float, float]],
    found: dict[str, pd.DataFrame],
    truth: dict[str, dict[str, float]],
    method: str,
) -> tuple[dict[str, float], tuple[float, float]]:
    """Correlation by task, and the interval of their mean over resampled feature sets."""
    pairs = {
        task: (frame[method].to_numpy(), np.array([truth[task][name] for name in frame.index]))
        for task, frame in found.items()
        if method in frame
    }
    values = {task: float(correlate(*pair)[0]) for task, pair in pairs.items()}
    rng = np.random.default_rng(0)
    means = []
    for _ in range(DRAWS):
        drawn = []
        for score, accuracy in pairs.values():
            pick = rng.integers(len(score), size=len(score))
            drawn.append(correlate(score[pick], accuracy[pick])[0])
        means.append(np.nanmean(drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    return values, (float(low), float(high))


def report(samples: int, tasks: Sequence[str], methods: Sequence[str], fresh: bool) -> None:
    truth = {task: accuracies(task, samples, fresh) for task in tasks}
    both = {task: scores(task, samples, methods) for task in tasks}
    found, taken = (
        {task: pair[0] for task, pair in both.items()},
        pd.concat([pair[1] for pair in both.values()]),
    )
    timed = taken[taken["head"].notna()]
    rows = []
    for method in methods:
        kendall, interval = agreement(kendalltau, found, truth, method)
        rank, around = agreement(spearmanr, found, truth, method)
        classes = [value for task, value in kendall.items() if task != "house prices"]
        rows.append({
            "score": method, **{task: f"{kendall[task]:.2f}" if task in kendall else "" for task in tasks},
            "Kendall, mean": f"{np.mean(list(kendall.values())):.2f} [{interval[0]:.2f}, {interval[1]:.2f}]",
            "of classes": f"{np.mean(classes):.2f}" if classes else "",
            "Spearman, mean": f"{np.mean(list(rank.values())):.2f} [{around[0]:.2f}, {around[1]:.2f}]",
            "seconds": f"{taken[method].mean():.3f}",
            "head / score": f"{timed['head'].sum() / timed[method].sum():.0f}",
        })  # fmt: skip
    count = sum(len(frame) for frame in found.values())
    print(
        f"\n{samples} samples, {count} feature sets; Kendall's τ with the held-out accuracy (R²) of fitted heads:\n"
    )
    header = list(rows[0])
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    print(
        f"\na head takes {timed['head'].mean():.2f} s on average, choice of its penalty included", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--samples", nargs="+", type=int, default=[500, 4000])
    parser.add_argument("--methods", nargs="+", default=list(OF_FEATURES))
    parser.add_argument("--heads", action="store_true", help="fit the heads and stop")
    parser.add_argument("--fresh", action="store_true", help="fit the heads again")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FeatgeoWarning)
    for samples in options.samples:
        if options.heads:
            for task in options.tasks:
                accuracies(task, samples, options.fresh)
        else:
            report(samples, options.tasks, options.methods, options.fresh)


if __name__ == "__main__":
    main()

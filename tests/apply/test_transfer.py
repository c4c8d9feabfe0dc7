"""Transfer scores against definitions written by other routes, and on inputs that break naive formulas."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn

import featgeo as fg
from tests.network.models import blobs, digits, quiet

CLASSES = 4


def score(*args: object, **options: object) -> fg.TransferScore:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fg.FeatgeoWarning)
        return fg.transfer_score(*args, **options)  # type: ignore[arg-type]


def between_over_total(x: np.ndarray, y: np.ndarray) -> float:
    """tr(Σ⁺ Cov(E[f|Y])), the H-score as Bao et al. write it."""
    total, means = np.cov(x.T, bias=True), np.stack([x[y == c].mean(0) for c in np.unique(y)])
    share = np.bincount(y) / len(y)
    centred = means - share @ means
    return float(np.trace(np.linalg.pinv(total) @ (centred.T * share) @ centred))


@pytest.mark.parametrize("seed", range(3))
def test_gain_is_half_the_h_score(seed: int) -> None:
    x, y = blobs(seed)
    found = score(x, y, "gain")
    assert found.value == pytest.approx(between_over_total(x.numpy(), y.numpy()) / 2, rel=1e-10)
    assert 0 < found.value < found.bound
    assert found.bound == pytest.approx((CLASSES - 1) / 2)


def test_gain_of_a_finite_problem_is_what_the_theory_says() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 9, (7, CLASSES), generator=generator)
    feature = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    problem = fg.local_problem(counts.double())
    weight, bias = problem.optimal_weight(feature)
    constant = problem.entropy
    best = problem.local_loss(weight, bias, feature)
    x, y = (part.flatten() for part in torch.meshgrid(torch.arange(7), torch.arange(CLASSES), indexing="ij"))
    rows = torch.repeat_interleave(torch.arange(len(x)), counts.flatten())
    assert score(feature[x[rows]], y[rows], "gain").value == pytest.approx(float(constant - best), rel=1e-9)


def test_gain_of_squares_is_the_decrease_of_the_loss() -> None:
    x, y = blobs(0)
    targets = torch.stack([x[:, 0] ** 2, y.double()], 1)
    rest = targets.numpy() - LinearRegression().fit(x, targets).predict(x)
    expected = targets.var(0, correction=0).mean().item() - (rest**2).mean()
    assert score(x, targets, "gain", loss="mse").value == pytest.approx(expected, rel=1e-10)


def test_gain_is_that_of_the_report() -> None:
    x, y = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))
    ranking = fg.rank_layers(model, (x, y), methods="gain")
    report = quiet(model, (x, y))
    for name in ("0", "2"):
        gain = report[name].views["average"]
        found = ranking.scores[name]["gain"].value
        assert found == pytest.approx(gain.gain_available + gain.gap_rank, rel=1e-4)


def mean_log_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_a_callable_loss_scores_like_the_named_one() -> None:
    x, y = blobs(1)
    targets = x[:, :2] + y[:, None]
    named = score(x, targets, "crossfit", loss="mse")
    own = score(x, targets, "crossfit", loss=lambda z, t: (z - t).square().mean(1))
    assert own.value == pytest.approx(named.value, rel=1e-8)
    labels = score(x, y, "gain", loss=mean_log_loss, outputs=CLASSES)
    assert labels.value == pytest.approx(score(x, y, "gain").value, rel=1e-6)


def test_crossfit_is_refitting_without_every_sample() -> None:
    x, _ = blobs(2, count=60)
    targets = x @ torch.ones(6, 1, dtype=torch.float64) + 3 * torch.sin(5 * x[:, :1])
    found = score(x, targets, "crossfit", loss="mse")
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    t, count = targets.numpy()[:, 0], len(x)
    gains = []
    for left in range(count):
        rest = np.arange(count) != left
        # The penalty of the fit to all is on the sum over samples; centring inside the fold is the intercept's.
        head = Ridge(alpha=found.details["penalty"] * count).fit(scaled[rest], t[rest])
        miss = t[left] - head.predict(scaled[left : left + 1])[0]
        gains.append((t[left] - t[rest].mean()) ** 2 - miss**2)
    assert found.value == pytest.approx(np.mean(gains), rel=1e-8)


@pytest.mark.parametrize(("count", "width"), [(200, 20), (120, 100), (60, 300)])
def test_noise_is_worth_nothing(count: int, width: int) -> None:
    values: dict[str, list[float]] = {"gain": [], "crossfit": [], "heldout": [], "adjusted": []}
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(count, width, generator=generator), torch.arange(count) % CLASSES
        for method, found in values.items():
            found.append(score(x, y, method).value)
    mean = {method: np.mean(found) for method, found in values.items()}
    expected = 0.5 * (CLASSES - 1) * min(1.0, width / (count - 1))
    assert mean["gain"] == pytest.approx(expected, rel=0.15)  # what optimism alone gives
    assert abs(mean["crossfit"]) < 0.01
    assert abs(mean["heldout"]) < 0.01
    assert mean["adjusted"] < 0.1


def test_rank_deficient_features_in_float32_score_their_subspace() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 10, (4000,), generator=generator)
    core = torch.randn(10, 64, generator=generator, dtype=torch.float64)[y] * 0.4
    core += torch.randn(4000, 64, generator=generator, dtype=torch.float64)
    wide = core @ torch.randn(64, 512, generator=generator, dtype=torch.float64)
    for method in ("gain", "crossfit", "shrinkage"):
        expected = score(wide, y, method) if method == "shrinkage" else score(core, y, method)
        found = score(wide.float(), y, method)
        tolerance = 2e-2 if method == "crossfit" else 1e-3  # a penalty on other axes is another head
        assert found.value == pytest.approx(expected.value, rel=tolerance), method
    assert score(wide.float(), y, "gain").details["rank"] == 64


def test_more_features_than_samples() -> None:
    x, y = digits()
    few, labels = x[:40].repeat(1, 3), y[:40]
    with pytest.warns(fg.FeatgeoWarning, match="says little"):
        gain = fg.transfer_score(few, labels, "gain")
    assert gain.value <= gain.bound * (1 + 1e-9)
    honest = score(few, labels, "crossfit")
    assert 0 < honest.value < gain.value
    assert math.isfinite(score(few, labels, "logme").value)


def test_no_gain_exceeds_its_bound() -> None:
    y = torch.arange(24) % CLASSES
    x = nn.functional.one_hot(y).double() + 1e-6 * torch.randn(
        24, CLASSES, generator=torch.Generator().manual_seed(0)
    )
    for method in ("gain", "adjusted", "shrinkage", "crossfit", "heldout"):
        found = score(x, y, method)
        assert 0.4 * found.bound < found.value <= found.bound, method


def test_shrinkage_by_ledoit_and_wolf() -> None:
    x, y = digits()
    x = x[:300]
    rows = x[:, x.std(0) > 0].double().numpy()
    rows = (rows - rows.mean(0)) / rows.std(0)
    shrunk, alpha = ledoit_wolf(rows)
    labels = y[:300].numpy()
    share = np.bincount(labels) / 300
    means = np.stack([rows[labels == c].mean(0) for c in range(10)])
    expected = 0.5 * (1 - alpha) * np.trace(np.linalg.solve(shrunk, (means.T * share) @ means))
    found = score(x.double(), y[:300], "shrinkage")
    assert found.details["shrinkage"] == pytest.approx(alpha, rel=1e-6)
    assert found.value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "width"), [(50, 6), (20, 30)])
def test_logme_is_the_largest_marginal_likelihood(count: int, width: int) -> None:
    x, y = blobs(3, count=count, width=width)
    f = x.numpy()
    total = 0.0
    for column in np.eye(CLASSES)[y.numpy()].T:

        def negative(logs: np.ndarray, t: np.ndarray = column) -> float:
            alpha, beta = np.exp(logs)
            covariance = np.eye(count) / beta + f @ f.T / alpha
            return 0.5 * (
                np.linalg.slogdet(covariance)[1]
                + t @ np.linalg.solve(covariance, t)
                + count * np.log(2 * np.pi)
            )

        options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
        starts = ((0.0, 0.0), (4.0, 1.0), (-2.0, 2.0))
        total -= min(minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts)
    assert score(x, y, "logme").value == pytest.approx(total / count / CLASSES, rel=1e-7)


def source_probabilities(y: Tensor, classes: int = 5) -> Tensor:
    noise = torch.rand(len(y), classes, generator=torch.Generator().manual_seed(0)).double()
    noise[torch.arange(len(y)), y] += 0.7
    return noise / noise.sum(1, keepdim=True)


def test_leep_and_nce_by_loops() -> None:
    _, y = blobs(4, count=80)
    theta = source_probabilities(y)
    joint = np.zeros((CLASSES, 5))
    for label, row in zip(y.tolist(), theta.numpy(), strict=True):
        joint[label] += row / 80
    logs = [
        math.log(sum(joint[label, z] / joint[:, z].sum() * row[z] for z in range(5)))
        for label, row in zip(y.tolist(), theta.numpy(), strict=True)
    ]
    assert score(None, y, "leep", source=theta).value == pytest.approx(np.mean(logs), rel=1e-10)
    z = theta.argmax(1).tolist()
    pairs = list(zip(z, y.tolist(), strict=True))
    entropy = -sum(math.log(pairs.count(pair) / z.count(pair[0])) for pair in pairs) / 80
    for given in (theta, theta.argmax(1)):
        assert score(None, y, "nce", source=given).value == pytest.approx(-entropy, rel=1e-10)


def test_gbc_by_loops() -> None:
    x, y = blobs(5, spread=2.0)
    f, total = x.numpy(), 0.0
    for a in range(CLASSES):
        for b in range(CLASSES):
            if a != b:
                mean = [f[y.numpy() == c].mean(0) for c in (a, b)]
                var = [f[y.numpy() == c].var(0).mean() for c in (a, b)]
                both = sum(var) / 2
                d = ((mean[0] - mean[1]) ** 2).sum() / both / 8 + 0.5 * 6 * math.log(
                    both / math.sqrt(var[0] * var[1])
                )
                total -= math.exp(-d)
    assert score(x, y, "gbc").value == pytest.approx(total, rel=1e-9)


def test_gbc_of_many_features_uses_the_principal_components() -> None:
    x, y = digits()
    wide = torch.cat([x, 1e-3 * torch.rand(len(x), 40, generator=torch.Generator().manual_seed(0))], 1)
    components = PCA(64, svd_solver="full").fit_transform(wide.double())
    assert score(wide, y, "gbc").value == pytest.approx(score(components, y, "gbc").value, rel=1e-3)


def test_frames_and_lists_are_taken() -> None:
    x, y = blobs(0)
    expected = score(x, y, "gain").value
    assert score(pd.DataFrame(x.numpy()), pd.Series(y.numpy()), "gain").value == pytest.approx(expected)
    assert score(x.tolist(), y.tolist(), "gain").value == pytest.approx(expected)


@pytest.mark.parametrize("method", ["gain", "adjusted", "crossfit", "heldout", "logme", "gbc", "leep", "nce"])
def test_standard_errors_are_the_spread_over_samples(method: str) -> None:
    values, errors = [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        y = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]), 400, True, generator=generator)
        x = torch.randn(400, 5, generator=generator, dtype=torch.float64)
        x[:, 0] += y
        theta = (3 * torch.rand(400, 5, generator=generator).double() + nn.functional.one_hot(y, 5)).softmax(
            1
        )
        of_source = method in ("leep", "nce")
        found = score(None if of_source else x, y, method, source=theta if of_source else None)
        values.append(found.value)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


def test_units_of_the_features_do_not_matter() -> None:
    x, y = blobs(6)
    scale = torch.logspace(-4, 4, 6).double()
    for method in ("gain", "adjusted", "shrinkage", "crossfit", "heldout"):
        assert score(x * scale + 7, y, method).value == pytest.approx(score(x, y, method).value, rel=1e-6)


def test_constant_and_duplicated_features_change_nothing() -> None:
    x, y = blobs(7)
    more = torch.cat([x, x[:, :2], torch.full((len(x), 3), 4.2)], 1)
    assert score(more, y, "gain").value == pytest.approx(score(x, y, "gain").value, rel=1e-9)
    with pytest.warns(fg.FeatgeoWarning, match="none varies"):
        still = fg.transfer_score(torch.ones(len(x), 3), y, "crossfit")
    assert still.value == 0.0


def test_soft_labels_other_losses_and_half_precision() -> None:
    x, y = blobs(8)
    soft = 0.7 * nn.functional.one_hot(y, CLASSES).double() + 0.3 / CLASSES
    assert 0 < score(x, soft, "crossfit").value < score(x, y, "crossfit").value
    assert score(x, (y > 1).double(), "crossfit", loss="bce").value > 0.05
    assert score(x, y.double(), "crossfit", loss="poisson").value > 0.05
    assert score(x.half(), y, "crossfit").value == pytest.approx(score(x, y, "crossfit").value, rel=1e-2)
    assert float(score(x.numpy(), y.numpy(), "gain")) == score(x, y, "gain").value


def test_an_absent_class_is_said() -> None:
    x, y = blobs(9)
    with pytest.warns(fg.FeatgeoWarning, match="2 of 6 classes"):
        found = fg.transfer_score(x, y + 2 * (y == 3), "gain")
    assert "absent" in found.warnings[0]
    assert found.value == pytest.approx(score(x, y, "gain").value, rel=1e-9)


def test_a_class_of_one_sample_is_no_obstacle() -> None:
    x, y = blobs(9, count=60)
    lone = torch.where(torch.arange(60) == 7, 5, y.clamp_max(2) + (y == 3))
    for method in ("gain", "adjusted", "shrinkage", "crossfit", "heldout", "logme", "gbc"):
        found = score(x, lone, method)
        assert math.isfinite(found.value), method
        assert math.isfinite(found.standard_error), method


def test_the_random_state_is_left_alone() -> None:
    x, y = blobs(0)
    state = torch.get_rng_state()
    for method in ("crossfit", "heldout", "logme", "gbc"):
        score(torch.cat([x] * 14, 1), y, method)
    assert torch.equal(torch.get_rng_state(), state)


BAD = {
    "method": ({"method": "h-score"}, "Known methods"),
    "NaN": ({"features": torch.full((300, 6), torch.nan)}, "NaN or infinite"),
    "positions": ({"features": torch.zeros(300, 6, 2, 2)}, "Pass real features"),
    "one sample": (
        {"features": torch.zeros(1, 6), "targets": torch.zeros(1, dtype=torch.int64)},
        "two at least",
    ),
    "lengths": ({"features": torch.zeros(299, 6)}, "one target each"),
    "float labels": ({"targets": torch.rand(300)}, "integer labels"),
    "negative labels": ({"targets": torch.full((300,), -1)}, "Labels must lie"),
    "one class": ({"targets": torch.zeros(300, dtype=torch.int64)}, "one class only"),
    "constant targets": ({"targets": torch.ones(300), "loss": "mse"}, "do not vary"),
    "no source": ({"method": "leep", "features": None}, "class probabilities"),
    "features beside a source": ({"method": "nce", "source": torch.rand(300, 3)}, "pass None"),
    "logits": ({"method": "leep", "features": None, "source": torch.randn(300, 3)}, "softmax"),
    "classes of a regression": (
        {"method": "gbc", "loss": "mse", "targets": torch.rand(300)},
        "compares classes",
    ),
    "a loss of the batch": (
        {"loss": lambda z, t: (z - t).square().mean(), "targets": torch.rand(300, 2)},
        "per sample",
    ),
    "no outputs": (
        {"loss": lambda z, t: (z[:, 0] - t) ** 2, "targets": torch.rand(300)},
        "how many outputs",
    ),
    "words": ({"features": "resnet"}, "no tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    x, y = blobs(0)
    changes, message = BAD[case]
    given = {"features": x, "targets": y, "method": "crossfit"} | changes
    with pytest.raises(fg.FeatgeoError, match=f"(?i){message}"):
        fg.transfer_score(**given)  # type: ignore[arg-type]

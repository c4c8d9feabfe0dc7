"""Hard labels at the output: the one-step head, and neural collapse beside the rank-(|Y|-1) solution."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from featgeo.demo import digits
from featgeo.errors import FeatgeoWarning
from featgeo.experiments.collapse import collapse, duality, head_formula
from featgeo.experiments.confidence import interval, shown
from featgeo.experiments.hard_labels_figures import draw
from featgeo.experiments.record import Cell, Experiment, Result, Settings, Table, at_least, at_most
from featgeo.network.analyze import analyze

TRAINING = 1200  # samples; the others test
HEADS = ("trained head", "one-step W*", "discriminant analysis")
DECAY = 2e-3  # λ of the penalty λ/2 ‖W‖² on every weight matrix


def _network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
        ]
        return nn.Sequential(*hidden, nn.Linear(64, 10))


def _train(
    model: nn.Sequential, x: Tensor, y: Tensor, steps: int, decay: float, logged: set[int], seed: int
) -> dict[int, Any]:
    """SGD with momentum on minibatches of 200 and a cosine schedule; states at the logged steps."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator, states = torch.Generator().manual_seed(seed), {}
    for step in range(steps + 1):
        if step in logged:
            states[step] = {key: value.clone() for key, value in model.state_dict().items()}
        batch = torch.randint(len(x), (200,), generator=generator)
        objective = F.cross_entropy(model(x[batch]), y[batch])
        if decay:
            weights = sum(p.square().sum() for p in model.parameters() if p.ndim > 1)
            objective = objective + 0.5 * decay * weights
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
        schedule.step()
    return states


def _heads(
    model: nn.Sequential, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], view: Any
) -> dict[str, float]:
    """Test accuracies of the trained head, the one-step head and discriminant analysis on the same features."""
    with torch.no_grad():
        features, held = model[:-1](train[0]), model[:-1](test[0])
        logits = held @ view.optimal_weight.T + view.optimal_bias
        trained = model[-1](held)
    analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-6).fit(
        features.numpy(), train[1].numpy()
    )
    return {
        "trained head": (trained.argmax(1) == test[1]).double().mean().item(),
        "one-step W*": (logits.argmax(1) == test[1]).double().mean().item(),
        "discriminant analysis": float((analysis.predict(held.numpy()) == test[1].numpy()).mean()),
    }


def _row(
    model: nn.Sequential, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], decay: float
) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatgeoWarning)  # collapsed features are rank-deficient
        report = analyze(model, train, batch_size=600, layers=["6"])
        penalised = (
            analyze(model, train, batch_size=600, weight_decay=decay, layers=["6"]) if decay else report
        )
    view = report["6"].view("average")
    with torch.no_grad():
        features = model[:-1](train[0])
    raw, white = collapse(features, train[1], False), collapse(features, train[1], True)
    modes = [value for value in view.spectrum if value > 1e-3]
    assert isinstance(model[6], nn.Linear)
    assert view.optimal_weight is not None
    return {
        "loss": report.loss_value, "alignment": view.alignment, "penalised": penalised["6"].view("average").alignment,
        "least": min(view.spectrum[:9]), "modes": len(modes), "raw": raw, "white": white,
        "predicted within": sum(value**-2 - 1 for value in modes) / 10,
        "duality": duality(model[6].weight.detach(), features, train[1]),
        "formula": head_formula(features, train[1], view.optimal_weight), **_heads(model, train, test, view),
    }  # fmt: skip


def run(settings: Settings) -> Result:
    """Train with and without a penalty; heads and collapse along the way."""
    seeds = range(settings.seed, settings.seed + (2 if settings.quick else 5))
    steps = 150 if settings.quick else 1500
    logged = {0, 10, 30, 100, 300, 1000, steps} & set(range(steps + 1))
    x, y = digits()
    rows: list[dict[str, Any]] = []
    for number, (decay, seed) in enumerate((decay, seed) for decay in (0.0, DECAY) for seed in seeds):
        settings.progress(number / (2 * len(seeds)), f"λ = {decay:g}, seed {seed}")
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        train, test = ((x[part], y[part]) for part in (order[:TRAINING], order[TRAINING:]))
        exact, held = ((x.double(), y) for x, y in (train, test))  # collapsed features need the digits
        model = _network(seed)
        for step, state in _train(model, *train, steps, decay, logged, seed).items():
            model.load_state_dict(state)
            copied = copy.deepcopy(model).double()
            rows.append({"penalty": decay, "seed": seed, "step": step, **_row(copied, exact, held, decay)})
    return _summarise(rows, steps)


def _summarise(rows: list[dict[str, Any]], steps: int) -> Result:
    def values(key: str, step: int, decay: float, inside: str = "") -> list[float]:
        own = [row for row in rows if row["step"] == step and row["penalty"] == decay]
        return [row[inside][key] if inside else row[key] for row in own]

    stations = sorted({row["step"] for row in rows})
    heads: list[list[Cell]] = []
    angles: list[list[Cell]] = []
    for decay in (0.0, DECAY):
        for step in stations:
            first: list[Cell] = ["none" if not decay else f"{decay:g}", step]
            columns = (
                "loss",
                "alignment",
                "penalised",
                "least",
                "trained head",
                "one-step W*",
                "discriminant analysis",
            )
            heads.append(first + [shown(values(key, step, decay), 3) for key in columns])
            cells = [
                shown(values(key, step, decay, "raw"), 3)
                for key in ("within", "angle", "equiangular", "spread")
            ]
            cells += [shown(values(key, step, decay, "white"), 3) for key in ("within", "angle", "spread")]
            angles.append(
                first
                + cells
                + [
                    shown(values("predicted within", step, decay), 3),
                    shown(values("duality", step, decay), 3),
                ]
            )
    tables = [
        Table(
            "The output layer: alignment with W* and test accuracy of three heads on the same features",
            ["penalty", "step", "loss", "alignment", "with penalised W*", "least σ of B", *HEADS],
            heads,
        ),
        Table(
            "Neural collapse of the last features, as they are and whitened, beside the rank-(|Y|-1) "
            "solution",
            ["penalty", "step", "within-class", "cosines off prediction", "cosines off -1/(|Y|-1)", "lengths off",
             "whitened: within-class", "whitened: cosines off", "whitened: lengths off",
             "within-class predicted from σ", "cosine of W with class means"],
            angles,
        ),
    ]  # fmt: skip
    last = {
        decay: {
            key: interval(values(key, steps, decay))
            for key in (
                "alignment",
                "penalised",
                "least",
                "duality",
                "trained head",
                "one-step W*",
                "discriminant analysis",
            )
        }
        for decay in (0.0, DECAY)
    }
    off = {
        decay: {w: interval(values("angle", steps, decay, w)) for w in ("raw", "white")}
        for decay in (0.0, DECAY)
    }
    within = {decay: interval(values("within", steps, decay, "raw"))[0] for decay in (0.0, DECAY)}
    begin = interval(values("angle", 0, 0.0, "white"))[0]
    start = interval(values("angle", 0, 0.0, "raw") + values("angle", 0, DECAY, "raw"))[0]
    formula = max(row["formula"] for row in rows)
    identity = max(
        abs(row["white"]["within"] / row["predicted within"] - 1) for row in rows if row["modes"] == 9
    )
    gap = [row["trained head"] - row["one-step W*"] for row in rows if row["step"] == steps]
    rival = [row["discriminant analysis"] - row["one-step W*"] for row in rows if row["step"] == steps]
    result = Result(tables=tables)
    result.checks = [
        at_most("W* of the output against Σ_f⁺(μ_y - μ): largest relative difference", formula, 1e-6),
        at_most(
            "whitened within-class variance against Σ(σ⁻² - 1)/|Y|: largest relative difference",
            identity,
            1e-4,
        ),
        at_least(
            "one-step head at the end: test accuracy", min(last[d]["one-step W*"][0] for d in last), 0.85
        ),
    ]
    names = {0.0: "without penalty", DECAY: "with penalty"}
    result.numbers = {names[d]: {"last": last[d], "angles off": off[d], "within": within[d]} for d in last}
    result.numbers |= {
        "formula": formula,
        "identity": identity,
        "accuracy gap": interval(gap),
        "gap to discriminant analysis": interval(rival),
    }
    raw, white = ({d: off[d][where][0] for d in off} for where in ("raw", "white"))
    closer = raw[DECAY] < raw[0.0] - off[0.0]["raw"][1]
    result.verdict = (
        f"The one-step head classifies {last[0.0]['one-step W*'][0]:.1%} of the test set against "
        f"{last[0.0]['trained head'][0]:.1%} of the trained head (difference {interval(gap)[0]:.3f} ± "
        f"{interval(gap)[1]:.3f} over both trainings) and is {interval(rival)[0]:+.3f} ± "
        f"{interval(rival)[1]:.3f} from discriminant analysis, although hard labels are as far from the "
        f"region as labels can be. Its alignment with the trained head is {last[0.0]['alignment'][0]:.2f} "
        f"without and {last[DECAY]['alignment'][0]:.2f} with the penalty ({last[DECAY]['penalised'][0]:.2f} "
        "with the penalised W*). Collapse shows in whitened features, where the rank-(|Y|-1) solution is "
        f"unique up to rotation: there the class means' cosines end {white[0.0]:.3f} (without penalty) and "
        f"{white[DECAY]:.3f} (with) off the prediction, from {begin:.3f} before training, with the least "
        f"singular value of B on the features at {last[0.0]['least'][0]:.3f} and "
        f"{last[DECAY]['least'][0]:.3f} (predicted 1). The features as they are start {start:.3f} off and "
        f"end {raw[0.0]:.3f} and {raw[DECAY]:.3f} off: the solution leaves their mixing open, and "
        + ("the penalty fixes part of it. " if closer else "the penalty has not fixed it in this training. ")
        + f"Class weights run along class means with cosine {last[0.0]['duality'][0]:.2f} and "
        f"{last[DECAY]['duality'][0]:.2f}. Singular values that are all 1 leave the order of modes open: "
        "hard labels have no leading mode."
    )
    keep = (
        "penalty",
        "seed",
        "step",
        "alignment",
        "least",
        "raw",
        "white",
        "duality",
        "trained head",
        "one-step W*",
        "discriminant analysis",
    )
    result.series = {"rows": [{key: row[key] for key in keep} for row in rows], "penalties": [0.0, DECAY]}
    result.captions = {
        "collapse": "Left: test accuracy of three heads on the same features. Right: how far the class means' cosines "
        "are from the rank-(|Y|-1) solution, features as they are (solid) and whitened (dashed). Means "
        "over seeds."
    }
    return result


EXPERIMENT = Experiment(
    name="hard_labels",
    title="Hard labels at the output",
    claim=(
        "Deterministic labels make all |Y| - 1 singular values of B equal to 1: as far from the region as "
        "can be. The rank-(|Y|-1) solution still says what neural collapse finds: no variance within "
        "classes, class means in unit-covariance features with ⟨f_y, f_y'⟩ = δ/P_y - 1 (a simplex for "
        "balanced classes), class weights along them. Given the features, W*_y = Σ_f⁺ (μ_y - μ): "
        "discriminant directions in one step."
    ),
    setup=(
        "64-128-128-64-10 ReLU network on digits (1,200 train, 597 test), hard labels, SGD with momentum, "
        "without penalty and with λ/2 ‖W‖² on every weight; 95 % intervals over seeds. Three heads on the "
        "same features: the trained one, the one-step W*, scikit-learn's linear discriminant analysis. "
        "Collapse of the features as they are and whitened."
    ),
    run=run,
    draw=draw,
)

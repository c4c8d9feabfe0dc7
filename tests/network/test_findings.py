"""Each finding fires on a network built to have exactly that fault, and is silent on one built not to."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from featgeo.network import findings
from featgeo.network.findings import LOCAL, find
from tests.network.models import Asinh, Residual, blobs, mlp, quiet, soft_labels

NOISE = "no mode stands above the noise"
FAR = "outside the local region"
HEAD = "the last layer is not optimal for its features"
SATURATED = "neurons saturated at the Bayes action"
RANK = "features are rank-deficient"
WIDE = "wider than its modes need"
DEAD = "neurons before it are dead"
LOST = "gain is lost along depth"
STEP = "a step towards W* does not do what is predicted"
UNFELT = "what its output has in common changes nothing"
PROMISED = "more gain is promised than there is loss"
FEW = "too few samples to tell"
TITLES = {FEW, UNFELT, NOISE, FAR, PROMISED, STEP, HEAD, SATURATED, RANK, WIDE, DEAD, LOST}
PENALTY = 1e-3  # of training: without one hidden layers leave the local region of the Bayes action
PAGE = Path(__file__).parents[2] / "docs" / "findings.md"


def titles(report: fg.Report) -> set[tuple[str, str]]:
    return {(finding.layer, finding.title) for finding in report.findings}


def carried_out(finding: fg.Finding, model: nn.Module, data: tuple[Tensor, Tensor]) -> Any:
    """What the finding's call returns, as a reader would run it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fg.FeatgeoWarning)
        return eval(finding.call, {"fg": fg, "model": model, "data": data})


def converge(
    parameters: list[Tensor],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    weight_decay: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> None:
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=300, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(model(x), y)
        value = value + 0.5 * weight_decay * sum(p.square().sum() for p in parameters if p.ndim > 1)
        value.backward(inputs=parameters)
        return value

    optimiser.step(closure)


def weak(width: int = 3, activation: type[nn.Module] = Asinh) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network that has none of the faults: few neurons, weak soft labels, trained to convergence with a penalty."""
    torch.manual_seed(0)
    x, labels = blobs(0, count=2000)
    model, y = mlp(6, width, 4, activation=activation, dtype=torch.float64), soft_labels(labels, 0.2)
    converge(list(model.parameters()), model, x, y, PENALTY)
    return model, x, y


def seen(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> fg.Report:
    return quiet(model, (x, y), **{"weight_decay": PENALTY, **options})


def test_a_sound_network_has_no_findings() -> None:
    model, x, y = weak()
    for at in ("average", "bayes"):
        assert titles(seen(model, x, y, at=at)) == set()


def test_findings_say_what_was_found_and_what_to_do(tmp_path: Path) -> None:
    model, x, y = weak(width=9)
    with torch.no_grad():
        model[2].weight *= 0.5
    report = quiet(model, (torch.cat([x, x], 1)[:, :6], y))
    assert report.findings
    assert {title for _, title in titles(report)} <= TITLES
    assert {finding.severity for finding in report.findings} <= {"act", "note", "doubt"}
    assert all(finding.detail and finding.remedy.endswith(".") for finding in report.findings)
    assert all(re.fullmatch(r'fg\.\w+\(model, data, "cross_entropy".*\)', f.call) for f in report.findings)
    assert all(f.value is not None and f.threshold is not None for f in report.findings)
    assert all(f.call in report.summary() for f in report.findings)
    report.save(tmp_path / "report.json")
    assert fg.Report.load(tmp_path / "report.json").findings == report.findings


def test_every_finding_is_on_the_page_with_its_threshold() -> None:
    page = PAGE.read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert all(any(row.startswith(f"| {title} |") for row in rows) for title in TITLES)
    for name, value in vars(findings).items():
        if name.isupper() and isinstance(value, int | float) and name not in ("LISTED", "FREE"):
            assert any(f"`{name} = {value:g}`" in row for row in rows), name


def test_noise() -> None:
    model, x, y = weak()
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    found = seen(model, x, shuffled)
    assert titles(found) == {("0", NOISE), ("2", NOISE)}  # nothing else is concluded from noise


class Attending(nn.Module):
    """A read-out of tokens that have attended to one another."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.attention(x, x, x)[0]).mean(1))


def test_keys_are_not_felt_as_a_whole() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 3, 4, dtype=torch.float64)
    report = quiet(Attending().double(), (x, (x[:, :, 0].mean(1) > 0).long()))
    assert ("attention.k_proj", UNFELT) in titles(report)
    assert {name for name, title in titles(report) if title in (UNFELT, NOISE)} == {"attention.k_proj"}


def test_a_head_whose_optimum_cannot_be_is_not_judged() -> None:
    model, x, y = weak()
    found = seen(model, x, y)
    loose = replace(found["2"].view(), alignment=0.8, scale=0.5)
    names = {name: replace(found["2"], views={"average": view}) for name, view in {
        "attainable": loose, "beyond": replace(loose, gain_available=1.1 * loose.constant_loss),
    }.items()}  # fmt: skip
    judged = find(replace(found, layers={k: replace(v, name=k) for k, v in names.items()}))
    assert [finding.layer for finding in judged.findings if finding.title == HEAD] == ["attainable"]


class Fold(nn.Module):
    """An even function: over centred pre-activations no straight line says anything of it."""

    def forward(self, z: Tensor) -> Tensor:
        return (z - z.mean(0)).square()


def test_far_from_the_local_region() -> None:
    """What is folded can be read linearly no more, either."""
    model, x, y = weak()
    model[1] = Fold()
    converge(list(model[2].parameters()), model, x, y, PENALTY)
    report = seen(model, x, y, batch_size=len(x))
    assert report["0"].locality < LOCAL
    assert titles(report) == {("0", FAR), ("0", LOST)}


def test_a_last_layer_far_from_the_local_region_is_not_judged() -> None:
    """With ten thousand times the weights the softmax is a step, and the gaps of its quadratic mean nothing."""
    model, x, y = weak()
    with torch.no_grad():
        model[2].weight *= 1e4
    far = replace(quiet(model, (x, y))["2"], default="average")
    low = replace(far, views={"average": replace(far.view("average"), locality=0.1)})
    report = find(replace(quiet(model, (x, y)), layers={"2": low}))
    assert titles(report) == {("2", FAR)}


@pytest.mark.parametrize("change", [lambda w: 0.5 * w, lambda w: 1.8 * w, lambda w: w.roll(1, 0)])
def test_a_last_layer_that_is_not_optimal(change) -> None:  # type: ignore[no-untyped-def]
    model, x, y = weak()
    converge(list(model[2].parameters()), model, x, y)
    assert titles(quiet(model, (x, y))) == set()
    with torch.no_grad():
        model[2].weight.copy_(change(model[2].weight))
    report = quiet(model, (x, y))
    assert titles(report) == {("2", HEAD)}
    (finding,) = report.findings
    assert finding.severity == "act"
    view = report["2"]
    missed = view.gap_weight / view.gain_available
    assert f"miss {missed:.0%} of the gain" in finding.detail
    assert finding.call == 'fg.solve_head(model, data, "cross_entropy", refine="exact")'
    head = carried_out(finding, model, (x, y))
    with torch.no_grad():
        model[2].weight.copy_(head.weight)
        model[2].bias.copy_(head.bias)
    assert titles(quiet(model, (x, y))) == set()


def test_a_penalised_last_layer_is_judged_by_its_penalised_optimum() -> None:
    model, x, y = weak()
    converge(list(model[2].parameters()), model, x, y, 0.05)
    assert titles(seen(model, x, y, weight_decay=0.05)) == set()
    report = seen(model, x, y)
    assert titles(report) == {("2", HEAD)}
    assert report.findings[0].call.endswith('weight_decay=0.001, refine="exact")')
    carried_out(report.findings[0], model, (x, y))


def test_a_hidden_layer_is_not_taken_for_the_last() -> None:
    """A linear tail explains all of the output's variance, as the last layer's does."""
    torch.manual_seed(0)
    x, y = blobs(0, count=500)
    model = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 4)).double()
    report = quiet(model, (x, y))
    assert report["0"].tail_r2 == pytest.approx(1, abs=1e-9)
    assert [layer.is_output for layer in report] == [False, True]
    assert ("0", HEAD) not in titles(report)
    assert ("1", HEAD) in titles(report)


def test_saturated_neurons() -> None:
    """Targets just outside what a sigmoid can reach: its Bayes action runs away."""
    torch.manual_seed(0)
    x, _ = blobs(0, count=400)
    model = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid()).double()
    target = x[:, :1].tanh() * 0.2
    assert ("0", SATURATED) in titles(quiet(model, (x, 1.2 + target), "mse"))
    assert ("0", SATURATED) not in titles(quiet(model, (x, 0.5 + target), "mse"))
    converge(list(model.parameters()), model, x, 0.5 + target, loss=nn.functional.mse_loss)
    assert titles(quiet(model, (x, 0.5 + target), "mse")) == set()


def test_dead_neurons() -> None:
    """A neuron without weights before the last layer, which is trained to make the best of the others."""
    model, x, y = weak(width=5)
    with torch.no_grad():
        model[0].weight[1] = 0
    converge(list(model[2].parameters()), model, x, y, PENALTY)
    report = seen(model, x, y)
    assert titles(report) == {("2", DEAD)}
    (finding,) = report.findings
    assert finding.severity == "act"
    assert "1 of the 5 features" in finding.detail
    assert "(1)" in finding.detail
    assert carried_out(finding, model, (x, y)).model is not None


@pytest.mark.parametrize("samples", [3, 99, 100])
def test_few_samples_are_no_evidence(samples: int) -> None:
    """What would be said of dead neurons on too few samples is said to be so, and no more."""
    model, x, y = weak(width=5)
    with torch.no_grad():
        model[0].weight[1] = 0
    report = seen(model, x[:samples], y[:samples])
    dead = [finding for finding in report.findings if "dead" in finding.title + finding.detail]
    if samples < findings.EVIDENCE:
        assert all(finding.severity == "doubt" for finding in report.findings)
        assert [(finding.layer, finding.title, finding.value) for finding in dead] == [("2", FEW, samples)]
    else:
        assert ("2", DEAD) in titles(report)
        assert FEW not in {title for _, title in titles(report)}


def test_means_over_positions_that_lack_a_rank_are_no_finding() -> None:
    """Two channels whose means over positions are alike, and whose positions are not."""
    torch.manual_seed(0)
    x, y = torch.randn(300, 4, 6, dtype=torch.float64), torch.randint(0, 3, (300,))
    x = torch.cat([x, x[:, :1].roll(1, 2)], 1)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(5, 4, 1), nn.Linear(4, 3)

        def forward(self, z: Tensor) -> Tensor:
            return self.last(self.first(z).tanh().mean(2))  # type: ignore[no-any-return]

    report = quiet(Pooled().double(), (x, y))
    assert report["first"].feature_rank == 4 < report["first"].inputs
    assert ("first", RANK) not in titles(report)
    twice = torch.cat([x.mean(2), x[:, :1].mean(2)], 1)
    assert ("0", RANK) in titles(quiet(mlp(6, 4, 3, dtype=torch.float64), (twice, y)))


def test_calls_take_labels_per_position() -> None:
    """A hidden layer wider than needed and dead neurons in it, with one label per sample and with one per position."""
    model, x, y = weak(width=9)
    with torch.no_grad():
        model[0].weight[1] = 0
        model[2].weight *= 0.3
    one, each = (
        seen(model, *part, weight_decay=0.0) for part in ((x, y), (x.view(500, 4, 6), y.view(500, 4, 4)))
    )
    assert titles(one) == titles(each)
    assert {HEAD, DEAD, WIDE} <= {title for _, title in titles(each)}
    made = {
        finding.title: carried_out(finding, model, (x.view(500, 4, 6), y.view(500, 4, 4)))
        for finding in each.findings
    }
    assert made[HEAD].objective < each.loss_value
    assert made[DEAD].loss_after == pytest.approx(each.loss_value, rel=0.02)
    assert made[WIDE]["width"]["0"] < 9
    assert not fg.Report.from_dict(one.to_dict()).positions
    assert fg.Report.from_dict(each.to_dict()).positions


def test_a_rank_that_the_number_of_samples_sets_is_no_finding() -> None:
    torch.manual_seed(0)
    x, y = blobs(0, count=120, width=200)
    report = quiet(mlp(200, 5, 4, dtype=torch.float64), (x, y))
    assert report["0"].feature_rank == 119
    assert ("0", RANK) not in titles(report)


def test_pixels_that_never_vary_are_no_dead_neurons() -> None:
    model, x, y = weak()
    x = x.clone()
    x[:, 5] = 1.0
    converge(list(model.parameters()), model, x, y, PENALTY)
    report = seen(model, x, y)
    assert titles(report) == {("0", RANK)}
    assert report.findings[0].detail == "rank 5 of 6, 1 never vary"


@pytest.mark.parametrize(("width", "fires"), [(1, True), (2, True), (3, False), (4, False)])
def test_gain_is_lost_along_depth(width: int, fires: bool) -> None:
    """Four classes have three modes, which one or two neurons cannot carry."""
    model, x, y = weak(width, nn.Identity)
    report, modes = seen(model, x, y), seen(*weak(3, nn.Identity))["0"].spectrum
    assert titles(report) - {("2", RANK)} == ({("0", LOST)} if fires else set())
    if fires:
        kept = torch.tensor(modes).square().cumsum(0)  # the best that so many neurons can carry
        assert report.findings[0].value == pytest.approx(1 - float(kept[width - 1] / kept[-1]), abs=0.01)
        assert len(carried_out(report.findings[0], model, (x, y)).to_frame())


def test_a_wide_layer_with_random_weights_loses_nothing() -> None:
    """64 features of which 3 carry the modes, and too few samples to see them all well: chance is no loss."""
    torch.manual_seed(0)
    for count in (300, 2000):
        x, labels = blobs(0, count=count, width=20)
        model = mlp(20, 60, 4, activation=Asinh, dtype=torch.float64)
        report = quiet(model, (x, labels))
        assert ("0", LOST) not in titles(report)


def test_around_a_bypassed_layer_nothing_is_said_of_gain_along_depth() -> None:
    """The branch is a single neuron wide; what it drops goes by the other road."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.narrow, self.back = nn.Linear(6, 6), nn.Linear(6, 1), nn.Linear(1, 6)
            self.head = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.back(self.narrow(x).asinh()))

    torch.manual_seed(0)
    x, labels = blobs(0, count=2000)
    y, model = soft_labels(labels, 0.2), Branch().double()
    converge(list(model.parameters()), model, x, y, PENALTY)
    report = seen(model, x, y)
    assert report["back"].gain_features < 0.9 * report["head"].gain_features
    assert LOST not in {title for _, title in titles(report)}


def test_means_over_positions_are_not_all_that_a_layer_reads() -> None:
    """The signal is in where things are, which the mean over positions forgets and the last layer reads."""
    torch.manual_seed(0)
    x, labels = blobs(0, count=2000)
    y = soft_labels(labels, 0.2)
    layers = [nn.Linear(6, 6), nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 1), nn.Flatten(), nn.Linear(24, 4)]
    model = nn.Sequential(*layers).double()
    report = seen(model, x, y)
    assert [layer.averaged for layer in report] == [False, True, False]
    assert report["2"].gain_features < 0.9 * report["0"].gain_features < report["4"].gain_features
    assert LOST not in {title for _, title in titles(report)}


def test_depth_is_the_order_of_the_calls_not_of_the_names() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem = nn.Linear(3, 4), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x).asinh())

    x, labels = blobs(0, count=2000)
    y, model = soft_labels(labels, 0.2), Backwards().double()
    converge(list(model.parameters()), model, x, y, PENALTY)
    report = seen(model, x, y)
    assert [layer.depth for layer in report] == [1, 0]
    assert titles(report) == set()


def test_gain_of_the_features_against_a_regression() -> None:
    """The read-out's gain is half the sum of the squared canonical correlations, corrected as R² is."""
    model, x, y = weak(width=3)
    labels = y.argmax(1)
    report = quiet(model, (x, labels))
    one_hot = nn.functional.one_hot(labels).double()
    for name, features in (("0", x), ("2", model[:2](x).detach())):
        q = torch.linalg.qr(features - features.mean(0)).Q
        t = torch.linalg.qr((one_hot - one_hot.mean(0))[:, :-1]).Q
        squares, rank, rest = (
            torch.linalg.svdvals(q.T @ t).square().sum(),
            q.shape[1],
            len(x) - 1 - q.shape[1],
        )
        wanted = 0.5 * squares - 0.5 * (3 - squares) * rank / rest
        assert report[name].gain_features == pytest.approx(float(wanted), rel=1e-9)
        assert report[name].gain_features_noise == pytest.approx((rank * 3 / 2) ** 0.5 / len(x), rel=1e-9)


def test_rank_deficient_features() -> None:
    model, x, y = weak()
    x = x.clone()
    x[:, 5] = x[:, 4]
    report = seen(model, x, y)
    assert ("0", RANK) in titles(report)
    assert ("2", RANK) not in titles(report)
    assert "rank 5 of 6" in [finding.detail for finding in report.findings]
    converge(list(model.parameters()), model, x, y, PENALTY)
    assert titles(seen(model, x, y)) == {("0", RANK)}


@pytest.mark.parametrize(("width", "fires"), [(3, False), (5, False), (7, True), (12, True)])
def test_layers_wider_than_their_modes_need(width: int, fires: bool) -> None:
    """Four classes have three modes; the last layer's width is the number of classes and never complained of."""
    model, x, y = weak(width=width)
    report = seen(model, x, y)
    assert titles(report) == ({("0", WIDE)} if fires else set())
    if fires:
        (finding,) = report.findings
        assert (
            f"95 % and 99 % of the gain: {report['0'].rank(0.95)} and {report['0'].rank(0.99)}"
            in finding.detail
        )
        assert f"it has {width} neurons" in finding.detail
        assert "0" in carried_out(finding, model, (x, y)).index
        assert f"about {report['0'].rank(0.99)} neurons" in finding.remedy


@pytest.mark.parametrize(("steps", "fault"), [(3, False), (400, True)])
def test_a_step_that_does_not_do_what_is_predicted(steps: int, fault: bool) -> None:
    """Beside another road that has settled the task there is nothing left to gain; early in training there is."""
    torch.manual_seed(0)
    x, labels = blobs(0, count=600)
    model, y = Residual().double(), soft_labels(labels, 0.3)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    found = titles(quiet(model, (x, y)))
    assert ((("inner", STEP) in found), (("outer", STEP) in found)) == (fault, fault)
    assert not {("inner", FAR), ("outer", FAR)} & found


@pytest.mark.parametrize(("size", "fault"), [(1e-2, True), (1e-9, False)])
def test_a_step_within_the_rounding_of_the_loss_is_not_spoken_of(size: float, fault: bool) -> None:
    torch.manual_seed(0)
    x, labels = blobs(0, count=600)
    report = quiet(Residual().double(), (x, soft_labels(labels, 0.3)))
    layer = report["inner"]
    views = {at: replace(view, step=(-size, size)) for at, view in layer.views.items()}
    layers = {**report.layers, "inner": replace(layer, views=views)}
    assert (("inner", STEP) in titles(find(replace(report, layers=layers)))) == fault


@pytest.mark.parametrize(("size", "fault"), [(1.0, False), (30.0, True)])
def test_more_gain_promised_than_there_is_loss(size: float, fault: bool) -> None:
    """Beside another road that carries large logits the quadratic would take all of them back."""
    torch.manual_seed(0)
    x, labels = blobs(0, count=600)
    model = Residual().double()
    with torch.no_grad():
        model.head.weight *= size
    report = quiet(model, (x, soft_labels(labels, 0.3)))
    assert {layer for layer, title in titles(report) if title == PROMISED} == (
        {"inner", "outer"} if fault else set()
    )
    for layer in (report["inner"], report["outer"]):
        assert (layer.gain_available > layer.constant_loss) == fault
    if fault:
        finding = next(f for f in report.findings if (f.layer, f.title) == ("inner", PROMISED))
        assert finding.severity == "doubt"
        assert finding.value == report["inner"].gain_available / report["inner"].constant_loss > 2
        assert report.to_dict()["loss"] == "cross_entropy"
        unbounded = find(replace(report, loss="poisson"))
        assert PROMISED not in {title for _, title in titles(unbounded)}


def test_the_direction_that_a_layer_norm_takes_is_no_fault() -> None:
    torch.manual_seed(0)
    x, y = blobs(4, count=600, width=150)
    report = seen(nn.Sequential(nn.Linear(150, 128), nn.LayerNorm(128), nn.Linear(128, 4)).double(), x, y)
    assert report["2"].feature_rank == 127
    assert ("2", RANK) not in titles(report)

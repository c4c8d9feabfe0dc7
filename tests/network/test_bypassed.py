"""Layers that another road bypasses, against per-sample derivatives of a copy whose weight is zero and bias is c."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import featgeo as fg
from featgeo.data.batches import Batches
from featgeo.network.arrange import Arrangement
from featgeo.network.backward import mean_jacobians
from featgeo.network.frozen import FrozenLayer, frozen_action
from featgeo.network.keep import undisturbed
from featgeo.network.layers import weight_matrix
from featgeo.network.run import runner_of
from featgeo.network.select import split_layers
from featgeo.theory.losses import CrossEntropy
from tests.network.models import Residual, quiet

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit.script, where it is imported
    from curvlinops import GGNLinearOperator


class Images(nn.Module):
    """A residual block of convolutions on images (1, 5, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.outer, self.head = nn.Conv2d(2, 3, 2, padding=1, stride=1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh()
        x = x + self.outer(self.inner(x).asinh())[..., :-1, :-1]
        return self.head(x.asinh().mean((2, 3)))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """A transformer layer without the norms, on tokens (4, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(3, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.widen, self.narrow, self.head = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).tanh()
        h = h + self.attention(h, h, h, need_weights=False)[0]
        h = h + self.narrow(self.widen(h).asinh())
        return self.head(h.mean(1))  # type: ignore[no-any-return]


SHAPES = {"residual": (6,), "images": (1, 5, 5), "tokens": (4, 3)}
CASES = [
    ("residual", "inner"), ("residual", "outer"), ("images", "inner"), ("images", "outer"), ("tokens", "widen"),
    ("tokens", "narrow"), ("tokens", "attention.v_proj"), ("tokens", "attention.out_proj"),
]  # fmt: skip


@functools.cache
def setting(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network a little trained on noisy labels, in float64, and its data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = {"residual": Residual, "images": Images, "tokens": Tokens}[kind]().double()
        x = torch.randn(90, *SHAPES[kind], dtype=torch.float64)
        y = (x.flatten(1) @ torch.randn(x[0].numel(), 4).double() / 3 + torch.randn(90, 4)).argmax(1)
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(8):
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimiser.step()
    return model.eval().requires_grad_(False), x, y


def frozen_of(kind: str, name: str) -> FrozenLayer:
    model, x, y = setting(kind)
    layer = split_layers(model)[0][name]
    lie = Arrangement(int(name.startswith("attention")))
    return FrozenLayer(runner_of(model), layer, lie, list(Batches((x, y), 40)), CrossEntropy())


def parameter_of(model: nn.Module, name: str, action: Tensor) -> nn.Parameter:
    """In place: the layer's weight zero and its bias the action; the parameter that holds this bias."""
    parent, _, part = name.rpartition(".")
    if part == "v_proj":
        attention = model.get_submodule(parent)
        attention.in_proj_weight[8:] = 0
        attention.in_proj_bias[8:] = action
        return attention.in_proj_bias
    layer = model.get_submodule(name)
    layer.weight.zero_()
    layer.bias.copy_(action)
    return layer.bias


@dataclass(frozen=True)
class Oracle:
    """Scores (N, n), features (N, k), metric (n, n), and Jacobians (N, d, n) at an action."""

    scores: Tensor
    features: Tensor
    metric: Tensor
    jacobians: Tensor


def features_of(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """Mean patches or tokens, by forward hooks on the modules that torch has."""
    if name.endswith("v_proj"):
        return model.embed(x).tanh().mean(1)
    if name.endswith(
        "out_proj"
    ):  # the attention's output before its last projection: as if that were an identity
        bare = copy.deepcopy(model.attention)
        bare.out_proj.weight.copy_(torch.eye(4))
        bare.out_proj.bias.zero_()
        h = model.embed(x).tanh()
        return bare(h, h, h)[0].mean(1)
    seen: list[Tensor] = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    model(x)
    handle.remove()
    if isinstance(layer, nn.Conv2d):
        return F.unfold(seen[0], layer.kernel_size, padding=layer.padding).mean(2)
    return seen[0] if seen[0].ndim == 2 else seen[0].mean(1)


@functools.cache
def brute(kind: str, name: str) -> tuple[Tensor, Oracle]:
    model, x, y = setting(kind)
    frozen = frozen_of(kind, name)
    weight, bias = weight_matrix(frozen.layer)
    features = features_of(model, name, x)
    start = features.mean(0) @ weight.T + bias
    with undisturbed(model):
        action = frozen_action(frozen, start, torch.float64).action
    other = copy.deepcopy(model)
    held = parameter_of(other, name, action).requires_grad_()
    scores, metric, jacobians = [], 0, []
    for i in range(len(x)):
        outputs = other(x[i : i + 1])[0]
        rows = torch.stack([torch.autograd.grad(g, held, retain_graph=True)[0] for g in outputs])
        p = outputs.detach().softmax(0)
        rows = rows[:, -len(action) :]
        scores.append((p - F.one_hot(y[i], 4)) @ rows)
        metric = metric + rows.T @ (p.diag() - p.outer(p)) @ rows / len(x)
        jacobians.append(rows)
    return action, Oracle(torch.stack(scores), features, metric, torch.stack(jacobians))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_scores_and_metric_at_the_frozen_action(kind: str, name: str) -> None:
    action, wanted = brute(kind, name)
    assert wanted.scores.mean(0).norm() < 1e-8
    with undisturbed(setting(kind)[0]):
        rows = list(frozen_of(kind, name).rows(action))
        slope = frozen_of(kind, name).slope(action)
    torch.testing.assert_close(torch.cat([part.scores for part in rows]), wanted.scores, rtol=0, atol=1e-10)
    torch.testing.assert_close(slope.metric, wanted.metric, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_optimal_weight_and_gains_at_the_frozen_action(kind: str, name: str) -> None:
    action, wanted = brute(kind, name)
    model, x, y = setting(kind)
    view = quiet(model, (x, y), at="bayes", layers=[name], batch_size=40)[name].view("bayes")
    f = wanted.features - wanted.features.mean(0)
    cross, covariance = wanted.scores.T @ f / len(f), f.T @ f / len(f)
    values, vectors = torch.linalg.eigh(wanted.metric)
    kept = values > 1e-12 * values.max()
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    best = -inverse @ cross @ torch.linalg.pinv(covariance, rcond=1e-11)
    found = view.optimal_weight.flatten(1)
    torch.testing.assert_close(found, best, rtol=0, atol=1e-8 * best.abs().max().item())
    gain = 0.5 * torch.trace(inverse @ cross @ torch.linalg.pinv(covariance, rcond=1e-11) @ cross.T)
    assert view.gain_available == pytest.approx(gain.item(), rel=1e-8)
    assert (view.remark == "") == (int(kept.sum()) == len(action))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if not case[1].startswith("attention")])
def test_the_metric_is_the_gauss_newton_matrix_of_curvlinops(kind: str, name: str) -> None:
    """Of the bias, in a copy whose weight is zero: its derivative is that of the frozen output."""
    action, _ = brute(kind, name)
    model, x, y = setting(kind)
    other = copy.deepcopy(model)
    bias = parameter_of(other, name, action).requires_grad_()
    operator = GGNLinearOperator(other, nn.CrossEntropyLoss(), [bias], [(x, y)])
    wanted = operator @ torch.eye(len(action), dtype=torch.float64)
    with undisturbed(model):
        found = frozen_of(kind, name).slope(action).metric
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_mean_jacobian(kind: str, name: str) -> None:
    """By moving the bias of a copy of the model as it is."""
    model, x, _ = setting(kind)
    frozen = frozen_of(kind, name)
    with undisturbed(model):
        found = mean_jacobians(frozen.run, {name: frozen.layer}, {name: frozen.lie}, frozen.batches)[name]
    other = copy.deepcopy(model)
    held = other.attention.in_proj_bias if name.endswith("v_proj") else other.get_submodule(name).bias
    held.requires_grad_()
    mean = other(x).mean(0)
    wanted = torch.stack([torch.autograd.grad(g, held, retain_graph=True)[0] for g in mean])
    wanted = wanted[:, -found.mean.shape[1] :]
    torch.testing.assert_close(found.mean, wanted, rtol=1e-9, atol=1e-13)
    whole = sum(found.weights[i] * found.parts[i] for i in range(len(found.weights)))
    torch.testing.assert_close(found.mean, whole)


def test_random_directions_estimate_the_mean_jacobian_and_its_error() -> None:
    torch.manual_seed(0)
    model = Residual(classes=40)
    x, y = torch.randn(160, 6), torch.randint(0, 40, (160,))
    assert 0 < quiet(model, (x, y), layers="inner")["inner"].view("jacobian").tail_error < 1
    layers = split_layers(model)[0]
    run, lies = runner_of(model), dict.fromkeys(layers, Arrangement())
    with undisturbed(model):
        found = [
            mean_jacobians(run, layers, lies, list(Batches((x, y), 100)), seed)["inner"] for seed in range(5)
        ]
    assert found[0].directions == 8
    mean = torch.stack([one.mean for one in found])
    bias = model.inner.bias
    wanted = torch.stack(
        [torch.autograd.grad(g, bias, retain_graph=True)[0] for g in model(x).mean(0)]
    ).double()
    spread = mean.var(0, correction=1).sum().sqrt()
    assert (mean.mean(0) - wanted).norm() < 3 * spread / math.sqrt(len(found)) + 1e-6
    groups = (
        torch.stack([(one.parts - one.mean).square().sum((1, 2)).mean() / 7 for one in found]).mean().sqrt()
    )
    assert groups == pytest.approx(spread.item(), rel=0.5)


def test_a_road_that_carries_nothing_changes_nothing() -> None:
    """With the other road cut to rounding, the layer's numbers are those of a layer on the only road."""
    torch.manual_seed(0)
    x, y = torch.randn(300, 6, dtype=torch.float64), torch.randint(0, 4, (300,))

    class Skip(nn.Module):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.layer, self.head, self.share = nn.Linear(6, 3), nn.Linear(3, 4), share

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x).asinh()) + self.share * x[:, :4]  # type: ignore[no-any-return]

    only, beside = Skip(0.0).double(), Skip(2e-4).double()
    beside.load_state_dict(only.state_dict())
    found, wanted = (quiet(model, (x, y), at="bayes")["layer"] for model in (beside, only))
    assert (found.status, wanted.status) == ("bypassed", "analysed")
    for name in ("alignment", "scale", "gain_available", "gain_used", "gap_weight", "constant_loss"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=0.05, abs=1e-4)


def test_other_layers_do_not_change_what_is_said_of_one() -> None:
    model, x, y = setting("residual")
    whole = quiet(model, (x, y), at="bayes")
    for name in ("stem", "inner", "outer", "head"):
        alone = quiet(model, (x, y), at="bayes", layers=name)[name]
        assert alone.views == whole[name].views


def test_an_added_road_changes_nothing_for_the_others() -> None:
    """A bypassed layer that puts out zero leaves every number of the other layers where it was."""
    torch.manual_seed(0)

    class Grown(nn.Module):
        def __init__(self, grown: bool) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4)
            self.more = nn.Linear(5, 5) if grown else None

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).tanh()
            return self.last(x if self.more is None else x + self.more(x))  # type: ignore[no-any-return]

    plain, grown = Grown(False), Grown(True)
    grown.load_state_dict(plain.state_dict(), strict=False)
    nn.init.zeros_(grown.more.weight)
    nn.init.zeros_(grown.more.bias)
    data = torch.randn(200, 6), torch.randint(0, 4, (200,))
    one, two = quiet(plain, data), quiet(grown, data)
    assert two["more"].status == "bypassed"
    assert all(one[name].views == two[name].views for name in ("first", "last"))


def test_keys_of_attention_have_no_constant_effect() -> None:
    model, x, y = setting("tokens")
    view = quiet(model, (x, y), layers="attention.k_proj")["attention.k_proj"].view("jacobian")
    assert math.isnan(view.alignment)
    assert "changes nothing" in view.remark


def test_a_step_towards_the_optimum_does_what_is_said_early_in_training() -> None:
    torch.manual_seed(0)
    model = Residual().double()
    x = torch.randn(400, 6, dtype=torch.float64)
    y = (x @ torch.randn(6, 4).double()).argmax(1)
    for name in ("inner", "outer"):
        predicted, measured = quiet(model, (x, y))[name].view("jacobian").step
        assert predicted < 0
        assert measured == pytest.approx(predicted, rel=0.5)


def test_a_report_with_these_views_is_read_back(tmp_path: object) -> None:
    model, x, y = setting("residual")
    report = quiet(model, (x, y), at="bayes")
    report.save(f"{tmp_path}/r.json")
    assert fg.Report.load(f"{tmp_path}/r.json")["inner"].views == report["inner"].views

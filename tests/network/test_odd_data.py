"""Data and models at the edge of what can be analysed: said, bounded, and never NaN."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import featgeo as fg
from tests.network.models import Asinh, blobs, digits, dressed, mlp, numbers, quiet, train


def float_blobs(seed: int = 0, **options: int) -> tuple[Tensor, Tensor]:
    x, y = blobs(seed, **options)
    return x.float(), y


def assert_finite(report: fg.Report) -> None:
    for layer in report.analysed:
        for view in layer.views.values():
            values = [getattr(view, f.name) for f in fields(view) if isinstance(getattr(view, f.name), float)]
            assert all(map(math.isfinite, [*values, *view.spectrum])), (layer.name, view)
            assert view.optimal_weight is not None
            assert view.optimal_bias is not None
            assert torch.isfinite(view.optimal_weight).all()
            assert torch.isfinite(view.optimal_bias).all()


def test_an_absent_class_is_said_and_costs_nothing() -> None:
    torch.manual_seed(0)
    x, y = float_blobs(classes=3)
    model = train(mlp(6, 5, 4, activation=Asinh), x, y, 100)
    report = quiet(model, (x, y))
    assert report.warnings == ("data: classes [3] are absent; nothing is said about them.",)
    assert_finite(report)
    narrow = mlp(6, 5, 3, activation=Asinh)
    narrow[0].load_state_dict(model[0].state_dict())
    with torch.no_grad():
        narrow[2].weight.copy_(model[2].weight[:3])
        narrow[2].bias.copy_(model[2].bias[:3])
    without = quiet(narrow, (x, y))
    assert report.constant_loss == pytest.approx(without.constant_loss, rel=1e-6)
    assert report["2"].gain_available == pytest.approx(without["2"].gain_available, rel=1e-5)
    assert report["2"].alignment == pytest.approx(without["2"].alignment, rel=1e-4)
    np.testing.assert_allclose(report["2"].spectrum[:2], without["2"].spectrum[:2], rtol=1e-4)


def test_one_class_only_is_an_error() -> None:
    x, y = float_blobs()
    with pytest.raises(fg.FeatgeoError, match=r"one class only \(class 2\).*two classes"):
        fg.analyze(mlp(6, 5, 4), (x, torch.full_like(y, 2)))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, [0.2, 0.3, 0.5]])
@pytest.mark.parametrize("loss", ["mse", "bce", "poisson", nn.HuberLoss()])
def test_targets_that_do_not_vary_are_an_error(loss: str | nn.Module, value: float | list[float]) -> None:
    target = torch.tensor(value).expand(300, 3)
    with pytest.raises(fg.FeatgeoError, match="data: found targets that do not vary"):
        quiet(mlp(6, 5, 3), (float_blobs()[0], target), loss)


def test_soft_labels_that_do_not_vary_are_an_error() -> None:
    for soft, message in (([0.2, 0.3, 0.5], "targets that do not vary"), ([0.0, 1.0, 0.0], "one class only")):
        with pytest.raises(fg.FeatgeoError, match=message):
            quiet(mlp(6, 5, 3), (float_blobs()[0], torch.tensor(soft).expand(300, 3)))


def test_one_output_that_does_not_vary_is_no_error() -> None:
    x, _ = float_blobs()
    target = torch.stack([x[:, 0], torch.full((len(x),), 0.3)], dim=1)
    layer = quiet(nn.Sequential(nn.Linear(6, 2)), (x, target), "mse")["0"]
    assert layer.significant == 1


@pytest.mark.parametrize("loss", ["bce", "poisson"])
def test_one_output_with_constant_zeros_is_said(loss: str) -> None:
    x, y = float_blobs(classes=3)
    target = F.one_hot(y, 4).float()
    with pytest.warns(
        fg.FeatgeoWarning, match=r"outputs \[3\] have constant targets; their Bayes action is infinite"
    ):
        report = fg.analyze(nn.Sequential(nn.Linear(6, 4)), (x, target), loss)
    assert_finite(report)


def test_one_sample_and_two() -> None:
    x, y = torch.randn(2, 6), torch.randn(2, 3)
    with pytest.raises(fg.FeatgeoError, match="targets that do not vary"):
        fg.analyze(mlp(6, 5, 3), (x[:1], y[:1]), "mse")
    report = quiet(mlp(6, 5, 3), (x, y), "mse")
    assert [(layer.significant, layer.gain_adjusted) for layer in report] == [(0, 0), (0, 0)]
    assert all("2 samples for" in layer.warnings[0] for layer in report)


@pytest.mark.parametrize(
    ("samples", "width", "classes"), [(30, 50, 4), (50, 200, 10), (200, 5, 3), (200, 2, 6)]
)
def test_gain_stays_below_its_bound(samples: int, width: int, classes: int) -> None:
    """At most ½ min(k, |Y|-1) nats, also where samples can be told apart perfectly."""
    x, y = float_blobs(count=samples, width=width, classes=classes)
    for features in (x, 1e3 * x + 1e4, F.one_hot(y, width).float() if classes <= width else x):
        report = quiet(nn.Sequential(nn.Linear(width, classes)), (features, y))
        bound = 0.5 * min(width, classes - 1)
        assert report["0"].gain_available <= bound * (1 + 1e-5)
        assert max(report["0"].spectrum) <= 1 + 1e-5
        if samples < width:
            assert report["0"].gain_available == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("samples", "width"), [(50, 200), (100, 100), (30, 40)])
def test_noise_with_fewer_samples_than_features_is_no_signal(samples: int, width: int, soft: bool) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        x, y = torch.randn(samples, width), torch.randint(0, 5, (samples,))
        target = torch.randn(samples, 5).softmax(1) if soft else y
        with pytest.warns(
            fg.FeatgeoWarning, match=rf"{samples} samples for {width} features; gain cannot be told"
        ):
            report = fg.analyze(nn.Sequential(nn.Linear(width, 5)), (x, target))
        layer = report["0"]
        assert layer.gain_available > 0.9 * 0.5 * sum(np.square(layer.spectrum))
        assert layer.significant == 0
        assert layer.gain_adjusted == 0
        assert layer.rank(0.99) == 0
        assert "gain cannot be told from noise" in layer.warnings[0]
        assert "no mode stands above the noise" in [finding.title for finding in report.findings]


def test_noise_with_more_samples_than_features() -> None:
    """The floor is a 5 % level: of 60 draws at most 8 may exceed it (chance 1 %); the adjusted gain has no bias."""
    significant, adjusted, available = [], [], []
    for seed in range(60):
        torch.manual_seed(seed)
        layer = quiet(nn.Sequential(nn.Linear(20, 5)), (torch.randn(150, 20), torch.randint(0, 5, (150,))))[
            "0"
        ]
        significant.append(layer.significant > 0)
        adjusted.append(layer.gain_adjusted)
        available.append(layer.gain_available)
    assert sum(significant) <= 8
    assert np.mean(available) > 0.2
    assert np.mean(adjusted) < 0.1 * np.mean(available)


def test_signal_survives_the_floor() -> None:
    x, y = float_blobs(count=400)
    layer = quiet(nn.Sequential(nn.Linear(6, 4)), (x, y))["0"]
    assert layer.significant == 3
    assert layer.gain_adjusted > 0.9 * layer.gain_available


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_constant_and_duplicated_features_change_nothing(offset: float) -> None:
    x, y = float_blobs()
    extended = (
        torch.cat([x, x[:, :2], torch.full((len(x), 1), 7.0), 2 * x[:, :1] - x[:, 1:2]], dim=1) + offset
    )
    plain, fuller = nn.Sequential(nn.Linear(6, 4)), nn.Sequential(nn.Linear(10, 4))
    with torch.no_grad():
        fuller[0].weight.zero_()[:, :6] = plain[0].weight
        fuller[0].bias.copy_(plain[0].bias - offset * plain[0].weight.sum(1))
    wanted = quiet(plain, (x, y))["0"]
    with pytest.warns(fg.FeatgeoWarning, match="its 10 features have rank 6"):
        report = fg.analyze(fuller, (extended, y))
    found = report["0"]
    assert found.feature_rank == 6
    for name in ("alignment", "gain_available", "gain_used", "gain_adjusted", "noise_floor", "scale"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=2e-3), name
    assert_finite(report)
    assert "features are rank-deficient" in [finding.title for finding in report.findings]


def test_features_of_low_rank_in_float32() -> None:
    """Rank 64 in 512 dimensions: the gain on the true subspace in float64; a tiny cut-off is far off."""
    torch.manual_seed(0)
    latent, y = blobs(0, count=3000, width=64, classes=10, spread=0.3)
    x = (latent @ torch.randn(64, 512, dtype=torch.float64)).float()
    layer = quiet(nn.Sequential(nn.Linear(512, 10)), (x, y))["0"]
    centred, target = (latent - latent.mean(0)).numpy(), F.one_hot(y).double()
    q = np.linalg.qr(centred)[0]
    share = target.mean(0).numpy()
    wanted = 0.5 * (((q.T @ (target.numpy() - share)) ** 2).sum(0) / share).sum() / len(y)
    assert layer.feature_rank == 64
    assert layer.gain_available == pytest.approx(wanted, rel=1e-3)
    rows = (x - x.mean(0)).numpy()
    naive = np.linalg.pinv(rows.T @ rows / len(y), rcond=1e-9, hermitian=True)
    cross = (target.numpy() - share).astype(np.float32).T @ rows / len(y)
    assert abs(0.5 * np.einsum("yi,ij,yj,y->", cross, naive, cross, 1 / share) / wanted - 1) > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_half_precision(kind: str, dtype: torch.dtype) -> None:
    """As the float32 model with the same (rounded) weights, to the precision of the activations."""
    torch.manual_seed(0)
    x, y = digits()
    x, y = (x[:500], y[:500]) if kind == "mlp" else (x[:500].reshape(-1, 1, 8, 8), y[:500])
    half = train(mlp(64, 12, 10, activation=Asinh) if kind == "mlp" else dressed(), x, y, 60).to(dtype)
    full = copy.deepcopy(half).float()
    report, wanted = quiet(half, (x, y)), quiet(full, (x.to(dtype), y))
    assert {p.dtype for p in half.parameters()} == {dtype}
    assert report.loss_value == pytest.approx(wanted.loss_value, rel=0.02)
    for layer in report.analysed:
        other = wanted[layer.name]
        assert (
            (layer.status, set(layer.views))
            == (other.status, set(other.views))
            == ("analysed", {"average", "bayes"})
        )
        for at in layer.views:
            one, two = layer.view(at), other.view(at)
            assert one.alignment == pytest.approx(two.alignment, abs=0.03)
            assert one.gain_available == pytest.approx(two.gain_available, rel=0.03)
            assert one.optimal_weight is not None
            assert one.optimal_weight.dtype == dtype
        kinds = {
            text for text in ("saturation", "converge", "cannot reach", "rank") if text in str(other.warnings)
        }
        assert not [text for text in layer.warnings if not any(kind in text for kind in kinds)]


def test_what_many_layers_have_in_common_is_warned_of_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(part for _ in range(4) for part in (nn.Linear(30, 30), nn.Tanh())), nn.Linear(30, 3)
    )
    with pytest.warns(fg.FeatgeoWarning) as caught:
        report = fg.analyze(model, (torch.randn(20, 30), torch.arange(20) % 3))
    assert sum("20 samples for 30 features" in text for layer in report for text in layer.warnings) == 5
    told = [str(item.message) for item in caught if "20 samples for 30 features" in str(item.message)]
    assert len(told) == 1
    assert "4 more layers" in told[0]


def test_memory_that_a_loader_or_a_model_uses_again() -> None:
    """Batches wait for one product: they must not change meanwhile."""
    torch.manual_seed(0)
    x, y = blobs(0, count=240)
    net = mlp(6, 5, 4, dtype=torch.float64)

    class Loader:
        def __init__(self) -> None:
            self.x, self.y = np.zeros((30, 6)), np.zeros(30, dtype=np.int64)

        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # type: ignore[type-arg]
            for inputs, labels in zip(x.split(30), y.split(30), strict=True):
                self.x[:], self.y[:] = inputs.numpy(), labels.numpy()
                yield self.x, self.y

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.made = net, torch.zeros(30, 4, dtype=torch.float64)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.made[: len(inputs)].copy_(self.net(inputs))

    wanted = quiet(net, (x, y), batch_size=30)
    assert numbers(quiet(net, Loader())) == numbers(wanted)
    again = quiet(Model(), (x, y), batch_size=30)
    assert again.loss_value == pytest.approx(wanted.loss_value, rel=1e-12)
    assert again["net.0"].gain_available == pytest.approx(wanted["0"].gain_available, rel=1e-9)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_batch_of_ignored_labels_only_counts_for_nothing(batch: int) -> None:
    torch.manual_seed(0)
    x, y = blobs(0, count=160)
    model = mlp(6, 5, 4, dtype=torch.float64)
    y[40 * batch : 40 * (batch + 1)] = -100
    report, wanted = (quiet(model, part, batch_size=40) for part in ((x, y), (x[y >= 0], y[y >= 0])))
    assert report.samples == 120
    assert report["2"].is_output
    for name in ("0", "2"):
        assert report[name].gain_available == pytest.approx(wanted[name].gain_available, rel=1e-9)
        assert report[name].alignment == pytest.approx(wanted[name].alignment, rel=1e-9)


@pytest.mark.parametrize(
    ("last", "fault"), [(nn.Softmax(1), True), (nn.LogSoftmax(1), False), (nn.ReLU(), False)]
)
def test_probabilities_where_logits_are_wanted_are_said(last: nn.Module, fault: bool) -> None:
    torch.manual_seed(0)
    report = quiet(nn.Sequential(mlp(6, 5, 4), last), float_blobs())
    assert any("cross_entropy takes logits" in text for text in report.warnings) == fault


class Detached(nn.Module):
    """An encoder that is run without gradients, as frozen ones are; a road beside its second layer where asked."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 4)
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.first(x).tanh()
            h = self.second(h) + (h if self.beside else 0)
        return self.head(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_to_which_no_gradient_flows_back(beside: bool, frozen: bool) -> None:
    torch.manual_seed(0)
    model = Detached(beside).requires_grad_(not frozen)
    report = quiet(model, float_blobs(), at="bayes", steps=True)
    (told,) = (text for text in report["first"].warnings if "no gradient comes back to it" in text)
    assert "torch.no_grad() or calls detach()" in told
    assert "take that away" in told
    average = report["first"].view("average")
    assert -1 <= average.alignment <= 1
    assert average.gain_available > 0
    assert report["head"].is_output
    report.summary()


class Beacon(nn.Module):
    """A layer that reads a constant of so many rows, whatever the sample."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.first, self.fixed, self.last = nn.Linear(6, 4), nn.Linear(5, 4), nn.Linear(4, 2)
        self.register_buffer("constant", torch.randn(rows, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x) + self.fixed(self.constant).mean(0)).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_a_layer_that_reads_a_constant_is_found_from_one_sample_on(samples: int) -> None:
    """As many rows as there are samples in a batch: counting them does not tell."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 6), torch.randn(12, 2)
    report = quiet(Beacon(samples), (x, y), "mse", batch_size=samples)
    assert report["fixed"].reason == "its input has not one row per sample"
    assert report["first"].status == "analysed"


@pytest.mark.parametrize("call", [fg.analyze, fg.solve_head, fg.rank_layers, fg.suggest_widths])
def test_weights_without_values_are_named(call: Callable[..., object]) -> None:
    with torch.device("meta"):
        model = mlp(6, 5, 4)
    with pytest.raises(fg.FeatgeoError, match=r"model: found '0.weight' on the meta device.*load_state_dict"):
        call(model, float_blobs())
    with pytest.raises(fg.FeatgeoError, match="on the meta device"):
        fg.compress(model, float_blobs(), budget=0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize:UserWarning")
def test_quantised_layers_say_what_to_pass() -> None:
    model = torch.ao.quantization.quantize_dynamic(mlp(6, 5, 4), {nn.Linear})
    for call in (fg.analyze, fg.solve_head, fg.suggest_widths):
        with pytest.raises(fg.FeatgeoError, match=r"0, 2 \(Linear is quantised.*before quantize_dynamic"):
            call(model, float_blobs())
    half = nn.Sequential(model, nn.Linear(4, 4))
    assert "before quantize_dynamic" in quiet(half, float_blobs())["0.0"].reason

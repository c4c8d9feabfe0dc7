"""Rankings of networks and layers: their features by a plain route, order, skips, the model left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from tests.network.models import digits

METHODS = ("crossfit", "logme")


class Net(nn.Module):
    """A small CNN with dropout, batch normalisation, a layer that is never called and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = (
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 12, 3, stride=2),
        )
        self.shared, self.idle, self.drop = nn.Linear(12, 12), nn.Linear(5, 5), nn.Dropout(0.5)
        self.fc = nn.Linear(12, 10)

    def hidden(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = torch.relu(self.norm(self.conv1(x.reshape(-1, 1, 8, 8))))
        b = self.conv2(a).mean((2, 3))
        return a, b, torch.tanh(self.shared(torch.tanh(self.shared(b))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.hidden(x)[2]))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().train()


def data(count: int = 400) -> tuple[Tensor, Tensor]:
    x, y = digits()
    return x[:count], y[:count]


def test_features_are_what_enters_the_layers(net: Net) -> None:
    x, y = data()
    found, targets, skipped = fg.layer_features(net, (x, y), batch_size=64)
    net.eval()
    with torch.no_grad():
        a, b, last = net.hidden(x)
        twice = (b + torch.tanh(net.shared(b))) / 2
        expected = {"conv1": x.mean(1, keepdim=True), "conv2": a.mean((2, 3)), "shared": twice, "fc": last}
        expected["(output)"] = net(x)
    assert list(found) == list(expected)
    for name, rows in expected.items():
        assert torch.allclose(found[name], rows, atol=1e-5), name
    assert torch.equal(targets, y)
    assert skipped["idle"] == "never called"
    assert "BatchNorm2d" in skipped["norm"]


def test_tokens_are_averaged_without_padding() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.fc(self.embed(ids)).mean(1)

    torch.manual_seed(0)
    model, ids = Tokens(), torch.randint(0, 9, (20, 5))
    mask = torch.arange(5) < torch.randint(1, 6, (20, 1))
    batches = [{"ids": ids, "attention_mask": mask, "labels": torch.arange(20) % 3}]
    found = fg.layer_features(model, batches)[0]["fc"]
    rows = [model.embed(one[keep]).mean(0) for one, keep in zip(ids, mask, strict=True)]
    assert torch.allclose(found, torch.stack(rows), atol=1e-6)


def test_layers_are_ranked_and_the_model_is_left_alone(net: Net) -> None:
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    seed = torch.get_rng_state()
    ranking = fg.rank_layers(net, data(), methods=METHODS)
    assert list(ranking.scores) == ["conv1", "conv2", "shared", "fc", "(output)"]
    frame = ranking.to_frame()
    assert frame["crossfit"].is_monotonic_decreasing
    assert ranking.best == frame.index[0]
    assert frame.loc["conv2", "features"] == 6
    features = fg.layer_features(net, data())[0]["conv2"]
    single = fg.transfer_score(features, data()[1], "logme")
    assert frame.loc["conv2", "logme"] == pytest.approx(single.value, rel=1e-9)
    assert frame.loc["conv2", "logme se"] == pytest.approx(single.standard_error, rel=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.equal(torch.get_rng_state(), seed)


def test_little_memory_gives_the_same(net: Net) -> None:
    whole = fg.rank_layers(net, data()).to_frame(sort=False)
    parts = fg.rank_layers(net, data(), memory=4 * 400 * 8).to_frame(sort=False)
    assert parts.equals(whole)


def test_networks_of_every_kind_are_ranked(net: Net) -> None:
    x, y = data()
    models = {"pixels": x, "net": net, "fc": (net, "fc"), "half": lambda inputs: inputs[:, :32]}
    ranking = fg.rank_models(models, (x, y), methods=("crossfit", "leep", "nce"))
    frame = ranking.to_frame()
    assert frame.index[0] == "pixels"
    for name, features in (("pixels", x), ("half", x[:, :32])):
        assert frame.loc[name, "crossfit"] == pytest.approx(fg.transfer_score(features, y).value, rel=1e-9)
        assert "leep" in ranking.skipped[name]
    net.eval()
    with torch.no_grad():
        source = net(x).softmax(1)
    assert frame.loc["fc", "leep"] == pytest.approx(
        fg.transfer_score(None, y, "leep", source=source).value, rel=1e-5
    )
    assert frame["nce"].notna().sum() == 2
    assert "pixels" in str(ranking)


def test_a_plot_has_a_row_for_every_set(net: Net) -> None:
    ranking = fg.rank_layers(net, data(), methods=METHODS)
    figure = ranking.plot("logme")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ranking.scores)
    assert list(axes.lines[0].get_xdata()) == [found["logme"].value for found in ranking.scores.values()]
    with pytest.raises(fg.FeatgeoError, match="This ranking has: crossfit, logme"):
        ranking.plot("gbc")


def test_nan_in_one_layer_is_a_named_skip() -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.side, self.fc = nn.Linear(64, 8), nn.Linear(64, 8), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.first(x) + 0 * torch.nan_to_num(self.side((x - 0.5).sqrt())))

    torch.manual_seed(0)
    ranking = fg.rank_layers(Bad(), data())
    assert "NaN" in ranking.skipped["side"]
    assert {"first", "fc"} <= set(ranking.scores)


def test_a_model_in_half_precision_gives_float_features(net: Net) -> None:
    half = copy.deepcopy(net).to(torch.bfloat16)
    found, _, _ = fg.layer_features(half, data())
    assert {rows.dtype for rows in found.values()} == {torch.float32}
    exact = fg.rank_layers(net, data()).scores["fc"]["crossfit"].value
    assert fg.rank_layers(half, data()).scores["fc"]["crossfit"].value == pytest.approx(exact, rel=0.1)


def test_an_interrupt_leaves_the_model_alone(net: Net) -> None:
    class Stopped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            self.net(x)
            raise KeyboardInterrupt

    model = Stopped().train()
    with pytest.raises(KeyboardInterrupt):
        fg.rank_layers(model, data())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_samples_ends_the_pass_early() -> None:
    x, y = data()
    seen = []

    class Batches:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, len(x), 50):
                seen.append(start)
                yield x[start : start + 50], y[start : start + 50]

    found = fg.rank_models({"pixels": nn.Identity()}, Batches(), samples=120)
    assert found.scores["pixels"]["crossfit"].samples == 120
    assert len(seen) == 3


def broken() -> Iterator[tuple[Tensor, Tensor]]:
    x, y = data(60)
    yield x, y
    raise OSError("disk")


def test_bad_input_is_named(net: Net) -> None:
    x, y = data()
    cases = [
        (lambda: fg.rank_layers(net, (x, y), methods="leep"), "use rank_models"),
        (lambda: fg.rank_layers(net, (x, y), methods=()), "Name one"),
        (lambda: fg.rank_layers(net, (x, y), layers="nothing"), "Known modules"),
        (lambda: fg.rank_layers(net, broken()), "disk"),
        (lambda: fg.rank_layers(lambda x: x, (x, y)), "torch.nn.Module"),
        (lambda: fg.rank_models({}, (x, y)), "at least one network"),
        (lambda: fg.rank_models({"short": x[:9]}, (x, y)), r"models\['short'\]: targets"),
        (lambda: fg.rank_models({"net": (net, "idle")}, (x, y)), "never called"),
        (lambda: fg.rank_models({"net": net}, (x, y.float())), "integer labels"),
        (lambda: fg.layer_features(net, (x, y), samples=0), "at least 1"),
        (lambda: fg.rank_layers(net, []), "no batch"),
        (lambda: fg.rank_layers(net, [(x, y), (x[:, :30], y)]), "batch 1"),
        (lambda: fg.rank_models({"nan": lambda b: b / 0}, (x, y)), r"models\['nan'\]: features: found NaN"),
    ]
    for call, message in cases:
        with pytest.raises(fg.FeatgeoError, match=message):
            call()
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())

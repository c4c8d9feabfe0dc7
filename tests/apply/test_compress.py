"""compress(): what it returns, how good it is, what it leaves alone."""

from __future__ import annotations

import copy
import functools
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import featgeo as fg
from featgeo.apply.factor import find_layers
from featgeo.network.layers import weight_matrix

from .networks import cnn, digits, loss_of, mlp

TRAIN, TEST = digits()


@functools.cache
def small(budget: float, network: Callable[[], nn.Sequential] = mlp) -> fg.Compression:
    return fg.compress(network(), TRAIN, budget=budget)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def plain_svd(model: nn.Module, ranks: dict[str, int], whitened: bool) -> nn.Module:
    """The peers at the same ranks: truncation of W, or of W Σ^½ by numpy-like steps of their own."""
    cut, inputs = copy.deepcopy(model), TRAIN[0]
    for name, layer in model.named_modules():
        if name in ranks:
            rows = model[: int(name)](inputs).detach().double()
            weight, bias = weight_matrix(layer)
            centre = rows.mean(0) if whitened else torch.zeros(rows.shape[1]).double()
            values, vectors = torch.linalg.eigh((rows - centre).T @ (rows - centre) / len(rows))
            keep = values > 1e-9 * values.max()
            root = vectors[:, keep] * values[keep].sqrt() if whitened else torch.eye(len(values)).double()
            left, singular, right = torch.linalg.svd(weight @ root, full_matrices=False)
            rank = ranks[name]
            low = (left[:, :rank] * singular[:rank]) @ right[:rank] @ torch.linalg.pinv(root)
            target = cut.get_submodule(name)
            target.weight.data.copy_(low)
            target.bias.data.copy_(bias + (weight - low) @ centre)
    return cut


@pytest.mark.parametrize("budget", [0.2, 0.3, 0.5, 0.8])
def test_counts_are_exact_and_within_the_budget(budget: float) -> None:
    found = small(budget)
    assert found.parameters == (parameters(mlp()), parameters(found.model))
    assert found.considered == found.parameters  # every parameter of this network belongs to such a layer
    assert found.ratio <= budget
    assert found.ratio == found.parameters[1] / found.parameters[0]
    assert f"{found.parameters[1]:,} of {found.parameters[0]:,}" in str(found)
    assert found.loss_after == pytest.approx(loss_of(found.model, TRAIN), rel=1e-5)
    assert found.loss_before == pytest.approx(loss_of(mlp(), TRAIN), rel=1e-5)
    frame = found.to_frame()
    assert frame["after"].sum() == found.parameters[1]
    assert set(frame["status"]) <= {"cut", "dense"}


@pytest.mark.parametrize("budget", [0.2, 0.3, 0.5])
def test_better_than_plain_and_whitened_at_the_same_ranks(budget: float) -> None:
    found = small(budget)
    for whitened in (False, True):
        peer = plain_svd(mlp(), found.ranks, whitened)
        assert loss_of(found.model, TEST) < loss_of(peer, TEST)


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("budget", [0.35, 0.5, 0.65, 0.8])
def test_predicted_and_measured_within_a_factor_of_two(
    network: Callable[[], nn.Sequential], budget: float
) -> None:
    found = small(budget, network)
    pairs = [(row.predicted, row.measured) for row in found.layers if row.status == "cut"]
    checked = 0
    for predicted, measured in [*pairs, (found.predicted, found.truncated)]:
        if 1e-4 * found.loss_before < measured < 0.1 * found.loss_before:
            assert 0.5 < predicted / measured < 2
            checked += 1
    assert checked or budget < 0.5


def test_a_layer_of_low_rank_costs_nothing() -> None:
    model = copy.deepcopy(mlp())
    weight = model[0].weight.data
    left, values, right = torch.linalg.svd(weight)
    weight.copy_(left[:, :8] * values[:8] @ right[:8])
    found = fg.compress(model, TRAIN, budget=0.6)
    assert found.ranks["0"] == 8
    assert found.loss_after == pytest.approx(found.loss_before, rel=0.02)
    assert dict(found.to_frame()["predicted"])["0"] == pytest.approx(0, abs=1e-5 * found.loss_before)


def test_the_refit_helps() -> None:
    without = fg.compress(mlp(), TRAIN, budget=0.25, refit=False)
    assert loss_of(small(0.25).model, TEST) < loss_of(without.model, TEST)
    alone = fg.compress(mlp(), TRAIN, budget=0.25, search=False)
    assert small(0.25).loss_after <= alone.loss_after


def test_limit_of_the_loss() -> None:
    found = fg.compress(mlp(), TRAIN, max_loss_increase=0.01)
    assert found.loss_after <= found.loss_before + 0.01
    assert found.ratio < 0.45


def test_whole_number_is_the_whole_model() -> None:
    found = fg.compress(cnn(), TRAIN, budget=6000, layers=["6"])
    assert found.parameters[1] <= 6000
    assert list(found.ranks) == ["6"]
    assert isinstance(found.model[6], nn.Sequential)
    assert found.considered[0] == 384 * 24 + 24


def snapshot(model: nn.Module) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return {
        "state": buffer.getvalue(),
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "grads": [None if p.grad is None else p.grad.clone().tolist() for p in model.parameters()],
        "random": torch.get_rng_state().tolist(),
        "needs": [p.requires_grad for p in model.parameters()],
        "modules": [id(m) for m in model.modules()],
    }


def test_the_model_is_left_alone_even_on_failure() -> None:
    model = copy.deepcopy(cnn()).train()
    model[3].eval()
    model[1].weight.requires_grad_(False)
    model(TRAIN[0][:5]).sum().backward()
    before = snapshot(model)
    found = fg.compress(model, TRAIN, budget=0.5, search=False)
    assert snapshot(model) == before
    assert found.model.training
    assert not found.model[3].training
    assert not any(m.training for m in found.model[3].modules())
    assert all(p.grad is None for p in found.model.parameters())
    with pytest.raises(fg.FeatgeoError):
        fg.compress(model, (TRAIN[0][:, :9], TRAIN[1]), budget=0.5)
    assert snapshot(model) == before


@pytest.mark.parametrize("network", [mlp, cnn])
def test_exports(network: Callable[[], nn.Sequential], tmp_path: Path) -> None:
    model, x = small(0.5, network).model, TEST[0][:4]
    exported = torch.export.export(model, (x,))
    assert torch.allclose(exported.module()(x), model(x), atol=1e-5)
    small(0.5, network).save(tmp_path / "small.safetensors")
    again = fg.load_compressed(copy.deepcopy(network()), tmp_path / "small.safetensors")
    assert torch.equal(again(x), model(x))


@pytest.mark.filterwarnings("ignore")
def test_onnx(tmp_path: Path) -> None:
    model, x = small(0.5).model, TEST[0][:4]
    torch.onnx.export(model, (x,), tmp_path / "small.onnx", dynamo=True, verbose=False)
    graph = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(graph)
    answer = onnx.reference.ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: x.numpy()})[0]
    assert torch.allclose(torch.tensor(answer), model(x), atol=1e-5)


@pytest.mark.parametrize("loss", ["mse", "bce", "poisson", nn.HuberLoss()])
def test_other_losses(loss: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 12, generator=generator)
    y = (x[:, :3] + x[:, 3:6]).sigmoid().round() if loss == "bce" else (x[:, :3] * 2).exp().clamp_max(4)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))
    criterion = {"mse": nn.MSELoss(), "bce": nn.BCEWithLogitsLoss(), "poisson": nn.PoissonNLLLoss()}
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        value = criterion[loss](model(x), y) if isinstance(loss, str) else loss(model(x), y)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    found = fg.compress(model, (x, y), loss, budget=0.6)
    constant = copy.deepcopy(model)
    constant[4].weight.data.zero_()
    assert found.loss_after < found.loss_before + 0.1 * abs(found.loss_before) + 1e-3


def test_gradients_reach_the_thin_layers() -> None:
    model = copy.deepcopy(small(0.3).model)
    nn.functional.cross_entropy(model(TRAIN[0][:64]), TRAIN[1][:64]).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_layers_without_bias_and_after_normalisation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, bias=False), nn.Flatten(), nn.Linear(256, 10, bias=False),
    )  # fmt: skip
    model.train()(TRAIN[0])
    found = fg.compress(model.eval(), TRAIN, budget=0.7, search=False)
    assert found.parameters[1] == parameters(found.model)
    skipped = [row for row in found.layers if row.status == "skipped"]
    assert [row.name for row in skipped] == ["2"]
    assert "no weight matrix" in skipped[0].reason
    assert loss_of(found.model, TRAIN) < 2.4


def test_suggested_widths() -> None:
    frame = fg.suggest_widths(mlp(), TRAIN, tolerance=0.05)
    assert list(frame.index) == ["0", "2", "4"]
    assert (frame["width"] <= frame["neurons"]).all()
    assert (frame["predicted_increase"] <= 0.05 * loss_of(mlp(), TRAIN)).all()
    assert frame.loc["0", "width"] < 32
    assert (frame["modes"] <= 9).all()
    for name in frame.index:  # one less would cost more than is allowed, or is the least there is
        looser = fg.suggest_widths(mlp(), TRAIN, tolerance=0.2, layers=[name])
        assert looser.loc[name, "width"] <= frame.loc[name, "width"]


def test_find_layers_names_what_it_cannot_cut() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(4, 4),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "normed": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
            "embedding": nn.Embedding(4, 4),
            "tied": nn.Linear(4, 4),
            "transposed": nn.ConvTranspose2d(2, 2, 3),
        }
    )
    model["tied"].weight = model["embedding"].weight
    layers, skipped = find_layers(model)
    assert list(layers) == ["plain"]
    assert "grouped" in skipped["depthwise"]
    assert "parametrised" in skipped["normed"]
    assert "shared with embedding.weight" in skipped["tied"]
    assert "ConvTranspose2d" in skipped["transposed"]


class Twice(nn.Module):
    """One layer called twice, one never, one whose weight is read by its parent, one with tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(64, 32)
        self.shared = nn.Linear(32, 32)
        self.unused = nn.Linear(32, 32)
        self.read = nn.Linear(32, 32)
        self.turned = nn.Linear(1, 8)
        self.exit = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.entry(x))
        x = torch.relu(self.shared(torch.relu(self.shared(x))))
        x = self.read(x) * self.read.weight.norm()
        x = x + self.turned(x.T[..., None]).mean(-1).T
        return self.exit(x)


def test_layers_that_the_forward_pass_uses_oddly_are_named() -> None:
    torch.manual_seed(0)
    found = fg.compress(Twice(), TRAIN, budget=0.9, search=False)
    reasons = {row.name: row.reason for row in found.layers if row.status == "skipped"}
    assert set(reasons) == {"shared", "unused", "read", "turned"}
    assert "called 2 times" in reasons["shared"]
    assert "never called" in reasons["unused"]
    assert "reads its weights" in reasons["read"]
    assert "one row per sample" in reasons["turned"]
    assert all(name in str(found) for name in reasons)


def test_attention_modules_of_torch() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Unflatten(1, (4, 16)), block, nn.Flatten(), nn.Linear(64, 10))
    found = fg.compress(model, TRAIN, budget=0.8, search=False)
    reasons = {row.name: row.reason for row in found.layers if row.status == "skipped"}
    assert "1.self_attn.out_proj" in reasons
    assert loss_of(found.model, TRAIN) == pytest.approx(found.loss_after, rel=1e-4)


def test_a_transformer_with_padding() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=50, num_labels=3, max_position_embeddings=16, **sizes)
    model = BertForSequenceClassification(config).eval()
    ids, length = torch.randint(1, 50, (120, 10)), torch.randint(4, 11, (120, 1))
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(10) < length).long()}
    labels = torch.randint(0, 3, (120,))
    found = fg.compress(model, (inputs, labels), budget=0.6, search=False)
    assert found.ratio <= 0.6
    frame = found.to_frame()
    assert (frame["status"] == "cut").sum() > 3
    with torch.no_grad():
        after = nn.functional.cross_entropy(found.model(**inputs).logits, labels).item()
    assert after == pytest.approx(found.loss_after, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither"),
        ({"budget": 0.5, "max_loss_increase": 0.1}, "both"),
        ({"budget": 0.0}, "share lies in"),
        ({"budget": 1.5}, "share lies in"),
        ({"budget": True}, "a bool"),
        ({"budget": "half"}, "a str"),
        ({"budget": 0.001}, "rank 1 everywhere needs"),
        ({"budget": 100}, "rank 1 everywhere needs"),
        ({"max_loss_increase": -1.0}, "positive"),
        ({"max_loss_increase": float("nan")}, "positive"),
        ({"budget": 0.5, "samples": 0}, "samples"),
        ({"budget": 0.5, "layers": ["nothing"]}, "nothing"),
        ({"budget": 0.5, "layers": ["1"]}, "no Linear or Conv"),
        ({"budget": 0.5, "loss": "mse"}, "targets"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message):
        fg.compress(mlp(), TRAIN, **options)


def test_bad_models_and_data(tmp_path: Path) -> None:
    with pytest.raises(fg.FeatgeoError, match=r"torch\.nn\.Module"):
        fg.compress(lambda x: x, TRAIN, budget=0.5)  # type: ignore[arg-type]
    with pytest.raises(fg.FeatgeoError, match="has no place to put two"):
        fg.compress(nn.Linear(64, 10), TRAIN, budget=0.5)
    with pytest.raises(fg.FeatgeoError, match="one pass"):
        fg.compress(mlp(), iter([TRAIN]), budget=0.5)
    bad = copy.deepcopy(mlp())
    bad[2].weight.data[0, 0] = float("nan")
    with pytest.raises(fg.FeatgeoError, match="NaN"):
        fg.compress(bad, TRAIN, budget=0.5)
    with pytest.raises(fg.FeatgeoError, match="no compressed model"):
        fg.load_compressed(copy.deepcopy(mlp()), tmp_path / "nothing.safetensors")
    small(0.5).save(tmp_path / "small.safetensors")
    with pytest.raises(fg.FeatgeoError, match="original architecture"):
        fg.load_compressed(copy.deepcopy(cnn()), tmp_path / "small.safetensors")


def test_few_samples_are_warned_about() -> None:
    few = TRAIN[0][:40], TRAIN[1][:40]
    with pytest.warns(fg.FeatgeoWarning, match="40 feature rows for 64 features"):
        found = fg.compress(mlp(), few, budget=0.5)
    assert any("40 feature rows" in text for text in found.warnings)
    assert "40 feature rows" in str(found)


def test_with_few_samples_the_refit_does_no_harm() -> None:
    """40 samples for 64 features: a regression on these rows alone would fit their noise."""
    few = TRAIN[0][:40], TRAIN[1][:40]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fg.FeatgeoWarning)
        made = fg.compress(mlp(), few, budget=0.5, search=False)
        without = fg.compress(mlp(), few, budget=0.5, search=False, refit=False)
    assert loss_of(made.model, TEST) < loss_of(without.model, TEST)


def test_features_that_hardly_exist_get_no_weight() -> None:
    """A norm's weight of 1e-33, as pretrained networks have them: its square is no number in float32."""
    scale = torch.ones(64)
    scale[3] = 1e-33

    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * scale

    model = nn.Sequential(Scaled(), *copy.deepcopy(mlp()))
    found = fg.compress(model, TRAIN, budget=0.5, search=False)
    assert all(bool((p.abs() < 1e3).all()) for p in found.model.parameters())
    assert found.loss_after < 1.2 * found.loss_before

"""A label per position: metrics and predictions against all labelled rows one by one, and what compress() does."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import featgeo as fg
from featgeo.apply.curvature import Probe, curves, metrics, output_metric
from featgeo.apply.draw import Draw
from featgeo.apply.plan import look, modes_of
from featgeo.apply.survey import survey
from featgeo.data.batches import Batches
from featgeo.network.keep import undisturbed
from featgeo.network.layers import weight_matrix
from featgeo.network.layout import Layout
from featgeo.network.run import Runner, runner_of
from featgeo.theory.linalg import whiten
from featgeo.theory.named import resolve_loss

IGNORED = -100
GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(12, 4, 3, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 3, (12, 4), generator=GENERATOR)
Y[0, 2:], Y[3, :3], Y[5] = IGNORED, IGNORED, IGNORED  # the last has no label at all
CROSS_ENTROPY = resolve_loss("cross_entropy")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Small data: what they are warned of is not asked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fg.FeatgeoWarning)
        yield


class Mixed(nn.Module):
    """A tagger whose positions see the one before them."""

    def __init__(self, features: int = 3, width: int = 5, labels: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)
        self.last = nn.Linear(width, labels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        h = self.second(h + h.roll(1, 1)).tanh()
        made: Tensor = self.last(h)
        return made


def tagger() -> Mixed:
    torch.manual_seed(1)
    model = Mixed().double()
    with torch.no_grad():
        model.first.weight.mul_(2)
        model.last.weight.mul_(3)
    return model


def studied(model: nn.Module) -> tuple[Probe, dict[str, Any], Any]:
    """A probe of all labelled rows."""
    layers: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    run: Runner = runner_of(model)
    run.layout = Layout(expand=True, ignored=IGNORED)
    data = Batches([(X[:7], Y[:7]), (X[7:], Y[7:])])
    with torch.no_grad():
        seen = survey(run, data, CROSS_ENTROPY, layers)
    return Probe(run, data, CROSS_ENTROPY, 1000, len(X)), layers, seen


def test_draws_are_labelled_rows_each_as_often_as_others() -> None:
    layout = Layout(expand=True, ignored=IGNORED)
    labelled = (Y != IGNORED).sum(1)
    for turns in (1, 3, 4):
        sums = torch.zeros(Y.shape)
        for seed in range(2000 if turns < 4 else 1):
            draws = [Draw.of(layout, Y, seed, turn, turns) for turn in range(turns)]
            total = torch.stack([draw.weight for draw in draws]).sum(0)
            assert torch.allclose(total, labelled.to(total))
            for draw in draws:
                assert (draw.rows(Y.flatten())[labelled > 0] != IGNORED).all()
                sums[torch.arange(len(Y)), draw.place] += draw.weight
            if turns == 4:  # every row once
                assert torch.equal(sums, (Y != IGNORED).float())
        mean = sums / (2000 if turns < 4 else 1)
        assert torch.allclose(mean, (Y != IGNORED).float(), atol=0.15)


def test_the_near_metric_is_the_gauss_newton_matrix_of_all_labelled_rows() -> None:
    model = tagger()
    probe, layers, _ = studied(model)
    found = metrics(probe, {"first": layers["first"]})["first"]
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for x, labels in zip(X, Y, strict=True):
        z = model.first(x).detach()

        def tail(z: Tensor) -> Tensor:
            h = z.tanh()[None]
            made: Tensor = model.last(model.second(h + h.roll(1, 1)).tanh())[0]
            return made

        slopes = torch.autograd.functional.jacobian(tail, z)  # (row, output, position, neuron)
        for row in (labels != IGNORED).nonzero()[:, 0]:
            p = tail(z)[row].softmax(0).detach()
            metric = p.diag() - p.outer(p)
            expected += torch.einsum("ctn,cd,dtm->nm", slopes[row], metric, slopes[row])
    expected /= (Y != IGNORED).sum()
    assert torch.allclose(found, expected, atol=1e-12)


def test_predictions_are_the_loss_of_the_linearised_network_at_all_labelled_rows() -> None:
    model = tagger()
    probe, layers, seen = studied(model)
    kept = Y.flatten() != IGNORED

    def loss_of(outputs: Tensor) -> float:
        return F.cross_entropy(outputs.flatten(0, 1)[kept], Y.flatten()[kept]).item()

    assert seen.loss == pytest.approx(loss_of(model(X)))
    assert seen.samples == len(X)
    assert seen.readout == "last"
    prior = torch.bincount(Y.flatten()[kept], minlength=3).double() / kept.sum()
    assert torch.allclose(output_metric(probe, seen.answers), prior.diag() - prior.outer(prior))
    matrix = metrics(probe, {"first": layers["first"]})["first"]
    moments = seen.moments["first"]
    modes = modes_of(model.first, matrix, whiten(moments.covariance), moments.mean)[1]
    found = curves(probe, {"first": layers["first"]}, {"first": modes})["first"]
    for rank in (0, 1, 2):
        thin, (weight, bias) = modes.thin(rank), weight_matrix(model.first)
        step = thin.second @ thin.first - weight, thin.bias - bias

        def outputs(w: Tensor, b: Tensor) -> Tensor:
            made: Tensor = torch.func.functional_call(model, {"first.weight": w, "first.bias": b}, (X,))
            return made

        free, change = torch.autograd.functional.jvp(outputs, (weight, bias), step)
        assert found[rank].item() == pytest.approx(loss_of(free + change) - loss_of(free), abs=1e-9)


def test_the_far_metric_regresses_rows_on_their_own_positions() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()  # linear: the regression is the layer
    _, _, seen = studied(model)
    actions = seen.actions["0"]
    assert actions.count == 11  # a row of each sample with a label
    slopes = actions.cross_covariance @ torch.linalg.pinv(actions.covariance)
    assert torch.allclose(slopes, model[1].weight, atol=1e-6)


def test_one_position_is_as_none() -> None:
    x, y = X[:, 0], Y[:, 0].clamp_min(0)
    torch.manual_seed(2)
    plain = nn.Sequential(
        nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    ).double()
    one = fg.compress(plain, (x, y), budget=0.6)
    other = fg.compress(plain, (x[:, None], y[:, None]), budget=0.6)
    assert one.ranks == other.ranks
    assert one.loss_after == pytest.approx(other.loss_after)
    assert one.predicted == pytest.approx(other.predicted)


WORDS, LENGTH = 24, 10


@functools.cache
def sentences() -> tuple[Tensor, Tensor]:
    """Words of three kinds, tagged by the word and the one before it; a fifth of the tags are missing."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, WORDS, (500, LENGTH), generator=generator)
    tags = (words % 6 + 2 * (words.roll(1, 1) % 3)) % 5
    tags[torch.rand(tags.shape, generator=generator) < 0.2] = IGNORED
    return words, tags


@functools.cache
def trained() -> nn.Module:
    """A tagger of them. Not to be changed."""
    torch.manual_seed(0)
    words, tags = sentences()
    model = nn.Sequential(nn.Embedding(WORDS, 24), Mixed(24, 32, 5))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(400):
        part = slice(50 * (step % 8), 50 * (step % 8) + 50)
        optimiser.zero_grad()
        F.cross_entropy(model(words[part]).flatten(0, 1), tags[part].flatten()).backward()
        optimiser.step()
    return model.eval()


def loss_of(model: nn.Module, part: slice) -> float:
    words, tags = sentences()
    with torch.no_grad():
        return F.cross_entropy(model(words[part]).flatten(0, 1), tags[part].flatten()).item()


TRAIN, TEST = slice(400), slice(400, None)


def test_a_tagger_is_compressed_as_well_as_predicted_and_better_than_by_plain_svd() -> None:
    words, tags = sentences()
    for budget in (0.5, 0.7):
        found = fg.compress(trained(), (words[TRAIN], tags[TRAIN]), budget=budget, samples=4000)
        assert found.loss_before == pytest.approx(loss_of(trained(), TRAIN), rel=1e-5)
        assert found.loss_after == pytest.approx(loss_of(found.model, TRAIN), rel=1e-5)
        plain = copy.deepcopy(trained())
        for name, rank in found.ranks.items():
            layer = plain.get_submodule(name)
            left, values, right = torch.linalg.svd(layer.weight.detach())
            layer.weight.data = (left[:, :rank] * values[:rank]) @ right[:rank]  # type: ignore[union-attr]
        assert loss_of(found.model, TEST) < loss_of(plain, TEST)
        for row in found.layers:
            if row.status == "cut" and 1e-3 < row.measured < 0.1 * found.loss_before:
                assert 0.5 < row.predicted / row.measured < 2


def test_the_last_layer_of_a_tagger_is_refitted() -> None:
    words, tags = sentences()
    data = words[TRAIN], tags[TRAIN]
    with_refit, without = (fg.compress(trained(), data, budget=0.4, refit=refit) for refit in (True, False))
    assert loss_of(with_refit.model, TEST) < loss_of(without.model, TEST)
    work = copy.deepcopy(trained())
    with undisturbed(work):
        assert look(work, Batches(data), CROSS_ENTROPY)[0].found.readout == "1.last"


def test_widths_of_a_tagger() -> None:
    words, tags = sentences()
    frame = fg.suggest_widths(trained(), (words[TRAIN], tags[TRAIN]), tolerance=0.05)
    assert list(frame.index) == ["1.first", "1.second", "1.last"]
    assert frame["width"].between(1, 32).all()
    assert frame["modes"].notna().all()


def test_pixels_have_labels_too() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(60, 2, 6, 6, generator=generator)
    labels = (F.avg_pool2d(pictures, 3, 1, 1)[:, 0] > 0).long()
    labels[:, 0] = 255  # a border that does not count
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 2, 1)
    )
    loss = nn.CrossEntropyLoss(ignore_index=255)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss(model(pictures), labels).backward()
        optimiser.step()
    found = fg.compress(model, (pictures, labels), loss, budget=0.6)
    assert found.loss_before == pytest.approx(loss(model(pictures), labels).item(), rel=1e-5)
    assert found.loss_after == pytest.approx(loss(found.model(pictures), labels).item(), rel=1e-5)
    assert found.loss_after < found.loss_before + 0.1


def test_layers_of_a_tagger_are_ranked_by_their_labelled_positions() -> None:
    words, tags = sentences()
    model, labelled = trained(), tags != IGNORED
    found, targets, skipped = fg.layer_features(model, (words, tags), batch_size=64)
    assert set(skipped) == {"0"}  # the embedding
    assert torch.equal(targets, tags[labelled])
    assert torch.equal(found["1.first"], model[0](words)[labelled].detach())  # type: ignore[index]
    assert torch.equal(found["(output)"], model(words)[labelled].detach())
    ranking = fg.rank_layers(model, (words, tags))
    by_hand = fg.transfer_score(found["1.last"], targets, "crossfit")
    assert ranking.scores["1.last"]["crossfit"].value == pytest.approx(by_hand.value)
    assert ranking.scores["1.last"]["crossfit"].value > ranking.scores["1.first"]["crossfit"].value


def test_layers_with_other_positions_are_not_ranked() -> None:
    torch.manual_seed(0)
    pictures, labels = torch.randn(40, 2, 6, 6), torch.randint(0, 3, (40, 6, 6))
    model = nn.Sequential(
        nn.Conv2d(2, 4, 2, stride=2),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.Conv2d(5, 3, 1),
    )
    found, targets, skipped = fg.layer_features(model, (pictures, labels))
    assert torch.equal(targets, labels.flatten())
    inner = model[:4](pictures).detach().movedim(1, -1).flatten(0, 2)
    assert torch.equal(found["4"], inner)
    assert found["(output)"].shape == (40 * 36, 3)
    assert set(found) == {"0", "3", "4", "(output)"}  # the first reads the pictures themselves
    assert not skipped
    smaller = nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(2, 4, 1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 1)
    )
    assert fg.layer_features(smaller, (pictures, labels))[2] == {
        "1": "its positions are not those that have targets"
    }


def test_labels_that_are_the_inputs_are_those_of_the_next_position() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.last = nn.Embedding(9, 6), nn.Linear(6, 9)

        def forward(self, input_ids: Tensor) -> Tensor:
            made: Tensor = self.last(self.embed(input_ids))
            return made

    torch.manual_seed(0)
    tokens = torch.randint(0, 9, (30, 7))
    batches = [{"input_ids": part, "labels": part} for part in tokens.split(10)]
    found, targets, _ = fg.layer_features(Language(), batches)
    assert torch.equal(targets, tokens[:, 1:].flatten())
    assert len(found["last"]) == 30 * 6

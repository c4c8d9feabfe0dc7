"""Starts for training: what they promise about scale and direction, and that failures leave no trace."""

import copy

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import featgeo as fg
from featgeo.errors import FeatgeoError

X, Y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
X = X.float() / 16
LOADER = list(zip(X.split(300), Y.split(300), strict=True))


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 20), nn.Tanh(), nn.Linear(20, 10))


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def test_init_head_sets_the_last_layer_and_nothing_else():
    model = dense().train()
    before = copy.deepcopy(model.state_dict())
    assert fg.init_head_(model, LOADER, "cross_entropy", weight_decay=1e-3) is model
    expected = fg.solve_head(dense(), LOADER, "cross_entropy", weight_decay=1e-3)
    torch.testing.assert_close(model[4].weight, expected.weight)
    torch.testing.assert_close(model[4].bias, expected.bias)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items() if not n.startswith("4"))
    assert model.training
    assert model[4].weight.requires_grad
    assert F.cross_entropy(model(X), Y) < 0.6 * F.cross_entropy(dense()(X), Y)


@pytest.mark.parametrize("toward", ["labels", "inputs", "weights"])
@pytest.mark.parametrize("build", [dense, convolutional])
def test_mean_and_variance_of_every_pre_activation_stay(build, toward):
    model, old = build(), build()
    fg.init_layers_(model, LOADER, "cross_entropy", toward=toward)
    first = 0 if build is dense else 1
    with torch.no_grad():  # the first layer sees the same features before and after
        new, was = (m[: first + 1](X).flatten(2 if build is convolutional else 1) for m in (model, old))
    axes = (0, 2) if build is convolutional else 0
    torch.testing.assert_close(new.mean(axes), was.mean(axes), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(new.std(axes), was.std(axes), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(model[first].weight, old[first].weight, atol=1e-3)
    last = max(i for i, m in enumerate(model) if isinstance(m, nn.Linear))
    assert torch.equal(model[last].weight, old[last].weight)


@pytest.mark.parametrize("toward", ["labels", "inputs", "weights"])
def test_signs_of_singular_vectors_make_no_difference(toward, monkeypatch):
    one, other = dense(), dense()
    fg.init_layers_(one, LOADER, "cross_entropy", toward=toward)
    eigh, svd = torch.linalg.eigh, torch.linalg.svd

    def turned_eigh(matrix):
        values, vectors = eigh(matrix)
        return values, vectors * (-1.0) ** torch.arange(len(values))

    def turned_svd(matrix, full_matrices=True):
        found = svd(matrix, full_matrices=full_matrices)
        signs = (-1.0) ** torch.arange(len(found.S))
        return torch.return_types.linalg_svd((found.U * signs, found.S, found.Vh * signs[:, None]))

    monkeypatch.setattr(torch.linalg, "eigh", turned_eigh)
    monkeypatch.setattr(torch.linalg, "svd", turned_svd)
    fg.init_layers_(other, LOADER, "cross_entropy", toward=toward)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_all_of_the_variance_goes_to_the_modes_toward_the_labels():
    """With share 1 and no shrinkage the first layer's outputs are what least squares on the labels spans."""
    model = dense()
    fg.init_layers_(model, LOADER, "cross_entropy", layers=["0"], share=1.0, shrinkage=0.0)
    with torch.no_grad():
        z = model[0](X).double()
    one_hot = F.one_hot(Y, 10).double()
    one_hot, rows = one_hot - one_hot.mean(0), torch.linalg.svd(z - z.mean(0), full_matrices=False)
    assert rows.S.gt(1e-4 * rows.S[0]).sum() == 9
    x = X.double() - X.double().mean(0)
    fitted = x @ torch.linalg.lstsq(x, one_hot, driver="gelsd").solution
    basis = rows.U[:, :9]
    torch.testing.assert_close(basis @ (basis.T @ fitted), fitted, atol=1e-3, rtol=1e-3)


def test_failures_leave_the_layers_as_they_were():
    model = dense()
    before = copy.deepcopy(model.state_dict())

    class Breaks:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield X[:300], Y[:300]
            if self.passes > 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fg.init_layers_(model, Breaks(), "cross_entropy")
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"toward": "noise"}, "toward"),
        ({"share": 2.0}, "share"),
        ({"shrinkage": -1.0}, "shrinkage"),
        ({"modes": 0}, "modes"),
        ({"layers": ["nowhere"]}, "nowhere"),
        ({"loss": lambda z, y: z.sum(1)}, "cross_entropy, mse"),
        ({"data": iter(LOADER)}, "re-iterable"),
        ({"model": nn.Linear(64, 10)}, "no hidden"),
    ],
)
def test_bad_input(options, message):
    given = {"model": dense(), "data": LOADER, "loss": "cross_entropy", **options}
    with pytest.raises(FeatgeoError, match=message):
        fg.init_layers_(given.pop("model"), given.pop("data"), given.pop("loss"), **given)

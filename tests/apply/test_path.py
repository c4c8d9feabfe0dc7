"""Weight decays by cross-validation, against heads fitted fold by fold."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import Ridge

import featgeo as fg
from featgeo.apply import gather
from featgeo.apply.path import folds_of
from featgeo.apply.rows import Rows
from featgeo.errors import FeatgeoError, FeatgeoWarning

X, Y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
X, Y = X[:600] / 16, Y[:600]
DECAYS = [0.0, 1e-3, 1e-1, 10.0]


@pytest.mark.parametrize("refine", [0, "exact"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_path_is_that_of_heads_fitted_one_by_one(refine, weighted):
    decays = DECAYS if refine == 0 else DECAYS[1:]
    w = torch.linspace(0.5, 1.5, len(X), dtype=torch.float64) if weighted else None
    head = fg.solve_head(X, Y, weight_decay=decays, refine=refine, cv=3, sample_weight=w)
    place = folds_of(Rows(X, Y), 3)
    share = torch.ones(len(X), dtype=torch.float64) if w is None else w
    for row in head.path:
        losses = torch.zeros(len(X), dtype=torch.float64)
        for fold in range(3):
            train, held = place != fold, place == fold
            part = fg.solve_head(
                X[train], Y[train], weight_decay=row["weight_decay"], refine=refine, outputs=10,
                sample_weight=None if w is None else w[train],
            )  # fmt: skip
            losses[held] = F.cross_entropy(part(X[held]), Y[held], reduction="none")
        assert row["cv_loss"] == pytest.approx((share @ losses / share.sum()).item(), rel=1e-4)
    best = min(head.path, key=lambda row: row["cv_loss"])
    assert head.weight_decay == best["weight_decay"]
    again = fg.solve_head(X, Y, weight_decay=best["weight_decay"], refine=refine, sample_weight=w)
    torch.testing.assert_close(head.weight, again.weight)


def test_ridge_path_with_wide_features_and_its_error():
    x, y = (torch.as_tensor(part) for part in load_diabetes(return_X_y=True))
    x, y = torch.cat([x, x**2, x**3] * 3, dim=1)[:60], y[:60, None]
    head = fg.solve_head(x, y, "mse", weight_decay=[1.0, 1e-2, 1e-4], cv=4)
    place = folds_of(Rows(x, y), 4)
    row = head.path[1]
    means = []
    for fold in range(4):
        train = (place != fold).numpy()
        peer = Ridge(row["weight_decay"] * train.sum() / 2).fit(x[train], y[train])
        means.append(((peer.predict(x[~train]).reshape(-1, 1) - y[~train].numpy()) ** 2).mean())
    means = torch.tensor(means)
    assert row["cv_loss"] == pytest.approx(means.mean().item(), rel=1e-6)
    assert row["cv_error"] == pytest.approx((means.std() / 2).item(), rel=1e-6)


def test_a_stream_gets_its_path_in_two_passes(monkeypatch):
    monkeypatch.setattr(gather, "MEMORY", 1000)
    batches = list(zip(X.split(100), Y.split(100), strict=True))
    head = fg.solve_head(batches, weight_decay=DECAYS, cv=3, outputs=10)
    held = fg.solve_head(X, Y, weight_decay=DECAYS, cv=3)
    for ours, theirs in zip(head.path, held.path, strict=True):
        assert ours["cv_loss"] == pytest.approx(theirs["cv_loss"], rel=0.2)
    with pytest.warns(FeatgeoWarning, match="one-pass heads"):
        exact = fg.solve_head(batches, weight_decay=[1e-2, 1e-1], cv=3, refine="exact")
    assert exact.converged


@pytest.mark.parametrize("refine", [0, "exact"])
def test_a_fold_without_a_class_is_skipped_by_name(refine):
    y = Y.clone()
    y[y == 7] = 8
    y[5] = 7
    with pytest.warns(FeatgeoWarning, match=r"fold \d was skipped: classes or outputs \[7\]"):
        head = fg.solve_head(X, y, weight_decay=[1e-2, 1e-1], cv=3, refine=refine)
    assert head.path[0]["cv_folds"] == 2


def test_bad_paths():
    with pytest.raises(FeatgeoError, match="folds for 4 samples"):
        fg.solve_head(X[:4], Y[:4] % 2, weight_decay=[1e-2, 1e-1])
    with pytest.raises(FeatgeoError, match="no fold that can be used"):
        fg.solve_head(X[:3], torch.arange(3), weight_decay=[1e-2, 1e-1], cv=3)
    with pytest.raises(FeatgeoError, match="cv"):
        fg.solve_head(X, Y, weight_decay=[1e-2, 1e-1], cv=1)
    with pytest.raises(FeatgeoError, match="weight_decay"):
        fg.solve_head(X, Y, weight_decay=[])

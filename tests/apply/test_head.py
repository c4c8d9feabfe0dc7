"""solve_head against scikit-learn, closed forms and brute force."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_linnerud
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.preprocessing import scale

import featgeo as fg
from featgeo.apply import gather, newton
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.theory.losses import CrossEntropy
from featgeo.theory.named import resolve_loss

DIGITS = [torch.as_tensor(part) for part in load_digits(return_X_y=True)]


def objective(head, x, y, loss, decay, w=None):
    """Mean loss + penalty, written out."""
    values = resolve_loss(loss).values(x.double() @ head.weight.double().T + head.bias.double(), y)
    w = torch.ones(len(values), dtype=torch.float64) if w is None else w
    return (w @ values / w.sum() + decay / 2 * head.weight.double().square().sum()).item()


def brute_force(x, y, loss, decay, outputs, w=None, bias=True):
    """The optimum by full-batch L-BFGS from zero, with torch's own autograd."""
    theta = torch.zeros(outputs, x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    w = torch.ones(len(x), dtype=torch.float64) if w is None else w
    step = torch.optim.LBFGS(
        [theta], max_iter=5000, history_size=50, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=0, max_eval=20000,
    )  # fmt: skip

    def closure():
        step.zero_grad()
        z = x @ theta[:, :-1].T + (theta[:, -1] if bias else 0)
        value = w @ resolve_loss(loss).values(z, y) / w.sum() + decay / 2 * theta[:, :-1].square().sum()
        value.backward()
        return value

    step.step(closure)
    return closure().item(), theta.detach()


@pytest.mark.parametrize("decay", [1e-2, 1e-4])
def test_exact_reaches_logistic_regression_at_its_tightest_tolerance(decay):
    x, y = DIGITS[0][:600] / 16, DIGITS[1][:600]
    head = fg.solve_head(x, y, weight_decay=decay, refine="exact")
    peer = LogisticRegression(C=1 / (decay * len(x)), tol=1e-12, max_iter=5000).fit(x.numpy(), y.numpy())
    theirs = fg.Head(torch.tensor(peer.coef_), torch.tensor(peer.intercept_), "", decay, 0.0)
    ours, other = (objective(h, x, y, "cross_entropy", decay) for h in (head, theirs))
    assert head.converged
    assert head.objective == pytest.approx(ours, rel=1e-9)
    assert ours <= other * (1 + 1e-8)
    assert abs(ours - other) <= 1e-6 * other


@pytest.mark.parametrize("rank", [12, 256])
def test_exact_from_samples_of_samples(rank, monkeypatch):
    """The course that large data take: samples and leading directions first, float32 products, float64 at the end."""
    monkeypatch.setattr(newton, "SAMPLE", 512)
    monkeypatch.setattr(newton, "RANK", rank)
    monkeypatch.setattr("featgeo.apply.fit.SINGLE", 1000)
    x, y = DIGITS[0].float() / 16, DIGITS[1]
    head = fg.solve_head(x, y, weight_decay=1e-3, refine="exact")
    small = fg.solve_head(x.double(), y, weight_decay=1e-3, refine="exact", tolerance=1e-12)
    assert head.weight.dtype == torch.float32
    assert head.converged
    assert head.objective == pytest.approx(small.objective, rel=1e-8)


def test_ill_scaled_features():
    x, y = load_breast_cancer(return_X_y=True)
    head = fg.solve_head(x, y[:, None].astype(float), "bce", weight_decay=1e-3, refine="exact")
    peer = LogisticRegression(C=1 / (1e-3 * len(x)), tol=1e-12, solver="newton-cholesky", max_iter=1000).fit(
        x, y
    )
    ours, other = (
        objective(h, torch.as_tensor(x), torch.as_tensor(y[:, None].astype(float)), "bce", 1e-3)
        for h in (head, fg.Head(torch.tensor(peer.coef_), torch.tensor(peer.intercept_), "", 0.0, 0.0))
    )
    assert abs(ours - other) <= 1e-8 * other


@pytest.mark.parametrize("refine", [0, "exact"])
@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_ridge_with_one_and_many_outputs(alpha, refine):
    for x, y in (load_diabetes(return_X_y=True), load_linnerud(return_X_y=True)):
        y = y.reshape(len(y), -1)
        head = fg.solve_head(x, y, "mse", weight_decay=2 * alpha / y.size, refine=refine)
        peer = Ridge(alpha).fit(x, y)
        coef, level = np.reshape(peer.coef_, head.weight.shape), np.ravel(peer.intercept_)
        np.testing.assert_allclose(head.weight, coef, rtol=1e-8, atol=1e-8 * np.abs(coef).max())
        np.testing.assert_allclose(head.bias, level, rtol=1e-8)
        theirs = fg.Head(torch.tensor(coef), torch.tensor(level), "", 0.0, 0.0)
        data = torch.as_tensor(x), torch.as_tensor(y), "mse", 2 * alpha / y.size
        assert head.objective == pytest.approx(objective(theirs, *data), rel=1e-8)


def test_poisson_regression():
    x, y = load_diabetes(return_X_y=True)
    x = scale(x)
    head = fg.solve_head(x, y, "poisson", weight_decay=0.1, refine="exact")
    peer = PoissonRegressor(alpha=0.1, tol=1e-13, max_iter=1000, solver="newton-cholesky").fit(x, y)
    theirs = fg.Head(torch.tensor(peer.coef_[None]), torch.tensor([peer.intercept_]), "", 0.1, 0.0)
    data = torch.as_tensor(x), torch.as_tensor(y)[:, None], "poisson", 0.1
    assert head.objective == pytest.approx(objective(theirs, *data), rel=1e-8)
    np.testing.assert_allclose(head.weight[0], peer.coef_, atol=1e-5)


def log_cosh(outputs, targets):
    return (outputs - targets).cosh().log().sum(1)


CASES = {
    "soft labels": ("cross_entropy", lambda z: z.softmax(1)),
    "bce": ("bce", lambda z: (z > 0.2).double()),
    "poisson": ("poisson", lambda z: z.exp().round()),
    "mse": ("mse", lambda z: z + z.square()),
    "callable": (log_cosh, lambda z: z + 0.3 * z.square()),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_every_loss_with_weights_against_brute_force(case, bias):
    loss, make = CASES[case]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 5, generator=generator, dtype=torch.float64) + 1
    y = make(x @ torch.randn(5, 3, generator=generator, dtype=torch.float64) / 2)
    w = torch.rand(200, generator=generator, dtype=torch.float64)
    best, _ = brute_force(x, y, loss, 0.01, 3, w, bias)
    head = fg.solve_head(x, y, loss, weight_decay=0.01, refine="exact", sample_weight=w, bias=bias)
    assert head.objective == pytest.approx(best, rel=1e-8, abs=1e-10)
    assert head.objective == pytest.approx(objective(head, x, y, loss, 0.01, w), rel=1e-9)
    assert bias or not head.bias.any()


@pytest.mark.parametrize("bias", [True, False])
def test_one_pass_minimises_the_quadratic_about_the_constant(bias):
    """W* by its definition: a dense solve of the quadratic model whose derivatives autograd takes at the constant."""
    x, y = DIGITS[0][:300, 10:14] / 16, DIGITS[1][:300] % 3
    w = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64)
    head = fg.solve_head(x, y, weight_decay=0.05, sample_weight=w, bias=bias)
    share = w / w.sum()
    level = torch.stack([share[y == c].sum() for c in range(3)]).log() if bias else torch.zeros(3).double()
    centre = share @ x if bias else torch.zeros(4).double()

    def penalised(weight):
        z = (x - centre) @ weight.reshape(3, 4).T + level
        return share @ F.cross_entropy(z, y, reduction="none") + 0.025 * weight.square().sum()

    start = torch.zeros(12, dtype=torch.float64)
    slope = torch.func.grad(penalised)(start)
    cross = torch.einsum("i,ij,ik->jk", share, x - centre, x - centre)
    p = level.softmax(0)
    bend = torch.kron(p.diag() - p.outer(p), cross) + 0.05 * torch.eye(12)
    expected = -torch.linalg.solve(bend, slope).reshape(3, 4)
    torch.testing.assert_close(head.weight, expected)
    assert head.passes == 1


def test_refining_lowers_the_objective_step_by_step():
    x, y = DIGITS
    values = [
        objective(fg.solve_head(x, y, weight_decay=1e-3, refine=k), x, y, "cross_entropy", 1e-3)
        for k in (0, 1, 2, 4, "exact")
    ]
    assert values == sorted(values, reverse=True)
    assert values[3] < 1.5 * values[4] < values[0]


def batches_of(x, y, size=100):
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("refine", [0, 1, "exact"])
@pytest.mark.parametrize("weighted", ["vector", "function", None])
def test_a_stream_larger_than_memory_gives_the_same_head(refine, weighted, monkeypatch):
    x, y = DIGITS
    monkeypatch.setattr(gather, "MEMORY", 1000)
    w = {"vector": torch.linspace(1, 2, len(x)), "function": lambda x, y: 1 + y / 10, None: None}[weighted]
    options = {"weight_decay": 0.01, "refine": refine, "sample_weight": w}
    streamed, held = fg.solve_head(batches_of(x, y), **options), fg.solve_head(x, y, **options)
    torch.testing.assert_close(streamed.weight, held.weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        streamed.bias - streamed.bias.mean(), held.bias - held.bias.mean(), atol=1e-5, rtol=1e-5
    )


def test_a_stream_with_a_small_sample_of_it_converges(monkeypatch):
    monkeypatch.setattr(gather, "MEMORY", 1000)
    monkeypatch.setattr(gather, "KEPT", 400)
    x, y = DIGITS
    head = fg.solve_head(batches_of(x, y), weight_decay=0.01, refine="exact", tolerance=1e-8)
    assert head.converged
    assert head.objective == pytest.approx(
        fg.solve_head(x, y, weight_decay=0.01, refine="exact").objective, rel=1e-7
    )


def test_one_pass_reads_batches_once():
    x, y = DIGITS
    head = fg.solve_head(iter(batches_of(x, y)), weight_decay=0.01, outputs=10)
    torch.testing.assert_close(head.weight, fg.solve_head(x, y, weight_decay=0.01).weight)


def test_weights_are_repetitions():
    x, y = DIGITS[0][:400], DIGITS[1][:400]
    w = torch.arange(400) % 3
    for refine in (0, "exact"):
        options = {"weight_decay": 0.01, "refine": refine}
        weighted = fg.solve_head(x, y, sample_weight=w, **options)
        repeated = fg.solve_head(x.repeat_interleave(w, 0), y.repeat_interleave(w, 0), **options)
        torch.testing.assert_close(weighted.weight, repeated.weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("samples", [60, 500])
@pytest.mark.parametrize("refine", [0, "exact"])
@pytest.mark.parametrize("weighted", [True, False])
def test_sparse_and_wide_features(samples, refine, weighted, monkeypatch):
    """Dense and sparse, through the samples' Gram matrix, through Σ, and through its diagonal alone."""
    x = sparse.random(samples, 150, 0.1, format="csr", random_state=0)
    y = torch.arange(samples) % 3
    w = torch.linspace(0.5, 1.5, samples) if weighted else None
    options = {"weight_decay": 0.01, "refine": refine, "sample_weight": w, "tolerance": 1e-11}
    dense = fg.solve_head(x.toarray(), y, **options)
    monkeypatch.setattr("featgeo.apply.dual.MOST", 0)
    plain = fg.solve_head(x.toarray(), y, **options)
    torch.testing.assert_close(dense.weight, plain.weight, atol=1e-6, rtol=1e-4)
    monkeypatch.undo()
    torch.testing.assert_close(fg.solve_head(x, y, **options).weight, dense.weight, atol=1e-6, rtol=1e-4)
    monkeypatch.setattr("featgeo.apply.fit.SQUARE", 10)
    monkeypatch.setattr("featgeo.apply.dual.MOST", 0)
    if refine == 0:
        monkeypatch.setattr(newton, "FORCING", 1e-8)
    diagonal = fg.solve_head(x, y, **options)
    torch.testing.assert_close(diagonal.weight, dense.weight, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(diagonal(x), dense(torch.as_tensor(x.toarray())), atol=1e-4, rtol=1e-4)


def test_least_squares_without_a_penalty_takes_the_least_norm():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 50, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    head = fg.solve_head(x, y, "mse")
    centred = x - x.mean(0)
    torch.testing.assert_close(head.weight.T, torch.linalg.pinv(centred) @ (y - y.mean(0)))


def test_float32_features_with_a_large_mean():
    x, y = DIGITS[0].float() / 16 + 1000, DIGITS[1]
    head = fg.solve_head(x, y, weight_decay=1e-2, refine="exact")
    near = fg.solve_head(x.double() - 1000, y, weight_decay=1e-2, refine="exact")
    torch.testing.assert_close(head.weight, near.weight.float(), atol=1e-4, rtol=1e-3)


def test_an_absent_class_is_said():
    x, y = DIGITS
    kept = y != 3
    with pytest.warns(FeatgeoWarning, match="classes \\[3\\] are absent"):
        head = fg.solve_head(x[kept], y[kept], weight_decay=0.01, refine="exact")
    assert (head(x[kept]).argmax(1) != 3).all()
    assert not head.weight[3].abs().max() > 1e-9
    assert any("absent" in note for note in head.warnings)


def test_separable_classes_without_a_penalty_are_said():
    x, y = DIGITS
    with pytest.warns(FeatgeoWarning, match="no convergence"):
        head = fg.solve_head(x[:200], y[:200] % 2, refine="exact", max_steps=5)
    assert head.converged is False


def test_steps_that_no_longer_gain_end_the_search(monkeypatch):
    """One class is told apart, the others are not: a minimum at infinity, which rough steps come no nearer."""
    x, y = DIGITS[0] / 16, DIGITS[1]
    y = torch.where(y == 0, 0, 1 + torch.randint(0, 3, y.shape, generator=torch.Generator().manual_seed(0)))
    least = fg.solve_head(x, y, refine="exact").objective
    monkeypatch.setattr(newton, "NEWTON_CG_STEPS", 1)
    with pytest.warns(FeatgeoWarning, match=r"no convergence in \d+ steps.*no finite optimum"):
        head = fg.solve_head(x, y, refine="exact")
    assert not head.converged
    assert newton.PATIENCE < head.steps < 30
    assert head.objective == pytest.approx(least, rel=1e-5)
    monkeypatch.setattr(newton, "PATIENCE", 1000)
    assert fg.solve_head(x, y, refine="exact").steps > 30


def test_its_text_is_short_and_says_what_is_known():
    x, y = DIGITS
    first, *rest = str(fg.solve_head(x, y, weight_decay=0.01)).splitlines()
    assert first == "head of 64 features and 10 outputs, cross_entropy, weight decay 0.01"
    assert rest == ["one pass, objective not evaluated: refine='exact' gives the optimum"]
    head = fg.solve_head(x, y, weight_decay=[0.1, 0.01], refine="exact", cv=2)
    assert f"objective {head.objective:.6g}, about {head.gap:.1g} above the least after " in str(head)
    assert ", optimal\nweight decay chosen among 2" in str(head)
    exact = fg.solve_head(x, x[:, :2], "mse", weight_decay=0.01)
    assert str(exact).splitlines()[1] == f"objective {exact.objective:.6g}"
    with pytest.warns(FeatgeoWarning):
        stopped = fg.solve_head(x[:200], y[:200] % 2, refine="exact", max_steps=1)
    assert " after 1 step\nwarning: no convergence in 1 steps" in str(stopped)
    assert not any("nan" in str(h) or "tensor" in repr(h) for h in (exact, head, stopped))


def test_to_linear_computes_the_same():
    x, y = DIGITS
    head = fg.solve_head(x.float(), y, weight_decay=0.01)
    torch.testing.assert_close(head.to_linear()(x.float()), head(x.float()))


X, Y = DIGITS[0][:50], DIGITS[1][:50]
BAD = {
    "NaN in features": (X.clone().index_fill_(0, torch.tensor([3]), torch.nan), Y, {}, "row 3"),
    "three axes": (X[:, None], Y, {}, "samples, width"),
    "lengths": (X, Y[:-1], {}, "50 samples"),
    "empty": (X[:0], Y[:0], {}, "no samples"),
    "float labels": (X, Y.double(), {}, "integer labels"),
    "labels out of range": (X, Y, {"outputs": 5}, "Labels must lie in 0..4"),
    "negative counts": (X, -Y.double(), {"loss": "poisson"}, "counts"),
    "bce range": (X, Y.double(), {"loss": "bce"}, r"\[0, 1\]"),
    "one class": (X, torch.zeros(50, dtype=torch.int64), {}, "one class"),
    "weights": (X, Y, {"sample_weight": torch.ones(3)}, "sample_weight"),
    "negative weights": (X, Y, {"sample_weight": -torch.ones(50)}, "at least 0"),
    "zero weights": (X, Y, {"sample_weight": torch.zeros(50)}, "only zeros"),
    "decay": (X, Y, {"weight_decay": -1.0}, "weight_decay"),
    "refine": (X, Y, {"refine": "best"}, "refine"),
    "layer": (X, Y, {"layer": "fc"}, "layer of a model"),
    "scalar loss": (
        X,
        Y,
        {"loss": lambda z, y: F.cross_entropy(z, y), "outputs": 10},
        "one value per sample",
    ),
    "callable without outputs": (X, Y, {"loss": lambda z, y: z.sum(1)}, "outputs"),
    "kinked loss": (X, Y.double(), {"loss": lambda z, y: (z[:, 0] - y).abs()}, "loss"),
    "no batches": ([], None, {}, "no batch"),
    "batches of two widths": ([(X, Y), (X[:, 1:], Y)], None, {"refine": 1}, "batch 1"),
    "NaN in a batch": ([(X, Y), (X * torch.nan, Y)], None, {"refine": 1}, "batch 1"),
    "targets missing": (X, None, {}, "data"),
    "a spent iterator": (iter([(X, Y)]), None, {}, "outputs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_clear_error(case):
    features, targets, options, message = BAD[case]
    with pytest.raises(FeatgeoError, match=message):
        fg.solve_head(features, targets, **{"loss": "cross_entropy", **options})


def test_constant_and_duplicated_features_do_no_harm():
    x, y = DIGITS
    odd = torch.cat([x, x[:, :3], torch.full((len(x), 2), 7.0)], dim=1)
    for refine in (0, "exact"):
        head = fg.solve_head(odd, y, weight_decay=0.01, refine=refine)
        assert torch.isfinite(head.weight).all()
        assert head.weight[:, -2:].abs().max() < 1e-9
    assert torch.isfinite(fg.solve_head(odd, y).weight).all()


def test_label_smoothing_is_kept():
    x, y = DIGITS
    smooth = fg.solve_head(x, y, CrossEntropy(0.1), weight_decay=0.01, refine="exact")
    module = fg.solve_head(
        x, y, torch.nn.CrossEntropyLoss(label_smoothing=0.1), weight_decay=0.01, refine="exact"
    )
    torch.testing.assert_close(smooth.weight, module.weight)

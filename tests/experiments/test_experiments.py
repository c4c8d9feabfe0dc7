"""The experiments themselves: the quick run, the committed results, and the optimisers that they rest on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from featgeo.experiments import order
from featgeo.experiments.catalogue import CATALOGUE
from featgeo.experiments.entropy_modes import nested_gradient
from featgeo.experiments.entropy_networks import SigmoidNetworks, initial, loss_and_gradients
from featgeo.experiments.exact import _expand, optimise, row_losses
from featgeo.experiments.fits import interval, largest_angle, pooled_slope
from featgeo.experiments.hidden import Case as HiddenCase
from featgeo.experiments.joints import joint_of, random_family, sampled
from featgeo.experiments.page import write_page
from featgeo.experiments.record import Settings
from featgeo.experiments.remainder import cases, measure
from featgeo.experiments.runner import validate
from featgeo.theory.local import Solution
from featgeo.theory.problem import local_problem

DOCS = Path(__file__).parents[2] / "docs"
FINITE = ("order", "hidden", "entropy_output", "entropy_window", "entropy_modes")


@pytest.mark.slow
def test_the_quick_run_of_the_finite_problems_passes(tmp_path):
    assert validate(quick=True, only=FINITE, out=tmp_path, progress=False) == 0
    for name in FINITE:
        record = json.loads((tmp_path / "results" / f"{name}.json").read_text("utf-8"))
        assert record["status"] == "passed"
        assert record["verdict"]
        for figure in record["figures"]:
            assert (tmp_path / "figures" / f"{figure}.png").stat().st_size < 150 * 1024


def test_progress_never_leaves_its_range():
    seen = []
    order.run(Settings(quick=True, progress=lambda fraction, what: seen.append(fraction)))
    assert seen == sorted(seen)
    assert 0 <= seen[0] <= seen[-1] <= 1


def test_names_are_unique_and_file_names():
    names = [experiment.name for experiment in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() and name.islower() for name in names)


# -- committed results -------------------------------------------------------------------------------------------------


def test_the_committed_page_is_what_the_results_say(tmp_path):
    write_page(DOCS / "results", tmp_path / "validation.md")
    assert (tmp_path / "validation.md").read_text("utf-8") == (DOCS / "validation.md").read_text("utf-8")


def test_every_experiment_has_its_full_run_committed():
    for experiment in CATALOGUE:
        record = json.loads((DOCS / "results" / f"{experiment.name}.json").read_text("utf-8"))
        assert not record["key"]["quick"], experiment.name
        assert record["title"] == experiment.title
        for figure in record.get("figures", {}):
            for end in ("png", "svg"):
                assert (DOCS / "figures" / f"{figure}.{end}").exists(), figure


def test_a_committed_table_is_made_again():
    record = json.loads((DOCS / "results" / "order.json").read_text("utf-8"))
    series = record["series"]
    case = next(c for c in cases(quick=False) if c.loss == "cross_entropy" and c.width == 2)
    stored = series["remainders"][case.label][0]
    for epsilon, value in zip(series["epsilons"], stored, strict=True):
        made = abs(measure(case, record["key"]["seed"], epsilon).remainder)
        assert made == pytest.approx(value, rel=1e-4, abs=1e-13)


# -- what the experiments rest on --------------------------------------------------------------------------------------


def test_the_optimisers_hessian_is_that_of_automatic_differentiation():
    problem = local_problem(joint_of(random_family(0, 5, 4), 0.3))
    rows, n, k = row_losses(problem), 4, 2
    point = np.random.default_rng(0).standard_normal(n + n * k + 5 * k)

    def loss(vector):
        bias, weight, feature = (
            vector[:n],
            vector[n : n + n * k].reshape(n, k),
            vector[n + n * k :].reshape(5, k),
        )
        return problem.p_x @ rows(feature @ weight.T + bias)

    leaf = torch.from_numpy(point)
    value, gradient, hessian = _expand(rows, problem.p_x, point, n, k, np.ones(len(point)))
    assert value == pytest.approx(problem.exact_loss(*_parts(point, n, k)), abs=1e-14)
    np.testing.assert_allclose(gradient, torch.func.grad(loss)(leaf).numpy(), atol=1e-14)
    np.testing.assert_allclose(hessian, torch.func.jacrev(torch.func.grad(loss))(leaf).numpy(), atol=1e-13)


def _parts(point, n, k):
    return point[n : n + n * k].reshape(n, k), point[:n], point[n + n * k :].reshape(-1, k)


def test_at_full_width_the_optimum_is_the_conditional_entropy():
    problem = local_problem(joint_of(random_family(3, 6, 4), 0.9))
    generator = torch.Generator().manual_seed(0)
    start = Solution(
        0.1 * torch.randn(4, 3, generator=generator, dtype=torch.float64),
        problem.action,
        torch.randn(6, 3, generator=generator, dtype=torch.float64),
        0.0,
    )
    found = optimise(row_losses(problem), problem.p_x, start, 0.9)
    conditional = problem.joint / problem.p_x[:, None]
    assert found.loss == pytest.approx(-(problem.joint * conditional.log()).sum().item(), abs=1e-13)


def test_joints_have_the_dependence_asked_for():
    family = random_family(1, 8, 6)
    for epsilon in (1.0, 0.1, 0.003):
        joint = joint_of(family, epsilon)
        assert (joint >= 0).all()
        assert joint.sum() == pytest.approx(1)
        assert local_problem(joint).dependence == pytest.approx(epsilon, rel=1e-9)
    drawn = sampled(joint_of(family, 0.3), 1000, 0)
    assert (drawn * 1000).sum() == pytest.approx(1000)
    with pytest.raises(ValueError, match="was found"):
        random_family(0, 2, 2, largest=1.1)


def test_tails_reach_the_outputs_action_where_they_say():
    p_y = joint_of(random_family(0, 8, 6), 0.1).sum(0)
    for name in ("tanh", "sigmoid", "leaky ReLU"):
        tail, z = HiddenCase(name, 3, 4).tail(0, p_y)
        torch.testing.assert_close(tail(z[None])[0], p_y.log())


def test_slopes_intervals_and_angles():
    epsilons = [1.0, 0.1, 0.01]
    fit = pooled_slope(epsilons, [[3 * e**2.5 for e in epsilons], [e**2.5 for e in epsilons]])
    assert fit.mean == pytest.approx(2.5)
    assert fit.low == pytest.approx(2.5)
    assert fit.high == pytest.approx(2.5)
    noisy = pooled_slope(epsilons, [[1.0, 1e-3, 1e-6], [1.0, 1e-1, 1e-2], [1.0, 1e-2, 1e-4]])
    assert noisy.low < noisy.mean < noisy.high
    t = interval([1.0, 2.0, 3.0])
    assert (t.mean, t.high - t.mean) == (2.0, pytest.approx(4.302652729911275 / 3**0.5))
    angle = 1e-9
    a = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    b = torch.tensor([[np.cos(angle)], [np.sin(angle)], [0.0]], dtype=torch.float64)
    assert largest_angle(a, 5 * b) == pytest.approx(angle, rel=1e-6)
    assert largest_angle(a, torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)) == pytest.approx(
        np.pi / 2
    )


def test_the_networks_gradients_are_those_of_automatic_differentiation():
    rng = np.random.default_rng(0)
    networks = initial(rng, 2, 4, 3, 6)
    joints = rng.random((2, 8, 6))
    joints /= joints.sum((1, 2), keepdims=True)
    hidden = rng.standard_normal((2, 8, 4))
    loss, gradients = loss_and_gradients(networks, joints, hidden)
    w, c, v, b = leaves = [torch.from_numpy(part).requires_grad_() for part in networks.parts]
    z = torch.from_numpy(hidden) @ w.mT + c[:, None]
    logits = torch.sigmoid(z) @ v.mT + b[:, None]
    expected = -(torch.from_numpy(joints) * logits.log_softmax(-1)).sum((1, 2))
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-13)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.sum(), leaves), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-14)
    assert isinstance(networks.one(1), SigmoidNetworks)


def test_the_nested_gradient_is_that_of_the_summed_h_scores():
    rng = np.random.default_rng(0)
    joint = rng.random((5, 4))
    joint /= joint.sum()
    f, g = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
    p = torch.from_numpy(joint)
    p_x, p_y = p.sum(1), p.sum(0)

    def score(f, g):
        total = 0.0
        for i in range(1, 4):
            a, b = f[:, :i] - p_x @ f[:, :i], g[:, :i] - p_y @ g[:, :i]
            cross = torch.einsum("xy,xi,yi->", p, a, b)
            total = total + cross - 0.5 * torch.trace((a.T * p_x) @ a @ (b.T * p_y) @ b)
        return total

    expected = torch.func.grad(score, argnums=(0, 1))(torch.from_numpy(f), torch.from_numpy(g))
    for ours, theirs in zip(nested_gradient(joint, f, g), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-14)

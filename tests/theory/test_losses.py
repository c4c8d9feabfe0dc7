"""Every loss is what it says: value, gradient, metric and action against torch, autograd and a general optimiser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import Tensor, nn

import featgeo as fg
from featgeo.theory.losses import CanonicalLoss, CrossEntropy, Loss, MeanSquare
from featgeo.theory.named import NAMED, resolve_loss
from featgeo.theory.risk import CanonicalRisk, EmpiricalRisk, make_risk, output_scores

SAMPLES, WIDTH = 7, 4


def unit_targets(rng: np.random.Generator) -> Tensor:
    """Values in (0, 1), which any loss of real targets accepts; a new named loss is tested with these."""
    return torch.from_numpy(0.05 + 0.9 * rng.random((SAMPLES, WIDTH)))


def soft_labels(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.dirichlet(np.ones(WIDTH), SAMPLES))


def hard_labels(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.permutation(np.arange(SAMPLES) % WIDTH))


TARGETS: dict[str, list[Callable[[np.random.Generator], Tensor]]] = {
    "cross_entropy": [hard_labels, soft_labels]
}
LOSSES: dict[str, Callable[[], Loss]] = {
    **NAMED,
    "label_smoothing": lambda: CrossEntropy(0.2),
    "sum_of_squares": lambda: MeanSquare(total=True),
}
CASES = [
    pytest.param(make, targets, id=f"{name}-{targets.__name__}")
    for name, make in LOSSES.items()
    for targets in TARGETS.get(make().name, [unit_targets])
]


@pytest.mark.parametrize(("make", "targets_of"), CASES)
class TestCanonicalLoss:
    """What every canonical loss must do; a loss added to NAMED is picked up by itself."""

    @pytest.fixture
    def loss(self, make: Callable[[], CanonicalLoss]) -> CanonicalLoss:
        return make()

    @pytest.fixture
    def targets(self, loss: CanonicalLoss, targets_of: Callable[[np.random.Generator], Tensor]) -> Tensor:
        return loss.check(targets_of(np.random.default_rng(1)), WIDTH)

    @pytest.fixture
    def outputs(self) -> Tensor:
        return torch.from_numpy(np.random.default_rng(2).standard_normal((SAMPLES, WIDTH)))

    def test_value_is_partition_less_inner_product(
        self, loss: CanonicalLoss, targets: Tensor, outputs: Tensor
    ) -> None:
        statistic = loss.statistic(targets, WIDTH).double()
        assembled = loss.log_partition(outputs) - (outputs * statistic).sum(1) + loss.base(targets)
        assert torch.allclose(loss.values(outputs, targets), assembled, atol=1e-7)
        assert loss.values(outputs, targets).shape == (SAMPLES,)

    def test_score_is_mean_less_statistic(
        self, loss: CanonicalLoss, targets: Tensor, outputs: Tensor
    ) -> None:
        leaf = outputs.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss.values(leaf, targets).sum(), leaf)
        assert torch.allclose(
            loss.mean(outputs) - loss.statistic(targets, WIDTH).double(), expected, atol=1e-7
        )
        scores = output_scores(loss, targets, outputs[0])
        leaf = outputs[:1].expand(SAMPLES, -1).clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss.values(leaf, targets).sum(), leaf)
        assert torch.allclose(scores, expected, atol=1e-7)

    def test_factor_is_a_root_of_the_hessian(
        self, loss: CanonicalLoss, targets: Tensor, outputs: Tensor
    ) -> None:
        for output in outputs:
            factor = loss.factor(output)
            for target in targets:

                def value(z: Tensor, y: Tensor = target) -> Tensor:
                    return loss.values(z[None], y[None])[0]

                hessian = torch.autograd.functional.hessian(value, output)
                assert torch.allclose(factor.T @ factor, hessian, atol=1e-12)

    def test_action_minimises_the_risk(self, loss: CanonicalLoss, targets: Tensor) -> None:
        weights = torch.from_numpy(np.random.default_rng(3).dirichlet(np.ones(SAMPLES)))
        risk = make_risk(loss, targets, weights, WIDTH)
        assert isinstance(risk, CanonicalRisk)
        action, cut = loss.action(risk.mean)
        assert not cut.any()

        def value(z: np.ndarray) -> float:
            rows = torch.from_numpy(z).expand(SAMPLES, -1)
            return float(loss.values(rows, targets) @ weights)

        found = optimize.minimize(value, np.zeros(WIDTH), method="BFGS", options={"gtol": 1e-8})
        assert value(action.numpy()) <= found.fun + 1e-12
        assert abs(risk.value(action[None]).item() - found.fun) < 1e-7
        assert torch.allclose(loss.mean(action), risk.mean, atol=1e-12)
        reached = loss.mean(torch.from_numpy(found.x))
        assert torch.allclose(reached, risk.mean, atol=1e-5)

    def test_canonical_and_differentiated_risk_agree(
        self, loss: CanonicalLoss, targets: Tensor, outputs: Tensor
    ) -> None:
        weights = torch.from_numpy(np.random.default_rng(3).dirichlet(np.ones(SAMPLES)))
        closed, traced = make_risk(loss, targets, weights, WIDTH), EmpiricalRisk(loss, targets, weights)
        assert torch.allclose(closed.value(outputs), traced.value(outputs), atol=1e-7)
        assert torch.allclose(closed.gradient(outputs[0]), traced.gradient(outputs[0]), atol=1e-7)
        root = traced.factor(outputs[0])
        assert torch.allclose(
            closed.factor(outputs[0]).T @ closed.factor(outputs[0]), root.T @ root, atol=1e-9
        )

    def test_checked_targets_pass_again(self, loss: CanonicalLoss, targets: Tensor) -> None:
        assert torch.equal(loss.check(targets, WIDTH), targets)


LABELS = torch.tensor([0, 3, 1, 2, 1, 0, 3])
BITS = torch.tensor([[0, 1, 1, 0]] * SAMPLES)
COUNTS = torch.tensor([[0.0, 1.0, 4.0, 2.0]] * SAMPLES)


@pytest.mark.parametrize(
    ("module", "targets"),
    [
        (nn.CrossEntropyLoss(), LABELS),
        (nn.CrossEntropyLoss(label_smoothing=0.3), LABELS),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0])), LABELS),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0]), label_smoothing=0.1), LABELS),
        (nn.NLLLoss(), LABELS),
        (nn.NLLLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0])), LABELS),
        (nn.MSELoss(), COUNTS),
        (nn.MSELoss(reduction="sum"), COUNTS),
        (nn.BCEWithLogitsLoss(), BITS.float()),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 0.5, 3.0])), BITS.float()),
        (nn.BCEWithLogitsLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0])), BITS.float()),
        (nn.BCEWithLogitsLoss(reduction="sum"), BITS.float()),
        (nn.PoissonNLLLoss(), COUNTS),
        (nn.PoissonNLLLoss(full=True), COUNTS),
        (nn.PoissonNLLLoss(log_input=False), COUNTS),
        (nn.HuberLoss(delta=0.5), COUNTS),
        (nn.SmoothL1Loss(), COUNTS),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_modules_keep_their_values(module: nn.Module, targets: Tensor, dtype: torch.dtype) -> None:
    """Per sample: the module itself on one sample at a time (a weighted mean over one sample keeps the weight)."""
    outputs = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(0), dtype=dtype)
    if isinstance(module, nn.NLLLoss) and not isinstance(module, nn.PoissonNLLLoss):
        outputs = outputs.log_softmax(1)
    if isinstance(module, nn.PoissonNLLLoss) and not module.log_input:
        outputs = outputs.exp()
    goal = targets.to(dtype) if targets.is_floating_point() else targets
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    loss = resolve_loss(module)
    values = loss.values(outputs, loss.check(goal, WIDTH))
    reduction = module.reduction
    try:
        module.to(dtype).reduction = "sum" if reduction == "sum" or _class_weighted(module) else "mean"
        expected = torch.stack([module(z[None], y[None]) for z, y in zip(outputs, goal, strict=True)])
    finally:
        module.to(torch.float32).reduction = reduction
    assert torch.allclose(values, expected, rtol=1e-6)
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())


def _class_weighted(module: nn.Module) -> bool:
    return isinstance(module, nn.CrossEntropyLoss | nn.NLLLoss) and module.weight is not None


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("cross_entropy", F.cross_entropy),
        ("mse", F.mse_loss),
        ("bce", F.binary_cross_entropy_with_logits),
        ("poisson", F.poisson_nll_loss),
    ],
)
def test_named_losses_have_the_scale_of_torch(
    name: str, function: Callable[[Tensor, Tensor], Tensor]
) -> None:
    outputs = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = LABELS if name == "cross_entropy" else BITS.double()
    loss = resolve_loss(name)
    assert torch.allclose(loss.values(outputs, targets).mean(), function(outputs, targets))


def test_class_weights_reach_the_local_problem() -> None:
    """A float32 weight in the module, float64 everywhere else: the action weighs the classes."""
    joint = np.random.default_rng(0).random((5, 3))
    weight = torch.tensor([1.0, 4.0, 0.5])
    problem = fg.local_problem(joint, loss=nn.CrossEntropyLoss(weight=weight), width=3)
    expected = torch.from_numpy(joint.sum(0)) * weight.double()
    assert torch.allclose(problem.action.softmax(0), expected / expected.sum(), atol=1e-8)
    assert weight.dtype == torch.float32


def test_a_loss_is_passed_through() -> None:
    loss = MeanSquare()
    assert resolve_loss(loss) is loss

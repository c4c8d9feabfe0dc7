"""Measures of locality that were tried beside :attr:`featgeo.network.views.View.locality`, from the data themselves.

None of them knows W*. Notation: g(z) the tail, c the Bayes action, J its Jacobian there, M = RᵀR the metric of the
outputs, p(g) the loss's mean (softmax), ℓ = J (z - z̄) the linearised outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featgeo.theory.bayes import bayes_action
from featgeo.theory.linalg import thin_svd, whiten
from featgeo.theory.named import resolve_loss
from featgeo.theory.risk import Risk, make_risk

SAMPLES = 60  # at which Jacobians are taken

MEASURES = {
    "locality": "locality of `analyze()`: correlation of g and ℓ in M, times that of ∇loss and its linearisation "
    "along the principal axes of ℓ",
    "gain": "predicted and actual decrease of the loss, smaller over larger (knows the labels)",
    "marginal": "½ E‖Rℓ‖² and the actual increase of the mean loss against P_Y, smaller over larger",
    "tail": "minus the tail's non-linearity E‖R(g - ḡ - ℓ)‖² / E‖R(g - ḡ)‖²",
    "displacement": "minus the squared displacement of the logits E‖R(g - ḡ)‖²",
    "sum": "minus non-linearity, minus squared displacement",
    "outputs": "correlation of g and ℓ in M",
    "outputs_scaled": "concordance of g and ℓ in M (sees scale)",
    "mean_jacobian": "cosine of J and the average tail J̄, in M and Cov(z)",
    "local_jacobian": "cosine of J and ∂g/∂z at 60 samples, in M and Cov(z)",
    "scores": "cosine of the layer's exact and linearised scores at 60 samples, in H⁺",
    "score_features": "cosine of the layer's exact and linearised scores projected on the features",
    "sigma_points": "correlation of p(g) and Mℓ at sigma points of z",
    "gaussian": "correlation of p(g) and Mℓ at Gaussian z",
    "means": "correlation of p(g) and Mℓ over the data",
    "means_scaled": "concordance of p(g) and Mℓ over the data (sees scale)",
    "means_linear": "cosine of Cov(p(g), f) and M Cov(ℓ, f) in M⁻¹ and Cov(f)⁻¹ (at an unpenalised optimum of the "
    "output layer this is the alignment itself: circular there)",
    "product": "correlation of g and ℓ, times that of p(g) and Mℓ over the data",
}


def _cosine(a: Tensor, b: Tensor) -> float:
    return ((a * b).sum() / (a.norm() * b.norm())).item()


def _concordance(a: Tensor, b: Tensor) -> float:
    return (2 * (a * b).sum() / (a.square().sum() + b.square().sum())).item()


def _centred(a: Tensor) -> Tensor:
    return a - a.mean(0)


def measures(model: nn.Sequential, layer: nn.Linear, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """All measures of one layer of a sequential classifier but those that :func:`featgeo.analyze` gives.

    Args:
        model: float64.
        layer: one of its modules.
        inputs: (m, k).
        targets: soft labels (m, d).
    """
    place = list(model).index(layer)
    tail = nn.Sequential(*list(model)[place + 1 :])
    with torch.no_grad():
        features = nn.Sequential(*list(model)[:place])(inputs)
        z = layer(features)
        outputs = tail(z)
    loss = resolve_loss("cross_entropy")
    weights = torch.full((len(targets),), 1 / len(targets), dtype=torch.float64)
    risk = make_risk(loss, targets, weights, targets.shape[1])
    last = not len(tail)
    point = bayes_action(risk, None if last else tail, None if last else z.mean(0))
    metric = risk.factor(point.output)
    dual = thin_svd(metric).pseudo_inverse  # maps ∇loss into the coordinates of R g
    linear = _centred(z) @ point.jacobian.T @ metric.T
    actual = _centred(outputs) @ metric.T
    means = _centred(outputs.softmax(1)) @ dual
    found = {
        "outputs": _cosine(linear, actual),
        "outputs_scaled": _concordance(linear, actual),
        "means": _cosine(linear, means),
        "means_scaled": _concordance(linear, means),
        "displacement": -actual.square().sum().item() / len(z),
        "tail": -((actual - linear).square().sum() / actual.square().sum()).item(),
    }
    found["sum"] = found["tail"] + found["displacement"]
    found["product"] = max(0.0, found["outputs"]) * max(0.0, found["means"])
    low, high = sorted(
        (
            risk.value(_centred(outputs) + point.output).mean().item() - point.loss,
            0.5 * linear.square().sum().item() / len(z),
        )
    )
    found["marginal"] = max(0.0, low / high) if high > 0 else 1.0
    covariance = _centred(z).T @ _centred(z) / len(z)
    found |= _at_points(tail, z.mean(0), covariance, point.jacobian, metric, dual)
    return found | _at_samples(tail, features, z, outputs, covariance, point.jacobian, metric, risk)


def _at_points(
    tail: nn.Module, centre: Tensor, covariance: Tensor, jacobian: Tensor, metric: Tensor, dual: Tensor
) -> dict[str, float]:
    """Means of the tail at sigma points and at Gaussian points of z."""
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp_min(0).sqrt()).T
    sigma = root * len(root) ** 0.5
    draws = (
        torch.randn(128, len(root), generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ root
    )
    found = {}
    for name, steps in (("sigma_points", sigma), ("gaussian", draws)):
        both = torch.cat([steps, -steps])
        with torch.no_grad():
            means = tail(centre + both).softmax(1)
        found[name] = _cosine(both @ jacobian.T @ metric.T, _centred(means) @ dual)
    return found


def _at_samples(
    tail: nn.Sequential,
    features: Tensor,
    z: Tensor,
    outputs: Tensor,
    covariance: Tensor,
    jacobian: Tensor,
    metric: Tensor,
    risk: Risk,
) -> dict[str, float]:
    """What needs the tail's Jacobian at samples, or the features."""
    chosen = torch.arange(0, len(z), max(1, len(z) // SAMPLES))
    rows = z[chosen].clone().requires_grad_()
    columns = [
        torch.autograd.grad(column.sum(), rows, retain_graph=True)[0] for column in tail(rows).unbind(1)
    ]
    local = torch.stack(columns, dim=1)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt()
    seen = metric @ jacobian @ root
    average = torch.linalg.lstsq(_centred(z), _centred(outputs), driver="gelsd").solution.T
    svd = thin_svd(metric @ jacobian)
    exact = _centred(torch.einsum("bdn,bd->bn", local, risk.gradient(outputs[chosen])))
    exact = exact @ svd.right / svd.values
    linear = _centred(z[chosen]) @ svd.right * svd.values
    white = _centred(features) @ whiten(_centred(features).T @ _centred(features) / len(z)).transform
    dual = thin_svd(metric).pseudo_inverse
    means = (_centred(outputs.softmax(1)) @ dual).T @ white
    images = (_centred(z) @ jacobian.T @ metric.T).T @ white
    return {
        "mean_jacobian": _cosine(seen, metric @ average @ root),
        "local_jacobian": _cosine(
            torch.einsum("od,bdn,nr->bor", metric, local, root), seen.expand(len(chosen), -1, -1)
        ),
        "scores": _cosine(exact, linear),
        "score_features": _cosine(exact.T @ white[chosen], linear.T @ white[chosen]),
        "means_linear": _cosine(means, images),
    }

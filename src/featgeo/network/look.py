"""From the moments of a layer to its View at an operating point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from featgeo.data.moments import Moments
from featgeo.data.sample import Sample
from featgeo.network.layers import Layer, as_weight, groups_of, weight_matrix
from featgeo.network.precision import standard_errors
from featgeo.network.stand import Stand
from featgeo.network.sweep import Sweep
from featgeo.network.views import View
from featgeo.theory.blocks import within_blocks
from featgeo.theory.layer import LayerFit, average_tail, fit_layer
from featgeo.theory.linalg import Whitener, thin_svd, whiten
from featgeo.theory.noise import adjusted_gain, noise_floor
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import Risk

AXES = 32  # most principal axes of the outputs along which the loss's gradient is looked at


@dataclass(frozen=True)
class Outlook:
    """What is known of a layer once the data have been seen; float64 on the CPU.

    Attributes:
        layer: the layer.
        moments: of its features f, with companion u = [g, T].
        pair: moments of u.
        whitener: of Cov(f).
        weight: W (n, k).
        bias: b (n,).
        risk: expected loss of an output.
        output: the output's operating point.
        is_output: whether the layer's output is the model's.
        loss: the model's mean loss.
        weight_decay: λ.
        notes: what is odd about the features.
        rows: some of f (m, k), None where none were kept.
        sample: the samples that these rows are of.
        batches: number of batches that were read.
    """

    layer: Layer
    moments: Moments
    pair: Moments
    whitener: Whitener
    weight: Tensor
    bias: Tensor
    risk: Risk
    output: OperatingPoint
    is_output: bool
    loss: float
    weight_decay: float
    notes: tuple[str, ...]
    rows: Tensor | None
    sample: Sample
    batches: int

    @classmethod
    def of(
        cls, layer: Layer, name: str, found: Sweep, risk: Risk, output: OperatingPoint, weight_decay: float
    ) -> Outlook:
        """The outlook of a layer that a sweep saw."""
        moments = found.layers[name]
        whitener = whiten(moments.covariance, found.precisions[name], moments.mean)
        weight, bias = weight_matrix(layer)
        width, notes = len(moments.mean), []
        if moments.count <= whitener.rank + 1:
            notes.append(
                f"layer '{name}': {moments.count} samples for {width} features; gain cannot be told from noise. "
                "Analyse more data."
            )
        elif whitener.rank < width:
            notes.append(
                f"layer '{name}': its {width} features have rank {whitener.rank}; W* is the one without a part "
                "that the data do not see."
            )
        return cls(
            layer, moments, found.pair, whitener, weight, bias, risk, output,
            found.seen[name].is_output, found.loss, weight_decay, tuple(notes),
            found.sample.rows.get(name), found.sample, found.batches,
        )  # fmt: skip

    @cached_property
    def mean_action(self) -> Tensor:
        """E[z] = Wμ + b (n,)."""
        return self.weight @ self.moments.mean + self.bias

    @property
    def _width(self) -> int:
        return len(self.output.output)

    @cached_property
    def white(self) -> Tensor:
        """Cov(u, white features) (2d, r)."""
        return self.whitener.white(self.moments.cross_covariance)

    @property
    def statistic_cross(self) -> Tensor:
        """Cov(T, f) (d, k)."""
        return self.moments.cross_covariance[self._width :]

    @property
    def statistic_covariance(self) -> Tensor:
        """Cov(T) (d, d)."""
        return self.pair.covariance[self._width :, self._width :]

    def at_output(self) -> Stand:
        """The output layer: its tail is the identity, and both operating points are one."""
        step = self.output.action - self.mean_action
        factor = self.output.factor
        lost = 0.5 * (factor @ step).square().sum() - self.output.residual @ step
        unit = torch.eye(self._width, dtype=torch.float64)
        action = self.output.action
        svd = self.output.readout
        return Stand(
            "average", unit, factor, svd, action, step, lost.item(), self.output.loss, 1.0, metric_svd=svd
        )

    def average(
        self, cross: Tensor | None = None, covariance: Tensor | None = None, mean: Tensor | None = None
    ) -> Stand:
        """The tail linearised over the data; moments of the outputs g other than those seen may be given."""
        if self.is_output:
            return self.at_output()
        width, metric = self._width, self.output.factor
        cross = self.moments.cross_covariance[:width] if cross is None else cross
        covariance = self.pair.covariance[:width, :width] if covariance is None else covariance
        mean = self.pair.mean[:width] if mean is None else mean
        cross = cross.masked_fill(still(covariance, mean, self.whitener.tolerance)[:, None], 0.0)
        tail = average_tail(cross, covariance, self.weight, self.whitener, metric)
        wanted = metric @ (self.output.output - mean)
        lost = 0.5 * wanted.square().sum() + self.output.residual @ (mean - self.output.output)
        factor = thin_svd(metric @ tail.jacobian)
        centre, determination = self.output.output, tail.determination
        step = factor.pseudo_inverse @ wanted
        return Stand(
            "average",
            tail.jacobian,
            metric,
            factor,
            centre,
            step,
            lost.item(),
            self.output.loss,
            determination,
            tail=tail,
            metric_svd=self.output.readout,
        )

    def at_point(self, point: OperatingPoint) -> Stand:
        """The tail linearised at a constant action (the paper)."""
        step = point.action - self.mean_action
        lost = 0.5 * (point.factor @ step).square().sum() - point.score_mean @ step
        metric = self.risk.factor(point.output)
        return Stand(
            "bayes",
            point.jacobian,
            metric,
            point.curvature,
            point.output,
            step,
            lost.item(),
            point.loss,
            None,
            point.saturated,
            metric_svd=point.readout,
        )

    def fit(self, stand: Stand) -> LayerFit:
        """The layer beside its optimum."""
        wanted = stand.beside.cross if stand.beside else self.statistic_cross
        white = self.whitener.white(wanted) if stand.beside else self.white[self._width :]
        readout = (stand.readout.right / stand.readout.values).T @ white
        readout_gain = 0.5 * readout.square().sum().item()
        fit = fit_layer(
            factor=stand.factor,
            jacobian=stand.jacobian,
            statistic=wanted,
            white=white,
            covariance=self.moments.covariance,
            whitener=self.whitener,
            mean=self.moments.mean,
            weight=self.weight,
            action=self.mean_action + stand.displacement,
            displacement_loss=stand.displacement_loss,
            readout_gain=readout_gain,
            weight_decay=self.weight_decay,
        )
        groups = groups_of(self.layer)
        if groups == 1:
            return fit
        return within_blocks(
            fit,
            factor=stand.factor,
            wanted=(stand.factor.right.T @ stand.jacobian.T @ white) / stand.factor.values[:, None],
            whitener=self.whitener,
            mean=self.moments.mean,
            weight=self.weight,
            readout_gain=readout_gain,
            groups=groups,
            weight_decay=self.weight_decay,
        )

    def score_covariance(self, stand: Stand) -> Tensor:
        """Covariance (r, r) of the whitened scores that the tail can see."""
        factor, metric = stand.factor, stand.readout
        half = factor.left.T @ (metric.left / metric.values) @ metric.right.T
        covariance = stand.beside.covariance if stand.beside else self.statistic_covariance
        return half @ covariance @ half.T


def still(covariance: Tensor, mean: Tensor, tolerance: float) -> Tensor:
    """Which entries (d,) do not vary on the data: what seems to is rounding of their mean."""
    return covariance.diagonal().clamp_min(0).sqrt() <= tolerance * mean.abs()


def locality(outlook: Outlook, stand: Stand, seen: Tensor) -> float:
    """How far the linear picture of tail and loss holds over the spread of the layer's output, in [0, 1].

    The product of two correlations, neither of which knows the targets or W*: in the output metric, of the model's
    outputs with those of the linearised tail (from the moments); and of the loss's gradient with its linearisation, at
    √3 standard deviations (the nodes of Gauss and Hermite) to both sides along the principal axes of these outputs.

    Args:
        outlook: of the layer.
        stand: the operating point.
        seen: what the metric sees the weights in use make of white features (m, r), R W Σ^½.
    """
    width = len(outlook.output.output)
    actual = stand.metric @ outlook.white[:width]
    outputs = outlook.pair.covariance[:width, :width]
    spread = (stand.metric @ outputs * stand.metric).sum().sqrt()
    tail = (seen * actual).sum() / (seen.norm() * spread)
    if not seen.norm() * spread > 0:
        return float(spread == seen.norm())  # a constant network is linear; else one of the two sees nothing
    axes = thin_svd(seen).right[:, :AXES].T @ outlook.whitener.root.T  # rows: the root's columns lie together
    steps = math.sqrt(3) * (axes @ outlook.weight.T @ stand.jacobian.T)
    steps = torch.cat([steps, -steps])
    metric = stand.readout
    change = outlook.risk.gradient(stand.output + steps) - outlook.risk.gradient(stand.output)
    change = change @ (metric.right / metric.values)
    steps = steps @ stand.metric.T @ metric.left
    loss = (steps * change).sum() / (steps.norm() * change.norm())
    value = (tail.clamp_min(0) * loss.clamp_min(0)).item()
    return min(1.0, value) if math.isfinite(value) else 0.0


def agreement(predicted: float, actual: float) -> float:
    """Smaller over larger of two decreases; 0 where their signs differ, 1 where both vanish."""
    low, high = sorted((predicted, actual))
    if low == high:
        return 1.0
    return max(0.0, low / high) if high > 0 else max(0.0, high / low)


def look(outlook: Outlook, stand: Stand) -> View:
    """The View of a layer at an operating point."""
    fit, scores = outlook.fit(stand), outlook.score_covariance(stand)
    rank, samples = outlook.whitener.rank, stand.beside.samples if stand.beside else outlook.moments.count
    weight = outlook.layer.weight
    alignment_error, available_error, used_error = standard_errors(outlook, stand, fit)
    return View(
        at=stand.at,
        alignment=fit.alignment,
        scale=fit.scale,
        locality=stand.beside.locality if stand.beside else locality(outlook, stand, fit.used),
        agreement=agreement(fit.predicted_decrease, stand.constant_loss - outlook.loss),
        gain_available=fit.gain_available,
        gain_used=fit.gain_used,
        gain_adjusted=adjusted_gain(fit.gain_available, scores, rank, samples),
        gap_weight=fit.gap_weight,
        gap_bias=fit.gap_bias,
        gap_rank=fit.gap_rank,
        spectrum=tuple(fit.spectrum[: len(scores)].tolist()),
        noise_floor=noise_floor(scores, rank, samples),
        constant_loss=stand.constant_loss,
        predicted_loss=stand.constant_loss - fit.predicted_decrease,
        tail_r2=stand.tail_r2,
        alignment_error=alignment_error,
        gain_available_error=available_error,
        gain_used_error=used_error,
        saturated=stand.saturated,
        tail_error=stand.beside.error if stand.beside else None,
        remark=stand.beside.remark if stand.beside else "",
        optimal_weight=as_weight(outlook.layer, fit.weight_in(weight.dtype)).to(weight),
        optimal_bias=fit.optimal_bias.to(weight),
    )

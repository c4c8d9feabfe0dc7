"""One layer in a report: a LayerReport with one View per operating point, and the findings about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from featgeo.errors import FeatgeoError


@dataclass(frozen=True)
class View:
    """What one operating point says of a layer. Gains, gaps and losses in loss units (nats for cross-entropy).

    Attributes:
        at: ``average`` (tail linearised over the data) or ``bayes`` (at the constant Bayes action, the paper).
        alignment: cosine of what the weights do with what the optimal weights W* would do, in [-1, 1].
        scale: length of the former over the length of the latter.
        locality: how far the linear picture of tail and loss holds over the spread of this layer's output, in [0, 1];
            below about 0.8 the other numbers of this view mean little. It knows neither targets nor W*.
        agreement: of the decrease of the loss against the constant that the quadratic predicts with the actual one,
            the smaller over the larger, in [0, 1]; near 0 gains and gaps are directions at best.
        gain_available: decrease of the loss that the layer's input features allow through its tail.
        gain_used: decrease that the weights in use attain, by the same quadratic.
        gain_adjusted: gain_available less what noise alone would show; 0 with fewer samples than features.
        gap_weight: lost because W is not W*.
        gap_bias: lost because the mean output is not the Bayes action.
        gap_rank: what a free linear read-out of the features would gain beyond gain_available.
        spectrum: singular values of B on the features, descending; gain_available is half the sum of squares.
        noise_floor: singular values below it are not told from noise (5 % level).
        constant_loss: loss of the best constant output.
        predicted_loss: loss that the quadratic predicts for the weights in use.
        tail_r2: R² of the linear tail (average view only), else None.
        alignment_error: standard error of the alignment, from how much samples and batches vary; None where it cannot
            be told (fewer samples than features; beside another road at its Bayes action) or was not recorded. At the
            mean Jacobian the error of that is in it; with a subset far smaller than the data, and far from the local
            region, the gain used then has up to 1.6 times what a bootstrap shows.
        gain_available_error: the same of gain_available.
        gain_used_error: the same of gain_used.
        saturated: neurons whose derivative vanishes at the Bayes action (bayes view only).
        tail_error: standard error of the alignment through the estimate of the mean Jacobian (jacobian view only).
        step: change of the loss that the quadratic predicts for a small move of the weights towards W*, and the change
            measured; None where it was not measured.
        remark: what else is to be said of this view.
        nulls: name of a null -> alignments found under it.
        optimal_weight: W* (n, k) in torch's layout (for a convolution: flattened kernels), or None after loading.
        optimal_bias: b* (n,), or None after loading.
    """

    at: str
    alignment: float
    scale: float
    locality: float
    agreement: float
    gain_available: float
    gain_used: float
    gain_adjusted: float
    gap_weight: float
    gap_bias: float
    gap_rank: float
    spectrum: tuple[float, ...]
    noise_floor: float
    constant_loss: float
    predicted_loss: float
    tail_r2: float | None = None
    alignment_error: float | None = None
    gain_available_error: float | None = None
    gain_used_error: float | None = None
    saturated: tuple[int, ...] = ()
    tail_error: float | None = None
    step: tuple[float, float] | None = None
    remark: str = ""
    nulls: dict[str, tuple[float, ...]] = field(default_factory=dict)
    optimal_weight: Tensor | None = field(default=None, compare=False, repr=False)
    optimal_bias: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def significant(self) -> int:
        """Number of modes above the noise floor."""
        return sum(value > self.noise_floor for value in self.spectrum)

    def rank(self, fraction: float = 0.99) -> int:
        """Number of modes that hold this fraction of the gain of all significant modes."""
        if not 0 < fraction <= 1:
            raise FeatgeoError("fraction", f"{fraction}", "Pass a number in (0, 1].")
        gains = [value**2 for value in self.spectrum[: self.significant]]
        total, kept = sum(gains), 0.0
        for count, gain in enumerate(gains):
            if kept >= fraction * total * (1 - 1e-12):
                return count
            kept += gain
        return len(gains)

    @property
    def width_curve(self) -> tuple[float, ...]:
        """Predicted loss with 0, 1, 2, ... modes kept at their optimum."""
        curve = [self.constant_loss]
        for value in self.spectrum:
            curve.append(curve[-1] - 0.5 * value**2)
        return tuple(curve)


ERRORS = ("alignment_error", "gain_available_error", "gain_used_error")
VIEW_FIELDS = tuple(f.name for f in fields(View))


@dataclass(frozen=True)
class LayerReport:
    """One layer. Every field of :class:`View` can be read from it directly: it is that of the default view.

    Attributes:
        name: as in ``model.named_modules()``.
        kind: class name of the module.
        neurons: n, 0 where the layer was skipped.
        inputs: k.
        status: ``analysed``, ``bypassed`` (another road leads to the output) or ``skipped``.
        reason: why not analysed in full, else empty.
        feature_rank: numerical rank of the features' covariance.
        is_output: whether its output is the model's.
        depth: its place in the order in which the model calls the layers, from 0.
        gain_features: decrease of the loss that a free linear read-out of its input features would have, less what
            noise alone would show; comparable along depth.
        gain_features_noise: the standard deviation that chance alone gives it.
        constant_features: numbers of the input features that never vary on the data.
        averaged: whether the features are means over positions or calls (or belong to one position of many), so that
            they are not all that the layer reads of a sample.
        default: name of the view shown first.
        passes: time of the passes that this layer alone needed, in forward passes over the samples that they saw.
        views: by operating point.
        warnings: assumptions that fail for this layer, in words.
    """

    name: str
    kind: str
    neurons: int
    inputs: int
    status: str
    reason: str = ""
    feature_rank: int = 0
    is_output: bool = False
    depth: int = 0
    gain_features: float = math.nan
    gain_features_noise: float = math.nan
    constant_features: tuple[int, ...] = ()
    averaged: bool = False
    default: str = "average"
    passes: float = 0.0
    views: dict[str, View] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def view(self, at: str | None = None) -> View:
        """The view at an operating point.

        Raises:
            FeatgeoError: where this layer has no such view.
        """
        at = at or self.default
        if at not in self.views:
            raise FeatgeoError(
                f"layer '{self.name}'",
                f"no view at {at!r} ({self.status}: {self.reason})",
                f"It has: {list(self.views)}.",
            )
        return self.views[at]

    def __getattr__(self, name: str) -> Any:
        if name in VIEW_FIELDS or name in ("significant", "rank", "width_curve"):
            return getattr(self.view(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@dataclass(frozen=True)
class Finding:
    """Something worth acting on.

    Attributes:
        layer: name of the layer.
        title: what is found.
        detail: with its numbers.
        remedy: what to do, in words.
        severity: ``act``, ``note`` or ``doubt``.
        call: the call that does it, as Python.
        value: the number that passed the threshold.
        threshold: the threshold; those in use are the constants of ``featgeo.network.findings``.
    """

    layer: str
    title: str
    detail: str
    remedy: str
    severity: str
    call: str = ""
    value: float | None = None
    threshold: float | None = None


def layer_from(plain: dict[str, Any]) -> LayerReport:
    """A LayerReport from plain data, in which None stands for NaN."""

    def numbers(values: list[float | None]) -> tuple[float, ...]:
        return tuple(math.nan if value is None else value for value in values)

    views = {}
    for at, view in plain.pop("views").items():
        keep_none = ("tail_r2", "tail_error", "step", *ERRORS, "optimal_weight", "optimal_bias")
        fields_: dict[str, Any] = {
            name: math.nan if value is None and name not in keep_none else value
            for name, value in view.items()
        }
        fields_["spectrum"], fields_["saturated"] = numbers(view["spectrum"]), tuple(view["saturated"])
        fields_["step"] = numbers(view["step"]) if view.get("step") else None
        fields_["nulls"] = {name: numbers(values) for name, values in view["nulls"].items()}
        views[at] = View(**fields_)
    for name in ("gain_features", "gain_features_noise"):
        plain[name] = math.nan if plain.get(name) is None else plain[name]
    listed = {name: tuple(plain.get(name, ())) for name in ("warnings", "constant_features")}
    return LayerReport(**{**plain, "views": views, **listed})

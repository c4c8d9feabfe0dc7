"""From what a user passes as features, targets and weights to checked rows, in memory or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from featgeo.apply.rows import BLOCK, Rows
from featgeo.data.batches import Batches
from featgeo.errors import FeatgeoError
from featgeo.theory.losses import CanonicalLoss, Loss

MEMORY = 2 << 30  # bytes of a stream's features that are kept rather than read again
KEPT = 1 << 16  # rows of a larger stream that are kept as a sample

Weigher = Callable[[Tensor, Tensor], Tensor]
WeightLike = Tensor | np.ndarray | Weigher | None


def check_weights(weights: Tensor, count: int) -> Tensor:
    """Weights (N,) in float64.

    Raises:
        FeatgeoError: for a wrong shape, negative or non-finite weights, or only zeros.
    """
    weights = weights.to(torch.float64)
    if weights.shape != (count,):
        raise FeatgeoError("sample_weight", f"shape {tuple(weights.shape)} for {count} samples", "One each.")
    if not torch.isfinite(weights).all() or (weights < 0).any():
        raise FeatgeoError("sample_weight", "negative or non-finite weights", "They must be at least 0.")
    return weights


def check_features(x: Any) -> Any:
    """Features (N, k) as a floating tensor or CSR matrix; finite."""
    if sparse.issparse(x):
        given: Any = x
        x = sparse.csr_array(given, dtype=np.float64)
        if not np.isfinite(x.data).all():
            raise FeatgeoError("features", "NaN or infinite values", "Remove or impute them.")
        return x
    x = torch.as_tensor(x)
    if x.ndim != 2 or not x.shape[1] or x.is_complex():
        raise FeatgeoError(
            "features", f"shape {tuple(x.shape)}, dtype {x.dtype}", "Pass real features (samples, width)."
        )
    if x.dtype not in (torch.float32, torch.float64):
        x = x.to(torch.float32 if x.is_floating_point() else torch.get_default_dtype())
    x = x.detach()
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise FeatgeoError(
            "features", f"NaN or infinite values (first: row {bad[0]}, column {bad[1]})", "Remove them."
        )
    return x


def outputs_of(loss: Loss, targets: Tensor, largest: int | None = None) -> int:
    """The number of outputs that targets ask for.

    Raises:
        FeatgeoError: where they do not tell.
    """
    if targets.ndim > 1:
        return int(targets.flatten(1).shape[1])
    if loss.name == "cross_entropy":
        if targets.is_floating_point() or not len(targets):
            loss.check(targets, 2)  # says what is wrong with them
        return int(targets.max() if largest is None else largest) + 1
    if loss.name in ("mse", "bce", "poisson"):
        return 1
    raise FeatgeoError("outputs", f"none for loss '{loss.name}'", "Say how many outputs the head has.")


def gather(
    features: Any, targets: Any, loss: Loss, outputs: int | None, weights: WeightLike, once: bool
) -> tuple[Rows, int]:
    """Checked rows and the number of outputs d.

    Args:
        features: (N, k), or batches where there are no targets beside them.
        targets: (N, ...) or None.
        loss: which checks the targets.
        outputs: d, where it is known.
        weights: (N,), a function (features, targets) -> weights (m,), or None.
        once: whether one pass is all that is wanted: then nothing of a stream is held.
    """
    if targets is not None:
        if isinstance(features, Batches) or not (sparse.issparse(features) or hasattr(features, "shape")):
            raise FeatgeoError(
                "features", f"a {type(features).__name__} beside targets", "Pass features (samples, width)."
            )
        return held_rows(features, targets, loss, outputs, weights)
    if (
        isinstance(features, tuple | list)
        and len(features) == 2
        and all(hasattr(f, "ndim") for f in features)
    ):
        return held_rows(features[0], features[1], loss, outputs, weights)
    batches = Batches(features)
    if once:
        return passing_rows(batches, loss, outputs, weights)
    return streamed_rows(batches, loss, outputs, weights, MEMORY)


def held_rows(
    features: Any, targets: Any, loss: Loss, outputs: int | None, weights: WeightLike
) -> tuple[Rows, int]:
    """Rows of features and targets in memory, and the number of outputs."""
    x = check_features(features)
    y = torch.as_tensor(targets)
    y = y.to(x.device) if isinstance(x, Tensor) else y
    count = x.shape[0]
    if y.ndim == 0 or len(y) != count:
        raise FeatgeoError("targets", f"shape {tuple(y.shape)} for {count} samples", "Pass one target each.")
    if not count:
        raise FeatgeoError("features", "no samples", "Pass at least two.")
    width = outputs or outputs_of(loss, y)
    y = loss.check(y, width)
    w = None
    if callable(weights):
        weights = weights(x, y)
    if weights is not None:
        w = check_weights(torch.as_tensor(weights).to(y.device), count)
        if not (w > 0).any():
            raise FeatgeoError("sample_weight", "only zeros", "Give some samples weight.")
    return Rows(x, y, w), width


class _Stream:
    """Checked blocks (x, y, w) of batches, as often as they are asked for.

    Args:
        batches: of (features, targets).
        loss: which checks the targets.
        width: d.
        weights: as the user gave them.
        count: number of rows, where it is known.
    """

    def __init__(
        self, batches: Batches, loss: Loss, width: int, weights: WeightLike, count: int | None = None
    ) -> None:
        self._batches, self._loss, self._width = batches, loss, width
        self._weigh = weights if callable(weights) else None
        vector = None if weights is None or callable(weights) else torch.as_tensor(weights)
        self._vector = None if vector is None else check_weights(vector, count or len(vector))

    def weights(self, x: Tensor, y: Tensor, place: Tensor) -> Tensor | None:
        """Of rows at some places of the stream."""
        if self._weigh is not None:
            return check_weights(torch.as_tensor(self._weigh(x, y)), len(x)).to(x.device)
        if self._vector is None:
            return None
        if len(place) and int(place.max()) >= len(self._vector):
            raise FeatgeoError("sample_weight", f"{len(self._vector)} weights for more samples", "One each.")
        return self._vector[place].to(x.device)

    def __call__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        seen = 0
        for x, y in checked_batches(self._batches):
            y = self._loss.check(y, self._width)
            w = self.weights(x, y, torch.arange(seen, seen + len(x)))
            seen += len(x)
            for start in range(0, len(x), BLOCK):
                part = slice(start, start + BLOCK)
                yield x[part], y[part], None if w is None else w[part]


def checked_batches(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches with their features checked; failures name the batch."""
    width = 0
    for number, (x, y) in enumerate(batches):
        try:
            x = check_features(x)
        except FeatgeoError as error:
            raise FeatgeoError("features", f"in batch {number} {error.found}", error.remedy) from error
        width = width or x.shape[1]
        if x.shape[1] != width:
            raise FeatgeoError(
                "features", f"width {x.shape[1]} in batch {number} after {width}", "Use one width."
            )
        yield x, y.to(x.device)


def passing_rows(batches: Batches, loss: Loss, outputs: int | None, weights: WeightLike) -> tuple[Rows, int]:
    """Rows of which nothing is held: for what needs one pass only. The number of outputs may cost another."""
    if outputs is None and batches.once:
        raise FeatgeoError("outputs", "none, with data that can be read once only", "Say how many outputs.")
    if not isinstance(loss, CanonicalLoss) and batches.once:
        raise FeatgeoError(
            "features", "an iterator, for a loss that needs a pass more", "Pass a re-iterable."
        )
    if outputs is None:
        largest, y = 0, torch.zeros(0)
        for _, y in batches:
            if y.ndim > 1 or y.is_floating_point():
                break
            largest = max(largest, int(y.max()))
        outputs = outputs_of(loss, y, largest)
    stream = _Stream(batches, loss, outputs, weights)
    return Rows(None, torch.zeros(0), None, stream, count=0, total=0.0), outputs


def streamed_rows(
    batches: Batches, loss: Loss, outputs: int | None, weights: WeightLike, memory: int
) -> tuple[Rows, int]:
    """Rows of batches: held where their features fit in memory, else read again in every pass.

    Args:
        batches: of (features, targets).
        loss: which checks the targets.
        outputs: d, where it is known.
        weights: as the user gave them.
        memory: bytes up to which all features are held.
    """
    held: list[tuple[Tensor, Tensor]] = []
    size, largest, reservoir = 0, 0, _Reservoir(KEPT)
    for x, y in checked_batches(batches):
        if y.ndim == 1 and not y.is_floating_point():
            largest = max(largest, int(y.max()))
        size += x.numel() * x.element_size()
        held.append((x, y))
        if size > memory:
            for part in held:
                reservoir.add(*part)
            held = []
    if size <= memory:
        if not held:
            raise FeatgeoError("features", "no samples", "Pass at least two.")
        x, y = (torch.cat(parts) for parts in zip(*held, strict=True))
        return held_rows(x, y, loss, outputs or outputs_of(loss, y, largest), weights)
    if batches.once:
        raise FeatgeoError("features", "an iterator that is spent after one pass", "Pass a re-iterable.")
    x, y, place = reservoir.rows()
    width = outputs or outputs_of(loss, y, largest)
    stream, y = _Stream(batches, loss, width, weights, reservoir.seen), loss.check(y, width)
    total = float(reservoir.seen)
    if weights is not None:
        total = sum(w.sum().item() for _, _, w in stream() if w is not None)
    return Rows(x, y, stream.weights(x, y, place), stream, reservoir.seen, total), width


class _Reservoir:
    """A uniform sample of a stream's rows: each row has a random key, the smallest keys stay."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._generator = torch.Generator().manual_seed(0)
        self._held: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        keys = torch.rand(len(x), generator=self._generator, dtype=torch.float64)
        place = torch.arange(self.seen, self.seen + len(x))
        self.seen += len(x)
        self._held.append((x, y, keys, place))
        if sum(len(part[0]) for part in self._held) > 2 * self.size:
            self._held = [self._smallest()]

    def _smallest(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, y, keys, place = (torch.cat(parts) for parts in zip(*self._held, strict=True))
        best = keys.argsort()[: self.size]
        return x[best.to(x.device)], y[best.to(y.device)], keys[best], place[best]

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        x, y, _, place = self._smallest()
        return x, y, place

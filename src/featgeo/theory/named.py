"""From what a user passes as ``loss=`` to a Loss: names, torch.nn modules, callables."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from featgeo.errors import FeatgeoError
from featgeo.theory.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Loss,
    MeanSquare,
    Poisson,
)

PerSample = Callable[[Tensor, Tensor], Tensor]
LossLike = str | Loss | nn.Module | PerSample

NAMED: dict[str, Callable[[], Loss]] = {
    "cross_entropy": CrossEntropy,
    "mse": MeanSquare,
    "bce": BinaryCrossEntropy,
    "poisson": Poisson,
}
NON_NEGATIVE = (
    "cross_entropy",
    "mse",
    "bce",
)  # of these names; nothing can gain more than the constant's loss


class CallableLoss(Loss):
    """Any ``loss(output, target) -> per-sample values``, twice differentiable in the output."""

    def __init__(self, function: PerSample, name: str | None = None) -> None:
        self.function = function
        self.name = str(name or getattr(function, "__name__", type(function).__name__))

    def arranged(self, targets: Tensor, width: int) -> Tensor:
        """Targets as they are."""
        return targets

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The function's values, checked to be one per sample."""
        try:
            values = self.function(outputs, targets)
        except Exception as error:
            raise FeatgeoError(
                "loss",
                f"{type(error).__name__} raised by '{self.name}' for outputs {tuple(outputs.shape)} and targets "
                f"{tuple(targets.shape)}: {error}",
                "It is called as loss(outputs, targets).",
            ) from error
        if not isinstance(values, Tensor) or values.shape != (len(outputs),):
            found = (
                f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
            )
            raise FeatgeoError(
                "loss",
                f"{found} returned for {len(outputs)} samples",
                f"A callable loss is given outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}, and must "
                "return one value per sample, shape (samples,): use reduction='none' and average over any further "
                "dimensions.",
            )
        return values.to(outputs.dtype)  # a function may compute with constants of its own precision


def _per_sample(module: nn.Module) -> CallableLoss:
    """A torch.nn loss with its reduction undone over samples, kept over all other dimensions."""
    inner = copy.deepcopy(module)
    total = getattr(module, "reduction", None) == "sum"
    inner.reduction = "none"  # type: ignore[assignment]

    def per_sample(output: Tensor, target: Tensor) -> Tensor:
        if output.shape[1:] == (1,) and target.ndim == 1 and target.is_floating_point():
            target = target[:, None]  # else torch would compare every output with every target
        values: Tensor = inner.to(output)(output, target)  # class weights in the outputs' precision
        rest = values.reshape(len(output), -1)
        return rest.sum(1) if total else rest.mean(1)

    return CallableLoss(per_sample, type(module).__name__)


def _translate(module: nn.Module) -> Loss:
    """The library's loss for a torch.nn loss module."""
    plain = getattr(module, "weight", None) is None and getattr(module, "pos_weight", None) is None
    if isinstance(module, nn.BCELoss):
        raise FeatgeoError(
            "loss",
            "nn.BCELoss, which wants probabilities",
            "Let the model output logits and pass nn.BCEWithLogitsLoss() or loss='bce'.",
        )
    if isinstance(module, nn.L1Loss):
        raise FeatgeoError(
            "loss",
            "nn.L1Loss, whose second derivative is zero",
            "Use a smooth loss such as nn.HuberLoss or 'mse'.",
        )
    if isinstance(module, nn.NLLLoss) and not isinstance(module, nn.PoissonNLLLoss) and plain:
        return CrossEntropy()  # log-probabilities are logits whose log-partition is zero
    if isinstance(module, nn.CrossEntropyLoss) and plain:
        return CrossEntropy(module.label_smoothing, module.ignore_index)
    if isinstance(module, nn.MSELoss):
        return MeanSquare(total=module.reduction == "sum")
    if isinstance(module, nn.BCEWithLogitsLoss) and plain and module.reduction != "sum":
        return BinaryCrossEntropy()
    if (
        isinstance(module, nn.PoissonNLLLoss)
        and module.log_input
        and not module.full
        and module.reduction != "sum"
    ):
        return Poisson()
    if hasattr(module, "reduction"):
        return _per_sample(module)
    return CallableLoss(module, type(module).__name__)


def resolve_loss(loss: LossLike) -> Loss:
    """The Loss meant by a name, a Loss, a torch.nn loss module or a per-sample callable.

    Raises:
        FeatgeoError: for an unknown name, or a loss that is not twice differentiable in its input.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in NAMED:
            raise FeatgeoError("loss", f"the name {loss!r}", f"Known names: {', '.join(sorted(NAMED))}.")
        return NAMED[loss]()
    if isinstance(loss, nn.Module):
        return _translate(loss)
    if callable(loss):
        return CallableLoss(loss)
    raise FeatgeoError("loss", f"a {type(loss).__name__}", "Pass a name, a torch.nn loss or a callable.")

"""The body of ``featgeo head``: a head on a file of features, or before a model's last layer; printed and saved."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

from featgeo.apply.fit import Refine
from featgeo.apply.head import Head, solve_head
from featgeo.apply.model_features import model_features
from featgeo.errors import FeatgeoError
from featgeo.network.keep import undisturbed
from featgeo.theory.named import resolve_loss

Pair = tuple[Tensor, Tensor]


def refine_of(text: str) -> Refine:
    """What ``--refine`` says: "exact" or a number.

    Raises:
        FeatgeoError: where it is neither.
    """
    if text == "exact":
        return "exact"
    if not text.isdigit():
        raise FeatgeoError("refine", repr(text), "Pass 0, a number of steps, or 'exact'.")
    return int(text)


def run(
    data: Pair,
    loss: str,
    weight_decay: list[float],
    refine: Refine,
    cv: int,
    model: nn.Module | None = None,
    layer: str | None = None,
    test: Pair | None = None,
    out: Path | None = None,
    console: Console | None = None,
    progress: bool = False,
) -> Head:
    """Solve a head, print what came out, save it.

    Args:
        data: features and targets; with a model its inputs and targets.
        loss: name of the loss.
        weight_decay: one, or several to be chosen among by cross-validation.
        refine: 0, a number of steps, or "exact".
        cv: folds.
        model: whose last layer is solved.
        layer: its name.
        test: held-out samples on which it is measured.
        out: a .safetensors file for ``weight`` and ``bias``.
        console: where to print.
        progress: whether to show a progress bar.

    Returns:
        The head.

    Raises:
        FeatgeoError: data, options or files that do not fit.
    """
    console = console or Console()
    decays = weight_decay if len(weight_decay) > 1 else weight_decay[0]
    options = {"weight_decay": decays, "refine": refine, "cv": cv, "progress": progress}
    features, targets = (data[0], data[1]) if model is None else (model, data)
    head = solve_head(features, targets, loss, layer=layer, **options)  # type: ignore[arg-type]
    outputs, inputs = head.weight.shape
    kind = {None: "one pass", True: "exact", False: "exact, not reached"}[head.converged]
    kind = f"{refine} steps" if head.converged is None and refine else kind
    title = f"Head {inputs:,} → {outputs:,}, {loss}, weight decay {head.weight_decay:g}, {kind}"
    table = Table(title=title, title_justify="left")
    for name in ("data", "samples", "loss", *(["accuracy"] if _labels(data[1], loss) else [])):
        table.add_column(name, justify="right" if name != "data" else "left")
    for name, pair in (("fitted", data), ("held out", test)):
        if pair is not None:
            table.add_row(name, *_measured(head, pair, loss, model, layer))
    console.print(table)
    if head.converged is not None:
        text = f"objective {head.objective:.8g}, within {head.gap:.1g} of its minimum; {head.steps} steps"
        console.print(f"{text}, {head.passes} passes", highlight=False)
    if head.path:
        _print_path(head, console)
    for text in head.warnings:
        console.print(f"[yellow]warning[/yellow] {text}", highlight=False, soft_wrap=True)
    if out is not None:
        try:
            save_file({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}, out)
        except (OSError, RuntimeError) as error:
            raise FeatgeoError(
                "out", f"{out}, which cannot be written ({error})", "Choose another."
            ) from error
        console.print(f"Weights: [bold]{out.resolve()}[/bold]", soft_wrap=True)
    return head


def _labels(targets: Tensor, loss: str) -> bool:
    return loss == "cross_entropy" and targets.ndim == 1


def _measured(head: Head, data: Pair, loss: str, model: nn.Module | None, layer: str | None) -> list[str]:
    """Samples, mean loss and accuracy."""
    (features, targets), chosen = data, resolve_loss(loss)
    if model is not None:
        with undisturbed(model):
            rows = model_features(model, data, layer, chosen.ignore_index)
            parts = zip(*rows, strict=True)
            features, targets = (torch.cat(part).cpu() for part in parts)
    outputs = head(features)
    values = chosen.values(outputs, chosen.check(targets, outputs.shape[1]))
    row = [f"{len(targets):,}", f"{values.mean(dtype=torch.float64).item():.5f}"]
    if _labels(targets, loss):
        row.append(f"{(outputs.argmax(1) == targets).double().mean().item():.4f}")
    return row


def _print_path(head: Head, console: Console) -> None:
    folds = int(head.path[0]["cv_folds"])
    table = Table(title=f"Cross-validation, {folds} folds", title_justify="left")
    for name in ("weight decay", "held-out loss", "standard error"):
        table.add_column(name, justify="right")
    for row in head.path:
        mark = " *" if row["weight_decay"] == head.weight_decay else ""
        table.add_row(f"{row['weight_decay']:g}{mark}", f"{row['cv_loss']:.5f}", f"{row['cv_error']:.5f}")
    console.print(table)

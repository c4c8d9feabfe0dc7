"""One section of docs/gallery.md: text, tables, figures, and the interventions that say whether the numbers mean much.

Every script of the gallery fills one; `examples/gallery.py` runs the scripts and puts the sections together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import featgeo as fg

SECTIONS = Path("build/gallery")
FIGURES = Path("docs/figures/gallery")
STEP = 0.1  # of the way from the weights in use to W*, and no more than this share of their size
LAYERS = 9  # most layers in a table


class Section:
    """Collects a section and writes it.

    Args:
        name: of its files.
        title: its heading.
        prefix: what the names of layers have in common, left out in tables.
    """

    def __init__(self, name: str, title: str, prefix: str = "") -> None:
        self.name, self.prefix, self.begin = name, prefix, time.perf_counter()
        self.parts = [f"## {title}"]

    def say(self, text: str) -> None:
        """A paragraph."""
        print(text, flush=True)
        self.parts.append(" ".join(text.split()))

    def table(self, frame: pd.DataFrame) -> None:
        """A table, its index in the first column."""
        frame = frame.rename(index=lambda name: str(name).removeprefix(self.prefix))
        print(frame.to_string(), flush=True)
        rows = [[str(frame.index.name or ""), *map(str, frame.columns)], ["---", *["---:"] * frame.shape[1]]]
        rows += [[f"`{name}`", *map(_cell, row)] for name, row in zip(frame.index, frame.values, strict=True)]
        self.parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))

    def figure(self, figure: Any, alt: str) -> None:
        """A picture, kept under docs/figures."""
        FIGURES.mkdir(parents=True, exist_ok=True)
        figure.savefig(FIGURES / f"{self.name}.png", dpi=72)
        self.parts.append(f"![{alt}](figures/gallery/{self.name}.png)")

    def report(self, report: fg.Report, shuffled: fg.Report | None = None) -> None:
        """Prints and saves a report; its loss, some layers along depth and the findings go into the section."""
        SECTIONS.mkdir(parents=True, exist_ok=True)
        report.to_html(SECTIONS / f"{self.name}.html")
        print(report)
        removed = 1 - report.loss_value / report.constant_loss
        self.say(
            f"On {report.samples:,} samples the {report.loss.replace('_', ' ')} is {report.loss_value:.3f}; the best "
            f"constant output has {report.constant_loss:.3f}, so the network removes {removed:.0%}. "
            f"{len(report.analysed)} layers were analysed in {report.seconds:.0f} s."
        )
        columns = {
            "neurons": "neurons", "rank 99 %": lambda x: x.rank(0.99), "alignment": "alignment",
            "locality": "locality", "agreement": "agreement", "gain used": "gain_used",
            "adjusted gain": "gain_adjusted", "read-out gain": "gain_features",
        }  # fmt: skip
        layers = spread(report.analysed, LAYERS)
        frame = pd.DataFrame({title: [_get(x, what) for x in layers] for title, what in columns.items()})
        if shuffled is not None:
            chance = [shuffled[x.name].alignment for x in layers]
            frame.insert(3, "shuffled", chance)
        self.table(frame.set_axis(pd.Index([x.name for x in layers], name="layer"), axis=0))
        counts = Counter(f.title for f in report.findings)
        examples = {f.title: f for f in reversed(report.findings)}
        self.parts.append(
            "\n".join(
                f"- {title[0].upper() + title[1:]} ({count} layer{'s' * (count > 1)}): for example "
                f"`{examples[title].layer.removeprefix(self.prefix)}`, {examples[title].detail}."
                for title, count in counts.items()
            )
            or "No findings."
        )

    def interventions(self, found: pd.DataFrame) -> None:
        """The table of :func:`intervene` and how well predictions rank the layers."""
        self.table(found)
        said = []
        for what in ("frozen", "step"):
            predicted, measured = found[f"{what}: predicted"], found[f"{what}: measured"]
            said.append(f"{what} {predicted.corr(measured, method='spearman'):.2f}")
        self.say(
            f"Rank correlation of predicted and measured over these {len(found)} layers: {', '.join(said)}."
        )

    def write(self) -> None:
        """Writes the section."""
        self.parts.append(
            f"*{time.perf_counter() - self.begin:.0f} s on {torch.get_num_threads()} thread(s).*"
        )
        SECTIONS.mkdir(parents=True, exist_ok=True)
        (SECTIONS / f"{self.name}.md").write_text("\n\n".join(self.parts) + "\n", encoding="utf-8")


def intervene(
    model: nn.Module, report: fg.Report, loss: Callable[[], float], names: Sequence[str]
) -> pd.DataFrame:
    """What the report predicts of two interventions in each layer, beside what they do to the loss.

    Frozen: the layer puts out its mean, the same for every sample; it should cost the gain that it uses. Step: its
    weights go a share t of the way to W*; that should gain 2t - t² of the gap.

    Args:
        model: in evaluation mode.
        report: of it.
        loss: measures the loss of the model as it is.
        names: of layers.
    """
    before, rows = loss(), {}
    for name in names:
        layer, module = report[name], model.get_submodule(name)
        with frozen(module, loss):
            lost = loss() - before
        own, away = module.weight.norm(), (layer.optimal_weight - module.weight).norm()
        share = STEP * min(1.0, (own / away).item())
        with moved(module, layer.optimal_weight, layer.optimal_bias, share):
            gained = before - loss()
        rows[name] = {
            "frozen: predicted": layer.gain_used, "frozen: measured": lost,
            "step: predicted": (2 * share - share**2) * (layer.gap_weight + layer.gap_bias), "step: measured": gained,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("loss changed by")


@contextmanager
def frozen(module: nn.Module, run: Callable[[], float]) -> Iterator[None]:
    """The module puts out its mean over samples (and positions) that `run` shows it."""
    sums: list[Tensor] = []
    axis = 1 if isinstance(module, nn.Conv2d) else -1

    def others(x: Tensor) -> list[int]:
        return [i for i in range(x.ndim) if i != axis % x.ndim]

    handle = module.register_forward_hook(
        lambda _m, _i, out: sums.append(out.mean(others(out), keepdim=True))
    )
    run()
    handle.remove()
    mean = torch.stack(sums).mean(0)
    handle = module.register_forward_hook(lambda _m, _i, out: mean.expand_as(out).clone())
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def moved(module: nn.Module, weight: Tensor, bias: Tensor, share: float) -> Iterator[None]:
    """The module's weights are nearer to W* by a share of the way, and so is its bias where it has one."""
    kept = [(p, p.detach().clone()) for p in (module.weight, module.bias) if p is not None]
    with torch.no_grad():
        for (parameter, _), target in zip(kept, (weight, bias), strict=False):
            parameter.lerp_(target.to(parameter), share)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


def spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most so many items, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _get(layer: fg.LayerReport, what: str | Callable[[fg.LayerReport], Any]) -> Any:
    return getattr(layer, what) if isinstance(what, str) else what(layer)


def _cell(value: Any) -> str:
    if isinstance(value, float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    if isinstance(value, float):
        return (
            "–" if value != value else f"{value:.3g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
        )
    return str(value)

"""What analyze() found: the Report of a model, its table, file and pages."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featgeo.errors import FeatgeoError
from featgeo.network.views import ERRORS, VIEW_FIELDS, Finding, LayerReport, View, layer_from

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import RenderableType

FORMAT = 1  # of the JSON file
POINTS = ("average", "bayes", "jacobian")


@dataclass(frozen=True)
class Report:
    """The analysis of a model.

    Attributes:
        layers: by name, in the order of ``named_modules()``.
        loss: name of the loss.
        loss_value: mean loss of the model on the data.
        constant_loss: loss of the best constant output.
        samples: number of samples.
        outputs: number of outputs.
        at: the operating point shown first.
        weight_decay: λ of the penalised optimum that alignments refer to.
        findings: what is worth acting on.
        warnings: about the data or the whole model.
        seconds: wall time.
        batches: number of batches read, 0 where it was not recorded.
        stopped: what ended the pass over the data: ``data`` (there were no more), ``max_batches``, ``max_seconds`` or
            ``tol`` (the figures had settled).
        processes: number of processes that analysed together.
        positions: whether positions with a label each were counted as samples.
        versions: of featgeo and torch.
    """

    layers: dict[str, LayerReport]
    loss: str
    loss_value: float
    constant_loss: float
    samples: int
    outputs: int
    at: str
    weight_decay: float = 0.0
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    batches: int = 0
    stopped: str = "data"
    processes: int = 1
    positions: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LayerReport:
        if name not in self.layers:
            raise FeatgeoError("layer", f"the name {name!r}", f"Known layers: {', '.join(self.layers)}.")
        return self.layers[name]

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers.values())

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def analysed(self) -> list[LayerReport]:
        """Layers that have the default view."""
        return [layer for layer in self if self.at in layer.views]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: everything but the optimal weights; NaN as None."""
        return {"format": FORMAT, **_plain(asdict(_without_weights(self)))}

    def to_frame(self, at: str | None = None) -> pd.DataFrame:
        """One row per layer, numbers of one operating point (where none is named, of each layer's default view).

        Raises:
            FeatgeoError: for an operating point that there is not.
        """
        import pandas as pd  # heavy: only where a frame is wanted

        if at is not None and at not in POINTS:
            raise FeatgeoError("at", f"{at!r}", f"Pass one of {POINTS}.")
        rows = []
        for layer in self:
            view = layer.views.get(at or layer.default)
            row: dict[str, Any] = {
                "layer": layer.name, "kind": layer.kind, "neurons": layer.neurons, "inputs": layer.inputs,
                "status": layer.status,
            }  # fmt: skip
            for name in (*VIEW_FIELDS[1:11], *ERRORS, "noise_floor", "predicted_loss", "tail_r2"):
                row[name] = getattr(view, name) if view else math.nan
            row["rank99"] = view.rank(0.99) if view else 0
            row["reason"] = layer.reason
            rows.append(row)
        return pd.DataFrame(rows).set_index("layer")

    def save(self, path: str | Path) -> None:
        """Write the report, without the optimal weights, as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report that was saved.

        Raises:
            FeatgeoError: when there is no such file, or it is no report of this format.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise FeatgeoError("path", f"no file {path}", "Check the path.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            found = f"{path}, which is no featgeo report"
            raise FeatgeoError("path", found, "Pass what Report.save wrote.") from error

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Report:
        """The report of which :meth:`to_dict` gave this; its optimal weights are gone.

        Raises:
            KeyError: or another of Python's own errors where it is no such thing.
        """
        data = copy.deepcopy(plain)
        if data.pop("format") != FORMAT:
            raise KeyError("format")
        layers = {name: layer_from(layer) for name, layer in data.pop("layers").items()}
        findings = tuple(Finding(**finding) for finding in data.pop("findings"))
        for name in ("loss_value", "constant_loss"):
            data[name] = math.nan if data[name] is None else data[name]
        return cls(layers=layers, findings=findings, **{**data, "warnings": tuple(data["warnings"])})

    def summary(self) -> str:
        """A few lines of plain text: the loss, each layer's verdict, the findings."""
        lines = [
            f"{self.samples:,} samples, {self.loss}: loss {self.loss_value:.4g}, "
            f"best constant {self.constant_loss:.4g}",
        ]
        for layer in self.analysed:
            margin = "" if layer.alignment_error is None else f" ± {layer.alignment_error:.1g}"
            lines.append(
                f"{layer.name}: alignment {layer.alignment:.3f}{margin}, locality {layer.locality:.2f}, "
                f"gain {layer.gain_used:.4g} of {layer.gain_available:.4g}"
            )
        return "\n".join(
            lines + [f"- {f.layer}: {f.title}. {f.remedy} {f.call}".rstrip() for f in self.findings]
        )

    def __rich__(self) -> RenderableType:
        from featgeo.show.console import report_table  # rich is heavy: only where a report is printed

        return report_table(self.to_dict())

    def __str__(self) -> str:
        from featgeo.show.console import as_text, report_table

        return as_text(report_table(self.to_dict()))

    def _repr_html_(self) -> str:
        from featgeo.show.html import fragment

        return fragment(self.to_dict())

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page: table, spectra, gain along depth, alignment beside locality, findings."""
        from featgeo.show.html import page

        Path(path).write_text(page(self.to_dict()), encoding="utf-8", newline="\n")

    def plot(self) -> Figure:
        """The report's figures as one matplotlib figure."""
        from featgeo.show.plots import overview

        return overview(self.to_dict())


def _without_weights(report: Report) -> Report:
    """A copy whose views hold no tensors (asdict would copy them all)."""
    layers = {}
    for name, layer in report.layers.items():
        views = {
            at: View(**{**vars(v), "optimal_weight": None, "optimal_bias": None})
            for at, v in layer.views.items()
        }
        layers[name] = LayerReport(**{**vars(layer), "views": views})
    return Report(**{**vars(report), "layers": layers})


def _plain(value: Any) -> Any:
    """Nested plain data with NaN and infinity as None and tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

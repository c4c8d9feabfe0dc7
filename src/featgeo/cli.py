"""The ``featgeo`` command: one verb a job."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from featgeo.apply.compress import compress as run_compress
from featgeo.apply.head_command import refine_of
from featgeo.apply.head_command import run as run_head
from featgeo.apply.rank_features import rank_layers, rank_models
from featgeo.data.files import read_pair
from featgeo.demo import demo as run_demo
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.experiments.runner import validate as run_validate
from featgeo.network.analyze import analyze as run_analyze
from featgeo.network.compare import compare as run_compare
from featgeo.network.load import load_model
from featgeo.tables.command import run as run_modes

app = typer.Typer(
    help="The local geometry of feature extraction in neural networks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()

TITLES = {
    "digits": "Handwritten digits: a tanh/SiLU classifier, cross-entropy",
    "diabetes": "Diabetes progression: a regressor, mean square",
}


@app.command(epilog="Example: featgeo demo --out report.html")
def demo(
    out: Annotated[Path, typer.Option(help="Where the report on the digits goes.")] = Path("report.html"),
    seed: Annotated[int, typer.Option(help="Seed of initial weights and batches.")] = 0,
    epochs: Annotated[int, typer.Option(help="Epochs of training.", min=1)] = 60,
) -> None:
    """Train two small networks on real data, analyse them, write a report. Under a minute."""
    reports = run_demo(seed=seed, epochs=epochs, progress=sys.stderr.isatty())
    for name, report in reports.items():
        console.rule(TITLES[name])
        console.print(report)
    for name, report in reports.items():
        _written(out if name == "digits" else out.with_stem(f"{out.stem}-{name}"), report.to_html)


@app.command(
    epilog="Example: featgeo analyze mypackage.models:build --data data.npz --loss cross_entropy --html out.html"
)
def analyze(
    model: Annotated[str, typer.Argument(help="package.module:factory, a function that returns the model.")],
    data: Annotated[Path, typer.Option(help=".npz with arrays 'inputs' and 'targets', or a .npy of inputs.")],
    targets: Annotated[Path | None, typer.Option(help=".npy of targets, beside a .npy of inputs.")] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, mse, bce or poisson.")] = "cross_entropy",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file or a plain state dict.")] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Operating point shown first: average, bayes or jacobian; by default each layer's own."
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="λ of λ/2 ‖W‖² in the training.")] = 0.0,
    nulls: Annotated[bool, typer.Option(help="Also alignments that chance alone gives.")] = False,
    batch_size: Annotated[int, typer.Option(help="Samples per forward pass.", min=1)] = 256,
    max_batches: Annotated[int | None, typer.Option(help="Read so many batches at most.", min=1)] = None,
    max_seconds: Annotated[float | None, typer.Option(help="End the pass after so many seconds.")] = None,
    tol: Annotated[float | None, typer.Option(help="End it when figures are this certain (0.01).")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as HTML.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
) -> None:
    """Analyse your own model on your own data."""
    sys.path.insert(0, str(Path.cwd()))
    report = run_analyze(
        load_model(model, weights),
        read_pair(data, targets),
        loss,
        at=at,  # type: ignore[arg-type]
        weight_decay=weight_decay,
        nulls=nulls,
        batch_size=batch_size,
        max_batches=max_batches,
        max_seconds=max_seconds,
        tol=tol,
        progress=sys.stderr.isatty(),
    )
    console.print(report)
    for path, write in ((html, report.to_html), (json, report.save)):
        if path is not None:
            _written(path, write)


@app.command(epilog="Example: featgeo compare before.json after.json --html comparison.html")
def compare(
    reports: Annotated[list[Path], typer.Argument(help="Reports that analyze --json wrote; two or more.")],
    at: Annotated[
        str | None, typer.Option(help="Operating point; that of the first report by default.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the comparison as HTML.")] = None,
) -> None:
    """Put saved reports side by side: checkpoints of a network, or different networks."""
    stems = [path.stem for path in reports]
    names = [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, reports, strict=True)]
    if len(set(names)) < len(names):
        raise FeatgeoError("reports", "the same file twice", "Pass each file once.")
    comparison = run_compare(dict(zip(names, reports, strict=True)), at)
    console.print(comparison)
    if html is not None:
        _written(html, comparison.to_html)


@app.command(epilog="Example: featgeo validate --quick --only order --out validation")
def validate(
    quick: Annotated[bool, typer.Option(help="Reduced runs, under a minute together.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Name of an experiment; can be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of results, figures and page.")] = Path("validation"),
    fresh: Annotated[bool, typer.Option(help="Run again what is finished.")] = False,
) -> None:
    """Run the experiments that test the theory; what is finished is not run again."""
    raise typer.Exit(run_validate(quick=quick, only=only or (), seed=seed, out=out, fresh=fresh))


@app.command(epilog="Example: featgeo modes data.parquet --rows a --columns b --out modes.html")
def modes(
    path: Annotated[Path, typer.Argument(help="CSV, Parquet or Arrow file; may be larger than memory.")],
    rows: Annotated[str, typer.Option(help="Name of one column.")],
    columns: Annotated[str, typer.Option(help="Name of the other.")],
    components: Annotated[str | None, typer.Option(help="Number of modes (10), or 'significant'.")] = None,
    missing: Annotated[str, typer.Option(help="Missing values: drop, category or error.")] = "drop",
    out: Annotated[Path | None, typer.Option(help="Write the page as HTML.")] = None,
) -> None:
    """Modes of the dependence between two columns of a file: correspondence analysis at any size."""
    count: int | str | None = components
    if components not in (None, "significant"):
        if not components.isdigit():
            raise FeatgeoError("components", repr(components), "Pass a whole number or 'significant'.")
        count = int(components)
    run_modes(path, rows, columns, count, out, missing, console=console)  # type: ignore[arg-type]


@app.command(
    epilog="Example: featgeo compress mypackage.models:build --weights w.safetensors --data data.npz --budget 0.5"
)
def compress(
    model: Annotated[str, typer.Argument(help="package.module:factory, a function that returns the model.")],
    data: Annotated[Path, typer.Option(help=".npz with arrays 'inputs' and 'targets', or a .npy of inputs.")],
    targets: Annotated[Path | None, typer.Option(help=".npy of targets, beside a .npy of inputs.")] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, mse, bce or poisson.")] = "cross_entropy",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file or a plain state dict.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Share of the parameters of the layers (0.5), or a whole number for the whole model."
        ),
    ] = None,
    max_loss_increase: Annotated[
        float | None, typer.Option(help="Instead of a budget: how much larger the loss may be.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per forward pass.", min=1)] = 256,
    out: Annotated[Path, typer.Option(help="Where the smaller model goes.")] = Path("compressed.safetensors"),
) -> None:
    """Make your own model smaller: thin layers in place of wide ones, chosen by what they do to the loss."""
    sys.path.insert(0, str(Path.cwd()))
    share: float | int | None = None
    if budget is not None:
        try:
            share = int(budget) if budget.isdigit() else float(budget)
        except ValueError as error:
            raise FeatgeoError("budget", repr(budget), "Pass a share such as 0.5, or a number.") from error
    found = run_compress(
        load_model(model, weights),
        read_pair(data, targets),
        loss,
        budget=share,
        max_loss_increase=max_loss_increase,
        batch_size=batch_size,
        progress=sys.stderr.isatty(),
    )
    console.print(str(found), soft_wrap=True, highlight=False, markup=False)
    _written(out, found.save)


@app.command(
    epilog="Example: featgeo score resnet.npz vit.npz --method crossfit --method logme --plot scores.png"
)
def score(
    data: Annotated[
        list[Path], typer.Argument(help="One .npz a network: 'features' and 'labels'; or .npy of features.")
    ],
    targets: Annotated[Path | None, typer.Option(help=".npy of targets, beside .npy of features.")] = None,
    model: Annotated[
        str | None, typer.Option(help="package.module:factory; its layers are scored on one file of inputs.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file or a plain state dict.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Kind of score, e.g. logme; repeatable, the first ranks.")
    ] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, mse, bce or poisson.")] = "cross_entropy",
    samples: Annotated[int | None, typer.Option(help="Score the first so many only.", min=2)] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a figure: .png, .svg or .pdf.")] = None,
) -> None:
    """Score features for a task, without training a head: networks, or the layers of one."""
    methods = method or ["crossfit"]
    pairs = {path.stem: read_pair(path, targets) for path in data}
    if len(pairs) < len(data):
        raise FeatgeoError("data", "two files of one name", "Give each network's file a name of its own.")
    first = next(iter(pairs.values()))
    if model is not None:
        sys.path.insert(0, str(Path.cwd()))
        if len(data) > 1:
            raise FeatgeoError("data", f"{len(data)} files beside a model", "Pass one file of inputs.")
        network = load_model(model, weights)
        found = rank_layers(
            network, first, loss, methods=methods, samples=samples, progress=sys.stderr.isatty()
        )
    else:
        for name, (_, other) in pairs.items():
            if other.shape != first[1].shape or not bool((other == first[1]).all()):
                raise FeatgeoError("data", f"other targets in {name}", "Score networks on the same samples.")
        features = {name: inputs for name, (inputs, _) in pairs.items()}
        found = rank_models(features, first, loss, methods=methods, samples=samples)
    console.print(str(found), highlight=False, soft_wrap=True)
    for path, write in ((csv, found.to_frame().to_csv), (plot, found.plot().savefig)):
        if path is not None:
            _written(path, write)


@app.command(
    epilog="Example: featgeo head features.npz --weight-decay 1e-3 --refine exact --out head.safetensors"
)
def head(
    data: Annotated[Path, typer.Argument(help=".npz with 'features' and 'labels', or a .npy of features.")],
    targets: Annotated[Path | None, typer.Option(help=".npy of targets, beside a .npy of features.")] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, mse, bce or poisson.")] = "cross_entropy",
    weight_decay: Annotated[
        list[float] | None, typer.Option(help="λ of λ/2 ‖W‖²; 1e-3 by default; repeated: cross-validated.")
    ] = None,
    refine: Annotated[str, typer.Option(help="0: one pass; a number of steps; or exact.")] = "exact",
    cv: Annotated[int, typer.Option(help="Folds of the cross-validation.", min=2)] = 5,
    model: Annotated[
        str | None, typer.Option(help="package.module:factory; the data are then its inputs.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file or a plain state dict.")] = None,
    layer: Annotated[str | None, typer.Option(help="Name of the model's last layer.")] = None,
    test: Annotated[Path | None, typer.Option(help=".npz of held-out samples.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write weight and bias as .safetensors.")] = None,
) -> None:
    """Solve the best last layer on given features, in one pass or exactly."""
    if layer is not None and model is None:
        raise FeatgeoError("layer", f"{layer!r} without a model", "Pass --model too.")
    sys.path.insert(0, str(Path.cwd()))
    run_head(
        read_pair(data, targets),
        loss,
        weight_decay or [1e-3],
        refine_of(refine),
        cv,
        None if model is None else load_model(model, weights),
        layer,
        None if test is None else read_pair(test),
        out,
        console,
        sys.stderr.isatty(),
    )


def _written(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file, or say why not."""
    try:
        write(path)
    except OSError as error:
        raise FeatgeoError(
            "out", f"{path}, which cannot be written ({error})", "Choose another place."
        ) from error
    console.print(f"Report: [bold]{path.resolve()}[/bold]", soft_wrap=True)


def main() -> None:
    """Run the command; a mistake of the caller's ends in one clear line and exit status 2."""
    warnings.simplefilter("ignore", FeatgeoWarning)  # reports carry and show them
    try:
        app()
    except FeatgeoError as error:
        Console(stderr=True).print(f"[bold red]error[/bold red] {error}", soft_wrap=True, highlight=False)
        raise SystemExit(2) from None

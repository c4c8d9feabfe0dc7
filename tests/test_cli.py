"""The command line as a user meets it: in a process of its own, from a folder of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from featgeo import Report, load_compressed
from featgeo.cli import main
from featgeo.demo import network

FACTORY = """
from torch import nn
from featgeo.demo import network

def build():
    return network(64, 32, 16, 10)

def broken():
    raise RuntimeError("no such thing")

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a module with a factory, data as .npz and .npy, weights in two formats."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[:300] / 16, labels[:300]
    np.savez(tmp_path / "data.npz", inputs=pixels, targets=labels)
    np.save(tmp_path / "x.npy", pixels)
    np.save(tmp_path / "y.npy", labels)
    np.savez(tmp_path / "other.npz", pictures=pixels)
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "usermodel.py").write_text(FACTORY)
    torch.manual_seed(5)
    state = network(64, 32, 16, 10).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    save_file(state, tmp_path / "weights.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "usermodel", raising=False)
    return tmp_path


def run(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of ``featgeo`` with these words."""
    monkeypatch.setattr(sys, "argv", ["featgeo", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_analyze_writes_what_the_library_finds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("analyze", "usermodel:build", "--json", "r.json", "--html", "r.html", "--weights")
    assert run(*words, "weights.pt", "--data", "data.npz", monkeypatch=monkeypatch) == 0
    first = Report.load("r.json")
    assert list(first.layers) == ["hidden1", "hidden2", "output"]
    assert first.samples == 300
    assert "hidden1" in Path("r.html").read_text(encoding="utf-8")
    data = ("--data", "x.npy", "--targets", "y.npy")
    assert run(*words, "weights.safetensors", *data, monkeypatch=monkeypatch) == 0
    second = Report.load("r.json")
    assert second.loss_value == first.loss_value
    assert second["hidden1"].alignment == first["hidden1"].alignment


def test_compress_writes_a_model_that_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "compress",
        "usermodel:build",
        "--data",
        "data.npz",
        "--weights",
        "weights.pt",
        "--out",
        "small.safetensors",
    )
    assert run(*words, "--budget", "0.5", monkeypatch=monkeypatch) == 0
    assert "ratio 0.4" in capsys.readouterr().out
    small = load_compressed(network(64, 32, 16, 10), "small.safetensors")
    assert sum(p.numel() for p in small.parameters()) <= 0.5 * (64 * 32 + 32 * 16 + 16 * 10 + 58)
    assert run(*words, "--budget", "half", monkeypatch=monkeypatch) == 2
    assert run(*words, "--budget", "0.001", monkeypatch=monkeypatch) == 2
    assert "rank 1 everywhere needs" in capsys.readouterr().err
    assert run(*words, monkeypatch=monkeypatch) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("usermodel", "--data", "data.npz"), "package.module:factory"),
        (("nosuchmodule:build", "--data", "data.npz"), "cannot be imported"),
        (("usermodel:missing", "--data", "data.npz"), "cannot be imported"),
        (("usermodel:broken", "--data", "data.npz"), "no such thing"),
        (("usermodel:number", "--data", "data.npz"), "must be or return"),
        (("usermodel:build", "--data", "absent.npz"), "no file"),
        (("usermodel:build", "--data", "other.npz"), "Name the arrays"),
        (("usermodel:build", "--data", "pickled.npy", "--targets", "y.npy"), "without pickle"),
        (("usermodel:build", "--data", "x.npy"), "the .npy of the targets"),
        (("usermodel:build", "--data", "data.npz", "--weights", "absent.pt"), "no file"),
        (("usermodel:build", "--data", "data.npz", "--weights", "y.npy"), "does not load"),
        (("usermodel:build", "--data", "data.npz", "--loss", "hinge"), "Known names"),
        (("usermodel:build", "--data", "data.npz", "--loss", "mse"), "needs one target per output"),
        (
            ("usermodel:build", "--data", "data.npz", "--at", "nowhere"),
            "'average', 'bayes', 'jacobian', or None",
        ),
        (("usermodel:build", "--data", "data.npz", "--html", "no/such/place.html"), "cannot be written"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    assert run("analyze", *words, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_demo_trains_analyses_and_writes_two_pages(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", "--epochs", "2", "--out", "r.html", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "hidden2" in shown
    assert Path("r.html").stat().st_size > 10_000
    assert Path("r-diabetes.html").stat().st_size > 10_000


def test_modes_prints_a_table_and_writes_a_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["hair,eyes"] + ["dark,brown"] * 30 + ["fair,blue"] * 25 + ["dark,blue"] * 10 + ["red,green"] * 9
    Path("people.csv").write_text("\n".join(lines) + "\n")
    words = ("modes", "people.csv", "--rows", "hair", "--columns", "eyes")
    assert run(*words, "--out", "modes.html", monkeypatch=monkeypatch) == 0
    assert "1" in capsys.readouterr().out
    assert "brown" in Path("modes.html").read_text(encoding="utf-8")
    assert run(*words, "--components", "many", monkeypatch=monkeypatch) == 2
    assert run("modes", "people.csv", "--rows", "hair", "--columns", "shoes", monkeypatch=monkeypatch) == 2


def test_score_ranks_files_and_the_layers_of_a_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels, labels = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    np.savez(folder / "half.npz", features=pixels[:, ::2], labels=labels)
    files = ("data.npz", "half.npz", "--method", "crossfit", "--method", "logme")
    assert run("score", *files, "--csv", "s.csv", "--plot", "s.png", monkeypatch=monkeypatch) == 0
    assert (folder / "s.png").read_bytes()[:4] == b"\x89PNG"
    names = [line.split(",")[0] for line in (folder / "s.csv").read_text().splitlines()]
    assert names == ["features of", "data", "half"]
    assert run("score", "data.npz", "--model", "usermodel:build", monkeypatch=monkeypatch) == 0
    assert "(output)" in capsys.readouterr().out
    np.savez(folder / "other.npz", features=pixels, labels=labels[::-1])
    assert run("score", "data.npz", "other.npz", monkeypatch=monkeypatch) == 2
    assert "same samples" in capsys.readouterr().err


def test_head_of_a_file_and_of_a_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--weight-decay", "0.1", "--weight-decay", "0.01", "--cv", "3", "--test", "data.npz")
    assert run("head", "data.npz", *options, "--out", "h.safetensors", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "Cross-validation, 3 folds" in shown
    assert "held out" in shown
    assert set(load_file(folder / "h.safetensors")) == {"weight", "bias"}
    assert (
        run("head", "data.npz", "--model", "usermodel:build", "--refine", "0", monkeypatch=monkeypatch) == 0
    )
    assert "one pass" in capsys.readouterr().out
    assert run("head", "data.npz", "--refine", "best", monkeypatch=monkeypatch) == 2
    assert run("head", "data.npz", "--layer", "fc", monkeypatch=monkeypatch) == 2


def test_help_names_the_verbs_with_an_example() -> None:
    def shown(*words: str) -> str:
        command = [sys.executable, "-c", "from featgeo.cli import main; main()", *words, "--help"]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        ).stdout

    top = shown()
    for verb in ("demo", "analyze", "validate", "modes", "score", "head"):
        assert verb in top
        assert "Example: featgeo" in shown(verb)


def test_compare_puts_saved_reports_side_by_side(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("analyze", "usermodel:build", "--data", "data.npz", "--weights", "weights.pt", "--json")
    for name in ("before.json", "after.json"):
        assert run(*words, name, monkeypatch=monkeypatch) == 0
    assert run("compare", "before.json", "after.json", "--html", "both.html", monkeypatch=monkeypatch) == 0
    assert "2 reports side by side; all have the same cross-entropy" in " ".join(
        capsys.readouterr().out.split()
    )
    page = Path("both.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("before", "after", "hidden1"))
    (folder / "other").mkdir()
    Path("other", "after.json").write_text(Path("after.json").read_text(encoding="utf-8"), encoding="utf-8")
    assert run("compare", "after.json", "other/after.json", "--at", "bayes", monkeypatch=monkeypatch) == 0
    assert "other/after.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing.json",), "no file"),
        (("data.npz",), "no featgeo report"),
        (("x.npy", "x.npy"), "the same file twice"),
    ],
)
def test_compare_says_what_is_wrong(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    assert run("compare", *words, monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err

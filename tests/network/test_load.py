"""A user's model from the command line."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import featgeo as fg
from featgeo.network.load import load_model

CODE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))

ready = build()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

class Shelf:
    build = staticmethod(build)

def broken():
    raise RuntimeError("out of order")

def number():
    return 3

def needs(argument):
    return build()
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo_of_tests.py").write_text(CODE)
    (tmp_path / "bad_zoo_of_tests.py").write_text("import nothing_of_that_name")
    (tmp_path / "torn_zoo_of_tests.py").write_text("def build(:")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("zoo_of_tests", "bad_zoo_of_tests", "torn_zoo_of_tests"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", ["build", "ready", "Net", "Shelf.build"])
def test_functions_classes_and_modules(name: str) -> None:
    assert isinstance(load_model(f"zoo_of_tests:{name}"), nn.Module)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zoo_of_tests", r"Write package\.module:factory"),
        ("zoo_of_tests:", r"Write package\.module:factory"),
        (":build", r"Write package\.module:factory"),
        ("no_such_zoo:build", "cannot be imported"),
        ("bad_zoo_of_tests:build", "nothing_of_that_name"),
        ("torn_zoo_of_tests:build", "cannot be imported"),
        ("zoo_of_tests:nothing", "has no attribute 'nothing'"),
        ("zoo_of_tests:broken", "RuntimeError raised by zoo_of_tests:broken: out of order"),
        ("zoo_of_tests:needs", "TypeError raised"),
        ("zoo_of_tests:number", "a int from zoo_of_tests:number"),
        ("..:build", "cannot be imported"),
    ],
)
def test_what_is_no_model(spec: str, message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message):
        load_model(spec)


def test_weights_of_both_kinds(tmp_path: Path) -> None:
    state = {
        name: torch.randn_like(value) for name, value in load_model("zoo_of_tests:build").state_dict().items()
    }
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        found = load_model("zoo_of_tests:build", tmp_path / name).state_dict()
        assert all(torch.equal(found[key], value) for key, value in state.items())


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import sys; sys.zoo_was_sprung = True",))


def test_weights_that_do_not_load(tmp_path: Path) -> None:
    other = nn.Linear(5, 5)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    torch.save(other, tmp_path / "module.pt")
    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap(), protocol=2))
    (tmp_path / "torn.safetensors").write_bytes(b"\x00\x01")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in (
        "other.safetensors",
        "module.pt",
        "trap.pt",
        "torn.safetensors",
        "empty.pt",
        "list.pt",
        "none.pt",
    ):
        with pytest.raises(fg.FeatgeoError, match=rf"weights: found .*{name}"):
            load_model("zoo_of_tests:build", tmp_path / name)
    assert not hasattr(sys, "zoo_was_sprung")

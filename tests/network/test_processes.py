"""Several processes with a shard each: one report, as if one process had read everything; errors reach all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import featgeo as fg
from featgeo.data.moments import Moments
from featgeo.data.processes import Processes
from featgeo.network.together import unwrapped
from tests.network.models import Residual, blobs, mlp, numbers, quiet

SIZE = 4
ERRORS = ("alignment_error", "gain_available_error", "gain_used_error")
Batch = tuple[Tensor, Tensor]


def everything(dtype: torch.dtype = torch.float64) -> list[Batch]:
    x, y = blobs(0, count=1290)
    return list(zip(x.to(dtype).split(30), y.split(30), strict=True))


def model(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return mlp(6, 8, 4, dtype=dtype)


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).double()


def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().double()


def smooth(z: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(z, y, reduction="none") + 0.01 * z.square().sum(1)


def told(call: Callable[[], Any]) -> str:
    """What an error says; empty where there is none."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def broken(data: list[Batch]) -> Iterator[Batch]:
    yield from data[:2]
    raise OSError("disk on fire")


def uneven(rank: int, data: list[Batch]) -> list[Batch]:
    """Most for the first, nothing for the third."""
    return [data[:30], data[30:36], [], data[36:]][rank]


def figures(rank: int, pair: Any) -> dict[str, Any]:
    """Of one, two and four processes."""
    found: dict[str, Any] = {}

    def among(key: str, make: Callable[[Any, Any], fg.Report]) -> None:
        data = everything()
        found[f"{key} 1"] = numbers(make(data, False))
        if rank < 2:
            found[f"{key} 2"] = numbers(make(data[rank::2], pair))
        found[f"{key} 4"] = numbers(make(data[rank::SIZE], None))
        found[f"{key} uneven"] = numbers(make(uneven(rank, data), None))

    among("nulls", lambda data, group: quiet(model(), data, nulls=2, group=group, seed=3))
    among(
        "decay", lambda data, group: quiet(model(), data, weight_decay=0.01, group=group, at="bayes", nulls=1)
    )
    among("residual", lambda data, group: quiet(residual(), data, group=group, subset=2000))
    among("callable", lambda data, group: quiet(model(), data, smooth, group=group))
    return found


def wrapped(rank: int) -> dict[str, Any]:
    """Under DistributedDataParallel, with running statistics of its own in every process."""
    data, net = everything(), normed()
    both = DistributedDataParallel(net)
    with torch.no_grad():
        net[1].running_mean += rank
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ours = quiet(both, uneven(rank, data))
    same = all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    return {
        "wrapped 4": numbers(ours),
        "wrapped 1": numbers(quiet(normed(), data, group=False)),
        "kept": same,
    }


def early(rank: int) -> dict[str, Any]:
    """Passes that end before the data do."""
    data = everything() * 6
    settled = quiet(model(), data[rank::SIZE] if rank else data[::SIZE][:20], tol=0.1)
    some = quiet(model(), data[rank::SIZE], max_batches=3, nulls=1)
    return {
        "settled": (settled.stopped, settled.batches, settled.samples, numbers(settled)),
        "max_batches": (some.stopped, some.batches, some.samples, numbers(some)),
    }


def failures(rank: int) -> dict[str, str]:
    """What each process says where one of them fails."""
    data = everything()[rank::SIZE]
    spoiled = [(x.clone(), y) for x, y in data]
    spoiled[3][0][1, 2] = math.nan
    other = model()
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-3 * (rank == 2)
    return {
        "nan": told(lambda: quiet(model(), spoiled if rank == 1 else data)),
        "loader": told(lambda: quiet(model(), list(data) if rank != 3 else broken(data))),
        "option": told(lambda: quiet(model(), data, at="mean" if rank == 2 else "average")),
        "options": told(lambda: quiet(model(), data, weight_decay=0.1 * (rank == 1))),
        "weights": told(lambda: quiet(other, data)),
        "shape": told(lambda: quiet(model(), [(x[:, :5], y) for x, y in data] if rank == 1 else data)),
        "empty": told(lambda: quiet(model(), [])),
        "late": told(lambda: quiet(model(), iter(data), nulls=1)),
        "fine": told(lambda: quiet(model(), data)),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=SIZE)
    pair = dist.new_group([0, 1])
    found = {**figures(rank, pair), **wrapped(rank), **early(rank), "failures": failures(rank)}
    if rank > 1:
        found["outside"] = told(lambda: quiet(model(), everything(), group=pair))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of four processes found; spawned once."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder),), nprocs=SIZE)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(SIZE)]


def assert_close(ours: Any, theirs: Any, where: str = "") -> None:
    """Numbers to 1e-6, everything else exactly; standard errors, which come from different samples, to a third."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for name in ours:
            if name in ERRORS and theirs[name] is not None:
                assert ours[name] == pytest.approx(theirs[name], rel=0.35), (where, name)
            elif name not in (
                "processes",
                "findings",
                "passes",
                "tail_error",
            ):  # the last: of a few groups of samples
                assert_close(ours[name], theirs[name], f"{where}/{name}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(one, other, f"{where}/{i}")
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6), where
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("case", ["nulls", "decay", "residual", "callable"])
def test_one_two_and_four_processes_find_the_same(found: list[dict[str, Any]], case: str) -> None:
    alone = found[0][f"{case} 1"]
    assert alone["processes"] == 1
    for key, size in (("2", 2), ("4", 4), ("uneven", 4)):
        ours = found[0][f"{case} {key}"]
        assert ours["processes"] == size
        assert_close(ours, alone, key)
        assert all(part[f"{case} {key}"] == ours for part in found[:size])  # every process, to the last bit


def test_wrapped_models_are_analysed_with_the_first_running_statistics(found: list[dict[str, Any]]) -> None:
    assert_close(found[0]["wrapped 4"], found[0]["wrapped 1"])
    assert list(found[0]["wrapped 4"]["layers"]) == ["0", "1", "3"]
    assert all(part["wrapped 4"] == found[0]["wrapped 4"] for part in found)
    assert all(part["kept"] for part in found)


def test_passes_end_together(found: list[dict[str, Any]]) -> None:
    assert all(part["settled"] == found[0]["settled"] for part in found)
    assert found[0]["settled"][0] == "tol"
    assert found[0]["settled"][2] < 6 * 1290
    assert [part["max_batches"][:3] for part in found] == [("max_batches", 12, 360)] * SIZE


@pytest.mark.parametrize(
    ("case", "rank", "message"),
    [
        ("nan", 1, "found NaN or infinite values in batch 3"),
        ("loader", 3, "OSError raised by the loader at batch 2: disk on fire"),
        ("option", 2, "at: found 'mean'"),
        ("shape", 1, "RuntimeError in a forward pass"),
    ],
)
def test_an_error_in_one_process_is_one_in_all(
    found: list[dict[str, Any]], case: str, rank: int, message: str
) -> None:
    for place, part in enumerate(found):
        said = part["failures"][case]
        assert said.startswith("FeatgeoError")
        assert message in said
        assert (f"(in process {rank})" in said) == (place != rank)


def test_what_differs_between_processes_is_named(found: list[dict[str, Any]]) -> None:
    for part in found:
        assert "group: found other options in process 1" in part["failures"]["options"]
        assert "model: found other values of '0.weight' in process 2" in part["failures"]["weights"]
        assert "data: found no samples" in part["failures"]["empty"]
        assert "an iterator that is spent" in part["failures"]["late"]
        assert part["failures"]["fine"] == ""
    assert all("a group that this process is not in" in part["outside"] for part in found[2:])


def test_alone_there_is_nothing_to_tell() -> None:
    one = Processes()
    assert (one.rank, one.size, one.first, one.gather(3)) == (0, 1, True, [3])
    moments = Moments.of(torch.randn(5, 2))
    assert one.merged(moments) is moments
    assert one.merged(None) is None
    with pytest.raises(fg.FeatgeoError, match=r"group: found a group without torch\.distributed"):
        fg.analyze(model(), everything(), group=object())


def test_parameters_spread_over_processes_are_refused() -> None:
    spread = model()
    spread[0].weight.full_tensor = lambda: spread[0].weight
    with pytest.raises(fg.FeatgeoError, match=r"'0\.weight' spread over processes.*Gather the parameters"):
        fg.analyze(spread, everything())
    assert unwrapped(nn.DataParallel(model())).state_dict().keys() == model().state_dict().keys()

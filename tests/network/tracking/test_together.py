"""Two processes that train together: all make an analysis or none, as the first one's clock says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

PROCESS = """
import sys, torch, featgeo as fg
from torch.distributed import init_process_group
rank, place = int(sys.argv[1]), sys.argv[2]
init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
torch.manual_seed(0)
x = torch.randn(64, 4)
tracker = fg.Tracker(torch.nn.Sequential(torch.nn.Linear(4, 3)), (x, x.argmax(1) % 3), every=1)
answers = iter([True, False, True, False] if rank == 0 else [False] * 4)
tracker._meter.fits = lambda: next(answers)
for _ in range(4):
    tracker.step()
print([snapshot.step for snapshot in tracker.history], tracker.history.failures)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_the_first_process_decides_for_all(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "meeting")] for rank in range(2)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    told = [process.communicate(timeout=120)[0].strip() for process in running]
    assert told == ["[1, 3] []"] * 2

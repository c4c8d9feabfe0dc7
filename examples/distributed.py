"""A network trained and analysed by several processes, each on its own shard.

Run: torchrun --nproc_per_node 2 examples/distributed.py
On GPUs with NCCL: the same command; without GPUs the processes talk through gloo.
"""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import featgeo as fg


def main() -> None:
    """Train under DistributedDataParallel, then analyse what was trained."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")

    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.SiLU(), nn.Linear(48, 10)).to(device)
    wrapped = DistributedDataParallel(model, device_ids=[device.index] if cuda else None)

    sampler: DistributedSampler[object] = DistributedSampler(data)
    optimiser = torch.optim.AdamW(wrapped.parameters(), lr=5e-3, weight_decay=1e-3)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        for x, y in DataLoader(data, batch_size=64, sampler=sampler):
            optimiser.zero_grad()
            nn.functional.cross_entropy(wrapped(x.to(device)), y.to(device)).backward()
            optimiser.step()

    # Every sample once: a DistributedSampler would repeat some so that all shards are equally long.
    shard = Subset(data, range(rank, len(data), size))
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    report = fg.analyze(wrapped, DataLoader(shard, batch_size=64), "cross_entropy")
    if rank == 0:
        print(report)
        print(f"{report.processes} processes, {report.batches} batches, {report.samples:,} samples")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Loss and accuracy against parameters kept: compress() and its peers on held-out data.

Run: python benchmarks/compress.py digits            five networks, seconds each
     python benchmarks/compress.py fashion           a CNN; needs Debian's dataset-fashion-mnist
     python benchmarks/compress.py minilm            a sentence encoder; see examples/requirements.txt; 20 minutes
Statistics and derivatives come from training data, losses and accuracies from data that no method saw. `ratio` is
parameters kept over parameters before, biases included, of the layers that can be cut. Every method is tried with three
allocations: the same share in each layer (last layer left dense), a knapsack over its own squared singular values, and
a knapsack over the increase of the loss that compress() predicts for its modes. The last column says how far compress()
as shipped is below the best of all peers under all allocations, with the standard error of that paired difference.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from compress_peers import own, peers, predicted, uniform
from torch import Tensor, nn

from featgeo.apply.correct import truncate
from featgeo.apply.making import Maker
from featgeo.apply.plan import Plan, look, working_copy
from featgeo.data.batches import Batches
from featgeo.network.keep import undisturbed
from featgeo.network.run import runner_of
from featgeo.theory.named import resolve_loss

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

Pair = tuple[object, Tensor]
RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
ALLOCATIONS = ("uniform", "own", "predicted")


# -- networks and data -----------------------------------------------------------------------------------------------


def trained(model: nn.Module, x: Tensor, y: Tensor, epochs: int, batch: int, rate: float) -> nn.Module:
    """AdamW with one cycle of the rate, in place."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * (len(x) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // batch * batch].split(batch):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def digits(seed: int) -> tuple[nn.Module, Pair, Pair]:
    """64-64-32-10, ReLU or tanh in turn, on three quarters of the handwritten digits."""
    from sklearn.datasets import load_digits

    torch.manual_seed(seed)
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    kind = (nn.ReLU, nn.Tanh)[seed % 2]
    model = nn.Sequential(nn.Linear(64, 64), kind(), nn.Linear(64, 32), kind(), nn.Linear(32, 10))
    trained(model, x[:1347], y[:1347], 60, 64, 3e-3)
    return model, (x[:1347], y[:1347]), (x[1347:], y[1347:])


def fashion(seed: int) -> tuple[nn.Module, Pair, Pair]:
    """Three convolutions and two Linear layers, 30,000 images; 3,000 of them to compress, 5,000 others to test."""
    from sources_data import fashion_mnist, pixels

    torch.manual_seed(seed)
    images, labels, others, their_labels = fashion_mnist()
    x, y = pixels(images[:30000]) - 0.286, torch.tensor(labels[:30000])
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    trained(model, x, y, 4, 128, 3e-3)
    return model, (x[:3000], y[:3000]), (pixels(others[:5000]) - 0.286, torch.tensor(their_labels[:5000]))


class Complaints(nn.Module):
    """MiniLM with a linear head on the mean of its tokens."""

    def __init__(self, words: nn.Module, classes: int) -> None:
        super().__init__()
        self.words, self.head = words, nn.Linear(384, classes)

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(m, 384)."""
        hidden = self.words(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return (hidden * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.features(input_ids, attention_mask))


def minilm(seed: int, texts: int = 256, tests: int = 256, length: int = 32) -> tuple[nn.Module, Pair, Pair]:
    """The encoder as it comes, its head fitted to 1,000 complaints of bank customers, 8 classes."""
    from sources import complaints
    from sources import minilm as encoder

    torch.manual_seed(seed)
    found, (x, y, others, their_labels) = encoder(length), complaints()

    def tokens(some: list[str]) -> dict[str, Tensor]:
        made = found.tokens(some)
        return {key: made[key] for key in ("input_ids", "attention_mask")}

    model = Complaints(found.words, int(max(y)) + 1).eval()
    order = torch.randperm(len(x))[:1000].tolist()
    labels = torch.tensor(y)[order]
    inputs = tokens([x[i] for i in order])
    with torch.no_grad():
        rows = torch.cat([model.features(*part) for part in _parts(inputs)])
    solver = torch.optim.LBFGS(model.head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(model.head(rows), labels) + 1e-3 * model.head.weight.square().sum()
        value.backward()
        return value

    solver.step(objective)
    model.requires_grad_(False)
    test = torch.randperm(len(others))[:tests].tolist()
    train = {key: part[:texts] for key, part in inputs.items()}
    held = tokens([others[i] for i in test])
    return model, (train, labels[:texts]), (held, torch.tensor(their_labels)[test])


def _parts(inputs: dict[str, Tensor], size: int = 128) -> list[tuple[Tensor, ...]]:
    return list(zip(*(part.split(size) for part in inputs.values()), strict=True))


TASKS = {
    "digits": (digits, 5, 1024, 64, True),
    "fashion": (fashion, 1, 1024, 64, True),
    "minilm": (minilm, 1, 64, 12, True),
}


# -- measurement -----------------------------------------------------------------------------------------------------


def losses(model: nn.Module, data: Pair) -> tuple[Tensor, float]:
    """Loss of every sample, and the accuracy."""
    run = runner_of(model)
    with torch.no_grad():
        outputs = torch.cat([run(inputs) for inputs, _ in Batches(data)])
    right = (outputs.argmax(1) == data[1]).float().mean().item()
    return F.cross_entropy(outputs, data[1], reduction="none").double(), right


def truncated(plan: Plan, modes: dict, ranks: dict) -> nn.Module:
    """The network with these modes only."""
    cut = copy.deepcopy(plan.model)
    truncate(
        cut, plan.layers, {name: modes[name].thin(rank) for name, rank in ranks.items() if rank is not None}
    )
    return cut


def study(
    model: nn.Module,
    train: Pair,
    test: Pair,
    ratios: tuple[float, ...],
    samples: int,
    stages: int,
    search: bool,
):
    """ratio -> method, allocation -> loss of every test sample and accuracy; and the same of the uncut network."""
    work, found = working_copy(model), defaultdict(dict)
    with undisturbed(work):
        begin = time.perf_counter()
        plan, _ = look(work, Batches(train), resolve_loss("cross_entropy"), samples=samples)
        maker = Maker(plan, True, stages, False)
        print(f"# survey and metrics {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        rivals = dict(peers(plan))
        print(f"# peers' modes {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        for ratio in ratios:
            for method, outlook in rivals.items():
                choices = (uniform(plan, ratio), own(plan, outlook, ratio), predicted(plan, outlook, ratio))
                for allocation, ranks in zip(ALLOCATIONS, choices, strict=True):
                    if ranks is not None:
                        made = truncated(plan, outlook.modes, ranks)
                        found[ratio][method, allocation] = losses(made, test)
            same = uniform(plan, ratio)
            if same is not None:
                found[ratio]["ours", "uniform"] = losses(maker.build("near", same).model, test)
            made = maker.best(int(ratio * plan.total), search)
            found[ratio]["ours", "shipped"] = losses(made.model, test)
            print(f"# {ratio}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return found, losses(model, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--networks", type=int)
    options = parser.parse_args()
    build, networks, samples, stages, search = TASKS[options.task]
    warnings.simplefilter("ignore")
    total: dict = defaultdict(lambda: defaultdict(list))
    uncut = []
    for seed in range(options.networks or networks):
        model, train, test = build(seed)
        found, base = study(model, train, test, tuple(options.ratios), samples, stages, search)
        uncut.append(base)
        for ratio, methods in found.items():
            for key, result in methods.items():
                total[ratio][key].append(result)
    mean = {r: {k: (torch.cat([x for x, _ in v]), sum(a for _, a in v) / len(v)) for k, v in m.items()
                if len(v) == len(uncut)} for r, m in total.items()}  # fmt: skip
    print(f"{options.task}: {len(uncut)} network(s), uncut loss {torch.cat([x for x, _ in uncut]).mean():.4f}, "
          f"accuracy {sum(a for _, a in uncut) / len(uncut):.4f}")  # fmt: skip
    keys = list(dict.fromkeys(key for methods in mean.values() for key in methods))
    print(f"{'method':16}{'allocation':12}" + "".join(f"{ratio:>16}" for ratio in mean))
    for key in keys:
        cells = [
            f"{m[key][0].mean():8.4f} {m[key][1]:7.4f}" if key in m else f"{'-':>16}" for m in mean.values()
        ]
        print(f"{key[0]:16}{key[1]:12}" + "".join(cells))
    for ratio, methods in mean.items():
        ours = methods["ours", "shipped"][0]
        best = min((k for k in methods if k[0] != "ours"), key=lambda k: methods[k][0].mean())
        gap = methods[best][0] - ours
        error = (gap.std() / len(gap) ** 0.5).item()
        print(
            f"ratio {ratio}: best peer {' '.join(best)}, its loss minus ours {gap.mean():+.5f} ± {error:.5f}"
        )


if __name__ == "__main__":
    main()

"""Feature sets for the transfer benchmark: layers of several networks on several tasks, computed once and kept.

Features are kept as float32 in the folder of data (examples/sources.py says which), so that the benchmark itself times
scores and not forward passes. Run by itself it fills the folder: python benchmarks/feature_sets.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import sources
from sources_packages import DATA

from featgeo.apply.layer_features import layer_features

FOLDER = DATA / "feature_sets"
SIDE = 96  # pixels: the networks were trained at 224, but rank their layers in the same way at a fifth of the cost
TRAIN, TEST = 4000, 4000
MOBILE = [f"features.{i}.conv.0.0" for i in (2, 4, 7, 11, 14, 17)] + [
    "features.18.0",
    "classifier.1",
    "(output)",
]
EFFICIENT = [f"_blocks.{i}._expand_conv" for i in (2, 4, 6, 9, 12, 15)] + ["_conv_head", "_fc", "(output)"]

Arrays = dict[str, np.ndarray]


def images(load: Callable[[], sources.Split]) -> Arrays:
    """Pixels, layers of two networks trained on ImageNet, and of one with random weights."""
    x_train, y_train, x_test, y_test = load()
    x = sources.pixels(np.concatenate([x_train[:TRAIN], x_test[:TEST]]), SIDE, normalise=True)
    small = sources.pixels(np.concatenate([x_train[:TRAIN], x_test[:TEST]])).flatten(1)
    arrays = {"pixels": small.numpy(), "targets": np.concatenate([y_train[:TRAIN], y_test[:TEST]])}
    torch.manual_seed(0)
    networks = {
        "efficientnet": (sources.efficientnet_lite0(), EFFICIENT),
        "mobilenet": (sources.mobilenet_v2(), MOBILE),
        "untrained": (untrained(sources.mobilenet_v2(), x[:256]), MOBILE[1::3]),
    }
    for name, (network, layers) in networks.items():
        found, _, _ = layer_features(network, (x, torch.zeros(len(x))), layers, batch_size=100)
        arrays |= {f"{name}/{layer}": found[layer].numpy() for layer in layers}
    return arrays


def untrained(network: nn.Module, x: Tensor) -> nn.Module:
    """The network with fresh weights, its batch normalisation set to one batch of the data."""
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a cumulative average
    with torch.no_grad():
        network.train()(x)
    return network.eval()


def texts(load: Callable[[], sources.Texts]) -> Arrays:
    """Words, and the blocks of a sentence encoder, trained and not."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words_train, y_train, words_test, y_test = load()
    words = words_train[:TRAIN] + words_test[:TEST]
    arrays = {"targets": np.concatenate([y_train[:TRAIN], y_test[:TEST]])}
    counts = TfidfVectorizer(min_df=3, sublinear_tf=True).fit(words[:TRAIN])
    reduced = TruncatedSVD(256, random_state=0).fit(counts.transform(words[:TRAIN]))
    arrays["words"] = reduced.transform(counts.transform(words)).astype(np.float32)
    encoder = sources.minilm(length=96)
    arrays |= {f"minilm/block {i}": rows for i, rows in enumerate(blocks(encoder, words))}
    torch.manual_seed(0)
    for module in encoder.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    arrays |= {f"untrained/block {i}": rows for i, rows in enumerate(blocks(encoder, words)) if i in (3, 6)}
    return arrays


@torch.no_grad()
def blocks(encoder: sources.SentenceEncoder, words: list[str], batch: int = 64) -> Iterator[np.ndarray]:
    """Mean over the tokens of what leaves the embedding and each block, texts of one length together."""
    order = np.argsort([len(text) for text in words])
    parts = []
    for start in range(0, len(words), batch):
        tokens = encoder.tokens([words[i] for i in order[start : start + batch]])
        mask = tokens["attention_mask"][..., None]
        hidden = encoder.words(
            input_ids=tokens["input_ids"], attention_mask=mask[..., 0], output_hidden_states=True
        ).hidden_states
        parts.append(torch.stack([(h * mask).sum(1) / mask.sum(1) for h in hidden], dim=1))
    rows = torch.cat(parts)[torch.from_numpy(np.argsort(order))]
    yield from rows.unbind(1)


def places() -> Arrays:
    """Where houses stand in California, through the layers of a location encoder; the target is the log price."""
    frame = sources.california_housing().sample(TRAIN + TEST, random_state=0)
    place = torch.tensor(frame[["latitude", "longitude"]].to_numpy(np.float32))
    price = np.log(frame["median_house_value"].to_numpy(np.float64))
    arrays = {"targets": price, "place": place.numpy()}
    network = sources.geoclip()
    found, _, _ = layer_features(network, (place, torch.zeros(len(place))))
    return arrays | {f"geoclip/{name}": rows.numpy() for name, rows in found.items()}


TASKS: dict[str, Callable[[], Arrays]] = {
    "fashion": lambda: images(sources.fashion_mnist),
    "cifar10": lambda: images(sources.cifar10),
    "reviews": lambda: texts(sources.imdb),
    "complaints": lambda: texts(sources.complaints),
    "house prices": places,
}


def all_images() -> Arrays:
    """What enters the last layer of one network, for all images of CIFAR-10: 50,000 to train and 10,000 to test."""
    x_train, y_train, x_test, y_test = sources.cifar10()
    network, parts = sources.efficientnet_lite0(), []
    for rows in torch.from_numpy(np.concatenate([x_train, x_test])).split(1000):
        x = sources.pixels(rows.numpy(), SIDE, normalise=True)
        parts.append(layer_features(network, (x, torch.zeros(len(x))), ["_fc"], batch_size=100)[0]["_fc"])
    return {"efficientnet/_fc": torch.cat(parts).numpy(), "targets": np.concatenate([y_train, y_test])}


WHOLE: dict[str, Callable[[], Arrays]] = {"cifar10-whole": all_images}  # takes ten minutes


def feature_sets(task: str) -> tuple[Arrays, np.ndarray]:
    """Features (samples, k) by name and targets of a task: the first `TRAIN` rows are for the training."""
    path = FOLDER / f"{task}.npz"
    if not path.exists():
        start = time.perf_counter()
        arrays = (TASKS | WHOLE)[task]()
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{name.replace("/", "|"): array for name, array in arrays.items()})
        print(
            f"{task}: features of {len(arrays) - 1} sets in {time.perf_counter() - start:.0f} s", flush=True
        )
    with np.load(path) as file:
        loaded = {name.replace("|", "/"): file[name] for name in file.files}
    targets = loaded.pop("targets")
    return loaded, targets


if __name__ == "__main__":
    for task in sys.argv[1:] or TASKS:
        sets, targets = feature_sets(task)
        print(task, targets.shape, {name: rows.shape[1] for name, rows in sets.items()})

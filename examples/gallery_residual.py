"""A residual network of timm, its weights random at first, trained a little on Fashion-MNIST under a Tracker.

Run: python examples/gallery_residual.py   (make gallery runs all of them; data: Debian's dataset-fashion-mnist)
"""

import copy
import warnings

import pandas as pd
import torch
from gallery_section import Section, intervene, spread
from sources import declare_vision_operators, fashion_mnist, pixels
from torch import nn

import featgeo as fg

declare_vision_operators()  # before timm, which imports torchvision
import timm  # noqa: E402

TRAINED, SAMPLES, HELD_OUT, BATCH, EPOCHS = 12_000, 2048, 2000, 64, 3
DECAY, EARLY, SUBSET, MEASURED = 5e-4, 20, 256, 1024


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, tracker: fg.Tracker) -> nn.Module:
    """A few epochs of SGD with momentum; returns the network as it was after a few steps."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=DECAY)
    steps, early = 0, model
    model.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimiser.step()
            tracker.step()
            steps += 1
            early = copy.deepcopy(model).eval() if steps == EARLY else early
    model.eval()
    return early


def main() -> None:
    torch.manual_seed(0)
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    section = Section("residual", "A residual network of timm, while it trains on Fashion-MNIST")
    x, y, more, more_y = fashion_mnist()
    images, labels = pixels(x[:TRAINED]), torch.tensor(y[:TRAINED])
    tests, answers = pixels(more[:HELD_OUT]), torch.tensor(more_y[:HELD_OUT])
    model = timm.create_model("resnet18", num_classes=10, in_chans=1, channels=(16, 32, 64, 128))
    untrained = copy.deepcopy(model).eval()
    data = images[:SAMPLES], labels[:SAMPLES]
    tracker = fg.Tracker(
        model, (images, labels), every=TRAINED // BATCH // 2, budget=1.0, samples=1024, subset=64
    )
    tracker.analyze()
    early = train(model, images, labels, tracker)
    with torch.no_grad():
        accuracy = (model(tests).argmax(1) == answers).float().mean().item()
    section.say(
        f"timm's `resnet18` with a quarter of the usual channels (`channels=(16, 32, 64, 128)`), {EPOCHS} epochs of "
        f"SGD on {TRAINED:,} images; it is right on {accuracy:.0%} of {HELD_OUT:,} test images. Every convolution but "
        f"the first lies on a road that a skip connection bypasses."
    )
    report = fg.analyze(model, data, weight_decay=DECAY, subset=SUBSET)
    shuffled = fg.analyze(
        model, (data[0], data[1][torch.randperm(SAMPLES)]), weight_decay=DECAY, subset=SUBSET
    )
    section.report(report, shuffled)

    section.say(f"What the tracker saw: {tracker.cost}.")
    history = tracker.to_frame()
    names = spread([layer.name for layer in report.analysed], 7)
    wide = history.pivot_table(index="layer", columns="step", values="alignment").loc[names]
    wide.columns = [f"step {step}" for step in wide.columns]
    section.say("Alignment of layers along depth, over steps of training:")
    section.table(wide)
    section.figure(tracker.plot(), "Loss, alignment and gain of the layers over steps of training")

    @torch.no_grad()
    def loss_of(network: nn.Module) -> float:
        return nn.functional.cross_entropy(network(data[0][:MEASURED]), data[1][:MEASURED]).item()

    section.say(
        f"Interventions in single layers of the trained network, measured on {MEASURED:,} of the samples:"
    )
    names = spread([layer.name for layer in report.analysed], 9)
    section.interventions(intervene(model, report, lambda: loss_of(model), names))
    first = fg.analyze(early, data, subset=SUBSET)
    section.say(
        f"The same after {EARLY} steps of training, where there is much to gain (loss {first.loss_value:.3f}):"
    )
    section.interventions(intervene(early, first, lambda: loss_of(early), names))
    before = fg.analyze(untrained, data, subset=SUBSET)
    middle = [pd.Series([layer.alignment for layer in r.analysed]).median() for r in (before, first, report)]
    section.say(
        f"Median alignment of the {len(report.analysed)} layers before training, after {EARLY} steps and at the end: "
        f"{', '.join(f'{value:.2f}' for value in middle)}."
    )
    section.write()


if __name__ == "__main__":
    main()

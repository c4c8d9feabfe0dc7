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

TRAINED, SAMPLES, HELD_OUT, BATCH, EPOCHS = 12_000, 4096, 2000, 64, 3


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, tracker: fg.Tracker) -> None:
    """A few epochs of SGD with momentum."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    model.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimiser.step()
            tracker.step()
    model.eval()


def main() -> None:
    torch.manual_seed(0)
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    section = Section("residual", "A residual network of timm, while it trains on Fashion-MNIST")
    x, y, more, more_y = fashion_mnist()
    images, labels = pixels(x[:TRAINED]), torch.tensor(y[:TRAINED])
    tests, answers = pixels(more[:HELD_OUT]), torch.tensor(more_y[:HELD_OUT])
    model = timm.create_model("resnet18", num_classes=10, in_chans=1, channels=(16, 32, 64, 128))
    untrained = copy.deepcopy(model)
    data = images[:SAMPLES], labels[:SAMPLES]
    tracker = fg.Tracker(model, (images, labels), every=TRAINED // BATCH // 2, budget=1.0, samples=1024)
    tracker.analyze()
    train(model, images, labels, tracker)
    with torch.no_grad():
        accuracy = (model(tests).argmax(1) == answers).float().mean().item()
    section.say(
        f"timm's `resnet18` with a quarter of the usual channels (`channels=(16, 32, 64, 128)`), {EPOCHS} epochs of "
        f"SGD on {TRAINED:,} images; it is right on {accuracy:.0%} of {HELD_OUT:,} test images. Every convolution but "
        f"the first lies on a road that a skip connection bypasses."
    )
    report = fg.analyze(model, data, weight_decay=5e-4)
    shuffled = fg.analyze(model, (data[0], data[1][torch.randperm(SAMPLES)]), weight_decay=5e-4)
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
        return nn.functional.cross_entropy(network(data[0][:1024]), data[1][:1024]).item()

    section.say("Interventions in single layers of the trained network, measured on 1,024 of the samples:")
    found = intervene(model, report, lambda: loss_of(model), spread([x.name for x in report.analysed], 9))
    section.interventions(found)
    before = fg.analyze(untrained.eval(), data)
    section.say(
        f"The same network before training: the loss is {before.loss_value:.3f} against {before.constant_loss:.3f} of "
        f"the best constant, and the median alignment of its {len(before.analysed)} layers "
        f"{pd.Series([x.alignment for x in before.analysed]).median():.2f} "
        f"(trained: {pd.Series([x.alignment for x in report.analysed]).median():.2f})."
    )
    section.write()


if __name__ == "__main__":
    main()

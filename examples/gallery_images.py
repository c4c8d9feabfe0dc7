"""EfficientNet-Lite0, pretrained on ImageNet, on CIFAR-10 with a head fitted to it.

Run: python examples/gallery_images.py   (make gallery runs all of them; data: examples/sources.py --get cifar10)
"""

import warnings

import torch
from gallery_section import Section, intervene, spread
from sklearn.linear_model import LogisticRegression
from sources import cifar10, efficientnet_lite0, pixels
from torch import Tensor, nn

import featgeo as fg

SAMPLES, HELD_OUT, BATCH, SIZE, MEASURED = 1280, 256, 64, 64, 128
BYPASSED = (2, 4, 6, 7, 9, 10, 12, 13, 14)  # blocks with a skip connection


@torch.no_grad()
def features_of(model: nn.Module, head: nn.Linear, images: Tensor) -> Tensor:
    """What the last layer reads."""
    rows: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _m, inputs: rows.append(inputs[0]))
    for batch in images.split(BATCH):
        model(batch)
    handle.remove()
    return torch.cat(rows)


def main() -> None:
    torch.manual_seed(0)
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    section = Section("images", "An image network on CIFAR-10")
    x, y, more, more_y = cifar10()
    images, labels = pixels(x[:SAMPLES], SIZE, normalise=True), torch.tensor(y[:SAMPLES])
    tests = pixels(more[:HELD_OUT], SIZE, normalise=True)
    model = efficientnet_lite0()
    name, old = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    features = features_of(model, old, images)
    fit = LogisticRegression(C=0.01, max_iter=2000).fit(features.numpy(), y[:SAMPLES])
    accuracy = fit.score(features_of(model, old, tests).numpy(), more_y[:HELD_OUT])
    head = nn.Linear(old.in_features, 10)
    head.weight.data = torch.tensor(fit.coef_, dtype=torch.float32)
    head.bias.data = torch.tensor(fit.intercept_, dtype=torch.float32)
    model.set_submodule(name, head)
    section.say(
        f"EfficientNet-Lite0 (Apache-2.0), trained by others on ImageNet; its last layer replaced by a logistic "
        f"regression on the {old.in_features} features of {SAMPLES:,} images of CIFAR-10 (Krizhevsky 2009), enlarged "
        f"to {SIZE} x {SIZE} pixels. It is right on {accuracy:.0%} of {HELD_OUT} images held out. `layers=` "
        f"takes the pointwise convolutions of the blocks with a skip connection, and the last layer. (Depthwise ones "
        f"have patches of up to 28,800 entries; the Bayes action of a layer that nothing bypasses runs the network "
        f"hundreds of times.)"
    )

    wanted = [f"_blocks.{i}.{part}" for i in BYPASSED for part in ("_expand_conv", "_project_conv")] + [name]
    options = {"layers": wanted, "batch_size": BATCH, "subset": 32}
    report = fg.analyze(model, (images, labels), **options)
    order = torch.randperm(SAMPLES)
    shuffled = fg.analyze(model, (images, labels[order]), **options)
    section.report(report, shuffled)
    section.figure(
        report.plot(), "Alignment, gain, spectra and width curves of the layers of EfficientNet-Lite0"
    )

    part = list(zip(images[:MEASURED].split(BATCH), labels[:MEASURED].split(BATCH), strict=True))

    @torch.no_grad()
    def loss() -> float:
        return sum(nn.functional.cross_entropy(model(x), y).item() for x, y in part) / len(part)

    section.say(f"Interventions in single layers, measured on {MEASURED} of the samples:")
    section.interventions(intervene(model, report, loss, spread([x.name for x in report.analysed], 9)))
    section.write()


if __name__ == "__main__":
    main()

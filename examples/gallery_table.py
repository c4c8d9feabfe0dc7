"""FT-Transformer, a network for tables by other people (rtdl-revisiting-models), on the Adult data.

Run: python examples/gallery_table.py   (make gallery runs all of them; data: examples/sources.py --get adult)
"""

import warnings

import torch
from gallery_section import Section, intervene
from rtdl_revisiting_models import FTTransformer
from sources import adult
from torch import Tensor, nn

import featgeo as fg

TARGET, SAMPLES, HELD_OUT, BATCH, EPOCHS = "income-per-year", 8192, 8000, 256, 3


def tensors() -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Standardised numbers, codes of categories, the target, and the number of codes per categorical column."""
    frame = adult().sample(frac=1, random_state=0)
    target = torch.tensor(frame.pop(TARGET).astype("category").cat.codes.to_numpy(), dtype=torch.int64)
    numbers = frame.select_dtypes("number")
    codes = frame.drop(columns=numbers.columns).fillna("?").astype("category")
    codes = codes.apply(lambda column: column.cat.codes)
    x = torch.tensor(((numbers - numbers.mean()) / numbers.std()).to_numpy(), dtype=torch.float32)
    return x, torch.tensor(codes.to_numpy(), dtype=torch.int64), target, (codes.max() + 1).tolist()


def batches(x: Tensor, codes: Tensor, y: Tensor) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
    """Batches whose inputs are pairs, as the network wants them."""
    return list(zip(zip(x.split(BATCH), codes.split(BATCH), strict=True), y.split(BATCH), strict=True))


def train(model: nn.Module, x: Tensor, codes: Tensor, y: Tensor) -> None:
    """A few epochs of AdamW."""
    optimiser = torch.optim.AdamW(model.make_parameter_groups(), lr=1e-3, weight_decay=1e-5)
    model.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(y)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[chosen], codes[chosen]), y[chosen]).backward()
            optimiser.step()
    model.eval()


def main() -> None:
    torch.manual_seed(0)
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    section = Section("table", "A transformer for tables on Adult")
    x, codes, y, cardinalities = tensors()
    size = FTTransformer.get_default_kwargs(2) | {"d_block": 64, "_is_default": False}
    model = FTTransformer(n_cont_features=x.shape[1], cat_cardinalities=cardinalities, d_out=2, **size)
    train(model, x[HELD_OUT:], codes[HELD_OUT:], y[HELD_OUT:])
    with torch.no_grad():
        right = torch.cat(
            [model(*inputs).argmax(1) == t for inputs, t in batches(x, codes, y)[: HELD_OUT // BATCH]]
        )
    section.say(
        f"FT-Transformer (Gorishniy et al. 2021, MIT) with two blocks of 64 units on {x.shape[1]} numbers and "
        f"{codes.shape[1]} categories, {EPOCHS} epochs on {len(y) - HELD_OUT:,} people of the Adult data (UCI): does "
        f"somebody earn over $50,000? It is right on {right.float().mean():.1%} of {len(right):,} held out "
        f"({max((y == 0).float().mean(), (y == 1).float().mean()):.1%} by saying no to all)."
    )
    part = x[-SAMPLES:], codes[-SAMPLES:], y[-SAMPLES:]
    report = fg.analyze(model, batches(*part))
    shuffled = fg.analyze(model, batches(*part[:2], part[2][torch.randperm(SAMPLES)]))
    section.report(report, shuffled)
    section.figure(report.plot(), "Alignment, gain, spectra and width curves of the layers of FT-Transformer")

    @torch.no_grad()
    def loss() -> float:
        found = [nn.functional.cross_entropy(model(*inputs), t).item() for inputs, t in batches(*part)[:8]]
        return sum(found) / len(found)

    section.say(f"Interventions in every layer, measured on {8 * BATCH:,} of the samples:")
    section.interventions(intervene(model, report, loss, [layer.name for layer in report.analysed]))
    section.write()


if __name__ == "__main__":
    main()

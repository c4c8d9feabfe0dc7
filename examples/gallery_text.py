"""MiniLM, a pretrained sentence encoder, on complaints of bank customers in eight classes, with a head fitted to it.

Run: python examples/gallery_text.py   (make gallery runs all of them; data: examples/sources.py --get complaints)
"""

import warnings

import pandas as pd
import torch
from gallery_section import LAYERS, Section, intervene, spread
from sklearn.linear_model import LogisticRegression
from sources import complaints, minilm
from torch import Tensor, nn

import featgeo as fg

SAMPLES, HELD_OUT, BATCH, TOKENS, MEASURED, SUBSET = 1024, 384, 64, 24, 128, 24
LOOKED_AT = ["*.self.query", "*.self.value", "*.attention.output.dense", "*.intermediate.dense", "head"]


class Classifier(nn.Module):
    """The encoder with a linear read-out; tokens come as keywords, as Hugging Face's models take them."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.encoder(input_ids, attention_mask))


def batches(tokens: dict[str, Tensor], labels: Tensor) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Batches as a collator makes them."""
    names = ("input_ids", "attention_mask")
    return [
        ({name: tokens[name][i : i + BATCH] for name in names}, labels[i : i + BATCH])
        for i in range(0, len(labels), BATCH)
    ]


@torch.no_grad()
def block_features(encoder: nn.Module, data: list[tuple[dict[str, Tensor], Tensor]]) -> list[Tensor]:
    """The mean over tokens after the embedding and after each block, (samples, 384) each; the last feeds the head."""
    parts = []
    for inputs, _ in data:
        states = encoder.words(**inputs, output_hidden_states=True).hidden_states
        share = inputs["attention_mask"] / inputs["attention_mask"].sum(1, keepdim=True)
        parts.append([(state * share[..., None]).sum(1) for state in states])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def read_out(features: Tensor, labels: Tensor) -> LogisticRegression:
    """A logistic regression on some features."""
    return LogisticRegression(C=1.0, max_iter=2000).fit(features.numpy(), labels.numpy())


def held_out_gain(fit: LogisticRegression, features: Tensor, answers: Tensor, labels: Tensor) -> float:
    """Cross-entropy of the classes' frequencies less that of a fitted read-out, on samples held out."""
    shares = labels.bincount().to(torch.float64) / len(labels)
    said = torch.tensor(fit.predict_proba(features.numpy())).log()
    return (said.gather(1, answers[:, None]).mean() - shares.log()[answers].mean()).item()


def main() -> None:
    torch.manual_seed(0)
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    section = Section("text", "A sentence encoder on complaints", "encoder.words.encoder.")
    encoder = minilm(TOKENS)
    texts, numbers, more, more_numbers = complaints()
    labels, held_out = torch.tensor(numbers[:SAMPLES]), torch.tensor(more_numbers[:HELD_OUT])
    data = batches(encoder.tokens(texts[:SAMPLES]), labels)
    rest = batches(encoder.tokens(more[:HELD_OUT]), held_out)
    features, tests = block_features(encoder, data), block_features(encoder, rest)
    fits = [read_out(x, labels) for x in features]
    gains = [held_out_gain(fit, x, held_out, labels) for fit, x in zip(fits, tests, strict=True)]
    accuracy = [fit.score(x.numpy(), held_out.numpy()) for fit, x in zip(fits, tests, strict=True)]

    head = nn.Linear(encoder.words.config.hidden_size, int(labels.max()) + 1)
    head.weight.data = torch.tensor(fits[-1].coef_, dtype=torch.float32)
    head.bias.data = torch.tensor(fits[-1].intercept_, dtype=torch.float32)
    model = Classifier(encoder, head).eval()
    section.say(
        f"MiniLM (Apache-2.0), six blocks of attention, trained by others on a billion pairs of sentences; a logistic "
        f"regression reads {head.in_features} features out into {head.out_features} products that customers of banks "
        f"complained about (U.S. CFPB; the first {TOKENS} tokens of each text). It is right on {accuracy[-1]:.0%} of "
        f"{HELD_OUT} complaints held out."
    )
    report = fg.analyze(model, data, layers=LOOKED_AT, subset=SUBSET)
    order = torch.randperm(SAMPLES)
    everything = {key: torch.cat([inputs[key] for inputs, _ in data]) for key in data[0][0]}
    names = [layer.name for layer in spread(report.analysed, LAYERS)]
    shuffled = fg.analyze(model, batches(everything, labels[order]), layers=names, subset=SUBSET)
    section.report(report, shuffled)
    section.figure(
        report.plot(), "Alignment, gain, spectra and width curves of the layers of the sentence encoder"
    )

    blocks = {
        f"after {i} blocks": {
            "gain that featgeo reads": report[f"encoder.words.encoder.layer.{i}.attention.self.query"].gain_features
            if i < 6 else report["head"].gain_features,
            "gain of a fitted read-out, held out": gains[i],
            "its accuracy": accuracy[i],
        }
        for i in range(7)
    }  # fmt: skip
    table = pd.DataFrame.from_dict(blocks, orient="index").rename_axis("features")
    section.say(
        "Does the gain of a linear read-out, found in the one pass without fitting anything, say which block's "
        "features classify well? Beside it a logistic regression on each, on complaints held out:"
    )
    section.table(table)
    section.say(
        f"Rank correlation of the two gains over the seven: {table.corr(method='spearman').iloc[0, 1]:.2f}."
    )

    @torch.no_grad()
    def loss() -> float:
        part = data[: MEASURED // BATCH]
        return sum(nn.functional.cross_entropy(model(**x), y).item() for x, y in part) / len(part)

    section.say(f"Interventions in single layers, measured on {MEASURED} of the samples:")
    names = [x.name for x in report.analysed if not x.name.endswith("query")]
    section.interventions(intervene(model, report, loss, spread(names, 7)))
    section.write()


if __name__ == "__main__":
    main()

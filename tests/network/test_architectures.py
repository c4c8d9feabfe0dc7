"""Networks as people have them: attention, shared and parametrised layers, Hugging Face models, labels per position."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import featgeo as fg
from featgeo.network.ends import Ends
from tests.network.models import Residual, blobs, mlp, quiet
from tests.network.test_keep import assert_same, snapshot

CLASSES = 3


class Encoder(nn.Module):
    """Token ids (m, t) through a transformer encoder, positions first or samples first, to logits."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first)
        self.embed, self.blocks = (
            nn.Embedding(20, 8),
            nn.TransformerEncoder(block, 2, enable_nested_tensor=False),
        )
        self.head, self.batch_first = nn.Linear(8, CLASSES), batch_first

    def forward(self, tokens: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        x = self.embed(tokens)
        x = self.blocks(
            x if self.batch_first else x.transpose(0, 1), src_key_padding_mask=src_key_padding_mask
        )
        x = x if self.batch_first else x.transpose(0, 1)
        if src_key_padding_mask is None:
            return self.head(x.mean(1))  # type: ignore[no-any-return]
        keep = (~src_key_padding_mask).to(x)[:, :, None]
        return self.head((x * keep).sum(1) / keep.sum(1))  # type: ignore[no-any-return]


def tokens(count: int = 60, length: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 20, (count, length), generator=generator)
    return x, x.sum(1) % CLASSES


def close(one: fg.Report, other: fg.Report, rel: float = 1e-6) -> None:
    """All views of two reports agree."""
    assert one.layers.keys() == other.layers.keys()
    for layer in one:
        assert layer.views.keys() == other[layer.name].views.keys()
        for at, view in layer.views.items():
            theirs = other[layer.name].view(at)
            for name in ("alignment", "gain_available", "gain_used", "gap_weight", "constant_loss"):
                size = max(abs(getattr(theirs, name)), 1e-3)
                assert getattr(view, name) == pytest.approx(
                    getattr(theirs, name), abs=rel * size, nan_ok=True
                ), name


def test_samples_first_or_positions_first() -> None:
    torch.manual_seed(0)
    first, second = Encoder(True).double(), Encoder(False).double()
    second.load_state_dict(first.state_dict())
    one, two = (quiet(model, tokens()) for model in (first, second))
    assert {layer.status for layer in one} == {"analysed", "bypassed", "skipped"}
    close(one, two)


def test_as_many_positions_as_samples_are_told_apart() -> None:
    torch.manual_seed(0)
    model = Encoder(False).double()
    x, y = tokens(60, 6)
    close(quiet(model, (x, y), batch_size=6), quiet(model, (x, y), batch_size=20))


def test_padding_takes_no_part() -> None:
    """Sequences padded to different lengths say the same."""
    torch.manual_seed(0)
    model, (x, y) = Encoder(True).double(), tokens()
    lengths = torch.arange(60) % 4 + 2
    reports = []
    for width in (5, 9):
        padded = F.pad(x, (0, width - 5))
        mask = torch.arange(width) >= lengths[:, None]
        batch = {"tokens": padded, "src_key_padding_mask": mask, "labels": y}
        reports.append(quiet(model, [batch]))
    close(*reports)


class Shared(nn.Module):
    """One layer called at every step of a sequence (m, t, 4); or, unrolled, on all steps at once."""

    def __init__(self, unrolled: bool) -> None:
        super().__init__()
        self.read, self.head, self.unrolled = nn.Linear(4, 5), nn.Linear(5, CLASSES), unrolled

    def forward(self, x: Tensor) -> Tensor:
        steps = (
            [self.read(step).tanh() for step in x.unbind(1)]
            if self.unrolled
            else self.read(x).tanh().unbind(1)
        )
        return self.head(torch.stack(list(steps), 1).square().mean(1))  # type: ignore[no-any-return]


def sequences(count: int = 80) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, 4, generator=generator, dtype=torch.float64)
    return x, (x.mean(1)[:, 0] > 0).long() + (x[:, 0, 1] > 0).long()


def test_calls_of_a_shared_layer_count_as_positions() -> None:
    torch.manual_seed(0)
    one, two = Shared(True).double(), Shared(False).double()
    two.load_state_dict(one.state_dict())
    close(quiet(one, sequences()), quiet(two, sequences()))


class Recurrent(nn.Module):
    """A recurrence of two Linear layers: the state of one step is an input of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.state, self.head = (
            nn.Linear(4, 5),
            nn.Linear(5, 5, bias=False),
            nn.Linear(5, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 5)
        for step in x.unbind(1):
            state = (self.inputs(step) + self.state(state)).tanh()
        return self.head(state)  # type: ignore[no-any-return]


def test_a_recurrence_is_analysed() -> None:
    torch.manual_seed(0)
    report = quiet(Recurrent().double(), sequences(), at="bayes", nulls=1)
    assert {layer.name: layer.status for layer in report} == {
        "inputs": "analysed", "state": "bypassed", "head": "analysed",
    }  # fmt: skip
    assert all({"average", "jacobian", "bayes"} >= set(layer.views) for layer in report)


@pytest.mark.parametrize("module", [nn.LSTM(4, 3, batch_first=True), nn.GRUCell(4, 3), nn.RNN(4, 3)])
def test_fused_recurrences_say_why_they_are_skipped(module: nn.Module) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = module, nn.Linear(3, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            made = self.cell(x[:, 0] if isinstance(self.cell, nn.GRUCell) else x)
            made = made[0][:, -1] if isinstance(made, tuple) else made
            return self.head(made)  # type: ignore[no-any-return]

    x, y = sequences()
    report = quiet(Around(), (x.float(), y))
    assert report["cell"].status == "skipped"
    assert "fused call" in report["cell"].reason
    assert report["head"].status == "analysed"


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_layers_are_those_they_amount_to(kind: str) -> None:
    torch.manual_seed(0)
    x, y = blobs(0)
    plain = mlp(6, 5, 4, dtype=torch.float64)
    wrapped = copy.deepcopy(plain)
    wrap = {
        "weight_norm": parametrizations.weight_norm, "old weight_norm": nn.utils.weight_norm,
        "spectral_norm": parametrizations.spectral_norm, "orthogonal": parametrizations.orthogonal,
    }[kind]  # fmt: skip
    wrap(wrapped[0])
    wrapped.eval()
    with torch.no_grad():
        wrapped(x)
        plain[0].weight.copy_(wrapped[0].weight)
    before = snapshot(wrapped.train())
    report = quiet(wrapped, (x, y))
    assert_same(before, snapshot(wrapped))
    close(report, quiet(plain, (x, y)))
    assert report["0"].kind == "Linear"


def test_windows_and_frames_in_the_batch_dimension() -> None:
    """A layer whose first dimension holds samples and positions, in either order."""

    class Folded(nn.Module):
        def __init__(self, order: str) -> None:
            super().__init__()
            self.layer, self.head, self.order = nn.Linear(4, 5), nn.Linear(5, CLASSES), order

        def forward(self, x: Tensor) -> Tensor:
            if self.order == "plain":
                h = self.layer(x)
            elif self.order == "samples":
                h = self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            else:
                h = self.layer(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (x.shape[1], -1)).transpose(0, 1)
            return self.head(h.tanh().mean(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    plain = Folded("plain").double()
    wanted = quiet(plain, sequences())
    for order in ("samples", "positions"):
        other = Folded(order).double()
        other.load_state_dict(plain.state_dict())
        close(quiet(other, sequences()), wanted)


class Tagger(nn.Module):
    """Logits for every token; channels first where asked for."""

    def __init__(self, channels_first: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.channels_first = nn.Linear(4, 6), nn.Linear(6, CLASSES), channels_first

    def forward(self, x: Tensor) -> Tensor:
        logits = self.last(self.first(x).tanh())
        return logits.movedim(-1, 1) if self.channels_first else logits


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_label_per_position_makes_every_position_a_row(channels_first: bool) -> None:
    """As if all positions were samples of their own; ignored labels leave no trace."""
    torch.manual_seed(0)
    x, _ = sequences()
    labels = (x[:, :, 0] > 0).long() + (x[:, :, 1] > 0.3).long()
    labels[x[:, :, 2] > 1] = -100
    keep = labels != -100
    model = Tagger(channels_first).double()
    flat = Tagger().double()
    flat.load_state_dict(model.state_dict())
    report, wanted = quiet(model, (x, labels)), quiet(flat, (x[keep], labels[keep]))
    assert report.samples == int(keep.sum())
    close(report, wanted)


def test_ignored_labels_leave_no_trace_in_bypassed_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 5, 6, dtype=torch.float64)
    labels = (x[:, :, 0] > 0).long() + 2 * (x[:, :, 1] > 0.3).long()
    labels[x[:, :, 2] > 0.5] = -100
    keep = labels != -100
    model = Residual().double()
    options = {"at": "bayes", "subset": 10_000, "batch_size": 32}
    report, wanted = quiet(model, (x, labels), **options), quiet(model, (x[keep], labels[keep]), **options)
    assert set(report["inner"].views) == {"average", "jacobian", "bayes"}
    close(report, wanted, 1e-6)


def test_positions_can_be_asked_for() -> None:
    torch.manual_seed(0)
    x, y = sequences()
    model = Shared(False).double()
    reduced, expanded = (
        quiet(model, (x, y), layers="read"),
        quiet(model, (x, y), layers="read", positions="expand"),
    )
    assert reduced["read"].alignment != pytest.approx(expanded["read"].alignment, rel=1e-3)
    with pytest.raises(fg.FeatgeoError, match="positions: found 'expand' for outputs"):
        quiet(Tagger().double(), (x, y), positions="expand")
    with pytest.raises(fg.FeatgeoError, match="positions: found 'sum'"):
        quiet(model, (x, y), positions="sum")


def test_scores_at_every_position_for_one_label_are_refused() -> None:
    torch.manual_seed(0)
    x, y = sequences()
    with pytest.raises(
        fg.FeatgeoError, match=rf"model: found outputs \({x.shape[1]}, {CLASSES}\) and one label.*forward="
    ):
        quiet(Tagger().double(), (x, y))
    report = quiet(Tagger().double(), (x, y), forward=lambda model, inputs: model(inputs).mean(1))
    assert report.outputs == CLASSES


class Translator(Tagger):
    """Logits for the tokens of one sequence, which look at one of another length."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 6)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:  # type: ignore[override]
        return self.last((self.first(x) + self.other(source).mean(1, keepdim=True)).tanh())  # type: ignore[no-any-return]


def test_positions_that_have_no_labels_are_said_to_be_such() -> None:
    torch.manual_seed(0)
    x, _ = sequences()
    labels, source = (x[:, :, 0] > 0).long(), torch.randn(len(x), x.shape[1] + 3, 4, dtype=x.dtype)
    report = quiet(Translator().double(), [((x, source), labels)])
    assert report["other"].reason == "its positions are not those that have targets"
    assert report["last"].is_output


@pytest.mark.parametrize("kind", ["transposed", "tokens"])
def test_the_outputs_at_all_positions_of_a_sample_taken_together(kind: str) -> None:
    """The last layer puts out one position; what is compared is all of them: it is no output layer then."""
    torch.manual_seed(0)
    x = torch.randn(80, 4, 5, dtype=torch.float64).cumsum(2)
    last = nn.ConvTranspose1d(3, 4, 1) if kind == "transposed" else nn.Linear(5, 5)
    first = nn.Sequential(
        nn.Flatten(), nn.Linear(20, 3), nn.Tanh(), nn.Linear(3, 15), nn.Unflatten(1, (3, 5))
    )
    model = nn.Sequential(first if kind == "transposed" else nn.Tanh(), last).double()
    report = quiet(model, (x, x), "mse", positions="reduce")
    assert report.outputs == 20
    assert not report["1"].is_output
    assert report["1"].status == "analysed"
    if kind == "transposed":
        report = quiet(model, (x, x), "mse")  # the channels of a convolution's output are in dimension 1
        assert report.outputs == 4
        assert report["1"].is_output


@pytest.mark.parametrize(("length", "loss"), [(7, "mse"), (2, "mse"), (7, "bce"), (7, "cross_entropy")])
@pytest.mark.parametrize("turned", [False, True])
def test_the_last_layer_says_where_the_channels_of_sequences_are(
    length: int, loss: str, turned: bool
) -> None:
    """A convolution puts them first, as torch's losses take classes; a linear layer, or one turned after it, last."""
    torch.manual_seed(0)
    x = torch.randn(60, 4, length, dtype=torch.float64)
    y = torch.randn(60, 2, length, dtype=torch.float64).sigmoid()
    y = y / y.sum(1, keepdim=True)
    conv = nn.Sequential(nn.Conv1d(4, 5, 1), nn.Tanh(), nn.Conv1d(5, 2, 1)).double()
    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    for own, other in ((conv[0], plain[0]), (conv[2], plain[2])):
        other.load_state_dict({"weight": own.weight[:, :, 0], "bias": own.bias})
    wanted = quiet(plain, (x.transpose(1, 2), y.transpose(1, 2)), loss)
    assert wanted.samples == 60 * length
    if turned and length != 2:
        found = quiet(conv, (x, y.transpose(1, 2)), loss, forward=lambda model, z: model(z).transpose(1, 2))
    else:
        found = quiet(conv, (x, y), loss)
    close(found, wanted)


class Graph(nn.Module):
    """Two graph convolutions over the edges of one graph: what a node puts out depends on its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        def gather(h: Tensor) -> Tensor:
            degree = torch.bincount(edges[0], minlength=len(h))[:, None]
            return torch.zeros_like(h).index_add_(0, edges[0], h[edges[1]]) / degree

        return self.last(gather(self.first(gather(x)).tanh()))  # type: ignore[no-any-return]


def test_the_nodes_of_one_graph_are_positions_of_one_sample() -> None:
    torch.manual_seed(0)
    model, x, y = Graph().double(), torch.randn(150, 4).double(), torch.randint(0, CLASSES, (150,))
    ring = torch.arange(150)
    edges = torch.cat([torch.stack([ring, (ring + shift) % 150]) for shift in (0, 1, 5)], 1)
    with pytest.raises(fg.FeatgeoError, match=r"one sample with its nodes as positions.*forward=lambda"):
        quiet(model, [((x, edges), y)])
    y[100:] = -100  # nodes without a label
    report = quiet(model, (x[None], y[None]), forward=lambda model, inputs: model(inputs[0], edges)[None])
    assert report.samples == 100
    assert any("independent, which they are not" in text for text in report.warnings)
    with torch.no_grad():
        logits = model(x, edges)[:100]
    assert report.loss_value == pytest.approx(F.cross_entropy(logits, y[:100]).item(), rel=1e-9)
    assert report["last"].is_output
    assert "average" in report["first"].views
    assert "one sample only" in report["first"].reason


def test_an_encoder_decoder_says_what_it_lacks() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0,
    )  # fmt: skip
    model, read, labels = (
        T5ForConditionalGeneration(config), torch.randint(1, 12, (40, 5)), torch.randint(1, 12, (40, 3)),
    )  # fmt: skip
    batch = {"input_ids": read, "labels": labels}
    for call in (quiet, fg.solve_head):
        with pytest.raises(
            fg.FeatgeoError, match=r"no decoder_input_ids.*prepare_decoder_input_ids_from_labels.*forward="
        ):
            call(model, [batch])
    whole = quiet(
        model, [{**batch, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}]
    )
    assert whole.samples == 120
    assert whole["lm_head"].is_output


class Pooled(nn.Module):
    """One output for a sequence of any length; a road beside its layer where asked."""

    def __init__(self, beside: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.beside = nn.Linear(6, 5), nn.Linear(5, CLASSES), beside

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.last((h + x[:, :, :5] if self.beside else h).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("beside", [False, True])
def test_positions_that_are_rows_may_be_of_any_number_in_each_batch(
    beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that wait for one another are counted as they are one by one."""
    torch.manual_seed(0)
    data = []
    for length in (3, 5, 4, 3, 5, 4):
        x = torch.randn(20, length, 6, dtype=torch.float64)
        data.append((x, x.mean(1)[:, :CLASSES].argmax(1)))
    model = Pooled(beside).double()
    report = quiet(model, data, positions="expand")
    monkeypatch.setattr(Ends, "full", property(lambda self: bool(self.sizes)))
    close(report, quiet(model, data, positions="expand"))


@pytest.mark.parametrize("beside", [False, True])
def test_ignored_labels_leave_no_trace_where_positions_are_rows_of_one_label(beside: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(120, 4, 6, dtype=torch.float64)
    y = x.mean(1)[:, :CLASSES].argmax(1)
    y[::3] = -100
    y[:40] = -100  # a whole batch
    keep, model = y != -100, Pooled(beside).double()
    options: dict[str, Any] = {"positions": "expand", "nulls": 1, "steps": True}
    report = quiet(model, (x, y), batch_size=40, **options)
    wanted = quiet(model, (x[keep], y[keep]), batch_size=40, **options)
    assert report["last"].is_output
    close(report, wanted)
    for name in ("first", "last"):
        ours, theirs = (part[name].views["average"].nulls["re-drawn weights"] for part in (report, wanted))
        assert ours == pytest.approx(theirs, rel=1e-6)


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16, num_labels=CLASSES,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for length in (6, 9, 7):
        ids = torch.randint(0, 30, (24, length), generator=generator)
        mask = (torch.arange(length) < torch.randint(2, length + 1, (24, 1), generator=generator)).long()
        found.append({"input_ids": ids, "attention_mask": mask, "labels": (ids * mask).sum(1) % CLASSES})
    return found


def test_a_causal_language_model_with_the_labels_it_takes() -> None:
    """Labels that are the inputs are those of the next position: the loss is the model's own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokens = {"vocab_size": 12, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(n_positions=8, n_embd=8, n_layer=1, n_head=2, **tokens)).eval()
    ids = torch.randint(1, 12, (60, 8))
    labels = ids.clone()
    labels[:20, 5:] = -100
    data = [
        {"input_ids": part, "labels": label}
        for part, label in zip(ids.split(20), labels.split(20), strict=True)
    ]
    with torch.no_grad():
        own = [model(**batch).loss.item() for batch in data]
    counts = [20 * 4, 20 * 7, 20 * 7]
    report = quiet(model, data)
    assert report.samples == sum(counts)
    assert report.loss_value == pytest.approx(
        sum(loss * count for loss, count in zip(own, counts, strict=True)) / sum(counts), rel=1e-5
    )
    assert any("the label of the next" in note for note in report.warnings)
    shifted = torch.cat([labels[:, 1:], torch.full((60, 1), -100)], 1)
    by_hand = [
        {"input_ids": part, "labels": label}
        for part, label in zip(ids.split(20), shifted.split(20), strict=True)
    ]
    other = quiet(model, by_hand)
    assert not any("the label of the next" in note for note in other.warnings)
    close(report, other)


def test_a_hugging_face_model_with_its_batches() -> None:
    model = bert()
    before = snapshot(model)
    report = quiet(model, batches())
    assert_same(before, snapshot(model))
    assert report.samples == 72
    status = {layer.name: layer.status for layer in report if layer.status != "skipped"}
    assert status["classifier"] == status["bert.pooler.dense"] == "analysed"
    assert {status[name] for name in status if "encoder" in name} == {"bypassed"}
    adapted = quiet(model, batches(), forward=lambda model, inputs: model(**inputs).logits)
    close(report, adapted)


def test_layers_by_pattern_type_and_predicate() -> None:
    model, data = Encoder(True), tokens()
    names = [f"blocks.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    assert list(quiet(model, data, layers="*.linear?").layers) == names
    assert list(quiet(model, data, layers=[lambda name, _: name.endswith("linear1"), "head"]).layers) == [
        names[0], names[2], "head",
    ]  # fmt: skip
    attention = quiet(model, data, layers=nn.MultiheadAttention)
    assert {layer.kind for layer in attention} == {"MultiheadAttention"}
    assert len(attention) == 8
    assert list(quiet(model, data, layers="blocks.layers.0.self_attn").layers) == list(attention.layers)[:4]
    for wrong in ("*.linear7", nn.Conv2d, lambda _name, _module: False):
        with pytest.raises(fg.FeatgeoError, match=r"layers: found .*Known modules: embed, blocks"):
            quiet(model, data, layers=wrong)
    with pytest.raises(fg.FeatgeoError, match="layers: found a int"):
        quiet(model, data, layers=[3])


BAD: list[tuple[Any, str]] = [
    ([{"tokens": tokens()[0]}], "a mapping with tokens. Name the targets"),
    ([{"tokens": tokens()[0], "labels": tokens()[1][:5]}], "60 inputs and 5 targets"),
    ([{"tokens": tokens()[0], "labels": tokens()[1] + 1}], r"labels from 1 to 3 for 3 outputs"),
    (
        [{"words": tokens()[0], "labels": tokens()[1]}],
        "TypeError in a forward pass of the first samples .inputs words",
    ),
    ([{"tokens": tokens()[0] + 9, "labels": tokens()[1]}], "IndexError in a forward pass"),
    ([], "no batch at all"),
    (({"tokens": tokens()[0]}, tokens()[1][:4]), "60 inputs and 4 targets"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=range(len(BAD)))
def test_bad_batches_of_mappings(data: Any, message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message):
        quiet(Encoder(True), data)


def test_an_adapter_that_returns_no_tensor_and_one_that_raises() -> None:
    with pytest.raises(fg.FeatgeoError, match="an output of type list"):
        quiet(Encoder(True), tokens(), forward=lambda model, x: [model(x)])
    with pytest.raises(fg.FeatgeoError, match="ZeroDivisionError in a forward pass"):
        quiet(Encoder(True), tokens(), forward=lambda model, x: 1 / 0)


def test_nan_in_an_attention_layer_is_named() -> None:
    model = Encoder(True)
    with torch.no_grad():
        model.blocks.layers[1].linear1.weight[0, 0] = float("nan")
    with pytest.raises(fg.FeatgeoError, match=r"layer 'blocks.layers.1.linear2': found NaN.*in batch 0"):
        quiet(model, tokens())


class Interrupted(nn.Module):
    """A network that raises at one of its calls."""

    def __init__(self, inner: nn.Module, call: int, error: BaseException) -> None:
        super().__init__()
        self.inner, self.call, self.error, self.calls = inner, call, error, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        made = self.inner(*args, **kwargs)
        if self.calls == self.call:
            raise self.error
        return made


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt("lost")], ids=type)
@pytest.mark.parametrize("call", [1, 3, 5, 12, 14, 20, 60])
def test_after_an_error_in_any_pass(call: int, error: BaseException) -> None:
    """In the survey, the sweep, the checks for other roads, the backward passes, frozen passes, searches and steps."""
    torch.manual_seed(0)
    model = Interrupted(Encoder(True), call, error).train()
    model.inner.head(torch.randn(2, 8)).sum().backward()
    before, fused = snapshot(model), torch.backends.mha.get_fastpath_enabled()
    with pytest.raises((type(error), fg.FeatgeoError), match="lost"):
        quiet(model, tokens(), at="bayes", batch_size=30, layers=["*linear1", "*self_attn", "*head"])
    assert model.calls == call
    assert_same(before, snapshot(model))
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_after_an_error_in_a_loader_of_mappings() -> None:
    def loader() -> Iterator[dict[str, Tensor]]:
        yield batches()[0]
        torch.rand(2)
        raise KeyboardInterrupt("lost")

    model = bert().train()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt, match="lost"):
        quiet(model, loader())
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_transformers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Encoder(True)
    half = copy.deepcopy(model).to(dtype)
    one, two = quiet(half, tokens(), at="average", subset=0), quiet(model, tokens(), at="average", subset=0)
    assert one["head"].alignment == pytest.approx(two["head"].alignment, abs=0.15)
    assert [layer.status for layer in one] == [layer.status for layer in two]

"""The tracker in the real training loops of Lightning and of Hugging Face: it steps, and changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import featgeo as fg
from featgeo.network.tracking import callbacks
from tests.network.models import blobs, mlp

PLENTY = 1e9


def same(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(mlp(6, 8, 4), nn.Dropout(0.1))

        def training_step(self, batch: tuple[Tensor, Tensor], _number: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    x, y = blobs(0, count=96)

    def fit(tracked: bool, accumulate: int = 1) -> tuple[Any, fg.Tracker | None]:
        module = Classifier()
        loader = DataLoader(TensorDataset(x.float(), y), batch_size=16, shuffle=True)
        tracker = fg.Tracker(module.net, loader, every=2, budget=PLENTY) if tracked else None
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, accumulate_grad_batches=accumulate,
            callbacks=[tracker.lightning()] if tracker else [],
        )  # fmt: skip
        torch.manual_seed(1)
        trainer.fit(module, loader)
        return module, tracker

    (plain, _), (module, tracker) = fit(False), fit(True)
    assert tracker is not None
    assert [snapshot.step for snapshot in tracker.history] == [2, 4, 6, 8, 10, 12]
    assert tracker.history[-1].report.loss_value < tracker.history[0].report.loss_value
    assert same(plain, module)
    _, tracker = fit(True, accumulate=3)
    assert tracker is not None
    assert [snapshot.step for snapshot in tracker.history] == [2, 4]


@pytest.mark.filterwarnings("ignore")  # the Trainer's advice
def test_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, num_labels=3,
    )  # fmt: skip

    class Sentences(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            generator = torch.Generator().manual_seed(0)
            self.labels = torch.randint(0, 3, (48,), generator=generator)
            self.tokens = torch.randint(0, 40, (48, 6), generator=generator)
            self.tokens[:, 0] = self.labels

        def __len__(self) -> int:
            return 48

        def __getitem__(self, i: int) -> dict[str, Tensor]:
            return {"input_ids": self.tokens[i], "labels": self.labels[i]}

    def fit(tracked: bool) -> tuple[Any, fg.Tracker | None]:
        torch.manual_seed(0)
        model, data = transformers.BertForSequenceClassification(config), Sentences()
        pair = {"input_ids": data.tokens}, data.labels
        tracker = fg.Tracker(model, pair, every=2, budget=PLENTY) if tracked else None
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=8, learning_rate=5e-3, report_to=[],
            use_cpu=True, save_strategy="no", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        callbacks_ = [tracker.hugging_face()] if tracker else []
        transformers.Trainer(model, arguments, train_dataset=data, callbacks=callbacks_).train()
        return model, tracker

    (plain, _), (model, tracker) = fit(False), fit(True)
    assert tracker is not None
    assert not tracker.history.failures
    assert [snapshot.step for snapshot in tracker.history] == [2, 4, 6]
    assert "classifier" in tracker.history[0].report.layers
    assert same(plain, model)


@pytest.mark.parametrize("name", ["lightning", "hugging_face"])
def test_without_the_package_the_error_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.partition(".")[0])

    monkeypatch.setattr(callbacks.importlib, "import_module", missing)
    tracker = fg.Tracker(mlp(6, 4), blobs(0))
    with pytest.raises(fg.FeatgeoError, match="pip install 'featgeo"):
        getattr(tracker, name)()


def test_a_package_that_is_there_but_broken_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: str) -> Any:
        raise ModuleNotFoundError("No module named 'torchmetrics'", name="torchmetrics")

    monkeypatch.setattr(callbacks.importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="torchmetrics"):
        fg.Tracker(mlp(6, 4), blobs(0)).lightning()


def test_a_tracker_loads_neither() -> None:
    command = (
        "import sys, torch, featgeo as fg; fg.Tracker(torch.nn.Linear(3, 2), (torch.randn(9, 3), torch.arange(9) % 2));"
        "print({'lightning', 'pytorch_lightning', 'transformers', 'tensorboard'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

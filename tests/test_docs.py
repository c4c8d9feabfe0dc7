"""The code in the guide to `analyze` runs, block after block, as a reader would paste it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch

from featgeo.errors import FeatgeoWarning

GUIDE = Path(__file__).parents[1] / "docs" / "models.md"


def test_the_guide_to_models_runs() -> None:
    torch.manual_seed(0)
    space: dict[str, object] = {}
    blocks = re.findall(
        r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatgeoWarning)
        for block in blocks:
            exec(compile(block, str(GUIDE), "exec"), space)
    assert "the label of the next" in space["report"].warnings[0]  # type: ignore[attr-defined]

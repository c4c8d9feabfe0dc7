"""Forward passes of other people's models: what goes wrong in them is said of the model, with the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featgeo.data.inputs import Inputs, described
from featgeo.errors import FeatgeoError


def attempt(forward: Callable[[Inputs], Any], inputs: Inputs, what: str, advice: str) -> Any:
    """What the model makes of some inputs.

    Args:
        forward: runs the model.
        inputs: of a batch.
        what: which pass this is, in words for messages.
        advice: what to do where it fails.

    Raises:
        FeatgeoError: where the model raises anything.
    """
    try:
        return forward(inputs)
    except FeatgeoError:
        raise
    except Exception as error:
        raise FeatgeoError(
            "model",
            f"{type(error).__name__} in {what} (inputs {described(inputs)}): {error}",
            advice,
        ) from error

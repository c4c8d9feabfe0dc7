"""Forward passes of other people's models: what goes wrong in them is said of the model, with the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from featgeo.data.inputs import Inputs, described
from featgeo.errors import FeatgeoError

DECODER = ("decoder_input_ids", "decoder_inputs_embeds")


def lacking(model: object, inputs: Inputs) -> str:
    """What an encoder-decoder as Hugging Face makes them lacks among its inputs, and how to give it; else empty."""
    given = inputs if isinstance(inputs, Mapping) else ()
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False) or any(
        name in given for name in DECODER
    ):
        return ""
    return (
        "It is an encoder-decoder, and no decoder_input_ids are among its inputs (labels are not passed on). Put them "
        "into every batch beside input_ids, attention_mask and labels, as "
        "model.prepare_decoder_input_ids_from_labels(labels), or make them in "
        "forward=lambda model, inputs: model(**inputs, decoder_input_ids=...).logits."
    )


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

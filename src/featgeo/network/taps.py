"""Read the inputs of a model's layers during a forward pass, and replace their outputs.

Hooks and replacements live inside context managers only, and leave no trace however they are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from featgeo.data.inputs import Inputs
from featgeo.errors import FeatgeoError
from featgeo.network.arrange import Arrangement, all_rows, sample_rows
from featgeo.network.attention import Handler, opened
from featgeo.network.layers import Layer, Projection

UNEVEN = "its input has not one row per sample"
ELSEWHERE = "its positions are not those that have targets"

Forward = Callable[[Inputs], Tensor]


def as_rows(outputs: object) -> Tensor:
    """A model's output as (m, d).

    Raises:
        FeatgeoError: where it is not a tensor with one row per sample.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim == 0:
        raise FeatgeoError(
            "model",
            f"an output of type {type(outputs).__name__}",
            "It must return a tensor (m, d); forward= can take one out of what it returns.",
        )
    return outputs[:, None] if outputs.ndim == 1 else outputs.flatten(1)


@dataclass
class Seen:
    """What the forward passes showed of a layer.

    Attributes:
        lie: how its tensors lie.
        least: fewest calls in one batch.
        most: most calls in one batch.
        fitting: whether it always had as many feature rows as there are samples (or labelled positions).
        is_output: whether its output was always the model's output, entry by entry.
        alien: why it is not the layer it seems to be, else empty.
        averaged: whether its features were means, or one of many positions: not all that it read of a sample.
    """

    lie: Arrangement = field(default_factory=Arrangement)
    least: int = 1 << 30
    most: int = 0
    fitting: bool = True
    is_output: bool = True
    alien: str = ""
    averaged: bool = False
    _calls: int = 0
    _output: Tensor | None = field(default=None, repr=False)
    _unlike: Tensor | None = field(default=None, repr=False)
    _version: int = 0

    def call(self, output: Tensor | None) -> None:
        """Note one call; the output is kept for a comparison with the model's only where they may be the same."""
        self._calls += 1
        if output is not None and self.is_output:
            self._output, self._version = output, output._version

    def close(self, rows: int, wanted: int, outputs: Tensor, as_rows: Callable[[Tensor], Tensor]) -> bool:
        """Close a batch in which the model put out these rows; whether the layer had the rows that it should have."""
        self.least, self.most = min(self.least, self._calls), max(self.most, self._calls)
        mine = self._output
        same = (
            mine is not None
            and self._calls == 1
            and mine._version == self._version  # else it was changed in place after the layer made it
            and mine.numel() == outputs.numel()
        )
        if same and self.is_output and mine is not None and mine is not outputs:
            made = as_rows(mine).to(outputs.dtype)
            same = made.shape == outputs.shape
            if same and made is not outputs:
                unlike = (made != outputs).any()  # stays on the device: nothing waits for it here
                self._unlike = unlike if self._unlike is None else self._unlike | unlike
        self.is_output &= same
        self.fitting &= rows == wanted
        self._calls, self._output = 0, None
        return rows == wanted

    def alone(self) -> Seen:
        """A copy for others to read, once the comparisons that are still on the device have come in."""
        if self._unlike is not None:
            self.is_output &= not bool(self._unlike)
            self._unlike = None
        return replace(self, _output=None, _calls=0)

    @classmethod
    def merged(cls, parts: Sequence[Seen]) -> Seen:
        """What passes over several shards showed together."""
        return cls(
            parts[0].lie,
            min(part.least for part in parts),
            max(part.most for part in parts),
            all(part.fitting for part in parts),
            all(part.is_output for part in parts),
            next((part.alien for part in parts if part.alien), ""),
            any(part.averaged for part in parts),
        )

    @property
    def obstacle(self) -> str:
        """Why the layer cannot be analysed, empty where it can."""
        if self.most == 0:
            return "never called in the forward pass"
        if self.least == 0:
            return "called for some batches only"
        return self.alien or ("" if self.fitting else UNEVEN)


@dataclass
class Frame:
    """The batch at hand, for the hooks; to be set before each forward pass.

    Attributes:
        samples: m.
        keep: (m, positions), which positions are no padding, where that is known.
        expand: whether every position is a row.
    """

    samples: int = 0
    keep: Tensor | None = None
    expand: bool = False


def _input_of(arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> Tensor:
    """What a layer was called with, by position or by keyword."""
    return arguments[0] if arguments else next(keywords[key] for key in ("input", "x") if key in keywords)


Look = Callable[[str, Tensor, Any], Tensor | None]  # name, input, output (or None) -> another output, or None


@contextmanager
def tapping(layers: Mapping[str, Layer], look: Look, outputs: bool = True) -> Iterator[None]:
    """Call ``look`` at every call of every layer; what it returns, unless None, takes the place of the output.

    Args:
        layers: by name.
        look: given name, input and output.
        outputs: whether the outputs of attention's inner projections are needed too; without, they are None.
    """

    def hook_for(name: str) -> Callable[..., Tensor | None]:
        def hook(
            _module: nn.Module, arguments: Any, keywords: dict[str, Any], output: Tensor
        ) -> Tensor | None:
            return look(name, _input_of(arguments, keywords), output)

        return hook

    def handler_for(name: str) -> Handler:
        return lambda x, output: look(name, x, output)

    inner = {layer: handler_for(name) for name, layer in layers.items() if isinstance(layer, Projection)}
    with ExitStack() as stack:
        for name, layer in layers.items():
            if not isinstance(layer, Projection):
                stack.callback(layer.register_forward_hook(hook_for(name), with_kwargs=True).remove)
        stack.enter_context(opened(inner, outputs))
        yield


Receive = Callable[[str, Tensor, Tensor | int], None]


def reader(layers: Mapping[str, Layer], receive: Receive, seen: dict[str, Seen], frame: Frame) -> Look:
    """A look that hands the feature rows of every call of a layer to ``receive``, and notes what the layer did.

    The rows are (m, k), averaged over so many positions (a number, or one per sample) as the third argument says; or,
    where every position is a row, (m, positions, k).
    """
    last: tuple[Any, ...] = ()  # module, place, input and rows: q, k and v often read one tensor

    def rows_of(layer: Layer, lie: Arrangement, x: Tensor, made: Tensor) -> tuple[Tensor, Tensor | int]:
        if frame.expand:
            return all_rows(layer, lie, x, made, frame.samples), 1
        return sample_rows(layer, lie, x, made, frame.samples, frame.keep)

    def look(name: str, x: Tensor, output: Tensor | None) -> None:
        nonlocal last
        layer, note = layers[name], seen[name]
        note.call(output)
        if note.alien or not note.lie.fits(layer, x, frame.samples):
            note.fitting = False
            return
        owner = layer.attention if isinstance(layer, Projection) else None
        place = "qkv".find(layer.part) if isinstance(layer, Projection) else -1
        shared = last and owner is last[0] and place > last[1] and x is last[2]
        rows = last[3] if shared else rows_of(layer, note.lie, x, x if output is None else output)
        last = (owner, place, x, rows) if owner else ()
        receive(name, *rows)

    return look


@contextmanager
def replacing(layer: Layer, output: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Replace a layer's output by a function of its input and output."""
    with tapping({"": layer}, lambda _name, x, made: output(x, made)):
        yield


@contextmanager
def standing_in(forwards: Mapping[nn.Module, Callable[..., Tensor]]) -> Iterator[None]:
    """Run other functions in place of modules' own forward; hooks are called all the same."""
    before = {module: vars(module).get("forward") for module in forwards}  # an adapter may have put one there
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = own

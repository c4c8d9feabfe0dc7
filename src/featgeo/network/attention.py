"""nn.MultiheadAttention opened: its four projections seen and replaced as if they were layers of their own.

The module hands all its weights to one function of torch, so that no projection is ever called as a module. While the
module runs, a torch function mode catches that function, and a twin of it runs instead: the same code, of which only
the calls of projections lead here. So nothing is computed twice, every number is the one that the module would have
made, and masks, biases and dropout remain torch's own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from featgeo.network.layers import Part, Projection

Handler = Callable[
    [Tensor, Tensor | None], Tensor | None
]  # input (positions, samples, k), output -> other output
Handlers = dict[Part, Handler]


def _twin(handlers: Handlers, inner: bool) -> Callable[..., Any]:
    """torch's attention, with handlers at its projections."""

    def inwards(project: Callable[..., Any]) -> Callable[..., list[Tensor]]:
        def projected(q: Tensor, k: Tensor, v: Tensor, *weights: Tensor | None) -> list[Tensor]:
            made: list[Tensor] = list(project(q, k, v, *weights))
            parts: tuple[tuple[Part, Tensor], ...] = (("q", q), ("k", k), ("v", v))
            for i, (part, x) in enumerate(parts):
                if part in handlers:
                    other = handlers[part](x, made[i] if inner else None)
                    made[i] = made[i] if other is None else other.contiguous()
            return made

        return projected

    def outwards(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        made = F.linear(x, weight, bias)
        if "out" not in handlers:
            return made
        other = handlers["out"](x.unflatten(0, (length, -1)), made.unflatten(0, (length, -1)))
        return made if other is None else other.flatten(0, 1)

    names, original, length = dict(vars(F)), F.multi_head_attention_forward, 1
    for name in ("_in_projection", "_in_projection_packed"):
        names[name] = inwards(names[name])
    names["linear"] = outwards
    names["has_torch_function"] = lambda _: False  # asked already: other modes see the operations one by one
    run = FunctionType(
        original.__code__, names, original.__name__, original.__defaults__, original.__closure__
    )

    def attend(query: Tensor, *arguments: Any, **keywords: Any) -> Any:
        nonlocal length
        length = len(query)
        return run(query, *arguments, **keywords)

    return attend


class _Opened(TorchFunctionMode):
    """Runs the twin; entered only while the module runs, as every function of torch would pass through here."""

    def __init__(self, handlers: Handlers, inner: bool) -> None:
        super().__init__()
        self.attend, self.inside = _twin(handlers, inner), ExitStack()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Other functions are none of our business."""
        chosen = self.attend if function is F.multi_head_attention_forward else function
        return chosen(*args, **(kwargs or {}))

    def begin(self, *_call: object) -> None:
        """The module's forward begins."""
        self.inside.enter_context(self)

    def end(self, *_call: object) -> None:
        """It ends, by whatever way."""
        self.inside.close()


@contextmanager
def opened(handlers: dict[Projection, Handler], inner: bool) -> Iterator[None]:
    """Call a handler at each projection; what it returns takes the place of the projection's output.

    Where a module is opened within itself being opened, the inner handlers are called.

    Args:
        handlers: by projection.
        inner: whether handlers of query, key and value are given the output too, and may replace it.
    """
    by_module: dict[nn.MultiheadAttention, Handlers] = {}
    for projection, handler in handlers.items():
        by_module.setdefault(projection.attention, {})[projection.part] = handler
    with ExitStack() as stack:
        for module, own in by_module.items():
            mode = _Opened(own, inner)
            stack.callback(mode.end)  # torch calls no hook on Ctrl-C
            stack.callback(module.register_forward_pre_hook(mode.begin).remove)
            stack.callback(module.register_forward_hook(mode.end, always_call=True).remove)
        yield

"""nn.MultiheadAttention opened: its four projections seen and replaced as if they were layers of their own.

The module hands all its weights to one function, so that no projection is ever called. A torch function mode catches
that function and runs it with other weights: the output projection is an identity there and is applied afterwards, so
that its input is seen; where the inner projections are to be seen too, they are applied beforehand and are identities
as well. A product with an identity is exact, and masks, biases and dropout remain torch's own affair.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from featgeo.network.layers import Part, Projection

Handler = Callable[
    [Tensor, Tensor | None], Tensor | None
]  # input (positions, samples, k), output -> other output
SIGNATURE = inspect.signature(F.multi_head_attention_forward)


@functools.lru_cache(maxsize=16)
def _unit(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(size, dtype=dtype, device=device)


class _Opened(TorchFunctionMode):
    """Calls the handlers of the module whose forward began last."""

    def __init__(self, handlers: dict[nn.MultiheadAttention, dict[Part, Handler]], inner: bool) -> None:
        super().__init__()
        self.handlers, self.whole = handlers, inner
        self.current: nn.MultiheadAttention | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Other functions are none of our business."""
        if function is not F.multi_head_attention_forward or self.current not in self.handlers:
            return function(*args, **(kwargs or {}))
        return self._attend(self.current, SIGNATURE.bind(*args, **(kwargs or {})).arguments)

    def _attend(self, module: nn.MultiheadAttention, call: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        handlers = self.handlers[module]
        unit = _unit(module.embed_dim, call["query"].dtype, call["query"].device)
        parts: dict[Part, str] = {"q": "query", "k": "key", "v": "value"}
        for part, name in parts.items():
            x, projection = call[name], Projection(module, part)
            if self.whole:
                call[name] = F.linear(x, projection.weight, projection.bias)
                call[f"{part}_proj_weight"] = unit
            if part in handlers:
                other = handlers[part](x, call[name] if self.whole else None)
                call[name] = other if other is not None and self.whole else call[name]
        if self.whole:
            call.update(in_proj_weight=None, in_proj_bias=None, use_separate_proj_weight=True)
        weight, bias = call["out_proj_weight"], call["out_proj_bias"]
        if "out" not in handlers:
            return F.multi_head_attention_forward(**call)
        call.update(out_proj_weight=unit, out_proj_bias=None)
        seen, weights = F.multi_head_attention_forward(**call)
        made = F.linear(seen, weight, bias)
        other = handlers["out"](seen, made)
        return (made if other is None else other), weights


@contextmanager
def opened(handlers: dict[Projection, Handler], inner: bool) -> Iterator[None]:
    """Call a handler at each projection; what it returns takes the place of the projection's output.

    Args:
        handlers: by projection.
        inner: whether handlers of query, key and value are given the output too, and may replace it.
    """
    if not handlers:
        yield
        return
    sorted_handlers: dict[nn.MultiheadAttention, dict[Part, Handler]] = {}
    for projection, handler in handlers.items():
        sorted_handlers.setdefault(projection.attention, {})[projection.part] = handler
    mode = _Opened(sorted_handlers, inner)

    def begin(module: nn.Module, _arguments: Any) -> None:
        assert isinstance(module, nn.MultiheadAttention)
        mode.current = module

    with ExitStack() as stack:
        for module in sorted_handlers:
            stack.callback(module.register_forward_pre_hook(begin).remove)
        stack.enter_context(mode)
        yield

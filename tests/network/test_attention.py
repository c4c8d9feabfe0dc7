"""nn.MultiheadAttention opened: what is seen is what the module computes, once, and nothing of it is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from featgeo.network.arrange import Arrangement
from featgeo.network.attention import Handler, opened
from featgeo.network.keep import undisturbed
from featgeo.network.layers import Projection
from featgeo.network.taps import Frame, Seen, reader, tapping

PARTS: tuple[Any, ...] = ("q", "k", "v", "out")
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "positions first": ({"batch_first": False}, {}),
    "weights not asked for": ({}, {"need_weights": False}),
    "no bias": ({"bias": False}, {}),
    "keys and values of their own": ({"kdim": 5, "vdim": 3}, {}),
    "more keys": ({"add_bias_kv": True, "add_zero_attn": True}, {}),
    "masks": (
        {},
        {
            "attn_mask": torch.ones(3, 3).triu(1).bool(),
            "key_padding_mask": torch.arange(21).view(7, 3) % 6 == 5,
        },
    ),
    "causal": (
        {},
        {"attn_mask": torch.ones(3, 3).triu(1).bool(), "is_causal": True, "need_weights": False},
    ),
}


def built(kind: str) -> tuple[nn.MultiheadAttention, tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    torch.manual_seed(0)
    options, call = KINDS[kind]
    module = nn.MultiheadAttention(4, 2, **{"batch_first": True, **options}).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    shape = (7, 3) if module.batch_first else (3, 7)
    query = torch.randn(*shape, 4)
    if "kdim" in options:
        return module, (query, torch.randn(*shape, 5), torch.randn(*shape, 3)), call
    return module, (query, query, query), call


def handlers_of(module: nn.MultiheadAttention, handler: Any) -> dict[Projection, Handler]:
    return {Projection(module, part): (lambda x, z, part=part: handler(part, x, z)) for part in PARTS}


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_is_what_the_module_computes(kind: str, inner: bool) -> None:
    module, arguments, call = built(kind)
    seen: dict[str, tuple[Tensor, Tensor | None]] = {}
    with undisturbed(module):
        wanted, weights = module(*arguments, **call)
        with opened(handlers_of(module, lambda part, x, z: seen.__setitem__(part, (x, z))), inner):
            made, others = module(*arguments, **call)
    assert torch.equal(made, wanted)
    assert weights is others is None or torch.equal(weights, others)
    turned = wanted.transpose(0, 1) if module.batch_first else wanted
    assert torch.equal(seen["out"][1], turned)
    for part in PARTS:
        x, output = seen[part]
        projection = Projection(module, part)
        if part != "out":
            given = arguments[PARTS.index(part)]
            assert torch.equal(x, given.transpose(0, 1) if module.batch_first else given)
            assert (output is not None) == inner
        if output is not None:
            assert x.shape[:2] == output.shape[:2] == (3, 7)
            torch.testing.assert_close(output, F.linear(x, projection.weight, projection.bias))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["plain", "weights not asked for", "keys and values of their own"])
def test_an_output_that_is_replaced_is_that_of_other_weights(kind: str, part: Any) -> None:
    """The constant c in place of a projection: the module with the weights 0 and the bias c makes the same."""
    module, arguments, call = built(kind)
    constant = torch.tensor([1.0, -2.0, 0.5, 3.0])
    handlers = {Projection(module, part): lambda _x, z: constant.expand(z.shape)}
    with undisturbed(module):
        with opened(handlers, True):
            made = module(*arguments, **call)[0]
        projection = Projection(module, part)
        projection.weight.zero_()
        assert projection.bias is not None
        projection.bias.copy_(constant)
        torch.testing.assert_close(made, module(*arguments, **call)[0])


def test_sequences_without_a_batch() -> None:
    module, (query, _, _), _ = built("plain")
    seen: dict[str, Tensor] = {}
    with (
        undisturbed(module),
        opened(handlers_of(module, lambda part, x, z: seen.__setitem__(part, x)), False),
    ):
        made, _ = module(query[0], query[0], query[0])
    assert made.shape == (3, 4)
    assert {tuple(x.shape) for x in seen.values()} == {(3, 1, 4)}
    torch.testing.assert_close(module.out_proj(seen["out"])[:, 0], made)


def test_nothing_is_computed_twice() -> None:
    module, arguments, call = built("weights not asked for")

    def products() -> int:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            module(*arguments, **call)
        return sum(event.count for event in seen.key_averages() if event.key in ("aten::addmm", "aten::mm"))

    with undisturbed(module):
        alone = products()
        for inner in (False, True):
            with opened(handlers_of(module, lambda *_: None), inner):
                assert products() == alone == 2


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt("lost")], ids=type)
def test_no_mode_and_no_hook_is_left_after_an_error(error: BaseException) -> None:
    module, arguments, call = built("plain")
    depth = torch._C._len_torch_function_stack()

    def fail(part: str, _x: Tensor, _z: Tensor | None) -> None:
        if part == "v":
            raise error

    with (
        undisturbed(module),
        pytest.raises(type(error), match="lost"),
        opened(handlers_of(module, fail), True),
    ):
        module(*arguments, **call)
    assert torch._C._len_torch_function_stack() == depth
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_beside_a_mode_of_the_users_and_opened_twice() -> None:
    module, arguments, call = built("plain")
    seen: list[str] = []
    depth = torch._C._len_torch_function_stack()
    with undisturbed(module), torch.device("cpu"):
        wanted = module(*arguments, **call)[0]
        with (
            opened(handlers_of(module, lambda part, x, z: seen.append(part)), False),
            opened(handlers_of(module, lambda part, x, z: seen.append(part + "'")), True),
        ):
            assert torch.equal(module(*arguments, **call)[0], wanted)
            assert torch._C._len_torch_function_stack() == depth + 1
    assert seen == ["q'", "k'", "v'", "out'"]


@pytest.mark.parametrize("parts", ["qkv", "k", "v"])
def test_rows_of_one_tensor_are_made_once_and_never_those_of_an_earlier_call(parts: str) -> None:
    module, (query, _, _), call = built("positions first")
    layers = {part: Projection(module, part) for part in parts}
    seen = {part: Seen(Arrangement(1)) for part in layers}
    rows: dict[str, Tensor] = {}
    read = reader(layers, lambda name, found, _: rows.__setitem__(name, found), seen, Frame(7))
    with undisturbed(module), tapping(layers, read, outputs=False):
        for _ in range(2):
            query += 1  # in place: the same tensor with other values
            module(query, query, query, **call)
            for part in parts:
                torch.testing.assert_close(rows[part], query.mean(0))
            assert len({id(found) for found in rows.values()}) == 1

"""A head that is cut out says nothing, the others say what they said, and the layer is put back to the bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from rankwell.models.attention import ListAttention, SelfAttention, without_head
from rankwell.models.head_gates import StaticGates
from rankwell.models.layers import LayerStack, PreNormLayer
from rankwell.models.list_attention import LinearAttention, LocalAttention
from rankwell.models.specialised_attention import FedHead, LearnedHead, SpecialisedAttention

WIDTH, HEADS = 8, 2
VALID_BL = torch.arange(5) < torch.tensor([4, 1, 5]).unsqueeze(1)


def specialised(*, gated: bool) -> SpecialisedAttention:
    gates = StaticGates(HEADS).eval() if gated else None
    heads = (FedHead(group="title"), LearnedHead())
    return SpecialisedAttention(WIDTH, heads=heads, layout={"title": 3}, gates=gates)


EVERY_KIND: dict[str, Callable[[], ListAttention]] = {
    "self": lambda: SelfAttention(WIDTH, num_heads=HEADS, is_causal=False),
    "causal": lambda: SelfAttention(WIDTH, num_heads=HEADS, is_causal=True),
    "local": lambda: LocalAttention(WIDTH, num_heads=HEADS, window=2),
    "linear": lambda: LinearAttention(WIDTH, num_heads=HEADS),
    "specialised": lambda: specialised(gated=False),
    "gated": lambda: specialised(gated=True),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_layer_is_the_sum_of_its_heads(kind: str) -> None:
    torch.manual_seed(0)
    attention = EVERY_KIND[kind]().double().eval()
    x_BLD, first_BLD = torch.randn(2, 3, 5, WIDTH, dtype=torch.float64)
    before = {name: parameter.clone() for name, parameter in attention.named_parameters()}

    def mixed(cut: tuple[int, ...]) -> Tensor:
        with ExitStack() as stack:
            for head in cut:
                stack.enter_context(without_head(attention, head))
            mixed_BLD: Tensor = attention(x_BLD, first_BLD, VALID_BL)
        return mixed_BLD[VALID_BL].detach()

    assert attention.num_heads == HEADS
    whole, nothing = mixed(()), mixed((0, 1))
    assert nothing.std(dim=0).max() == 0  # the bias alone, the same for all entries
    of_head = [whole - mixed((head,)) for head in range(HEADS)]
    assert all(said.abs().max() > 1e-3 for said in of_head)
    torch.testing.assert_close(nothing + sum(of_head), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed((0,)), nothing + of_head[1], rtol=0, atol=1e-12)  # the other one is left as it was
    assert all(torch.equal(parameter, before[name]) for name, parameter in attention.named_parameters())


def test_a_layer_is_put_back_after_an_error() -> None:
    attention = SelfAttention(WIDTH, num_heads=HEADS, is_causal=False)
    before = attention.out.weight.clone()
    with pytest.raises(ZeroDivisionError), without_head(attention, 1):
        1 / 0  # noqa: B018
    assert torch.equal(attention.out.weight, before)


def test_a_stack_names_the_attention_of_each_pass() -> None:
    def stack(*, shares_layers: bool) -> LayerStack:
        return LayerStack(
            lambda: PreNormLayer(specialised(gated=False), width=WIDTH, hidden=4, dropout=0.0),
            3, width=WIDTH, shares_layers=shares_layers,
        )  # fmt: skip

    apart, shared = stack(shares_layers=False), stack(shares_layers=True)
    assert len(set(apart.attentions)) == 3
    assert shared.attentions == (shared.layers[0].attention,) * 3

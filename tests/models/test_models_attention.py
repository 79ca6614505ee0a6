"""Attention is the plain formula, sees what it may see and nothing else; layers are pre-LN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rankwell.errors import RecipeError
from rankwell.models.attention import CrossAttention, SelfAttention
from rankwell.models.layers import LayerStack, PreNormLayer

WIDTH, HEADS = 8, 2
LENGTHS = (4, 1, 3)
VALID_BL = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)


def entries(seed: int = 0) -> Tensor:
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(attention: SelfAttention, x_LD: Tensor, length: int) -> Tensor:
    """One list, entry by entry and head by head."""
    size = WIDTH // HEADS
    rows = []
    for i in range(length):
        mixed = []
        for j in range(HEADS):
            part = slice(j * size, (j + 1) * size)
            seen = range(i + 1) if attention.is_causal else range(length)
            q = attention.query(x_LD[i])[part]
            likeness = torch.stack([q @ attention.key(x_LD[m])[part] / math.sqrt(size) for m in seen])
            values = torch.stack([attention.value(x_LD[m])[part] for m in seen])
            mixed.append(likeness.softmax(0) @ values)
        rows.append(attention.out(torch.cat(mixed)))
    return torch.stack(rows)


@pytest.mark.parametrize("is_causal", [False, True])
def test_self_attention_is_the_plain_formula(is_causal: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(WIDTH, num_heads=HEADS, is_causal=is_causal).double()
    x_BLD = entries()
    mixed = attention(x_BLD, x_BLD, VALID_BL)
    for b, length in enumerate(LENGTHS):
        torch.testing.assert_close(mixed[b, :length], plain(attention, x_BLD[b], length), rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_causal", [False, True])
def test_maps_are_the_shares_that_the_fused_kernel_takes(is_causal: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(WIDTH, num_heads=HEADS, is_causal=is_causal).double()
    x_BLD = entries()
    places_BQ = torch.tensor([[3, 0], [0, 0], [2, 1]])
    maps = attention.maps(x_BLD, x_BLD, VALID_BL, places_BQ)
    torch.testing.assert_close(maps.sum(3), torch.ones(3, HEADS, 2, dtype=torch.float64))
    value = attention.value(x_BLD).unflatten(2, (HEADS, -1)).transpose(1, 2)
    again = attention.out((maps @ value).transpose(1, 2).flatten(2))
    mixed = attention(x_BLD, x_BLD, VALID_BL)
    torch.testing.assert_close(again, torch.stack([mixed[b, places_BQ[b]] for b in range(3)]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_causal", [False, True])
def test_what_stands_in_the_padding_changes_nothing(is_causal: bool) -> None:
    attention = SelfAttention(WIDTH, num_heads=HEADS, is_causal=is_causal).double()
    x_BLD = entries()
    other_BLD = torch.where(VALID_BL.unsqueeze(2), x_BLD, 1e3)
    same, changed = (attention(x, x, VALID_BL)[VALID_BL] for x in (x_BLD, other_BLD))
    assert torch.equal(same, changed)


def test_candidates_take_from_their_own_list_alone() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(WIDTH, num_heads=HEADS).double()
    asking, seen = entries(1), entries(2)
    mixed = attention(asking, seen, VALID_BL)
    size = WIDTH // HEADS
    for b, length in enumerate(LENGTHS):
        for j in range(HEADS):
            part = slice(j * size, (j + 1) * size)
            q, k = attention.query(asking[b])[:, part], attention.key(seen[b, :length])[:, part]
            shares = (q @ k.T / math.sqrt(size)).softmax(1)
            head = shares @ attention.value(seen[b, :length])[:, part]
            mixed[b] -= head @ attention.out.weight[:, part].T
    torch.testing.assert_close(mixed, attention.out.bias.expand_as(mixed), rtol=0, atol=1e-12)


def test_heads_that_cannot_share_a_width_are_refused() -> None:
    with pytest.raises(RecipeError, match="cannot be shared"):
        SelfAttention(8, num_heads=3, is_causal=True)
    with pytest.raises(RecipeError, match="cannot be shared"):
        CrossAttention(8, num_heads=0)


def stack(num_layers: int, *, shares_layers: bool = False, dropout: float = 0.0) -> LayerStack:
    torch.manual_seed(0)
    return LayerStack(
        lambda: PreNormLayer(
            SelfAttention(WIDTH, num_heads=HEADS, is_causal=False), width=WIDTH, hidden=16, dropout=dropout
        ),
        num_layers, width=WIDTH, shares_layers=shares_layers,
    ).double()  # fmt: skip


def test_a_layer_norms_before_and_adds_after() -> None:
    layers = stack(1)
    (layer,) = layers.layers
    x_BLD = entries()
    after = x_BLD + layer.attention(layer.norm_attention(x_BLD), x_BLD, VALID_BL)
    first, gelu, second = layer.feed_forward
    after = after + second(gelu(first(layer.norm_forward(after))))
    assert torch.equal(layers(x_BLD, VALID_BL), layers.norm(after))


def test_shared_layers_are_one_passed_through_so_many_times() -> None:
    shared, own = stack(3, shares_layers=True), stack(3)
    for layer in own.layers:
        layer.load_state_dict(shared.layers[0].state_dict())
    own.norm.load_state_dict(shared.norm.state_dict())
    x_BLD = entries()
    assert torch.equal(shared(x_BLD, VALID_BL), own(x_BLD, VALID_BL))
    count = [sum(parameter.numel() for parameter in module.parameters()) for module in (shared, stack(1))]
    assert count[0] == count[1]


def test_no_layers_are_a_norm() -> None:
    layers = stack(0)
    assert torch.equal(layers(entries(), VALID_BL), layers.norm(entries()))


def test_dropout_is_of_training_alone() -> None:
    layers = stack(2, dropout=0.5)
    x_BLD = entries()
    assert not torch.equal(layers(x_BLD, VALID_BL), layers(x_BLD, VALID_BL))
    layers.eval()
    assert torch.equal(layers(x_BLD, VALID_BL), layers(x_BLD, VALID_BL))

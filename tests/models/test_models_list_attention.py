"""Local and linear attention are their plain definitions, and the settings of all kinds travel as JSON."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from rankwell.errors import RecipeError, SchemaError
from rankwell.models.attention import ListAttention, SelfAttention
from rankwell.models.list_attention import (
    AttentionSettings,
    FullSettings,
    LinearAttention,
    LinearSettings,
    LocalAttention,
    LocalSettings,
    make_list_attention,
)

WIDTH, HEADS = 8, 2
EVERY_KIND: tuple[AttentionSettings, ...] = (
    FullSettings(num_heads=2),
    LocalSettings(num_heads=2, window=6),
    LinearSettings(num_heads=2),
)
every_kind = pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.kind)


def padded(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Entries, garbage where none stands, and where they stand."""
    x_BLD = torch.randn(len(lengths), max(lengths), WIDTH, generator=torch.Generator().manual_seed(seed)).double()
    return x_BLD, torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def heads_of(x_LD: Tensor) -> Tensor:
    return torch.stack(x_LD.split(WIDTH // HEADS, dim=1))


def dense_under_band(attention: LocalAttention, x_LD: Tensor) -> Tensor:
    """One list without padding, all pairs."""
    query, key, value = (heads_of(layer(x_LD)) for layer in (attention.query, attention.key, attention.value))
    places = torch.arange(len(x_LD))
    is_near = 2 * (places - places.unsqueeze(1)).abs() <= attention.window
    likeness = (query @ key.transpose(1, 2) / math.sqrt(WIDTH // HEADS)).masked_fill(~is_near, -torch.inf)
    return attention.out(torch.cat(list(likeness.softmax(2) @ value), dim=1))


def quadratic(attention: LinearAttention, x_LD: Tensor) -> Tensor:
    """One list without padding, pair by pair."""
    query, key, value = (heads_of(layer(x_LD)) for layer in (attention.query, attention.key, attention.value))

    def phi(x: Tensor) -> Tensor:
        return torch.where(x > 0, x + 1, x.exp())

    mixed = torch.zeros_like(query)
    for j in range(HEADS):
        for i in range(len(x_LD)):
            shares = torch.stack([phi(query[j, i]) @ phi(key[j, m]) for m in range(len(x_LD))])
            mixed[j, i] = sum(share / shares.sum() * value[j, m] for m, share in enumerate(shares))
    return attention.out(torch.cat(list(mixed), dim=1))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 210), min_size=1, max_size=4),
    window=st.sampled_from([2, 6, 50, 64, 66, 500]),
    seed=st.integers(0, 9),
)
def test_local_attention_by_blocks_is_dense_attention_under_the_band(
    lengths: list[int], window: int, seed: int
) -> None:
    torch.manual_seed(seed)
    attention = LocalAttention(WIDTH, num_heads=HEADS, window=window).double()
    x_BLD, valid_BL = padded(lengths, seed)
    mixed_BLD = attention(x_BLD, x_BLD, valid_BL)
    assert mixed_BLD.isfinite().all()
    for b, length in enumerate(lengths):
        expected = dense_under_band(attention, x_BLD[b, :length])
        torch.testing.assert_close(mixed_BLD[b, :length], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 65, 96, 97, 300])
def test_local_attention_in_float32_and_its_gradients(length: int) -> None:
    torch.manual_seed(0)
    attention = LocalAttention(WIDTH, num_heads=HEADS, window=50)
    x_LD = torch.randn(length, WIDTH, requires_grad=True)
    x_BLD, weights = x_LD.unsqueeze(0), torch.randn(length, WIDTH)
    mixed = attention(x_BLD, x_BLD, torch.ones(1, length, dtype=torch.bool))[0]
    expected = dense_under_band(attention, x_LD)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-5)
    wanted = (x_LD, *attention.parameters())
    gradients, plain = (torch.autograd.grad((y * weights).sum(), wanted) for y in (mixed, expected))
    torch.testing.assert_close(gradients, plain, rtol=1e-4, atol=1e-4)


def test_a_window_over_the_whole_list_is_full_attention() -> None:
    torch.manual_seed(0)
    full = SelfAttention(WIDTH, num_heads=HEADS, is_causal=False).double()
    local = LocalAttention(WIDTH, num_heads=HEADS, window=400).double()
    local.load_state_dict(full.state_dict())
    x_BLD, valid_BL = padded([200, 3])
    same, here = full(x_BLD, x_BLD, valid_BL), local(x_BLD, x_BLD, valid_BL)
    torch.testing.assert_close(here[valid_BL], same[valid_BL], rtol=0, atol=1e-12)


def test_who_sees_whom_locally_is_half_the_window_to_each_side_and_symmetric() -> None:
    attention = LocalAttention(WIDTH, num_heads=HEADS, window=50)
    x_BLD = torch.randn(1, 200, WIDTH)
    maps = attention.maps(x_BLD, x_BLD, torch.ones(1, 200, dtype=torch.bool), torch.arange(200).unsqueeze(0))
    sees_LL = maps[0, 0] > 0
    assert sees_LL.sum(1)[[0, 1, 25, 100, 174, 198, 199]].tolist() == [26, 27, 51, 51, 51, 27, 26]
    assert torch.equal(sees_LL, sees_LL.T)
    assert sees_LL[100, 75:126].all()


def test_maps_are_the_shares_that_local_attention_takes() -> None:
    torch.manual_seed(0)
    attention = LocalAttention(WIDTH, num_heads=HEADS, window=6).double()
    x_BLD, valid_BL = padded([130, 40, 1])
    places_BQ = torch.tensor([[0, 129, 64], [39, 5, 36], [0, 0, 0]])
    maps = attention.maps(x_BLD, x_BLD, valid_BL, places_BQ)
    torch.testing.assert_close(maps.sum(3), torch.ones(3, HEADS, 3, dtype=torch.float64))
    value = attention.value(x_BLD).unflatten(2, (HEADS, -1)).transpose(1, 2)
    again = attention.out((maps @ value).transpose(1, 2).flatten(2))
    mixed = attention(x_BLD, x_BLD, valid_BL)
    torch.testing.assert_close(again, torch.stack([mixed[b, places_BQ[b]] for b in range(3)]), rtol=0, atol=1e-12)


def test_linear_attention_is_its_quadratic_definition() -> None:
    torch.manual_seed(0)
    attention = LinearAttention(WIDTH, num_heads=HEADS).double()
    lengths = [9, 1, 4]
    x_BLD, valid_BL = padded(lengths)
    mixed_BLD = attention(x_BLD, x_BLD, valid_BL)
    for b, length in enumerate(lengths):
        expected = quadratic(attention, x_BLD[b, :length])
        torch.testing.assert_close(mixed_BLD[b, :length], expected, rtol=0, atol=1e-12)


def test_linear_attention_of_keys_that_vanish_is_finite() -> None:
    attention = LinearAttention(WIDTH, num_heads=HEADS)
    with torch.no_grad():
        attention.key.weight.zero_()
        attention.key.bias.fill_(-1e4)  # exp(-1e4) is 0 in any float
    x_BLD = torch.randn(1, 3, WIDTH, requires_grad=True)
    mixed_BLD = attention(x_BLD, x_BLD, torch.ones(1, 3, dtype=torch.bool))
    mixed_BLD.sum().backward()
    assert mixed_BLD.isfinite().all()
    assert x_BLD.grad is not None
    assert x_BLD.grad.isfinite().all()


@every_kind
def test_what_stands_in_the_padding_changes_nothing(kind: AttentionSettings) -> None:
    torch.manual_seed(0)
    attention = make_list_attention(kind, WIDTH).double()
    x_BLD, valid_BL = padded([70, 1, 3])
    other_BLD = torch.where(valid_BL.unsqueeze(2), x_BLD, 1e3)
    same, changed = (attention(x, x, valid_BL) for x in (x_BLD, other_BLD))
    assert torch.equal(same[valid_BL], changed[valid_BL])
    assert changed.isfinite().all()


@every_kind
def test_settings_travel_as_json_and_make_their_kind(kind: AttentionSettings) -> None:
    union: TypeAdapter[AttentionSettings] = TypeAdapter(AttentionSettings)
    assert union.validate_json(kind.model_dump_json()) == kind
    made: dict[str, type[ListAttention]] = {"full": SelfAttention, "local": LocalAttention, "linear": LinearAttention}
    assert type(make_list_attention(kind, WIDTH)) is made[kind.kind]


@every_kind
def test_heads_that_cannot_share_a_width_are_refused(kind: AttentionSettings) -> None:
    with pytest.raises(RecipeError, match="cannot be shared"):
        make_list_attention(kind, 9)


@pytest.mark.parametrize("window", [0, 7, -2])
def test_a_window_is_even_and_not_empty(window: int) -> None:
    with pytest.raises(SchemaError, match=r"LocalSettings\.window"):
        LocalSettings(window=window)

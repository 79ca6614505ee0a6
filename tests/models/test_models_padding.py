"""Padding puts lists of unequal length into one block and takes them out again."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.models.padding import ManyLists, OneList, padding_of


def offsets_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int64)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 5), max_size=6), num_free=st.integers(0, 2))
def test_a_block_is_what_a_loop_would_write(lengths: list[int], num_free: int) -> None:
    offsets = offsets_of(lengths)
    x_nD = torch.randn(int(offsets[-1]), 3, generator=torch.Generator().manual_seed(0))
    padding = ManyLists(offsets, num_free=num_free)
    block = padding.pad(x_nD)
    assert block.shape == (len(lengths), max(max(lengths, default=0) + num_free, 1), 3)
    for b, length in enumerate(lengths):
        own = x_nD[offsets[b] : offsets[b + 1]]
        assert torch.equal(block[b, num_free : num_free + length], own)
        assert not block[b, :num_free].any()
        assert not block[b, num_free + length :].any()
        standing = max(num_free + length, 1)
        assert padding.valid_BL[b].tolist() == [place < standing for place in range(block.shape[1])]
        if num_free + length:
            assert torch.equal(padding.last(block)[b], block[b, num_free + length - 1])
            ascending = list(range(num_free + length - 1, -1, -1))
            assert padding.recency_BL[b, : num_free + length].tolist() == ascending
    assert torch.equal(padding.unpad(block), x_nD)


def test_gradients_come_back_to_the_entries_they_went_out_from() -> None:
    padding = ManyLists(offsets_of([2, 0, 3]), num_free=1)
    x_nD = torch.randn(5, 2, requires_grad=True)
    weights = torch.arange(24.0).view(3, 4, 2)
    (padding.pad(x_nD) * weights).sum().backward()
    assert torch.equal(x_nD.grad, torch.cat([weights[0, 1:3], weights[2, 1:4]]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(length=st.integers(0, 5), num_free=st.integers(0, 2))
def test_one_list_is_the_only_one_of_many(length: int, num_free: int) -> None:
    x_nD = torch.randn(length, 3, generator=torch.Generator().manual_seed(1))
    one, many = (
        padding_of(offsets_of([length]), length, num_free=num_free),
        ManyLists(offsets_of([length]), num_free=num_free),
    )
    assert isinstance(one, OneList)
    block = one.pad(x_nD)
    assert torch.equal(block, many.pad(x_nD))
    assert torch.equal(one.unpad(block), x_nD)
    assert torch.equal(one.last(block), many.last(block))
    for of in ("valid_BL", "recency_BL", "lengths_B"):
        assert torch.equal(getattr(one, of), getattr(many, of))

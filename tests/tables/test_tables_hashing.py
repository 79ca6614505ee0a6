"""Hashes spread, and counters make rows."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.tables.hashing import cross_ids, mix64, name_salt, stochastic_bfloat16, uniform_rows


def test_mix64_is_splitmix64() -> None:
    # first output of SplitMix64 seeded with 0 is the finaliser of the golden gamma
    with np.errstate(over="ignore"):
        assert int(mix64.py_func(np.uint64(0x9E3779B97F4A7C15))) == 0xE220A8397B1DCDAF


def test_cross_ids_spread_evenly() -> None:
    a, b = torch.arange(300).repeat_interleave(300), torch.arange(300).repeat(300)
    crossed = cross_ids([a, b])
    assert len(torch.unique(crossed)) == 90_000
    counts = torch.bincount(crossed % 64, minlength=64).double()
    chi_square = ((counts - 90_000 / 64) ** 2 / (90_000 / 64)).sum()
    assert chi_square < 113  # 63 degrees of freedom: 1 - 1e-4 quantile


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(-1, 2**63 - 1), min_size=1, max_size=20))
def test_cross_ids_are_ids(values: list[int]) -> None:
    column = torch.tensor(values)
    crossed = cross_ids([column, column])
    assert crossed.dtype == torch.int64
    assert bool((crossed >= 0).all())
    assert torch.equal(crossed, cross_ids([column.clone(), column.clone()]))


def test_uniform_rows_are_uniform() -> None:
    rows = torch.empty(5_000, 4)
    uniform_rows(rows, np.arange(5_000, dtype=np.uint64), seed=5, scale=2.0)
    counts = torch.histc(rows, bins=20, min=-2, max=2)
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # 19 degrees of freedom: 1 - 1e-4 quantile is 50
    other = torch.empty(5_000, 4)
    uniform_rows(other, np.arange(5_000, dtype=np.uint64), seed=6, scale=2.0)
    assert abs(torch.corrcoef(torch.stack([rows.flatten(), other.flatten()]))[0, 1]) < 0.03


def test_stochastic_rounding_goes_to_a_neighbour_and_is_right_in_the_mean() -> None:
    keys = np.arange(40_000, dtype=np.uint64)
    for value, below, above in ((1.001, 1.0, 1.0078125), (-1.001, -1.0078125, -1.0), (3e-39, None, None)):
        rounded = stochastic_bfloat16(torch.full((40_000, 3), value), keys).double()
        if below is not None:
            assert set(rounded.unique().tolist()) == {below, above}
        spread = float(rounded.std()) / 40_000**0.5
        assert (rounded.mean(dim=0) - float(torch.tensor(value))).abs().max() < 4.5 * spread  # each column by itself


def test_what_bfloat16_can_say_is_not_rounded() -> None:
    said = torch.tensor([[0.0, -0.0, 1.5, -(2.0**-126), math.inf, -math.inf, 2.0**127]]).repeat(500, 1)
    rounded = stochastic_bfloat16(said, np.arange(500, dtype=np.uint64))
    assert torch.equal(rounded.float(), said)
    assert torch.equal(rounded.float().signbit(), said.signbit())
    assert stochastic_bfloat16(torch.full((500, 4), math.nan), np.arange(500, dtype=np.uint64)).isnan().all()


def test_salts_are_the_same_everywhere() -> None:
    assert name_salt("job") == 0x24CF2B7615D75EAE

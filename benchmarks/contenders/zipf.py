"""Ids by Zipf's law, scattered over a range: what the tables of all contenders are asked for.

Letters: n ids · S steps · F fields · B entries of a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["scattered", "zipf_ranks"]

_EXPONENT = 1.05


def zipf_ranks(shape: tuple[int, ...], num_ranks: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ranks from 0 by a bounded Pareto law, rounded down: p(rank) ~ (rank + 1)^-1.05, as closed form at any size."""
    power = 1 - _EXPONENT
    tail = 1 - rng.random(shape) * (1 - (num_ranks + 1.0) ** power)
    ranks: NDArray[np.int64] = np.minimum(tail ** (1 / power), num_ranks).astype(np.int64) - 1
    return ranks


def scattered(ranks: NDArray[np.int64], num_ids: int, *, salt: int = 0) -> NDArray[np.int64]:
    """An id of [0, num_ids) for each rank below num_ids, no two ranks the same: hashed until it falls inside."""
    bits = max(2, (num_ids - 1).bit_length())
    mask, shift = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
    flat = ranks.astype(np.uint64).ravel()
    outside = np.arange(len(flat))
    while len(outside):  # each round is one-to-one on [0, 2^bits)
        x = flat[outside]
        for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
            x = ((x ^ (x >> shift)) * np.uint64(factor + 2 * salt) + np.uint64(salt)) & mask
        x ^= x >> shift
        flat[outside] = x
        outside = outside[x >= num_ids]
    return flat.reshape(ranks.shape).astype(np.int64)

"""Rows moved in and out of a slab, and spread over the entries that read them: one pass each, in compiled loops.

Letters: n ids of a batch, flat · F id columns · U unique rows lent · W row width · S state columns.
"""

from __future__ import annotations

from typing import Any, final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["put_rows", "rows_side_by_side", "take_rows"]

Rows = NDArray[np.float32]


def take_rows(slab: Tensor, slots_U: Tensor) -> Tensor:
    """A copy of the rows at these slots, U × columns of the slab.

    >>> take_rows(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0])).tolist()
    [[3.0], [1.0]]
    """
    taken = torch.empty(len(slots_U), slab.shape[1], dtype=slab.dtype)
    _take(slab.numpy(), slots_U.numpy(), taken.numpy())
    return taken


def put_rows(slab: Tensor, slots_U: Tensor, rows_U: Tensor) -> None:
    """Write rows to their slots, in place; slots are distinct.

    >>> slab = torch.zeros(3, 1); put_rows(slab, torch.tensor([2]), torch.tensor([[7.0]])); slab.tolist()
    [[0.0], [0.0], [7.0]]
    """
    _put(slab.numpy(), slots_U.numpy(), rows_U.numpy())


def rows_side_by_side(rows_UW: Tensor, index_n: Tensor, num_columns: int) -> Tensor:
    """The rows that each entry reads from each of its columns, side by side; differentiable in `rows_UW`.

    Args:
        rows_UW: float32.
        index_n: int64, one column of ids after the other: entry e of column f reads ``rows_UW[index_n[f·n/F + e]]``.
        num_columns: F ≥ 1; divides the length of `index_n`.

    Returns:
        n/F × F·W.

    >>> rows_side_by_side(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1, 1, 1]), 2).tolist()
    [[1.0, 2.0], [2.0, 2.0]]
    """
    spread: Tensor = _SideBySide.apply(rows_UW, index_n, num_columns)  # type: ignore[no-untyped-call]
    return spread


@final
class _SideBySide(torch.autograd.Function):
    # torch's own backward of an embedding costs three times its forward; this one is a loop of additions in order

    @staticmethod
    def forward(ctx: Any, rows_UW: Tensor, index_n: Tensor, num_columns: int) -> Tensor:
        num_entries, width = len(index_n) // num_columns, rows_UW.shape[1]
        spread = torch.empty(num_entries, num_columns * width, dtype=rows_UW.dtype)
        _spread(rows_UW.detach().numpy(), index_n.numpy(), spread.numpy())
        ctx.save_for_backward(index_n)
        ctx.num_rows, ctx.width = rows_UW.shape
        return spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (index_n,) = ctx.saved_tensors
        (grad,) = grads
        summed_UW = torch.zeros(ctx.num_rows, ctx.width, dtype=grad.dtype)
        _gather_back(grad.contiguous().numpy(), index_n.numpy(), summed_UW.numpy())
        return summed_UW, None, None


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _take(slab: Rows, slots_U: NDArray[np.int64], taken: Rows) -> float:  # pragma: no cover - compiled
    # Touching comes first: so short a loop has dozens of cache misses under way at once, a copying one only a few.
    touched, last = 0.0, slab.shape[1] - 1
    if last >= 0:
        for u in range(len(slots_U)):
            touched += slab[slots_U[u], 0] + slab[slots_U[u], last]
    for u in range(len(slots_U)):
        slot = slots_U[u]
        for w in range(slab.shape[1]):
            taken[u, w] = slab[slot, w]
    return touched


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put(slab: Rows, slots_U: NDArray[np.int64], rows: Rows) -> None:  # pragma: no cover - compiled
    for u in range(len(slots_U)):
        slot = slots_U[u]
        for w in range(slab.shape[1]):
            slab[slot, w] = rows[u, w]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _spread(rows_UW: Rows, index_n: NDArray[np.int64], spread: Rows) -> None:  # pragma: no cover - compiled
    num_entries, width = len(spread), rows_UW.shape[1]
    num_columns = len(index_n) // num_entries if num_entries else 0
    for e in range(num_entries):
        for f in range(num_columns):
            u = index_n[f * num_entries + e]
            for w in range(width):
                spread[e, f * width + w] = rows_UW[u, w]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _gather_back(grad: Rows, index_n: NDArray[np.int64], summed_UW: Rows) -> None:  # pragma: no cover - compiled
    num_entries, width = len(grad), summed_UW.shape[1]
    num_columns = len(index_n) // num_entries if num_entries else 0
    for e in range(num_entries):
        for f in range(num_columns):
            u = index_n[f * num_entries + e]
            for w in range(width):
                summed_UW[u, w] += grad[e, f * width + w]

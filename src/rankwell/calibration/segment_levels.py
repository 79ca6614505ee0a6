"""Segments from coarse to fine: the distinct values of the first column, of the first two, and so on.

Letters in names: C candidates, flat over the sample · S segment columns · G groups of one level · V values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.errors import CalibrationError
from rankwell.evaluation.sample import group_rows

__all__ = ["SegmentLevel", "halves_of", "joined", "rows_by_group", "segment_levels", "segment_paths"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class SegmentLevel:
    """The distinct beginnings of one length, ascending.

    Args:
        parents_G: int64, where each stands in the level above, of which it has one value more.
        values_G: int64, that value.
        group_C: int64, the group of each row.
    """

    parents_G: _Ints
    values_G: _Ints
    group_C: _Ints


def halves_of(values_V: _Ints) -> _Floats:
    """Whole numbers of 64 bits as two float64 numbers each, the high 32 bits and the low ones, V × 2.

    What a calibrator is fitted to is kept in float64, which holds whole numbers of up to 2^53 only.

    >>> halves_of(np.array([-1, 2**62 + 5])).tolist()
    [[-1.0, 4294967295.0], [1073741824.0, 5.0]]
    """
    return np.column_stack([values_V >> 32, values_V & (2**32 - 1)]).astype(np.float64)


def joined(halves_V2: Tensor) -> Tensor:
    """The whole numbers that `halves_of` took apart, int64; what it could not have given is refused.

    Raises:
        CalibrationError: Not V × 2, or a half is no whole number in its range.

    >>> joined(torch.tensor([[-1.0, 4294967295.0], [1073741824.0, 5.0]], dtype=torch.float64)).tolist()
    [-1, 4611686018427387909]
    """
    halves_V2 = halves_V2.detach().double()
    fits = halves_V2.ndim == 2 and halves_V2.shape[1] == 2 and bool((halves_V2.trunc() == halves_V2).all())
    least, most = torch.tensor([-(2.0**31), 0.0]), torch.tensor([2.0**31 - 1, 2.0**32 - 1], dtype=torch.float64)
    if not fits or bool(((halves_V2 < least) | (halves_V2 > most)).any()):
        raise CalibrationError(
            "values of segments cannot be these",
            found=halves_V2.tolist(),
            allowed="for each the high and the low 32 bits of an int64, as whole numbers",
        )
    high_V, low_V = halves_V2.long().unbind(1)
    return (high_V << 32) + low_V


def segment_levels(segments_CS: _Ints) -> list[SegmentLevel]:
    """A level for no column, of one group; for the first; for the first two; … S + 1 levels in all.

    Args:
        segments_CS: At least one row.

    >>> levels = segment_levels(np.array([[7, 1], [3, 1], [7, 2]]))
    >>> [(level.parents_G.tolist(), level.values_G.tolist(), level.group_C.tolist()) for level in levels]
    [([0], [0], [0, 0, 0]), ([0, 0], [3, 7], [1, 0, 1]), ([0, 1, 1], [1, 1, 2], [1, 0, 2])]
    """
    nothing_G = np.zeros(1, np.int64)
    levels = [SegmentLevel(nothing_G, nothing_G, np.zeros(len(segments_CS), np.int64))]
    for column_C in segments_CS.T:
        values = group_rows(np.ascontiguousarray(column_C))
        pairs = group_rows(levels[-1].group_C * len(values) + values.index_C)
        parents_G, value_G = np.divmod(pairs.values_G.astype(np.int64), len(values))
        levels.append(SegmentLevel(parents_G, values.values_G[value_G].astype(np.int64), pairs.index_C))
    return levels


def segment_paths(levels: Sequence[SegmentLevel]) -> _Ints:
    """The values of each group of the last level in all columns, G × S.

    >>> segment_paths(segment_levels(np.array([[7, 1], [3, 1], [7, 2]]))).tolist()
    [[3, 1], [7, 1], [7, 2]]
    """
    paths_GS = np.zeros((1, 0), np.int64)
    for level in levels[1:]:
        paths_GS = np.column_stack([paths_GS[level.parents_G], level.values_G])
    return paths_GS


def rows_by_group(group_C: _Ints, num_groups: int) -> tuple[_Ints | slice, _Ints]:
    """What brings rows into the order of their groups, and where each group then begins and ends.

    Args:
        group_C: Below `num_groups`; every group has a row.
        num_groups: At least 1.

    Returns:
        An index of rows, or a slice of all where they stand in order already; and int64 bounds of `num_groups` + 1.

    >>> rows, bounds_G = rows_by_group(np.array([1, 0, 1]), 2)
    >>> rows.tolist(), bounds_G.tolist()
    ([1, 0, 2], [0, 1, 3])
    """
    bounds_G = np.append(0, np.cumsum(np.bincount(group_C, minlength=num_groups))).astype(np.int64)
    if num_groups == 1 or bool((group_C[1:] >= group_C[:-1]).all()):
        return slice(None), bounds_G
    # Small integers are sorted by their digits, several times faster than large ones by comparison.
    small_C = group_C.astype(np.uint16) if num_groups <= 2**16 else group_C
    return np.argsort(small_C, kind="stable"), bounds_G

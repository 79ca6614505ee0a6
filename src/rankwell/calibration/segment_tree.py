"""A line over the logits for each segment, shrunk towards that of the segment it is part of.

Letters in names: C candidates, flat over the batch · S segment columns, from coarse to fine · N segments: all, then
the values of the first column, then those of the first two, … · G segments of one level · V values of one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.logistic_line import most_likely_line
from rankwell.calibration.logistic_minima import LogisticRows
from rankwell.calibration.sample import CalibrationSample
from rankwell.calibration.segment_levels import halves_of, joined, rows_by_group, segment_levels
from rankwell.calibration.shrunken_lines import shrunken_lines
from rankwell.errors import CalibrationError

__all__ = ["SegmentTree", "fit_segment_tree"]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@final
class SegmentTree(Calibrator):
    """p = σ(a_s·z + b_s), with s the finest segment of the candidate that was there at the fit.

    Segment 0 is all candidates. Each other one is part of another, its parent: it is those of the parent's candidates
    that have one value in the next segment column. So a candidate whose value in a column was not there at the fit has
    the line of the columns before, and one without segment columns that of all.

    Args:
        parents: float64 of N, whole numbers: the place of the parent; its own for segment 0. They ascend.
        values: float64 of N × 2: the value in the next column, its high and its low 32 bits, as `halves_of` takes them
            apart; ascending for one parent, and 0 for segment 0.
        slopes: a, float64 of N, above 0.
        offsets: b, float64 of N.
        one_class: float64 of N, 1 for segments that had one label only at the fit, and so took their parent's line.

    Raises:
        CalibrationError: The lengths differ, a number is not finite, a slope is not above 0, or it is no tree.

    >>> values = torch.from_numpy(halves_of(np.array([0, 7, 9])))
    >>> of_two = SegmentTree(torch.tensor([0.0, 0, 0]), values, torch.tensor([1.0, 2, 1]), torch.tensor([0.0, 1, -1]),
    ...                      torch.zeros(3))
    >>> of_two.calibrated_logits(torch.ones(3), torch.tensor([[7], [9], [8]])).tolist()
    [3.0, 0.0, 1.0]
    """

    corrects: ClassVar[frozenset[Distortion]] = frozenset({"slope", "offset", "segment"})
    state_names: ClassVar[tuple[str, ...]] = ("parents", "values", "slopes", "offsets", "one_class")
    parents: Tensor
    values: Tensor
    slopes: Tensor
    offsets: Tensor
    one_class: Tensor

    def __init__(self, parents: Tensor, values: Tensor, slopes: Tensor, offsets: Tensor, one_class: Tensor) -> None:
        super().__init__()
        self._keep_vector("parents", parents, max(1, len(parents)))
        self._keep_values("values", values, len(parents))
        self._keep_vector("slopes", slopes, len(parents), positive=True)
        self._keep_vector("offsets", offsets, len(parents))
        self._keep_vector("one_class", one_class, len(parents))
        values_N = joined(self.values)
        bounds = self._level_bounds(values_N)
        self._num_levels = len(bounds) - 1
        # What candidates are looked up in, level by level; not state, since it follows from that.
        self._firsts = bounds[:-1]
        for level in range(1, self._num_levels):
            of_level = slice(bounds[level], bounds[level + 1])
            values_V, value_G = torch.unique(values_N[of_level], return_inverse=True)
            parent_G = self.parents[of_level].long() - bounds[level - 1]
            self.register_buffer(f"_values_{level}", values_V, persistent=False)
            self.register_buffer(f"_codes_{level}", parent_G * len(values_V) + value_G, persistent=False)

    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """a_s·z + b_s, in float64."""
        segment_C = torch.zeros(len(logits_C), dtype=torch.int64)
        is_known_C = torch.ones(len(logits_C), dtype=torch.bool)
        for level in range(1, min(self._num_levels, segments_CS.shape[1] + 1)):
            values_V, codes_G = self.get_buffer(f"_values_{level}"), self.get_buffer(f"_codes_{level}")
            asked_C = segments_CS[:, level - 1].long().contiguous()
            value_C = torch.searchsorted(values_V, asked_C).clamp(max=len(values_V) - 1)
            code_C = (segment_C - self._firsts[level - 1]) * len(values_V) + value_C
            place_C = torch.searchsorted(codes_G, code_C).clamp(max=len(codes_G) - 1)
            is_known_C &= (values_V[value_C] == asked_C) & (codes_G[place_C] == code_C)
            segment_C = torch.where(is_known_C, self._firsts[level] + place_C, segment_C)
        return logits_C.double() * self.slopes[segment_C] + self.offsets[segment_C]

    def one_class_segments(self) -> list[tuple[int, ...]]:
        """The segments that took their parent's line because they had one label only: their values, coarse to fine."""
        parents, values = self.parents.long().tolist(), joined(self.values).tolist()
        found = []
        for segment in torch.nonzero(self.one_class).squeeze(1).tolist():
            path: list[int] = []
            while segment:
                path.insert(0, values[segment])
                segment = parents[segment]
            found.append(tuple(path))
        return found

    def _level_bounds(self, values_N: Tensor) -> list[int]:
        """Where each level begins and the last one ends."""
        parents_N = self.parents.numpy()
        whole = bool((np.trunc(parents_N) == parents_N).all())
        before = bool((parents_N[1:] < np.arange(1, len(parents_N))).all()) and parents_N[0] == 0
        next_parent_N, is_greater_N = np.diff(parents_N[1:]), (values_N[2:] > values_N[1:-1]).numpy()
        ascending = bool(((next_parent_N > 0) | (next_parent_N == 0) & is_greater_N).all())
        if not (whole and before and ascending and parents_N[min(1, len(parents_N) - 1)] == 0):
            raise CalibrationError(
                "SegmentTree cannot have these parents and values",
                found={"parents": parents_N.tolist()[:8], "values": values_N.tolist()[:8]},
                allowed="whole numbers, parents ascending and before their children, a parent's values ascending",
            )
        bounds = [0, 1]
        while bounds[-1] < len(parents_N):
            bounds.append(1 + int(np.searchsorted(parents_N[1:], bounds[-1])))
        return bounds


def fit_segment_tree(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> SegmentTree:
    """The line of all rows, and of each segment one that leaves its parent's as far as the data ask for.

    The segment columns go from coarse to fine, such as job level, then place: all → job level → job level × place.
    Level by level, the parent's log-odds are the x of `rankwell.calibration.shrunken_lines`: how far slopes and offsets
    lie apart within a level is estimated from all its segments together, and each segment is shrunk accordingly. So a
    segment of millions of rows has its own line and one of ten has nearly its parent's; where segments do not differ
    all of a level keep their parents' lines. A segment with one label only takes its parent's line: see
    `SegmentTree.one_class_segments`. Without a segment column this is `fit_platt`.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64, from coarse to fine.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> zeros_C, ones_C = torch.zeros(8000), torch.ones(8000)  # a model that says nothing, of two countries
    >>> segments_CS = torch.tensor([[1], [2]]).repeat(4000, 1)
    >>> labels_C = (torch.arange(8000) % 4 == 0).float() + (torch.arange(8000) % 8 == 1).float()  # 1 in 2, 1 in 4
    >>> calibrator = fit_segment_tree(zeros_C, labels_C, ones_C, segments_CS)
    >>> calibrator(torch.zeros(3), torch.tensor([[1], [2], [3]]))  # the third is in neither
    tensor([0.4995, 0.2506, 0.3750], dtype=torch.float64)
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    levels = segment_levels(sample.segments_CS.numpy())
    rows, _ = rows_by_group(levels[-1].group_C, len(levels[-1].values_G))
    in_order = tuple(column_C.numpy()[rows] for column_C in (sample.logits_C, sample.labels_C, sample.weights_C))
    lines = [_Lines.of_all(sample)]
    for level in levels[1:]:
        lines.append(lines[-1].children(level.parents_G, np.bincount(level.group_C), *in_order))
    firsts = np.cumsum([0, *(len(level.values_G) for level in levels[:-1])])
    parents = [level.parents_G + first for level, first in zip(levels[1:], firsts[:-1], strict=True)]
    return SegmentTree(
        torch.from_numpy(np.concatenate([[0], *parents])),
        torch.from_numpy(halves_of(np.concatenate([level.values_G for level in levels]))),
        torch.from_numpy(np.concatenate([line.slopes_G for line in lines])),
        torch.from_numpy(np.concatenate([line.offsets_G for line in lines])),
        torch.from_numpy(np.concatenate([line.one_class_G for line in lines])),
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """The lines a·z + b of one level."""

    slopes_G: _Floats
    offsets_G: _Floats
    one_class_G: NDArray[np.bool_]

    @classmethod
    def of_all(cls, sample: CalibrationSample) -> _Lines:
        slope, offset = most_likely_line(sample)
        return cls(np.array([slope]), np.array([offset]), np.zeros(1, np.bool_))

    def children(
        self, parents_G: _Ints, counts_G: _Ints, logits_C: _Floats, labels_C: _Floats, weights_C: _Floats
    ) -> _Lines:
        """The lines of the next level, from rows that stand segment by segment."""
        slopes_G, offsets_G = self.slopes_G[parents_G], self.offsets_G[parents_G]
        log_odds_C = logits_C * np.repeat(slopes_G, counts_G) + np.repeat(offsets_G, counts_G)
        centre = float(weights_C @ log_odds_C) / float(weights_C.sum())
        rows = LogisticRows(
            x_C=log_odds_C - centre,
            y_C=np.broadcast_to(np.zeros(1), log_odds_C.shape),
            known_C=np.broadcast_to(np.array([centre]), log_odds_C.shape),
            positive_C=labels_C == 1.0,
            weights_C=weights_C,
            bounds_G=np.append(0, np.cumsum(counts_G)),
        )
        shrunken = shrunken_lines(rows)
        return _Lines(
            shrunken.slopes_G * slopes_G,
            offsets_G + (shrunken.slopes_G - 1.0) * (offsets_G - centre) + shrunken.offsets_G,  # a parent's to the bit
            shrunken.one_class_G,
        )

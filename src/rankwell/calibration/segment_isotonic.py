"""One increasing function of the logit for all, and an offset for each segment.

Letters in names: C candidates, flat over the batch, or counted rows · S segment columns · G segments · B blocks, each
with one knot · N cells, ascending by bin · V distinct offsets.
"""

from __future__ import annotations

from typing import ClassVar, Final, final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.logistic_minima import LogisticRows
from rankwell.calibration.pane import LogitPane
from rankwell.calibration.piecewise_line import PiecewiseLine, checked_knots
from rankwell.calibration.sample import CalibrationSample
from rankwell.calibration.segment_levels import halves_of, joined
from rankwell.calibration.shrunken_lines import shrunken_lines
from rankwell.errors import CalibrationError

__all__ = ["SegmentIsotonic", "fit_segment_isotonic"]

_MAX_ROUNDS: Final = 12
_SETTLED: Final = 1e-4
"""Log-odds: the rounds end where no offset moves by more."""
_STEP: Final = 64.0
"""Offsets are counted to a 64th of a log-odd where rows of one block are pooled: second order in a 128th."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_Blocks = tuple[_Floats, _Floats, _Floats, _Floats]


@final
class SegmentIsotonic(Calibrator):
    """Log-odds f(z) + β_s: f interpolated linearly between knots, s the value in the first segment column.

    A value that was not there at the fit has β = 0, and so has a candidate without segment columns.

    Args:
        knot_logits_B: At least one, strictly ascending.
        knot_log_odds_B: Of the same length, ascending.
        values: float64 of G × 2: each value's high and low 32 bits, as `halves_of` takes them apart; ascending.
        offsets: β, float64 of G.

    Raises:
        CalibrationError: The knots are empty, differ in number, do not ascend, or are not finite; or the values or
            offsets differ in number, do not ascend, or are not finite.

    >>> values = torch.from_numpy(halves_of(np.array([7, 9])))
    >>> calibrator = SegmentIsotonic(torch.tensor([-1.0, 1.0]), torch.tensor([-3.0, -1.0]), values,
    ...                              torch.tensor([0.5, -0.5]))
    >>> calibrator.calibrated_logits(torch.zeros(3), torch.tensor([[7], [9], [8]])).tolist()
    [-1.5, -2.5, -2.0]
    """

    corrects: ClassVar[frozenset[Distortion]] = frozenset({"slope", "offset", "shape", "segment"})
    state_names: ClassVar[tuple[str, ...]] = ("knot_logits_B", "knot_log_odds_B", "values", "offsets")
    knot_logits_B: Tensor
    knot_log_odds_B: Tensor
    values: Tensor
    offsets: Tensor
    _ids_G: Tensor

    def __init__(self, knot_logits_B: Tensor, knot_log_odds_B: Tensor, values: Tensor, offsets: Tensor) -> None:
        super().__init__()
        logits_B, log_odds_B = checked_knots("SegmentIsotonic", knot_logits_B, knot_log_odds_B)
        self.register_buffer("knot_logits_B", logits_B)
        self.register_buffer("knot_log_odds_B", log_odds_B)
        self._keep_values("values", values, len(values))
        self._keep_vector("offsets", offsets, len(values))
        self.register_buffer("_ids_G", joined(self.values), persistent=False)
        if bool((self._ids_G.diff() <= 0).any()):
            raise CalibrationError(
                "SegmentIsotonic cannot have these values", found=self._ids_G.tolist()[:8], allowed="ascending"
            )
        self._line = PiecewiseLine(logits_B, log_odds_B)

    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """f(z) + β_s, in float64."""
        log_odds_C: Tensor = self._line(logits_C)
        if self._ids_G.shape[0] == 0 or segments_CS.shape[1] == 0:
            return log_odds_C
        asked_C = segments_CS[:, 0].long().contiguous()
        place_C = torch.searchsorted(self._ids_G, asked_C).clamp(max=self._ids_G.shape[0] - 1)
        return log_odds_C + torch.where(self._ids_G[place_C] == asked_C, self.offsets[place_C], 0.0)


def fit_segment_isotonic(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> SegmentIsotonic:
    """The increasing function and the offsets of greatest likelihood, the offsets shrunk as far as the data ask for.

    1. Rows are counted in the cells of a `LogitPane`: bins of the logit less than .01 wide, by segment.
    2. Given offsets, f is the increasing step function over the bins that maximises the likelihood: adjacent violators
       are pooled, and the level v of a block solves Σ w·σ(v + β) = Σ w·y. A first block without any action, and a last
       one with nothing else, gets half a row of each label besides. One knot a block, at its mean logit.
    3. Given f, the offsets are those of `rankwell.calibration.shrunken_lines`: how far segments lie apart is estimated
       from all of them together; a segment with one label only keeps 0, and all do where offsets aren't worth their
       noise.

    2 and 3 take turns until no offset moves by more than 1e-4. Without a segment column it is isotonic calibration. It
    is also what a trained `IsotonicLayer` becomes: see `IsotonicLayer.as_calibrator`.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64; the first column is looked at.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> logits_C = torch.tensor([-1.0, 1.0]).repeat(4000)
    >>> segments_CS = torch.tensor([[1], [1], [2], [2]]).repeat(2000, 1)
    >>> p_C = torch.tensor([0.1, 0.4, 0.2, 0.6]).repeat(2000)  # the odds of segment 2 are 2.25 times those of 1
    >>> labels_C = torch.rand(8000, generator=torch.Generator().manual_seed(0)) < p_C
    >>> calibrator = fit_segment_isotonic(logits_C, labels_C, torch.ones(8000), segments_CS)
    >>> calibrator(logits_C[:4], segments_CS[:4])
    tensor([0.0992, 0.4049, 0.1938, 0.5977], dtype=torch.float64)

    Source: for 2, Ayer et al. 1955, "An empirical distribution function for sampling with incomplete information"; its
    argument holds for any convex cost of a block's level.
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    pane = LogitPane.of(sample.logits_C, sample.labels_C, sample.weights_C, sample.segments_CS[:, :1])
    if not pane.segments_NS.shape[1]:  # all are one segment, which has no offset
        pane = LogitPane(np.zeros((len(pane), 1), np.int64), pane.bins_N, pane.weights_NL, pane.moments_NL)
    ids_G, group_N = np.unique(pane.segments_NS[:, 0], return_inverse=True)
    offsets_G = np.zeros(len(ids_G))
    for _ in range(_MAX_ROUNDS):
        knots_B, log_odds_B = _increasing(pane, offsets_G[group_N])
        before_G, offsets_G = offsets_G, _offsets(pane, group_N, knots_B, log_odds_B)
        if np.abs(offsets_G - before_G).max() <= _SETTLED:
            break
    has_columns = segments_CS.shape[1] > 0
    values_G, offsets_G = (ids_G, offsets_G) if has_columns else (ids_G[:0], offsets_G[:0])
    return SegmentIsotonic(
        torch.from_numpy(knots_B), torch.from_numpy(log_odds_B), torch.from_numpy(halves_of(values_G)),
        torch.from_numpy(offsets_G),
    )  # fmt: skip


def _offsets(pane: LogitPane, group_N: _Ints, knots_B: _Floats, log_odds_B: _Floats) -> _Floats:
    """β of each segment, given the function of all."""
    weights_N = pane.weights_NL.sum(1)
    known_N = np.interp(pane.moments_NL.sum(1) / weights_N, knots_B, log_odds_B)
    cell_C, label_C = np.nonzero(pane.weights_NL)  # ascending by segment, as the cells are
    known_C = known_N[cell_C]
    rows = LogisticRows(
        x_C=np.zeros(len(cell_C)),  # an offset only: there is nothing that a slope would turn
        y_C=np.zeros(len(cell_C)),
        known_C=known_C,
        positive_C=label_C == 1,
        weights_C=pane.weights_NL[cell_C, label_C],
        bounds_G=np.append(0, np.cumsum(np.bincount(group_N[cell_C]))),
    )
    return shrunken_lines(rows).offsets_G


def _increasing(pane: LogitPane, offset_N: _Floats) -> tuple[_Floats, _Floats]:
    """Knots of the function, given the offset of each cell."""
    offsets_V, offset_V_N = np.unique(np.round(offset_N * _STEP) / _STEP, return_inverse=True)
    bins_B, bin_N = np.unique(pane.bins_N, return_inverse=True)
    sums_BV = np.zeros((len(bins_B), len(offsets_V)))
    np.add.at(sums_BV, (bin_N, offset_V_N), pane.weights_NL.sum(1))
    positives_B = np.bincount(bin_N, pane.weights_NL[:, 1])
    sums_B = np.bincount(bin_N, pane.moments_NL.sum(1))
    weights_BV, _, moments_B, levels_B = _with_both_labels(_pooled(sums_BV, positives_B, sums_B, offsets_V), offsets_V)
    return moments_B / weights_BV.sum(1), np.maximum.accumulate(levels_B)


def _with_both_labels(blocks: _Blocks, offsets_V: _Floats) -> _Blocks:
    """The blocks with half a row of each label more in the first and the last one, where a label is missing there."""
    weights_BV, positives_B, moments_B, _ = blocks
    totals_B = weights_BV.sum(1)
    lacks_B = (positives_B <= 0.0) | (positives_B >= totals_B)  # the first block, or the last, or none
    if not lacks_B.any():
        return blocks
    more_B = np.where(lacks_B, 1.0 + 1.0 / totals_B, 1.0)
    smoothed = (weights_BV * more_B[:, None], positives_B + np.where(lacks_B, 0.5, 0.0), moments_B * more_B)
    pooled: _Blocks = _pooled(*smoothed, offsets_V)
    return pooled


@numba.njit(cache=True, nogil=True)
def _pooled(weights_BV, positives_B, moments_B, offsets_V):  # type: ignore[no-untyped-def]
    """Σ w by offset, Σ w·y, Σ w·z and the level of each block, from those of the bins."""
    weights_BV, positives_B, moments_B = weights_BV.copy(), positives_B.copy(), moments_B.copy()
    levels_B = np.empty(len(positives_B))
    num = 0
    for place in range(len(positives_B)):
        weights_BV[num], positives_B[num], moments_B[num] = weights_BV[place], positives_B[place], moments_B[place]
        levels_B[num] = _level(weights_BV[num], positives_B[num], offsets_V)
        num += 1
        while num > 1 and levels_B[num - 2] >= levels_B[num - 1]:
            num -= 1
            weights_BV[num - 1] += weights_BV[num]
            positives_B[num - 1] += positives_B[num]
            moments_B[num - 1] += moments_B[num]
            levels_B[num - 1] = _level(weights_BV[num - 1], positives_B[num - 1], offsets_V)
    return weights_BV[:num].copy(), positives_B[:num].copy(), moments_B[:num].copy(), levels_B[:num].copy()


@numba.njit(cache=True, nogil=True)
def _level(weights_V, positives, offsets_V):  # type: ignore[no-untyped-def]
    """The v at which Σ w·σ(v + β) is the number of positives; infinite where a label is missing."""
    total = weights_V.sum()
    if positives <= 0.0:
        return -np.inf
    if positives >= total:
        return np.inf
    # The root lies where one offset alone would put it, for the least and for the greatest.
    alone = np.log(positives / (total - positives))
    low, high = alone - offsets_V[-1], alone - offsets_V[0]
    level = 0.5 * (low + high)
    for _ in range(60):
        expected, slope = 0.0, 0.0
        for v in range(len(offsets_V)):
            if weights_V[v] > 0.0:
                p = 1.0 / (1.0 + np.exp(-(level + offsets_V[v])))
                expected += weights_V[v] * p
                slope += weights_V[v] * p * (1.0 - p)
        if expected > positives:
            high = level
        else:
            low = level
        step = (positives - expected) / slope if slope > 0.0 else np.inf
        if abs(step) <= 1e-13 or high - low <= 1e-13:
            break
        level = level + step if low < level + step < high else 0.5 * (low + high)
    return level

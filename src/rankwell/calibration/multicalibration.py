"""Calibrated in each segment of several columns at once, which need not lie within each other.

Letters in names: C candidates, flat over the batch · S segment columns · V values, one column after the other ·
G values of one column · P = 3 parameters of `rankwell.calibration.logistic_minima`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.logistic_line import most_likely_line
from rankwell.calibration.logistic_minima import LogisticRows, derivatives_at
from rankwell.calibration.sample import CalibrationSample
from rankwell.calibration.segment_levels import halves_of, joined, rows_by_group
from rankwell.calibration.shrunken_lines import shrunken_lines
from rankwell.errors import CalibrationError
from rankwell.evaluation.intervals import normal_quantile
from rankwell.evaluation.sample import group_rows

__all__ = ["Multicalibrated", "fit_multicalibrated"]

_MAX_ROUNDS: Final = 50
_FALSE_ALARM: Final = 0.05
"""The probability that a family without an error is corrected."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@final
class Multicalibrated(Calibrator):
    """Log-odds (a·z + b - m)·Π r + m + Σ β, with an r and a β for the candidate's value in each segment column.

    So a segment is any combination of values, and within it the map is a line that rises. A value that was not there
    at the fit has r = 1 and β = 0.

    Args:
        columns: float64 of V, ascending: the segment column that a value is of.
        values: float64 of V × 2: each value's high and low 32 bits, as `halves_of` takes them apart; ascending within a
            column.
        slopes: r, float64 of V, above 0.
        offsets: β, float64 of V.
        slope: a > 0.
        offset: b.
        centre: m, the log-odds at which slopes change nothing.

    Raises:
        CalibrationError: The lengths differ, a number is not finite, a slope is not above 0, or values do not ascend.

    >>> values = torch.from_numpy(halves_of(np.array([7, 9])))
    >>> two = Multicalibrated(torch.tensor([0.0, 1.0]), values, torch.tensor([2.0, 1.0]), torch.tensor([0.0, 0.5]),
    ...                       1.0, 0.0, 0.0)
    >>> two.calibrated_logits(torch.ones(3), torch.tensor([[7, 9], [7, 8], [0, 9]])).tolist()
    [2.5, 2.0, 1.5]

    Source: Hébert-Johnson et al. 2018, "Multicalibration: calibration for the (computationally-identifiable) masses".
    """

    corrects: ClassVar[frozenset[Distortion]] = frozenset({"slope", "offset", "segment"})
    state_names: ClassVar[tuple[str, ...]] = (
        "columns", "values", "slopes", "offsets", "slope", "offset", "centre",
    )  # fmt: skip
    columns: Tensor
    values: Tensor
    slopes: Tensor
    offsets: Tensor
    slope: Tensor
    offset: Tensor
    centre: Tensor
    _ids: Tensor

    def __init__(
        self,
        columns: Tensor,
        values: Tensor,
        slopes: Tensor,
        offsets: Tensor,
        slope: Tensor | float,
        offset: Tensor | float,
        centre: Tensor | float,
    ) -> None:
        super().__init__()
        self._keep_vector("columns", columns, len(columns))
        self._keep_values("values", values, len(columns))
        self._keep_vector("slopes", slopes, len(columns), positive=True)
        self._keep_vector("offsets", offsets, len(columns))
        self._keep_number("slope", slope, positive=True)
        self._keep_number("offset", offset)
        self._keep_number("centre", centre)
        self.register_buffer("_ids", joined(self.values), persistent=False)
        next_column_V, is_greater_V = self.columns.diff(), self._ids[1:] > self._ids[:-1]
        if bool(((next_column_V < 0) | (next_column_V == 0) & ~is_greater_V).any()):
            raise CalibrationError(
                "Multicalibrated cannot have these columns and values",
                found={"columns": self.columns.tolist()[:8], "values": self._ids.tolist()[:8]},
                allowed="columns ascending, and the values of each",
            )
        # Where each column begins and ends among the values; not state, since it follows from that.
        last = int(self.columns[-1]) if len(self.columns) else -1
        self._bounds = torch.searchsorted(self.columns, torch.arange(last + 2, dtype=torch.float64)).tolist()

    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """(a·z + b - m)·Π r + m + Σ β, in float64."""
        deviation_C = logits_C.double() * self.slope + (self.offset - self.centre)
        offset_C = self.centre
        for column in range(min(len(self._bounds) - 1, segments_CS.shape[1])):
            of_column = slice(self._bounds[column], self._bounds[column + 1])
            values_G, asked_C = self._ids[of_column], segments_CS[:, column].long().contiguous()
            if len(values_G):
                place_C = torch.searchsorted(values_G, asked_C).clamp(max=len(values_G) - 1)
                is_known_C = values_G[place_C] == asked_C
                deviation_C = deviation_C * torch.where(is_known_C, self.slopes[of_column][place_C], 1.0)
                offset_C = offset_C + torch.where(is_known_C, self.offsets[of_column][place_C], 0.0)
        return deviation_C + offset_C


def fit_multicalibrated(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Multicalibrated:
    """The line of all rows, corrected segment by segment until none is off by more than its noise.

    The family is every value of every segment column: a column may be a feature, a product of two, or a band of a
    number. Of each value two things are looked at: predicted less observed, Σ w·(p - y), and what is left of its slope
    over the log-odds; each in standard errors. While one of them passes the normal limit that a whole family without
    errors passes in 5 % of cases (Bonferroni), all values of the column it is in are corrected, by the lines of
    `rankwell.calibration.shrunken_lines` on top of what the other columns add. A column whose correction is not worth
    its noise, as told by leaving a row out at a time, is let be; after 50 corrections it ends.

    A value with one label only is neither corrected nor looked at. With columns that lie within each other
    `fit_segment_tree` is the better one: it knows the combinations, too.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64; the order of the columns means nothing.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> zeros_C, segments_CS = torch.zeros(8000), torch.tensor([[1, 5], [1, 6], [2, 5], [2, 6]]).repeat(2000, 1)
    >>> labels_C = torch.rand(8000, generator=torch.Generator().manual_seed(0)) < 0.1 * segments_CS.prod(1) - 0.4
    >>> calibrator = fit_multicalibrated(zeros_C, labels_C, torch.ones(8000), segments_CS)
    >>> calibrator(torch.zeros(4), segments_CS[:4])  # about .1, .2, .6 and .8
    tensor([0.1035, 0.2246, 0.5949, 0.7865], dtype=torch.float64)
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    columns = [_Column.of(number, sample) for number in range(sample.segments_CS.shape[1])]
    slope, offset = most_likely_line(sample)
    log_odds_C = sample.logits_C.numpy() * slope + offset
    centre = float(np.average(log_odds_C, weights=sample.weights_C.numpy()))
    deviation_C, known_C = log_odds_C - centre, np.full(len(log_odds_C), centre)
    limit = normal_quantile(1.0 - _FALSE_ALARM / max(1, sum(2 * len(column.values_G) for column in columns)))
    left = list(columns)
    for _ in range(_MAX_ROUNDS):
        off = [column.farthest_off(deviation_C, known_C) for column in left]
        if max(off, default=0.0) <= limit:
            break
        worst = off.index(max(off))
        corrected = left[worst].correct(deviation_C, known_C)
        if corrected is None:
            del left[worst]
        else:
            deviation_C, known_C = corrected
    return Multicalibrated(
        torch.from_numpy(np.concatenate([[], *(np.full(len(c.values_G), c.number) for c in columns)])),
        torch.from_numpy(halves_of(np.concatenate([np.zeros(0, np.int64), *(c.values_G for c in columns)]))),
        torch.from_numpy(np.concatenate([[], *(c.slopes_G for c in columns)])),
        torch.from_numpy(np.concatenate([[], *(c.offsets_G for c in columns)])),
        slope, offset, centre,
    )  # fmt: skip


@final
@dataclass(eq=False)
class _Column:
    """One segment column, its rows value by value, and its corrections so far."""

    number: int
    values_G: _Ints
    order: _Ints | slice
    value_C: _Ints
    positive_C: NDArray[np.bool_]
    weights_C: _Floats
    bounds_G: _Ints
    slopes_G: _Floats
    offsets_G: _Floats

    @classmethod
    def of(cls, number: int, sample: CalibrationSample) -> Self:
        groups = group_rows(sample.segments_CS[:, number].numpy())
        order, bounds_G = rows_by_group(groups.index_C, len(groups))
        return cls(
            number=number,
            values_G=groups.values_G.astype(np.int64),
            order=order,
            value_C=groups.index_C,
            positive_C=(sample.labels_C.numpy() == 1.0)[order],
            weights_C=sample.weights_C.numpy()[order],
            bounds_G=bounds_G,
            slopes_G=np.ones(len(groups)),
            offsets_G=np.zeros(len(groups)),
        )

    def farthest_off(self, deviation_C: _Floats, known_C: _Floats) -> float:
        """How many standard errors the worst of its values is off, in its rate or in its slope."""
        rows = self._rows(deviation_C, known_C)
        gradients_GP, curvatures_GPP = derivatives_at(rows, np.tile([1.0, 0.0, 0.0], (len(self.values_G), 1)))
        positives_G = np.add.reduceat(self.positive_C.astype(np.int64), self.bounds_G[:-1])
        has_both_G = (positives_G > 0) & (positives_G < np.diff(self.bounds_G))
        rate_G, variance_G = gradients_GP[:, 2], curvatures_GPP[:, 2, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            share_G = curvatures_GPP[:, 0, 2] / variance_G
            of_rate_G = np.abs(rate_G) / np.sqrt(variance_G)
            tilt_G = gradients_GP[:, 0] - share_G * rate_G  # what the rate does not explain
            tilt_variance_G = curvatures_GPP[:, 0, 0] - share_G * curvatures_GPP[:, 0, 2]
            is_tilted_G = tilt_variance_G > 1e-9 * curvatures_GPP[:, 0, 0]  # else all its logits are one
            of_tilt_G = np.where(is_tilted_G, np.abs(tilt_G) / np.sqrt(tilt_variance_G), 0.0)
        return float(np.where(has_both_G, np.maximum(of_rate_G, of_tilt_G), 0.0).max())

    def correct(self, deviation_C: _Floats, known_C: _Floats) -> tuple[_Floats, _Floats] | None:
        """The log-odds' two parts after a correction of all values; None if it is not worth its noise."""
        lines = shrunken_lines(self._rows(deviation_C, known_C))
        if lines.prior is None:
            return None
        self.slopes_G *= lines.slopes_G
        self.offsets_G += lines.offsets_G
        return deviation_C * lines.slopes_G[self.value_C], known_C + lines.offsets_G[self.value_C]

    def _rows(self, deviation_C: _Floats, known_C: _Floats) -> LogisticRows:
        return LogisticRows(
            x_C=deviation_C[self.order],
            y_C=np.broadcast_to(np.zeros(1), deviation_C.shape),
            known_C=known_C[self.order],
            positive_C=self.positive_C,
            weights_C=self.weights_C,
            bounds_G=self.bounds_G,
        )

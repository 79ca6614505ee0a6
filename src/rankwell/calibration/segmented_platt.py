"""A line over the logits for each segment.

Letters in names: C candidates, flat over the batch · S segment columns · G segments with a line of their own.
"""

from __future__ import annotations

from typing import ClassVar, Final, final

import torch
from torch import Tensor

from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.logistic_line import most_likely_line
from rankwell.calibration.sample import CalibrationSample
from rankwell.errors import CalibrationError

__all__ = ["SegmentedPlatt", "fit_segmented_platt"]

_FEWEST: Final = 10.0
"""Positives, and negatives, that a segment needs for a line of its own: rows by weight."""


@final
class SegmentedPlatt(Calibrator):
    """p = σ(a_s·z + b_s), with s the candidate's value in the first segment column; other values use one common line.

    Args:
        segments: float64 of G, ascending: the values with a line of their own.
        slopes: a, float64 of G + 1, above 0; the last is the common line's.
        offsets: b, float64 of G + 1; the last is the common line's.

    Raises:
        CalibrationError: The lengths do not fit, or a number is not finite, or a slope is not above 0.

    >>> line = SegmentedPlatt(torch.tensor([7.0]), torch.tensor([2.0, 1.0]), torch.tensor([0.0, -1.0]))
    >>> line.calibrated_logits(torch.tensor([1.0, 1.0]), torch.tensor([[7], [8]])).tolist()
    [2.0, 0.0]
    """

    corrects: ClassVar[frozenset[Distortion]] = frozenset({"slope", "offset", "segment"})
    state_names: ClassVar[tuple[str, ...]] = ("segments", "slopes", "offsets")
    segments: Tensor
    slopes: Tensor
    offsets: Tensor

    def __init__(self, segments: Tensor, slopes: Tensor, offsets: Tensor) -> None:
        super().__init__()
        kept = {"segments": segments, "slopes": slopes, "offsets": offsets}
        for name, values in kept.items():
            column = values.detach().to(torch.float64).clone()
            length = len(segments) + (name != "segments")
            right = column.shape == (length,) and bool(column.isfinite().all())
            if not right or (name == "slopes" and bool((column <= 0).any())):
                raise CalibrationError(
                    f"SegmentedPlatt cannot have these {name}",
                    found=column.tolist(),
                    allowed=f"{length} finite numbers" + (" above 0" if name == "slopes" else ""),
                )
            self.register_buffer(name, column)

    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """a_s·z + b_s, in float64."""
        line_C = torch.full((len(logits_C),), len(self.segments))
        if segments_CS.shape[1] and len(self.segments):
            segment_C = segments_CS[:, 0].to(torch.float64)
            place_C = torch.searchsorted(self.segments, segment_C).clamp(max=len(self.segments) - 1)
            line_C = torch.where(self.segments[place_C] == segment_C, place_C, line_C)
        return logits_C.double() * self.slopes[line_C] + self.offsets[line_C]


def fit_segmented_platt(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> SegmentedPlatt:
    """The most likely line of each segment of the first segment column, and one of all rows.

    A segment with fewer than 10 positives or 10 negatives (by weight), or one that comes only after the fit, uses the
    line of all rows. Without a segment column this is `fit_platt`.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64 below 2^53 in size; only the first column is looked at.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> import torch
    >>> zeros_C, ones_C = torch.zeros(80), torch.ones(80)  # a model that says nothing, of two countries
    >>> segments_CS = torch.tensor([[1], [2]]).repeat(40, 1)
    >>> labels_C = (torch.arange(80) % 4 == 0).float() + (torch.arange(80) % 8 == 1).float()  # 1 in 2, and 1 in 4
    >>> calibrator = fit_segmented_platt(zeros_C, labels_C, ones_C, segments_CS)
    >>> calibrator(torch.zeros(2), torch.tensor([[1], [2]]))
    tensor([0.5000, 0.2500], dtype=torch.float64)
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    values, lines = [], []
    if sample.segments_CS.shape[1]:
        segment_C = sample.segments_CS[:, 0]
        for value in torch.unique(segment_C).tolist():
            rows = torch.nonzero(segment_C == value).squeeze(1)
            weights = sample.weights_C[rows]
            positives = float(torch.dot(weights, sample.labels_C[rows]))
            if positives >= _FEWEST and float(weights.sum()) - positives >= _FEWEST:
                own = CalibrationSample(sample.logits_C[rows], sample.labels_C[rows], weights, sample.segments_CS[rows])
                values.append(value)
                lines.append(most_likely_line(own))
    lines.append(most_likely_line(sample))
    slopes, offsets = torch.tensor(lines, dtype=torch.float64).unbind(1)
    return SegmentedPlatt(torch.tensor(values, dtype=torch.float64), slopes, offsets)

"""Platt's calibrator: a line over the logits.

Letters in names: C candidates, flat over the batch · S segment columns.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.logistic_line import most_likely_line
from rankwell.calibration.sample import CalibrationSample

__all__ = ["Platt", "fit_platt"]


@final
class Platt(Calibrator):
    """p = σ(a·z + b).

    Args:
        slope: a > 0.
        offset: b.

    Raises:
        CalibrationError: The slope is not above 0, or one of them is not finite.

    >>> Platt(slope=0.5, offset=-1.0)(torch.tensor([2.0]), torch.zeros(1, 0, dtype=torch.int64))
    tensor([0.5000], dtype=torch.float64)

    Source: Platt 1999, "Probabilistic outputs for support vector machines", §2.1, without its smoothed targets.
    """

    corrects: ClassVar[frozenset[Distortion]] = frozenset({"slope", "offset"})
    state_names: ClassVar[tuple[str, ...]] = ("slope", "offset")
    slope: Tensor
    offset: Tensor

    def __init__(self, slope: Tensor | float, offset: Tensor | float) -> None:
        super().__init__()
        self._keep_number("slope", slope, positive=True)
        self._keep_number("offset", offset)

    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """a·z + b, in float64."""
        return torch.addcmul(self.offset, logits_C.double(), self.slope)


def fit_platt(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Platt:
    """The slope and the offset of greatest likelihood: argmin over a > 0 and b of Σ w·ℓ(a·z + b, y).

    On the sample itself the predicted sum Σ w·p equals Σ w·y. Where the sample does not determine the slope (labels
    separated by the logits, ranked the wrong way round, or all logits equal) a prior of a millionth of a row decides;
    see `rankwell.calibration.logistic_line`.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64, S ≥ 0 segment columns; not looked at.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> logits_C, labels_C = torch.tensor([-1.0, -1.0, 1.0, 1.0]), torch.tensor([0, 1, 1, 0])
    >>> fitted = fit_platt(logits_C, labels_C, torch.tensor([3.0, 1.0, 3.0, 1.0]), torch.zeros(4, 0))
    >>> f"{fitted.slope:.5f} {fitted.offset.abs():.5f}"  # log-odds of 1/4 and 3/4 at -1 and 1
    '1.09861 0.00000'
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    slope, offset = most_likely_line(sample)
    return Platt(slope, offset)

"""The baseline: logits taken at their word.

Letters in names: C candidates, flat over the batch · S segment columns.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.sample import CalibrationSample

__all__ = ["Uncalibrated", "fit_uncalibrated"]


@final
class Uncalibrated(Calibrator):
    """p = σ(z), and nothing fitted.

    >>> import torch
    >>> Uncalibrated()(torch.tensor([0.0, 1000.0]), torch.zeros(2, 0, dtype=torch.int64)) < 1
    tensor([True, True])
    """

    corrects: ClassVar[frozenset[Distortion]] = frozenset()
    state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()

    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """z, in float64."""
        return logits_C.double()


def fit_uncalibrated(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Uncalibrated:
    """The baseline, after the checks that every fit makes.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64, S ≥ 0 segment columns; not looked at.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> import torch
    >>> fit_uncalibrated(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), torch.ones(2), torch.zeros(2, 0))
    Uncalibrated()
    """
    CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    return Uncalibrated()

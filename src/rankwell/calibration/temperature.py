"""Temperature: the logits divided by one number.

Letters in names: C candidates, flat over the batch · S segment columns.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.logistic_line import most_likely_line
from rankwell.calibration.sample import CalibrationSample

__all__ = ["Temperature", "fit_temperature"]


@final
class Temperature(Calibrator):
    """p = σ(z / T): logits that are too bold (T > 1) or too timid (T < 1), but right on which side of one half.

    Args:
        temperature: T > 0.

    Raises:
        CalibrationError: T is not finite and above 0.

    >>> import torch
    >>> Temperature(2.0).calibrated_logits(torch.tensor([2.0]), torch.zeros(1, 0, dtype=torch.int64))
    tensor([1.], dtype=torch.float64)

    Source: Guo et al. 2017, "On calibration of modern neural networks", §4.2.
    """

    corrects: ClassVar[frozenset[Distortion]] = frozenset({"slope"})
    state_names: ClassVar[tuple[str, ...]] = ("temperature",)
    temperature: Tensor

    def __init__(self, temperature: Tensor | float) -> None:
        super().__init__()
        self._keep_number("temperature", temperature, positive=True)

    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """z / T, in float64."""
        return logits_C.double() / self.temperature


def fit_temperature(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Temperature:
    """The temperature of greatest likelihood: argmin over T > 0 of Σ w·ℓ(z / T, y).

    It has no offset, so a wrong overall rate stays wrong: for rare actions it is a baseline, and `fit_platt` the
    smallest calibrator that can be right. Where the sample does not determine T a prior of a millionth of a row
    decides; see `rankwell.calibration.logistic_line`.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64, S ≥ 0 segment columns; not looked at.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([-2.0, -2.0, 2.0, 2.0]), torch.tensor([0, 1, 1, 0])
    >>> fitted = fit_temperature(logits_C, labels_C, torch.tensor([3.0, 1.0, 3.0, 1.0]), torch.zeros(4, 0))
    >>> round(2.0 / fitted.temperature.item(), 5)  # log-odds of 3/4
    1.09861
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    slope, _ = most_likely_line(sample, through_origin=True)
    return Temperature(1.0 / slope)

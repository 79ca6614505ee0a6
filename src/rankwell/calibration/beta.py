"""The beta calibrator: a curve over the logits that may bend differently near 0 and near 1.

Letters in names: C candidates, flat over the batch · S segment columns.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor
from torch.nn.functional import logsigmoid

from rankwell.calibration.calibrator import Calibrator, Distortion
from rankwell.calibration.logistic_line import most_likely_curve
from rankwell.calibration.sample import CalibrationSample

__all__ = ["Beta", "fit_beta"]


@final
class Beta(Calibrator):
    """Log-odds a·ln p - b·ln(1 - p) + c, with p = σ(z): a line of slope a far below 0 and of slope b far above.

    Computed from the logit and not from p, so it is exact where p would round to 0 or 1. With a = b it is `Platt`.

    Args:
        low_slope: a > 0.
        high_slope: b > 0.
        offset: c.

    Raises:
        CalibrationError: A slope is not above 0, or one of them is not finite.

    >>> import torch
    >>> curve = Beta(low_slope=0.5, high_slope=2.0, offset=1.0)
    >>> curve.calibrated_logits(torch.tensor([-1000.0, 1000.0]), torch.zeros(2, 0, dtype=torch.int64)).tolist()
    [-499.0, 2001.0]

    Source: Kull et al. 2017, "Beta calibration: a well-founded and easily implemented improvement on logistic
    calibration for binary classifiers", §3.2.
    """

    corrects: ClassVar[frozenset[Distortion]] = frozenset({"slope", "offset"})
    state_names: ClassVar[tuple[str, ...]] = ("low_slope", "high_slope", "offset")
    low_slope: Tensor
    high_slope: Tensor
    offset: Tensor

    def __init__(self, low_slope: Tensor | float, high_slope: Tensor | float, offset: Tensor | float) -> None:
        super().__init__()
        self._keep_number("low_slope", low_slope, positive=True)
        self._keep_number("high_slope", high_slope, positive=True)
        self._keep_number("offset", offset)

    def calibrated_logits(self, logits_C: Tensor, segments_CS: Tensor) -> Tensor:
        """a·ln p - b·ln(1 - p) + c, in float64."""
        logits_C = logits_C.double()
        return self.low_slope * logsigmoid(logits_C) - self.high_slope * logsigmoid(-logits_C) + self.offset


def fit_beta(logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Beta:
    """The a, b and c of greatest likelihood: argmin over a, b > 0 and c of Σ w·ℓ(a·ln p - b·ln(1 - p) + c, y).

    On the sample itself the predicted sum Σ w·p equals Σ w·y. A slope that the likelihood would have at 0 or below
    comes out just above 0. Where the sample does not determine the curve a prior of a millionth of a row decides; see
    `rankwell.calibration.logistic_line`. Logits of rare actions lie far below 0 and say little of b.

    Args:
        logits_C: Natural log-odds, finite.
        labels_C: 0 or 1.
        weights_C: Counts of rows, ≥ 0.
        segments_CS: int64, S ≥ 0 segment columns; not looked at.

    Raises:
        CalibrationError: The sample cannot be used; see `CalibrationSample.checked`.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([-2.0, 0.0, 2.0]).repeat(2), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> fitted = fit_beta(logits_C, labels_C, torch.tensor([8.0, 2.0, 1.0, 1.0, 2.0, 3.0]), torch.zeros(6, 0))
    >>> probabilities_C = fitted(logits_C[:3], torch.zeros(3, 0))  # three points, three parameters
    >>> [round(p, 5) for p in probabilities_C.tolist()]  # 1/9, 2/4, 3/4
    [0.11111, 0.5, 0.75]
    """
    sample = CalibrationSample.checked(logits_C, labels_C, weights_C, segments_CS)
    return Beta(*most_likely_curve(sample))

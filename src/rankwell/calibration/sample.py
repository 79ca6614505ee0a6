"""The sample that a calibrator is fitted on.

Letters in names: C candidates, flat over the sample · S segment columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import numba
import numpy as np
import torch
from torch import Tensor

from rankwell.errors import CalibrationError

__all__ = ["CalibrationSample"]


@final
@dataclass(frozen=True, slots=True)
class CalibrationSample:
    """Rows that have weight, checked: finite logits and known labels.

    Args:
        logits_C: float64, finite.
        labels_C: float64, 0 or 1.
        weights_C: float64, finite, above 0: counts of rows.
        segments_CS: int64.
    """

    logits_C: Tensor
    labels_C: Tensor
    weights_C: Tensor
    segments_CS: Tensor

    @classmethod
    def checked(cls, logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Self:
        """The rows of weight above 0, when a calibrator can be fitted on them.

        Rows of weight 0 are absent, whatever they hold (an unobserved label is NaN with weight 0).

        Args:
            logits_C: Natural log-odds, floating.
            labels_C: 0 or 1, of any dtype.
            weights_C: Counts of rows, ≥ 0.
            segments_CS: Integer, one row a candidate, S ≥ 0 columns.

        Raises:
            CalibrationError: Lengths differ; a weight is negative or not finite; no row has weight; a logit is not
                finite; a label is neither 0 nor 1; only one of the labels is there.

        >>> import torch
        >>> sample = CalibrationSample.checked(torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1, 0, 1]),
        ...                                    torch.tensor([1.0, 2.0, 0.0]), torch.zeros(3, 0, dtype=torch.int64))
        >>> sample.logits_C
        tensor([ 0.5000, -1.0000], dtype=torch.float64)
        """
        sample = cls.observed(logits_C, labels_C, weights_C, segments_CS)
        if len(sample.logits_C) == 0:
            raise CalibrationError(
                "the calibration sample is empty",
                found=f"{logits_C.numel()} rows, none with weight above 0",
                do="give the `calibrate` split more time, or its rows a weight",
            )
        num_positive = int(sample.labels_C.sum())
        if num_positive in (0, len(sample.labels_C)):
            raise CalibrationError(
                "the calibration sample has one class only",
                found=f"{len(sample.labels_C)} rows with weight, {num_positive} of them with label 1",
                allowed="at least one row of each label",
                do="give the `calibrate` split more time, or more requests",
            )
        return sample

    @classmethod
    def observed(cls, logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, segments_CS: Tensor) -> Self:
        """The rows of weight above 0, which may be none, or of one label only.

        Args:
            logits_C, labels_C, weights_C, segments_CS: As for `checked`.

        Raises:
            CalibrationError: As by `checked`, but for what the rows tell.
        """
        shapes = [tuple(column.shape) for column in (logits_C, labels_C, weights_C, segments_CS)]
        num_C = logits_C.numel()
        if shapes[:3] != [(num_C,)] * 3 or len(shapes[3]) != 2 or shapes[3][0] != num_C:
            raise CalibrationError(
                "the columns of the calibration sample differ in length",
                found=dict(zip(("logits_C", "labels_C", "weights_C", "segments_CS"), shapes, strict=True)),
                allowed="C logits, C labels, C weights and C × S segments",
                do="give each of them one entry a row",
            )
        logits_C, labels_C, weights_C = (
            column_C.detach().to("cpu", torch.float64) for column_C in (logits_C, labels_C, weights_C)
        )
        segments_CS = segments_CS.detach().to("cpu", torch.int64)
        if _is_faultless(logits_C.numpy(), labels_C.numpy(), weights_C.numpy()):
            return cls(logits_C, labels_C, weights_C, segments_CS)
        _refuse("weights", weights_C, ~(weights_C.isfinite() & (weights_C >= 0)), allowed="finite and ≥ 0")
        present_C = weights_C > 0
        if not present_C.all():
            logits_C, labels_C = logits_C[present_C], labels_C[present_C]
            weights_C, segments_CS = weights_C[present_C], segments_CS[present_C]
        _refuse("logits", logits_C, ~logits_C.isfinite(), allowed="finite natural log-odds")
        _refuse("labels", labels_C, ~((labels_C == 1) | (labels_C == 0)), allowed="0 or 1")
        return cls(logits_C, labels_C, weights_C, segments_CS)


@numba.njit(cache=True, nogil=True)
def _is_faultless(logits_C, labels_C, weights_C):  # type: ignore[no-untyped-def]
    """Whether all rows have weight and nothing to refuse, found in one look at them."""
    for row in range(len(logits_C)):
        is_label = labels_C[row] == 0.0 or labels_C[row] == 1.0
        if not (is_label and 0.0 < weights_C[row] < np.inf and -np.inf < logits_C[row] < np.inf):
            return False
    return True


def _refuse(what: str, column_C: Tensor, bad_C: Tensor, *, allowed: str) -> None:
    if bad_C.any():
        rows = torch.nonzero(bad_C).squeeze(1)
        raise CalibrationError(
            f"the {what} of the calibration sample cannot be used: {len(rows)} of {len(column_C)} rows",
            found=column_C[rows[:5]].tolist(),
            allowed=allowed,
            do="leave those rows out, or mend what they were computed from",
        )

"""What must be kept of a span of time to say, at any later time, how far its probabilities were off: six sums.

Letters: C candidates · G segments · Q requests within a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import numpy as np

from rankwell.errors import MetricError
from rankwell.evaluation.sample import Column, Floats, Sample, check_whole_number, group_rows, number_column

__all__ = ["CalibrationSums"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class CalibrationSums:
    """Sums over requests of what was predicted and what was observed, one of each a segment; spans add up.

    With p_q = Σ_{i∈q} w_i·p_i and y_q = Σ_{i∈q} w_i·y_i of request q, the residuals y_q − θ·p_q of any ratio θ have
    Σ (y_q − θ·p_q) = `observed_G` − θ·`predicted_G` and Σ (y_q − θ·p_q)² from the three products. Residuals are those
    of whole requests, because the clicks of one request depend on each other. A request must lie in one span: give
    spans whole requests, by the time of the request.

    Args:
        predicted_G: Σ p_q.
        observed_G: Σ y_q.
        predicted_squared_G: Σ p_q².
        product_G: Σ p_q·y_q.
        observed_squared_G: Σ y_q².
        num_requests_G: How many requests have weight.

    >>> sums = CalibrationSums.of([.2, .3, .5], [1, 1, 0], [1, 1, 1], request_C=[7, 7, 8])
    >>> sums.predicted_G.tolist(), sums.observed_G.tolist(), sums.residual_squared(1.0).round(6).tolist()  # 1.5² + .5²
    ([1.0], [2.0], [2.5])
    """

    predicted_G: Floats
    observed_G: Floats
    predicted_squared_G: Floats
    product_G: Floats
    observed_squared_G: Floats
    num_requests_G: Floats

    @classmethod
    def nothing(cls, num_segments: int = 1) -> Self:
        """The sums of no request."""
        num_segments = check_whole_number("num_segments", num_segments, at_least=1)
        return cls(*(np.zeros(num_segments) for _ in range(6)))

    @classmethod
    def of(
        cls,
        probabilities_C: Column,
        labels_C: Column,
        weights_C: Column,
        *,
        request_C: Column,
        segment_C: Column | None = None,
        num_segments: int = 1,
    ) -> Self:
        """The sums of some rows.

        Args:
            probabilities_C: In [0, 1].
            labels_C: 0 or 1.
            weights_C: At least 0.
            request_C: The request of each row.
            segment_C: The segment of each row, from 0; all in segment 0 by default.
            num_segments: How many segments there are, met or not: those of all spans must be the same.

        Raises:
            MetricError: The columns cannot be evaluated, or a segment is not in [0, num_segments).
        """
        sample = Sample.of(probabilities_C, labels_C, weights_C)
        num_segments = check_whole_number("num_segments", num_segments, at_least=1)
        requests = sample.groups("request_C", request_C)
        segment_kept_C = np.zeros(len(sample), dtype=np.int64)
        if segment_C is not None:
            given_C = number_column("segment_C", segment_C)
            segment_kept_C = (given_C if sample.kept_C is None else given_C[sample.kept_C]).astype(np.int64)
            bad_C = (segment_kept_C < 0) | (segment_kept_C >= num_segments)
            if bad_C.any():
                raise MetricError(
                    "a row lies in no segment", found=segment_kept_C[bad_C][:5].tolist(),
                    allowed=f"0 to {num_segments - 1}", do="give `num_segments` that covers all spans",
                )  # fmt: skip
        pairs = group_rows(segment_kept_C * max(len(requests), 1) + requests.index_C)
        predicted_Q = np.bincount(pairs.index_C, sample.weights_C * sample.probabilities_C, minlength=len(pairs))
        observed_Q = np.bincount(pairs.index_C, sample.weights_C * sample.labels_C, minlength=len(pairs))
        segment_Q = pairs.values_G.astype(np.int64) // max(len(requests), 1)

        def total(values_Q: Column) -> Floats:
            return np.bincount(segment_Q, np.asarray(values_Q), minlength=num_segments).astype(np.float64)

        return cls(
            total(predicted_Q), total(observed_Q), total(predicted_Q**2), total(predicted_Q * observed_Q),
            total(observed_Q**2), total(np.ones(len(pairs))),
        )  # fmt: skip

    def __add__(self, other: CalibrationSums) -> CalibrationSums:
        """The sums of both spans."""
        if self.predicted_G.shape != other.predicted_G.shape:
            raise MetricError(
                "sums of different segments do not add up",
                found=[len(self.predicted_G), len(other.predicted_G)],
                allowed="one number of segments",
            )
        return CalibrationSums(
            self.predicted_G + other.predicted_G,
            self.observed_G + other.observed_G,
            self.predicted_squared_G + other.predicted_squared_G,
            self.product_G + other.product_G,
            self.observed_squared_G + other.observed_squared_G,
            self.num_requests_G + other.num_requests_G,
        )

    @property
    def ratio_G(self) -> Floats:
        """The calibration ratio, predicted / observed; NaN where nothing was observed."""
        nan_G = np.full_like(self.observed_G, np.nan)
        return np.divide(self.predicted_G, self.observed_G, out=nan_G, where=self.observed_G > 0)

    def residual_squared(self, theta_G: Floats | float) -> Floats:
        """Σ_q (y_q − θ·p_q)², what Σ_q (y_q − θ·p_q) has gathered of variance if θ is the truth."""
        squared_G = self.observed_squared_G - 2 * theta_G * self.product_G + theta_G**2 * self.predicted_squared_G
        return np.maximum(squared_G, 0.0)  # but for rounding

    @property
    def dispersion_G(self) -> Floats:
        """By how much requests make the variance greater than that of independent rare clicks; NaN before any.

        ``Σ (y_q − p_q)² / Σ p_q``: 1 for independent clicks of weight 1 and small probabilities.
        """
        nan_G = np.full_like(self.predicted_G, np.nan)
        return np.divide(self.residual_squared(1.0), self.predicted_G, out=nan_G, where=self.predicted_G > 0)

"""Watching calibration pane after pane, without growing stale: an e-detector of Shiryaev and Roberts.

Letters: G segments · A alternatives.

A confidence sequence remembers everything: after twenty thousand good clicks it takes thousands of bad ones to move
it. The detector starts anew with every pane, all starts at once, so a month of quiet does not slow it down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
from scipy.special import logsumexp

from rankwell.errors import MetricError
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.evaluation.sample import Floats, check_whole_number

__all__ = ["CalibrationDetector", "CalibrationWatch"]

_WARM_UP: Final = 30.0
"""Clicks expected before evidence counts: until then nobody knows how much clicks of one request depend."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class CalibrationWatch:
    """Where a detector stands after the panes it has seen; nothing is changed in place.

    Args:
        log_evidence_AG: ln R of each alternative and segment; -∞ before the first pane that counts.
        sums: Of all panes so far: they say how much clicks of one request depend.
    """

    log_evidence_AG: Floats
    sums: CalibrationSums


@final
@dataclass(frozen=True, slots=True)
class CalibrationDetector:
    """Says when calibration is lost, with one false alarm in no less than so many panes.

    For each alternative θ = observed / predicted, ``R_t = (R_{t−1} + 1)·e_t`` with the likelihood ratio
    ``ln e_t = (O_t·ln θ − (θ − 1)·P_t) / φ`` of O_t clicks against P_t expected ones. φ ≥ 1 is the dispersion of the
    panes before, by requests. e_t is 1 in expectation where the probabilities are right, so R_t − t is a martingale and
    the mean over alternatives passes `panes_per_false_alarm` after no fewer panes on average.

    Args:
        panes_per_false_alarm: The promise: the mean number of panes until a false alarm of one segment. 2,880 panes of
            15 minutes are 30 days. With G segments watched, G times as much keeps the promise for all together.
        errors: Relative errors to be found soon, above 0, both ways: .1 stands for θ of 1.1 and of 1/1.1. Others are
            found, too, by the nearest.

    Raises:
        MetricError: A setting cannot be used.

    >>> detector = CalibrationDetector(panes_per_false_alarm=2880)
    >>> watch = detector.started()
    >>> labels_C = [1] * 25 + [0] * 475
    >>> for _ in range(50):
    ...     pane = CalibrationSums.of([.05] * 500, labels_C, [1] * 500, request_C=range(500))  # 25 of 25
    ...     watch = detector.after(watch, pane)
    >>> detector.alarms(watch).tolist()
    [False]
    >>> for _ in range(50):
    ...     pane = CalibrationSums.of([.06] * 500, labels_C, [1] * 500, request_C=range(500))  # 25 of 30
    ...     watch = detector.after(watch, pane)
    >>> detector.alarms(watch).tolist()
    [True]

    Source: Shin, Ramdas and Rinaldo 2024, "E-detectors: a nonparametric framework for sequential change detection",
    §2; Roberts 1966, "A comparison of some control chart procedures"; φ after Wedderburn 1974, quasi-likelihood.
    """

    panes_per_false_alarm: float
    errors: tuple[float, ...] = (0.1, 0.25, 1.0)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.panes_per_false_alarm) and self.panes_per_false_alarm > 1):
            raise MetricError(
                "the promise about false alarms cannot be kept", found=self.panes_per_false_alarm, allowed="panes, > 1"
            )
        if not self.errors or not all(math.isfinite(error) and error > 0 for error in self.errors):
            raise MetricError("there are no errors to look for", found=self.errors, allowed="numbers > 0, as (.1, .5)")

    @property
    def _log_theta_A(self) -> Floats:
        log_theta = np.log1p(np.array(self.errors))
        return np.concatenate([log_theta, -log_theta])

    def started(self, num_segments: int = 1) -> CalibrationWatch:
        """Before the first pane, or again after an alarm was dealt with."""
        check_whole_number("num_segments", num_segments, at_least=1)
        nothing_AG = np.full((2 * len(self.errors), num_segments), -np.inf)
        return CalibrationWatch(nothing_AG, CalibrationSums.nothing(num_segments))

    def after(self, watch: CalibrationWatch, pane: CalibrationSums) -> CalibrationWatch:
        """The watch after one more pane; it may hold nothing."""
        before, log_theta_A1 = watch.sums, self._log_theta_A[:, None]
        counts_G = before.predicted_G >= _WARM_UP
        dispersion_G = np.ones_like(before.predicted_G)
        dispersion_G[counts_G] = np.maximum(before.dispersion_G[counts_G], 1.0)
        log_ratio_AG = (log_theta_A1 * pane.observed_G - np.expm1(log_theta_A1) * pane.predicted_G) / dispersion_G
        started_AG = np.logaddexp(watch.log_evidence_AG, 0.0) + log_ratio_AG
        return replace(watch, log_evidence_AG=np.where(counts_G, started_AG, watch.log_evidence_AG), sums=before + pane)

    def log_evidence(self, watch: CalibrationWatch) -> Floats:
        """ln of the mean of R over the alternatives, by segment."""
        evidence_G: Floats = logsumexp(watch.log_evidence_AG, axis=0) - math.log(len(watch.log_evidence_AG))
        return evidence_G

    def alarms(self, watch: CalibrationWatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether the evidence has passed the promise, by segment."""
        return np.asarray(self.log_evidence(watch) >= math.log(self.panes_per_false_alarm))

    def likeliest_error(self, watch: CalibrationWatch) -> Floats:
        """Observed / predicted − 1 of the likeliest alternative, by segment: which way, and about how far."""
        theta_A = np.exp(self._log_theta_A)
        return np.asarray(theta_A[np.argmax(watch.log_evidence_AG, axis=0)] - 1)

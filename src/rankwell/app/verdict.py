"""The one sentence that a report begins with: may one bid on these probabilities?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, final

from rankwell.app.number_format import UNDEFINED, number
from rankwell.evaluation.report import Evaluation

__all__ = ["LARGEST_ECE", "RATIO_BOUNDS", "Finding", "Verdict", "verdict_of"]

RATIO_BOUNDS: Final = (0.97, 1.03)
"""The calibration ratios that one can still bid on: money is off by no more than this."""
LARGEST_ECE: Final = 0.01
"""The debiased ECE that one can still bid on."""

Finding = Literal["right", "close", "off", "undefined"]


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, in one line, and the numbers that say so.

    Args:
        finding: "right": no error can be shown beyond chance; "close": one can, but it is small; "off"; "undefined".
        headline: One line.
        evidence: The sentences behind it.
    """

    finding: Finding
    headline: str
    evidence: tuple[str, ...]


def verdict_of(evaluation: Evaluation, *, actions: str) -> Verdict:
    """Judge one set of predictions, by calibration ratio and ECE.

    Args:
        evaluation: Of the test split, as it would be served.
        actions: What was predicted, in the plural, as "clicks".

    Returns:
        "right" where 1 is inside the ratio's interval and ECE is within what chance alone shows in 95 % of test sets;
        else "close" where the ratio is within `RATIO_BOUNDS` and the debiased ECE at most `LARGEST_ECE`.
    """
    finding = _finding(evaluation)
    ratio = evaluation.calibration_ratio
    direction = "over-confident" if ratio > 1 else "under-confident"
    headline = {
        "right": "The probabilities are right, as far as this test split can tell.",
        "close": "The probabilities are close: their error is more than chance, and small.",
        "off": f"The probabilities are off ({direction}): do not bid on them yet."
        if _is_outside(ratio)
        else "The probabilities are off, though right on average: do not bid on them yet.",
        "undefined": f"No verdict: this test split holds too few {actions} to judge probabilities by.",
    }[finding]
    return Verdict(finding, headline, (_ratio_sentence(evaluation, actions), _ece_sentence(evaluation)))


def _is_outside(ratio: float) -> bool:
    return not RATIO_BOUNDS[0] <= ratio <= RATIO_BOUNDS[1]


def _finding(evaluation: Evaluation) -> Finding:
    ratio, interval, null = evaluation.calibration_ratio, evaluation.calibration_ratio_interval, evaluation.ece_null
    if any(map(math.isnan, (ratio, interval.low, interval.high, evaluation.ece, null.p95))):
        return "undefined"
    if interval.contains(1.0) and evaluation.ece <= null.p95:
        return "right"
    return "close" if not _is_outside(ratio) and evaluation.debiased_ece <= LARGEST_ECE else "off"


def _ratio_sentence(evaluation: Evaluation, actions: str) -> str:
    ratio, interval = evaluation.calibration_ratio, evaluation.calibration_ratio_interval
    if math.isnan(ratio):
        return f"The ratio of predicted to observed {actions} is {UNDEFINED}: none was observed."
    if math.isnan(interval.low):
        return f"Predicted {actions} are {number(ratio, 3)} of the observed; the interval is {UNDEFINED}."
    inside = "which contains 1" if interval.contains(1.0) else "which does not contain 1"
    return (
        f"On the test split predicted {actions} are {number(ratio, 3)} of the observed "
        f"({100 * interval.level:.0f}\u00a0% interval {number(interval.low, 3)} to {number(interval.high, 3)}, "
        f"{inside})."
    )


def _ece_sentence(evaluation: Evaluation) -> str:
    null = evaluation.ece_null
    if math.isnan(evaluation.ece):
        return f"ECE is {UNDEFINED}."
    return (
        f"ECE is {number(evaluation.ece, 4)}; a perfectly calibrated model would show {number(null.mean, 4)} by chance "
        f"alone, and up to {number(null.p95, 4)} in 95\u00a0% of test splits of this size."
    )

"""Label smoothing, and the way back: what a smoothed loss distorts is inverted exactly.

Letters in names: C candidates, flat over the batch.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from rankwell.errors import RecipeError

__all__ = ["check_epsilon", "smooth_labels", "undo_label_smoothing"]

_LARGEST_LOG_ODDS: Final = math.log((1.0 - 2.0**-53) / 2.0**-53)
"""Log-odds of the largest float64 below 1 (36.7): beyond it σ would round to 1."""


def smooth_labels(labels_C: Tensor, epsilon: float) -> Tensor:
    """Labels drawn towards one half: y ↦ y·(1 - ε) + ε/2.

    Args:
        labels_C: In [0, 1]; NaN stays NaN.
        epsilon: ε in [0, 1).

    Returns:
        Of the same shape and dtype, in [ε/2, 1 - ε/2].

    Raises:
        RecipeError: ε is outside [0, 1).

    >>> smooth_labels(torch.tensor([0.0, 1.0]), 0.1)
    tensor([0.0500, 0.9500])

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", §7, with two classes.
    """
    check_epsilon(epsilon)
    return labels_C * (1.0 - epsilon) + 0.5 * epsilon


def undo_label_smoothing(logits_C: Tensor, epsilon: float) -> Tensor:
    """The logits of the true labels, from the logits of a model trained on smoothed ones.

    Such a model learns q = p·(1 - ε) + ε/2, so p = (q - ε/2) / (1 - ε). In log-odds, with L = ln((2 - ε) / ε),
    the log-odds of the largest q there can be::

        z ↦ z + ln(1 - e^-(L + z)) - ln(1 - e^-(L - z)),   |z| < L

    which is odd, increasing and free of cancellation. A model may still say |z| ≥ L, which no truth explains; such a
    logit becomes ±36.7, the log-odds of the last float64 inside (0, 1).

    It belongs right behind the model, before any calibrator: calibrators are fitted on, and applied to, logits whose
    smoothing has been undone, and `train`'s ε is part of the model, not of the calibrator.

    Args:
        logits_C: Natural log-odds of the model, any real; NaN stays NaN.
        epsilon: ε in [0, 1), as in training; with 0 the logits come back as they are.

    Returns:
        float64 log-odds of p, of the same shape.

    Raises:
        RecipeError: ε is outside [0, 1).

    >>> q = smooth_labels(torch.tensor([0.03, 0.5], dtype=torch.float64), 0.1)  # what the model learns
    >>> torch.sigmoid(undo_label_smoothing(torch.logit(q), 0.1))
    tensor([0.0300, 0.5000], dtype=torch.float64)
    """
    check_epsilon(epsilon)
    logits_C = logits_C.double()
    if epsilon == 0.0:
        return logits_C
    limit = math.log((2.0 - epsilon) / epsilon)
    bounded_C = logits_C.clamp(-limit, limit)
    log_odds_C = bounded_C + _log_one_minus_exp(-limit - bounded_C) - _log_one_minus_exp(bounded_C - limit)
    return log_odds_C.clamp(-_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)


def check_epsilon(epsilon: float) -> None:
    """Refuse a strength of label smoothing that cannot be undone.

    Raises:
        RecipeError: ε is outside [0, 1).
    """
    if not 0.0 <= epsilon < 1.0:
        raise RecipeError("label smoothing cannot use this epsilon", found=epsilon, allowed="0 ≤ epsilon < 1")


def _log_one_minus_exp(x_C: Tensor) -> Tensor:
    """ln(1 - e^x) for x ≤ 0, to the last digits at both ends."""
    return torch.where(x_C > -math.log(2.0), torch.log(-torch.expm1(x_C)), torch.log1p(-torch.exp(x_C)))

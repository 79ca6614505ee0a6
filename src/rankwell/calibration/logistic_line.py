"""The most likely line t = a·z + b of true log-odds over logits, with a > 0.

Letters in names: C candidates, flat over the sample · P parameters, slope and offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from rankwell.calibration.sample import CalibrationSample
from rankwell.errors import CalibrationError

__all__ = ["PRIOR_ROWS", "most_likely_line"]

PRIOR_ROWS: Final = 1e-6
"""The strength of the prior on the line, in rows."""

_MAX_STEPS: Final = 200
_CONVERGED: Final = 1e-22
_BLOCK_ROWS: Final = 2**14
"""Rows looked at in one go: few enough for their intermediate results to stay in the cache."""

_Floats = NDArray[np.float64]


def most_likely_line(sample: CalibrationSample, *, through_origin: bool = False) -> tuple[float, float]:
    """The slope a > 0 and the offset b that minimise Σ w·ℓ(a·z + b, y) - λ·(ln a - a) + λ·c²/2.

    ℓ is binary cross-entropy, c = a·z̄ + b the log-odds at the weighted mean logit, λ = `PRIOR_ROWS` = 1e-6: a Gamma
    prior on the slope with its mode at 1 and a normal one on c, both of the strength of a millionth of a row. Where the
    sample determines the line they change nothing that could be measured. They decide where the likelihood has no
    single maximum with 0 < a < ∞: they keep a finite where the logits separate the labels, above 0 where they rank them
    the wrong way round, and at 1 where all are equal. So Σ w·σ(a·z + b) = Σ w·y up to λ·c rows, unless b is held at 0.

    Newton's method on centred logits, each step halved until the cost falls enough (Armijo); the cost is convex.

    Args:
        sample: Checked rows.
        through_origin: Hold b at 0.

    Returns:
        a and b.

    Raises:
        CalibrationError: No minimum was found, as with logits whose squares overflow.

    Source: Boyd and Vandenberghe 2004, "Convex optimization", §9.5.2, for the damped steps and when they end.
    """
    centre = 0.0
    if not through_origin:
        centre = float(torch.dot(sample.weights_C, sample.logits_C) / sample.weights_C.sum())
    centred_C = sample.logits_C - centre
    spread = float(torch.sqrt(torch.dot(sample.weights_C, centred_C * centred_C) / sample.weights_C.sum()))
    positives = float(torch.dot(sample.weights_C, sample.labels_C))
    negatives = float(torch.dot(sample.weights_C, 1.0 - sample.labels_C))
    if not math.isfinite(spread):
        raise _no_line(centre, spread)
    free = slice(0, 1) if through_origin else slice(0, 2)
    point_P = np.array([1.0 / max(1.0, spread), 0.0 if through_origin else math.log(positives / negatives)])
    blocks = [
        _Block(centred_C[rows], 2.0 * sample.labels_C[rows] - 1.0, sample.weights_C[rows])
        for rows in (slice(first, first + _BLOCK_ROWS) for first in range(0, len(centred_C), _BLOCK_ROWS))
    ]
    here = _cost_at(point_P, blocks)
    for _ in range(_MAX_STEPS):
        step_P = np.zeros(2)
        step_P[free] = -np.linalg.solve(here.curvature_PP[free, free], here.gradient_P[free])
        decrement = -float(here.gradient_P @ step_P)  # squared distance to the minimum, in standard errors
        if decrement <= _CONVERGED * max(1.0, float(sample.weights_C.sum())):
            slope, offset = point_P + step_P
            return float(slope), float(offset - slope * centre)
        length = 1.0 if step_P[0] > -0.99 * point_P[0] else -0.99 * point_P[0] / step_P[0]
        rounding = 1e-13 * abs(here.value)
        there = _cost_at(point_P + length * step_P, blocks)
        while there.value > here.value - 1e-4 * length * decrement + rounding and length > 1e-12:
            length *= 0.5
            there = _cost_at(point_P + length * step_P, blocks)
        point_P, here = point_P + length * step_P, there
    raise _no_line(centre, spread)


def _no_line(centre: float, spread: float) -> CalibrationError:
    return CalibrationError(
        "no most likely line was found",
        found=f"logits of mean {centre:g} and standard deviation {spread:g}",
        do="look at the logits: natural log-odds lie within a few hundred of 0",
    )


@final
@dataclass(frozen=True, slots=True)
class _Block:
    centred_C: Tensor
    signs_C: Tensor
    weights_C: Tensor


@final
@dataclass(frozen=True, slots=True)
class _Cost:
    value: float
    gradient_P: _Floats
    curvature_PP: _Floats


def _cost_at(point_P: _Floats, blocks: list[_Block]) -> _Cost:
    """The cost at (slope, offset), with its first and second derivatives, in one pass over the rows."""
    slope, offset = float(point_P[0]), float(point_P[1])
    sums = torch.zeros(6, dtype=torch.float64)
    for block in blocks:
        margin_C = block.signs_C * (block.centred_C * slope + offset)
        miss_C = torch.sigmoid(-margin_C)  # the probability of the other label: small ones keep their digits
        residual_C = -block.signs_C * block.weights_C * miss_C
        variance_C = block.weights_C * miss_C * torch.sigmoid(margin_C)
        leverage_C = variance_C * block.centred_C
        sums += torch.stack(
            [
                -torch.dot(block.weights_C, logsigmoid(margin_C)),
                torch.dot(residual_C, block.centred_C),
                residual_C.sum(),
                torch.dot(leverage_C, block.centred_C),
                leverage_C.sum(),
                variance_C.sum(),
            ]
        )
    value, by_slope, by_offset, slope_slope, slope_offset, offset_offset = sums.tolist()
    return _Cost(
        value=value + PRIOR_ROWS * (slope - math.log(slope) + 0.5 * offset**2),
        gradient_P=np.array([by_slope + PRIOR_ROWS * (1.0 - 1.0 / slope), by_offset + PRIOR_ROWS * offset]),
        curvature_PP=np.array(
            [[slope_slope + PRIOR_ROWS / slope**2, slope_offset], [slope_offset, offset_offset + PRIOR_ROWS]]
        ),
    )

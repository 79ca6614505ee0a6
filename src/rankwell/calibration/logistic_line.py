"""The most likely line t = a·z + b of true log-odds over logits, with a > 0.

Letters in names: C candidates, flat over the sample · P parameters: two slopes, of which a line has one, and an offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rankwell.calibration.logistic_minima import LogisticRows, Prior, logistic_minima
from rankwell.calibration.pane import LogitPane
from rankwell.calibration.sample import CalibrationSample
from rankwell.errors import CalibrationError

__all__ = ["PRIOR_ROWS", "most_likely_curve", "most_likely_line"]

PRIOR_ROWS: Final = 1e-6
"""The strength of the prior on the line, in rows."""

_MANY_ROWS: Final = 2**16

_Floats = NDArray[np.float64]


def most_likely_line(sample: CalibrationSample, *, through_origin: bool = False) -> tuple[float, float]:
    """The slope a > 0 and the offset b that minimise Σ w·ℓ(a·z + b, y) + λ·(a - ln a) + λ·c²/2.

    ℓ is binary cross-entropy, c = a·z̄ + b the log-odds at the weighted mean logit, λ = `PRIOR_ROWS` = 1e-6: a Gamma
    prior on the slope with its mode at 1 and a normal one on c, both of the strength of a millionth of a row. Where the
    sample determines the line they change nothing that could be measured. They decide where the likelihood has no
    single maximum with 0 < a < ∞: they keep a finite where the logits separate the labels, above 0 where they rank them
    the wrong way round, and at 1 where all are equal. So Σ w·σ(a·z + b) = Σ w·y up to λ·c rows, unless b is held at 0.

    Args:
        sample: Checked rows.
        through_origin: Hold b at 0.

    Returns:
        a and b.

    Raises:
        CalibrationError: No minimum was found, as with logits whose squares overflow.
    """
    slope, _, offset = _most_likely(sample, _line_terms, through_origin=through_origin)
    return slope, offset


def most_likely_curve(sample: CalibrationSample) -> tuple[float, float, float]:
    """The a, b > 0 and c that minimise Σ w·ℓ(a·ln p - b·ln(1 - p) + c, y), p = σ(z), with the prior of a line on each.

    Args:
        sample: Checked rows.

    Returns:
        a, b and c.

    Raises:
        CalibrationError: No minimum was found, as with logits whose squares overflow.
    """
    return _most_likely(sample, _curve_terms, through_origin=False)


def _line_terms(logits_C: _Floats) -> tuple[_Floats, None]:
    return logits_C, None


def _curve_terms(logits_C: _Floats) -> tuple[_Floats, _Floats]:
    """ln p and -ln(1 - p)."""
    rounded_C = np.log1p(np.exp(-np.abs(logits_C)))  # -ln of the likelier label's probability
    return np.minimum(logits_C, 0.0) - rounded_C, np.maximum(logits_C, 0.0) + rounded_C


def _most_likely(
    sample: CalibrationSample, terms: Callable[[_Floats], tuple[_Floats, _Floats | None]], *, through_origin: bool
) -> tuple[float, float, float]:
    """a, b and c of a·x + b·y + c, with x and y the terms of the logits; b is 1 and means nothing where there is no y.

    With many rows it begins where the few of their pane end, and has two or three steps to go instead of ten.
    """
    x_C, y_C = terms(sample.logits_C.numpy())
    weights_C = sample.weights_C.numpy()
    total = float(weights_C.sum())
    centres, spreads, centred = [], [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for values_C in (x_C,) if y_C is None else (x_C, y_C):
            centre = 0.0 if through_origin else float(weights_C @ values_C) / total
            centred_C = values_C - centre if centre else values_C
            centres.append(centre)
            spreads.append(math.sqrt(float(np.einsum("c,c,c", weights_C, centred_C, centred_C)) / total))
            centred.append(centred_C)
    nothing_C = np.broadcast_to(np.zeros(1), x_C.shape)
    if y_C is None:
        centres, spreads, centred = [*centres, 0.0], [*spreads, 0.0], [*centred, nothing_C]
    if not all(map(math.isfinite, spreads)):
        raise _no_line(centres[0], spreads[0])
    rows = LogisticRows(
        x_C=centred[0],
        y_C=centred[1],
        known_C=nothing_C,
        positive_C=sample.labels_C.numpy() == 1.0,
        weights_C=weights_C,
        bounds_G=np.array([0, len(x_C)]),
    )
    if len(x_C) > _MANY_ROWS:
        pane = LogitPane.of_sample(replace(sample, segments_CS=sample.segments_CS[:, :0]))
        a, b, c = _most_likely(CalibrationSample(*pane.rows()), terms, through_origin=through_origin)
        start_P = np.array([a, b, c + a * centres[0] + b * centres[1]])
    else:
        positives = float(weights_C @ sample.labels_C.numpy())
        offset = 0.0 if through_origin else math.log(positives / (total - positives))
        start_P = np.array([*(1.0 / max(1.0, spread) for spread in spreads), offset])
    free_P = np.array([True, y_C is not None, not through_origin])
    minimum = logistic_minima(rows, Prior(PRIOR_ROWS, PRIOR_ROWS), start_P[None], free_P)
    if not minimum.found_G[0]:
        raise _no_line(centres[0], spreads[0])
    a, b, c = minimum.points_GP[0].tolist()
    return a, b, c - a * centres[0] - b * centres[1]


def _no_line(centre: float, spread: float) -> CalibrationError:
    return CalibrationError(
        "no most likely line was found",
        found=f"logits of mean {centre:g} and standard deviation {spread:g}",
        do="look at the logits: natural log-odds lie within a few hundred of 0",
    )

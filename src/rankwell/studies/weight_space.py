"""The diamond and the circle, in the space of two weights of a logistic model fitted to a log with known effects.

Letters: N rows of the log · D = 2 features.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from rankwell.studies.chart import Chart, Contours, Line, Panel
from rankwell.studies.study import StudyResult

__all__ = ["penalised_weights", "study_weight_space"]

Floats = NDArray[np.float64]
_CORRELATION: Final = 0.6
_TRUE: Final = (1.0, 0.12)
_STRENGTHS: Final = (0.0, *np.geomspace(1e-3, 1.0, 60).tolist())
_NUM_ITERATIONS: Final = 2000


def study_weight_space(*, seed: int, num_rows: int) -> StudyResult:
    """Loss over two weights of correlated features, one strong and one weak, and where L1 and L2 lead as they grow.

    Args:
        seed: Of the log.
        num_rows: Of it.
    """
    features_ND, labels_N = _log(seed, num_rows)
    paths = {p: np.array([penalised_weights(features_ND, labels_N, p, s) for s in _STRENGTHS]) for p in ("l1", "l2")}
    free = paths["l1"][0]
    # the strength at which each leaves 60 % of the free fit's length, by its own measure
    touch_l1 = _at_size(paths["l1"], np.abs(paths["l1"]).sum(1), 0.6)
    touch_l2 = _at_size(paths["l2"], np.linalg.norm(paths["l2"], axis=1), 0.6)
    first_zero = next((s for s, w in zip(_STRENGTHS, paths["l1"], strict=True) if w[1] == 0.0), float("nan"))
    num_zero = {p: int((path[1:] == 0).any(axis=1).sum()) for p, path in paths.items()}
    x, y = np.linspace(-0.75, 1.35, 61), np.linspace(-0.75, 0.75, 51)
    z = np.array([[_loss(features_ND, labels_N, np.array([a, b])) for a in x] for b in y])
    least = _loss(features_ND, labels_N, free)
    chart = Chart(
        name="weight-space",
        title="The diamond and the circle",
        caption="Contours of the log loss over two weights of correlated features, one that matters much and one that "
        "matters little. The dots are the best weights as the penalty grows, from the free fit down to 0. A budget for "
        "the penalty is a region: the loss is least where a contour first touches it. The diamond is touched at its "
        "corner, where a weight is exactly 0; the circle has no corners.",
        description="Loss contours, with an L1 diamond touched at its corner and an L2 circle touched off the axes.",
        panels=(
            _panel("L1: |w₁| + |w₂| within a budget", paths["l1"], touch_l1, _diamond(touch_l1), x, y, z, least),
            _panel("L2: w₁² + w₂² within a budget", paths["l2"], touch_l2, _circle(touch_l2), x, y, z, least),
        ),
        height=3.9,
    )  # fmt: skip
    numbers = {
        "free/strong": float(free[0]), "free/weak": float(free[1]), "l1_strength_of_first_zero": float(first_zero),
        "l1/zeros_on_path": float(num_zero["l1"]), "l2/zeros_on_path": float(num_zero["l2"]),
        "l1/touch/strong": float(touch_l1[0]), "l1/touch/weak": float(touch_l1[1]),
        "l2/touch/strong": float(touch_l2[0]), "l2/touch/weak": float(touch_l2[1]),
    }  # fmt: skip
    finding = (
        f"Diamond and circle: the weak weight is {free[1]:.3f} without a penalty; under L1 it is exactly 0 from "
        f"strength {first_zero:.2g} on, at {num_zero['l1']} of {len(_STRENGTHS) - 1} strengths; under L2 at "
        f"{num_zero['l2']}, where it is {touch_l2[1]:.3f} with the whole shrunk to 60 %."
    )
    return StudyResult("weight-space", (), finding, numbers, (chart,))


def _log(seed: int, num_rows: int) -> tuple[Floats, Floats]:
    draws = np.random.default_rng(seed)
    first_N, second_N = draws.standard_normal((2, num_rows))
    features_ND = np.stack([first_N, _CORRELATION * first_N + np.sqrt(1 - _CORRELATION**2) * second_N], axis=1)
    labels_N = (draws.random(num_rows) < 1 / (1 + np.exp(-features_ND @ np.array(_TRUE)))).astype(np.float64)
    return features_ND, labels_N


def _loss(features_ND: Floats, labels_N: Floats, weights_D: Floats) -> float:
    logits_N = features_ND @ weights_D
    return float(np.mean(np.logaddexp(0, logits_N) - labels_N * logits_N))


def penalised_weights(
    features_ND: Floats, labels_N: Floats, penalty: Literal["l1", "l2"] | str, strength: float
) -> Floats:
    """argmin of the mean log loss + strength · Σ|w| ("l1") or + strength / 2 · Σw² ("l2"), by proximal gradient.

    >>> x, y = np.array([[1.0], [1.0], [-1.0], [1.0]]), np.array([1.0, 1.0, 0.0, 0.0])
    >>> penalised_weights(x, y, "l1", 0.3).tolist()  # the slope at 0 is a quarter
    [0.0]
    >>> penalised_weights(x, y, "l1", 0.0).round(4).tolist()  # three of four agree: ln 3
    [1.0986]
    """
    weights_D = np.zeros(features_ND.shape[1])
    step = 4.0 / max(float(np.linalg.eigvalsh(features_ND.T @ features_ND / len(features_ND))[-1]), 1e-12)
    for _ in range(_NUM_ITERATIONS):
        slope_D = features_ND.T @ (1 / (1 + np.exp(-features_ND @ weights_D)) - labels_N) / len(labels_N)
        moved_D = weights_D - step * slope_D
        if penalty == "l1":
            moved_D = np.sign(moved_D) * np.maximum(np.abs(moved_D) - step * strength, 0)
        else:
            moved_D = moved_D / (1 + step * strength)
        if np.abs(moved_D - weights_D).max() < 1e-10:
            return moved_D
        weights_D = moved_D
    return weights_D


def _at_size(path: Floats, sizes: Floats, share: float) -> Floats:
    nearest: Floats = path[np.abs(sizes - share * sizes[0]).argmin()]
    return nearest


def _diamond(touch: Floats) -> Floats:
    size = np.abs(touch).sum()
    corners: Floats = size * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    return corners


def _circle(touch: Floats) -> Floats:
    angles = np.linspace(0, 2 * np.pi, 121)
    return float(np.linalg.norm(touch)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _panel(
    title: str, path: Floats, touch: Floats, region: Floats, x: Floats, y: Floats, z: Floats, least: float
) -> Panel:
    levels = (least + np.array([0.001, 0.004, 0.01, 0.02, 0.04, 0.08, 0.14])).tolist()
    return Panel(
        title=title, x_label="weight of the feature that matters", y_label="weight of the other", is_square=True,
        lines=(
            Line(name="budget", x=region[:, 0].tolist(), y=region[:, 1].tolist(), style="outline"),
            Line(name="best weights as the penalty grows", x=path[:, 0].tolist(), y=path[:, 1].tolist(), style="dots"),
            Line(name="best within the budget", x=[float(touch[0])], y=[float(touch[1])], style="dots"),
        ),
        contours=Contours(x=x.tolist(), y=y.tolist(), z=z.tolist(), levels=levels),
    )  # fmt: skip

"""A log small enough to learn in a second, and true enough to judge by: Zipf ids whose effects are known.

Letters: N rows of the log · I ids · W columns of an id's row · D dense features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import RecipeError

__all__ = ["Drift", "ZipfLog", "ZipfSettings", "draw_zipf_log"]

Floats = NDArray[np.float64]
Drift = Literal["still", "switch", "walk"]
_NUM_STOPS: Final = 50


@final
@dataclass(frozen=True, kw_only=True)
class ZipfSettings:
    """What to draw.

    Args:
        num_rows: Of the log, each with one id.
        num_ids: Possible ones; the share of the k-th most frequent is proportional to 1 / k^exponent.
        exponent: > 0.
        scales: Of the columns that an id's row is multiplied with; the first column is the constant 1 times its scale.
        dense_scales: Of the dense features.
        effect_sd: Standard deviation of what one column of a row adds to the logit.
        zero_rate: Share of ids with no effect at all.
        drift: "still"; "switch": half-way all effects are drawn again; "walk": they move a little every now and then,
            as far in all as a switch.

    Raises:
        RecipeError: A setting is out of range.
    """

    num_rows: int = 200_000
    num_ids: int = 20_000
    exponent: float = 1.05
    scales: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    dense_scales: tuple[float, ...] = ()
    effect_sd: float = 0.7
    zero_rate: float = 0.0
    drift: Drift = "still"

    def __post_init__(self) -> None:
        if self.num_rows < 2 or self.num_ids < 1 or not self.scales:
            raise RecipeError(
                "a Zipf log has rows, ids and columns", found=(self.num_rows, self.num_ids, len(self.scales))
            )
        if not 0 <= self.zero_rate < 1 or not 0 < self.exponent < math.inf:
            raise RecipeError(
                "zero_rate or exponent is out of range", found=(self.zero_rate, self.exponent), allowed="[0, 1), > 0"
            )


@final
@dataclass(frozen=True, eq=False, slots=True)
class ZipfLog:
    """A log and its truth: logit = Σ_w effect[id, w] · column_w + Σ_d dense_effect_d · dense_d - 1.

    Args:
        id_N: int64, 0 is the most frequent.
        columns_NW: float32, what the row of the id is multiplied with.
        dense_ND: float32.
        labels_N: 0 or 1.
        true_N: The true probabilities.
        effects_IW: The true rows at the end of the log.
        dense_effects_D: The true dense weights.
        scales_W: Of the columns.
        dense_scales_D: Of the dense features.
    """

    id_N: NDArray[np.int64]
    columns_NW: NDArray[np.float32]
    dense_ND: NDArray[np.float32]
    labels_N: NDArray[np.float32]
    true_N: Floats
    effects_IW: Floats
    dense_effects_D: Floats
    scales_W: Floats
    dense_scales_D: Floats

    def __len__(self) -> int:
        return len(self.id_N)

    def error_by_id(self, rows_IW: NDArray[np.floating]) -> Floats:
        """Mean square over W of what a learnt row gets wrong of the logit, one number an id."""
        error_I: Floats = np.square((rows_IW - self.effects_IW) * self.scales_W).mean(axis=1)
        return error_I

    def truth_log_loss(self) -> Floats:
        """What the true probabilities lose on the labels, row by row, in nats."""
        p_N = np.where(self.labels_N > 0, self.true_N, 1 - self.true_N)
        loss_N: Floats = -np.log(p_N)
        return loss_N


def draw_zipf_log(settings: ZipfSettings, *, seed: int, fresh: int = 0) -> ZipfLog:
    """Draw one.

    Args:
        settings: What to draw.
        seed: Of all that is drawn, ≥ 0.
        fresh: Other numbers give other rows of the same truth: what is held out.

    >>> log, held_out = (draw_zipf_log(ZipfSettings(num_rows=9, num_ids=3), seed=1, fresh=f) for f in (0, 1))
    >>> bool((log.effects_IW == held_out.effects_IW).all()), bool((log.columns_NW == held_out.columns_NW).all())
    (True, False)
    """
    truth, draws = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1, fresh))
    n, width = settings.num_rows, len(settings.scales)
    scales_W, dense_scales_D = np.array(settings.scales), np.array(settings.dense_scales)
    share_I = 1.0 / np.arange(1, settings.num_ids + 1) ** settings.exponent
    id_N = np.minimum(
        np.searchsorted(np.cumsum(share_I) / share_I.sum(), draws.random(n)), settings.num_ids - 1
    ).astype(np.int64)  # fmt: skip
    columns_NW = draws.standard_normal((n, width)) * scales_W
    columns_NW[:, 0] = scales_W[0]
    dense_ND = draws.standard_normal((n, len(dense_scales_D))) * dense_scales_D
    has_effect_I = truth.random(settings.num_ids) >= settings.zero_rate

    def effects() -> Floats:
        normal_IW = truth.standard_normal((settings.num_ids, width))
        drawn_IW: Floats = normal_IW * (settings.effect_sd * has_effect_I[:, None]) / scales_W
        return drawn_IW

    dense_effects_D = truth.standard_normal(len(dense_scales_D)) * settings.effect_sd / np.maximum(dense_scales_D, 1e-9)
    if len(dense_scales_D):
        dense_effects_D /= math.sqrt(len(dense_scales_D))
    now_IW = effects()
    logit_N = dense_ND @ dense_effects_D - 1.0
    num_stops = {"still": 1, "switch": 2, "walk": _NUM_STOPS}[settings.drift]
    # a walk whose correlation from end to end is that of a coin's toss in the middle of a switch: near none
    kept = {"still": 1.0, "switch": 0.0, "walk": 0.01 ** (1 / (_NUM_STOPS - 1))}[settings.drift]
    for stop, rows in enumerate(np.array_split(np.arange(n), num_stops)):
        if stop:
            now_IW = kept * now_IW + math.sqrt(1 - kept**2) * effects()
        logit_N[rows] += (now_IW[id_N[rows]] * columns_NW[rows]).sum(axis=1)
    true_N = 1 / (1 + np.exp(-logit_N))
    labels_N = (draws.random(n) < true_N).astype(np.float32)
    return ZipfLog(
        id_N, columns_NW.astype(np.float32), dense_ND.astype(np.float32), labels_N, true_N, now_IW, dense_effects_D,
        scales_W, dense_scales_D,
    )  # fmt: skip

"""How far the log-odds of each segment are to be shifted until its clicks come out right: little, late, and not at all
where nothing is wrong.

Letters: G segments.

**Everything is relative to the probabilities without any correction.** A window holds rows that were served under
several offsets, and their plain ratio belongs to none of them: it would be corrected twice. Each span is brought back
by its own offset first, and then spans add up. So labels that come late cost nothing but time, and an update changes no
evidence. The other sound way, to use no rows but those that were served under the correction in force,
begins anew with each update, and would have nothing to go by for as long as labels take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.errors import MitigationError
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.monitoring.probability_grid import ProbabilityGrid
from rankwell.serving.correction import LARGEST_OFFSET

__all__ = ["BiasCorrection", "NeededOffsets", "ServedSpan", "needed_offsets"]

_Floats = NDArray[np.float64]
_Booleans = NDArray[np.bool_]

_HALF: Final = 0.5
"""Of a click, promised and observed alike, so that segments without any have a logarithm."""
_FARTHEST: Final = 20.0
_NUM_STEPS: Final = 60
_FEWEST_FOR_PARENT: Final = 4
_MOST_OF_ONE: Final = 1 / 3
_AGREEING: Final = 2 / 3
_LEAST_ALIKE: Final = 0.5
"""Of the parent: who is off by less than half as much, or by more than twice, is not off with the others."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class ServedSpan:
    """Rows that were all served under the same offsets.

    Args:
        offsets_G: In force when they were served, in log-odds; 0 where there was none.
        sums: Of the rows whose labels are known, with the probabilities as they were served: exposed rows, no other.
        grid: The probabilities of the same rows, as they were served.
    """

    offsets_G: _Floats
    sums: CalibrationSums
    grid: ProbabilityGrid

    def moved(self, offset_G: _Floats) -> tuple[_Floats, _Floats]:
        """What the rows would have promised under another offset in the place of theirs, and its slope."""
        return self.grid.moved(offset_G - self.offsets_G)

    def uncorrected(self) -> CalibrationSums:
        """The sums as if nothing had been corrected: all that was promised, scaled as its total is."""
        sums = self.sums
        expected_G, _ = self.moved(np.zeros_like(self.offsets_G))
        scale_G = np.divide(expected_G, sums.predicted_G, out=np.ones_like(expected_G), where=sums.predicted_G > 0)
        return CalibrationSums(
            sums.predicted_G * scale_G, sums.observed_G, sums.predicted_squared_G * scale_G**2,
            sums.product_G * scale_G, sums.observed_squared_G, sums.num_requests_G,
        )  # fmt: skip


@final
@dataclass(frozen=True, slots=True, eq=False)
class NeededOffsets:
    """What the uncorrected probabilities of each segment lack, and how sure that is.

    Args:
        needed_G: Log-odds; 0 where there is nothing to go by.
        noise_G: Its standard error; infinite where there is nothing to go by.
        z_G: How many standard errors clicks are from what was expected if nothing is lacking.
    """

    needed_G: _Floats
    noise_G: _Floats
    z_G: _Floats


def needed_offsets(spans: Sequence[ServedSpan]) -> NeededOffsets:
    """The offset of each segment by itself: that under which its rows would have promised the clicks they got.

    It is the root δ of ``Σ σ(z + δ) = O`` over all rows, z the log-odds without a correction and O the clicks, half a
    click added to what is promised and to what was observed. Its error is √v over the slope ``Σ p·(1 − p)`` at δ, with
    v = Σ_q (y_q − p_q)² of whole requests, whose clicks depend on each other, and not less than of independent ones.

    Args:
        spans: Of one list of segments.

    Raises:
        MitigationError: There is none.

    >>> def span(p, offset):  # 5,000 rows with 100 clicks
    ...     p_C, clicks_C = [p] * 5000, [1] * 100 + [0] * 4900
    ...     sums = CalibrationSums.of(p_C, clicks_C, [1] * 5000, request_C=range(5000))
    ...     grid = ProbabilityGrid.of(p_C, segment_C=[0] * 5000, num_segments=1)
    ...     return ServedSpan(np.array([offset]), sums, grid)
    >>> needed_offsets([span(.04, 0.0)]).needed_G.round(2).tolist()  # ln(.02 / .98) − ln(.04 / .96), and half a click
    [-0.71]
    >>> needed_offsets([span(.04, 0.0), span(.02, -.71)]).needed_G.round(2).tolist()  # and not -.41, ln(200 / 300)
    [-0.71]
    """
    if not spans:
        raise MitigationError("there are no spans to go by", allowed="one at least, whose sums may be empty")
    total = spans[0].uncorrected()
    for span in spans[1:]:
        total = total + span.uncorrected()
    nothing_G = np.zeros_like(total.predicted_G)
    expected_G, slope_now_G = _promised(spans, nothing_G)
    is_promised_G = expected_G > 0
    share_G = 1 + _HALF / np.where(is_promised_G, expected_G, 1.0)  # half a click more, of rows like the segment's own
    observed_G = total.observed_G + _HALF
    low_G, high_G = nothing_G - _FARTHEST, nothing_G + _FARTHEST
    for _ in range(_NUM_STEPS):
        middle_G = (low_G + high_G) / 2
        is_short_G = _promised(spans, middle_G)[0] * share_G < observed_G
        low_G, high_G = np.where(is_short_G, middle_G, low_G), np.where(is_short_G, high_G, middle_G)
    needed_G = np.where(is_promised_G & (slope_now_G > 0), (low_G + high_G) / 2, 0.0)
    slope_G = _promised(spans, needed_G)[1] * share_G
    residual_squared_G = total.residual_squared(observed_G / (expected_G + _HALF))
    spread_G = np.sqrt(np.maximum(residual_squared_G, slope_G))
    has_slope_G = is_promised_G & (slope_now_G > 0) & (slope_G > 0)
    noise_G = np.divide(spread_G, slope_G, out=nothing_G + math.inf, where=has_slope_G)
    spread_now_G = np.sqrt(np.maximum(total.residual_squared(1.0), slope_now_G))
    z_G = np.divide(total.observed_G - expected_G, spread_now_G, out=nothing_G.copy(), where=spread_now_G > 0)
    return NeededOffsets(needed_G, noise_G, z_G)


def _promised(spans: Sequence[ServedSpan], offset_G: _Floats) -> tuple[_Floats, _Floats]:
    """Σ p and Σ p·(1 − p) of all spans under one offset."""
    moved = [span.moved(offset_G) for span in spans]
    return np.sum([p_G for p_G, _ in moved], axis=0), np.sum([slope_G for _, slope_G in moved], axis=0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BiasCorrection:
    """From what is needed to what is applied next: shrunk, in steps, within bounds, and 0 where nothing is wrong.

    A segment is taken to be off where its z passes the gate. All others read 0, or, where two thirds of all segments
    agree that the whole world has moved, the parent: the median of them all. Those that are off are shrunk towards it
    by τ² / (τ² + noise²), τ² what they scatter beyond their noise (empirical Bayes by moments; of one segment alone,
    the positive part of James and Stein).

    Args:
        largest_offset: Of a segment, in log-odds.
        largest_step: From one update to the next: what multiplies odds by 4 is undone in one.
        gate: z of a segment that no alarm names.
        gate_accused: z of one that an alarm names: the alarm has evidence of its own.
        gate_held: z below which an offset in force has lost its reason; one to the other side would be a new one.
        smallest: Offsets below it are 0: an error that is put up with.

    Raises:
        MitigationError: A setting is out of range.

    >>> correction = BiasCorrection(largest_step=0.5)
    >>> needed = NeededOffsets(np.array([-1.1, 0.05]), np.array([0.1, 0.05]), np.array([-9.0, 1.0]))
    >>> first_G = correction.next_offsets(needed, np.zeros(2), np.array([True, False]))
    >>> second_G = correction.next_offsets(needed, first_G, np.array([True, False]))
    >>> third_G = correction.next_offsets(needed, second_G, np.array([True, False]))
    >>> [offsets_G.round(2).tolist() for offsets_G in (first_G, second_G, third_G)]
    [[-0.5, 0.0], [-1.0, 0.0], [-1.09, 0.0]]

    Source: James and Stein 1961, "Estimation with quadratic loss"; DerSimonian and Laird 1986, "Meta-analysis in
    clinical trials", for τ².
    """

    largest_offset: float = LARGEST_OFFSET
    largest_step: float = 1.5
    gate: float = 4.0
    gate_accused: float = 3.0
    gate_held: float = 1.5
    smallest: float = 0.05

    def __post_init__(self) -> None:
        for name, most in (("largest_offset", LARGEST_OFFSET), ("largest_step", math.inf), ("smallest", math.inf)):
            value = getattr(self, name)
            if not 0 < value <= most:
                raise MitigationError(f"`{name}` is no bound", found=value, allowed=f"(0, {most}]")
        if self.smallest > self.largest_step:
            raise MitigationError("no step would be left", found=self.smallest, allowed="smallest ≤ largest_step")
        if not 0 < self.gate_held <= self.gate_accused <= self.gate:
            raise MitigationError(
                "the gates are out of order", found=(self.gate_held, self.gate_accused, self.gate),
                allowed="0 < gate_held ≤ gate_accused ≤ gate",
            )  # fmt: skip

    def targets(self, needed: NeededOffsets, in_force_G: _Floats, accused_G: _Booleans) -> _Floats:
        """Where the offsets are to go, whatever the steps.

        Args:
            needed: By segment.
            in_force_G: The offsets now, as far as they have a claim to stay.
            accused_G: Whether an alarm names the segment.
        """
        gate_G = np.where(accused_G, self.gate_accused, self.gate)
        gate_G = np.where(in_force_G * needed.needed_G > 0, np.minimum(gate_G, self.gate_held), gate_G)
        parent = self._parent(needed)
        from_parent_G = needed.needed_G - parent
        z_parent_G = from_parent_G / needed.noise_G if parent else needed.z_G
        is_apart_G, is_off_G = np.abs(z_parent_G) >= gate_G, np.abs(needed.z_G) >= gate_G
        off_G = is_apart_G & is_off_G & np.isfinite(needed.noise_G)
        target_G = np.where(is_apart_G, 0.0, parent)
        if off_G.any():
            noise_squared_G = needed.noise_G[off_G] ** 2
            weights_G, beyond_G = 1 / noise_squared_G, from_parent_G[off_G] ** 2 - noise_squared_G
            tau_squared = max(float((weights_G * beyond_G).sum() / weights_G.sum()), 0.0)
            target_G[off_G] = parent + from_parent_G[off_G] * tau_squared / (tau_squared + noise_squared_G)
        target_G[np.abs(target_G) < self.smallest] = 0.0
        return np.clip(target_G, -self.largest_offset, self.largest_offset)

    def next_offsets(self, needed: NeededOffsets, in_force_G: _Floats, accused_G: _Booleans) -> _Floats:
        """The offsets to be applied next: one step nearer to `targets`, and 0 on the way back once they are small."""
        target_G = self.targets(needed, in_force_G, accused_G)
        return self.stepped(target_G, in_force_G)

    def stepped(self, target_G: _Floats, in_force_G: _Floats) -> _Floats:
        """One step from the offsets in force towards a target."""
        next_G = in_force_G + np.clip(target_G - in_force_G, -self.largest_step, self.largest_step)
        next_G[np.abs(next_G) < self.smallest] = 0.0
        return np.clip(next_G, -self.largest_offset, self.largest_offset)

    def _parent(self, needed: NeededOffsets) -> float:
        """The median of the segments, weighted by 1 / noise, if it is no chance, and no matter of some of them; else 0.

        Its variance is π/2 / Σ noise⁻², that of a weighted median of normal numbers.
        """
        is_known_G = np.isfinite(needed.noise_G)
        values_G, weights_G = needed.needed_G[is_known_G], 1 / needed.noise_G[is_known_G]
        if len(values_G) < _FEWEST_FOR_PARENT or weights_G.max() > _MOST_OF_ONE * weights_G.sum():
            return 0.0
        order_G = np.argsort(values_G)
        middle = np.searchsorted(np.cumsum(weights_G[order_G]), weights_G.sum() / 2)
        parent = float(values_G[order_G][middle])
        noise = math.sqrt(math.pi / 2 / float((weights_G**2).sum()))
        times_G = values_G / parent if parent else values_G * 0.0
        agreeing = float(weights_G[(times_G > _LEAST_ALIKE) & (times_G < 1 / _LEAST_ALIKE)].sum())
        is_sure = abs(parent) > self.gate * noise and agreeing >= _AGREEING * weights_G.sum()
        return parent if is_sure else 0.0

"""How far the log-odds of each segment are to be shifted until its clicks come out right: little, late, and not at all
where nothing is wrong.

Letters: G segments · N cells of a pane.

**Everything is relative to the probabilities without any correction.** A window holds rows that were served under
several offsets, and their plain ratio belongs to none of them: it would be corrected twice. Each span of one offset o
is brought back by e^-o first, and then spans add up. So labels that come late cost nothing but time, and an update
changes no evidence. The other sound way, to use no rows but those that were served under the correction in force,
begins anew with each update, and would have nothing to go by for as long as labels take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rankwell.calibration.pane import LogitPane
from rankwell.errors import MitigationError
from rankwell.evaluation.calibration_sums import CalibrationSums
from rankwell.serving.correction import LARGEST_OFFSET

__all__ = ["BiasCorrection", "NeededOffsets", "ServedSpan", "needed_offsets", "root_offset", "with_roots"]

_Floats = NDArray[np.float64]
_Booleans = NDArray[np.bool_]

_HALF: Final = 0.5
"""Of a click, added to both sides, so that segments without any have a logarithm."""
_LARGEST_P: Final = 0.999
_FEWEST_FOR_PARENT: Final = 4
_MOST_OF_ONE: Final = 1 / 3
_AGREEING: Final = 2 / 3
_NUM_STEPS: Final = 60


@final
@dataclass(frozen=True, slots=True, eq=False)
class ServedSpan:
    """Rows that were all served under the same offsets.

    Args:
        offsets_G: In force when they were served, in log-odds; 0 where there was none.
        sums: Of the rows whose labels are known, with the probabilities as they were served: exposed rows, no other.
        squares_G: Σ w·p² over the same rows, not over requests as in the sums; None where nobody counted it.
    """

    offsets_G: _Floats
    sums: CalibrationSums
    squares_G: _Floats | None = None

    def uncorrected(self) -> tuple[CalibrationSums, _Floats]:
        """The sums as if nothing had been corrected, and how many rows of one probability each segment is like.

        With the sum of squares a segment is taken to be n = (Σ p)² / Σ p² rows of p̃ = Σ p² / Σ p, which have the same
        sum and, at the offset in force, the same slope; without it, infinitely many of a small one. Then p̃ loses the
        offset in log-odds, and all its sums are scaled alike. It is exact where probabilities are equal, or small, or
        where the offset in force is the one that is needed.
        """
        sums, nothing_G = self.sums, np.zeros_like(self.sums.predicted_G)
        if self.squares_G is None:
            scale_G, rows_G = np.exp(-self.offsets_G), np.full_like(nothing_G, np.inf)
        else:
            typical_G = np.divide(self.squares_G, sums.predicted_G, out=nothing_G, where=sums.predicted_G > 0)
            typical_G = np.minimum(typical_G, _LARGEST_P)
            scale_G = 1 / (typical_G + (1 - typical_G) * np.exp(self.offsets_G))
            rows_G = np.divide(sums.predicted_G, typical_G, out=np.zeros_like(typical_G), where=typical_G > 0)
        scaled = CalibrationSums(
            sums.predicted_G * scale_G, sums.observed_G, sums.predicted_squared_G * scale_G**2,
            sums.product_G * scale_G, sums.observed_squared_G, sums.num_requests_G,
        )  # fmt: skip
        return scaled, rows_G


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
    """The offset of each segment by itself, from sums.

    With O clicks of E expected ones, δ = ln(O / E), half a click added to both, and its error √v / O with the residuals
    v = Σ_q (y_q − O/E·p_q)² of whole requests, whose clicks depend on each other.

    What is wanted is the root of Σ σ(z + δ) = O. The logarithm ln Σ σ(z + δ) rises by 1 − p̃ < 1 per log-odds, p̃ the
    mean p weighted by p, so that |ln(O/E)| never exceeds the root: it never shoots over, and each further round under
    what it found lacks a share p̃ of what was left. With the squares of spans δ = ln(o / (1 − o)) − ln(e / (1 − e)),
    o = O / n and e = E / n, whose slope is right at once. Where panes of logits are at hand, `with_roots` is exact.

    Args:
        spans: Of one list of segments.

    Raises:
        MitigationError: There is none.

    >>> clicks_C = [1] * 100 + [0] * 4900
    >>> sums = CalibrationSums.of([.04] * 5000, clicks_C, [1] * 5000, request_C=range(5000))
    >>> before = ServedSpan(np.zeros(1), sums)
    >>> needed_offsets([before]).needed_G.round(2).tolist()  # 100 clicks of 200
    [-0.69]
    >>> sums = CalibrationSums.of([.02] * 5000, clicks_C, [1] * 5000, request_C=range(5000))
    >>> later = ServedSpan(np.log([.5]), sums)
    >>> needed_offsets([before, later]).needed_G.round(2).tolist()  # and not -.41, the logarithm of 200 / 300
    [-0.69]
    """
    if not spans:
        raise MitigationError("there are no spans to go by", allowed="one at least, whose sums may be empty")
    total, rows_G = spans[0].uncorrected()
    for span in spans[1:]:
        more, more_rows_G = span.uncorrected()
        total, rows_G = total + more, rows_G + more_rows_G
    observed_G, predicted_G = total.observed_G + _HALF, total.predicted_G + _HALF
    has_any_G = (total.predicted_G > 0) | (total.observed_G > 0)
    variance_G = np.maximum(total.residual_squared(observed_G / predicted_G), observed_G)
    spread_G = np.sqrt(np.maximum(total.residual_squared(1.0), predicted_G))
    rows_G = np.maximum(rows_G, np.maximum(observed_G, predicted_G) / _LARGEST_P)  # no row has more than one click
    spared_G, expected_spared_G = 1 - observed_G / rows_G, 1 - predicted_G / rows_G
    return NeededOffsets(
        np.where(has_any_G, np.log(observed_G / predicted_G) - np.log(spared_G / expected_spared_G), 0.0),
        np.where(has_any_G, np.sqrt(variance_G) / observed_G / spared_G, np.inf),
        np.where(has_any_G, (total.observed_G - total.predicted_G) / spread_G, 0.0),
    )


def with_roots(needed: NeededOffsets, panes_G: Sequence[LogitPane]) -> NeededOffsets:
    """The same with the exact root of each segment in place of the logarithm; see `root_offset`.

    Args:
        needed: From the sums of the same rows, which know how much clicks of one request depend on each other.
        panes_G: One a segment; one without rows changes nothing.
    """
    needed_G, noise_G = needed.needed_G.copy(), needed.noise_G.copy()
    for g, pane in enumerate(panes_G):
        if len(pane):
            needed_G[g], slope = root_offset(pane)
            noise_G[g] *= (float(pane.weights_NL[:, 1].sum()) + _HALF) / slope
    return NeededOffsets(needed_G, noise_G, needed.z_G)


def root_offset(pane: LogitPane) -> tuple[float, float]:
    """The root δ of Σ w·σ(z + δ) = Σ w·y, exact whatever the probabilities are, and the slope there.

    Args:
        pane: Of one segment, of log-odds **without** a correction: of the probability that was served, less the offset
            that was in force for the row.

    Returns:
        δ within ±20, and Σ w·p·(1 − p) at δ: √v over it is δ's standard error, v as in `needed_offsets`. (0, 0) of a
        pane without rows.

    >>> import torch
    >>> logits_C, labels_C = torch.full((100,), 0.0), torch.tensor([1.0] * 80 + [0.0] * 20)
    >>> pane = LogitPane.of(logits_C, labels_C, torch.ones(100), torch.zeros(100, 0, dtype=torch.int64))
    >>> delta, slope = root_offset(pane)
    >>> round(delta, 3), round(slope, 3)  # ln(.797 / .203), where ln(80 / 50) is .47
    (1.368, 16.179)
    """
    logits_C, labels_C, weights_C, _ = (column.numpy() for column in pane.rows())
    if not len(logits_C):
        return 0.0, 0.0
    half = _HALF / float(weights_C.sum())
    clicks = float(weights_C @ labels_C) * (1 - 2 * half) + _HALF
    low, high = -20.0, 20.0
    for _ in range(_NUM_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(weights_C @ _sigmoid(logits_C + middle)) < clicks else (low, middle)
    p_C = _sigmoid(logits_C + low)
    return low, float(weights_C @ (p_C * (1 - p_C)))


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
        largest_step: From one update to the next.
        gate: z of a segment that no alarm names.
        gate_accused: z of one that an alarm names: the alarm has evidence of its own.
        gate_held: z below which an offset in force has lost its reason.
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
    largest_step: float = 1.0
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
            in_force_G: The offsets now.
            accused_G: Whether an alarm names the segment.
        """
        gate_G = np.where(accused_G, self.gate_accused, self.gate)
        gate_G = np.where(in_force_G != 0, np.minimum(gate_G, self.gate_held), gate_G)
        parent = self._parent(needed)
        from_parent_G = needed.needed_G - parent
        z_parent_G = from_parent_G / needed.noise_G if parent else needed.z_G
        is_apart_G, is_off_G = np.abs(z_parent_G) >= gate_G, np.abs(needed.z_G) >= gate_G
        off_G = is_apart_G & is_off_G
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
        agreeing = float(weights_G[values_G * np.sign(parent) > abs(parent) / 2].sum())
        is_sure = abs(parent) > self.gate * noise and agreeing >= _AGREEING * weights_G.sum()
        return parent if is_sure else 0.0


def _sigmoid(x_C: NDArray[Any]) -> _Floats:
    decayed_C = np.exp(-np.abs(x_C))
    sigmoid_C: _Floats = np.where(x_C >= 0, 1.0, decayed_C) / (1 + decayed_C)
    return sigmoid_C

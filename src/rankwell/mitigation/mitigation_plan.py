"""What a mitigation loop may do, and how far: its settings.

Letters: G segments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from rankwell.data.served_columns import served_logit, served_probability
from rankwell.errors import MitigationError
from rankwell.mitigation.bias_correction import BiasCorrection
from rankwell.mitigation.blend import BlendWeight
from rankwell.mitigation.mitigation_state import InForce, MitigationKind
from rankwell.mitigation.wide_update import ProximalUpdate
from rankwell.monitoring.reading import Reading
from rankwell.serving.correction import LONGEST_US, Correction

__all__ = ["MitigationPlan"]

_MINUTE_US: Final = 60_000_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MitigationPlan:
    """What is done when an alarm stands, for one action and the segments of one feature.

    A ladder is climbed one rung at a time: offsets of the segments that are off (`BiasCorrection`); weights of the wide
    part (`ProximalUpdate`), if wanted and the bundle's rows can be changed; another bundle mixed in (`BlendWeight`), if
    there is one; the previous bundle; people.

    Args:
        action: Of the schema.
        feature: By whose values segments are told apart.
        segments: Its values that may be corrected, G of them; −1 (missing) among them if wanted.
        mode: "act"; "ask": what is new to an incident waits for approval, and is adjusted and renewed without; "watch":
            a dry run, which proposes and never applies; "off": what is applied is taken back, and nothing is done.
        bias: How offsets are found.
        tolerance: The error of a calibration ratio that is put up with.
        lifetime_us: Of a correction; it is renewed in its second half.
        memory_us: How far back rows say something of now.
        window_us: Of the newest rows, which are looked at by themselves: has the world changed again?
        pick_up_us: So long servers may take to follow; the minute it falls into is left out.
        verify_clicks: So many expected clicks in each corrected segment are enough for a verdict.
        verify_us: A correction without a verdict by then is not renewed.
        most_adjusted: So many adjustments that do not suffice, and it escalates.
        wide: How weights of the wide part are learned, and how far from those of the bundle; None: no such rung.
        blend_bundle: Another bundle, as in `rankwell.serving.correction.Blend`; None: no such rung.
        blend: Its weight.
        may_fall_back: Whether there is a rung of the previous bundle.
        rest_us: So long without an alarm until an incident without a mitigation is over.

    Raises:
        MitigationError: A setting is out of range.

    >>> MitigationPlan(action="click", feature="title", segments=(3, 7)).is_in({7}).tolist()
    [False, True]
    """

    action: str
    feature: str
    segments: tuple[int, ...]
    mode: Literal["act", "ask", "watch", "off"] = "act"
    bias: BiasCorrection = field(default_factory=BiasCorrection)
    tolerance: float = 0.05
    lifetime_us: int = 60 * _MINUTE_US
    memory_us: int = 120 * _MINUTE_US
    window_us: int = 15 * _MINUTE_US
    pick_up_us: int = 2_000_000
    verify_clicks: float = 50.0
    verify_us: int = 120 * _MINUTE_US
    most_adjusted: int = 8
    wide: ProximalUpdate | None = None
    blend_bundle: str | None = None
    blend: BlendWeight = field(default_factory=BlendWeight)
    may_fall_back: bool = True
    rest_us: int = 60 * _MINUTE_US

    def __post_init__(self) -> None:
        if not self.segments or len(set(self.segments)) < len(self.segments) or min(self.segments) < -1:
            raise MitigationError(
                "these segments can't be corrected", found=self.segments, allowed="values, each once; −1 for missing"
            )
        if not (0 < self.lifetime_us <= LONGEST_US and 0 < self.window_us <= self.memory_us and self.tolerance > 0):
            raise MitigationError(
                "times or tolerance of a plan are out of range",
                found=(self.lifetime_us, self.window_us, self.memory_us, self.tolerance),
                allowed=f"0 < lifetime_us ≤ {LONGEST_US}, 0 < window_us ≤ memory_us, tolerance > 0",
            )

    def accuses(self, reading: Reading) -> bool:
        """Whether it is an alarm about this action: of its calibration, or of what was served for it."""
        columns = {self.action} if reading.name.startswith("calibration") else _served(self.action)
        return reading.is_alarm and reading.column in columns

    def concerns(self, reading: Reading) -> bool:
        """Whether it is an alarm about this action; where weights may be learned, one of its rate too."""
        of_rate = reading.is_alarm and reading.name == "rate" and reading.column == self.action
        return self.accuses(reading) or (self.wide is not None and of_rate)

    def after(self, mitigation: MitigationKind) -> MitigationKind:
        """The next rung of the ladder; the last one is "fallback"."""
        ladder: list[MitigationKind] = ["bias_correction"]
        ladder += ["wide_update"] if self.wide is not None else []
        ladder += ["blend"] if self.blend_bundle is not None else []
        return [*ladder, "fallback"][ladder.index(mitigation) + 1] if mitigation in ladder else "fallback"

    def in_force_of(self, correction: Correction) -> InForce:
        """What a correction of this plan puts in force."""
        offsets = correction.log_odds_offsets.get(self.action, {}).get(self.feature, {})
        return InForce(
            from_us=correction.created_us,
            offsets={int(value): offset for value, offset in offsets.items()},
            blend_weight=0.0 if correction.blend is None else correction.blend.weight,
            wide_changes=correction.wide_changes,
            correction_id=correction.id,
        )

    def is_in(self, values: set[int]) -> NDArray[np.bool_]:
        """Which of the segments are among these values."""
        return np.array([segment in values for segment in self.segments])

    def named(self, is_named_G: NDArray[np.bool_]) -> str:
        """These segments in words."""
        return f"{self.feature} {', '.join(str(value) for value in np.array(self.segments)[is_named_G])}"


def _served(action: str) -> set[str]:
    return {served_logit(action), served_probability(action)}

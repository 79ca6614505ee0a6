"""Where a mitigation loop stands, and what it decides: plain values that go to files and come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self, final

from pydantic import Field, ValidationError

from rankwell.mitigation.upstream_drift import UpstreamDrift
from rankwell.schema.transforms import Declaration, as_schema_error
from rankwell.serving.correction import Correction

__all__ = ["Decision", "DecisionKind", "InForce", "LoopState", "MitigationKind", "Phase"]

Phase = Literal["quiet", "watching", "waiting", "in_force", "left_to_people"]
"""Nothing is known to be wrong; an alarm is looked into; a proposal waits for approval; a mitigation is in force; the
loop has done what it may."""

MitigationKind = Literal["bias_correction", "wide_update", "blend", "fallback"]

DecisionKind = Literal[
    "detect", "pass", "propose", "withdraw", "apply", "adjust", "renew", "keep", "revert", "end", "expire", "fall_back",
    "page", "stop", "adopt", "fail",
]  # fmt: skip
"""What `Decision` says, in a word."""


@final
class InForce(Declaration):
    """What was applied from a time on.

    Args:
        from_us: UTC microseconds; 0: always before.
        offsets: Log-odds by segment; 0 for others.
        blend_weight: Of the other bundle.
        wide_changes: As `Correction.wide_changes`.
        correction_id: By which rows that were served under it are known; "": nothing was in force.
    """

    from_us: int
    offsets: Mapping[int, float] = Field(default_factory=dict)
    blend_weight: float = 0.0
    wide_changes: Mapping[str, Mapping[str, Mapping[str, tuple[float, ...]]]] = Field(default_factory=dict)
    correction_id: str = ""


@final
class LoopState(Declaration):
    """All that a loop remembers.

    Args:
        format_version: 1.
        sequence: How many decisions were taken.
        phase: See `Phase`.
        mitigation: The one that is applied or proposed, or is next in turn.
        bundle_id: The bundle that answered when this was written.
        onset_us: Rows before it say nothing of what is wrong now.
        last_alarm_us: The end of the last window with an alarm.
        accused: Segments that alarms have named.
        barred: Segments whose correction did harm; no offset for them until the loop is quiet again.
        correction: In force.
        proposal: Waits for approval.
        history: What was in force when, oldest first; rows from before its beginning are of another bundle.
        is_verified: Whether what is in force was found to do good.
        verify_by_us: What was not verified by then is not renewed.
        num_adjusted: How often the offsets were adjusted since they were last found to suffice.
        left_bundles: Those that a fallback left: none goes back to them.
        drifts: Features that drift, as far as it began before anything was applied; and that returned within a day.

    >>> LoopState.from_json(LoopState(phase="watching").to_json()).phase
    'watching'
    """

    format_version: Literal[1] = 1
    sequence: int = 0
    phase: Phase = "quiet"
    mitigation: MitigationKind = "bias_correction"
    bundle_id: str | None = None
    onset_us: int = 0
    last_alarm_us: int = 0
    accused: tuple[int, ...] = ()
    barred: tuple[int, ...] = ()
    correction: Correction | None = None
    proposal: Correction | None = None
    history: tuple[InForce, ...] = (InForce(from_us=0),)
    is_verified: bool = False
    verify_by_us: int = 0
    num_adjusted: int = 0
    left_bundles: tuple[str, ...] = ()
    drifts: tuple[UpstreamDrift, ...] = ()

    def at_rest(self, *, bundle_id: str | None, history: tuple[InForce, ...], onset_us: int) -> LoopState:
        """A state in which nothing is known to be wrong, of the same loop.

        Args:
            bundle_id, history, onset_us: Of the new state.
        """
        return LoopState(
            sequence=self.sequence, bundle_id=bundle_id, history=history, onset_us=onset_us,
            left_bundles=self.left_bundles, drifts=self.drifts,
        )  # fmt: skip

    def to_json(self) -> str:
        """For a file."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """What `to_json` wrote.

        Raises:
            SchemaError: It is something else.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise as_schema_error(error) from None


@final
class Decision(Declaration):
    """One thing that a loop decided: one line of the audit log.

    Args:
        sequence: Counts decisions, from 1.
        now_us: When.
        kind: "detect": an alarm is looked into · "pass": it did no harm · "propose", "withdraw": for approval, and no
            longer · "apply", "adjust", "renew": the correction is to be written · "keep": it does good · "revert",
            "end": it is to be removed, since it did harm, since it is no longer needed · "expire": it is gone by itself
            · "fall_back": to the previous bundle · "page": people have to see to it · "stop": the kill switch is on ·
            "adopt": what was found in the folder is taken as it is · "fail": it could not be carried out.
        reason: For those who read it.
        correction: What is to be applied, or was.
        bundles: Of a fallback: from which, to which.
        numbers: By name: clicks, expected clicks, offsets.
    """

    sequence: int
    now_us: int
    kind: DecisionKind
    reason: str
    correction: Correction | None = None
    bundles: tuple[str, str] | None = None
    numbers: Mapping[str, float] = Field(default_factory=dict)

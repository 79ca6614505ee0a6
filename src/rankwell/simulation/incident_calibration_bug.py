"""A deploy whose calibrator triples the odds of one segment."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Final, final

import torch

from rankwell.calibration.segment_isotonic import SegmentIsotonic
from rankwell.calibration.segment_levels import joined
from rankwell.errors import RecipeError
from rankwell.serving.bundle import Bundle
from rankwell.simulation.incident import Incident

__all__ = ["CalibrationBug"]

_SENIORITY: Final = 3
_FACTOR: Final = 3.0


@final
class CalibrationBug(Incident):
    """Odds × 3 for jobs of one seniority: their clicks are billed at up to three times what they are worth.

    The model and its logits are as before; a bundle that passes every check of a deployment bills wrongly.
    """

    name: ClassVar[str] = "calibration-bug"
    summary: ClassVar[str] = f"a new bundle triples the odds of a click for jobs of seniority {_SENIORITY}"
    suspects: ClassVar[frozenset[str]] = frozenset({"served_probability_click", "click"})
    segments: ClassVar[frozenset[int]] = frozenset({_SENIORITY})
    drift_within: ClassVar[int | None] = 1
    clicks_within: ClassVar[int | None] = 1
    num_windows: ClassVar[int] = 6

    def deployed(self, bundle: Bundle) -> Bundle:
        """See `Incident`.

        Raises:
            RecipeError: The bundle's clicks are not calibrated by segment.
        """
        right = bundle.calibrators["click"]
        if not isinstance(right, SegmentIsotonic):
            raise RecipeError(
                "this bundle has no segment to go wrong", found=type(right).__name__, allowed="SegmentIsotonic"
            )
        state = dict(right.state_dict())
        is_hurt_G = joined(right.values) == _SENIORITY
        offsets_G = state["offsets"] + torch.where(is_hurt_G, math.log(_FACTOR), 0.0)
        wrong = SegmentIsotonic(state["knot_logits_B"], state["knot_log_odds_B"], state["values"], offsets_G)
        return dataclasses.replace(bundle, calibrators={**bundle.calibrators, "click": wrong})

"""Making logits probabilities, and knowing when they are none any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rankwell.studies.calibrator_choice import study_calibrator_choice
from rankwell.studies.study import StudyResult, joined
from rankwell.studies.watching import study_watching

__all__ = ["study_calibration"]


def study_calibration(
    *,
    seeds: Sequence[int],
    sizes: Sequence[int] = (1_000, 4_000, 16_000, 64_000, 256_000),
    num_runs: int = 300,
    num_panes: int = 2880,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Which calibrator for what; and looking at calibration after every pane.

    Args:
        seeds: One sample of each kind each.
        sizes: Of the samples calibrators are fitted on, ascending.
        num_runs: That are watched at once.
        num_panes: For how long.
        say: Told what is going on.
    """
    return joined(
        "calibration",
        [
            study_calibrator_choice(seeds=seeds, sizes=sizes, say=say),
            study_watching(seed=seeds[0], num_runs=num_runs, num_panes=num_panes, say=say),
        ],
    )

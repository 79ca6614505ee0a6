"""What watches a drill: the watcher and the loop of production, with a layout made of the day before.

Letters in names: R requests · C candidates, flat · V values.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np

from rankwell.mitigation.folder_watch import FolderWatch
from rankwell.mitigation.mitigation_folder import MitigationFolder
from rankwell.mitigation.watch_round import WatchRound
from rankwell.monitoring.calibration_watch import CalibrationWatch
from rankwell.monitoring.drift_watch import DriftWatch
from rankwell.monitoring.pane_layout import CategoricalBins, NumericBins, PaneLayout
from rankwell.monitoring.watch_counts import WatchCounts
from rankwell.serving.bundle import Bundle
from rankwell.simulation.settings import NUM_SENIORITIES
from rankwell.studies.drill_baseline import scored
from rankwell.studies.drill_world import Asked

__all__ = ["segments_of", "watch_of"]

_SMALLEST_SHARE: Final = 0.04
_NUMERIC: Final = ("retrieval_score", "salary", "min_experience")
_OF_MEMBERS: Final = ("experience_years",)
_SENIORITY: Final = "seniority"


def segments_of(day: Asked, segment_by: str, *, among: Collection[int]) -> CategoricalBins:
    """The values of a feature that are watched: those of more than one row in 25 of a day, and some others.

    Args:
        day: Of which they are.
        segment_by: A feature of candidates.
        among: Values that are watched in any case.
    """
    values_V, counts_V = np.unique(day.of_candidates(segment_by), return_counts=True)
    is_watched_V = (counts_V >= _SMALLEST_SHARE * counts_V.sum()) | np.isin(values_V, [*among])
    return CategoricalBins(
        name=segment_by, top=tuple(values_V[is_watched_V].tolist()), known=tuple(values_V[~is_watched_V].tolist())
    )


def watch_of(
    folder: Path, bundle: Bundle, day: Asked, segments: CategoricalBins, mitigation: MitigationFolder
) -> WatchRound:
    """The watcher of a folder.

    Args:
        folder: Of the drill; the log stands in it.
        bundle: That is right.
        day: Whose features and probabilities make the bins.
        segments: See `segments_of`.
        mitigation: What acts on readings.
    """
    p_C = scored(bundle, day)
    lengths_R = np.diff(day.offsets_R)
    columns: list[NumericBins | CategoricalBins] = [
        NumericBins.of_values("served_probability_click", p_C),
        NumericBins.of_values("served_logit_click", np.log(p_C / (1 - p_C))),
    ]
    columns += [NumericBins.of_values(name, day.of_candidates(name)) for name in _NUMERIC]
    columns += [NumericBins.of_values(name, np.repeat(day.table[name].to_numpy(), lengths_R)) for name in _OF_MEMBERS]
    columns.append(CategoricalBins(name=_SENIORITY, top=tuple(range(NUM_SENIORITIES))))
    layout = PaneLayout(columns=tuple(columns), segments=segments)

    def refuse(error: Exception) -> None:
        raise error

    counts = WatchCounts(bundle.schema, layout, "click")
    follow = FolderWatch(folder / "log", counts, folder / "watch.checkpoint", on_damage=refuse)
    calibration = CalibrationWatch(num_series=2 * len(segments.top))
    return WatchRound(follow, DriftWatch(layout), calibration, mitigation)

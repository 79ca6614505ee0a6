"""Drills of several marketplaces each: how often an incident is mastered, and how well."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from rich.table import Table

from rankwell.serving.bundle import Bundle
from rankwell.simulation.incident import Incident
from rankwell.studies.drill import DrillSettings, run_drill
from rankwell.studies.drill_verdict import judged
from rankwell.studies.study import StudyResult

__all__ = ["study_drills"]

_CHECK: Final = "check/"
_MEASURED: Final = (
    ("detected_by_drift_windows", "drift after"),
    ("detected_by_clicks_windows", "clicks after labels"),
    ("recovered_windows_after_detection", "ratio back after"),
    ("corrected/over_cut_rate", "over-charge cut"),
    ("corrected/under_cut_rate", "under-charge cut"),
    ("most_moved_healthy_rate", "healthy moved by"),
)


def study_drills(
    bundle: Bundle,
    incidents: Sequence[Incident],
    *,
    seeds: Iterable[int],
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Every incident in a marketplace of each seed; no server answers, but the same scorer in this process.

    Args:
        bundle: Of the marketplace's schema; its clicks are calibrated anew to each drill's world.
        incidents: That befall.
        seeds: Of the marketplaces.
        say: Told what came of each drill.
    """
    found: dict[str, list[Mapping[str, float]]] = {}
    for incident in incidents:
        for seed in seeds:
            with tempfile.TemporaryDirectory(prefix="rankwell-drill-") as folder:
                settings = DrillSettings(seed=seed, has_server=False)
                result = judged(run_drill(incident, bundle, Path(folder), settings, say=lambda _: None))
            found.setdefault(incident.name, []).append(result.numbers)
            say(result.finding)
    numbers = {
        f"{name}/{seed}/{key}": value
        for name, runs in found.items()
        for seed, run in zip(seeds, runs, strict=True)
        for key, value in run.items()
    }
    for name, runs in found.items():
        numbers[f"{name}/num_drills"] = len(runs)
        numbers[f"{name}/num_passed"] = sum(run["passed"] for run in runs)
        numbers[f"{name}/num_cause_first"] = sum(run.get("cause_is_first", 0.0) for run in runs)
    passed = ", ".join(f"{name} {numbers[f'{name}/num_passed']:.0f} of {len(runs)}" for name, runs in found.items())
    return StudyResult("drills", (_checks(found), _measured(found)), f"Passed: {passed}.", numbers)


def _checks(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    table = Table("incident", "check", "held", title="how often each check held; where nothing was done some fall away")
    for name, runs in found.items():
        for check in dict.fromkeys(key for run in runs for key in run if key.startswith(_CHECK)):
            values = [run[check] for run in runs if check in run]
            table.add_row(name, check.removeprefix(_CHECK), f"{sum(values):.0f} of {len(values)}")
    return table


def _measured(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    table = Table("incident", title="median, least to most over drills; times in quarter-hours; (n): of so many")
    for _, heading in _MEASURED:
        table.add_column(heading, justify="right")
    for name, runs in found.items():
        table.add_row(name, *(_spread([run.get(key, math.nan) for run in runs]) for key, _ in _MEASURED))
    return table


def _spread(values: Sequence[float]) -> str:
    there = [value for value in values if math.isfinite(value)]
    if not there:
        return "—"
    number = "" if len(there) == len(values) else f" ({len(there)})"
    return f"{median(there):.2f}, {min(there):.2f} to {max(there):.2f}{number}"

"""The winner's curse: what calibration among all that is scored is worth among what is served.

Letters: S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from rich.table import Table
from torch import Tensor

from rankwell.calibration.isotonic import fit_isotonic
from rankwell.evaluation.intervals import paired_interval
from rankwell.evaluation.served import best_of_each
from rankwell.ranking.winners_curse import fit_winners_curse
from rankwell.simulation.winners_curse import CursedRequests, CurseSettings, cursed_requests
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.study import StudyResult, shown

__all__ = ["study_winners_curse"]

_NOISES: Final = (0.1, 0.2, 0.3)
_LENGTHS: Final = (10, 50, 200, 500)
_SLOTS: Final = 10
_WORLDS: Final[Mapping[str, CurseSettings]] = {
    "all alike": CurseSettings(fewest_sightings=300, most_sightings=300, bid_correlation=0.0),
    "rare items": CurseSettings(fewest_sightings=3, most_sightings=30_000, bid_correlation=0.0),
    "bids that know": CurseSettings(fewest_sightings=300, most_sightings=300, bid_correlation=0.5),
    "both": CurseSettings(fewest_sightings=3, most_sightings=30_000, bid_correlation=0.5),
}
_MODELS: Final = ("logits as they are", "isotonic", "corrected")


def study_winners_curse(
    *, seeds: Sequence[int], num_requests: int = 3000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Predicted over true among the ten served of each request: raw, isotonic, and corrected.

    Args:
        seeds: One sample to fit and one to judge by each.
        num_requests: In each of them.
        say: Told what is going on.
    """
    numbers: dict[str, float] = {}
    table = Table(title=f"calibration ratio of the {_SLOTS} served of each request by bid × p̂, {len(seeds)} seeds")
    for heading in ("error of logits", "of whom", *_MODELS, "isotonic, all scored"):
        table.add_column(heading, justify="left" if heading in ("error of logits", "of whom") else "right")
    for world, settings in _WORLDS.items():
        for noise in _NOISES:
            found = [_ratios(_with(settings, noise=noise), num_requests, seed) for seed in seeds]
            served = {model: [one[model, "served"] for one in found] for model in _MODELS}
            scored = [one["isotonic", "scored"] for one in found]
            for model, values in served.items():
                numbers[f"{world}/{noise:g}/{model}/served"] = sum(values) / len(values)
            numbers[f"{world}/{noise:g}/isotonic/scored"] = sum(scored) / len(scored)
            table.add_row(f"{noise:.0%}", world, *(shown(values, 3) for values in served.values()), shown(scored, 3))
        say(f"{world}: done")
    by_length = {
        length: [_ratios(longest, num_requests, seed) for seed in seeds]
        for length in _LENGTHS
        for longest in [_with(_WORLDS["both"], noise=0.3, length=length)]
    }
    for length, found in by_length.items():
        for model in _MODELS:
            numbers[f"length {length}/{model}/served"] = sum(one[model, "served"] for one in found) / len(found)
    both, alike = (numbers[f"{world}/0.3/isotonic/served"] for world in ("both", "all alike"))
    finding = (
        f"Calibrating what is scored removes the textbook case: where all logits err alike and bids know nothing, "
        f"isotonic is at {alike:.3f} among the served. Where rare items err more and bids know half of it, isotonic "
        f"promises {both - 1:+.0%} (30 % noise), although it is right among all scored. The correction by uncertainty "
        f"and bid rank is at {numbers['both/0.3/corrected/served']:.3f}."
    )
    return StudyResult("curse", (table,), finding, numbers, (_chart(numbers, by_length),))


def _with(settings: CurseSettings, *, noise: float, length: int | None = None) -> CurseSettings:
    fewest, most = (settings.fewest, settings.most) if length is None else (length, length)
    return CurseSettings(
        noise=noise, fewest=fewest, most=most, fewest_sightings=settings.fewest_sightings,
        most_sightings=settings.most_sightings, bid_correlation=settings.bid_correlation,
    )  # fmt: skip


def _ratios(settings: CurseSettings, num_requests: int, seed: int) -> dict[tuple[str, str], float]:
    """Predicted over true, by model, of what is served and of what is scored."""
    sample = cursed_requests(settings, num_requests, seed=2 * seed)
    fresh = cursed_requests(settings, num_requests, seed=2 * seed + 1)
    ones_C, nowhere_C = torch.ones(len(sample.logits_C)), torch.zeros(len(sample.logits_C), 0)
    isotonic = fit_isotonic(sample.logits_C, sample.labels_C, ones_C, nowhere_C)
    correction = fit_winners_curse(
        sample.logits_C, sample.labels_C, ones_C, uncertainty_C=sample.uncertainty_C, bids_C=sample.bids_C,
        request_C=sample.request_C,
    )  # fmt: skip
    probabilities = {
        "logits as they are": torch.sigmoid(fresh.logits_C),
        "isotonic": isotonic(fresh.logits_C, torch.zeros(len(fresh.logits_C), 0)),
        "corrected": torch.sigmoid(
            correction.corrected_logits(fresh.logits_C, fresh.uncertainty_C, fresh.bids_C, fresh.request_C)
        ),
    }
    found = {}
    for model, p_C in probabilities.items():
        best_C = torch.from_numpy(best_of_each(p_C * fresh.bids_C, fresh.request_C, k=_SLOTS))
        found[model, "served"] = _ratio(p_C, fresh, best_C)
        found[model, "scored"] = _ratio(p_C, fresh, torch.ones_like(best_C))
    return found


def _ratio(p_C: Tensor, requests: CursedRequests, rows_C: Tensor) -> float:
    return float(p_C[rows_C].sum() / requests.true_probabilities_C[rows_C].sum())


def _chart(numbers: Mapping[str, float], by_length: Mapping[int, Sequence[Mapping[tuple[str, str], float]]]) -> Chart:
    of_noise = [
        Panel(
            title=world,
            x_label="error of logits",
            y_label="predicted / true, served",
            lines=tuple(
                Line(name=model, x=_NOISES, y=[numbers[f"{world}/{noise:g}/{model}/served"] for noise in _NOISES])
                for model in _MODELS
            ),
        )
        for world in ("all alike", "both")
    ]
    lines = []
    for model in _MODELS:
        values = [[one[model, "served"] for one in found] for found in by_length.values()]
        means = [sum(of) / len(of) for of in values]
        intervals = [paired_interval(of) for of in values] if len(values[0]) > 1 else []
        lines.append(
            Line(
                name=model, x=list(by_length), y=means, low=[i.low for i in intervals], high=[i.high for i in intervals]
            )
        )
    of_length = Panel(
        title="both, 30 %: by length of list", x_label="candidates", y_label="predicted / true, served",
        lines=tuple(lines), is_log_x=True,
    )  # fmt: skip
    return Chart(
        name="curse",
        title="Served is not scored",
        caption=f"Predicted over true clicks among the {_SLOTS} of each request that are served, by bid × p̂. Left: all "
        "logits err alike and bids know nothing of it; isotonic is right. Middle: rare items err more, and bids know "
        "half of the error. Right: the longer the list, the stronger the choice.",
        description="Calibration ratios of what is served against noise and list length, for three models.",
        panels=(*of_noise, of_length),
    )

"""A group whose probabilities are wrong: mend the feature, or calibrate the group?

In the simulated marketplace the effect of a member's years of experience rises and falls. A logistic model that takes
the years as a straight line is wrong for whole bands of experience. Two repairs stand side by side: a Platt line for
each band behind the model as it is, and a transform of the feature that lets the effect bend.

Letters: C candidates · S segment columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, final

import torch
from rich.table import Table

from rankwell.calibration.platt import fit_platt
from rankwell.calibration.segment_tree import fit_segment_tree
from rankwell.data.split import Part
from rankwell.evaluation.intervals import mean_and_sd, paired_interval
from rankwell.evaluation.report import Evaluation, evaluate
from rankwell.schema import PiecewiseLinear, Standardise
from rankwell.schema.transforms import Transform
from rankwell.simulation.recipe import LOGISTIC, marketplace_recipe
from rankwell.simulation.schema import EXPERIENCE_BAND_EDGES, marketplace_schema
from rankwell.studies.study import StudyResult, simulated
from rankwell.training.predictions import Predictions, predict
from rankwell.training.recipe import FitCalibrator, Recipe
from rankwell.training.trained import TrueProbabilities, train

__all__ = ["study_segment_repair"]

_BAND: Final = "experience_band"


@final
@dataclass(frozen=True)
class _Variant:
    name: str
    transform: Transform
    fit: FitCalibrator


_LINEAR: Final = _Variant("years as a line, one Platt", Standardise(), fit_platt)
_CALIBRATED: Final = _Variant("years as a line, a Platt per band", Standardise(), fit_segment_tree)
_MENDED: Final = _Variant("years piecewise linear, one Platt", PiecewiseLinear(num_pieces=12), fit_platt)
_VARIANTS: Final = (_LINEAR, _CALIBRATED, _MENDED)


def study_segment_repair(
    *, seeds: Sequence[int], num_requests: int = 40_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Compare a linear feature, the same with a Platt per band, and a mended transform, on one log a seed.

    Args:
        seeds: At least two.
        num_requests: Of each log.
        say: Told what is going on.

    Returns:
        Calibration ratio by band of experience, the mean error of the bands, log loss, AUC and distance to the truth.
    """
    found: dict[str, list[Evaluation]] = {variant.name: [] for variant in _VARIANTS}
    for seed in seeds:
        with simulated(seed, num_requests) as (data, truth):
            for transform in (_LINEAR.transform, _MENDED.transform):
                say(f"seed {seed}: {transform.kind}")
                recipe = marketplace_recipe(LOGISTIC, schema=marketplace_schema(experience=transform))
                held_out, tested = _predictions(recipe, data, seed)
                for variant in _VARIANTS:
                    if variant.transform == transform:
                        found[variant.name].append(_evaluated(variant, held_out, tested, truth))
    return _result(found, len(seeds))


def _predictions(recipe: Recipe, data: Path, seed: int) -> tuple[Predictions, Predictions]:
    model = train(recipe, data, seed=seed).model

    def of(part: Part) -> Predictions:
        batches = recipe.batches(part, data, seed=None)
        return predict(model, batches, (_BAND,))

    return of("calibrate"), of("test")


def _evaluated(variant: _Variant, held_out: Predictions, tested: Predictions, truth: TrueProbabilities) -> Evaluation:
    logits_C, labels_C, weights_C, known_C = held_out.of_action(0)
    calibrator = variant.fit(logits_C, labels_C, weights_C, held_out.segments[_BAND][known_C].unsqueeze(1))
    logits_C, labels_C, weights_C, known_C = tested.of_action(0)
    band_C = tested.segments[_BAND][torch.from_numpy(known_C)]
    return evaluate(
        calibrator(logits_C, band_C.unsqueeze(1)),
        logits_C,
        labels_C,
        weights_C,
        request_C=tested.request_C[known_C],
        segments={_BAND: band_C},
        true_probabilities_C=truth(tested)[known_C],
        num_null_draws=20,
    )


def _result(found: Mapping[str, Sequence[Evaluation]], num_seeds: int) -> StudyResult:
    numbers: dict[str, float] = {}
    bands = Table(title=f"calibration ratio (predicted / observed) by years of experience, mean over {num_seeds} seeds")
    bands.add_column("years")
    for name in found:
        bands.add_column(name, justify="right")
    for band, years in enumerate(_band_names()):
        cells = []
        for name, evaluations in found.items():
            ratio = mean_and_sd([_ratios(evaluation)[band] for evaluation in evaluations])
            numbers[f"{name}/calibration_ratio/{years}"] = ratio.mean
            cells.append(f"{ratio.mean:.3f} ± {ratio.sd:.3f}")
        bands.add_row(years, *cells)
    whole = Table(title="over all bands, mean ± sd")
    for heading in ("variant", "mean |ratio - 1| of the bands", "log loss", "AUC", "mean |p - true p|"):
        whole.add_column(heading, justify="left" if heading == "variant" else "right")
    for name, evaluations in found.items():
        cells = []
        for label, values in _columns(evaluations).items():
            summary = mean_and_sd(values)
            numbers[f"{name}/{label}/mean"], numbers[f"{name}/{label}/sd"] = summary.mean, summary.sd
            cells.append(f"{summary.mean:.4f} ± {summary.sd:.4f}")
        whole.add_row(name, *cells)
    mended, calibrated = _columns(found[_MENDED.name]), _columns(found[_CALIBRATED.name])
    differences = [a - b for a, b in zip(calibrated["log_loss"], mended["log_loss"], strict=True)]
    gain = paired_interval(differences)
    numbers["log_loss_gain_of_transform_over_segments/mean"] = sum(differences) / len(differences)
    numbers["log_loss_gain_of_transform_over_segments/low"] = gain.low
    numbers["log_loss_gain_of_transform_over_segments/high"] = gain.high
    saved = f"{sum(differences) / len(differences):+.5f} nats, 95 % [{gain.low:+.5f}, {gain.high:+.5f}]"
    finding = (
        f"Log loss that mending the transform saves over a Platt per band: {saved}. "
        "The mended feature needs no segment when it is served."
    )
    return StudyResult("segment-repair", (bands, whole), finding, numbers)


def _band_names() -> list[str]:
    edges = [f"{edge:g}" for edge in EXPERIENCE_BAND_EDGES]
    return [f"below {edges[0]}", *(f"{a} to {b}" for a, b in pairwise(edges)), f"{edges[-1]} on"]


def _ratios(evaluation: Evaluation) -> list[float]:
    return [row.calibration_ratio for row in evaluation.segments[_BAND]]


def _columns(evaluations: Sequence[Evaluation]) -> dict[str, list[float]]:
    return {
        "band_error": [sum(abs(r - 1) for r in _ratios(e)) / len(_ratios(e)) for e in evaluations],
        "log_loss": [e.log_loss for e in evaluations],
        "auc": [e.auc for e in evaluations],
        "error_to_truth": [e.truth.mean_absolute_error for e in evaluations if e.truth is not None],
    }

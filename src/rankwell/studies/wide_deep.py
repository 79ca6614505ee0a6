"""Does Wide & Deep gain over each of its halves? The comparison of its paper, where the truth is known.

Each seed is a fresh marketplace, a fresh log and fresh models, so the interval speaks of marketplaces like these and
not of one log. Source of the design: Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems", table 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.table import Table

from rankwell.evaluation.intervals import mean_and_sd, paired_interval
from rankwell.evaluation.report import Evaluation
from rankwell.simulation.recipe import DEEP, KINDS, LOGISTIC, WIDE_DEEP, marketplace_recipe
from rankwell.studies.study import StudyResult, simulated
from rankwell.training.trained import judge, train

__all__ = ["study_wide_deep"]


def study_wide_deep(
    *, seeds: Sequence[int], num_requests: int = 40_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Train logistic, deep, and Wide & Deep on one log a seed; compare log loss and AUC on test, paired by seed.

    Args:
        seeds: At least two; five or more for an interval worth printing.
        num_requests: Of each log.
        say: Told what is going on.

    Returns:
        Log loss (calibrated), AUC and ECE of each kind, and the paired 95 % intervals of the whole's gains.
    """
    found: dict[str, list[Evaluation]] = {kind.name: [] for kind in KINDS}
    for seed in seeds:
        with simulated(seed, num_requests) as (data, truth):
            for kind in KINDS:
                say(f"seed {seed}: {kind.name}")
                recipe = marketplace_recipe(kind)
                trained = train(recipe, data, seed=seed)
                judged = judge(recipe, trained.model, trained.calibrators, data, truth=truth)
                found[kind.name].append(judged.calibrated)
    return _result(found, len(seeds))


def _result(found: Mapping[str, Sequence[Evaluation]], num_seeds: int) -> StudyResult:
    numbers: dict[str, float] = {}
    levels = Table(title=f"test split, calibrated; mean ± sd over {num_seeds} seeds")
    for heading in ("model", "log loss", "AUC", "ECE", "calibration ratio", "mean |p − true p|"):
        levels.add_column(heading, justify="left" if heading == "model" else "right")
    for name, evaluations in found.items():
        cells = []
        for label, values in _columns(evaluations).items():
            summary = mean_and_sd(values)
            numbers[f"{name}/{label}/mean"], numbers[f"{name}/{label}/sd"] = summary.mean, summary.sd
            cells.append(f"{summary.mean:.4f} ± {summary.sd:.4f}")
        levels.add_row(name, *cells)
    bayes = mean_and_sd([e.truth.bayes_log_loss for e in found[WIDE_DEEP.name] if e.truth is not None])
    numbers["bayes_log_loss"] = bayes.mean
    levels.add_row("the truth (Bayes)", f"{bayes.mean:.4f} ± {bayes.sd:.4f}", "", "", "", "")
    gains = Table(title="gain of Wide & Deep, paired by seed, with its 95 % interval")
    for heading in ("over", "log loss (nats saved)", "AUC"):
        gains.add_column(heading)
    excluded = True
    whole = _columns(found[WIDE_DEEP.name])
    for half in (LOGISTIC.name, DEEP.name):
        own = _columns(found[half])
        cells = []
        for label, sign in (("log_loss", -1), ("auc", 1)):
            differences = sign * (np.array(whole[label]) - np.array(own[label]))
            interval = paired_interval(differences)
            excluded &= interval.low > 0
            for end, value in (("mean", differences.mean()), ("low", interval.low), ("high", interval.high)):
                numbers[f"gain_over_{half}/{label}/{end}"] = float(value)
            cells.append(f"{differences.mean():+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]")
        gains.add_row(half, *cells)
    verdict = "Each interval excludes 0" if excluded else "Not every interval excludes 0"
    finding = (
        f"{verdict}: together the parts do {'better than' if excluded else 'not surely better than'} either alone."
    )
    return StudyResult("wide-deep", (levels, gains), finding, numbers)


def _columns(evaluations: Sequence[Evaluation]) -> dict[str, list[float]]:
    return {
        "log_loss": [e.log_loss for e in evaluations],
        "auc": [e.auc for e in evaluations],
        "ece": [e.ece for e in evaluations],
        "calibration_ratio": [e.calibration_ratio for e in evaluations],
        "error_to_truth": [e.truth.mean_absolute_error for e in evaluations if e.truth is not None],
    }

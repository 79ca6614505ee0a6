"""Recipes carried out from the command line: seeds, published numbers beside ours, bundles, reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import pyarrow.parquet as pq
from rich.table import Table

from rankwell.app.number_format import number
from rankwell.app.report import ModelResult, ReportData, write_report
from rankwell.app.row_table import row_table
from rankwell.evaluation.intervals import MeanAndSd, mean_and_sd
from rankwell.evaluation.report import Evaluation
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.simulation.recipe import true_clicks
from rankwell.simulation.truth import read_truth
from rankwell.training.checkpoint import Checkpoints
from rankwell.training.loop import StepReport
from rankwell.training.optimizers import PlannedGroup
from rankwell.training.recipe import Recipe
from rankwell.training.resumed import Resumed
from rankwell.training.trained import Judgement, Trained, TrueProbabilities, judge, train

__all__ = ["EvaluatedRun", "action_table", "bundle_of", "by_action", "evaluate_run", "report_run", "train_runs"]

_SHOWN = ("auc", "log_loss", "debiased_ece", "ece", "calibration_ratio")


@final
@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """What a run is worth: tables to print, the recipe's notes, and flat numbers for ``--json``."""

    tables: tuple[Table, ...]
    notes: str
    numbers: Mapping[str, float]


def train_runs(
    recipe: Recipe,
    data: Path,
    *,
    seeds: Sequence[int],
    out: Path,
    on_plan: Callable[[Sequence[PlannedGroup]], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_resume: Callable[[Resumed], None] | None = None,
) -> EvaluatedRun:
    """Train and judge the recipe once a seed; write the bundle of the first seed.

    Checkpoints stand beside `out` until the last seed is done: a run that was killed trains no seed twice. Where `data`
    holds the truth of a simulated log, models are held against it, too. `on_plan` is told of the first seed's plan,
    which is that of all; `on_resume` of the checkpoint of each seed that goes on from one.
    """
    truth = _truth_beside(recipe, data)
    checkpoints = {seed: out.parent / f".{out.name}.checkpoints-{seed}" for seed in seeds}
    judgements, rows = [], []
    for seed in seeds:
        told = on_plan if seed == seeds[0] else None
        trained = train(
            recipe, data, seed=seed, checkpoints=checkpoints[seed], on_plan=told, on_step=on_step, on_resume=on_resume
        )
        judgement = judge(recipe, trained.model, trained.calibrators, data, truth=truth)
        if seed == seeds[0]:
            write_bundle(bundle_of(trained, recipe, judgement), out)
            if trained.model.tables:
                rows.append(row_table(trained.model.tables, f"{recipe.name}: rows after training, seed {seed}"))
        judgements.append(judgement)
    for folder in checkpoints.values():
        Checkpoints(folder, {}).clear()
    numbers: dict[str, float] = {}
    of_seeds = [judgement.numbers() for judgement in judgements]
    for name in of_seeds[0]:
        summary = _over_seeds([found[name] for found in of_seeds])
        numbers[f"{name}/mean"], numbers[f"{name}/sd"] = summary.mean, summary.sd
    first, title = judgements[0], f"{recipe.name}, test, calibrated, seed {seeds[0]}"
    worth = (_summary(recipe, judgements), first.calibrated.table(title), *_further_actions(recipe, first, title))
    return EvaluatedRun((*rows, *worth), recipe.notes, numbers)


def evaluate_run(bundle: Bundle, recipe: Recipe, data: Path) -> EvaluatedRun:
    """Judge a bundle on the recipe's test split."""
    judgement = _judged(bundle, recipe, data)
    calibrated = judgement.calibrated
    segments = tuple(calibrated.segment_table(name) for name in calibrated.segments)
    title = f"{recipe.name}, test, calibrated"
    further = _further_actions(recipe, judgement, title)
    tables = (_summary(recipe, [judgement]), calibrated.table(title), *further, *segments)
    return EvaluatedRun(tables, recipe.notes, judgement.numbers())


def report_run(bundle: Bundle, recipe: Recipe, data: Path, out: Path) -> Path:
    """Judge a bundle on the recipe's test split and write the HTML report."""
    judgement = _judged(bundle, recipe, data)
    name = type(bundle.model).__name__
    return write_report(
        ReportData(
            title=f"rankwell: {recipe.name}",
            subtitle=f"A {name} ranker on the test split of {recipe.name}.",
            models=(ModelResult(name, judgement.raw, judgement.calibrated),),
            headline=name,
            by_action=by_action(recipe, judgement),
            provenance={key: str(value) for key, value in bundle.provenance.items()},
            notes=(recipe.notes,) if recipe.notes else (),
        ),
        out,
    )


def _judged(bundle: Bundle, recipe: Recipe, data: Path) -> Judgement:
    # the bundle has its own label smoothing and segments, whatever the recipe says by now
    served = replace(recipe, label_smoothing=bundle.label_smoothing, calibrate_by=bundle.calibrate_by)
    return judge(served, bundle.model, bundle.calibrators, data, truth=_truth_beside(recipe, data))


def _truth_beside(recipe: Recipe, data: Path) -> TrueProbabilities | None:
    """The true clicks that `simulate` wrote into `data`; None where there are none.

    What else is called truth is left alone, told by its columns; a truth of another log raises where it is looked up.
    """
    parts = sorted((data / "truth").glob("part-*.parquet"))
    if not parts or recipe.schema.actions[0].name != "click":
        return None
    if not {"request_id", "p_click", "p_click_examined"} <= set(pq.read_schema(parts[0]).names):
        return None
    return true_clicks(read_truth(data))


def bundle_of(trained: Trained, recipe: Recipe, judgement: Judgement) -> Bundle:
    """The bundle of a trained recipe, with its metrics and where it came from."""
    return Bundle(
        model=trained.model,
        calibrators=trained.calibrators,
        created_us=time.time_ns() // 1000,
        metrics=judgement.numbers("test/"),
        provenance={
            "recipe": recipe.name,
            "seed": trained.seed,
            "splits": {part: f"{source.path}: {source.split}" for part, source in recipe.parts.items()},
            "epochs": [_told(row) for row in trained.history.to_rows()],
            "best_epoch": trained.history.best_epoch,
            "notes": recipe.notes,
        },
        label_smoothing=recipe.label_smoothing,
        calibrate_by=recipe.calibrate_by,
    )


def _told(row: Mapping[str, float]) -> dict[str, float | None]:
    """A row as JSON can say it: what is undefined is null."""
    return {name: None if math.isnan(value) else value for name, value in row.items()}


def _summary(recipe: Recipe, judgements: Sequence[Judgement]) -> Table:
    table = Table(title=f"{recipe.name}: test split, {len(judgements)} seed{'s' if len(judgements) > 1 else ''}")
    table.add_column("model")
    for heading in ("AUC", "log loss (nats)", "debiased ECE", "ECE", "calibration ratio"):
        table.add_column(heading, justify="right")
    for other in recipe.published:
        table.add_row(f"{other.name} ({other.source})", f"{other.auc:.4f}", f"{other.log_loss:.4f}", "", "", "")
    table.add_section()
    for stage, evaluations in _stages(judgements).items():
        summaries = [_over_seeds([numbers[name] for numbers in evaluations]) for name in _SHOWN]
        table.add_row(f"rankwell, {stage}", *map(_mean_and_sd_shown, summaries))
    bayes = [judgement.calibrated.truth.bayes_log_loss for judgement in judgements if judgement.calibrated.truth]
    if bayes:
        table.add_row("the truth (Bayes)", "", _mean_and_sd_shown(_over_seeds(bayes)), "", "", "")
    null = _over_seeds([judgement.calibrated.ece_null.mean for judgement in judgements])
    table.add_row("a true model's ECE, by chance", "", "", "0", f"{null.mean:.4f}", "")
    return table


def by_action(recipe: Recipe, judgement: Judgement) -> dict[str, Evaluation]:
    """The calibrated evaluation of every action, the first one first."""
    return {recipe.schema.actions[0].name: judgement.calibrated, **judgement.others}


def action_table(evaluations: Mapping[str, Evaluation], title: str) -> Table:
    """A line an action: what it is worth after calibration, and how sure that is."""
    table = Table(title=title)
    table.add_column("action")
    for heading in ("happened", "AUC", "log loss", "ECE (by chance)", "predicted/observed"):
        table.add_column(heading, justify="right")  # 80 columns in all
    for action, found in evaluations.items():
        interval = found.calibration_ratio_interval
        table.add_row(
            action,
            f"{found.num_positives:,}",
            number(found.auc, 4),
            number(found.log_loss, 4),
            f"{number(found.ece, 4)} ({number(found.ece_null.mean, 4)})",
            f"{number(found.calibration_ratio, 2)} [{number(interval.low, 2)}, {number(interval.high, 2)}]",
        )
    return table


def _further_actions(recipe: Recipe, judgement: Judgement, title: str) -> tuple[Table, ...]:
    evaluations = by_action(recipe, judgement)
    return (action_table(evaluations, f"{title}, every action"),) if len(evaluations) > 1 else ()


def _stages(judgements: Sequence[Judgement]) -> dict[str, list[dict[str, float]]]:
    return {
        "raw": [judgement.raw.numbers() for judgement in judgements],
        "calibrated": [judgement.calibrated.numbers() for judgement in judgements],
    }


def _over_seeds(values: Sequence[float]) -> MeanAndSd:
    return mean_and_sd(values) if len(values) > 1 else MeanAndSd(values[0], math.nan, 1)


def _mean_and_sd_shown(summary: MeanAndSd) -> str:
    return f"{summary.mean:.4f} ± {summary.sd:.4f}" if summary.count > 1 else f"{summary.mean:.4f}"

"""Models side by side: one row a number, one column a model, and how to read each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

from rankwell.app.number_format import number
from rankwell.evaluation.intervals import Interval
from rankwell.evaluation.report import Evaluation
from rankwell.training.history import TrainingHistory

__all__ = ["Cell", "ComparisonRow", "ModelResult", "comparison_rows"]

Better = Literal["higher", "lower", "nearer 1"]


@final
@dataclass(frozen=True, slots=True)
class ModelResult:
    """One trained model on the test split.

    Args:
        name: As a reader knows it, as "Wide & Deep".
        before: Its probabilities as trained, before calibration.
        after: Its probabilities as served.
        history: How its training went; None for what was not trained by the loop.
    """

    name: str
    before: Evaluation
    after: Evaluation
    history: TrainingHistory | None = None


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """One number of one model: its text, a note beneath it, and whether it is the best of its row."""

    text: str
    note: str = ""
    is_best: bool = False


@final
@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One number of all models.

    Args:
        name: Of the number.
        reading: How to read it, in a few words.
        better: Where better lies.
        cells: One a model.
        truth: What the true probabilities score; "" where nobody knows.
    """

    name: str
    reading: str
    better: Better
    cells: tuple[Cell, ...]
    truth: str


def comparison_rows(models: Sequence[ModelResult]) -> list[ComparisonRow]:
    """The rows of the comparison; a number that no model has is left out.

    Args:
        models: Evaluated on the same rows.

    Returns:
        Rows about order first, then about probabilities, then about the distance to the truth.
    """
    truth = next((model.after.truth for model in models if model.after.truth is not None), None)
    positions = max((k for model in models for k in model.after.ndcg), default=0)

    def row(
        name: str,
        reading: str,
        better: Better,
        value: Callable[[ModelResult], float | None],
        *,
        digits: int = 4,
        note: Callable[[ModelResult], str] = lambda _: "",
        truth: str = "",
    ) -> ComparisonRow:
        values = [value(model) for model in models]
        best = _best(values, better, digits)
        cells = zip(models, values, strict=True)
        return ComparisonRow(
            name,
            reading,
            better,
            tuple(
                Cell(number(v, digits), note(model), is_best=v is not None and round(v, digits) in best)
                for model, v in cells
            ),
            truth,
        )

    rows = [
        row("AUC", "chance that a candidate with the action stands above one without; 0.5 is guessing", "higher",
            lambda m: m.after.auc),
        row("GAUC", "the same within one request, which is where ranking happens", "higher", lambda m: m.after.gauc),
        row(f"nDCG@{positions}", f"how much of the best possible order the first {positions} places hold; 1 is all",
            "higher", lambda m: m.after.ndcg.get(positions)),
        row(f"MRR@{positions}", "1 / place of the first candidate with the action, on average", "higher",
            lambda m: m.after.mrr.get(positions)),
        row("Log loss", "surprise at what happened, in nats, after calibration", "lower", lambda m: m.after.log_loss,
            truth="" if truth is None else number(truth.realised_log_loss, 4)),
        row("Normalized entropy", "log loss as a share of always predicting the mean; below 1 has learned something",
            "lower", lambda m: m.after.normalized_entropy),
        row("ECE before calibration", "mean gap of predicted and observed rate; below it, what chance seldom exceeds",
            "lower", lambda m: m.before.ece, note=_chance("before")),
        row("ECE after calibration", "the same for the probabilities that are served", "lower", lambda m: m.after.ece,
            note=_chance("after")),
        row("Calibration ratio before", "predicted / observed; above 1 is over-confident", "nearer 1",
            lambda m: m.before.calibration_ratio, digits=3, note=lambda m: _range(m.before.calibration_ratio_interval),
            truth="" if truth is None else "1"),
        row("Calibration ratio after", "the same for the probabilities that are served", "nearer 1",
            lambda m: m.after.calibration_ratio, digits=3, note=lambda m: _range(m.after.calibration_ratio_interval),
            truth="" if truth is None else "1"),
        row("Excess log loss", "nats lost to not knowing the truth, in expectation", "lower",
            lambda m: m.after.truth.excess_log_loss if m.after.truth else None, truth="0"),
        row("Mean |p − true p|", "distance to the true probability of each candidate", "lower",
            lambda m: m.after.truth.mean_absolute_error if m.after.truth else None, truth="0"),
    ]  # fmt: skip
    return [row for row in rows if any(cell.text != number(None, 0) for cell in row.cells)]


def _best(values: Sequence[float | None], better: Better, digits: int) -> set[float]:
    """The best shown value, as rounded; none where there is nothing to compare or all look the same."""
    shown = {round(value, digits) for value in values if value is not None and not math.isnan(value)}
    if len(shown) < 2:
        return set()
    if better == "higher":
        return {max(shown)}
    if better == "lower":
        return {min(shown)}
    nearest = min(round(abs(value - 1), digits) for value in shown)
    return {value for value in shown if round(abs(value - 1), digits) == nearest}


def _chance(which: Literal["before", "after"]) -> Callable[[ModelResult], str]:
    def note(model: ModelResult) -> str:
        null = (model.before if which == "before" else model.after).ece_null
        return "" if math.isnan(null.p95) else f"by chance ≤ {number(null.p95, 4)}"

    return note


def _range(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"{number(interval.low, 3)} to {number(interval.high, 3)}"

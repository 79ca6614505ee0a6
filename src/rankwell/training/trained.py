"""A recipe carried out: a trained model, a calibrator for each action, and what they are worth on a split.

Letters: C candidates, flat · A actions · S segment columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.split import Part
from rankwell.data.statistics import measure_numerics
from rankwell.evaluation.report import Evaluation, evaluate
from rankwell.evaluation.sample import Floats
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.training.history import TrainingHistory
from rankwell.training.loop import StepReport, fit
from rankwell.training.predictions import Predictions, predict
from rankwell.training.recipe import FitCalibrator, Recipe

__all__ = ["Judgement", "Trained", "TrueProbabilities", "calibrate", "judge", "train"]

TrueProbabilities = Callable[[Predictions], Floats]
"""The true probabilities of the first action for predictions of a simulated log, from outside of training."""


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What training a recipe gives.

    Args:
        model: In eval mode, holding the weights of its best epoch.
        calibrators: By action, fitted on the calibrate split.
        history: Epoch by epoch.
        seconds: Wall time by stage.
        seed: It was trained with.
    """

    model: Model
    calibrators: Mapping[str, Calibrator]
    history: TrainingHistory
    seconds: Mapping[str, float]
    seed: int


@final
@dataclass(frozen=True, slots=True)
class Judgement:
    """The first action on one split: logits at their word, and calibrated."""

    raw: Evaluation
    calibrated: Evaluation


def train(
    recipe: Recipe,
    data: Path,
    *,
    seed: int,
    checkpoints: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> Trained:
    """Measure numerics on train, train on train, stop by tune, calibrate on calibrate. Test is not touched.

    Args:
        recipe: What to do.
        data: The folder that the recipe's logs stand in.
        seed: Of the model, the order of batches and dropout.
        checkpoints: Folder for checkpoints; a run that was killed goes on from there.
        on_step: Called after each step.

    Raises:
        RankwellError: Whatever is wrong with the recipe or the data, by its own class.
    """
    clock = _Stopwatch()
    batches = recipe.batches("train", data, seed=seed)
    statistics = measure_numerics((batch for _, batch in batches.epoch(0)), recipe.schema)
    clock.lap("measure numerics")
    model = recipe.build(statistics, seed)
    history = fit(
        model, recipe.objective(recipe.schema), recipe.optimizers, batches, recipe.batches("tune", data, seed=None),
        recipe.loop, seed=seed, checkpoints=checkpoints, on_step=on_step,
    )  # fmt: skip
    clock.lap("train")
    held_out = predict(model, (batch for _, batch in recipe.batches("calibrate", data, seed=None).epoch(0)))
    calibrators = calibrate(recipe.calibrate, held_out, recipe.schema, recipe.label_smoothing)
    clock.lap("calibrate")
    return Trained(model, calibrators, history, clock.seconds, seed)


def calibrate(
    fit_calibrator: FitCalibrator, held_out: Predictions, schema: Schema, label_smoothing: float
) -> dict[str, Calibrator]:
    """A calibrator for each action, on its observed labels, after label smoothing is undone.

    Raises:
        CalibrationError: An action has one class only in `held_out`.
    """
    calibrators = {}
    for index, action in enumerate(schema.actions):
        logits_C, labels_C, weights_C, _ = held_out.of_action(index)
        logits_C = undo_label_smoothing(logits_C, label_smoothing)
        calibrators[action.name] = fit_calibrator(logits_C, labels_C, weights_C, _no_segments(len(logits_C)))
    return calibrators


def judge(
    recipe: Recipe,
    model: Model,
    calibrators: Mapping[str, Calibrator],
    data: Path,
    *,
    part: Part = "test",
    truth: TrueProbabilities | None = None,
) -> Judgement:
    """Evaluate the first action on one split, before and after calibration.

    Args:
        recipe: Says where the split is, and by which segments to report.
        model: Gives the logits.
        calibrators: By action.
        data: The folder that the recipe's logs stand in.
        part: By default test.
        truth: Where the log was simulated.
    """
    batches = recipe.batches(part, data, seed=None)
    predictions = predict(model, (batch for _, batch in batches.epoch(0)), recipe.segments)
    logits_C, labels_C, weights_C, known_C = predictions.of_action(0)
    logits_C = undo_label_smoothing(logits_C, recipe.label_smoothing)
    true_C = truth(predictions)[known_C] if truth is not None else None
    kinds = (Uncalibrated(), calibrators[recipe.schema.actions[0].name])
    raw, calibrated = (
        evaluate(
            kind(logits_C, _no_segments(len(logits_C))),
            logits_C,
            labels_C,
            weights_C,
            request_C=predictions.request_C[known_C],
            segments={name: column[known_C].numpy() for name, column in predictions.segments.items()},
            true_probabilities_C=true_C,
            seed=0,
        )
        for kind in kinds
    )
    return Judgement(raw, calibrated)


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._since
        self._since = now


def _no_segments(num_candidates: int) -> Tensor:
    return torch.zeros(num_candidates, 0, dtype=torch.int64)

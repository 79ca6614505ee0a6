"""A recipe carried out: a trained model, a calibrator for each action, and what they are worth on a split.

Letters: C candidates, flat · A actions · S segment columns.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.split import Part
from rankwell.data.statistics import measure_numerics
from rankwell.errors import CalibrationError, RecipeError
from rankwell.evaluation.report import Evaluation, evaluate
from rankwell.evaluation.sample import Floats
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy, binary_cross_entropy
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.training.estimator import Estimator, fit_estimator
from rankwell.training.history import TrainingHistory
from rankwell.training.loop import StepReport, fit
from rankwell.training.objectives import Objective
from rankwell.training.optimizers import PlannedGroup
from rankwell.training.predictions import Predictions, predict
from rankwell.training.recipe import FitCalibrator, Recipe
from rankwell.training.resumed import Resumed

__all__ = ["Judgement", "Trained", "TrueProbabilities", "calibrate", "judge", "train"]

TrueProbabilities = Callable[[Predictions], Floats]
"""The true probabilities of the first action for predictions of a simulated log, from outside of training."""


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What training a recipe gives.

    Args:
        model: In eval mode, holding the weights of its best epoch, or as its estimator fitted it.
        calibrators: By action, fitted on the calibrate split; they take logits whose label smoothing was undone.
        history: Epoch by epoch.
        seconds: Wall time by stage: "measure numerics", "train", "calibrate".
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
    """What a model is worth on one split.

    Args:
        raw: The first action, logits taken at their word.
        calibrated: The first action, calibrated.
        others: The further actions by name, calibrated; without segments.
    """

    raw: Evaluation
    calibrated: Evaluation
    others: Mapping[str, Evaluation] = field(default_factory=dict)

    def numbers(self, prefix: str = "") -> dict[str, float]:
        """All numbers as one flat dict: ``raw/…``, ``calibrated/…``, and ``calibrated/<action>/…`` of the others.

        Args:
            prefix: Put before each name.
        """
        numbers = self.raw.numbers(f"{prefix}raw/") | self.calibrated.numbers(f"{prefix}calibrated/")
        for action, evaluation in self.others.items():
            numbers |= evaluation.numbers(f"{prefix}calibrated/{action}/")
        return numbers


def train(
    recipe: Recipe,
    data: Path,
    *,
    seed: int,
    checkpoints: Path | None = None,
    on_plan: Callable[[Sequence[PlannedGroup]], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_resume: Callable[[Resumed], None] | None = None,
) -> Trained:
    """Measure numerics on train, train on train, stop by tune, calibrate on calibrate.

    Of test nothing is read but its times, where it is a log of its own. An estimator has no plan and takes no steps: it
    is fitted anew in each run, and what is told of steps and checkpoints is told of the loop's models alone.

    Args:
        recipe: What to do.
        data: The folder that the recipe's logs stand in.
        seed: Of the model, the order of batches and dropout, ≥ 0.
        checkpoints: Folder for checkpoints; a run that was killed goes on from there.
        on_plan: Told who moves what, before the first step.
        on_step: Called after each step.
        on_resume: Called before the first step, if there is a checkpoint to go on from.

    Raises:
        LogError: A log is not there, a split is empty, or a value does not keep the schema.
        LeakError: Parts come from different logs, and time goes backwards from one to the next.
        RecipeError: The parts of the recipe don't go together.
        TrainingError: Training diverged; `CheckpointError`, of its kind: see `rankwell.training.loop.fit`.
        CalibrationError: An action cannot be calibrated, because it has one class only in calibrate.
    """
    clock = _Stopwatch()
    objective = recipe.objective(recipe.schema)
    _check_smoothing(objective, recipe)
    logs = recipe.logs(data)
    batches = recipe.batches_of(logs["train"], "train", seed=seed)
    whole = dataclasses.replace(recipe, down_sampling=None)
    everything = whole.batches_of(logs["train"], "train", seed=seed) if recipe.down_sampling else batches
    statistics = measure_numerics(everything, recipe.schema)
    del everything
    clock.lap("measure numerics")
    tune = recipe.batches_of(logs["tune"], "tune", seed=None)
    if isinstance(recipe.build, Estimator):
        model, history = fit_estimator(recipe.build, recipe.schema, statistics, batches, tune, seed=seed)
    else:
        model = recipe.build(statistics, seed)
        if on_plan is not None:
            on_plan(recipe.optimizers.describe(model, objective))
        history = fit(
            model, objective, recipe.optimizers, batches, tune, recipe.loop, seed=seed, checkpoints=checkpoints,
            on_step=on_step, on_resume=on_resume,
        )  # fmt: skip
    del batches, tune  # and the decoded requests that they may keep
    clock.lap("train")
    held_out = recipe.batches_of(logs["calibrate"], "calibrate", seed=None)
    predictions = predict(model, held_out, recipe.calibrate_by)
    calibrators = calibrate(
        recipe.calibrate, predictions, recipe.schema, recipe.label_smoothing, by=recipe.calibrate_by
    )
    clock.lap("calibrate")
    return Trained(model, calibrators, history, clock.seconds, seed)


def calibrate(
    fit_calibrator: FitCalibrator,
    held_out: Predictions,
    schema: Schema,
    label_smoothing: float,
    *,
    by: Sequence[str] = (),
) -> dict[str, Calibrator]:
    """A calibrator for each action, on its observed labels, after label smoothing is undone.

    Args:
        fit_calibrator: Fits one.
        held_out: Of the calibrate split.
        schema: Names the actions.
        label_smoothing: ε that the model was trained with.
        by: Segment columns of `held_out` that it is fitted by, from coarse to fine.

    Raises:
        CalibrationError: An action cannot be calibrated, because it has one class only in `held_out`.

    >>> import torch
    >>> from rankwell.calibration.platt import fit_platt
    >>> from rankwell.schema import Action
    >>> logits_C, labels_C = torch.tensor([-1.0, 0.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    >>> ids_C = torch.arange(4)
    >>> held_out = Predictions(logits_C[:, None], labels_C[:, None], torch.ones(4), ids_C, ids_C, ids_C, {})
    >>> schema = Schema(features=(), actions=(Action(name="click"),))
    >>> calibrators = calibrate(fit_platt, held_out, schema, label_smoothing=0.0)
    >>> calibrators["click"](logits_C, torch.zeros(4, 0, dtype=torch.int64)).sum()  # as many as there were
    tensor(2.0000, dtype=torch.float64)
    """
    calibrators = {}
    for index, action in enumerate(schema.actions):
        logits_C, labels_C, weights_C, known_C = held_out.of_action(index)
        logits_C = undo_label_smoothing(logits_C, label_smoothing)
        try:
            calibrators[action.name] = fit_calibrator(logits_C, labels_C, weights_C, held_out.segments_CS(by)[known_C])
        except CalibrationError as error:
            raise CalibrationError(
                f"action {action.name!r} cannot be calibrated: {error.what}",
                found=error.found,
                allowed=error.allowed,
                do=error.do,
            ) from error
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
    """Evaluate every action on one split after calibration, and the first one before it, too.

    nDCG counts a graded action by its gains; all else counts it as 1 from its threshold on.

    Args:
        recipe: Says where the split is, and by which segments to report the first action.
        model: Gives the logits.
        calibrators: By action.
        data: The folder that the recipe's logs stand in.
        part: By default test.
        truth: Where the log was simulated.

    Raises:
        LogError: The log is not there, or doesn't keep its schema.
        RecipeError: There is no calibrator for an action.
        MetricError: Predictions or labels cannot be evaluated.
    """
    actions = [action.name for action in recipe.schema.actions]
    for action in actions:
        if action not in calibrators:
            raise RecipeError(
                f"no calibrator for action {action!r} of recipe {recipe.name!r}",
                found=sorted(calibrators),
                do="judge with the recipe that the calibrators were fitted by",
            )
    columns = dict.fromkeys((*recipe.segments, *recipe.calibrate_by))
    predictions = predict(model, recipe.batches(part, data, seed=None), tuple(columns))
    segments_CS = predictions.segments_CS(recipe.calibrate_by)

    def judged(index: int, calibrator: Calibrator) -> Evaluation:
        logits_C, labels_C, weights_C, known_C = predictions.of_action(index)
        logits_C = undo_label_smoothing(logits_C, recipe.label_smoothing)
        gains_C = predictions.gains.get(actions[index])
        segments = {name: predictions.segments[name] for name in recipe.segments} if index == 0 else {}
        return evaluate(
            calibrator(logits_C, segments_CS[known_C]),
            logits_C,
            labels_C,
            weights_C,
            request_C=predictions.request_C[known_C],
            gains_C=None if gains_C is None else gains_C[known_C],
            segments={name: column[known_C].numpy() for name, column in segments.items()},
            true_probabilities_C=truth(predictions)[known_C] if truth is not None and index == 0 else None,
            seed=0,
        )

    first, *others = (judged(index, calibrators[action]) for index, action in enumerate(actions))
    return Judgement(judged(0, Uncalibrated()), first, dict(zip(actions[1:], others, strict=True)))


def _check_smoothing(objective: Objective, recipe: Recipe) -> None:
    """Refuse logits that are unsmoothed by another ε than they were smoothed with; a recipe has one for all actions."""
    epsilons: dict[str, set[float]] = {}
    for term in objective.terms:
        if term.share:
            of_action = epsilons.setdefault(term.action, set())
            if isinstance(term.loss, SmoothedBinaryCrossEntropy):
                of_action.add(term.loss.epsilon)
            elif term.loss is binary_cross_entropy:
                of_action.add(0.0)
    for action, found in epsilons.items():
        found = found or {0.0}  # nothing but losses of the order, which smooth no labels
        if found != {recipe.label_smoothing}:
            raise RecipeError(
                f"recipe {recipe.name!r} undoes another label smoothing than its loss does",
                found=f"label_smoothing={recipe.label_smoothing}, and {sorted(found)} in the losses on {action!r}",
                allowed="one ε for all actions",
                do=f"set the recipe's label_smoothing to {max(found)}, and that of the losses on every action",
            )


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._since
        self._since = now

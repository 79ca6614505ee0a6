"""From a teacher that is too slow to a student inside a latency budget, and what that costs in quality.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rankwell.data.split import Part
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import BundleError, MetricError, RecipeError
from rankwell.evaluation.calibration_error import ece
from rankwell.evaluation.discrimination import auc, log_loss
from rankwell.losses.distillation import Distillation
from rankwell.losses.label_smoothing import undo_label_smoothing
from rankwell.models.model import Model
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.schema import Schema
from rankwell.serving.budget import Latency, measure_latency, requests_of_size
from rankwell.serving.budget_fit import TEACHER, Budget, BudgetFit, Form, Quality, Shape, Tried
from rankwell.serving.bundle import Bundle
from rankwell.serving.scorer import Scorer
from rankwell.training.distillation_objective import DistillationObjective
from rankwell.training.objectives import Objective, binary_labels
from rankwell.training.predictions import predict
from rankwell.training.recipe import Recipe
from rankwell.training.teacher import ModelTeacher, RecordedTeacher, record_logits
from rankwell.training.trained import train
from rankwell.types import Batch

__all__ = ["MakeScorer", "fit_budget", "student_settings"]

MakeScorer = Callable[[Bundle, Form], Scorer]
"""An engine: how a bundle, in a form of serving, becomes something that answers requests."""


def student_settings(teacher: TransformerSettings, shape: Shape) -> TransformerSettings:
    """The teacher's settings at another size: layers and widths of history and list, and no wider than they were.

    Rows stay as wide, so that they can be started from the teacher's.
    """
    width = shape.width
    history, among = teacher.history, teacher.list
    if history is not None:
        history = history.model_copy(
            update={"num_layers": min(shape.num_layers, history.num_layers), "width": min(width, history.width)}
        )
    if among is not None:
        among = among.model_copy(update={"num_layers": min(shape.num_layers, among.num_layers)})
    hidden = tuple(max(1, round(size * width / teacher.width)) for size in teacher.hidden)
    return teacher.model_copy(update={"width": width, "hidden": hidden, "history": history, "list": among})


def fit_budget(
    teacher: Bundle,
    recipe: Recipe,
    data: Path,
    budget: Budget,
    *,
    engine: MakeScorer,
    steps: Mapping[str, Callable[[Form], Form]],
    seed: int,
    now_us: Callable[[], int],
    clock_s: Callable[[], float],
    say: Callable[[str], None] = lambda _: None,
) -> BudgetFit:
    """Find the student that fills the budget best, teach it, calibrate it anew, and try to make it faster still.

    Shapes are timed before anything is trained, since time does not depend on weights. Of those inside the budget up to
    `max_students` are trained, the slowest first and the others spread evenly down to the fastest, since a larger
    student need not be a better one; the one of least log loss on tune is taken. Then each further step
    is tried upon what was kept so far: it is kept if it can be made, is measured faster and costs no more log loss than
    stated. A teacher that is inside the budget is kept, and no student is trained.

    Args:
        teacher: Its model is a `RankingTransformer`.
        recipe: The log, its splits, and how students are trained and calibrated; its `build` is not used.
        data: The folder of its logs.
        budget: What is asked.
        engine: Serves teacher and students alike.
        steps: By name, what each changes about the form of serving that was kept so far; tried in this order.
        seed: Of students and batches.
        now_us: For the bundle's time.
        clock_s: Seconds; what is measured is its difference over a request.
        say: Told what is going on.

    Raises:
        RecipeError: The teacher is no `RankingTransformer`, or recipe and teacher do not fit each other.
        LogError: A split is empty or not there.
    """
    search = _Search(teacher, recipe, data, budget, engine, seed, now_us, clock_s, say)
    taught = search.teacher()
    taught, students, bundles = search.students(taught)
    if taught.is_kept:
        chosen, bundle = TEACHER, teacher
    else:
        best = min(
            (student for student in students if student.name in bundles), key=lambda s: s.tune.log_loss, default=None
        )
        if best is None:
            return BudgetFit(bundle=None, form=Form(), teacher=taught, students=students, steps=(), test={})
        chosen, bundle = best.name, bundles[best.name]
        kept = replace(best, is_kept=True, verdict="kept: the least log loss on tune")
        students = tuple(kept if student is best else student for student in students)
    tried, form = search.further(bundle, chosen, steps)
    test = {TEACHER: search.quality(teacher, "test")}
    if chosen != TEACHER:
        test[chosen] = search.quality(bundle, "test")
    if form != Form():
        kept_last = [step.name for step in tried if step.is_kept][-1]
        test[kept_last] = _scored(engine(bundle, form), search.single_requests("test"))
    return BudgetFit(bundle=bundle, form=form, teacher=taught, students=students, steps=tried, test=test)


class _Search:
    def __init__(
        self,
        teacher: Bundle,
        recipe: Recipe,
        data: Path,
        budget: Budget,
        engine: MakeScorer,
        seed: int,
        now_us: Callable[[], int],
        clock_s: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        model = teacher.model
        if not isinstance(model, RankingTransformer):
            raise RecipeError(
                "a student of this model cannot be sized", found=type(model).__name__, allowed="a RankingTransformer",
                do="train the teacher as one, or build a student by hand: see DistillationObjective",
            )  # fmt: skip
        if model.schema.to_json() != recipe.schema.to_json():
            raise RecipeError(
                "teacher and recipe are of different schemas", found=recipe.name,
                do="give the recipe that the teacher was trained by, or one of the same schema",
            )  # fmt: skip
        self._bundle, self._model, self._recipe, self._data, self._budget = teacher, model, recipe, data, budget
        self._engine, self._whole = engine, engine(teacher, Form())
        self._seed, self._now_us, self._clock_s, self._say = seed, now_us, clock_s, say
        self._timed = requests_of_size(
            recipe.batches("tune", data, seed=seed), num_candidates=budget.num_candidates,
            num_requests=budget.num_requests,
        )  # fmt: skip

    def teacher(self) -> Tried:
        latency = self._latency({TEACHER: self._whole})[TEACHER]
        is_kept = latency.p95_ms <= self._budget.p95_ms
        verdict = "kept: inside the budget" if is_kept else self._over(latency)
        self._say(f"{TEACHER}: P95 {latency.p95_ms:.1f} ms, {verdict}")
        tune = self.quality(self._bundle, "tune")
        return Tried(name=TEACHER, latency=latency, tune=tune, is_kept=is_kept, verdict=verdict)

    def students(self, taught: Tried) -> tuple[Tried, tuple[Tried, ...], dict[str, Bundle]]:
        """The teacher, timed again in turns with all shapes; the shapes, fastest first; bundles of those trained."""
        sized = {shape: self._untrained(shape) for shape in self._budget.shapes}
        scorers = {str(shape): self._engine(bundle, Form()) for shape, bundle in sized.items() if bundle is not None}
        latencies = self._latency({TEACHER: self._whole, **scorers})
        if not taught.is_kept:
            taught = replace(taught, latency=latencies[TEACHER], verdict=self._over(latencies[TEACHER]))
        order = sorted((s for s in sized if str(s) in latencies), key=lambda s: latencies[str(s)].p95_ms)
        fits = [shape for shape in order if latencies[str(shape)].p95_ms <= self._budget.p95_ms]
        trained = {} if taught.is_kept else self._trained(_spread(fits[::-1], self._budget.max_students))
        students = []
        for shape in order:
            name = str(shape)
            if name in trained:
                tune = self.quality(trained[name], "tune")
                lost = tune.log_loss - taught.tune.log_loss
                students.append(
                    Tried(name=name, latency=latencies[name], tune=tune, verdict=f"{lost:+.4f} nats to the teacher")
                )
            else:
                why = "not trained: others that fit stand for it" if shape in fits else "refused: over the budget"
                students.append(Tried(name=name, latency=latencies[name], verdict=why))
        return taught, tuple(students), trained

    def further(
        self, bundle: Bundle, name: str, steps: Mapping[str, Callable[[Form], Form]]
    ) -> tuple[tuple[Tried, ...], Form]:
        """Each step upon what was kept before it, and the form that is left."""
        tried, form = list[Tried](), Form()
        if not steps:
            return (), form
        held_out, kept = self.single_requests("tune"), self._engine(bundle, form)
        worth = _scored(kept, held_out)
        for step, change in steps.items():
            self._say(f"{name}: {step}")
            try:
                scorer = self._engine(bundle, change(form))
                latency, quality = self._latency({name: kept, step: scorer}), _scored(scorer, held_out)
            except (BundleError, MetricError) as error:  # what was trained is not to be lost by what cannot be added
                untimed = Latency(math.nan, math.nan, math.nan, 0)
                tried.append(Tried(name=step, latency=untimed, verdict=f"refused: {error.what}"))
                continue
            speed_up = latency[name].p50_ms / latency[step].p50_ms
            lost = quality.log_loss - worth.log_loss
            verdict = f"{speed_up:.2f} times as fast, {lost:+.5f} nats"
            is_kept = speed_up >= self._budget.least_speed_up and lost <= self._budget.most_lost
            tried.append(
                Tried(
                    name=step, latency=latency[step], tune=quality, is_kept=is_kept,
                    verdict=f"{'kept' if is_kept else 'refused'}: {verdict}",
                )
            )  # fmt: skip
            if is_kept:
                form, kept, worth = change(form), scorer, quality
        return tuple(tried), form

    def quality(self, bundle: Bundle, part: Part) -> Quality:
        batches = self._recipe.batches(part, self._data, seed=None)
        predictions = predict(bundle.model, batches, bundle.calibrate_by)
        logits_C, labels_C, weights_C, known_C = predictions.of_action(0)
        logits_C = undo_label_smoothing(logits_C, bundle.label_smoothing)
        calibrator = bundle.calibrators[bundle.schema.actions[0].name]
        probabilities_C = calibrator(logits_C, predictions.segments_CS(bundle.calibrate_by)[known_C])
        return _quality_of(logits_C, probabilities_C, labels_C, weights_C)

    def single_requests(self, part: Part) -> list[Batch]:
        """A split's requests with their labels, each a batch of its own, as a server meets them."""
        return list(replace(self._recipe, num_requests=1).batches(part, self._data, seed=None))

    def _over(self, latency: Latency) -> str:
        return f"{latency.p95_ms / self._budget.p95_ms:.1f} times the budget"

    def _latency(self, scorers: Mapping[str, Scorer]) -> dict[str, Latency]:
        return measure_latency(scorers, self._timed, clock_s=self._clock_s)

    def _untrained(self, shape: Shape) -> Bundle | None:
        """With random weights; None where the teacher's settings have no such size."""
        try:
            model = self._build(shape, self._model.statistics, self._seed)
        except RecipeError as error:
            self._say(f"student {shape}: {error.what}")
            return None
        return replace(self._bundle, model=model.eval())

    def _trained(self, shapes: Sequence[Shape]) -> dict[str, Bundle]:
        if not shapes:
            return {}
        self._say("the teacher answers for train")
        teacher = ModelTeacher(self._model, label_smoothing=self._bundle.label_smoothing)
        whole = replace(self._recipe, down_sampling=None)  # a thinned list is not what the teacher was trained to judge
        record = record_logits(teacher, whole.batches("train", self._data, seed=None))
        return {str(shape): self._student(shape, record) for shape in shapes}

    def _student(self, shape: Shape, record: RecordedTeacher) -> Bundle:
        self._say(f"student {shape}: training")
        budget, recipe = self._budget, self._recipe

        def objective(schema: Schema) -> Objective:
            loss = Distillation(budget.temperature)
            return DistillationObjective(schema, record, recipe.objective(schema), loss=loss, share=budget.share)

        lesson = replace(recipe, build=partial(self._build, shape), objective=objective)
        trained = train(lesson, self._data, seed=self._seed)
        return Bundle(
            model=trained.model,
            calibrators=trained.calibrators,
            created_us=self._now_us(),
            provenance={
                "recipe": recipe.name, "seed": self._seed, "taught_by": repr(record), "shape": str(shape),
                "share": budget.share, "temperature": budget.temperature,
            },
            label_smoothing=recipe.label_smoothing,
            calibrate_by=recipe.calibrate_by,
        )  # fmt: skip

    def _build(self, shape: Shape, statistics: NumericStatistics, seed: int) -> Model:
        settings = self._model.settings
        assert isinstance(settings, TransformerSettings)
        return RankingTransformer(self._recipe.schema, statistics, student_settings(settings, shape), seed=seed)


def _spread(shapes: Sequence[Shape], most: int) -> list[Shape]:
    """At most so many of them, evenly apart, the first among them."""
    if len(shapes) <= most:
        return list(shapes)
    last = len(shapes) - 1
    return [shapes[round(k * last / max(most - 1, 1))] for k in range(most)]


def _scored(scorer: Scorer, held_out: Sequence[Batch]) -> Quality:
    """By what a scorer answers, request by request."""
    logits, probabilities = [], []
    for batch in held_out:
        scores = scorer.score(batch)
        logits.append(scores.logits_CA[:, 0])
        probabilities.append(scores.probabilities_CA[:, 0])
    action = scorer.schema.actions[0]
    labels_C = torch.cat([binary_labels(action, batch.targets.labels_CA[:, 0]) for batch in held_out])
    weights_C = torch.cat([batch.targets.weights_C for batch in held_out])
    known_C = ~labels_C.isnan()
    return _quality_of(
        torch.cat(logits)[known_C], torch.cat(probabilities)[known_C], labels_C[known_C], weights_C[known_C]
    )


def _quality_of(logits_C: Tensor, probabilities_C: Tensor, labels_C: Tensor, weights_C: Tensor) -> Quality:
    ranked_C = torch.sigmoid(logits_C.double())
    return Quality(
        auc=auc(ranked_C, labels_C, weights_C),
        log_loss=log_loss(probabilities_C, labels_C, weights_C),
        ece=ece(probabilities_C, labels_C, weights_C),
    )

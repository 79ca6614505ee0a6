"""A budget is kept by what was measured, a student learns from its teacher, and a step is kept only if it earns it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rankwell.errors import BundleError, RecipeError
from rankwell.models.candidate_list import ListSettings
from rankwell.models.history import HistorySettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Schema
from rankwell.serving.budget import Latency
from rankwell.serving.budget_fit import TEACHER, Budget, BudgetFit, Form, Quality, Shape, Tried
from rankwell.serving.bundle import Bundle
from rankwell.serving.scorer import EagerScorer, Scorer, Scores
from rankwell.serving.student_search import fit_budget, student_settings
from rankwell.simulation.recipe import marketplace_recipe
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.training.recipe import Recipe
from rankwell.training.trained import train
from rankwell.types import Batch

SETTINGS = TransformerSettings(
    row_width=4, width=16, hidden=(32,), init_scale=0.3,
    history=HistorySettings(width=8, num_layers=3, num_heads=2), list=ListSettings(num_layers=3),
)  # fmt: skip
SHAPES = (Shape(1, 8), Shape(2, 8), Shape(2, 16), Shape(2, 15))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marketplace")
    simulate(MarketplaceSettings(num_members=60, num_jobs=40), 3, num_requests=250, directory=folder)
    return folder


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    plain = marketplace_recipe()
    return replace(
        plain,
        build=lambda statistics, seed: RankingTransformer(plain.schema, statistics, SETTINGS, seed=seed),
        loop=replace(plain.loop, max_epochs=1),
    )


@pytest.fixture(scope="module")
def teacher(data: Path, recipe: Recipe) -> Bundle:
    trained = train(recipe, data, seed=0)
    return Bundle(model=trained.model, calibrators=trained.calibrators, created_us=1)


class Clock:
    """Moved by scorers alone."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Timed(Scorer):
    """Answers as a bundle does, but for a shift, and takes as long as it is told."""

    def __init__(self, bundle: Bundle, clock: Clock, seconds: float, shift: float = 0.0) -> None:
        self._inner, self._clock, self._seconds, self._shift = EagerScorer(bundle), clock, seconds, shift

    @property
    def schema(self) -> Schema:
        """See `Scorer`."""
        return self._inner.schema

    @property
    def calibrate_by(self) -> tuple[str, ...]:
        """See `Scorer`."""
        return self._inner.calibrate_by

    def score(self, batch: Batch) -> Scores:
        """See `Scorer`."""
        self._clock.now_s += self._seconds
        scores = self._inner.score(batch)
        moved_CA = torch.sigmoid(torch.logit(scores.probabilities_CA) + self._shift)
        return Scores(scores.logits_CA + self._shift, moved_CA)


def size_of(bundle: Bundle) -> Shape:
    settings = bundle.model.settings
    assert isinstance(settings, TransformerSettings)
    assert settings.list is not None
    return Shape(settings.list.num_layers, settings.width)


def fitted(
    teacher: Bundle,
    recipe: Recipe,
    data: Path,
    budget: Budget,
    milliseconds: Mapping[Shape, float],
    steps: Mapping[Form, tuple[float, float]] | None = None,
    changes: Mapping[str, Callable[[Form], Form]] | None = None,
) -> BudgetFit:
    """With times by shape, and other forms by their time and what they shift logits by."""
    clock = Clock()

    def engine(bundle: Bundle, form: Form) -> Scorer:
        if form == Form():
            return Timed(bundle, clock, milliseconds[size_of(bundle)] / 1e3)
        if form not in (steps or {}):
            raise BundleError("the quantiser does not take the graph", found="an Einsum")
        ms, shift = (steps or {})[form]
        return Timed(bundle, clock, ms / 1e3, shift)

    return fit_budget(
        teacher, recipe, data, budget, engine=engine, steps=changes or {}, seed=0, now_us=lambda: 7, clock_s=clock
    )


TIMES = {Shape(3, 16): 200.0, Shape(1, 8): 10.0, Shape(2, 8): 30.0, Shape(2, 16): 80.0}


def budget(p95_ms: float, *, max_students: int = 3) -> Budget:
    return Budget(p95_ms=p95_ms, num_candidates=20, num_requests=5, shapes=SHAPES, max_students=max_students)


def test_the_students_inside_the_budget_are_trained_and_the_best_is_kept(
    teacher: Bundle, recipe: Recipe, data: Path
) -> None:
    fit = fitted(teacher, recipe, data, budget(50.0), TIMES)
    assert fit.teacher.latency.p95_ms == pytest.approx(200.0)
    assert fit.teacher.verdict == "4.0 times the budget"
    assert [student.name for student in fit.students] == ["1 × 8", "2 × 8", "2 × 16"]  # 15 has no four heads
    assert fit.students[2].verdict == "refused: over the budget"
    assert math.isnan(fit.students[2].tune.auc)
    trained = [student for student in fit.students if not math.isnan(student.tune.auc)]
    assert [student.name for student in trained] == ["1 × 8", "2 × 8"]
    (kept,) = (student for student in fit.students if student.is_kept)
    assert kept.tune.log_loss == min(student.tune.log_loss for student in trained)
    assert fit.bundle is not None
    assert str(size_of(fit.bundle)) == kept.name
    assert fit.bundle.created_us == 7
    assert str(fit.bundle.provenance["taught_by"]).startswith("RecordedTeacher(")
    assert (fit.steps, fit.form) == ((), Form())
    assert set(fit.test) == {TEACHER, kept.name}
    assert all(0.3 < quality.auc < 1 for quality in fit.test.values())


def test_a_step_is_kept_if_it_is_faster_and_costs_little_and_the_next_builds_on_it(
    teacher: Bundle, recipe: Recipe, data: Path
) -> None:
    forms = {
        Form("int8"): (195.0, 0.0),
        Form(dense="dynamic int8"): (100.0, 0.0),
        Form("int8", "dynamic int8"): (50.0, 0.0),
        Form(dense="static int8"): (10.0, 3.0),
    }
    changes: dict[str, Callable[[Form], Form]] = {
        "not to be made": lambda form: replace(form, dense="float16"),
        "hardly faster": lambda form: replace(form, rows="int8"),
        "wrong": lambda form: replace(form, dense="static int8"),
        "faster": lambda form: replace(form, dense="dynamic int8"),
        "and faster upon that": lambda form: replace(form, rows="int8"),
    }
    fit = fitted(teacher, recipe, data, budget(300.0), {**TIMES, Shape(3, 16): 199.0}, forms, changes)
    assert {step.name: step.is_kept for step in fit.steps} == {
        "not to be made": False, "hardly faster": False, "wrong": False, "faster": True, "and faster upon that": True,
    }  # fmt: skip
    assert fit.steps[0].verdict == "refused: the quantiser does not take the graph"
    assert math.isnan(fit.steps[0].latency.p95_ms)
    assert fit.steps[1].verdict == "refused: 1.02 times as fast, +0.00000 nats"
    assert fit.steps[3].verdict == "kept: 1.99 times as fast, +0.00000 nats"
    assert fit.steps[4].verdict == "kept: 2.00 times as fast, +0.00000 nats"
    assert fit.form == Form("int8", "dynamic int8")
    assert list(fit.test) == [TEACHER, "and faster upon that"]


def test_of_those_that_fit_the_slowest_is_trained_first(teacher: Bundle, recipe: Recipe, data: Path) -> None:
    fit = fitted(teacher, recipe, data, budget(50.0, max_students=1), TIMES)
    assert {s.name: s.verdict for s in fit.students if not s.is_kept} == {
        "1 × 8": "not trained: others that fit stand for it", "2 × 16": "refused: over the budget",
    }  # fmt: skip
    assert [student.name for student in fit.students if student.is_kept] == ["2 × 8"]


def test_students_are_spread_over_those_that_fit(teacher: Bundle, recipe: Recipe, data: Path) -> None:
    times = {Shape(3, 16): 200.0, Shape(1, 8): 10.0, Shape(2, 8): 30.0, Shape(2, 16): 40.0}
    fit = fitted(teacher, recipe, data, budget(50.0, max_students=2), times)
    assert [student.name for student in fit.students if not math.isnan(student.tune.auc)] == ["1 × 8", "2 × 16"]


def test_a_teacher_that_fits_stays(teacher: Bundle, recipe: Recipe, data: Path) -> None:
    fit = fitted(teacher, recipe, data, budget(200.5), TIMES)
    assert fit.bundle is teacher
    assert fit.teacher.is_kept
    assert not any(student.is_kept for student in fit.students)
    assert set(fit.test) == {TEACHER}


def test_where_nothing_fits_there_is_no_bundle(teacher: Bundle, recipe: Recipe, data: Path) -> None:
    fit = fitted(teacher, recipe, data, budget(9.0), TIMES)
    assert fit.bundle is None
    assert all(student.verdict == "refused: over the budget" for student in fit.students)
    assert fit.test == {}


def test_what_cannot_be_sized_is_refused(teacher: Bundle, recipe: Recipe, data: Path) -> None:
    logistic = Logistic(recipe.schema, teacher.model.statistics, seed=0)
    with pytest.raises(RecipeError, match="cannot be sized"):
        fitted(replace(teacher, model=logistic), recipe, data, budget(50.0), TIMES)
    clicks = recipe.schema.model_copy(update={"actions": recipe.schema.actions[:1]})
    with pytest.raises(RecipeError, match="different schemas"):
        fitted(teacher, replace(recipe, schema=clicks), data, budget(50.0), TIMES)


@pytest.mark.parametrize(
    "wrong", [{"p95_ms": 0.0}, {"p95_ms": math.inf}, {"shapes": ()}, {"most_lost": -1.0}, {"least_speed_up": 0.9}]
)
def test_budgets_out_of_range_are_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(RecipeError, match="budget"):
        replace(budget(50.0), **wrong)


def test_sizes_shrink_and_never_grow() -> None:
    small = student_settings(SETTINGS, Shape(2, 4))
    assert small.history is not None
    assert small.list is not None
    assert (small.width, small.hidden, small.row_width) == (4, (8,), 4)
    assert (small.history.width, small.history.num_layers, small.list.num_layers) == (4, 2, 2)
    large = student_settings(SETTINGS, Shape(9, 64))
    assert large.history is not None
    assert large.list is not None
    assert (large.history.width, large.history.num_layers, large.list.num_layers) == (8, 3, 3)


def test_the_frontier_joins_teacher_students_and_steps() -> None:
    def tried(name: str, p95_ms: float, auc: float) -> Tried:
        return Tried(name=name, latency=Latency(1.0, p95_ms, p95_ms, 9), tune=Quality(auc=auc))

    fit = BudgetFit(
        bundle=None, form=Form(), teacher=tried(TEACHER, 200.0, 0.80), test={},
        students=(tried("1 × 8", 9.0, 0.71), tried("2 × 8", 20.0, 0.70), tried("untrained", 1.0, math.nan)),
        steps=(tried("int8", 5.0, 0.7),),
    )  # fmt: skip
    assert fit.frontier() == ("int8", "1 × 8", TEACHER)

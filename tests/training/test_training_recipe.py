"""Recipes: read from files, refused where they make no sense, carried out from the first log to the calibrators.

Letters: C candidates, flat.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from training_example import JOBS, everything, jobs_table, same, without_times

from rankwell.calibration.isotonic import fit_isotonic
from rankwell.calibration.platt import fit_platt
from rankwell.calibration.segment_tree import SegmentTree, fit_segment_tree
from rankwell.data.split import PARTS, HashSplit, Part, TimeSplit, WholeLog
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import CalibrationError, LeakError, LogError, RecipeError
from rankwell.evaluation.ranking_quality import ndcg_at_k
from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Schema
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.loop import LoopSettings
from rankwell.training.objectives import ActionObjective, LossTerm, PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import Predictions, predict
from rankwell.training.recipe import LogPart, Recipe, read_recipe
from rankwell.training.trained import calibrate, judge, train

HASHED = HashSplit(train=0.6, tune=0.1, calibrate=0.2, test=0.1)
TIMED = JOBS.model_copy(update={"time": "time_us"})


def recipe_of(schema: Schema = JOBS, parts: dict[Part, LogPart] | None = None, **changed: object) -> Recipe:
    log = LogPart(path="log.parquet", layout="flat", split=HASHED)
    recipe = Recipe(
        name="jobs",
        schema=schema,
        parts=parts or dict.fromkeys(PARTS, log),
        build=lambda statistics, seed: Logistic(schema, statistics, seed=seed),
        optimizers=OptimizerPlan(dense=DenseAdamW(learning_rate=0.02), linear_rows=RowWiseAdaGrad(learning_rate=0.3)),
        loop=LoopSettings(max_epochs=4, anneal_to=0.1),
        num_requests=64,
        calibrate=fit_platt,
    )
    return dataclasses.replace(recipe, **changed)  # type: ignore[arg-type]


def smoothed_recipe(smoothed: float, undone: float) -> Recipe:
    def objective(schema: Schema) -> PointwiseObjective:
        return PointwiseObjective(schema, SmoothedBinaryCrossEntropy(smoothed))

    return recipe_of(objective=objective, label_smoothing=undone)


# --- files -----------------------------------------------------------------------------------------------------------

WHOLE_FILE = """
from rankwell.data.split import PARTS, TimeSplit
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.training.recipe import LogPart, Recipe

SCHEMA = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),))

def build(statistics, seed):
    return Logistic(SCHEMA, statistics, seed=seed)

def recipe():
    return Recipe(name="mine", schema=SCHEMA, parts=dict.fromkeys(PARTS, LogPart(path="a", split=TimeSplit())),
                  build=build)
"""


def test_a_file_holds_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(WHOLE_FILE)
    recipe = read_recipe(tmp_path / "mine.py")
    assert recipe.name == "mine"
    assert recipe.build(NumericStatistics(), 0).schema == recipe.schema  # its globals are still there


def test_a_file_may_hold_several(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(WHOLE_FILE + "\ndef other():\n    return replace(recipe(), name='other')\n")
    text = (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text("from dataclasses import replace\n" + text)
    assert read_recipe(f"{tmp_path}/mine.py:other").name == "other"
    assert read_recipe(f"{tmp_path}/mine.py:recipe").name == read_recipe(f"{tmp_path}/mine.py").name == "mine"
    with pytest.raises(RecipeError, match=r"holds no recipe; found: no function third\(\); allowed: a function third"):
        read_recipe(f"{tmp_path}/mine.py:third")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "mine.py holds no recipe; found: no function recipe(); allowed: a function recipe() -> Recipe"),
        ("recipe = 3", "mine.py holds no recipe; found: no function recipe()"),
        ("def recipe(): return 'soup'", "mine.py holds no recipe; found: recipe() returned str"),
        ("def recipe(): pass", "mine.py holds no recipe; found: recipe() returned NoneType"),
        ("\n\ndef recipe():\n    return {}['a']", "mine.py fails in line 4; found: KeyError: 'a'"),
        ("def recipe(x): return x", "mine.py fails; found: TypeError: recipe() missing 1 required positional argument"),
        ("x = 1\nimport nothing_called_so", "mine.py fails in line 2; found: ModuleNotFoundError: No module named"),
        ("x = 1\ny = (", "mine.py fails in line 2; found: SyntaxError: '(' was never closed"),
        (WHOLE_FILE.replace("split=TimeSplit()", "split=TimeSplit(train=2.0)"),
         "mine.py, line 13: the fractions of a split don't add up to 1; found: {'train': 2.0"),
        (WHOLE_FILE.replace('name="job"', 'name="job", num_ids=-1'), "mine.py, line 7: Categorical.num_ids"),
    ],
)  # fmt: skip
def test_files_without_a_recipe_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(RecipeError, match=re.escape(message)):
        read_recipe(tmp_path / "mine.py")


def test_no_file(tmp_path: Path) -> None:
    for place in (tmp_path / "none.py", tmp_path):
        with pytest.raises(RecipeError, match=rf"(?s)no recipe at {re.escape(str(place))};.*name a Python file"):
            read_recipe(place)


# --- what makes no sense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parts": {"train": None, "test": None}}, r"lacks parts.*found: \['test', 'train'\]; allowed: \['train',"),
        ({"parts": dict.fromkeys((*PARTS, "valid"))}, r"lacks parts, or has unknown ones.*'valid'"),
        ({"num_requests": 0}, "batches without requests; found: 0"),
        ({"label_smoothing": 1.0}, "label smoothing cannot use this epsilon; found: 1.0"),
        ({"segments": ("job", "town")}, r"unknown segments; found: \['town'\]; allowed: \['job'\]"),
        ({"calibrate_by": ("town",)}, r"calibrates by what is not there .*; found: \['town'\]; allowed: \['job'\]"),
        ({"segments": ("match",)}, r"unknown segments; found: \['match'\]"),  # a number is no segment
    ],
)  # fmt: skip
def test_recipes_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_of(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("smoothed", "undone"), [(0.1, 0.0), (0.0, 0.1), (0.1, 0.2)])
def test_smoothing_and_its_inversion_go_together(smoothed: float, undone: float, tmp_path: Path) -> None:
    recipe = recipe_of(
        objective=lambda schema: PointwiseObjective(schema, SmoothedBinaryCrossEntropy(smoothed)),
        label_smoothing=undone,
    )
    with pytest.raises(RecipeError, match=rf"another label smoothing.*\n.*label_smoothing to {smoothed}"):
        train(recipe, tmp_path, seed=0)


def test_the_labels_of_all_actions_are_smoothed_alike(tmp_path: Path) -> None:
    """A bundle has one ε: what is unsmoothed though it was not smoothed would be no log-odds."""
    schema = JOBS.model_copy(update={"actions": (Action(name="click"), Action(name="apply"))})
    smoothed = LossTerm("click", SmoothedBinaryCrossEntropy(0.1))

    def with_terms(*terms: LossTerm) -> Recipe:
        return recipe_of(schema, objective=lambda schema: ActionObjective(schema, terms), label_smoothing=0.1)

    with pytest.raises(RecipeError, match=r"and \[0.0\] in the losses on 'apply'; allowed: one ε for all actions"):
        train(with_terms(smoothed, LossTerm("apply")), tmp_path, seed=0)
    with pytest.raises(RecipeError, match=r"and \[0.0, 0.1\] in the losses on 'click'"):  # half of each is ε = .05
        train(with_terms(smoothed, LossTerm("click")), tmp_path, seed=0)

    def of_order(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        return logits_C.sum()

    for terms in ((smoothed,), (smoothed, LossTerm("click", of_order)), (smoothed, LossTerm("apply", share=0.0))):
        with pytest.raises(LogError):  # past the door: it looks for the log, which is not there
            train(with_terms(*terms), tmp_path, seed=0)


# --- the order of time -----------------------------------------------------------------------------------------------


def timed_log(path: Path, first_us: int, last_us: int, num_rows: int = 40) -> None:
    table, _ = jobs_table(num_rows, first_us)
    times = pa.array(np.linspace(first_us, last_us, num_rows).astype(np.int64))
    pq.write_table(table.append_column("time_us", times), path)


def parts_of(**paths: str) -> dict[Part, LogPart]:
    return {part: LogPart(path=paths[part], layout="flat", split=WholeLog(part)) for part in PARTS}


SPANS = {"a": (0, 99), "b": (100, 199), "c": (200, 299), "d": (300, 399), "over_a_and_b": (50, 150)}


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spans")
    for name, (first, last) in SPANS.items():
        timed_log(folder / name, first, last)
    return folder


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("a c b d", "from 'tune' to 'calibrate'.*'calibrate' begins at 100 µs, 0.000199 s before 'tune' ends"),
        ("b a c d", "from 'train' to 'tune'"),
        ("a b d c", "from 'calibrate' to 'test'"),
        ("a over_a_and_b c d", "from 'train' to 'tune'.*begins at 50 µs"),
    ],
)
def test_time_that_goes_backwards_is_refused(paths: str, message: str, spans: Path) -> None:
    recipe = recipe_of(TIMED, parts_of(**dict(zip(PARTS, paths.split(), strict=True))))
    with pytest.raises(LeakError, match=rf"(?s)time goes backwards {message}.*cut the files at one time"):
        train(recipe, spans, seed=0)


def test_time_that_goes_on_is_not(spans: Path) -> None:
    trained = train(recipe_of(TIMED, parts_of(train="a", tune="b", calibrate="c", test="d")), spans, seed=0)
    assert set(trained.calibrators) == {"click"}


def test_one_log_split_otherwise_is_not(spans: Path) -> None:
    later = LogPart(path="b", layout="flat", split=HashSplit(train=0.0, tune=0.4, calibrate=0.4, test=0.2))
    parts: dict[Part, LogPart] = {
        **dict.fromkeys(PARTS, later), "train": LogPart(path="a", layout="flat", split=WholeLog("train")),
    }  # fmt: skip
    logs = recipe_of(TIMED, parts).logs(spans)
    assert logs["tune"] is logs["calibrate"] is logs["test"]
    assert logs["train"] is not logs["tune"]


def test_logs_that_overlap_but_are_cut_at_one_time_are_not(spans: Path) -> None:
    cut = TimeSplit.at(75, 100, 130)
    parts = {part: LogPart(path="a" if part == "train" else "over_a_and_b", layout="flat", split=cut) for part in PARTS}
    assert len(recipe_of(TIMED, parts).logs(spans)) == 4  # train ends at 75, and all else begins there
    backwards = {**parts, "train": LogPart(path="a", layout="flat", split=TimeSplit.at(80, 100, 130))}
    with pytest.raises(LeakError, match="from 'train' to 'tune'"):
        recipe_of(TIMED, backwards).logs(spans)


def test_a_log_without_time_says_nothing_of_it(spans: Path) -> None:
    assert len(recipe_of(JOBS, parts_of(train="d", tune="c", calibrate="b", test="a")).logs(spans)) == 4


def test_every_log_is_there_before_training_begins(spans: Path) -> None:
    with pytest.raises(LogError, match="nowhere"):
        train(recipe_of(TIMED, parts_of(train="a", tune="b", calibrate="c", test="nowhere")), spans, seed=0)


# --- carried out -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float]]:
    """A log of 12,000 rows, and the true probability of each by its number, which hash splits and predictions know."""
    folder = tmp_path_factory.mktemp("jobs")
    table, true_C = jobs_table(12_000, 21)
    pq.write_table(table, folder / "log.parquet")
    return folder, dict(enumerate(true_C.tolist()))


def test_a_recipe_is_carried_out(data: tuple[Path, dict[int, float]], tmp_path: Path) -> None:
    folder, true_by_id = data
    recipe = recipe_of(segments=("job",))
    trained = train(recipe, folder, seed=3, checkpoints=tmp_path / "checkpoints")
    assert not trained.model.training
    assert trained.seed == 3
    assert list(trained.seconds) == ["measure numerics", "train", "calibrate"]

    def truth(predictions: Predictions) -> np.ndarray:
        return np.array([true_by_id[i] for i in predictions.request_ids_C.tolist()])

    judgement = judge(recipe, trained.model, trained.calibrators, folder, truth=truth)
    assert judgement.raw.truth is not None
    assert judgement.raw.truth.excess_log_loss < 0.004
    assert judgement.calibrated.truth is not None
    assert judgement.calibrated.truth.excess_log_loss < 0.005
    assert judgement.calibrated.num_candidates == pytest.approx(1200, abs=150)
    assert len(judgement.raw.segments["job"]) == 8
    again = train(recipe, folder, seed=3)
    assert same(everything(trained.model), everything(again.model))
    assert without_times(trained.history) == without_times(again.history)
    assert torch.equal(trained.calibrators["click"].slope, again.calibrators["click"].slope)


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_label_smoothing_is_inverted_end_to_end(epsilon: float, data: tuple[Path, dict[int, float]]) -> None:
    """Before any calibrator the probabilities are near the truth; without the inversion they are far off."""
    folder, true_by_id = data
    recipe = recipe_of(
        objective=lambda schema: PointwiseObjective(schema, SmoothedBinaryCrossEntropy(epsilon)),
        label_smoothing=epsilon,
    )
    trained = train(recipe, folder, seed=0)

    def truth(predictions: Predictions) -> np.ndarray:
        return np.array([true_by_id[i] for i in predictions.request_ids_C.tolist()])

    def error(recipe: Recipe) -> float:
        distances = judge(recipe, trained.model, trained.calibrators, folder, truth=truth).raw.truth
        assert distances is not None
        return distances.mean_absolute_error

    assert error(recipe) < 0.03
    if epsilon:
        assert error(dataclasses.replace(recipe, label_smoothing=0.0)) > 0.05  # ε/2 of 0.1 at either end


def test_calibrating_one_class_names_the_action(tmp_path: Path) -> None:
    schema = JOBS.model_copy(update={"actions": (Action(name="click"), Action(name="apply"))})
    table, _ = jobs_table(400, 2)
    pq.write_table(table.append_column("apply", pa.array(np.zeros(400, np.int8))), tmp_path / "log.parquet")
    with pytest.raises(
        CalibrationError, match=r"(?s)action 'apply' cannot be calibrated: .*one class only;.*more time"
    ):
        train(recipe_of(schema, calibrate=fit_isotonic), tmp_path, seed=0)


def test_each_action_is_calibrated_on_what_was_observed_of_it() -> None:
    rng = np.random.default_rng(0)
    logits_CA = torch.from_numpy(rng.normal(size=(3000, 2))).float()
    true_CA = torch.sigmoid(logits_CA * torch.tensor([0.5, 2.0]) + torch.tensor([-1.0, 1.0]))
    labels_CA = (torch.from_numpy(rng.random((3000, 2))) < true_CA).float()
    labels_CA[:1000, 1] = torch.nan
    ids_C = torch.arange(3000)
    held_out = Predictions(logits_CA, labels_CA, torch.ones(3000), ids_C, ids_C, ids_C, {})
    schema = JOBS.model_copy(update={"actions": (Action(name="click"), Action(name="apply"))})
    calibrators = calibrate(fit_platt, held_out, schema, 0.0)
    found = [(float(c.slope), float(c.offset)) for c in (calibrators["click"], calibrators["apply"])]
    np.testing.assert_allclose(found, [(0.5, -1.0), (2.0, 1.0)], atol=0.2)
    known_C, _, _, mask_C = held_out.of_action(1)
    said_C = calibrators["apply"](known_C, torch.zeros(2000, 0, dtype=torch.int64))
    assert said_C.sum().item() == pytest.approx(labels_CA[mask_C, 1].sum().item(), rel=1e-4)


def test_calibrators_see_logits_whose_smoothing_is_undone() -> None:
    rng = np.random.default_rng(0)
    true_C = torch.from_numpy(rng.uniform(0.05, 0.95, 4000))
    labels_C = (torch.from_numpy(rng.random(4000)) < true_C).float()
    ids_C, learned_C = torch.arange(4000), torch.logit(0.8 * true_C + 0.1).float()  # what ε = 0.2 teaches
    held_out = Predictions(learned_C[:, None], labels_C[:, None], torch.ones(4000), ids_C, ids_C, ids_C, {})
    undone, as_it_is = (calibrate(fit_platt, held_out, JOBS, epsilon)["click"] for epsilon in (0.2, 0.0))
    assert float(undone.slope) == pytest.approx(1, abs=0.1)
    assert float(as_it_is.slope) > 1.3


def test_calibrators_are_fitted_and_judged_by_segment(data: tuple[Path, dict[int, float]]) -> None:
    folder, _ = data
    plain = recipe_of()
    by_job = dataclasses.replace(plain, calibrate=fit_segment_tree, calibrate_by=("job",))
    trained = train(by_job, folder, seed=3)
    tree = trained.calibrators["click"]
    assert isinstance(tree, SegmentTree)
    assert len(tree.slopes) == 1 + 8  # all, and each job
    swayed = SegmentTree(tree.parents, tree.values, tree.slopes, tree.offsets + torch.arange(9), tree.one_class)
    for calibrator, near in ((tree, True), (swayed, False)):
        judged = judge(by_job, trained.model, {"click": calibrator}, folder).calibrated
        assert (0.8 < judged.calibration_ratio < 1.25) is near
        assert judged.segments == {}  # it is calibrated by job, not reported by it


def test_judging_without_the_calibrator(data: tuple[Path, dict[int, float]]) -> None:
    folder, _ = data
    recipe = recipe_of()
    statistics = train(dataclasses.replace(recipe, loop=LoopSettings(max_epochs=1)), folder, seed=0).model.statistics
    model = recipe.build(statistics, 0)
    with pytest.raises(RecipeError, match=r"no calibrator for action 'click' of recipe 'jobs'; found: \['apply'\]"):
        judge(recipe, model, {"apply": fit_platt}, folder)  # type: ignore[dict-item]


def test_every_action_is_judged_by_its_own_calibrator_and_its_own_labels(tmp_path: Path) -> None:
    """The second action is graded, rarer, known of some rows only, and ranked within requests by its gains."""
    rng = np.random.default_rng(4)
    table, true_C = jobs_table(24_000, 5)
    grades_C = rng.binomial(3, 0.8 * true_C)
    known_C = rng.random(24_000) < 0.8
    stars = pa.array(grades_C.astype(np.int8), mask=~known_C)
    table = table.append_column("stars", stars).append_column("stars_observed", pa.array(known_C))
    pq.write_table(table.append_column("request_id", pa.array(np.arange(24_000) // 6)), tmp_path / "log.parquet")
    actions = (Action(name="click"), Action(name="stars", kind="graded", threshold=3, gains=(0, 1, 2, 10)))
    recipe = recipe_of(JOBS.model_copy(update={"actions": actions, "request_id": "request_id"}), segments=("job",))
    trained = train(recipe, tmp_path, seed=0)
    judgement = judge(recipe, trained.model, trained.calibrators, tmp_path)
    assert list(judgement.others) == ["stars"]
    found, of_clicks = judgement.others["stars"], judgement.calibrated
    assert found.num_candidates < 0.9 * of_clicks.num_candidates
    assert found.mean_observed == pytest.approx(np.mean((0.8 * true_C) ** 3), rel=0.25)
    assert found.calibration_ratio_interval.contains(1.0)
    assert of_clicks.calibration_ratio_interval.contains(1.0)
    assert found.segments == {}
    assert len(of_clicks.segments["job"]) > 0

    predictions = predict(trained.model, recipe.batches("test", tmp_path, seed=None))
    logits_C, _, weights_C, mask_C = predictions.of_action(1)
    p_C = trained.calibrators["stars"](logits_C.double(), torch.zeros(len(logits_C), 0, dtype=torch.int64))
    gains_C, request_C = predictions.gains["stars"][mask_C], predictions.request_C[mask_C]
    assert found.ndcg[5] == pytest.approx(ndcg_at_k(p_C, gains_C, weights_C, request_C=request_C, k=5), rel=1e-9)

    numbers = judgement.numbers("test/")
    assert numbers["test/calibrated/stars/auc"] == found.auc
    assert numbers["test/calibrated/auc"] == of_clicks.auc
    assert numbers["test/raw/auc"] == judgement.raw.auc
    assert not any(name.startswith("test/raw/stars") for name in numbers)
    with pytest.raises(RecipeError, match="no calibrator for action 'stars'"):
        judge(recipe, trained.model, {"click": trained.calibrators["click"]}, tmp_path)

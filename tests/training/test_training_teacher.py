"""Teachers say what they know, of the right candidates, and are never changed by being asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from training_example import everything, same

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.down_sampling import DownSampling, DropNegatives, MuteNegatives
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.errors import LogError, RecipeError
from rankwell.losses.label_smoothing import smooth_labels
from rankwell.models.history import HistorySettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.stepper import Stepper
from rankwell.training.teacher import MeanTeacher, ModelTeacher, RecordedTeacher, borrow_rows, record_logits
from rankwell.types import Batch

LOG = log_from_table(every_kind_table(24, 0), EVERY_KIND, layout="requests")


def batches(num_requests: int = 8, seed: int | None = None, sampling: DownSampling | None = None) -> Batches:
    return Batches(LOG, WholeLog("train"), "train", num_requests=num_requests, seed=seed, sampling=sampling)


STATISTICS = measure_numerics(batches(), EVERY_KIND)
SETTINGS = TransformerSettings(row_width=4, width=8, hidden=(16,), dropout=0.3, history=HistorySettings(width=8))


def trained(settings: TransformerSettings = SETTINGS, seed: int = 0) -> RankingTransformer:
    model = RankingTransformer(EVERY_KIND, STATISTICS, settings, seed=seed)
    stepper = Stepper(model.train(), PointwiseObjective(EVERY_KIND), OptimizerPlan(), seed=seed)
    for batch in batches():
        stepper.step(batch)
    model.eval()
    return model


def told(teacher: ModelTeacher | RecordedTeacher, of: Iterable[Batch]) -> dict[tuple[int, int], Tensor]:
    """Logits by request and place in its list."""
    found = {}
    for batch in of:
        logits_CA, features = teacher.logits_CA(batch), batch.features
        for c, request in enumerate(features.request_C.tolist()):
            found[int(batch.audit.request_ids_R[request]), c - int(features.offsets[request])] = logits_CA[c]
    return found


def test_a_model_answers_in_eval_mode_and_nothing_of_it_moves() -> None:
    model = trained()
    before = everything(model)
    teacher = ModelTeacher(model.train())
    assert not model.training
    (batch,) = batches(24)
    logits_CA = teacher.logits_CA(batch)
    assert not logits_CA.requires_grad
    assert torch.equal(logits_CA, teacher.logits_CA(batch))  # no dropout, no dropped ids
    assert torch.equal(logits_CA, model(batch.features))
    assert same(before, everything(model))
    assert teacher.actions == ("click", "stars")


def test_a_model_in_training_is_no_teacher() -> None:
    model = trained()
    teacher = ModelTeacher(model)
    model.train()
    (batch,) = batches(24)
    with pytest.raises(RecipeError, match="being trained"):
        teacher.logits_CA(batch)


def test_its_label_smoothing_is_undone() -> None:
    model = trained()
    (batch,) = batches(24)
    smoothed_CA = smooth_labels(model(batch.features).double().sigmoid(), 0.05)

    class Smoothed(torch.nn.Module):
        """Says what a model of that truth says that was trained on smoothed labels."""

        def forward(self, features: object) -> Tensor:
            return torch.logit(smoothed_CA).float()

    teacher = ModelTeacher(model, label_smoothing=0.05)
    teacher.model = Smoothed().eval()  # type: ignore[assignment]
    torch.testing.assert_close(teacher.logits_CA(batch), model(batch.features), rtol=1e-4, atol=1e-4)
    with pytest.raises(RecipeError, match="epsilon"):
        ModelTeacher(model, label_smoothing=1.0)


def test_a_record_finds_each_request_in_batches_of_any_order() -> None:
    teacher = ModelTeacher(trained())
    recorded = record_logits(teacher, batches(5, seed=3))
    expected = told(teacher, batches(24))
    for num_requests, seed in ((24, None), (7, 1), (1, 2)):
        found = told(recorded, batches(num_requests, seed))
        assert found.keys() == expected.keys()
        for place, logits_A in found.items():
            torch.testing.assert_close(logits_A, expected[place], rtol=1e-5, atol=1e-6)
    assert recorded.actions == teacher.actions


def test_a_record_gives_one_answer_whatever_else_is_in_the_batch() -> None:
    recorded = record_logits(ModelTeacher(trained()), batches(5))
    one, other = told(recorded, batches(24)), told(recorded, batches(2, seed=4))
    assert all(torch.equal(one[place], other[place]) for place in one)


def test_muted_candidates_are_found_and_dropped_ones_refused() -> None:
    recorded = record_logits(ModelTeacher(trained()), batches(5))
    assert told(recorded, batches(24, sampling=MuteNegatives(0.5))).keys() == told(recorded, batches(24)).keys()
    with pytest.raises(LogError, match=r"number of candidates|other candidates|not there"):
        told(recorded, batches(24, sampling=DropNegatives(0.3)))


def test_what_was_not_recorded_is_refused() -> None:
    first, second, *_ = batches(8)
    recorded = record_logits(ModelTeacher(trained()), [first])
    with pytest.raises(LogError, match="not there"):
        recorded.logits_CA(second)
    items_C = first.audit.item_ids_C.clone()
    items_C[0] += 1
    with pytest.raises(LogError, match="other candidates"):
        recorded.logits_CA(replace(first, audit=replace(first.audit, item_ids_C=items_C)))
    empty = record_logits(ModelTeacher(trained()), [])
    assert empty.actions == ("click", "stars")
    with pytest.raises(LogError, match="not there"):
        empty.logits_CA(first)
    with pytest.raises(LogError, match="fit together"):
        record_logits(ModelTeacher(trained()), [first, first])


def test_teachers_are_told_apart() -> None:
    names = {repr(ModelTeacher(trained(seed=0))), repr(ModelTeacher(trained(seed=1)))}
    names.add(repr(ModelTeacher(trained(seed=0), label_smoothing=0.1)))
    recorded = record_logits(ModelTeacher(trained(seed=0)), batches())
    names |= {repr(recorded), repr(replace(recorded, record_CA=recorded.record_CA + 1e-6))}
    assert len(names) == 5
    assert repr(ModelTeacher(trained(seed=0))) in names


def test_borrowed_rows_are_the_teachers_and_stay_so_when_a_rule_comes() -> None:
    teacher = trained()
    shallow = SETTINGS.model_copy(update={"history": HistorySettings(width=4, num_layers=0), "list": None})
    student = RankingTransformer(EVERY_KIND, STATISTICS, shallow, seed=5)
    assert borrow_rows(student, teacher) == tuple(f"deep/{name}" for name in teacher.tables["deep"].names)
    (batch,) = batches(24)

    def rows(model: RankingTransformer) -> Tensor:
        inputs = model.inputs(batch.features)
        return torch.cat([inputs.candidate_CN.flatten(), inputs.event_HW["history"].flatten()])

    OptimizerPlan(linear_rows=Ftrl(), default_rows=RowWiseAdaGrad()).start(student, PointwiseObjective(EVERY_KIND))
    student.eval()
    assert student.tables["deep"].num_seen == teacher.tables["deep"].num_seen > 0
    assert torch.equal(rows(student), rows(teacher))
    assert student.tables["wide"].num_seen == 0
    narrow = RankingTransformer(EVERY_KIND, STATISTICS, SETTINGS.model_copy(update={"row_width": 2}), seed=0)
    with pytest.raises(RecipeError, match="cannot start"):
        borrow_rows(narrow, teacher)


def test_a_mean_is_that_of_probabilities() -> None:
    first, second = ModelTeacher(trained()), ModelTeacher(trained(seed=1))
    mean = MeanTeacher([first, second])
    assert list(mean.actions) == list(first.actions)
    for batch in batches():
        one_CA, other_CA = (teacher.logits_CA(batch).double().sigmoid() for teacher in (first, second))
        found_CA = mean.logits_CA(batch)
        assert found_CA.dtype == torch.float32
        torch.testing.assert_close(found_CA.double().sigmoid(), (one_CA + other_CA) / 2, atol=1e-7, rtol=1e-6)
    assert repr(mean) == repr(MeanTeacher([first, second])) != repr(MeanTeacher([second, first]))


def test_a_mean_of_far_logits_stays_finite_and_of_one_is_that_one() -> None:
    class Asked:
        actions = ("click",)

        def __init__(self, logits: list[float]) -> None:
            self.logits = torch.tensor(logits).unsqueeze(1)

        def logits_CA(self, batch: Batch) -> Tensor:
            return self.logits

    batch = next(iter(batches()))
    far = MeanTeacher([Asked([200.0, -200.0, 80.0, torch.nan]), Asked([190.0, -190.0, -80.0, 1.0])])
    assert far.logits_CA(batch).flatten().tolist() == pytest.approx(
        [190.69315, -190.69315, 0.0, torch.nan], nan_ok=True
    )
    alone = [-30.0, -1.5, 0.0, 2.5, 30.0]
    assert MeanTeacher([Asked(alone)]).logits_CA(batch).flatten().tolist() == pytest.approx(alone)


def test_teachers_of_other_actions_have_no_mean() -> None:
    def of(*actions: str) -> RecordedTeacher:
        none = torch.zeros(0, dtype=torch.int64)
        return RecordedTeacher(actions, none, torch.zeros(1, dtype=torch.int64), none, torch.zeros(0, len(actions)))

    for teachers in ([], [of("click"), of("like")], [of("click", "like"), of("like", "click")]):
        with pytest.raises(RecipeError, match="same actions"):
            MeanTeacher(teachers)

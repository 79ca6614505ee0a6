"""Distillation: nothing to learn from oneself, gradients to the student alone, and truth is worth more than labels.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_example import drawing_model, everything, fitted, in_order, jobs_log, same, shuffled

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.down_sampling import MuteNegatives
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.errors import CheckpointError, RecipeError
from rankwell.losses.distillation import Distillation, ListDistillation
from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy
from rankwell.simulation.recipe import LOGISTIC, marketplace_recipe, true_clicks
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.simulation.truth import read_truth
from rankwell.training.distillation_objective import DistillationObjective
from rankwell.training.examination_objective import ExaminationObjective
from rankwell.training.objectives import Objective, PointwiseObjective
from rankwell.training.predictions import predict
from rankwell.training.teacher import ModelTeacher, RecordedTeacher, Teacher, record_logits
from rankwell.training.trained import judge, train
from rankwell.types import Batch, Encoded

LOG = log_from_table(every_kind_table(24, 0), EVERY_KIND, layout="requests")


def batches(sampling: MuteNegatives | None = None, num_requests: int = 24) -> list[Batch]:
    read = Batches(LOG, WholeLog("train"), "train", num_requests=num_requests, seed=None, sampling=sampling)
    return list(read)


(WHOLE,) = batches()
NUM = WHOLE.features.num_candidates
GENERATOR = torch.Generator().manual_seed(0)
TAUGHT_CA = torch.randn(NUM, 2, generator=GENERATOR) * 2
LOGITS_CA = torch.randn(NUM, 2, generator=GENERATOR)


def recorded(taught_CA: Tensor = TAUGHT_CA, actions: tuple[str, ...] = ("click", "stars")) -> RecordedTeacher:
    features, audit = WHOLE.features, WHOLE.audit
    return RecordedTeacher(actions, audit.request_ids_R, features.offsets, audit.item_ids_C, taught_CA)


def encoded(batch: Batch) -> Encoded:
    return Encoded(torch.zeros(batch.features.num_requests, 0), torch.zeros(batch.features.num_candidates, 0), {})


def value(objective: Objective, batch: Batch = WHOLE, logits_CA: Tensor = LOGITS_CA) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, count and slope."""
    leaf_CA = logits_CA.clone().requires_grad_()
    loss, count = objective(encoded(batch), leaf_CA, batch)
    loss.backward()
    assert leaf_CA.grad is not None
    return loss.detach(), count, leaf_CA.grad


@pytest.mark.parametrize("loss", [Distillation(), Distillation(3.0), ListDistillation()], ids=repr)
def test_a_teacher_that_is_the_student_teaches_nothing(loss: Distillation | ListDistillation) -> None:
    objective = DistillationObjective(EVERY_KIND, recorded(), loss=loss, share=1.0)
    total, count, slope_CA = value(objective, logits_CA=TAUGHT_CA)
    assert total.abs() < 1e-4
    assert slope_CA.abs().max() < 1e-6
    assert count == value(PointwiseObjective(EVERY_KIND))[1]
    assert value(objective)[0] > 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_sum_is_that_of_a_plain_loop(temperature: float) -> None:
    weights_C = torch.rand(NUM, generator=torch.Generator().manual_seed(3))
    batch = dataclasses.replace(WHOLE, targets=dataclasses.replace(WHOLE.targets, weights_C=weights_C))
    objective = DistillationObjective(
        EVERY_KIND, recorded(), loss=Distillation(temperature), share=0.3, actions={"stars": 0.25}
    )
    labelled = value(PointwiseObjective(EVERY_KIND), batch)[0].item()
    taught = 0.0
    for a, share in ((0, 1.0), (1, 0.25)):
        for c in range(NUM):
            if not WHOLE.targets.observed_CA[c].any():
                continue
            p, q = (1 / (1 + math.exp(-float(x[c, a]) / temperature)) for x in (TAUGHT_CA, LOGITS_CA))
            divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
            taught += share * float(weights_C[c]) * temperature**2 * divergence
    assert value(objective, batch)[0].item() == pytest.approx(0.7 * labelled + 0.3 * taught, rel=1e-4)


def test_at_temperature_one_the_optimum_is_a_mean_of_label_and_teacher() -> None:
    label_CA, observed_CA = WHOLE.targets.labels_CA, WHOLE.targets.observed_CA
    mixed_CA = 0.75 * (label_CA >= torch.tensor([1.0, 3.0])) + 0.25 * TAUGHT_CA.sigmoid()
    _, _, slope_CA = value(DistillationObjective(EVERY_KIND, recorded(), share=0.25), logits_CA=torch.logit(mixed_CA))
    assert observed_CA.all()
    assert slope_CA.abs().max() < 1e-5


def test_gradients_reach_the_student_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_log(200, 1)
    teacher, student = drawing_model(jobs, seed=1).eval(), drawing_model(jobs)
    before = everything(teacher)
    objective = DistillationObjective(jobs.schema, ModelTeacher(teacher))
    assert not list(objective.parameters())
    assert not objective.state_dict()
    fitted(student, shuffled(jobs, 50), in_order(jobs), objective=objective)
    assert same(before, everything(teacher))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not same(everything(student), everything(drawing_model(jobs)))


def test_weight_zero_and_what_was_not_observed_are_not_taught() -> None:
    objective = DistillationObjective(EVERY_KIND, recorded(), share=0.5)
    absent = torch.tensor([0, 3, NUM - 1])
    targets = WHOLE.targets
    for changed in (
        {"weights_C": targets.weights_C.index_fill(0, absent, 0.0)},
        {"observed_CA": targets.observed_CA.index_fill(0, absent, False)},
    ):
        batch = dataclasses.replace(WHOLE, targets=dataclasses.replace(targets, **changed))
        total, count, slope_CA = value(objective, batch)
        assert not slope_CA[absent].any()
        assert count == value(PointwiseObjective(EVERY_KIND), batch)[1] < value(objective)[1]
        assert total < value(objective)[0]
    half_CA = targets.observed_CA.clone()
    half_CA[absent, 1] = False  # the click was observed: what the teacher says of the stars is all there is
    labels_CA = torch.where(half_CA, targets.labels_CA, math.nan)
    batch = dataclasses.replace(WHOLE, targets=dataclasses.replace(targets, observed_CA=half_CA, labels_CA=labels_CA))
    assert value(objective, batch)[2][absent, 1].all()


def test_what_the_teacher_does_not_know_is_not_taught() -> None:
    missing_CA = TAUGHT_CA.clone()
    missing_CA[[2, 5], 0] = torch.nan
    slope_CA = value(DistillationObjective(EVERY_KIND, recorded(missing_CA), share=1.0))[2]
    assert not slope_CA[[2, 5], 0].any()
    assert slope_CA[[2, 5], 1].all()
    only_stars = recorded(TAUGHT_CA[:, 1:], ("stars",))
    with pytest.raises(RecipeError, match="knows nothing of action 'click'"):
        DistillationObjective(EVERY_KIND, only_stars)
    objective = DistillationObjective(EVERY_KIND, only_stars, share=1.0, actions={"click": 0.0})
    slope_CA = value(objective, logits_CA=torch.cat([LOGITS_CA[:, :1], TAUGHT_CA[:, 1:]], 1))[2]
    assert slope_CA.abs().max() < 1e-6


def test_muted_negatives_teach_the_same_on_average() -> None:
    objective = DistillationObjective(EVERY_KIND, recorded(), share=0.5)
    whole = value(objective)
    sampled = [value(objective, batches(MuteNegatives(0.4, seed=seed))[0]) for seed in range(150)]
    for part in (0, 1):
        mean = torch.stack([one[part] for one in sampled]).mean()
        torch.testing.assert_close(mean, whole[part], rtol=0.03, atol=0.0)
    mean_CA = torch.stack([one[2] for one in sampled]).mean(0)
    torch.testing.assert_close(mean_CA, whole[2], rtol=0.0, atol=0.3)


def test_bounds_smoothed_labels_and_empty_goals_are_refused() -> None:
    smoothed = PointwiseObjective(EVERY_KIND, SmoothedBinaryCrossEntropy(0.05))
    with pytest.raises(RecipeError, match="smoothed beside a teacher"):
        DistillationObjective(EVERY_KIND, recorded(), smoothed)
    DistillationObjective(EVERY_KIND, recorded(), PointwiseObjective(EVERY_KIND, SmoothedBinaryCrossEntropy(0.0)))
    DistillationObjective(EVERY_KIND, None, smoothed)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(RecipeError, match="share"):
            DistillationObjective(EVERY_KIND, recorded(), share=share)
    with pytest.raises(RecipeError, match="this share"):
        DistillationObjective(EVERY_KIND, recorded(), actions={"click": -1.0})
    with pytest.raises(RecipeError, match="nothing to minimise"):
        DistillationObjective(EVERY_KIND, recorded(), share=1.0, actions={"click": 0.0, "stars": 0.0})


def test_what_bends_the_logits_for_labels_leaves_the_teachers_alone() -> None:
    bent = ExaminationObjective(EVERY_KIND, num_positions=4)
    objective = DistillationObjective(EVERY_KIND, recorded(), bent, share=0.5)
    labelled, _, slope_CA = value(bent, logits_CA=TAUGHT_CA)
    total, _, both_CA = value(objective, logits_CA=TAUGHT_CA)  # the model is its teacher: only the labels pull
    assert total.item() == pytest.approx(0.5 * labelled.item(), rel=1e-5)
    torch.testing.assert_close(both_CA, 0.5 * slope_CA, rtol=1e-4, atol=1e-6)
    assert any(name.startswith("inner.") for name, _ in objective.named_parameters())


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_recorded", [False, True], ids=["model", "record"])
def test_stopped_and_gone_on_is_bit_equal(is_recorded: bool, tmp_path: Path) -> None:
    jobs, tune = jobs_log(200, 1), jobs_log(100, 2)

    def taught(folder: Path | None, stop: int, share: float = 0.5) -> dict[str, Tensor]:
        teacher: Teacher = ModelTeacher(drawing_model(jobs, seed=9))
        if is_recorded:
            teacher = record_logits(teacher, in_order(jobs, 64))
        steps = 0

        def on_step(_: object) -> None:
            nonlocal steps
            steps += 1
            if steps == stop:
                raise KeyboardInterrupt

        model = drawing_model(jobs)
        objective = DistillationObjective(jobs.schema, teacher, share=share)
        fitted(model, shuffled(jobs, 50), in_order(tune), checkpoints=folder, on_step=on_step, objective=objective)
        return everything(model)

    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path, stop=7)
    assert same(taught(tmp_path, stop=0), taught(None, stop=0))
    with pytest.raises(CheckpointError):  # a run with another teaching is another run
        taught(tmp_path, stop=0, share=0.4)


# --- worth -----------------------------------------------------------------------------------------------------------


def test_the_true_logits_teach_more_than_few_labels(tmp_path: Path) -> None:
    paths = simulate(MarketplaceSettings(), 5, num_requests=1_500, directory=tmp_path)
    truth = read_truth(paths.truth)
    whole = marketplace_schema()
    recipe = marketplace_recipe(LOGISTIC, schema=whole.model_copy(update={"actions": whole.actions[:1]}))
    in_log = recipe.batches("train", tmp_path, seed=None)

    class Oracle:
        """Knows p(click) at the position where the candidate stood."""

        actions = ("click",)

        def logits_CA(self, batch: Batch) -> Tensor:
            p_C = truth.of_requests(batch.audit.request_ids_R.numpy()).probabilities["click"]
            return torch.from_numpy(np.log(p_C / (1 - p_C))).float()[:, None]

    oracle = record_logits(Oracle(), in_log)
    taught = dataclasses.replace(recipe, objective=lambda schema: DistillationObjective(schema, oracle, share=1.0))
    losses = {}
    for name, kind in (("labels", recipe), ("truth", taught)):
        trained = train(kind, tmp_path, seed=0)
        judged = judge(kind, trained.model, trained.calibrators, tmp_path, truth=true_clicks(truth))
        assert judged.calibrated.truth is not None
        losses[name] = (judged.raw.log_loss, judged.raw.auc, judged.calibrated.truth.mean_absolute_error)
        assert len(predict(trained.model, kind.batches("test", tmp_path, seed=None)))
    assert losses["truth"][0] < losses["labels"][0] - 0.005
    assert losses["truth"][1] > losses["labels"][1] + 0.01
    assert losses["truth"][2] < losses["labels"][2]

"""Transformers of 12 layers teach one of 2: how much of their AUC over Wide & Deep the student keeps.

One simulated marketplace whose sessions differ much in how eager they are, one log, split by time. Wide & Deep, the
teacher, which is the mean of some models of other seeds, and one model of 2 layers alone and taught, each calibrated
anew. Intervals draw members again with replacement, the same for all models.

    python benchmarks/distillation.py [--requests 45000] [--teachers 3] [--part test] [--bundles DIR] [--json FILE]

45,000 requests are 1.06 million candidates. Settings were chosen with `--part tune`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from contenders.findings import Findings
from rankwell.data.split import Part
from rankwell.data.statistics import NumericStatistics
from rankwell.evaluation.auc_difference import auc_difference
from rankwell.evaluation.calibration_error import ece
from rankwell.evaluation.discrimination import auc, log_loss
from rankwell.evaluation.intervals import bootstrap_interval
from rankwell.evaluation.sample import Column
from rankwell.losses.distillation import Distillation
from rankwell.models.candidate_list import ListSettings
from rankwell.models.history import HistorySettings
from rankwell.models.model import Model
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.serving.bundle import Bundle, write_bundle
from rankwell.simulation.recipe import WIDE_DEEP, marketplace_recipe
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.distillation_objective import DistillationObjective
from rankwell.training.loop import LoopSettings
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.predictions import Predictions, predict
from rankwell.training.recipe import Recipe
from rankwell.training.teacher import MeanTeacher, ModelTeacher, borrow_rows, mean_log_odds, record_logits
from rankwell.training.trained import Trained, calibrate, train

MARKETPLACE: Final = MarketplaceSettings(eagerness_strength=1.0, num_eligible=100, min_slots=15, max_slots=35)
WIDE, TEACHER, ALONE, TAUGHT = "Wide & Deep", "teacher", "student alone", "student taught"


@dataclass(frozen=True)
class Judged:
    """A model's worth on one split, and what it took to train it."""

    logits_C: Tensor
    probabilities_C: Tensor
    seconds: float


def transformer(num_layers: int, width: int, history_width: int, dropout: float) -> TransformerSettings:
    """As many layers over the history as over the list, every candidate seeing all others."""
    return TransformerSettings(
        row_width=8, width=width, hidden=(2 * width,), dropout=dropout, init_scale=0.3,
        history=HistorySettings(width=history_width, num_layers=num_layers, dropout=dropout),
        list=ListSettings(
            num_layers=num_layers, dropout=dropout, rank="retrieval_score", rank_encoding="sinusoidal"
        ),
    )  # fmt: skip


def recipes(given: argparse.Namespace) -> dict[str, Recipe]:
    """Wide & Deep as the marketplace's recipe has it; teacher and student at the rates and epochs that suit each."""
    plain = marketplace_recipe(WIDE_DEEP)
    rows = RowWiseAdaGrad(learning_rate=0.2)

    def of(settings: TransformerSettings, rate: float, epochs: int, warm_up_steps: int) -> Recipe:
        def build(statistics: NumericStatistics, seed: int) -> Model:
            return RankingTransformer(plain.schema, statistics, settings, seed=seed)

        return replace(
            plain,
            build=build,
            # "highest": MKL's products, four times as fast as oneDNN's here
            loop=replace(loop, max_epochs=epochs),
            optimizers=OptimizerPlan(
                dense=DenseAdamW(learning_rate=rate), default_rows=rows, warm_up_steps=warm_up_steps, clip_norm=1.0
            ),
        )

    loop = LoopSettings(max_epochs=2, patience=9, drop_factor=1.0, anneal_to=0.05, matmul_precision="highest")
    student = transformer(2, given.student_width, given.student_width // 2, 0.2)
    return {
        WIDE: replace(plain, loop=loop),
        TEACHER: of(transformer(12, given.teacher_width, 64, given.teacher_dropout), 1e-3, given.teacher_epochs, 200),
        ALONE: of(student, 3e-3, given.student_epochs, 0),
    }


def taught(recipe: Recipe, teachers: Sequence[Model], data: Path, given: argparse.Namespace) -> tuple[Recipe, float]:
    """The student's recipe with what the teachers say of train, and the seconds that took."""
    since = time.process_time()
    teacher = MeanTeacher([ModelTeacher(model) for model in teachers])
    record = record_logits(teacher, recipe.batches("train", data, seed=None))
    loss = Distillation(given.temperature)

    def build(statistics: NumericStatistics, seed: int) -> Model:
        assert callable(recipe.build)
        student = recipe.build(statistics, seed)
        if given.borrow_rows:
            borrow_rows(student, teachers[0])
        return student

    objective = partial(DistillationObjective, teacher=record, loss=loss, share=given.share)
    return replace(recipe, build=build, objective=objective), time.process_time() - since


def measure(given: argparse.Namespace) -> Findings:
    """All models on one log."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        simulate(MARKETPLACE, given.seed, num_requests=given.requests, directory=data)
        judged: dict[str, Judged] = {}
        models: dict[str, list[Trained]] = {}
        for name, recipe in recipes(given).items():
            models[name], judged[name], predictions = carried_out(name, recipe, data, given)
        teachers = [trained.model for trained in models[TEACHER]]
        lesson, lesson_s = taught(recipes(given)[ALONE], teachers, data, given)
        models[TAUGHT], judged[TAUGHT], predictions = carried_out(TAUGHT, lesson, data, given)
    if given.bundles is not None:
        for name in (TEACHER, ALONE, TAUGHT):
            for trained in models[name]:
                bundle = Bundle(model=trained.model, calibrators=trained.calibrators, created_us=time.time_ns() // 1000)
                write_bundle(bundle, given.bundles / f"{name.replace(' ', '-')}-{trained.seed}")
    findings = Findings(f"{given.requests:,} requests, {given.part}, seed {given.seed}")
    findings.add("candidates judged", len(predictions))
    findings.add("teacher's pass over train", lesson_s, "s")
    return report(findings, judged, predictions, given)


def carried_out(
    name: str, recipe: Recipe, data: Path, given: argparse.Namespace
) -> tuple[list[Trained], Judged, Predictions]:
    """Train one model, or the teacher's some, calibrate their mean, and ask about the split that is judged."""
    models, since = [], time.process_time()
    for seed in range(given.seed, given.seed + (given.teachers if name == TEACHER else 1)):
        checkpoints = None if given.checkpoints is None else given.checkpoints / f"{name.replace(' ', '-')}-{seed}"
        models.append(train(recipe, data, seed=seed, checkpoints=checkpoints))
        best = models[-1].history.best
        print(f"{name}, seed {seed}: tune AUC {best.tune_auc:.4f}, log loss {best.tune_log_loss:.4f}", flush=True)
    seconds = time.process_time() - since
    held_out, predictions = (_predicted(models, recipe, part, data) for part in ("calibrate", given.part))
    calibrators = calibrate(recipe.calibrate, held_out, recipe.schema, recipe.label_smoothing)
    logits_C = predictions.logits_CA[:, 0]
    probabilities_C = calibrators["click"](logits_C, torch.zeros(len(logits_C), 0, dtype=torch.int64))
    return models, Judged(logits_C, probabilities_C, seconds), predictions


def _predicted(models: Sequence[Trained], recipe: Recipe, part: Part, data: Path) -> Predictions:
    """What the mean of some models says of a split."""
    each = [predict(trained.model, recipe.batches(part, data, seed=None), ("member",)) for trained in models]
    return replace(each[0], logits_CA=mean_log_odds(torch.stack([found.logits_CA for found in each])))


def report(
    findings: Findings, judged: dict[str, Judged], predictions: Predictions, given: argparse.Namespace
) -> Findings:
    """AUC by the logits, which have no ties; log loss and ECE by what calibration made of them."""
    labels_C, weights_C = predictions.labels_CA[:, 0], predictions.weights_C
    member_C = predictions.segments["member"]
    ranked = {name: torch.sigmoid(model.logits_C.double()) for name, model in judged.items()}
    errors = {name: ece(model.probabilities_C, labels_C, weights_C) for name, model in judged.items()}
    for name, model in judged.items():
        findings.add(f"{name}: AUC", auc(ranked[name], labels_C, weights_C))
        findings.add(f"{name}: log loss", log_loss(model.probabilities_C, labels_C, weights_C), "nats")
        bound = errors[TEACHER] + 0.002 if name == TAUGHT else None
        findings.add(f"{name}: ECE", errors[name], at_most=bound)
        findings.add(f"{name}: training", model.seconds, "s")

    def gain(name: str, over: str, low: float | None = None, at_least: float | None = None) -> None:
        found = auc_difference(ranked[name], ranked[over], labels_C, weights_C, cluster_C=member_C)
        findings.add(f"{name} over {over}: AUC", found.value, at_least=at_least)
        findings.add(f"{name} over {over}: AUC, low end", found.interval.low, at_least=low)

    gain(TEACHER, WIDE, at_least=0.010)
    gain(ALONE, WIDE)
    gain(TAUGHT, WIDE)
    gain(TAUGHT, ALONE, low=0.0)
    gain(TEACHER, ALONE)
    for name, low in ((ALONE, None), (TAUGHT, 0.95)):

        def kept(probabilities_C: Column, label_C: Column, weight_C: Column) -> float:
            base, whole = (auc(ranked[other], label_C, weight_C) for other in (WIDE, TEACHER))
            return (auc(probabilities_C, label_C, weight_C) - base) / (whole - base)

        interval = bootstrap_interval(
            kept, ranked[name], labels_C, weights_C, cluster_C=member_C, seed=0, num_draws=given.draws
        )
        findings.add(f"{name}: share of the teacher's gain", kept(ranked[name], labels_C, weights_C))
        findings.add(f"{name}: share of the teacher's gain, low end", interval.low, at_least=low)
    return findings


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--requests", type=int, default=45_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--part", choices=("tune", "test"), default="test", help="what is judged")
    arguments.add_argument("--teachers", type=int, default=3, help="models of 12 layers whose mean teaches")
    arguments.add_argument("--teacher-width", type=int, default=64)
    arguments.add_argument("--teacher-dropout", type=float, default=0.2)
    arguments.add_argument("--teacher-epochs", type=int, default=2)
    arguments.add_argument("--student-width", type=int, default=64)
    arguments.add_argument("--student-epochs", type=int, default=2)
    arguments.add_argument("--share", type=float, default=0.5, help="of the teacher in the student's loss")
    arguments.add_argument("--temperature", type=float, default=1.0)
    arguments.add_argument("--borrow-rows", action="store_true", help="start the student's rows as the teacher's")
    arguments.add_argument("--draws", type=int, default=200, help="of the bootstrap")
    arguments.add_argument("--checkpoints", type=Path, help="a folder to go on from")
    arguments.add_argument("--bundles", type=Path, help="write teacher and students as bundles into this folder")
    given = arguments.parse_args()
    findings = measure(given)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()

"""A neural list model by several losses against LightGBM's lambdarank, cross-validated on 201 graded lists.

Five times, the requests are cut at random into five folds, and each fold is predicted by what was fitted on the others,
with settings that are the same in all folds (`recipes/ltr_lgb.py`). They were found by cross-validating the requests of
even id alone, for trees and networks alike; so the gain is shown on those of odd id, too. All losses train the same
network for the same number of epochs. Those "by grade" give each grade a logit of its own, p(grade ≥ j), and sort by
the expected gain; the others sort by their one logit. One network is taught by trees instead, of the same train, on
lists recombined from it: that is the list model held against lambdarank.

nDCG@10 of a request, with gains 2^grade - 1, is its mean over the repeats, and methods are paired by request: the
interval is Student's over the requests, for what is asked is how other requests would fare. Beside it stands the
corrected resampled one over the folds (Nadeau and Bengio 2003, "Inference for the generalization error", §5), which
counts that training parts overlap, and is wider. Log loss is of grade ≥ 1, of the logits at their word; losses of the
order alone have none to speak of.

    python benchmarks/ltr_cross_validation.py --data DIR [--repeats 5] [--folds 5] [--processes 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import math
import runpy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from contenders.findings import Findings
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.evaluation.discrimination import log_loss_from_logits
from rankwell.evaluation.intervals import Interval, mean_and_sd, paired_interval, student_quantile
from rankwell.evaluation.ranking_quality import ndcg_at_k
from rankwell.losses.calibrated import JointRankingCalibration, RegressionCompatibleRanking
from rankwell.losses.distillation import Distillation
from rankwell.losses.listwise import ListNet, softmax_cross_entropy
from rankwell.losses.loss import Loss
from rankwell.losses.pairwise import LambdaRank
from rankwell.losses.pointwise import binary_cross_entropy
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.training.boosting import Boosting
from rankwell.training.member_objective import MemberObjective
from rankwell.training.objectives import ActionObjective, LossTerm
from rankwell.training.predictions import Predictions, predict
from rankwell.training.stepper import Stepper, arithmetic_of_training
from rankwell.types import Batch

RECIPE: Final[dict[str, Any]] = runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "ltr_lgb.py"))
GRADES: Final[Schema] = RECIPE["schema"]()
ONE: Final[Schema] = GRADES.model_copy(update={"actions": GRADES.actions[:1]})
K: Final = 10

Labels = Literal["binary", "grades", "gains"]
LOSSES: Final[dict[str, tuple[Schema, Loss, Labels]]] = {
    "softmax": (ONE, softmax_cross_entropy, "gains"),
    "ListNet": (ONE, ListNet(), "grades"),
    "LambdaRank": (ONE, LambdaRank(), "gains"),
    "pointwise": (ONE, binary_cross_entropy, "binary"),
    "pointwise by grade": (GRADES, binary_cross_entropy, "binary"),
    "RCR by grade": (GRADES, RegressionCompatibleRanking(), "binary"),
    "JRC by grade": (GRADES, JointRankingCalibration(), "binary"),
}
"""The schema, whose actions are the network's logits, the loss of each, and what it takes for labels."""
TREES, POINTWISE_TREES = "LightGBM lambdarank", "LightGBM binary by grade"
DISTILLED: Final = "distilled from trees, by grade"
CALIBRATED, LISTWISE = ("RCR by grade", "JRC by grade"), ("softmax", "ListNet", "LambdaRank")
POINTWISE: Final = ("pointwise", "pointwise by grade")


@dataclass(frozen=True)
class Fold:
    """Rows of some requests to predict, and of all others to learn from."""

    schema: Schema
    train: Batches
    test: Batches

    @classmethod
    def of(cls, schema: Schema, table: pa.Table, is_test_C: NDArray[np.bool_], seed: int) -> Fold:
        """Of the whole table, cut."""

        def batches(rows_C: NDArray[np.bool_], shuffled_by: int | None) -> Batches:
            log = log_from_table(table.filter(pa.array(rows_C)), schema, layout="flat")
            whole, num_requests = WholeLog("train"), RECIPE["REQUESTS_OF_A_BATCH"]
            return Batches(log, whole, "train", num_requests=num_requests, seed=shuffled_by)

        return cls(schema, batches(~is_test_C, seed), batches(is_test_C, None))


def trees(boosting: Boosting, seed: int, fold: Fold) -> Model:
    """Grown by LightGBM on the fold's train."""
    return boosting.fit(fold.schema, measure_numerics(fold.train, fold.schema), fold.train, (), seed=seed)


def network(loss: Loss, labels: Labels, seed: int, fold: Fold) -> Model:
    """The recipe's model, taught by the labels of the log."""
    return taught(loss, labels, seed, fold, RECIPE["EPOCHS"], lambda batch: batch)


def distilled(boosting: Boosting, seed: int, fold: Fold) -> Model:
    """The recipe's model, taught by trees that were grown on the fold's train, on lists that nobody has seen.

    In each pass every document takes some of its features from another one of the batch, and the trees say what they
    think of it: so the network meets new lists in each pass, and has as much to learn from as the trees have to say.
    """
    teacher, generator = trees(boosting, seed, fold), torch.Generator().manual_seed(seed)
    recombined = partial(recombined_lists, teacher, generator)
    return taught(Distillation(), "grades", seed, fold, RECIPE["EPOCHS_OF_DISTILLATION"], recombined)


def recombined_lists(teacher: Model, generator: torch.Generator, batch: Batch) -> Batch:
    """Of each document a share of the features, uniform in [0, ½], from another; the teacher's logits for labels."""
    own_CN = batch.features.candidates["features"]
    assert isinstance(own_CN, Tensor)
    other_CN = own_CN[torch.randint(len(own_CN), (len(own_CN),), generator=generator)]
    share_C1 = torch.rand(len(own_CN), 1, generator=generator) / 2
    mixed_CN = torch.where(torch.rand(own_CN.shape, generator=generator) < share_C1, other_CN, own_CN)
    features = replace(batch.features, candidates={"features": mixed_CN})
    with torch.no_grad():
        logits_CA = teacher(features)
    return replace(batch, features=features, targets=replace(batch.targets, labels_CA=logits_CA))


def taught(
    loss: Loss, labels: Labels, seed: int, fold: Fold, num_epochs: int, lesson: Callable[[Batch], Batch]
) -> Model:
    """The recipe's model after so many epochs; there is no tune split, and no epoch is chosen."""
    schema = fold.schema
    model: Model = RECIPE["build"](schema, measure_numerics(fold.train, schema), seed)
    terms = [LossTerm(action.name, loss, labels=labels) for action in schema.actions]
    objective = MemberObjective(schema, ActionObjective(schema, terms))
    stepper = Stepper(model, objective, RECIPE["optimizers"](), seed=seed)
    num_steps = sum(fold.train.num_batches(epoch) for epoch in range(num_epochs))
    with arithmetic_of_training("highest"):
        model.train()
        for epoch in range(num_epochs):
            for _, batch in fold.train.epoch(epoch):
                stepper.optimizers.set_rate(1.0 - 0.95 * stepper.num_steps / num_steps)
                stepper.step(lesson(batch))
    return model.eval()


@dataclass
class Found:
    """What a method said of all folds: nDCG by request, one number a repeat; by fold; logits and labels; seconds."""

    ndcg: dict[int, list[float]] = field(default_factory=dict)
    ndcg_of_folds: list[float] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, predictions: Predictions) -> None:
        """Those of a fold."""
        order_C = order_of(predictions.logits_CA)
        gains_C = predictions.gains[GRADES.actions[0].name]
        in_fold = []
        for request in predictions.request_ids_C.unique().tolist():
            mine_C = predictions.request_ids_C == request
            if gains_C[mine_C].any():
                ones_C = torch.ones(int(mine_C.sum()))
                in_fold.append(ndcg_at_k(order_C[mine_C], gains_C[mine_C], ones_C, request_C=ones_C.long(), k=K))
                self.ndcg.setdefault(request, []).append(in_fold[-1])
        self.ndcg_of_folds.append(sum(in_fold) / len(in_fold))
        self.logits.append(predictions.logits_CA[:, 0])
        self.labels.append(predictions.labels_CA[:, 0])

    @classmethod
    def together(cls, parts: Sequence[Found]) -> Found:
        """What repeats found, in their order."""
        whole = cls(seconds=sum(part.seconds for part in parts))
        for part in parts:
            for request, values in part.ndcg.items():
                whole.ndcg.setdefault(request, []).extend(values)
            whole.ndcg_of_folds += part.ndcg_of_folds
            whole.logits += part.logits
            whole.labels += part.labels
        return whole

    @property
    def by_request(self) -> NDArray[np.float64]:
        """nDCG@10, mean over the repeats."""
        return np.array([np.mean(self.ndcg[request]) for request in sorted(self.ndcg)])

    @property
    def log_loss(self) -> float:
        """Of grade ≥ 1, all repeats together."""
        logits_C = torch.cat(self.logits)
        return log_loss_from_logits(logits_C, torch.cat(self.labels), torch.ones(len(logits_C)))


def order_of(logits_CA: Tensor) -> Tensor:
    """In [0, 1], higher first: the one logit, or the expected gain as a share of the highest."""
    probabilities_CA = logits_CA.double().sigmoid()
    if probabilities_CA.shape[1] == 1:
        return probabilities_CA[:, 0]
    worth = RECIPE["EXPECTED_GAIN"].values
    worth_A = torch.tensor([worth[action.name] for action in GRADES.actions], dtype=torch.float64)
    return probabilities_CA @ worth_A / worth_A.sum()


def corrected_interval(differences_F: Sequence[float], folds: int) -> Interval:
    """Nadeau and Bengio's: ``d̄ ± t · sd · √(1/F + n_test/n_train)``, F folds in all repeats, t of F - 1 degrees."""
    summary = mean_and_sd(differences_F)
    spread = summary.sd * math.sqrt(1 / summary.count + 1 / (folds - 1))
    reach = student_quantile(0.95, summary.count - 1) * spread
    return Interval(summary.mean - reach, summary.mean + reach, 0.95)


def of_repeat(data: Path, folds: int, repeat: int) -> dict[str, Found]:
    """All methods on the folds of one repeat."""
    torch.set_num_threads(1)  # so that what is found does not depend on the machine
    table: pa.Table = RECIPE["log_table"](data / RECIPE["FILE"])
    boosting: Boosting = RECIPE["boosting"]()
    pointwise = replace(boosting, objective="binary")
    methods: dict[str, tuple[Schema, Callable[[int, Fold], Model]]] = {
        TREES: (ONE, partial(trees, boosting)),
        POINTWISE_TREES: (GRADES, partial(trees, pointwise)),
        DISTILLED: (GRADES, partial(distilled, pointwise)),
        **{name: (schema, partial(network, loss, labels)) for name, (schema, loss, labels) in LOSSES.items()},
    }
    found = {name: Found() for name in methods}
    request_C = table["request_id"].to_numpy()
    requests = np.random.default_rng(repeat).permutation(np.unique(request_C))
    for number, held_out in enumerate(np.array_split(requests, folds)):
        seed = folds * repeat + number
        for name, (schema, fit) in methods.items():
            fold = Fold.of(schema, table, np.isin(request_C, held_out), seed)
            started = time.process_time()
            found[name].add(predict(fit(seed, fold), fold.test))
            found[name].seconds += time.process_time() - started
        print(f"repeat {repeat + 1}, fold {number + 1}", flush=True)
    return found


def measure(given: argparse.Namespace) -> dict[str, Found]:
    """All methods on all folds of all repeats, several repeats at a time."""
    repeats = range(given.repeats)
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(of_repeat, [given.data] * len(repeats), [given.folds] * len(repeats), repeats))
    return {name: Found.together([part[name] for part in parts]) for name in parts[0]}


def print_methods(found: dict[str, Found], findings: Findings, folds: int) -> None:
    """A line a method, and its difference from LightGBM's lambdarank, with both intervals."""
    printed = Table(title=f"{folds}-fold by request, {len(found[TREES].by_request)} requests with a gain")
    printed.add_column("method")
    for heading in (f"nDCG@{K}", "less lambdarank", "over requests", "over folds", "log loss ≥ 1", "core s a fold"):
        printed.add_column(heading, justify="right")
    for name, of in found.items():
        differences = of.by_request - found[TREES].by_request
        by_fold = np.array(of.ndcg_of_folds) - np.array(found[TREES].ndcg_of_folds)
        numbers = {f"ndcg@{K}": of.by_request.mean(), "log_loss": of.log_loss}
        cells = ["", "", ""]
        if name != TREES:
            paired, corrected = paired_interval(differences), corrected_interval(by_fold.tolist(), folds)
            numbers |= {"gain": differences.mean(), "gain_low": paired.low, "gain_high": paired.high,
                        "gain_low_over_folds": corrected.low, "gain_high_over_folds": corrected.high}  # fmt: skip
            cells = [f"{differences.mean():+.4f}", *(f"[{i.low:+.4f}, {i.high:+.4f}]" for i in (paired, corrected))]
        loss = f"{of.log_loss:.4f}" if name in (*POINTWISE, *CALIBRATED, POINTWISE_TREES, DISTILLED) else ""
        seconds = f"{of.seconds / len(of.ndcg_of_folds):.1f}"
        printed.add_row(name, f"{of.by_request.mean():.4f}", *cells, loss, seconds)
        for label, number in numbers.items():
            findings.add(f"{name}: {label}", float(number))
    Console(width=None if Console().is_terminal else 140).print(printed)


def judge(found: dict[str, Found], findings: Findings) -> None:
    """The two claims, each against the strongest of what it is held against."""
    gains_R = found[DISTILLED].by_request - found[TREES].by_request
    findings.add(f"{DISTILLED} over {TREES}, low end", paired_interval(gains_R).low, at_least=-0.01)
    unseen_R = np.array(sorted(found[DISTILLED].ndcg)) % 2 == 1
    findings.add(f"{DISTILLED} over {TREES}, odd requests alone, mean", float(gains_R[unseen_R].mean()))
    findings.add(f"{DISTILLED} over {TREES}, odd requests alone, low end", paired_interval(gains_R[unseen_R]).low)
    best = max(LISTWISE, key=lambda name: found[name].by_request.mean())
    best_loss = min(found[name].log_loss for name in POINTWISE)
    for name in CALIBRATED:
        gain = paired_interval(found[name].by_request - found[best].by_request)
        findings.add(f"{name} over {best}, mean", float((found[name].by_request - found[best].by_request).mean()))
        findings.add(f"{name} over {best}, low end", gain.low, at_least=-0.01)
        findings.add(f"{name}: log loss by the best pointwise one", found[name].log_loss / best_loss, at_most=1.02)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, help="the folder of train.parquet; without it nothing is measured")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--folds", type=int, default=5, help="at least 2")
    arguments.add_argument("--processes", type=int, default=2, help="repeats that are measured at a time")
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    given = arguments.parse_args()
    findings = Findings("graded lists, cross-validated")
    if given.data is not None:
        found = measure(given)
        print_methods(found, findings, given.folds)
        judge(found, findings)
        findings.print()
    else:
        print("nothing to measure: name the folder of train.parquet with --data")
    findings.write(given.json)


if __name__ == "__main__":
    main()

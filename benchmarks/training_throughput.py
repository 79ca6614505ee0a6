"""CPU-µs a row of rankwell's training loop against hand-written PyTorch loops: the same model, the same data, one run.

The model: 10 categorical fields, rows of 10, hidden layers 256 and 128, one logit, binary cross-entropy. The
hand-written loops get the data in the form that suits them best (one int64 matrix in memory, already shuffled, one
embedding with offsets); rankwell reads its own log through its own batches, columns by name, checks included. All of
them run on one thread and with the same matmul precision. FBGEMM's tables are one more such loop, in a process and an
environment of their own.

    python benchmarks/training_throughput.py [--json FILE] [--rows N] [--repeats N] [--without-peers]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table as PrintedTable
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding

from contenders.environment import python_of
from contenders.turns import Contender
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics
from rankwell.models.wide_deep import Deep, DeepSettings
from rankwell.schema import Action, Categorical, Schema
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.loop import LoopSettings, StepReport, fit
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan

NUM_FIELDS, WIDTH, HIDDEN = 10, 10, (256, 128)
OURS, FBGEMM = "rankwell", "FBGEMM"


def log_of(num_rows: int, num_ids: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids by Zipf's law in each field, scattered over the field's range; labels by a hidden logistic of two fields."""
    rng = np.random.default_rng(seed)
    per_field = num_ids // NUM_FIELDS
    weights = np.arange(1, per_field + 1) ** -1.05
    cumulative = np.cumsum(weights / weights.sum())
    columns = []
    for _ in range(NUM_FIELDS):
        ranks = np.minimum(np.searchsorted(cumulative, rng.random(num_rows)), per_field - 1)
        columns.append(rng.permutation(per_field)[ranks])
    effects = rng.normal(size=(2, per_field))
    logits = effects[0][columns[0]] + effects[1][columns[1]] - 1
    labels = rng.random(num_rows) < 1 / (1 + np.exp(-logits))
    return torch.from_numpy(np.stack(columns, axis=1)), torch.from_numpy(labels.astype(np.float32))


class HandWritten(nn.Module):
    """One embedding with offsets and a multilayer perceptron, as one writes it in an afternoon."""

    def __init__(self, num_ids: int, *, sparse: bool) -> None:
        super().__init__()
        self.rows = nn.Embedding(num_ids, WIDTH, sparse=sparse)
        nn.init.uniform_(self.rows.weight, -0.05, 0.05)
        self.layers = perceptron()

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.layers(self.rows(ids).flatten(1)).squeeze(1)
        return logits


def perceptron() -> nn.Sequential:
    """The dense part that all share."""
    width, layers = NUM_FIELDS * WIDTH, []
    for hidden in HIDDEN:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 1))


Step = Callable[[Tensor, Tensor], None]


def adam_step(num_ids: int, *, fused: bool) -> Step:
    """Dense Adam over everything, the table included."""
    model = HandWritten(num_ids, sparse=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

    def step(ids: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(model(ids), labels).backward()
        optimizer.step()

    return step


def sparse_adam_step(num_ids: int) -> Step:
    """SparseAdam for the table, fused AdamW for the rest."""
    model = HandWritten(num_ids, sparse=True)
    optimizers = [
        torch.optim.SparseAdam(list(model.rows.parameters()), lr=1e-3),
        torch.optim.AdamW(model.layers.parameters(), lr=1e-3, fused=True),
    ]

    def step(ids: Tensor, labels: Tensor) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        binary_cross_entropy_with_logits(model(ids), labels).backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def row_wise_adagrad_step(num_ids: int) -> Step:
    """Distinct rows gathered as a leaf, row-wise AdaGrad by hand, fused AdamW for the rest."""
    rows = torch.empty(num_ids, WIDTH).uniform_(-0.05, 0.05)
    sums = torch.zeros(num_ids, 1)
    layers = perceptron()
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-3, fused=True)

    def step(ids: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        distinct, index = torch.unique(ids, return_inverse=True)
        leaf = rows[distinct].requires_grad_()
        logits = layers(embedding(index, leaf).flatten(1)).squeeze(1)
        binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()
        gradient = leaf.grad
        assert gradient is not None
        total = sums[distinct] + gradient.square().mean(1, keepdim=True)
        sums[distinct] = total
        rows[distinct] = leaf.detach() - 0.05 * gradient / (total.sqrt() + 1e-10)

    return step


CONTENDERS: dict[str, Callable[[int], Step]] = {
    "dense Adam": lambda num_ids: adam_step(num_ids, fused=False),
    "fused Adam": lambda num_ids: adam_step(num_ids, fused=True),
    "SparseAdam + AdamW": sparse_adam_step,
    "sparse row-wise AdaGrad": row_wise_adagrad_step,
}


def hand_written_us(make: Callable[[int], Step], num_ids: int, ids: Tensor, labels: Tensor, batch: int) -> float:
    """CPU-µs a row, after a warm-up of 3 steps; tables of per-field ids stand one after the other."""
    step = make(num_ids)
    matrix = ids + torch.arange(NUM_FIELDS) * (num_ids // NUM_FIELDS)
    pairs = [(matrix[i : i + batch], labels[i : i + batch]) for i in range(0, len(labels), batch)]
    for pair in pairs[:3]:
        step(*pair)
    deadline, count, began = time.monotonic() + MOST_SECONDS, 0, time.process_time()
    for pair in pairs[3:]:
        step(*pair)
        count += len(pair[1])
        if time.monotonic() > deadline:  # dense Adam over 1.4 M ids takes minutes for the whole log
            break
    return 1e6 * (time.process_time() - began) / count


def rankwell_us(num_ids: int, ids: Tensor, labels: Tensor, batch: int) -> float:
    """CPU-µs a row of `fit`, reading included, after a warm-up of 3 steps."""
    names = [f"field_{i}" for i in range(NUM_FIELDS)]
    schema = Schema(
        features=tuple(Categorical(name=name, num_ids=num_ids // NUM_FIELDS) for name in names),
        actions=(Action(name="click"),),
        request_id=None, member_id=None, time=None,
    )  # fmt: skip
    columns = {name: ids[:, i].numpy() for i, name in enumerate(names)}
    log = log_from_table(pa.table({**columns, "click": labels.numpy()}), schema, layout="flat")
    train = Batches(log, WholeLog("train"), "train", num_requests=batch, seed=0)
    few = log_from_table(pa.table({**columns, "click": labels.numpy()}).slice(0, 512), schema, layout="flat")
    tune = Batches(few, WholeLog("tune"), "tune", num_requests=512, seed=None)
    model = Deep(schema, NumericStatistics(), DeepSettings(width=WIDTH, hidden=HIDDEN), seed=0)
    plan = OptimizerPlan(dense=DenseAdamW(learning_rate=1e-3), default_rows=RowWiseAdaGrad(learning_rate=0.05))
    seen: list[tuple[float, int]] = []
    steps = iter(range(10**9))

    def on_step(report: StepReport) -> None:
        if next(steps) == 2 or report.num_requests == report.num_requests_total:  # the clock itself costs too much
            seen.append((time.process_time(), report.num_candidates))

    settings = LoopSettings(max_epochs=1, matmul_precision=PRECISION)
    fit(model, PointwiseObjective(schema), plan, train, tune, settings, seed=0, on_step=on_step)
    (began, first), (ended, last) = seen
    return 1e6 * (ended - began) / (last - first)


def fbgemm_us(folder: Path, num_ids: int, ids: Tensor, labels: Tensor, batch: int) -> float:
    """CPU-µs a row of the loop over FBGEMM's tables, after a warm-up of 3 steps."""
    num_steps = len(labels) // batch
    whole = num_steps * batch
    np.save(folder / "ids.npy", ids[:whole].view(num_steps, batch, NUM_FIELDS).transpose(1, 2).numpy())
    np.save(folder / "labels.npy", labels[:whole].view(num_steps, batch).numpy())
    asked = {
        "ids": str(folder / "ids.npy"), "labels": str(folder / "labels.npy"), "size": num_ids // NUM_FIELDS,
        "hidden": HIDDEN, "width": WIDTH, "wide": False, "matmul_precision": PRECISION, "autocast": "off",
    }  # fmt: skip
    contender = Contender(FBGEMM, "fbgemm_wide_deep", asked, threads=1, python=python_of("fbgemm"))
    contender.round(3, counts=False)
    contender.round(num_steps - 3)
    contender.leave()
    return 1e3 * contender.figures().cpu_ms / batch


MOST_SECONDS = 3.0
PRECISION = "medium"


def main() -> None:
    """Measure the four cells and print them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--rows", type=int, default=200_000, help="rows of the log at batch 4096; half at 256")
    arguments.add_argument("--repeats", type=int, default=5, help="of which the median is printed")
    arguments.add_argument("--without-peers", action="store_true", help="no FBGEMM, and no environment for it")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(PRECISION)
    numbers: dict[str, float] = {}
    console = Console()
    others = [*CONTENDERS, *([] if given.without_peers else [FBGEMM])]
    ratios = [f"{OURS} / best", f"{OURS} / {FBGEMM}"]
    printed = PrintedTable("ids", "batch", *others, OURS, *ratios, title="CPU-µs a row, median")
    cells = [(num_ids, batch) for num_ids in (100_000, 1_400_000) for batch in (256, 4096)]
    taken: dict[tuple[int, int], dict[str, list[float]]] = {
        cell: {name: [] for name in (*others, OURS)} for cell in cells
    }
    for repeat in range(given.repeats):  # cells and contenders take turns, so that a noisy minute hits all of them
        for num_ids, batch in cells:
            num_rows = given.rows if batch == 4096 else given.rows // 2
            ids, labels = log_of(num_rows, num_ids, seed=repeat)
            for name, make in CONTENDERS.items():
                taken[num_ids, batch][name].append(hand_written_us(make, num_ids, ids, labels, batch))
            taken[num_ids, batch][OURS].append(rankwell_us(num_ids, ids, labels, batch))
            if not given.without_peers:
                with tempfile.TemporaryDirectory() as folder:
                    us = fbgemm_us(Path(folder), num_ids, ids, labels, batch)
                taken[num_ids, batch][FBGEMM].append(us)
    for (num_ids, batch), values in taken.items():
        medians = {name: statistics.median(times) for name, times in values.items()}
        best = min(medians[name] for name in CONTENDERS)
        shown = [f"{medians[name]:.2f}" for name in (*others, OURS)]
        of_fbgemm = medians[OURS] / medians.get(FBGEMM, float("nan"))
        printed.add_row(f"{num_ids:,}", str(batch), *shown, f"{medians[OURS] / best:.2f}", f"{of_fbgemm:.2f}")
        for name, value in medians.items():
            numbers[f"us_a_row/{num_ids}/{batch}/{name}"] = value
        numbers[f"ratio_to_best/{num_ids}/{batch}"] = medians[OURS] / best
        numbers[f"ratio_to_fbgemm/{num_ids}/{batch}"] = of_fbgemm
    for batch in (256, 4096):
        growth = numbers[f"us_a_row/1400000/{batch}/{OURS}"] / numbers[f"us_a_row/100000/{batch}/{OURS}"]
        numbers[f"growth_from_100k_to_1.4M_ids/{batch}"] = growth
    console.print(printed)
    for batch in (256, 4096):
        console.print(
            f"batch {batch}: 1.4 M ids cost {numbers[f'growth_from_100k_to_1.4M_ids/{batch}']:.2f} × 0.1 M ids"
        )
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()

"""Row rules on Frappe: a factorisation machine whose rows are all moved by one rule, judged on rare and frequent items.

Letters: N rows of the log · F = 10 id columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as TextTable

from rankwell.errors import TrainingError
from rankwell.evaluation.discrimination import auc
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.contenders import (
    ADAGRAD,
    ADAM,
    LAZY_ADAM,
    MOMENTUM,
    RMS_PROP,
    ROW_WISE,
    SGD,
    Contender,
)  # fmt: skip
from rankwell.studies.frappe_machine import Frappe, FrappeSample, machine_on, probabilities_of, read_frappe
from rankwell.studies.study import StudyResult, gain_of, shown
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.table import Table

__all__ = ["study_frappe_rules"]

_WIDTH: Final = 9
_NUM_EPOCHS: Final = 2
# FTRL starts rows at 0, where the gradient of a product of rows is 0: it is for weights of a linear model
_RULES: Final = (SGD, MOMENTUM, ADAGRAD, ROW_WISE, RMS_PROP, LAZY_ADAM, ADAM)
_STARTS: Final = {SGD: 0.5, MOMENTUM: 0.05, ADAGRAD: 0.1, ROW_WISE: 0.1, RMS_PROP: 0.005, LAZY_ADAM: 0.005, ADAM: 0.005}


@final
@dataclass(frozen=True, slots=True)
class _Scores:
    log_loss: float
    auc: float
    rare: float
    frequent: float


def study_frappe_rules(data: Path, *, seeds: Sequence[int], say: Callable[[str], None] = lambda _: None) -> StudyResult:
    """Each rule at its best rate: two passes over train; rates chosen on one half of valid, told on the other.

    Args:
        data: Folder of train_reconstructed.parquet, whose negatives are redrawn, and valid.parquet.
        seeds: Of starts and orders.
        say: Told what is going on.

    Raises:
        LogError: A file isn't there.
    """
    frappe = read_frappe(data)
    num_ids = int(max(sample.ids_FN.max() for sample in (frappe.tune, frappe.told))) + 1
    seen = np.bincount(frappe.train.ids_FN[1].numpy(), minlength=num_ids)
    rules = _chosen(frappe, seen)
    say("Frappe, learning rates: " + ", ".join(f"{c.name} {rule.learning_rate:g}" for c, rule in rules.items()))
    found = {
        c: [_scores(_trained(rule, frappe.train, seed), frappe.told, seen) for seed in seeds]
        for c, rule in rules.items()
    }
    return _result(found, rules, len(seeds))


def _chosen(frappe: Frappe, seen: NDArray[np.int64]) -> dict[Contender, RowOptimizer]:
    def loss(rule: RowOptimizer) -> float:
        try:
            return _scores(_trained(rule, frappe.train, 1_000_003), frappe.tune, seen).log_loss
        except TrainingError:  # products of rows run away where the rate is too high
            return math.inf

    return {c: c.best(loss, start=_STARTS[c]) for c in _RULES}


def _trained(rule: RowOptimizer, train: FrappeSample, seed: int) -> Table:
    return machine_on(train, rule, width=_WIDTH, num_epochs=_NUM_EPOCHS, seed=seed)


def _scores(table: Table, told: FrappeSample, seen: NDArray[np.int64]) -> _Scores:
    p_N, labels_N = probabilities_of(table, told), told.labels_N.numpy()
    loss_N = -np.where(labels_N > 0, np.log(p_N), np.log1p(-p_N))
    seen_N = seen[told.ids_FN[1].numpy()]
    low, high = np.quantile(seen_N, [0.2, 0.8])
    return _Scores(
        float(loss_N.mean()), auc(p_N, labels_N, np.ones(len(p_N))),
        float(loss_N[seen_N <= low].mean()), float(loss_N[seen_N >= high].mean()),
    )  # fmt: skip


def _result(found: dict[Contender, list[_Scores]], rules: dict[Contender, RowOptimizer], num_seeds: int) -> StudyResult:
    table = TextTable(
        title=f"Frappe (train negatives redrawn), a factorisation machine; mean ± sd over {num_seeds} seeds"
    )
    for heading in ("rule", "rate", "AUC", "log loss", "… rarest fifth", "… most frequent fifth", "bytes a row"):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    numbers: dict[str, float] = {}
    for contender, scores in found.items():
        columns = {
            "auc": [s.auc for s in scores], "log_loss": [s.log_loss for s in scores],
            "log_loss_rare": [s.rare for s in scores], "log_loss_frequent": [s.frequent for s in scores],
        }  # fmt: skip
        num_bytes = 4 * (_WIDTH + rules[contender].state_width(_WIDTH))
        rate = rules[contender].learning_rate
        table.add_row(contender.name, f"{rate:g}", *(shown(values) for values in columns.values()), str(num_bytes))
        numbers |= {f"{contender.name}/{label}": float(np.mean(values)) for label, values in columns.items()}
        numbers[f"{contender.name}/bytes_a_row"], numbers[f"{contender.name}/learning_rate"] = num_bytes, rate
    full, row_wise = ([s.log_loss for s in found[c]] for c in (ADAGRAD, ROW_WISE))
    gain = gain_of(full, row_wise)
    numbers |= {f"full_minus_row_wise/{k}": v for k, v in gain.numbers().items()}
    best = min(found, key=lambda c: float(np.mean([s.log_loss for s in found[c]])))
    places = [0.0, 1.0]
    chart = Chart(
        name="frappe-rules",
        title="On Frappe",
        caption="Log loss on held-out rows whose item is among the rarest fifth in train, and the most frequent fifth.",
        description="Log loss on rows of rare and of frequent items, for seven rules.",
        panels=(
            Panel(
                title="Held-out log loss", x_label="items", y_label="nats", x_names={0.0: "rare", 1.0: "frequent"},
                lines=tuple(
                    Line(name=c.name, x=places,
                         y=[float(np.mean([s.rare for s in scores])), float(np.mean([s.frequent for s in scores]))])
                    for c, scores in found.items()
                ),
            ),
        ),
    )  # fmt: skip
    finding = (
        f"Frappe, a factorisation machine: least log loss with {best.name}; full − row-wise AdaGrad {gain} nats, at "
        f"{numbers['AdaGrad/bytes_a_row']:.0f} against {numbers['row-wise AdaGrad/bytes_a_row']:.0f} bytes a row."
    )
    return StudyResult("frappe", (table,), finding, numbers, (chart,))

"""Penalties on Frappe: how many rows of exact zeros each makes along its strengths, and what that does to AUC.

Letters: N rows of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import numpy as np
from rich.table import Table as TextTable

from rankwell.evaluation.discrimination import auc
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.contenders import FTRL, ROW_WISE, Contender
from rankwell.studies.frappe_machine import Frappe, FrappeSample, machine_on, probabilities_of, read_frappe
from rankwell.studies.study import StudyResult, gain_of, shown
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.tables.table import Table

__all__ = ["study_frappe_penalties"]

_NUM_EPOCHS: Final = 3
_TUNING_SEED: Final = 1_000_003


@final
@dataclass(frozen=True, slots=True)
class _Penalty:
    """A penalty, the width of the rows it is put on, the rule beneath it, and the strengths tried; 0 is none."""

    name: str
    width: int
    contender: Contender
    of: Callable[[RowOptimizer, float], RowOptimizer]
    strengths: tuple[float, ...]


def _l1(rule: RowOptimizer, strength: float) -> RowOptimizer:
    assert isinstance(rule, Ftrl)
    return replace(rule, l1=strength)


_PENALTIES: Final = (
    _Penalty("FTRL, L1 (rows of 1)", 1, FTRL, _l1, (0.0, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)),
    _Penalty(
        "group lasso (rows of 9)", 9, ROW_WISE, lambda rule, strength: replace(rule, group_lasso=strength),
        (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03),
    ),
    _Penalty(
        "lazy decay (rows of 9)", 9, ROW_WISE, lambda rule, strength: replace(rule, decay=strength),
        (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03),
    ),
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class _Point:
    """One penalty at one strength from one start."""

    zero_rate: float
    auc: float
    log_loss: float


def study_frappe_penalties(
    data: Path, *, seeds: Sequence[int], say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Sparsity, AUC and log loss against strength, for a logistic model and for a factorisation machine.

    Rates and the strength that a penalty is judged at are chosen on one half of valid, all else is told of the other.

    Args:
        data: Folder of train_reconstructed.parquet, whose negatives are redrawn, and valid.parquet.
        seeds: Of starts and orders.
        say: Told what is going on.

    Raises:
        LogError: A file isn't there.
    """
    frappe = read_frappe(data)
    found: dict[str, dict[float, list[_Point]]] = {}
    chosen: dict[str, float] = {}
    for penalty in _PENALTIES:
        tuned, rule = _tuned(penalty, frappe)
        chosen[penalty.name] = min(tuned, key=lambda strength: tuned[strength])
        found[penalty.name] = {
            strength: [
                _measured(_trained(penalty, penalty.of(rule, strength), frappe.train, seed), frappe.told)
                for seed in seeds
            ]
            for strength in penalty.strengths
        }
        say(f"Frappe: {penalty.name}, learning rate {rule.learning_rate:g}, along its strengths")
    return _result(found, chosen, len(seeds))


def _tuned(penalty: _Penalty, frappe: Frappe) -> tuple[dict[float, float], RowOptimizer]:
    """Log loss on tune by strength, at the rate that is best there without a penalty; and the rule at that rate."""

    def loss(rule: RowOptimizer) -> float:
        return _measured(_trained(penalty, rule, frappe.train, _TUNING_SEED), frappe.tune).log_loss

    rule = penalty.contender.best(loss)
    return {strength: loss(penalty.of(rule, strength)) for strength in penalty.strengths}, rule


def _trained(penalty: _Penalty, rule: RowOptimizer, train: FrappeSample, seed: int) -> Table:
    return machine_on(train, rule, width=penalty.width, num_epochs=_NUM_EPOCHS, seed=seed)


def _measured(table: Table, sample: FrappeSample) -> _Point:
    p_N, labels_N = probabilities_of(table, sample), sample.labels_N.numpy()
    rows = [piece.where(piece.keys_n >= 0).rows_nW for piece in table.chunks("feature")]
    num_zeros = sum(int((rows_nW == 0).all(dim=1).sum()) for rows_nW in rows)
    loss_N = -np.where(labels_N > 0, np.log(p_N), np.log1p(-p_N))
    return _Point(num_zeros / table.num_seen, auc(p_N, labels_N, np.ones(len(p_N))), float(loss_N.mean()))


def _result(
    found: Mapping[str, Mapping[float, Sequence[_Point]]], chosen: Mapping[str, float], num_seeds: int
) -> StudyResult:
    numbers: dict[str, float] = {}
    tables, words = [], []
    lines: dict[str, list[Line]] = {"zero_rate": [], "auc": [], "log_loss": []}
    for name, by_strength in found.items():
        table = TextTable(title=f"Frappe, {name}: mean ± sd over {num_seeds} seeds; rows seen in train")
        for heading in ("strength", "rows exactly 0", "AUC", "log loss"):
            table.add_column(heading, justify="right")
        values = {
            strength: {label: [getattr(point, label) for point in points] for label in lines}
            for strength, points in by_strength.items()
        }
        for strength, columns in values.items():
            table.add_row(f"{strength:g}", shown(columns["zero_rate"], 3), shown(columns["auc"]),
                          shown(columns["log_loss"]))  # fmt: skip
            numbers |= {f"{name}/{strength:g}/{label}": float(np.mean(column)) for label, column in columns.items()}
        tables.append(table)
        strengths = [strength for strength in values if strength > 0]
        for label in lines:
            means = [numbers[f"{name}/{strength:g}/{label}"] for strength in strengths]
            lines[label].append(Line(name=name, x=strengths, y=means))
        at, free = values[chosen[name]], values[0.0]
        numbers[f"{name}/chosen"] = chosen[name]
        words.append(
            f"Frappe, {name}: the strength that tune chooses is {chosen[name]:g}: AUC "
            f"{_gain_shown(at['auc'], free['auc'])}, log loss {_gain_shown(at['log_loss'], free['log_loss'])} over "
            f"none, {float(np.mean(at['zero_rate'])):.0%} of the rows are 0."
        )
    chart = Chart(
        name="frappe-penalties",
        title="On Frappe",
        caption="Along the strengths of each penalty: the share of rows seen in train that are exactly 0, and AUC and "
        "log loss of held-out rows. FTRL moves a logistic model, the others a factorisation machine.",
        description="Zero rows, AUC and log loss by strength, for FTRL with L1, group lasso and decay, on Frappe.",
        panels=tuple(
            Panel(title=title, x_label="strength", y_label=y_label, is_log_x=True, lines=tuple(lines[label]))
            for label, title, y_label in (
                ("zero_rate", "Rows of exact zeros", "share of rows seen"),
                ("auc", "AUC", "AUC"),
                ("log_loss", "Log loss", "nats"),
            )
        ),
    )
    return StudyResult("frappe", tuple(tables), "\n".join(words), numbers, (chart,))


def _gain_shown(values_S: Sequence[float], over_S: Sequence[float]) -> str:
    if len(values_S) == 1:
        return f"{values_S[0] - over_S[0]:+.4f}"
    return str(gain_of(values_S, over_S))

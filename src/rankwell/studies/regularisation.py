"""L1 against L2, three times: two weights drawn, and a log with ids that say nothing under FTRL, lasso and decay.

Letters: N rows of the log · I ids · W columns of an id's row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from rankwell.evaluation.discrimination import auc
from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.frappe_penalties import study_frappe_penalties
from rankwell.studies.row_learner import RowLearner, learn, losses
from rankwell.studies.study import StudyResult, joined, shown
from rankwell.studies.weight_space import study_weight_space
from rankwell.studies.zipf_log import ZipfLog, ZipfSettings, draw_zipf_log
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["study_regularisation", "study_sparsity"]

Floats = NDArray[np.float64]
_BATCH: Final = 256
_ZERO_RATE: Final = 0.8
_NUM_EPOCHS: Final = 3
_EXPONENT: Final = 0.8
_LOGIT_SD: Final = 1.5


@final
@dataclass(frozen=True, slots=True)
class _Penalty:
    name: str
    width: int
    at: Callable[[float], RowOptimizer]
    strengths: tuple[float, ...]


_PENALTIES: Final = (
    _Penalty(
        "FTRL, L1 (rows of 1)", 1, lambda l1: Ftrl(learning_rate=0.2, l1=l1),
        (0.0, 1e-3, 2e-3, 4e-3, 8e-3, 0.012, 0.02, 0.03, 0.05),
    ),
    _Penalty(
        "group lasso (rows of 4)", 4, lambda g: RowWiseAdaGrad(learning_rate=0.2, group_lasso=g),
        (0.0, 1e-4, 3e-4, 6e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3),
    ),
    _Penalty(
        "lazy decay (rows of 4)", 4, lambda d: RowWiseAdaGrad(learning_rate=0.2, decay=d),
        (0.0, 3e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.04),
    ),
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class _Point:
    """One penalty at one strength on one log."""

    zero_rate: float
    auc: float
    log_loss: float
    silent_zero_rate: float
    speaking_zero_rate: float


def study_regularisation(
    *,
    seeds: Sequence[int],
    num_rows: int = 120_000,
    num_ids: int = 12_000,
    frappe: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """The weight space of two features; sparsity and AUC against strength for FTRL-L1, group lasso and lazy decay.

    Args:
        seeds: One truth and log each.
        num_rows, num_ids: Of each log.
        frappe: The folder of Frappe's train_reconstructed.parquet and valid.parquet.
        say: Told what is going on.
    """
    parts = [study_weight_space(seed=seeds[0], num_rows=min(num_rows, 20_000))]
    say("two weights: the diamond and the circle")
    parts.append(study_sparsity(seeds=seeds, num_rows=num_rows, num_ids=num_ids, say=say))
    if frappe is not None:
        parts.append(study_frappe_penalties(frappe, seeds=seeds[:3], say=say))
    return joined("regularisation", parts)


def study_sparsity(
    *, seeds: Sequence[int], num_rows: int, num_ids: int, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Rows of exact zeros, and what they cost in AUC, where 80 % of the ids have no effect at all.

    Three passes over the log, so that there is something to overfit.

    Args:
        seeds: One truth and log each.
        num_rows, num_ids: Of each log.
        say: Told what is going on.
    """
    found: dict[str, dict[float, list[_Point]]] = {p.name: {s: [] for s in p.strengths} for p in _PENALTIES}
    for seed in seeds:
        for penalty in _PENALTIES:
            settings = _settings(penalty.width, num_rows, num_ids)
            log = draw_zipf_log(settings, seed=seed)
            held_out = draw_zipf_log(replace(settings, num_rows=max(num_rows // 4, 2)), seed=seed, fresh=1)
            for strength in penalty.strengths:
                found[penalty.name][strength].append(_measured(penalty, strength, log, held_out))
        say(f"seed {seed}: three penalties along their strengths")
    return _result(found, len(seeds))


def _settings(width: int, num_rows: int, num_ids: int) -> ZipfSettings:
    return ZipfSettings(
        num_rows=num_rows, num_ids=num_ids, exponent=_EXPONENT, scales=(1.0,) * width, zero_rate=_ZERO_RATE,
        effect_sd=_LOGIT_SD / math.sqrt(width),
    )  # fmt: skip


def _measured(penalty: _Penalty, strength: float, log: ZipfLog, held_out: ZipfLog) -> _Point:
    learner = learn(
        log, RowLearner(penalty.width, 0, penalty.at(strength)), batch=_BATCH, num_epochs=_NUM_EPOCHS
    ).learner
    was_seen_I = np.bincount(log.id_N, minlength=len(log.effects_IW)) > 0
    is_zero_I = (learner.id_rows(len(log.effects_IW)) == 0).all(axis=1)
    is_silent_I = (log.effects_IW == 0).all(axis=1)
    probabilities_N = learner.probabilities(held_out)
    return _Point(
        zero_rate=float(is_zero_I[was_seen_I].mean()),
        auc=auc(probabilities_N, held_out.labels_N, np.ones(len(held_out))),
        log_loss=float(losses(probabilities_N, held_out).mean()),
        silent_zero_rate=float(is_zero_I[was_seen_I & is_silent_I].mean()),
        speaking_zero_rate=float(is_zero_I[was_seen_I & ~is_silent_I].mean()),
    )


def _result(found: Mapping[str, Mapping[float, Sequence[_Point]]], num_seeds: int) -> StudyResult:
    numbers: dict[str, float] = {}
    tables, words = [], []
    lines_zero, lines_auc, lines_loss = [], [], []
    for name, by_strength in found.items():
        table = Table(title=f"{name}: mean ± sd over {num_seeds} seeds; rows seen at least once")
        for heading in ("strength", "rows exactly 0", "… of silent ids", "… of speaking ids", "AUC", "log loss"):
            table.add_column(heading, justify="right")
        for strength, points in by_strength.items():
            columns = [
                [p.zero_rate for p in points], [p.silent_zero_rate for p in points],
                [p.speaking_zero_rate for p in points], [p.auc for p in points], [p.log_loss for p in points],
            ]  # fmt: skip
            table.add_row(f"{strength:g}", *(shown(v, 3) for v in columns[:3]), *(shown(v) for v in columns[3:]))
            for label, values in zip(("zero_rate", "silent", "speaking", "auc", "log_loss"), columns, strict=True):
                numbers[f"{name}/{strength:g}/{label}"] = float(np.mean(values))
        tables.append(table)
        strengths = [s for s in by_strength if s > 0]
        zero = [float(np.mean([p.zero_rate for p in by_strength[s]])) for s in strengths]
        free = by_strength[0.0]
        lost = [float(np.mean([p.auc - q.auc for p, q in zip(by_strength[s], free, strict=True)])) for s in strengths]
        lines_zero.append(Line(name=name, x=strengths, y=zero))
        lines_auc.append(Line(name=name, x=strengths, y=lost))
        saved = [
            float(np.mean([q.log_loss - p.log_loss for p, q in zip(by_strength[s], free, strict=True)]))
            for s in strengths
        ]
        lines_loss.append(Line(name=name, x=strengths, y=saved))
        words.append(_words(name, strengths, zero, lost, saved, numbers))
    chart = Chart(
        name="sparsity",
        title="Zeros against what they cost",
        caption="A log in which 80 % of the ids have no effect, passed over three times. Left: share of the rows seen "
        "that are exactly 0. Middle and right: what a penalty gains on held-out rows over none.",
        description="Zero rows, AUC gained and log loss saved by strength, for FTRL with L1, group lasso and decay.",
        panels=(
            Panel(title="Rows of exact zeros", x_label="strength", y_label="share of rows seen", is_log_x=True,
                  lines=tuple(lines_zero)),
            Panel(title="AUC over no penalty", x_label="strength", y_label="AUC", is_log_x=True,
                  lines=tuple(lines_auc)),
            Panel(title="Log loss saved", x_label="strength", y_label="nats", is_log_x=True, lines=tuple(lines_loss)),
        ),
    )  # fmt: skip
    return StudyResult("sparsity", tuple(tables), "\n".join(words), numbers, (chart,))


def _words(
    name: str,
    strengths: Sequence[float],
    zero: Sequence[float],
    gains: Sequence[float],
    saved: Sequence[float],
    numbers: dict[str, float],
) -> str:
    """The strength of the least log loss, and the most zeros that cost neither .0005 AUC nor any log loss."""
    best = int(np.argmax(saved))
    free = [k for k in range(len(zero)) if gains[k] >= -0.0005 and saved[k] >= 0]
    most = max(free, key=lambda k: zero[k]) if free else -1
    numbers[f"{name}/best/strength"], numbers[f"{name}/best/log_loss_saved"] = strengths[best], saved[best]
    numbers[f"{name}/most_zeros_for_nothing"] = zero[most] if free else 0.0
    numbers[f"{name}/zeros_at_best"] = zero[best]
    sparse = (
        f"{zero[most]:.0%} of the rows are 0 (strength {strengths[most]:g})"
        if free and zero[most] > 0
        else "no row is 0"
    )
    return (
        f"{name}: saves most log loss at strength {strengths[best]:g}: {saved[best]:.4f} nats, {gains[best]:+.4f} AUC, "
        f"{zero[best]:.0%} zeros; at no cost in log loss and at most .0005 AUC {sparse}."
    )

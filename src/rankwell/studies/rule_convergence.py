"""How fast each rule learns the effects of rare ids, of frequent ids and of dense features; and what a row of it takes.

Letters: N rows of the log · I ids · W columns of an id's row · D dense features · S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.contenders import (
    ADAGRAD,
    CONTENDERS,
    FTRL,
    LAZY_ADAM,
    MOMENTUM,
    ROW_WISE,
    SGD,
    Contender,
)
from rankwell.studies.row_learner import RowLearner, learn, losses
from rankwell.studies.study import StudyResult, gain_of, shown
from rankwell.studies.zipf_log import ZipfLog, ZipfSettings, draw_zipf_log
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["BANDS", "band_names", "errors_by_band", "study_row_wise", "study_rule_convergence"]

Floats = NDArray[np.float64]
BANDS: Final = (1, 4, 16, 64, 256)
"""Sightings at which a band begins; the last has no end."""
_BATCH: Final = 256
_TUNING_SEED: Final = 1_000_003
_DENSE_SCALES: Final = tuple(np.geomspace(0.1, 3.0, 16).tolist())
_NUM_POINTS: Final = 12


def band_names() -> list[str]:
    """As tables have them."""
    return [f"{low}–{high - 1}" for low, high in pairwise(BANDS)] + [f"{BANDS[-1]} on"]


def errors_by_band(log: ZipfLog, rows_IW: NDArray[np.floating], effect_sd: float) -> Floats:
    """Root mean square error of learnt rows by band of sightings, as a share of what knowing nothing errs."""
    seen_I = np.bincount(log.id_N, minlength=len(log.effects_IW))
    band_I = np.digitize(seen_I, BANDS) - 1
    error_I = log.error_by_id(rows_IW)
    means = [error_I[band_I == b].mean() if (band_I == b).any() else np.nan for b in range(len(BANDS))]
    share_B: Floats = np.sqrt(np.array(means)) / effect_sd
    return share_B


@final
@dataclass(frozen=True, slots=True)
class _Found:
    rule: RowOptimizer
    dense_rule: RowOptimizer
    held_out: list[float]
    bands_SB: list[Floats]
    paths: list[Floats]
    dense: list[float]
    dense_paths: list[Floats]


def study_rule_convergence(
    *, seeds: Sequence[int], num_rows: int, num_ids: int, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Each rule at its best learning rate: error against the truth by how often an id is seen, and of dense features.

    Rates are chosen by log loss on held-out rows of another log, whose truth is another.

    Args:
        seeds: One truth and log each.
        num_rows, num_ids: Of each log.
        say: Told what is going on.
    """
    settings = ZipfSettings(num_rows=num_rows, num_ids=num_ids, dense_scales=_DENSE_SCALES)
    num_steps = -(-num_rows // _BATCH)
    stops = sorted({max(1, int(stop)) for stop in np.geomspace(max(2, num_steps // 60), num_steps, _NUM_POINTS)})
    tuning = (draw_zipf_log(settings, seed=_TUNING_SEED), _held_out(settings, _TUNING_SEED))
    row_rules = _best_of(CONTENDERS, tuning)
    say("learning rates of rows: " + _rates_shown(row_rules))
    common = row_rules[ROW_WISE]
    dense_rules = {c: c.best(lambda rule: _loss(common, rule, tuning), start=_dense_start(c)) for c in CONTENDERS}
    say("of dense weights: " + _rates_shown(dense_rules))
    found = {c.name: _Found(row_rules[c], dense_rules[c], [], [], [], [], []) for c in CONTENDERS}
    for seed in seeds:
        log, held_out = draw_zipf_log(settings, seed=seed), _held_out(settings, seed)
        for one in found.values():
            _add_seed(one, log, held_out, common, stops, settings.effect_sd)
        say(f"seed {seed}: every rule on rare and frequent ids, and on dense features")
    return _convergence_result(found, stops, len(seeds))


def _add_seed(
    one: _Found, log: ZipfLog, held_out: ZipfLog, common: RowOptimizer, stops: Sequence[int], effect_sd: float
) -> None:
    """Both experiments with one rule on one log: ids by it, then dense weights by it."""
    (num_ids, width), num_dense = log.effects_IW.shape, len(log.dense_effects_D)

    def errors(learner: RowLearner) -> Floats:
        return errors_by_band(log, learner.id_rows(num_ids), effect_sd)

    def dense_error(learner: RowLearner) -> Floats:
        return np.array([_dense_error(log, learner)])

    learner = RowLearner(width, num_dense, one.rule)
    learned = learn(log, learner, batch=_BATCH, watch_at=stops, watch=errors)
    one.held_out.append(float(losses(learner.probabilities(held_out), held_out).mean()))
    one.paths.append(np.array([path for _, path in learned.watched]))
    one.bands_SB.append(one.paths[-1][-1])
    learned = learn(
        log, RowLearner(width, num_dense, common, one.dense_rule), batch=_BATCH, watch_at=stops, watch=dense_error
    )
    one.dense_paths.append(np.array([path[0] for _, path in learned.watched]))
    one.dense.append(float(one.dense_paths[-1][-1]))


def _rates_shown(rules: Mapping[Contender, RowOptimizer]) -> str:
    return ", ".join(f"{contender.name} {rule.learning_rate:g}" for contender, rule in rules.items())


def _dense_start(contender: Contender) -> float:
    """Each gradient of a dense weight has the whole batch behind it; an id's has a few rows."""
    return contender.rule.learning_rate / (50 if contender in (SGD, MOMENTUM) else 2)


def _held_out(settings: ZipfSettings, seed: int) -> ZipfLog:
    return draw_zipf_log(replace(settings, num_rows=max(settings.num_rows // 4, 2)), seed=seed, fresh=1)


def _loss(rule: RowOptimizer, dense_rule: RowOptimizer | None, logs: tuple[ZipfLog, ZipfLog]) -> float:
    log, held_out = logs
    width, num_dense = log.columns_NW.shape[1], log.dense_ND.shape[1]
    learner = (
        RowLearner(width, num_dense, rule) if dense_rule is None else RowLearner(width, num_dense, rule, dense_rule)
    )
    learned = learn(log, learner, batch=_BATCH)
    return float(losses(learned.learner.probabilities(held_out), held_out).mean())


def _dense_error(log: ZipfLog, learner: RowLearner) -> float:
    """Root mean square, over dense features, of what a weight gets wrong of the logit, over that of weights of 0."""
    wrong_D = (learner.dense_weights() - log.dense_effects_D) * log.dense_scales_D
    return float(np.linalg.norm(wrong_D) / np.linalg.norm(log.dense_effects_D * log.dense_scales_D))


def _convergence_result(found: Mapping[str, _Found], stops: Sequence[int], num_seeds: int) -> StudyResult:
    numbers: dict[str, float] = {}
    table = Table(title=f"error of learnt effects by sightings, 1 is knowing nothing; mean ± sd over {num_seeds} seeds")
    table.add_column("rule")
    for heading in ("rate", *band_names(), "dense", "held-out log loss"):
        table.add_column(heading, justify="right")
    for name, one in found.items():
        bands = [[float(bands_B[b]) for bands_B in one.bands_SB] for b in range(len(BANDS))]
        table.add_row(
            name, f"{one.rule.learning_rate:g}, {one.dense_rule.learning_rate:.2g}",
            *(shown(values, 3) for values in bands), shown(one.dense, 3),
            shown(one.held_out),
        )  # fmt: skip
        for band, values in zip(band_names(), bands, strict=True):
            numbers[f"{name}/error/{band}"] = float(np.mean(values))
        numbers[f"{name}/error/dense"] = float(np.mean(one.dense))
        numbers[f"{name}/held_out_log_loss"] = float(np.mean(one.held_out))
        numbers[f"{name}/learning_rate"] = one.rule.learning_rate
        numbers[f"{name}/dense_learning_rate"] = one.dense_rule.learning_rate
    rows_seen = [stop * _BATCH for stop in stops]

    def panel(title: str, of: Callable[[_Found], list[Floats]]) -> Panel:
        return Panel(
            title=title, x_label="rows of the log", y_label="error, 1 = knows nothing", is_log_x=True,
            lines=tuple(
                Line(name=name, x=rows_seen, y=np.mean(of(one), axis=0).tolist(),
                     style="dashed" if name in (MOMENTUM.name, FTRL.name) else "line")
                for name, one in found.items()
            ),
        )  # fmt: skip

    chart = Chart(
        name="convergence",
        title="Rare ids, frequent ids, dense features",
        caption="Error of what each rule has learned against the truth, by rows seen, each rule at its best learning "
        "rate. Left: ids seen 4 to 15 times in all. Middle: ids seen 256 times and more. Right: 16 dense features "
        "whose scales differ by 30.",
        description="Error against the truth by rows of the log, for eight rules, on rare ids, frequent ids and dense "
        "features.",
        panels=(
            panel("Ids seen 4–15 times", lambda one: [path[:, 1] for path in one.paths]),
            panel("Ids seen 256 times and more", lambda one: [path[:, -1] for path in one.paths]),
            panel("Dense features", lambda one: one.dense_paths),
        ),
    )
    against_sgd = gain_of(found[SGD.name].held_out, found[ROW_WISE.name].held_out)
    numbers |= {f"row_wise_saves_over_sgd/{k}": v for k, v in against_sgd.numbers().items()}
    best = min(found, key=lambda name: float(np.mean(found[name].held_out)))
    rare = {name: float(np.mean([bands_B[1] for bands_B in one.bands_SB])) for name, one in found.items()}
    dense = {name: float(np.mean(one.dense)) for name, one in found.items()}
    finding = (
        f"Rare and frequent ids: one rate a table does not fit both. At its best rate SGD leaves ids seen 4–15 times "
        f"at {rare[SGD.name]:.2f} of their error, row-wise AdaGrad at {rare[ROW_WISE.name]:.2f}; held-out log loss "
        f"that row-wise AdaGrad saves over SGD: {against_sgd}. Least log loss: {best}. Dense features: least error "
        f"with {min(dense, key=lambda name: dense[name])} ({min(dense.values()):.3f}; SGD {dense[SGD.name]:.3f})."
    )
    return StudyResult("convergence", (table,), finding, numbers, (chart,))


_EQUAL: Final = (1.0,) * 8
_UNEQUAL: Final = tuple(np.geomspace(1.0, 0.02, 8).tolist())


def _best_of(contenders: Sequence[Contender], tuning: tuple[ZipfLog, ZipfLog]) -> dict[Contender, RowOptimizer]:
    return {c: c.best(lambda rule: _loss(rule, None, tuning)) for c in contenders}


def study_row_wise(
    *, seeds: Sequence[int], num_rows: int, num_ids: int, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Row-wise against full AdaGrad: held-out log loss where columns have one scale and where they don't; bytes a row.

    Args:
        seeds: One truth and log each.
        num_rows, num_ids: Of each log.
        say: Told what is going on.
    """
    table = Table(
        title=f"one accumulator a row, or one an element: held-out log loss over {len(seeds)} seeds, rows of 8"
    )
    for heading in ("columns", "row-wise AdaGrad", "AdaGrad", "full − row-wise, 95 %"):
        table.add_column(heading, justify="left" if heading == "columns" else "right")
    numbers: dict[str, float] = {}
    gains = {}
    for name, scales in (("of one scale", _EQUAL), ("of scales 1 … 1/50", _UNEQUAL)):
        settings = ZipfSettings(num_rows=num_rows, num_ids=num_ids, scales=scales, effect_sd=0.5)
        tuning = (draw_zipf_log(settings, seed=_TUNING_SEED), _held_out(settings, _TUNING_SEED))
        rules = _best_of((ROW_WISE, ADAGRAD), tuning)
        logs = [(draw_zipf_log(settings, seed=seed), _held_out(settings, seed)) for seed in seeds]
        found = {c: [_loss(rule, None, pair) for pair in logs] for c, rule in rules.items()}
        gains[name] = gain = gain_of(found[ADAGRAD], found[ROW_WISE])
        table.add_row(name, shown(found[ROW_WISE]), shown(found[ADAGRAD]), str(gain))
        for contender in (ROW_WISE, ADAGRAD):
            numbers[f"{name}/{contender.name}/log_loss"] = float(np.mean(found[contender]))
        numbers |= {f"{name}/full_minus_row_wise/{k}": v for k, v in gain.numbers().items()}
        say(f"row-wise against full AdaGrad, columns {name}")
    sizes = Table(title="bytes of values and state a row")
    for heading in ("width", "row-wise AdaGrad", "AdaGrad", "LazyAdam, Adam"):
        sizes.add_column(heading, justify="right")
    for width in (8, 16, 64):
        whole = [4 * (width + rule.state_width(width)) for rule in (ROW_WISE.rule, ADAGRAD.rule, LAZY_ADAM.rule)]
        sizes.add_row(str(width), *map(str, whole))
        numbers |= {f"bytes_a_row/{width}/{n}": v for n, v in zip(("row_wise", "full", "adam"), whole, strict=True)}
    same, unequal = gains["of one scale"], gains["of scales 1 … 1/50"]
    winner = "no sure difference"
    if same.is_sure:
        winner = "the row-wise one is better" if same.low > 0 else "the full one is better"
    finding = (
        f"Row-wise against full AdaGrad: where columns have one scale, {winner}: log loss {same} nats for the full "
        f"one; where scales differ 50-fold, {unequal}. A row of 16 takes {numbers['bytes_a_row/16/full']:.0f} bytes "
        f"with an accumulator an element and {numbers['bytes_a_row/16/row_wise']:.0f} with one."
    )
    return StudyResult("row-wise", (table, sizes), finding, numbers)

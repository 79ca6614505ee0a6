"""Dense Adam moves rows that were not in the batch: how many, what that takes, and what it does to rare ids.

Letters: N rows of the log · B rows of a batch · I ids · W columns of an id's row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.contenders import ADAM, FADING, LAZY_ADAM, ROW_WISE, Contender
from rankwell.studies.row_learner import RowLearner, learn, losses
from rankwell.studies.rule_convergence import BANDS, band_names, errors_by_band
from rankwell.studies.study import StudyResult, gain_of, shown
from rankwell.studies.zipf_log import ZipfLog, ZipfSettings, draw_zipf_log
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["study_ghost_updates"]

Floats = NDArray[np.float64]
_BATCH: Final = 256
_TUNING_SEED: Final = 1_000_003
_DENSE: Final = "dense Adam over the table"
_OURS: Final = (ADAM, LAZY_ADAM, FADING, ROW_WISE)


@final
@dataclass(frozen=True, eq=False, slots=True)
class _DenseRun:
    rows_IW: NDArray[np.float32]
    probabilities_N: Floats
    moved: list[int]
    ghosts: list[int]
    ghost_share: float
    num_bytes: int


def study_ghost_updates(
    *, seeds: Sequence[int], num_rows: int, num_ids: int, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """torch's Adam over the whole table, beside Adam with catch-up, LazyAdam, LazyAdam with fading, row-wise AdaGrad.

    Args:
        seeds: One truth and log each.
        num_rows, num_ids: Of each log.
        say: Told what is going on.
    """
    settings = ZipfSettings(num_rows=num_rows, num_ids=num_ids)
    tuning = draw_zipf_log(settings, seed=_TUNING_SEED), _held_out(settings, _TUNING_SEED)
    rules = {c: c.best(lambda rule: _run(rule, *tuning)[1]) for c in _OURS}
    say("learning rates: " + ", ".join(f"{c.name} {rule.learning_rate:g}" for c, rule in rules.items()))
    names = [_DENSE, *(c.name for c in _OURS)]
    bands: dict[str, list[Floats]] = {name: [] for name in names}
    held: dict[str, list[float]] = {name: [] for name in names}
    num_bytes: dict[str, list[float]] = {name: [] for name in names}
    runs, num_seen, furthest = [], [], 0.0
    for seed in seeds:
        log, held_out = draw_zipf_log(settings, seed=seed), _held_out(settings, seed)
        run = _dense_adam(log, held_out, rules[ADAM].learning_rate)
        runs.append(run)
        bands[_DENSE].append(errors_by_band(log, run.rows_IW, settings.effect_sd))
        held[_DENSE].append(float(losses(run.probabilities_N, held_out).mean()))
        num_bytes[_DENSE].append(run.num_bytes)
        num_seen.append(len(np.unique(log.id_N)))
        for contender, rule in rules.items():
            learner, loss = _run(rule, log, held_out)
            rows_IW = learner.id_rows(num_ids)
            bands[contender.name].append(errors_by_band(log, rows_IW, settings.effect_sd))
            held[contender.name].append(loss)
            num_bytes[contender.name].append(learner.rows.num_bytes)
            if contender is ADAM:
                furthest = max(furthest, float(np.abs(rows_IW - run.rows_IW).max()))
        say(f"seed {seed}: dense Adam and four that touch only the rows lent")
    return _result(names, bands, held, num_bytes, runs, furthest, rules, num_ids, float(np.mean(num_seen)))


def _held_out(settings: ZipfSettings, seed: int) -> ZipfLog:
    return draw_zipf_log(replace(settings, num_rows=max(settings.num_rows // 4, 2)), seed=seed, fresh=1)


def _run(rule: RowOptimizer, log: ZipfLog, held_out: ZipfLog) -> tuple[RowLearner, float]:
    learner = learn(log, RowLearner(log.columns_NW.shape[1], 0, rule), batch=_BATCH).learner
    return learner, float(losses(learner.probabilities(held_out), held_out).mean())


def _dense_adam(log: ZipfLog, held_out: ZipfLog, learning_rate: float) -> _DenseRun:
    """The same model by torch alone, counting which rows each step moves."""
    num_ids, width = log.effects_IW.shape
    table = torch.nn.Embedding(num_ids, width)
    torch.nn.init.zeros_(table.weight)
    bias = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([{"params": [table.weight], "lr": learning_rate}, {"params": [bias], "lr": 0.01}])
    id_N, columns_NW, labels_N = map(torch.from_numpy, (log.id_N, log.columns_NW, log.labels_N))
    moved, ghosts, path, ghost_path = [], [], 0.0, 0.0
    for start in range(0, len(log), _BATCH):
        id_B = id_N[start : start + _BATCH]
        before_IW = table.weight.detach().clone()
        logits_B = (table(id_B) * columns_NW[start : start + _BATCH]).sum(1) + bias
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits_B, labels_N[start : start + _BATCH]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step_I = (table.weight.detach() - before_IW).norm(dim=1)
        is_lent_I = torch.zeros(num_ids, dtype=torch.bool)
        is_lent_I[id_B] = True
        moved.append(int((step_I > 0).sum()))
        ghosts.append(int(((step_I > 0) & ~is_lent_I).sum()))
        path += float(step_I.sum())
        ghost_path += float(step_I[~is_lent_I].sum())
    grad = table.weight.grad
    assert grad is not None
    state = optimizer.state[table.weight]
    num_bytes = table.weight.nbytes + grad.nbytes + state["exp_avg"].nbytes + state["exp_avg_sq"].nbytes
    with torch.no_grad():
        logits_N = (table(torch.from_numpy(held_out.id_N)) * torch.from_numpy(held_out.columns_NW)).sum(1) + bias
    probabilities_N = torch.sigmoid(logits_N).double().numpy()
    rows_IW = table.weight.detach().numpy()
    return _DenseRun(rows_IW, probabilities_N, moved, ghosts, ghost_path / path, num_bytes)


def _result(
    names: Sequence[str],
    bands: dict[str, list[Floats]],
    held: dict[str, list[float]],
    num_bytes: dict[str, list[float]],
    runs: Sequence[_DenseRun],
    furthest: float,
    rules: dict[Contender, RowOptimizer],
    num_ids: int,
    num_seen: float,
) -> StudyResult:
    table = Table(title=f"Adam over the table and beside it: error by sightings, mean ± sd over {len(runs)} seeds")
    table.add_column("rule")
    for heading in (*band_names(), "held-out log loss", "bytes of the table"):
        table.add_column(heading, justify="right")
    numbers: dict[str, float] = {f"learning_rate/{c.name}": rule.learning_rate for c, rule in rules.items()}
    for name in names:
        cells = []
        for b, band in enumerate(band_names()):
            values = [float(errors_B[b]) for errors_B in bands[name]]
            numbers[f"{name}/error/{band}"] = float(np.mean(values))
            cells.append(shown(values, 3))
        size = float(np.mean(num_bytes[name]))
        numbers[f"{name}/held_out_log_loss"], numbers[f"{name}/bytes"] = float(np.mean(held[name])), size
        table.add_row(name, *cells, shown(held[name]), f"{size:,.0f}")
    lent = np.array([[m - g for m, g in zip(run.moved, run.ghosts, strict=True)] for run in runs]).mean(axis=0)
    ghosts = np.array([run.ghosts for run in runs]).mean(axis=0)
    share = float(np.mean([run.ghost_share for run in runs]))
    numbers |= {
        "ghosts_a_step/last": float(ghosts[-1]), "lent_a_step": float(lent.mean()), "ghost_share_of_path": share,
        "catch_up_furthest_from_dense": furthest,
    }  # fmt: skip
    rare = gain_of([e[1] for e in bands[LAZY_ADAM.name]], [e[1] for e in bands[_DENSE]])
    loss = gain_of(held[LAZY_ADAM.name], held[_DENSE])
    numbers |= {f"lazy_minus_dense/error_4_15/{k}": v for k, v in rare.numbers().items()}
    numbers |= {f"lazy_minus_dense/log_loss/{k}": v for k, v in loss.numbers().items()}
    steps = list(range(1, len(ghosts) + 1))
    some = slice(None, None, max(1, len(steps) // 200))
    places = [float(b) for b in range(len(BANDS))]
    chart = Chart(
        name="ghosts",
        title="The ghost updates of dense Adam",
        caption="Left: rows that a step of dense Adam moves: those of the batch, and the ghosts, which were in an "
        "earlier batch and are still carried on by their first moment, until in "
        "float32 it no longer changes a row. Right: what rare and frequent ids have learned by each rule, at its best "
        "learning rate.",
        description="Rows moved by step: ghosts and rows of the batch. Error by sightings for five rules.",
        panels=(
            Panel(
                title="Rows moved by one step", x_label="step", y_label="rows",
                lines=(
                    Line(name="ghosts: not in the batch", x=steps[some], y=ghosts[some].tolist()),
                    Line(name="in the batch", x=steps[some], y=lent[some].tolist()),
                ),
            ),
            Panel(
                title="Error by sightings", x_label="times an id was seen", y_label="error, 1 = knows nothing",
                x_names=dict(zip(places, band_names(), strict=True)),
                lines=tuple(
                    Line(name=name, x=places, y=np.mean(bands[name], axis=0).tolist(),
                         style="dashed" if name == ADAM.name else "line")
                    for name in names
                ),
            ),
        ),
    )  # fmt: skip
    if not loss.is_sure:
        verdict = "does no sure harm or good to held-out log loss"
    else:
        verdict = (
            "costs held-out log loss" if loss.high < 0 else "is no harm to what is learned: it lowers the log loss"
        )
    each = {_DENSE: numbers[f"{_DENSE}/bytes"] / num_ids}
    each |= {c.name: numbers[f"{c.name}/bytes"] / num_seen for c in rules}
    numbers |= {f"{name}/bytes_an_id": value for name, value in each.items()}
    finding = (
        f"Ghost updates: a step of dense Adam on {lent.mean():.0f} rows moves {ghosts[-1]:,.0f} others of {num_ids:,} "
        f"in the end, and {share:.0%} of the way that rows go is without a gradient. That {verdict} (LazyAdam − dense "
        f"{loss}; error of ids seen 4–15 times {rare}). What it costs is touching the whole table at each step, and "
        f"{each[_DENSE]:.0f} bytes for each possible id; tables of seen ids take {each[ADAM.name]:.0f} a seen one with "
        f"Adam and {each[ROW_WISE.name]:.0f} with row-wise AdaGrad, index included. Catch-up ends within "
        f"{furthest:.0e} of dense Adam, touching only the rows lent."
    )
    return StudyResult("ghosts", (table,), finding, numbers, (chart,))

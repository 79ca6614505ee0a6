"""RMSProp's claim, that it is better where goals move: rules on a log whose effects stay, switch half-way, or walk.

Letters: N rows of the log · S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from rankwell.studies.chart import Chart, Line, Panel
from rankwell.studies.contenders import ADAGRAD, ADAM, FTRL, LAZY_ADAM, RMS_PROP, ROW_WISE, SGD, Contender
from rankwell.studies.row_learner import RowLearner, learn
from rankwell.studies.study import Gain, StudyResult, gain_of
from rankwell.studies.zipf_log import Drift, ZipfLog, ZipfSettings, draw_zipf_log
from rankwell.tables.row_optimizer import RowOptimizer

__all__ = ["study_moving_goals"]

Floats = NDArray[np.float64]
_BATCH: Final = 256
_TUNING_SEED: Final = 1_000_003
_RULES: Final = (RMS_PROP, FTRL, ADAGRAD, ROW_WISE, ADAM, LAZY_ADAM, SGD)
_FORGETFUL: Final = (RMS_PROP, ADAM, LAZY_ADAM, SGD)
_UNFORGETTING: Final = (ADAGRAD, ROW_WISE, FTRL)
_WORLDS: Final[tuple[Drift, ...]] = ("still", "switch", "walk")
_NUM_PANES: Final = 40


def study_moving_goals(
    *, seeds: Sequence[int], num_rows: int, num_ids: int, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """Progressive log loss beyond the truth's, before and after the change, each rule at its best learning rate.

    Every row is predicted before it is learned from. The loss of the true probabilities on the same labels is taken
    off, which leaves what a rule does not know. A rate is chosen for each kind of log, on one of another truth, by
    the loss over the whole of it; for the log that switches also as somebody would choose who knows the first half.

    Args:
        seeds: One truth and log each; five or more for an interval.
        num_rows, num_ids: Of each log.
        say: Told what is going on.
    """
    numbers: dict[str, float] = {}
    panels, tables, findings = [], [], []
    by_world: dict[str, dict[Contender, Gain]] = {}
    for world in _WORLDS:
        settings = ZipfSettings(num_rows=num_rows, num_ids=num_ids, exponent=0.8, drift=world)
        tuning = draw_zipf_log(settings, seed=_TUNING_SEED)
        rules = _best_rules(tuning, num_rows)
        logs = [draw_zipf_log(settings, seed=seed) for seed in seeds]
        excess = {c: np.array([_excess(rule, log) for log in logs]) for c, rule in rules.items()}
        say(f"{world}: " + ", ".join(f"{c.name} {rule.learning_rate:g}" for c, rule in rules.items()))
        table, gains = _table(world, excess, rules, numbers)
        tables.append(table)
        findings.append(_finding(world, gains))
        by_world[world] = gains
        panels.append(_panel(world, excess))
    tables.append(_surprised(seeds, num_rows, num_ids, numbers, findings))
    say("switch, with rates chosen on its first half")
    chart = Chart(
        name="moving-goals",
        title="Where goals move",
        caption="Progressive log loss beyond what the true probabilities lose on the same labels, in panes of the log: "
        "0 is knowing everything. Each rule at the learning rate that is best for that kind of log. Left: the effects "
        "stay. Middle: all are drawn anew half-way. Right: all walk, slowly.",
        description="Excess log loss over the log for seven rules, where effects stay, switch half-way, and walk.",
        panels=tuple(panels),
        height=3.8,
    )
    return StudyResult("moving-goals", tuple(tables), "\n".join([_verdict(by_world), *findings]), numbers, (chart,))


def _best_rules(tuning: ZipfLog, num_rows: int) -> dict[Contender, RowOptimizer]:
    """Each at the rate that is best over so many first rows."""
    return {c: c.best(lambda rule: float(_excess(rule, tuning)[:num_rows].mean())) for c in _RULES}


def _excess(rule: RowOptimizer, log: ZipfLog) -> Floats:
    """Nats beyond the truth's, a number a row of the log."""
    learned = learn(log, RowLearner(log.columns_NW.shape[1], 0, rule), batch=_BATCH)
    return learned.progressive_losses(log) - log.truth_log_loss()


def _halves(excess_SN: Floats) -> tuple[list[float], list[float]]:
    half = excess_SN.shape[1] // 2
    return excess_SN[:, :half].mean(axis=1).tolist(), excess_SN[:, half:].mean(axis=1).tolist()


def _table(
    world: str, excess: dict[Contender, Floats], rules: dict[Contender, RowOptimizer], numbers: dict[str, float]
) -> tuple[Table, dict[Contender, Gain]]:
    table = Table(title=f"goals {world}: progressive log loss beyond the truth's, {len(excess[RMS_PROP])} seeds")
    for heading in ("rule", "rate", "first half", "second half", "second half − RMSProp's, 95 %"):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    of_rms = _halves(excess[RMS_PROP])[1]
    gains = {}
    for contender, excess_SN in excess.items():
        first, second = _halves(excess_SN)
        gains[contender] = gain = gain_of(second, of_rms)
        versus = "" if contender is RMS_PROP else str(gain)
        table.add_row(
            contender.name,
            f"{rules[contender].learning_rate:g}",
            f"{np.mean(first):.4f}",
            f"{np.mean(second):.4f}",
            versus,
        )
        key = f"{world}/{contender.name}"
        numbers[f"{key}/first_half"], numbers[f"{key}/second_half"] = float(np.mean(first)), float(np.mean(second))
        numbers[f"{key}/learning_rate"] = rules[contender].learning_rate
        if contender is not RMS_PROP:
            numbers |= {f"{key}/second_half_minus_rms_prop/{k}": v for k, v in gain.numbers().items()}
    return table, gains


def _finding(world: str, gains: dict[Contender, Gain]) -> str:
    words = []
    for contender in (*_UNFORGETTING, ADAM, SGD):
        gain = gains[contender]
        relation = "beats" if gain.low > 0 else "loses to" if gain.high < 0 else "ties with"
        words.append(f"{relation} {contender.name} ({gain})")
    return f"Goals {world}, second half: RMSProp " + ", ".join(words) + "."


def _verdict(by_world: dict[str, dict[Contender, Gain]]) -> str:
    """Of the claim, over the two worlds that move."""
    moving = [by_world["switch"], by_world["walk"]]
    better = [c.name for c in _RULES[1:] if all(gains[c].low > 0 for gains in moving)]
    worse = [c.name for c in _RULES[1:] if all(gains[c].high < 0 for gains in moving)]
    holds = all(c.name in better for c in _UNFORGETTING)
    return (
        f"RMSProp's claim, that it is better where goals move, {'holds' if holds else 'does not hold'} against rules "
        f"that add up all gradients (AdaGrad, FTRL). In both moving worlds it beats {', '.join(better) or 'no rule'}, "
        f"and is beaten by {', '.join(worse) or 'no rule'}."
    )


def _surprised(
    seeds: Sequence[int], num_rows: int, num_ids: int, numbers: dict[str, float], findings: list[str]
) -> Table:
    """The switch again, with rates that were best before anybody knew of it."""
    settings = ZipfSettings(num_rows=num_rows, num_ids=num_ids, exponent=0.8, drift="switch")
    tuning = draw_zipf_log(settings, seed=_TUNING_SEED)
    rules = _best_rules(tuning, num_rows // 2)
    logs = [draw_zipf_log(settings, seed=seed) for seed in seeds]
    excess = {c: np.array([_excess(rule, log) for log in logs]) for c, rule in rules.items()}
    table, gains = _table("switch unforeseen", excess, rules, numbers)
    findings.append(_finding("switch unforeseen", gains))
    return table


def _panel(world: str, excess: dict[Contender, Floats]) -> Panel:
    lines = []
    for contender, excess_SN in excess.items():
        panes = [pane.mean() for pane in np.array_split(excess_SN.mean(axis=0), _NUM_PANES)]
        ends = (np.arange(_NUM_PANES) + 1) * excess_SN.shape[1] / _NUM_PANES
        style = "line" if contender in _FORGETFUL else "dashed"
        lines.append(Line(name=contender.name, x=ends.tolist(), y=[float(p) for p in panes], style=style))  # type: ignore[arg-type]
    titles = {"still": "Effects stay", "switch": "Effects switch half-way", "walk": "Effects walk"}
    return Panel(
        title=titles[world], x_label="rows of the log", y_label="nats beyond the truth's", lines=tuple(lines),
        upright=excess[RMS_PROP].shape[1] / 2 if world == "switch" else None,
    )  # fmt: skip

"""The plan of a training as a table: what moves by which rule, how fast at first, and what that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rankwell.app.number_format import count, memory
from rankwell.tables.row_optimizer import RowOptimizer
from rankwell.training.dense_optimizers import DenseOptimizer
from rankwell.training.optimizers import OptimizerPlan, PlannedGroup

__all__ = ["plan_printer", "plan_table"]


def plan_printer(console: Console, name: str, plan: OptimizerPlan) -> Callable[[Sequence[PlannedGroup]], None]:
    """What `train` takes as ``on_plan``: prints the plan of the model called `name`."""
    said = [f"rates warm up over {count(plan.warm_up_steps)} steps"] if plan.warm_up_steps else []
    said += [f"all gradients together are clipped to norm {plan.clip_norm:g}"] if plan.clip_norm is not None else []
    return lambda groups: console.print(plan_table(groups, f"{name}: what moves by which rule", "; ".join(said)))


def plan_table(groups: Sequence[PlannedGroup], title: str, caption: str = "") -> Table:
    """A line for each table and group of dense parameters; of settings, those that aren't the rule's own defaults.

    Args:
        groups: What `OptimizerPlan.describe` gave.
        title: Above the table.
        caption: Below it.

    >>> from rankwell.tables.adagrad import RowWiseAdaGrad
    >>> rule = RowWiseAdaGrad(learning_rate=0.1, decay=2.0)
    >>> group = PlannedGroup("rows", "deep", rule, clip_norm=None, count=10, width=4, value_bytes=160, state_bytes=40)
    >>> for column in plan_table([group], "jobs").columns:
    ...     print(f"{column.header}: {next(iter(column.cells))}")
    what: rows deep
    moves by: RowWiseAdaGrad, decay 2.0
    rate: 0.1
    size: 10 × 4
    values: 160 B
    state: 40 B
    B/row: 20
    """
    clips = any(group.clip_norm is not None for group in groups)
    table = Table(title=title, caption=caption or None, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("what", no_wrap=True)
    table.add_column("moves by", overflow="fold")
    for heading in ("rate", *(["clip"] if clips else []), "size", "values", "state", "B/row"):
        table.add_column(heading, justify="right")
    for group in groups:
        of_rows = group.kind == "rows"
        clip = "–" if group.clip_norm is None else f"{group.clip_norm:g}"
        table.add_row(
            f"rows {group.name}" if of_rows else f"dense {group.name}".rstrip(),
            _rule_shown(group.rule),
            f"{group.rule.learning_rate:g}",
            *([clip] if clips else []),
            f"{count(group.count)} × {group.width}" if of_rows else count(group.count),
            memory(group.value_bytes),
            memory(group.state_bytes),
            str(group.bytes_a_row) if of_rows else "–",
        )
    return table


def _rule_shown(rule: RowOptimizer | DenseOptimizer) -> str:
    shown = [type(rule).__name__]
    for setting in fields(rule):
        value = getattr(rule, setting.name)
        if setting.name != "learning_rate" and (setting.default is MISSING or value != setting.default):
            shown.append(f"{setting.name} {value}")
    return ", ".join(shown)

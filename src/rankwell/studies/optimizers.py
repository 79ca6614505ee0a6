"""Which optimizer for what: four experiments where the truth is known, and one on Frappe where there is one at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rankwell.studies.frappe_rules import study_frappe_rules
from rankwell.studies.ghost_updates import study_ghost_updates
from rankwell.studies.moving_goals import study_moving_goals
from rankwell.studies.rule_convergence import study_row_wise, study_rule_convergence
from rankwell.studies.study import StudyResult, joined

__all__ = ["study_optimizers"]


def study_optimizers(
    *,
    seeds: Sequence[int],
    num_rows: int = 200_000,
    num_ids: int = 20_000,
    frappe: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> StudyResult:
    """Rare and frequent ids and dense features; ghost updates; row-wise state; moving goals; Frappe.

    Args:
        seeds: One truth and log each; five or more for intervals worth printing.
        num_rows, num_ids: Of each log.
        frappe: The folder of Frappe's train_reconstructed.parquet and valid.parquet.
        say: Told what is going on.
    """
    size = {"num_rows": num_rows, "num_ids": num_ids}
    parts = [
        study_rule_convergence(seeds=seeds, say=say, **size),
        study_ghost_updates(seeds=seeds, say=say, **size),
        study_row_wise(seeds=seeds, num_rows=num_rows // 2, num_ids=num_ids // 4, say=say),
        study_moving_goals(seeds=seeds, num_rows=num_rows // 2, num_ids=num_ids // 20, say=say),
    ]
    if frappe is not None:
        parts.append(study_frappe_rules(frappe, seeds=seeds[:3], say=say))
    return joined("optimizers", parts)

"""What two runs must share for one to go on from the other's checkpoint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from rankwell.models.model import Model
from rankwell.training.objectives import Objective
from rankwell.training.optimizers import OptimizerPlan

__all__ = ["run_identity"]

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


def run_identity(
    model: Model,
    objective: Objective,
    plan: OptimizerPlan,
    settings: Mapping[str, object],
    data: Mapping[str, str],
    seed: int,
) -> dict[str, str]:
    """All that the weights at the end depend on, by topic, as text that is the same in every process.

    Settings called ``checkpoint_…`` are left out: when checkpoints are written may change from start to start.

    Args:
        model: Its class, settings, schema, statistics, and its tables' seeds, widths, and what is kept of their rows.
        objective: Told apart by its `str`; an objective with settings shows them in `extra_repr`.
        plan: Who moves what.
        settings: Those of the loop, by name.
        data: What is read, by topic, such as a split's fingerprint.
        seed: Of the run.
    """
    tables = {
        part: {"seed": table.seed, "width": table.width, "dtype": kept.dtype, "eviction": kept.eviction}
        for part, table in sorted(model.tables.items())
        for kept in (table.storage,)  # not where it is kept, or how much of it in memory
    }
    topics = {
        "seed": seed,
        "model": f"{type(model).__name__} {model.settings.model_dump_json()}",
        "tables": tables,
        "schema": _short_hash(model.schema.to_json()),
        "statistics": _short_hash(model.statistics.to_json()),
        "objective": objective,
        "optimizers": plan.settings(),
        "loop": {name: value for name, value in settings.items() if not name.startswith("checkpoint_")},
        **data,
    }
    return {topic: _ADDRESS.sub("", str(value)) for topic, value in topics.items()}


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

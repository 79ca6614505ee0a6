"""What was served and what followed become a log to train on."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from rankwell.data.attribution import AttributionReport, attribute_files
from rankwell.errors import LogError
from rankwell.schema import Schema
from rankwell.serving.log_folder import LogFolder

__all__ = ["label_served"]

_OF_ALL_ACTIONS = ("num_actions", "num_unknown_action", "num_not_yet_known", "num_unknown_request")


def label_served(
    folder: str | Path, out: str | Path, *, now_us: int, schema: Schema | None = None
) -> AttributionReport:
    """Join the compacted actions of a folder to its compacted answers, as far as they were known at `now_us`.

    A file of `out` has the name and the rows of a part of the served log, with labels: 1 where the action came in its
    window, 0 where the window closed without it, null where it is still open or the candidate was not shown. Run again
    later, it writes each file anew.

    Args:
        folder: As `ServedLog` and `ActionLog` have it, compacted.
        out: A folder; `open_log(out, schema)` takes it.
        now_us: UTC microseconds.
        schema: By default that of the log; its actions must say their windows.

    Raises:
        LogError: Nothing is compacted, or a file can't be read.
        SchemaError: An action has no window.
    """
    served, actions = LogFolder(Path(folder) / "served", "served"), LogFolder(Path(folder) / "actions", "actions")
    schema = schema or served.schema()
    parts = served.compacted().parts
    if not parts:
        raise LogError(
            f"no answer of {str(folder)!r} is compacted yet", found="no Parquet file", do="run `rankwell compact` first"
        )
    action_paths = [str(actions.parquet / part) for part in actions.compacted().parts]
    Path(out).mkdir(parents=True, exist_ok=True)
    total: AttributionReport | None = None
    for part in parts:
        report = attribute_files(str(served.parquet / part), action_paths, str(Path(out) / part), schema, now_us=now_us)
        total = report if total is None else _sum(total, report)
    assert total is not None
    return total


def _sum(one: AttributionReport, other: AttributionReport) -> AttributionReport:
    """Of two parts: each action belongs to the requests of one part, and is of an unknown request in all others."""
    found = {
        field.name: getattr(one, field.name) + getattr(other, field.name)
        for field in fields(one)
        if field.name not in _OF_ALL_ACTIONS
    }
    placed = sum(found.values())
    unknown = one.num_actions - one.num_unknown_action - one.num_not_yet_known - placed
    return replace(one, **found, num_unknown_request=unknown)

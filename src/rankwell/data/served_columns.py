"""The columns that serving adds to a request's row: what was said of each candidate, by which bundle.

No model reads them: `open_log` passes over them, and a log with them trains as any other does. Monitoring reads them
beside the labels that come later. They stand in the request layout, under names of their own.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from rankwell.data.layout import LogLayout
from rankwell.errors import LogError, SchemaError
from rankwell.schema.schema import Schema

__all__ = ["check_served_columns", "served_fields", "served_logit", "served_probability"]

_PREFIX: Final = "served_"


def served_logit(action: str) -> str:
    """The column of an action's logits: the model's own log-odds, before calibration."""
    return f"{_PREFIX}logit_{action}"


def served_probability(action: str) -> str:
    """The column of an action's calibrated probabilities, as they were served."""
    return f"{_PREFIX}probability_{action}"


def served_fields(schema: Schema) -> tuple[Any, ...]:
    """The Arrow fields of the served columns of a log in request layout.

    On the request: ``served_bundle_id``, ``served_correction_id`` (null where there was none) and
    ``served_all_candidates`` (whether those that were not shown stand in the row, too, with position 0). On each
    candidate: a logit and a probability for each action, ``served_price_micros`` (null where there was none) and
    ``served_segments``, the segments by which the bundle calibrated, in its order.

    Raises:
        SchemaError: The schema has a column of such a name.

    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),))
    >>> [field.name for field in served_fields(schema)][-4:]
    ['served_price_micros', 'served_segments', 'served_logit_click', 'served_probability_click']
    """
    fields = [
        pa.field(f"{_PREFIX}bundle_id", pa.string()),
        pa.field(f"{_PREFIX}correction_id", pa.string()),
        pa.field(f"{_PREFIX}all_candidates", pa.bool_()),
        pa.field(f"{_PREFIX}price_micros", pa.list_(pa.int64())),
        pa.field(f"{_PREFIX}segments", pa.list_(pa.list_(pa.int64()))),
    ]
    for action in schema.actions:
        fields.append(pa.field(served_logit(action.name), pa.list_(pa.float64())))
        fields.append(pa.field(served_probability(action.name), pa.list_(pa.float64())))
    taken = sorted({field.name for field in fields} & set(LogLayout.of(schema, "requests").names))
    if taken:
        raise SchemaError(
            "columns of the schema have the names of columns that serving writes",
            found=taken,
            allowed=f"names that don't begin with {_PREFIX!r}",
            do="give them another `column`",
        )
    return tuple(fields)


def check_served_columns(table: Any, layout: LogLayout, *, file: str) -> None:
    """Refuse served columns whose lists are not as long as the request has candidates.

    Args:
        table: Of a log in request layout; the layout's own columns are checked already.
        layout: The log's.
        file: What errors call the table.

    Raises:
        LogError: As above.
    """
    candidate = next((c.name for c in layout.columns if c.side == "candidate" and c.name in table.column_names), None)
    lists = [f.name for f in table.schema if f.name.startswith(_PREFIX) and pa.types.is_list(f.type)]
    if candidate is None or not lists:
        return
    lengths = pc.list_value_length(table[candidate])
    for name in lists:
        equal = pc.equal(pc.list_value_length(table[name]), lengths)
        if name not in layout.names and not pc.all(pc.fill_null(equal, False)).as_py():
            row = pc.fill_null(equal, False).to_pylist().index(False)
            raise LogError(
                f"column {name!r} of {file!r} is not as long as {candidate!r} in row {row} of these",
                found=table[name][row].as_py(),
                allowed="one entry for each candidate",
                do="mend the column, or leave it out",
            )

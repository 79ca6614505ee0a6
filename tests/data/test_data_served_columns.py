"""Columns that serving adds: written, carried along, and passed over by every reader of the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rankwell.data.log import open_log
from rankwell.data.served_columns import served_fields
from rankwell.data.writer import LogWriter, write_log
from rankwell.errors import LogError, SchemaError
from rankwell.schema import Action, Categorical, Schema

SCHEMA = Schema(
    features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job", member_id=None, time=None
)
ROWS = {"request_id": [1, 2], "job": [[5, 6], [7]], "click": [[0, 1], [0]]}
SAID = {
    "served_bundle_id": ["a", "b"],
    "served_correction_id": [None, "c"],
    "served_all_candidates": [True, False],
    "served_price_micros": [[10, None], [None]],
    "served_segments": [[[1, 2], [3, 4]], [[]]],
    "served_logit_click": [[0.5, -0.5], [1.0]],
    "served_probability_click": [[0.6, 0.4], [0.7]],
}


def test_they_are_written_as_they_are_and_read_past(tmp_path: Path) -> None:
    path = str(tmp_path / "log.parquet")
    write_log(ROWS | SAID, path, SCHEMA, key=None)
    table = pq.read_table(path)
    assert {name: table[name].to_pylist() for name in SAID} == SAID
    assert [table.schema.field(field.name).type for field in served_fields(SCHEMA)] == [
        field.type for field in served_fields(SCHEMA)
    ]
    assert set(SAID) == {field.name for field in served_fields(SCHEMA)}
    log = open_log(path, SCHEMA)
    assert (log.num_requests, log.num_candidates) == (2, 3)
    assert not set(log.layout.names) & set(SAID)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"served_logit_click": [[0.5], [1.0]]}, r"'served_logit_click'.*row 0.*found: \[0.5\]"),
        ({"served_price_micros": [[1, 2], None]}, r"'served_price_micros'.*row 1"),
        ({"served_all_candidates": ["perhaps", "no"]}, r"'served_all_candidates' can't be written as bool"),
        ({"served_logit_apply": [[0.5, 0.1], [1.0]]}, r"doesn't name these columns.*served_logit_apply"),
    ],
)
def test_what_they_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message):
        write_log(ROWS | SAID | changes, str(tmp_path / "log.parquet"), SCHEMA, key=None)
    assert not list(tmp_path.iterdir())


def test_all_rows_have_them_or_none(tmp_path: Path) -> None:
    with LogWriter(str(tmp_path / "log.parquet"), SCHEMA, key=None) as writer:
        writer.write(ROWS | SAID)
        with pytest.raises(LogError, match="other columns than the rows before"):
            writer.write(ROWS)


def test_a_schema_does_not_take_their_names() -> None:
    schema = SCHEMA.model_copy(update={"features": (*SCHEMA.features, Categorical(name="served_segments"))})
    with pytest.raises(SchemaError, match="names of columns that serving writes"):
        served_fields(schema)

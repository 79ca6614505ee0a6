"""A log that says what it is is not read as something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rankwell.data.attribution import attribute_files
from rankwell.data.log import open_log
from rankwell.data.writer import write_log
from rankwell.errors import LogError
from rankwell.schema import Action, Bag, Categorical, Log, Numeric, Quantiles, Schema, Sequence

WRITTEN = Schema(
    features=(
        Categorical(name="job", num_ids=99),
        Categorical(name="country", on="request", missing="row"),
        Numeric(name="pay"),
        Numeric(name="offer", column="bid_micros"),
        Bag(name="skills", on="request"),
    ),
    sequences=(Sequence(name="h", fields=(Categorical(name="item", on="event"),)),),
    actions=(Action(name="click", window_s=60), Action(name="apply", window_s=60)),
    item="job",
    bid="bid_micros",
    member_id=None,
)
TABLE = {
    "request_id": [1, 2],
    "time_us": [100, 200],
    "country": [1, 2],
    "skills": [[1], []],
    "h_item": [[1], []],
    "h_time_us": [[1], []],
    "job": [[1, 2], [3]],
    "pay": [[1.0, 2.0], [3.0]],
    "bid_micros": [[1, 2], [3]],
    "click": [[0, 1], [0]],
    "apply": [[0, 1], [0]],
}


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    write_log(TABLE, str(tmp_path / "day.parquet"), WRITTEN, key=None)
    return tmp_path / "day.parquet"


def reader(**changes: Any) -> Schema:
    parts = {name: getattr(WRITTEN, name) for name in Schema.model_fields}
    return Schema(**parts | changes)


def rewritten(path: Path, **metadata: str | None) -> Path:
    """The file with other metadata; None takes an entry away."""
    table = pq.read_table(path)
    kept = dict(table.schema.metadata)
    for name, value in metadata.items():
        kept.pop(f"rankwell.{name}".encode(), None)
        if value is not None:
            kept[f"rankwell.{name}".encode()] = value.encode()
    pq.write_table(table.replace_schema_metadata(kept), path)
    return path


@pytest.mark.parametrize("version", ["2", "0", "", "1.0"])
def test_an_unknown_format_version_is_refused(path: Path, version: str) -> None:
    open_log(rewritten(path), WRITTEN)
    with pytest.raises(LogError) as caught:
        open_log(rewritten(path, format_version=version), WRITTEN)
    error = caught.value
    assert "unknown format version" in error.what
    assert "day.parquet" in error.what
    assert (error.found, error.allowed) == (version, "1")
    assert "the rankwell that wrote it" in str(error.do)
    with pytest.raises(LogError, match="unknown format version"):
        attribute_files(str(path), [], str(path.with_name("out.parquet")), WRITTEN, now_us=500)
    assert [file.name for file in path.parent.iterdir()] == ["day.parquet"]


def test_a_file_that_says_nothing_is_what_its_reader_declares(path: Path) -> None:
    other = reader(features=(Numeric(name="job"), Numeric(name="pay")), item=None, bid=None, sequences=())
    with pytest.raises(LogError, match="was written as something else"):
        open_log(path, other)
    assert open_log(rewritten(path, format_version=None, layout=None, schema=None), other).num_requests == 2


def test_the_layout_that_it_was_written_in(path: Path) -> None:
    with pytest.raises(LogError, match=r"(?s)day.parquet' has another layout; found: requests; allowed: flat.*open it"):
        open_log(path, WRITTEN, layout="flat")


@pytest.mark.parametrize("text", ["", "{", '{"features": []}', None])
def test_a_stored_schema_that_is_none(path: Path, text: str | None) -> None:
    with pytest.raises(LogError, match=r"(?s)day.parquet': the schema in its metadata cannot be read.*write the log"):
        open_log(rewritten(path, schema=text), WRITTEN)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": (Categorical(name="job", num_rows=7, missing="row"),), "bid": None},
        {"features": (*WRITTEN.features[:2], Numeric(name="pay", transform=Log(), missing="indicator"))},
        {"features": (*WRITTEN.features[:2], Numeric(name="pay", transform=Quantiles()))},
        {"features": (*WRITTEN.features, Categorical(name="job_again", column="job"))},
        {"actions": (Action(name="apply"),), "sequences": ()},
        {"actions": (Action(name="click", kind="graded", threshold=1),)},
        {"protected": (Categorical(name="where", column="country", on="request", missing="row"),)},
        {"ingest_delay_s": 0.00001, "weight": "pay"},
    ],
)
def test_what_may_differ_from_reading_to_reading(path: Path, changes: dict[str, Any]) -> None:
    log = open_log(path, reader(**changes))
    with log.reader() as blocks:
        assert sum(blocks.read(block).num_requests for block in log.blocks) == 2


JOB = Categorical(name="job")


@pytest.mark.parametrize(
    ("changes", "column", "found", "allowed"),
    [
        ({"features": (Numeric(name="job"),), "item": None}, "job", "categorical on the candidate", "numeric on the"),
        ({"features": (JOB, Categorical(name="bid_micros")), "bid": None}, "bid_micros", "numeric", "categorical"),
        ({"features": (JOB, Numeric(name="x", column="apply")), "actions": (Action(name="click"),)}, "apply", "label",
         "numeric on the candidate ('x')"),
        ({"actions": (Action(name="pay"),), "features": (JOB,)}, "pay", "numeric", "label on the candidate ('pay')"),
        ({"features": (JOB, Bag(name="h_item", on="request")), "sequences": ()}, "h_item", "categorical on the event",
         "bag on the request"),
        ({"features": (JOB, Categorical(name="skills"),)}, "skills", "bag on the request", "categorical on the cand"),
        ({"features": (JOB, Numeric(name="when", column="time_us", on="request"))}, "time_us", "time on the request",
         "numeric on the request"),
    ],
)  # fmt: skip
def test_a_column_is_not_read_as_something_else(
    path: Path, changes: dict[str, Any], column: str, found: str, allowed: str
) -> None:
    with pytest.raises(LogError) as caught:
        open_log(path, reader(**changes))
    error = caught.value
    assert error.what.startswith(f"column {column!r} of file")
    assert "day.parquet" in error.what
    assert found in str(error.found)
    assert allowed in str(error.allowed)
    assert "open it with the schema that it was written with" in str(error.do)

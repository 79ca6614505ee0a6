from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data.log import open_log
from rankwell.data.pseudonyms import PseudonymKey, pseudonymise
from rankwell.data.string_ids import hash_strings
from rankwell.data.writer import FORMAT_VERSION, LogWriter, impressions_table, write_log
from rankwell.errors import LogError, PrivacyError
from rankwell.schema import Action, Bag, Categorical, Exposure, Numeric, Place, Schema, Sequence, Vector
from rankwell.types import Impression

SECRET = bytes(range(100, 132))
KEY = PseudonymKey(SECRET)
SMALL = Schema(
    features=(Categorical(name="job"), Numeric(name="years", on="request")),
    actions=(Action(name="click"),),
    item="job",
    pii=("Email", "full_name"),
)
FULL = Schema(
    features=(
        Categorical(name="job", missing="row"),
        Categorical(name="title", column="job_title"),
        Bag(name="skills"),
        Bag(name="langs", on="request"),
        Numeric(name="pay", missing="indicator"),
        Numeric(name="offer", column="bid_micros"),
        Vector(name="text", width=2),
        Place(name="home", on="request"),
        Categorical(name="who", on="request", column="member_id"),
    ),
    actions=(Action(name="click"), Action(name="apply", kind="graded", threshold=2)),
    sequences=(Sequence(name="history", fields=(Categorical(name="item", on="event"),)),),
    item="job",
    exposure=Exposure(position="position", propensity="propensity"),
    bid="bid_micros",
    protected=(Categorical(name="sex", on="request"),),
)


def small(**changes: Any) -> dict[str, Any]:
    columns = {
        "request_id": [1, 2],
        "member_id": ["ann", "bob"],
        "time_us": [10, 20],
        "years": [1.5, 2.0],
        "job": [["cook", "smith"], ["cook"]],
        "click": [[1, 0], [0]],
    }
    return {name: values for name, values in (columns | changes).items() if values is not None}


def full() -> dict[str, Any]:
    return {
        "request_id": ["r1", "r2"],
        "member_id": pa.array(["ann", "bob"]).dictionary_encode(),
        "time_us": pa.array([datetime(2026, 1, 2, tzinfo=UTC)] * 2, pa.timestamp("ns", "UTC")),
        "job": pa.array([["cook", None], ["smith"]]),
        "job_title": [[4, 5], [6]],
        "skills": [[["a", "b"], []], [["b"]]],
        "langs": [["de"], []],
        "pay": [[1.0, None], [3.0]],
        "bid_micros": [[10, 20], [2**40]],
        "text": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]],
        "home_lat": [1.0, 2.0],
        "home_lon": [3.0, 4.0],
        "click": [[True, False], [None]],
        "click_observed": [[True, True], [False]],
        "apply": [[0.0, 3.0], [1.0]],
        "history_item": [["x"], []],
        "history_time_us": [[5], []],
        "position": [[1, None], [1]],
        "propensity": [[0.5, None], [1.0]],
        "sex": ["f", "m"],
    }


def word(text: str) -> int:
    return int(hash_strings(pa.array([text]))[0].as_py())


def write(columns: Any, path: Path | str, schema: Schema = SMALL, **settings: Any) -> pa.Table:
    write_log(columns, str(path), schema, **{"key": KEY, **settings})
    return pq.read_table(path)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_kind_of_column_is_written_as_the_layout_says(tmp_path: Path) -> None:
    table = write(full(), tmp_path / "log.parquet", FULL)
    ann, bob = pseudonymise(pa.array(["ann", "bob"]), KEY).to_pylist()
    midnight = 1_767_312_000_000_000
    assert table.to_pydict() == {
        "request_id": [word("r1"), word("r2")],
        "member_id": [ann, bob],
        "time_us": [midnight, midnight],
        "job": [[word("cook"), None], [word("smith")]],
        "job_title": [[4, 5], [6]],
        "skills": [[[word("a"), word("b")], []], [[word("b")]]],
        "langs": [[word("de")], []],
        "pay": [[1.0, None], [3.0]],
        "bid_micros": [[10, 20], [2**40]],
        "text": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]],
        "home_lat": [1.0, 2.0],
        "home_lon": [3.0, 4.0],
        "sex": [word("f"), word("m")],
        "history_item": [[word("x")], []],
        "history_time_us": [[5], []],
        "click": [[1, 0], [None]],
        "click_observed": [[True, True], [False]],
        "apply": [[0, 3], [1]],
        "position": [[1, None], [1]],
        "propensity": [[0.5, None], [1.0]],
    }
    assert {name: str(table.schema.field(name).type) for name in ("skills", "pay", "click", "apply", "position")} == {
        "skills": "list<element: list<element: int64>>",
        "pay": "list<element: float>",
        "click": "list<element: int8>",
        "apply": "list<element: int32>",
        "position": "list<element: int32>",
    }


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    metadata = write(small(), tmp_path / "log.parquet").schema.metadata
    assert metadata[b"rankwell.format_version"].decode() == FORMAT_VERSION == "1"
    assert metadata[b"rankwell.layout"] == b"requests"
    assert Schema.from_json(metadata[b"rankwell.schema"].decode()) == SMALL


def test_neither_key_nor_names_stand_in_the_file(tmp_path: Path) -> None:
    write(small(member_id=["ann.very.long.name", "bob"]), tmp_path / "log.parquet", compression="lz4")
    content = (tmp_path / "log.parquet").read_bytes()
    for secret in (SECRET, KEY._derived, SECRET.hex().encode(), b"ann.very.long.name", b"smith"):
        assert secret not in content


@pytest.mark.parametrize(
    "form",
    [
        pa.table,
        lambda columns: pa.table(columns).to_batches()[0],
        dict,
        pl.DataFrame,
        lambda columns: pl.DataFrame(columns).with_columns(pl.col("member_id").cast(pl.Categorical)),
        pd.DataFrame,
        lambda columns: pa.concat_tables([pa.table(columns).slice(i, 1) for i in range(2)]),
        lambda columns: pa.concat_tables([pa.table(columns), pa.table(columns)]).slice(2),
    ],
    ids=["table", "batch", "mapping", "polars", "polars categorical", "pandas", "chunks", "slice"],
)
def test_every_form_of_table_is_taken(tmp_path: Path, form: Callable[[dict[str, Any]], Any]) -> None:
    expected = write(small(), tmp_path / "a.parquet")
    assert write(form(small()), tmp_path / "b.parquet").equals(expected)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_it_is_compressed_and_checksummed(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "log.parquet"
    write(small(), path, compression=compression)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == compression.upper()
    assert pq.read_table(path, page_checksum_verification=True).num_rows == 2


def test_row_groups_have_the_size_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with LogWriter(str(path), SMALL, key=KEY, rows_per_group=3) as writer:
        for _ in range(4):
            writer.write(small())
        assert writer.num_rows == 8
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 3, 2]
    assert pq.read_table(path)["years"].to_pylist() == [1.5, 2.0] * 4


def test_a_row_group_of_a_flat_log_ends_with_its_request(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    ids = [1, 1, 2, 2, 2, 2, 2, 3, 4, 4]
    flat = {
        "request_id": ids,
        "member_id": [5] * 10,
        "time_us": [7] * 10,
        "years": [0.0] * 10,
        "job": list(range(10)),
        "click": [0] * 10,
    }
    table = pa.table(flat)
    with LogWriter(str(path), SMALL, key=KEY, layout="flat", rows_per_group=3) as writer:
        for start, stop in ((0, 4), (4, 5), (5, 8), (8, 9), (9, 10)):
            writer.write(table.slice(start, stop - start))
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(i)["request_id"].to_pylist() for i in range(file.num_row_groups)]
    assert groups == [[1, 1, 2, 2, 2, 2, 2], [3, 4, 4]]
    assert file.read()["job"].to_pylist() == list(range(10))
    assert file.schema_arrow.field("job").type == pa.int64()


def test_a_flat_log_without_request_ids_is_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    schema = SMALL.model_copy(update={"request_id": None, "member_id": None, "time": None})
    flat = {"years": [0.0] * 5, "job": list(range(5)), "click": [0] * 5}
    write(flat, path, schema, key=None, layout="flat", rows_per_group=2)
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2, 1]


@pytest.mark.parametrize("layout", ["requests", "flat"])
def test_labels_may_be_to_come(tmp_path: Path, layout: str) -> None:
    columns = small(click=None)
    if layout == "flat":
        columns["job"] = ["cook", "smith"]
    with pytest.raises(LogError, match=r"columns \['click'\] are in the schema but not in the input of the log"):
        write(columns, tmp_path / "log.parquet", layout=layout)
    table = write(columns, tmp_path / "log.parquet", layout=layout, labels="to_come")
    assert table["click"].to_pylist() == ([[None, None], [None]] if layout == "requests" else [None, None])


def test_members_that_are_pseudonyms_stay_as_they_are(tmp_path: Path) -> None:
    table = write(small(member_id=[8, 9]), tmp_path / "log.parquet", key=None, member_ids="already_pseudonyms")
    assert table["member_id"].to_pylist() == [8, 9]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (small(), {"key": None}, r"'member_id' holds member ids, and there is no key.*\n.*create_key"),
        (
            small(),
            {"key": None, "member_ids": "already_pseudonyms"},
            r"'member_id' holds strings: raw member ids, not pseudonyms; found: string",
        ),
        (
            small(),
            {"member_ids": "already_pseudonyms"},
            r"a key is given, and the member ids are said to be",
        ),
        (small(email=["a@b", "c@d"]), {}, r"columns declared as PII stand in the input.*found: \['email'\]"),
        (
            small(EMAIL=["a@b", "c@d"]),
            {"extra": "drop"},
            r"declared as PII.*found: \['EMAIL'\]; allowed: none.*\n.*leave",
        ),
        (
            small(who=[[{"Full_Name": "Ann"}], []]),
            {"extra": "drop"},
            r"columns declared as PII stand in the input.*found: \['Full_Name'\]",
        ),
    ],
)
def test_what_names_a_person_is_refused(
    tmp_path: Path, columns: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrivacyError, match=message) as caught:
        write(columns, tmp_path / "log.parquet", **settings)
    assert "a@b" not in str(caught.value)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            small(job=None),
            r"columns \['job'\] are in the schema but not in the input .*found: \['request_id'",
        ),
        (
            small(note=["x", "y"]),
            r"the schema doesn't name these columns.*found: \['note'\]; allowed: \['request_id'.*\n.*extra=\"drop\"",
        ),
        (
            small(job=[1, 2]),
            r"'job' can't be written as list<item: int64>; found: int64: .*allowed: list<integer",
        ),
        (small(years=["x", "y"]), r"column 'years' can't be written as float; found: string: "),
        (small(time_us=[1.5, 2.0]), r"column 'time_us' can't be written as int64; found: double: "),
        (small(click=[[0.5, 0], [0]]), r"column 'click' can't be written as list<item: int8>"),
        (small(click=[[300, 0], [0]]), r"column 'click' can't be written as list<item: int8>.* 300 "),
        (small(click=[[2, 0], [0]]), r"column 'click', file '.*', row 0 .*: label; found: 2; allowed: 0 or 1"),
        (small(click=[[1, 0], [0, 0]]), r"column 'click'.*row 1 .*lists of unequal length"),
        (small(click=[[1, 0], None]), r"column 'click'.*row 1"),
        (small(job=[["cook", None], ["cook"]]), r"column 'job'.*row 0 "),
        (small(job=[[1, -1], [2]]), r"column 'job'.*row 0 .*negative id; found: -1"),
        (small(job=[["a", "b"], []], click=[[1, 0], []]), r"row 1 .*empty candidate list"),
        (small(years=[1.0, float("nan")]), r"column 'years'.*row 1 .*NaN or null"),
        (small(years=[1.0, float("inf")]), r"column 'years'.*row 1 .*infinite"),
        (small(years=[1.0, 1e300]), r"column 'years'.*row 1 .*beyond float32"),
        (small(request_id=[1, 1]), r"column 'request_id'.*row 1 .*the request id stands twice; found: 1"),
        (small(member_id=[1.5, 2.5]), r"member ids must be integers or strings; found: double"),
        (small(member_id=[-1, 2]), r"member ids must be 0 or more; found: 1 distinct negative ids"),
        (pa.table([[1], [2]], ["job", "job"]), r"columns of the input stand twice; found: \['job'\]"),
        ([1, 2], r"cannot be made from this object; found: list"),
        ({"a": [1], "b": [1, 2]}, r"the input of the log '.*' is no table"),
        ({"a": [1, "x"]}, r"the input of the log '.*' is no table"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path: Path, columns: Any, message: str) -> None:
    with pytest.raises(LogError, match=message) as caught:
        write(columns, tmp_path / "log.parquet")
    assert caught.value.do
    assert caught.value.allowed or "member ids" in caught.value.what
    assert files(tmp_path) == []


def test_extra_columns_may_be_dropped(tmp_path: Path) -> None:
    table = write(small(note=["x", "y"]), tmp_path / "log.parquet", extra="drop")
    assert table.equals(write(small(), tmp_path / "same.parquet"))


@pytest.mark.parametrize("num_writes", [0, 2])
def test_an_empty_log_is_not_written(tmp_path: Path, num_writes: int) -> None:
    def write_nothing() -> None:
        with LogWriter(str(tmp_path / "log.parquet"), SMALL, key=KEY) as writer:
            for _ in range(num_writes):
                writer.write(pa.table(small()).slice(0, 0))

    with pytest.raises(LogError, match=r"nothing was written to the log .*; allowed: 1 row or more"):
        write_nothing()
    assert files(tmp_path) == []


def test_a_writer_is_used_inside_with(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path / "log.parquet"), SMALL, key=KEY)
    with pytest.raises(LogError, match=r"isn't open;\n.*inside `with LogWriter"):
        writer.write(small())
    with pytest.raises(LogError, match=r"rows_per_group is out of range; found: 0; allowed: 1 or more"):
        LogWriter(str(tmp_path / "log.parquet"), SMALL, key=KEY, rows_per_group=0)


def test_later_writes_have_the_columns_of_the_first(tmp_path: Path) -> None:
    with LogWriter(str(tmp_path / "log.parquet"), SMALL, key=KEY) as writer:
        writer.write(small())
        with pytest.raises(LogError, match=r"other columns than the rows before it; found: .*click_observed"):
            writer.write(small(click_observed=[[True, True], [True]]))


def test_a_refused_write_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with LogWriter(str(path), SMALL, key=KEY, rows_per_group=1) as writer:
        writer.write(small())
        with pytest.raises(LogError, match=r"row 3 \(from 0\).*: label; found: 2"):
            writer.write(small(click=[[1, 0], [2]]))
        writer.write(small(request_id=[3, 4]))
    assert pq.read_table(path)["request_id"].to_pylist() == [1, 2, 3, 4]


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("rows_per_group", [1, 100])
def test_an_exception_in_the_middle_leaves_the_old_file_whole(
    tmp_path: Path, error: BaseException, rows_per_group: int
) -> None:
    path = tmp_path / "log.parquet"
    write(small(), path)
    old = path.read_bytes()

    def write_half() -> None:
        with LogWriter(str(path), SMALL, key=KEY, rows_per_group=rows_per_group) as writer:
            writer.write(small(request_id=[8, 9]))
            assert len(files(tmp_path)) == 2
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert files(tmp_path) == ["log.parquet"]
    assert path.read_bytes() == old


class FullDisk:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: Any) -> int:
        size = len(memoryview(data))
        if size > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= size
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


# A small log takes more than 2,000 bytes: the disk is full at the first byte, in a row group, in the footer.
@pytest.mark.parametrize("room", [0, 10, 500, 1500])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    path = tmp_path / "log.parquet"
    write(small(), path)
    old = path.read_bytes()
    assert len(old) > 2000
    plain_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: FullDisk(plain_open(self, mode), room))
    with pytest.raises(OSError, match="No space left on device"):
        write_log(small(request_id=[8, 9]), str(path), SMALL, key=KEY)
    monkeypatch.undo()
    assert files(tmp_path) == ["log.parquet"]
    assert path.read_bytes() == old


def test_a_disk_that_is_full_at_the_very_end_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "log.parquet"
    write(small(), path)
    old = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        write_log(small(request_id=[8, 9]), str(path), SMALL, key=KEY)
    assert files(tmp_path) == ["log.parquet"]
    assert path.read_bytes() == old


def test_a_failure_that_the_caller_swallows_spoils_the_log_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: FullDisk(plain_open(self, mode), 500))

    def swallow() -> None:
        with LogWriter(str(tmp_path / "log.parquet"), SMALL, key=KEY, rows_per_group=1) as writer:
            with pytest.raises(OSError, match="No space left on device"):
                writer.write(small())
            monkeypatch.undo()

    with pytest.raises(LogError, match=r"is given up: an earlier write failed half-way"):
        swallow()
    assert files(tmp_path) == []


KILLED = """
import os, signal, sys
from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.writer import LogWriter
from rankwell.schema import Schema
with LogWriter(sys.argv[1], Schema.from_json(sys.argv[2]), key=PseudonymKey(bytes(range(32))), rows_per_group=1) as log:
    log.write({"request_id": [9], "member_id": [9], "time_us": [9], "years": [9.0], "job": [[9]], "click": [[1]]})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_writer_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    write(small(), path)
    old = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), SMALL.to_json()], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert path.read_bytes() == old
    # What is left beside it is hidden, and no reader's pattern finds it.
    assert [name for name in files(tmp_path) if not name.startswith(".")] == ["log.parquet"]
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_a_store_far_away_gets_the_log_by_a_move() -> None:
    store = fsspec.filesystem("memory")
    path = "memory://writer-test/day/log.parquet"
    try:
        write_log(small(), path, SMALL, key=KEY)
        assert store.ls("/writer-test/day", detail=False) == ["/writer-test/day/log.parquet"]
        old = store.cat_file("/writer-test/day/log.parquet")
        with pytest.raises(LogError, match="label; found: 2"):
            write_log(small(click=[[2, 0], [0]]), path, SMALL, key=KEY)
        assert store.ls("/writer-test/day", detail=False) == ["/writer-test/day/log.parquet"]
        assert store.cat_file("/writer-test/day/log.parquet") == old
        write_log(small(request_id=[8, 9]), path, SMALL, key=KEY)
        with store.open("/writer-test/day/log.parquet", "rb") as file:
            assert pq.read_table(file)["request_id"].to_pylist() == [8, 9]
    finally:
        store.rm("/writer-test", recursive=True)


def test_a_path_without_a_folder_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(small(), "log.parquet", SMALL, key=KEY)
    assert files(tmp_path) == ["log.parquet"]


def test_a_folder_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_log(small(), str(tmp_path / "nowhere" / "log.parquet"), SMALL, key=KEY)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, 2**62), min_size=1, max_size=3), min_size=1, max_size=12),
    st.integers(1, 5),
    st.data(),
)
def test_pieces_make_the_log_that_the_whole_makes(
    tmp_path_factory: pytest.TempPathFactory, jobs: list[list[int]], rows_per_group: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    table = pa.table(
        {
            "request_id": range(len(jobs)),
            "member_id": [job[0] for job in jobs],
            "time_us": range(len(jobs)),
            "years": np.arange(len(jobs), dtype=np.float32),
            "job": jobs,
            "click": [[0] * len(job) for job in jobs],
        }
    )
    cut = data.draw(st.integers(0, len(table)))
    with LogWriter(str(folder / "pieces.parquet"), SMALL, key=KEY, rows_per_group=rows_per_group) as writer:
        writer.write(table.slice(0, cut))
        writer.write(table.slice(cut))
    whole = write(table, folder / "whole.parquet", rows_per_group=rows_per_group)
    pieces = pq.ParquetFile(folder / "pieces.parquet")
    assert pieces.read().equals(whole)
    assert pieces.num_row_groups == -(-len(jobs) // rows_per_group)
    assert whole["job"].to_pylist() == jobs


def test_impressions_become_a_table_row_by_row() -> None:
    shown = [Impression(2**62, 2, 3, 4, 1, 0.25, 1.0), Impression(1, 2, 3, 5, 2, 1 / 3, 0.5)]
    table = impressions_table(shown)
    assert [Impression(**row) for row in table.to_pylist()] == shown
    assert [str(type_) for type_ in table.schema.types] == ["int64"] * 5 + ["double"] * 2
    assert impressions_table([]).schema == table.schema


def test_what_was_written_is_read_back_as_tensors(tmp_path: Path) -> None:
    path = str(tmp_path / "log.parquet")
    write_log(full(), path, FULL, key=KEY, rows_per_group=1)
    log = open_log(path, FULL, layout="requests")
    with log.reader() as reader:
        first, second = (reader.read(block).whole for block in log.blocks)
    ann, bob = pseudonymise(pa.array(["ann", "bob"]), KEY).to_pylist()
    assert first.audit.member_ids_R.tolist() + second.audit.member_ids_R.tolist() == [ann, bob]
    assert first.audit.item_ids_C.tolist() == [word("cook"), -1]
    assert first.targets.observed_CA.tolist() == [[True, True], [True, True]]
    assert second.targets.observed_CA.tolist() == [[False, True]]
    assert first.features.candidates["offer"].tolist() == [10.0, 20.0]
    assert first.features.candidates["text"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert first.features.history["history"].columns["item"].tolist() == [word("x")]

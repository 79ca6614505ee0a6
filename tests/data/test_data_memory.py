"""Tables in memory: strings inside lists become ids, whatever the lists look like in memory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data.log import log_from_table
from rankwell.data.memory import map_leaves
from rankwell.data.string_ids import hash_strings
from rankwell.errors import LogError
from rankwell.schema import Action, Bag, Categorical, Numeric, Schema

WORDS = ("cook", "clerk", "pilot")
ID_OF = dict(zip(WORDS, hash_strings(pa.array(WORDS)).to_pylist(), strict=True)) | {None: None}
SCHEMA = Schema(
    features=(Categorical(name="job", missing="row"), Bag(name="skills")),
    actions=(Action(name="click"),),
    member_id=None,
    time=None,
)

words = st.none() | st.sampled_from(WORDS)
lists = st.none() | st.lists(words, max_size=3)
nested = st.none() | st.lists(lists, max_size=3)


def hashed(value: Any) -> Any:
    return [hashed(entry) for entry in value] if isinstance(value, list) else ID_OF[value]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        (words, pa.string()),
        (lists, pa.list_(pa.string())),
        (lists, pa.large_list(pa.large_string())),
        (lists, pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        (st.none() | st.lists(words, min_size=2, max_size=2), pa.list_(pa.string(), 2)),
        (nested, pa.list_(pa.list_(pa.string()))),
        (nested, pa.large_list(pa.list_(pa.string()))),
    ],
)
def test_slices_and_null_lists(entries: Any, kind: Any, data: Any) -> None:
    values = data.draw(st.lists(entries, max_size=6))
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    sliced = pa.array(values, kind).slice(start, stop - start)
    found = map_leaves(sliced, hash_strings)
    assert found.to_pylist() == [hashed(value) for value in values[start:stop]]
    found.validate(full=True)


def chunk_of(table: pa.Table) -> Any:
    log = log_from_table(table, SCHEMA, layout="requests")
    with log.reader() as reader:
        (chunk,) = [reader.read(block) for block in log.blocks]
    return chunk.whole.features.candidates


def requests() -> pa.Table:
    return pa.table({
        "request_id": [1, 2, 3],
        "job": [["cook", None], ["clerk"], ["pilot", "cook"]],
        "skills": [[["cook"], []], [["clerk", "pilot"]], [[], ["cook"]]],
        "click": [[0, 1], [0], [1, 0]],
    })  # fmt: skip


def test_a_slice_of_a_table_of_words_is_read_as_the_slice() -> None:
    candidates = chunk_of(requests().slice(1))
    assert candidates["job"].tolist() == [ID_OF["clerk"], ID_OF["pilot"], ID_OF["cook"]]
    assert candidates["skills"].values.tolist() == [ID_OF["clerk"], ID_OF["pilot"], ID_OF["cook"]]
    assert candidates["skills"].offsets.tolist() == [0, 2, 2, 3]
    chunked = pa.concat_tables([requests().slice(2), requests().slice(0, 1)])
    assert chunk_of(chunked)["job"].tolist() == [ID_OF["pilot"], ID_OF["cook"], ID_OF["cook"], -1]


def test_a_null_list_of_words_is_refused_with_its_row() -> None:
    table = requests().set_column(1, "job", [[["cook", None], None, ["pilot", "cook"]]])
    with pytest.raises(LogError, match=r"(?s)column 'job', file 'the table in memory', row 1.*null list.*do: write"):
        chunk_of(table)
    with pytest.raises(LogError, match=r"(?s)column 'job'.*row 0.*null list"):
        chunk_of(table.slice(1))


def test_a_column_of_nulls_alone_has_the_type_that_is_declared() -> None:
    job, pay = Categorical(name="job", missing="row"), Numeric(name="pay", missing="indicator")
    schema = Schema(
        features=(job, pay, Numeric(name="age")), actions=(Action(name="click"),),
        request_id=None, member_id=None, time=None,
    )  # fmt: skip
    table = pa.table({"job": [None], "pay": [None], "age": [1.0], "click": [None]})
    log = log_from_table(table, schema)
    with log.reader() as reader:
        batch = reader.read(log.blocks[0]).whole
    assert batch.features.candidates["job"].tolist() == [-1]
    assert batch.features.candidates["pay"].isnan().all()
    assert not batch.targets.observed_CA.any()
    broken = log_from_table(table.set_column(2, "age", pa.nulls(1)), schema)
    with broken.reader() as reader, pytest.raises(LogError, match=r"(?s)column 'age'.*row 0.*NaN or null"):
        reader.read(broken.blocks[0])

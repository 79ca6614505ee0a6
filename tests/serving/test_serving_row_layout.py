from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.schema import Bag, Categorical, Log, Numeric, Place, Sequence, Vector
from rankwell.serving.row_layout import RowLayout
from rankwell.types import Ragged

FEATURES = (
    Categorical(name="title"),
    Bag(name="skills"),
    Numeric(name="pay"),
    Place(name="office"),
    Vector(name="given", width=3),
    Bag(name="wanted"),
)
HISTORY = Sequence(name="history", fields=(Categorical(name="item", on="event"), Numeric(name="dwell", on="event")))
IDS = st.integers(0, 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=False)
ROWS = st.fixed_dictionaries(
    {
        "title": st.integers(-1, 2**63 - 1),
        "skills": st.lists(IDS, max_size=4),
        "pay": FLOATS,
        "office": st.lists(FLOATS, min_size=2, max_size=2),
        "given": st.lists(FLOATS, min_size=3, max_size=3),
        "wanted": st.lists(IDS, max_size=4),
        "events": st.lists(st.tuples(IDS, FLOATS, IDS), max_size=5),
    }
)


def packed(layout: RowLayout, rows):
    def offsets(name: str) -> np.ndarray:
        return np.cumsum([0, *(len(row[name]) for row in rows)])

    events = [event for row in rows for event in row["events"]]
    return layout.pack(
        {
            "title": np.array([row["title"] for row in rows], np.int64),
            "pay": np.array([row["pay"] for row in rows], np.float32),
            "office": np.array([row["office"] for row in rows], np.float32).reshape(-1, 2),
            "given": np.array([row["given"] for row in rows], np.float32).reshape(-1, 3),
        },
        {
            **{
                name: (offsets(name), {"": np.array([v for row in rows for v in row[name]], np.int64)})
                for name in ("skills", "wanted")
            },
            "history": (
                offsets("events"),
                {
                    "item": np.array([event[0] for event in events], np.int64),
                    "dwell": np.array([event[1] for event in events], np.float32),
                    "time_us": np.array([event[2] for event in events], np.int64),
                },
            ),
        },
        num_rows=len(rows),
    )


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(ROWS, max_size=6), st.randoms(use_true_random=False))
def test_what_is_packed_is_read_in_any_order(rows, random) -> None:
    layout = RowLayout(FEATURES, (HISTORY,), "members")
    stored = packed(layout, rows)
    assert layout.list_words(stored.words_nW).tolist() == np.diff(stored.starts).tolist()
    order = [random.randrange(len(rows)) for _ in range(2 * len(rows))]
    columns = layout.columns(stored.words_nW[order], stored.lists, stored.starts[order])
    assert list(columns) == [feature.name for feature in FEATURES]
    for name, column in columns.items():
        wanted = [rows[i][name] for i in order]
        if isinstance(column, Ragged):
            bounds = column.offsets.tolist()
            assert [column.values[a:b].tolist() for a, b in itertools.pairwise(bounds)] == wanted
        else:
            expected = np.array(wanted, column.numpy().dtype).reshape(column.shape)
            assert np.array_equal(column.numpy(), expected, equal_nan=column.is_floating_point())
    for i, row in enumerate(rows):
        events = layout.events(stored.words_nW[i : i + 1], stored.lists, int(stored.starts[i]))["history"]
        assert events.columns["item"].tolist() == [event[0] for event in row["events"]]
        dwell = np.array([event[1] for event in row["events"]], np.float32)
        assert np.array_equal(events.columns["dwell"], dwell, equal_nan=True)
        assert events.times_us_H is not None
        assert events.times_us_H.tolist() == [event[2] for event in row["events"]]


def test_the_bytes_are_those_of_the_docstring() -> None:
    """Little-endian: head, ids, lengths, numbers, zeros to the word; then lists, each from a word on."""
    layout = RowLayout((Categorical(name="title"), Numeric(name="pay")), (HISTORY,), "members")
    stored = layout.pack(
        {"title": np.array([-1]), "pay": np.array([0.5], np.float32)},
        {
            "history": (
                np.array([0, 3]),
                {
                    "item": np.array([7, 8, 9]),
                    "dwell": np.array([1, 2, 3], np.float32),
                    "time_us": np.array([10, 20, 30]),
                },
            )
        },
        num_rows=1,
    )
    assert stored.words_nW.tobytes() == struct.pack("<qqif", 0, -1, 3, 0.5)
    assert stored.lists.tobytes() == struct.pack("<qqqffffqqq", 7, 8, 9, 1.0, 2.0, 3.0, 0.0, 10, 20, 30)


def test_a_fingerprint_is_that_of_the_bytes_and_of_nothing_else() -> None:
    """Values stay what they are when only models are to read them otherwise."""
    pay = Numeric(name="pay")
    base = RowLayout((pay, Categorical(name="title")), (HISTORY,), "members").fingerprint
    same = (Numeric(name="pay", transform=Log(), column="wage"), Categorical(name="title", num_ids=9, table="t"))
    assert RowLayout(same, (HISTORY.model_copy(update={"max_length": 3}),), "members").fingerprint == base
    others = (
        ((pay, Categorical(name="title")), (HISTORY,), "items"),
        ((Categorical(name="title"), pay), (HISTORY,), "members"),
        ((pay, Categorical(name="role")), (HISTORY,), "members"),
        ((pay, Categorical(name="title", missing="row")), (HISTORY,), "members"),
        ((Numeric(name="pay", missing="indicator"), Categorical(name="title")), (HISTORY,), "members"),
        ((pay, Bag(name="title")), (HISTORY,), "members"),
        ((pay, Categorical(name="title")), (), "members"),
        ((pay, Categorical(name="title")), (HISTORY.model_copy(update={"time": None}),), "members"),
        ((pay, Categorical(name="title")), (HISTORY.model_copy(update={"name": "past"}),), "members"),
        ((Vector(name="v", width=2),), (), "members"),
        ((Vector(name="v", width=3),), (), "members"),
        ((Place(name="v"),), (), "members"),
    )
    found = {RowLayout(features, sequences, side).fingerprint for features, sequences, side in others}
    assert len(found | {base}) == len(others) + 1
    assert all(0 <= fingerprint < 2**63 for fingerprint in found)


def test_lengths_that_are_none_are_told() -> None:
    layout = RowLayout((Bag(name="skills"),), (), "items")
    words = np.zeros((3, layout.num_words), np.int64)
    words.view(layout.dtype)["num:skills"][:, 0] = [2, -1, 0]
    assert layout.list_words(words).tolist() == [2, -1, 0]


@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_rows_of_nothing(num_rows: int) -> None:
    layout = RowLayout((), (), "items")
    stored = layout.pack({}, layout.no_lists(num_rows=num_rows), num_rows=num_rows)
    assert stored.words_nW.shape == (num_rows, 1)
    assert layout.columns(stored.words_nW, stored.lists, stored.starts[:-1]) == {}

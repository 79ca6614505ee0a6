from __future__ import annotations

from hashlib import blake2b

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data.string_ids import hash_strings, is_stringlike
from rankwell.errors import LogError

WORDS = ["a", None, "", "a", "Zürich", "b", None]


def slow_hash(value: str | bytes | None) -> int | None:
    if value is None:
        return None
    data = value.encode() if isinstance(value, str) else value
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") % 2**63


@pytest.mark.parametrize(
    "type_",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_every_kind_of_string_gets_the_same_ids(type_: pa.DataType) -> None:
    if "binary" in str(type_):
        array = pa.array([None if w is None else w.encode() for w in WORDS], type_)
    else:
        array = pa.array(WORDS, type_)
    assert is_stringlike(type_)
    ids = hash_strings(array)
    assert ids.type == pa.int64()
    assert ids.to_pylist() == [slow_hash(w) for w in WORDS]
    assert hash_strings(array.slice(2, 3)).to_pylist() == [slow_hash(w) for w in WORDS[2:5]]
    chunked = pa.chunked_array([array.slice(0, 3), array.slice(3)])
    assert hash_strings(chunked).to_pylist() == ids.to_pylist()


def test_an_id_is_the_same_for_ever() -> None:
    # Logs written years apart must agree: these numbers may never change.
    assert hash_strings(pa.array(["", "job", "Zürich"])).to_pylist() == [
        slow_hash(""),
        2652386491717082798,
        slow_hash("Zürich"),
    ]


def test_a_fixed_size_binary_is_hashed_by_its_bytes() -> None:
    assert hash_strings(pa.array([b"abcd"], pa.binary(4))).to_pylist() == [slow_hash("abcd")]


def test_chunks_with_dictionaries_of_their_own_agree() -> None:
    first, second = pa.array(["x", "y"]).dictionary_encode(), pa.array(["y", "z"]).dictionary_encode()
    ids = hash_strings(pa.chunked_array([first, second])).to_pylist()
    assert ids == [slow_hash(w) for w in ["x", "y", "y", "z"]]


def test_a_dictionary_may_hold_nulls_repetitions_and_words_that_do_not_stand() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None, 0]), pa.array(["a", None, "a", "unused"]))
    assert hash_strings(array).to_pylist() == [slow_hash("a"), None, slow_hash("a"), None, slow_hash("a")]


@pytest.mark.parametrize("array", [pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.nulls(0)])
def test_nothing_gives_nothing(array: pa.Array) -> None:
    assert hash_strings(array).to_pylist() == []


def test_a_column_of_nulls_stays_null() -> None:
    assert hash_strings(pa.nulls(2)).to_pylist() == [None, None]
    assert hash_strings(pa.nulls(2, pa.string())).to_pylist() == [None, None]


def test_numbers_are_refused() -> None:
    with pytest.raises(LogError, match=r"only strings and bytes can be hashed to ids; found: double; allowed: string"):
        hash_strings(pa.array([1.0]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.none() | st.text(max_size=5), max_size=20))
def test_ids_follow_the_words_and_never_the_order(words: list[str | None]) -> None:
    ids = hash_strings(pa.array(words, pa.string())).to_pylist()
    assert ids == [slow_hash(w) for w in words]
    assert all(i is None or 0 <= i < 2**63 for i in ids)
    assert hash_strings(pa.array(words[::-1], pa.string())).to_pylist() == ids[::-1]

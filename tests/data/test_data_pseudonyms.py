from __future__ import annotations

import copy
import errno
import os
import pickle
import stat
import traceback
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.data.pseudonyms import PseudonymKey, create_key, pseudonymise, read_key
from rankwell.data.string_ids import hash_strings
from rankwell.errors import LogError, PrivacyError

SECRET = bytes(range(100, 132))
KEY = PseudonymKey(SECRET)
OTHER_KEY = PseudonymKey(bytes(range(101, 133)))


def test_a_created_key_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "member.key"
    before = os.umask(0)
    try:
        key = create_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    ids = pa.array([1, 2, 3])
    assert pseudonymise(ids, read_key(path)) == pseudonymise(ids, key)


def test_two_created_keys_differ(tmp_path: Path) -> None:
    create_key(tmp_path / "a")
    create_key(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "member.key"
    create_key(path)
    secret = path.read_bytes()
    with pytest.raises(PrivacyError, match=r"the key file '.*member.key' exists already;\n.*read it with read_key"):
        create_key(path)
    assert path.read_bytes() == secret


def test_a_key_that_could_not_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        create_key(tmp_path / "member.key")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"the key file '.*member.key' can't be created; found: No such file"):
        create_key(tmp_path / "nowhere" / "member.key")


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"there is no key file '.*member.key';\n.*create_key\(path\)"):
        read_key(tmp_path / "member.key")


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"can't be read; found: Is a directory"):
        read_key(tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "member.key"
    path.write_bytes(SECRET)
    path.chmod(mode)
    with pytest.raises(
        PrivacyError, match=rf"found: mode {mode:o}; allowed: mode 600 or 400;\n.*chmod 600 .*member.key"
    ):
        read_key(path)
    path.chmod(0o400)
    read_key(path)


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (b"", r"wrong length; found: 0 bytes; allowed: 32 to 4096 random bytes"),
        (bytes(range(31)), r"wrong length; found: 31 bytes; allowed: 32 to 4096"),
        (bytes(range(256)) * 17, r"wrong length; found: more than 4096 bytes"),
        (b"\0" * 32, r"isn't random: it repeats a few bytes;\n.*create_key"),
    ],
    ids=["empty", "short", "a whole file", "zeros"],
)
def test_bytes_that_are_no_key_are_refused(tmp_path: Path, secret: bytes, message: str) -> None:
    path = tmp_path / "member.key"
    path.write_bytes(secret)
    path.chmod(0o600)
    with pytest.raises(PrivacyError, match=message):
        read_key(path)
    with pytest.raises(PrivacyError, match=message):
        PseudonymKey(secret)


def test_the_key_shows_nowhere() -> None:
    shown = [repr(KEY), str(KEY), f"{KEY}", repr([KEY])]
    for failing in (lambda: pickle.dumps(KEY), lambda: copy.deepcopy(KEY), lambda: copy.copy(KEY)):
        with pytest.raises(PrivacyError, match="can't be pickled or copied") as caught:
            failing()
        shown.append(str(caught.value))
    try:
        pseudonymise(pa.array([1.5]), KEY)
    except LogError:
        shown.append(traceback.format_exc())
    for text in shown:
        assert repr(SECRET)[2:-1] not in text
        assert SECRET.hex() not in text
        assert KEY._derived.hex() not in text
    assert not hasattr(KEY, "__dict__")


def test_equal_ids_get_equal_pseudonyms_whatever_their_width() -> None:
    ids = [7, 300, 7]
    wide = pseudonymise(pa.array(ids), KEY)
    assert wide.type == pa.int64()
    for type_ in (pa.int16(), pa.uint32(), pa.uint64(), pa.dictionary(pa.int8(), pa.int64())):
        assert pseudonymise(pa.array(ids, type_), KEY).equals(wide), type_
    assert pseudonymise(pa.chunked_array([[7, 300], [7]]), KEY).equals(wide)


def test_ids_above_int64_are_ids_too() -> None:
    low, high = pseudonymise(pa.array([0, 2**64 - 1], pa.uint64()), KEY).to_pylist()
    assert low != high
    assert 0 <= high < 2**63


def test_the_number_and_the_word_are_two_members() -> None:
    number, word = pseudonymise(pa.array([7]), KEY), pseudonymise(pa.array(["7"]), KEY)
    assert number != word
    # Nor may an integer's bytes, read as a word, collide with it.
    assert pseudonymise(pa.array([(7).to_bytes(8, "little")], pa.binary()), KEY) != number


def test_words_get_equal_pseudonyms_in_every_form() -> None:
    words = ["x", None, "y", "x"]
    plain = pseudonymise(pa.array(words), KEY)
    assert plain.to_pylist()[0] == plain.to_pylist()[3]
    for type_ in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        assert pseudonymise(pa.array(words, type_), KEY).equals(plain)
    assert plain != hash_strings(pa.array(words))


def test_a_pseudonym_is_the_same_for_ever() -> None:
    # Logs written years apart under one key must agree: these numbers may never change.
    assert pseudonymise(pa.array([7]), KEY).to_pylist() == [8158223401106224287]
    assert pseudonymise(pa.array(["7"]), KEY).to_pylist() == [1513348908799739762]


def test_nulls_and_nothing() -> None:
    assert pseudonymise(pa.nulls(2), KEY).to_pylist() == [None, None]
    assert pseudonymise(pa.array([None, 3], pa.int64()), KEY).to_pylist()[0] is None
    assert pseudonymise(pa.array([], pa.int64()), KEY).to_pylist() == []


@pytest.mark.parametrize("ids", [pa.array([1.0]), pa.array([True]), pa.array([[1]])])
def test_other_types_are_refused(ids: pa.Array) -> None:
    with pytest.raises(LogError, match="member ids must be integers or strings; found: .*; allowed: integer, string"):
        pseudonymise(ids, KEY)


def test_a_negative_id_is_refused_and_not_printed() -> None:
    with pytest.raises(LogError, match="member ids must be 0 or more; found: 2 distinct negative ids") as caught:
        pseudonymise(pa.array([-4711, 3, -2, -2]), KEY)
    assert "4711" not in str(caught.value)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20, unique=True))
def test_pseudonyms_are_one_to_one_and_unlinkable_across_keys(ids: list[int]) -> None:
    mine, other = pseudonymise(pa.array(ids), KEY).to_pylist(), pseudonymise(pa.array(ids), OTHER_KEY).to_pylist()
    assert len(set(mine)) == len(ids)
    assert not set(mine) & set(other)
    assert not set(mine) & set(ids)
    assert all(0 <= pseudonym < 2**63 for pseudonym in mine)


def test_pseudonyms_spread_over_all_63_bits() -> None:
    pseudonyms = pseudonymise(pa.array(range(2000)), KEY).to_pylist()
    for bit in range(63):
        ones = sum(pseudonym >> bit & 1 for pseudonym in pseudonyms)
        # Binomial(2000, ½): sd 22.4; five of them are 112.
        assert abs(ones - 1000) < 112, bit

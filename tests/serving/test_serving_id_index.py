"""An index of ids gives each its own place and every other id none; damaged files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rankwell.errors import BundleError
from rankwell.serving.id_index import IdIndex, write_id_index

_Ids = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=200)


def _written(ids: list[int], path: Path) -> NDArray[np.int64]:
    with path.open("wb") as file:
        return write_id_index(np.array(ids, np.int64), file)


@settings(max_examples=60, deadline=None)
@given(ids=_Ids, others=_Ids)
def test_places_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], others: list[int]
) -> None:
    path = tmp_path_factory.mktemp("index") / "ids"
    order = _written(ids, path)
    place = {ids[i]: p for p, i in enumerate(order.tolist())}
    asked = ids + others
    found = IdIndex.open(path).places(np.array(asked, np.int64))
    assert found.tolist() == [place.get(key, -1) for key in asked]


def test_many_ids_in_few_bytes(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permutation(100_000).astype(np.int64) * 3
    order = _written(ids.tolist(), tmp_path / "ids")
    index = IdIndex.open(tmp_path / "ids")
    places = index.places(ids)
    assert (ids[order][places] == ids).all()
    assert len(index) == 100_000
    assert (index.places(ids + 1) == -1).all()
    assert index.num_bytes <= 100_000 * 12


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="stands twice, .*found: 7"):
        _written([1, 7, 2, 7], tmp_path / "ids")


def test_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    _written([1, 2, 3], path)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-8], "cut off or damaged"), (whole + b"12345678", "cut off or damaged"), (b"", "cannot be read"),
        (b"no index" * 20, "is no index"), (whole[:30], "is no index"), (whole[:8] + b"\x02" + whole[9:], "not known"),
    ):  # fmt: skip
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(BundleError, match=message):
            IdIndex.open(path)
    with pytest.raises(BundleError, match="cannot be read"):
        IdIndex.open(tmp_path / "nothing")

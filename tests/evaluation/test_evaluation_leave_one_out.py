"""Sequences as logs: what is held out, what is drawn, and what is refused.

Letters: R requests · N negatives of a request.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rankwell.errors import LogError, MetricError
from rankwell.evaluation.leave_one_out import ItemSequences, read_sequences
from rankwell.types import Ragged

SEQUENCES = [[5, 6, 7, 8], [9], [1, 2], [], [3, 4, 5]]


def of(lists: list[list[int]]) -> ItemSequences:
    values = torch.tensor([item for one in lists for item in one], dtype=torch.int64)
    return ItemSequences(
        np.arange(len(lists)) + 10, Ragged(values, torch.tensor([0, *(len(one) for one in lists)]).cumsum(0))
    )


def test_train_leaves_the_last_two_out_of_what_is_long_enough() -> None:
    assert of(SEQUENCES).train().to_pylist() == [
        {"member_id": 10, "history_item": [5], "item": [6], "next": [1]},
        {"member_id": 12, "history_item": [1], "item": [2], "next": [1]},  # two events, of which none is held out
    ]


@pytest.mark.parametrize(
    ("back", "expected"),
    [(1, [(10, [5, 6, 7], 8), (14, [3, 4], 5)]), (2, [(10, [5, 6], 7), (14, [3], 4)])],
)
def test_held_out_requests_see_what_came_before(back: int, expected: list[tuple[int, list[int], int]]) -> None:
    rows = of(SEQUENCES).held_out(back=back, num_negatives=0, seed=0).to_pylist()
    assert [(row["member_id"], row["history_item"], *row["item"]) for row in rows] == expected
    assert all(row["next"] == [1] for row in rows)


def test_negatives_are_items_that_the_member_has_no_event_with() -> None:
    table = of([*SEQUENCES, [100, 7, 9]]).held_out(back=2, num_negatives=400, seed=3)
    for row, known in zip(table.to_pylist(), [[5, 6, 7, 8], [3, 4, 5], [100, 7, 9]], strict=True):
        assert row["next"] == [1] + [0] * 400
        assert set(row["item"][1:]) == {1, 2, 3, 4, 5, 6, 7, 8, 9, 100} - set(known)  # all of them, ids with gaps too


def test_negatives_depend_on_the_seed_alone() -> None:
    one, same, other = (of(SEQUENCES).held_out(back=1, num_negatives=20, seed=seed) for seed in (0, 0, 1))
    assert one.equals(same)
    assert not one.equals(other)


def test_a_member_who_knows_all_items_has_no_negatives() -> None:
    with pytest.raises(MetricError, match="knows all items"):
        of([[1, 2, 3], [2, 3]]).held_out(back=1, num_negatives=1, seed=0)


def test_nothing_long_enough_is_an_empty_log() -> None:
    assert of([[1], []]).train().num_rows == 0
    assert of([[1, 2], []]).held_out(back=1, num_negatives=0, seed=0).num_rows == 0


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64())])
def test_a_file_is_read_as_it_is(kind: pa.DataType, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [7, 8], "items": pa.array([[3, 1], []], kind)}), tmp_path / "a.parquet")
    sequences = read_sequences(tmp_path / "a.parquet")
    assert sequences.members_R.tolist() == [7, 8]
    assert (sequences.items.values.tolist(), sequences.items.offsets.tolist()) == ([3, 1], [0, 2, 2])
    assert sequences.item_ids.tolist() == [1, 3]


def test_no_file_is_said() -> None:
    with pytest.raises(LogError, match="no sequences at"):
        read_sequences(Path("nowhere.parquet"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1]}, "lacks columns"),
        ({"user_id": [1], "items": [[1, None]]}, "holds nulls"),
        ({"user_id": [1, 2], "items": [[1], None]}, "holds nulls"),
        ({"user_id": [None, 2], "items": [[1], [2]]}, "holds nulls"),
        ({"user_id": [1], "items": [[1, -4]]}, "negative item ids; found: -4"),
    ],
)
def test_a_file_that_holds_no_sequences_is_refused(
    columns: dict[str, list[object]], message: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(LogError, match=message):
        read_sequences(tmp_path / "a.parquet")

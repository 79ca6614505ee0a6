"""The nouns that pass between rooms: columns by name, and one entry a candidate wherever they stand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import rankwell.types
from rankwell.errors import SchemaError
from rankwell.types import Audit, Batch, Features, Ragged, Targets


def batch(lengths: list[int]) -> Batch:
    num_C = sum(lengths)
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    request_C = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    features = Features(
        {
            "member": torch.arange(len(lengths)) + 10,
            "bag": Ragged(torch.zeros(0), torch.zeros(len(lengths) + 1).long()),
        },
        {},
        {"job": torch.arange(num_C) + 100},
        offsets,
        request_C,
    )
    nothing_C = torch.zeros(num_C)
    audited = {"gender": torch.arange(len(lengths)) + 1000, "bid": torch.arange(num_C) + 2000}
    keys_R = torch.arange(len(lengths))
    return Batch(
        features,
        Targets(nothing_C[:, None], nothing_C[:, None].bool(), nothing_C, nothing_C.long(), nothing_C),
        Audit(keys_R, keys_R, keys_R, nothing_C.long(), audited),
    )


@pytest.mark.parametrize("lengths", [[2, 1, 3], [1, 1], [1], [4]])
def test_a_column_has_one_entry_a_candidate_wherever_it_stands(lengths: list[int]) -> None:
    made = batch(lengths)
    request_of = [r for r, length in enumerate(lengths) for _ in range(length)]
    assert made.column_C("member").tolist() == [10 + r for r in request_of]
    assert made.column_C("gender").tolist() == [1000 + r for r in request_of]
    assert made.column_C("job").tolist() == [100 + c for c in range(len(request_of))]
    assert made.column_C("bid").tolist() == [2000 + c for c in range(len(request_of))]


def test_a_column_that_is_not_there_or_holds_lists() -> None:
    with pytest.raises(SchemaError, match=r"(?s)no column 'pay' in the batch; found: \['job', 'member'.*do: "):
        batch([2]).column_C("pay")
    with pytest.raises(SchemaError, match=r"(?s)column 'bag' holds lists; .*allowed: a column with one value.*do: "):
        batch([2]).column_C("bag")


def test_sizes() -> None:
    features = batch([2, 1]).features
    assert (features.num_requests, features.num_candidates) == (2, 3)
    ragged = Ragged(torch.arange(3), torch.tensor([0, 0, 3]))
    assert (len(ragged), ragged.lengths.tolist()) == (2, [0, 3])


def test_nouns_are_frozen_and_all_are_named() -> None:
    nouns = {
        name: noun
        for name, noun in vars(rankwell.types).items()
        if isinstance(noun, type) and noun.__module__ == "rankwell.types"
    }
    assert sorted([*nouns, "MISSING_ID", "Column"]) == sorted(rankwell.types.__all__)
    for noun in nouns.values():
        assert dataclasses.is_dataclass(noun)
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            object.__new__(noun).anything = 1

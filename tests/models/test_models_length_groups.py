"""Lists taken apart by length: each once, and never at more places than all together."""

from __future__ import annotations

import pytest
import torch

from rankwell.models.length_groups import entries_of, length_groups


def offsets_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("seed", range(5))
def test_each_list_stands_in_one_group_and_places_are_fewer(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = (torch.rand(100, generator=generator) ** 4 * 200).long()
    groups = length_groups(offsets_of(lengths.tolist()))
    assert torch.cat(groups).sort().values.tolist() == list(range(100))
    assert len(groups) > 1
    assert sum(len(group) * int(lengths[group].max()) for group in groups) < 0.8 * 100 * int(lengths.max())


def test_an_only_long_list_stands_alone() -> None:
    groups = length_groups(offsets_of([5] * 40 + [300] + [5] * 9))
    assert [len(group) for group in groups] == [49, 1]
    assert groups[1].tolist() == [40]


@pytest.mark.parametrize("lengths", [[], [0], [7], [3, 3, 3], [0, 0], [40, 41, 42]])
def test_alike_or_few_stay_together(lengths: list[int]) -> None:
    (group,) = length_groups(offsets_of(lengths))
    assert group.sort().values.tolist() == list(range(len(lengths)))


def test_entries_are_those_of_the_lists_in_the_order_asked_for() -> None:
    offsets = offsets_of([2, 0, 3, 1])
    entries, of_chosen = entries_of(offsets, torch.tensor([3, 1, 2]))
    assert entries.tolist() == [5, 2, 3, 4]
    assert of_chosen.tolist() == [0, 1, 1, 4]


def test_no_list_has_no_entries() -> None:
    entries, of_chosen = entries_of(offsets_of([2]), torch.empty(0, dtype=torch.int64))
    assert (entries.tolist(), of_chosen.tolist()) == ([], [0])

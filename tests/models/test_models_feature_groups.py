"""Coordinates of groups of features: of their own features alone, of one size, named by the layout."""

from __future__ import annotations

import pytest
import torch

from rankwell.errors import SchemaError
from rankwell.models.feature_groups import FeatureGroup, GroupCoordinates

COORDINATES = {"title": (0, 1, 2), "city": (3, 4), "office": (5, 6, 7, 9), "salary": (8,)}
GROUPS = (
    FeatureGroup(name="what", features=("title", "salary"), width=4),
    FeatureGroup(name="where", features=("office", "city"), width=3),
)


def coordinates() -> GroupCoordinates:
    torch.manual_seed(0)
    return GroupCoordinates(GROUPS, COORDINATES, num_inputs=10)


def test_each_group_is_a_map_of_its_own_features() -> None:
    groups = coordinates()
    inputs_CN = torch.randn(7, 10)
    found_CW = groups(inputs_CN)
    assert dict(groups.layout) == {"what": 4, "where": 3}
    for first, last, places in ((0, 4, [0, 1, 2, 8]), (4, 7, [3, 4, 5, 6, 7, 9])):
        raw = inputs_CN[:, places] @ groups.weight[first:last, places].T + groups.bias[first:last]
        expected = raw / raw.square().mean(1, keepdim=True).sqrt()
        torch.testing.assert_close(found_CW[:, first:last], expected)
        others = [n for n in range(10) if n not in places]
        changed_CN = inputs_CN.clone()
        changed_CN[:, others] = torch.randn(7, len(others))
        torch.testing.assert_close(groups(changed_CN)[:, first:last], found_CW[:, first:last])


def test_weights_between_groups_get_no_gradient() -> None:
    groups = coordinates()
    groups(torch.randn(7, 10)).pow(3).sum().backward()
    assert groups.weight.grad is not None
    assert torch.equal(groups.weight.grad != 0, groups.reads_WN.bool())


def test_inputs_of_0_are_not_blown_up() -> None:
    groups = coordinates()
    inputs_CN = torch.zeros(2, 10, requires_grad=True)
    found_CW = groups(inputs_CN)
    found_CW.sum().backward()
    assert torch.equal(found_CW, torch.zeros(2, 7))
    assert inputs_CN.grad is not None
    assert inputs_CN.grad.isfinite().all()


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ((FeatureGroup(name="pay", features=("salary", "bonus")),), ["bonus"]),
        ((FeatureGroup(name="a", features=("title",)), FeatureGroup(name="a", features=("city",))), ["a"]),
    ],
)
def test_what_is_not_there_or_there_twice_is_refused(groups: tuple[FeatureGroup, ...], found: list[str]) -> None:
    with pytest.raises(SchemaError) as caught:
        GroupCoordinates(groups, COORDINATES, num_inputs=10)
    assert caught.value.found == found


def test_no_candidates() -> None:
    assert coordinates()(torch.zeros(0, 10)).shape == (0, 7)

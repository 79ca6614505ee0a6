"""A watch sees what went into each layer, whatever blocks the lists were run in, and relations are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from every_kind_log import EVERY_KIND
from rankwell.errors import SchemaError
from rankwell.models.head_gates import SegmentGates, StaticGates
from rankwell.models.head_watch import HeadWatch, Near, SameValue
from rankwell.models.layers import LayerStack, PreNormLayer
from rankwell.models.list_attention import LinearAttention
from rankwell.models.padding import ManyLists
from rankwell.models.specialised_attention import LearnedHead, SpecialisedAttention, routed
from rankwell.types import Ragged

WIDTH = 4
LENGTHS = torch.tensor([3, 1, 4, 2])
OFFSETS = torch.tensor([0, 3, 4, 8, 10])
TITLES = torch.tensor([5, 5, 6, 5, 7, -1, -1, 7, 8, 9])
SAME = HeadWatch(relations=(SameValue(name="title", feature="title"),))


def layers() -> LayerStack:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LayerStack(
            lambda: PreNormLayer(
                SpecialisedAttention(WIDTH, heads=(LearnedHead(),) * 2, layout={}, gates=StaticGates(2)),
                width=WIDTH, hidden=4, dropout=0.0,
            ),
            2, width=WIDTH,
        ).eval()  # fmt: skip


def entries() -> Tensor:
    return torch.randn(10, WIDTH, generator=torch.Generator().manual_seed(1))


def watched(watch: HeadWatch, blocks: list[list[int]], *, num_free: int = 0) -> dict[str, Tensor]:
    seen, stack = watch.begin("list", {"title": TITLES}), layers()
    for block in blocks:
        entry_n = torch.cat([torch.arange(int(OFFSETS[r]), int(OFFSETS[r + 1])) for r in block])
        ends = torch.tensor([0, *LENGTHS[block].tolist()]).cumsum(0)
        padding = ManyLists(ends, num_free=num_free)
        with seen.over(stack, padding, request_B=torch.tensor(block), entry_n=entry_n):
            stack(padding.pad(entries()[entry_n]), padding.valid_BL)
    return seen.tensors()


def test_what_is_named_has_the_shape_that_is_said() -> None:
    attention = watched(SAME, [[0, 1, 2, 3]])
    assert {name: tuple(tensor.shape) for name, tensor in attention.items()} == {
        "list.request": (4,), "list.entry": (4, 4), "list.place": (4, 4), "list.asks": (4, 4),
        "list.relation.title": (4, 4, 4),
        "list.0.maps": (4, 2, 4, 4), "list.0.gates": (4, 2), "list.1.maps": (4, 2, 4, 4), "list.1.gates": (4, 2),
    }  # fmt: skip
    assert attention["list.entry"].tolist() == [[0, 1, 2, -1], [3, -1, -1, -1], [4, 5, 6, 7], [8, 9, -1, -1]]
    alone = 1
    expected = torch.arange(4) < LENGTHS.unsqueeze(1)
    expected[alone] = False
    assert torch.equal(attention["list.asks"], expected)


def test_maps_are_of_what_went_into_each_layer() -> None:
    stack, padding = layers(), ManyLists(OFFSETS)
    first_BLD, valid_BL = padding.pad(entries()), padding.valid_BL
    attention, x_BLD = watched(SAME, [[0, 1, 2, 3]]), first_BLD
    for index, layer in enumerate(stack.layers):
        maps = layer.attention.maps(layer.norm_attention(x_BLD), first_BLD, valid_BL, attention["list.place"])
        assert torch.equal(attention[f"list.{index}.maps"], maps)
        x_BLD = layer(x_BLD, first_BLD, valid_BL)


def test_relations_are_among_the_entries_of_a_list() -> None:
    attention = watched(SAME, [[0, 1, 2, 3]])
    related = attention["list.relation.title"]
    for b in range(4):
        for q in range(4):
            for m in range(4):
                mine, other = (int(attention["list.entry"][b, place]) for place in (q, m))
                expected = LENGTHS[b] > 1 and min(mine, other) >= 0 and TITLES[mine] == TITLES[other] != -1
                assert bool(related[b, q, m]) == bool(expected)
    assert related.any()


def test_blocks_are_joined() -> None:
    whole, parts = watched(SAME, [[0, 1, 2, 3]]), watched(SAME, [[3, 0], [1], [2]])
    assert parts["list.request"].tolist() == [3, 0, 1, 2]
    assert whole.keys() == parts.keys()
    for name, tensor in parts.items():
        if name not in ("list.place", "list.request") and not name.endswith(".maps"):
            assert torch.equal(tensor, whole[name][[3, 0, 1, 2]]), name
    asks_BQ = parts["list.asks"]
    for name in ("list.0.maps", "list.1.maps"):
        mine, same = (maps.transpose(1, 2)[asks_BQ] for maps in (parts[name], whole[name][[3, 0, 1, 2]]))
        torch.testing.assert_close(mine, same)


def test_few_places_ask_where_a_list_is_long() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(4, 4)
    watch = HeadWatch(num_places=2, relations=SAME.relations)
    for _ in range(200):
        attention = watched(watch, [[0, 1, 2, 3]])
        assert attention["list.0.maps"].shape == (4, 2, 2, 4)
        place_BQ, asks_BQ = attention["list.place"], attention["list.asks"]
        assert (place_BQ[:, 0] != place_BQ[:, 1]).all()
        assert asks_BQ.tolist() == [[True, True], [False, False], [True, True], [True, True]]
        counts.scatter_add_(1, place_BQ, asks_BQ.float())
    assert torch.equal(counts > 0, (torch.arange(4) < LENGTHS.unsqueeze(1)) & (LENGTHS > 1).unsqueeze(1))
    np.testing.assert_allclose(counts[2] / 200, 0.5, atol=0.12)
    np.testing.assert_allclose(counts[0, :3] / 200, 2 / 3, atol=0.12)


def test_a_null_event_is_seen_and_does_not_ask() -> None:
    attention = watched(SAME, [[0, 1, 2, 3]], num_free=1)
    assert (attention["list.entry"][:, 0] == -1).all()
    assert not attention["list.asks"][:, 0].any()
    assert attention["list.asks"][1].tolist() == [False, True, False, False, False]  # it has the null event to look at
    assert not attention["list.relation.title"][:, :, 0].any()
    assert (attention["list.0.maps"][:, :, 1, 0] > 0).all()


def test_layers_without_maps_are_counted_and_left_out() -> None:
    stack = layers()
    stack.layers[0].attention = LinearAttention(WIDTH, num_heads=2)
    seen, padding = SAME.begin("list", {"title": TITLES}), ManyLists(OFFSETS)
    with seen.over(stack, padding, request_B=torch.arange(4)):
        stack(padding.pad(entries()), padding.valid_BL)
    assert [name for name in seen.tensors() if name.endswith("maps")] == ["list.1.maps"]
    stack(padding.pad(entries()), padding.valid_BL)  # nothing is watched any longer
    assert len(seen.tensors()["list.request"]) == 4


def test_gates_are_those_of_each_list_s_segment() -> None:
    stack, gates = layers(), SegmentGates(2, num_segments=2)
    gates.own.data = torch.tensor([[-1.0, 0.0], [0.0, 2.0]])
    for layer in stack.layers:
        layer.attention.gates = gates
    seen, padding, segment_B = SAME.begin("list", {"title": TITLES}), ManyLists(OFFSETS), torch.tensor([1, 0, 7, 1])
    with routed(stack, segment_B), seen.over(stack, padding, request_B=torch.arange(4)):
        stack(padding.pad(entries()), padding.valid_BL)
    for index in range(2):
        assert torch.equal(seen.tensors()[f"list.{index}.gates"], gates.chances(segment_B))


def test_under_bfloat16_maps_stay_shares() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        attention = watched(SAME, [[0, 1, 2, 3]])
    exact = watched(SAME, [[0, 1, 2, 3]])
    torch.testing.assert_close(attention["list.1.maps"].float(), exact["list.1.maps"], rtol=0, atol=0.02)
    torch.testing.assert_close(attention["list.1.maps"].float().sum(3), torch.ones(4, 2, 4), rtol=0, atol=0.01)


def test_no_entries_at_all_are_no_error() -> None:
    seen, padding, stack = (
        SAME.begin("list", {"title": TITLES[:0]}),
        ManyLists(torch.tensor([0, 0, 0]), num_free=1),
        layers(),
    )
    assert seen.tensors() == {}
    with seen.over(stack, padding, request_B=torch.arange(2)):
        stack(padding.pad(torch.zeros(0, WIDTH)), padding.valid_BL)
    assert not seen.tensors()["list.asks"].any()
    assert not seen.tensors()["list.relation.title"].any()


def haversine_km(one: Tensor, other: Tensor) -> float:
    (lat, lon), (lat2, lon2) = ([math.radians(float(degree)) for degree in place] for place in (one, other))
    a = math.sin((lat2 - lat) / 2) ** 2 + math.cos(lat) * math.cos(lat2) * math.sin((lon2 - lon) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(a))


@pytest.mark.parametrize("km", [0.1, 5.0, 80.5, 5000.0])
def test_near_is_the_great_circle(km: float) -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.tensor([[60.0, 179.9], [-89.9, 10.0], [0.0, 0.0], [60.0, -179.9]])
    spread = 2 * km / 111.2 * torch.randn(30, 2, generator=generator)
    places = centre[torch.arange(30) % 4] + spread
    places[:, 0] = places[:, 0].clamp(-90, 90)
    index = torch.arange(30).unsqueeze(0)
    related = Near(name="near", place="office", km=km).related({"office": places}, index, index)[0]
    distances = torch.tensor([[haversine_km(a, b) for b in places] for a in places])
    clear = (distances - km).abs() > 1e-3 * km
    assert torch.equal(related[clear], (distances < km)[clear])
    assert related.diagonal().all()
    assert 30 < related.sum() < 900


def test_a_place_that_is_unknown_is_near_nothing() -> None:
    places = torch.tensor([[52.0, 13.0], [math.nan, math.nan]])
    index = torch.tensor([[0, 1]])
    related = Near(name="near", place="office", km=50).related({"office": places}, index, index)
    assert related[0].tolist() == [[True, False], [False, False]]


def test_relations_are_checked_against_the_schema() -> None:
    near, same = Near(name="near", place="office", km=80.5), SameValue(name="title", feature="job_title")
    watch = HeadWatch(relations=(near, same))
    watch.check(EVERY_KIND)
    assert HeadWatch.model_validate_json(watch.model_dump_json()) == watch
    HeadWatch(relations=(SameValue(name="kind", feature="kind"),)).check(EVERY_KIND, "history")
    both = HeadWatch(relations=(near, SameValue(name="kind", feature="kind")))
    both.check(EVERY_KIND)  # each is of some entries, and watched where it is
    assert [relation.name for relation in both.of(EVERY_KIND).relations] == ["near"]
    assert [relation.name for relation in both.of(EVERY_KIND, "history").relations] == ["kind"]
    with pytest.raises(SchemaError, match="needs a place") as error:
        HeadWatch(relations=(Near(name="near", place="home", km=80.5),)).check(EVERY_KIND)  # it is the member's
    assert error.value.allowed == ["office"]
    with pytest.raises(SchemaError, match="needs a place"):
        HeadWatch(relations=(near,)).check(EVERY_KIND, "history")
    with pytest.raises(SchemaError, match="needs a categorical"):
        HeadWatch(relations=(SameValue(name="wanted", feature="wanted"),)).check(EVERY_KIND)
    with pytest.raises(SchemaError, match="one name"):
        HeadWatch(relations=(near, SameValue(name="near", feature="job"))).check(EVERY_KIND)
    with pytest.raises(SchemaError, match="do not have"):
        same.related({"job_title": Ragged(torch.zeros(0), torch.zeros(1))}, torch.zeros(1, 1), torch.zeros(1, 1))

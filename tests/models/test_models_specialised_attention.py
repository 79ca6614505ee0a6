"""Specialised attention is the plain definition, its heads read what they may and nothing else, closed ones go."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rankwell.errors import RecipeError, SchemaError
from rankwell.models.head_gates import SegmentGates, SegmentGateSettings, StaticGates, StaticGateSettings
from rankwell.models.layers import LayerStack, PreNormLayer
from rankwell.models.specialised_attention import (
    FedHead,
    LearnedHead,
    PrimedHead,
    SpecialisedAttention,
    SpecialisedSettings,
    make_specialised_attention,
    routed,
    without_closed_heads,
)

WIDTH = 12
LAYOUT = {"title": 3, "place": 5, "empty": 0}  # coordinates 8 to 11 are of no group
MIXED = (FedHead(group="title"), FedHead(group="place", start="random"), LearnedHead(), PrimedHead(group="title"))
LENGTHS = (4, 1, 3)
VALID_BL = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)
PLACES_BQ = torch.tensor([[3, 0], [0, 0], [2, 1]])


def entries(seed: int) -> Tensor:
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(**settings: object) -> SpecialisedAttention:
    torch.manual_seed(0)
    return SpecialisedAttention(WIDTH, heads=MIXED, layout=LAYOUT, **settings).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("num_heads", [1, 3, 4])
def test_fed_with_slices_it_is_multi_head_attention_over_x_split_into_heads(num_heads: int) -> None:
    torch.manual_seed(num_heads)
    size = WIDTH // num_heads
    layout = {f"slice{g}": size for g in range(num_heads)}
    heads = [FedHead(group=group, start="random") for group in layout]
    attention = SpecialisedAttention(WIDTH, heads=heads, layout=layout).double()
    x_BLD = entries(1)
    fused = attention(torch.full_like(x_BLD, math.nan), x_BLD, VALID_BL)  # what other layers left is not read at all
    weight = attention.weight * attention.reads_JN1
    for b, length in enumerate(LENGTHS):
        results = []
        for g in range(num_heads):
            part = slice(g * size, (g + 1) * size)
            x_Ld = x_BLD[b, :length, part]
            q, k, v = (x_Ld @ weight[kind, g, part] for kind in range(3))  # each d/h × d/h
            results.append((q @ k.T / math.sqrt(size)).softmax(1) @ v)
        plain = torch.cat(results, dim=1) @ attention.out.flatten(0, 1) + attention.bias
        torch.testing.assert_close(fused[b, :length], plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("head_width", [None, 5])
def test_a_mix_of_heads_is_each_head_by_itself(is_causal: bool, head_width: int | None) -> None:
    attention = mixed(is_causal=is_causal, head_width=head_width)
    size = head_width or 3
    x_BLD, first_BLD = entries(1), entries(2)
    fused = attention(x_BLD, first_BLD, VALID_BL)
    reads = [first_BLD[..., :3], first_BLD[..., 3:8], x_BLD, x_BLD]  # [first[:8], x] are the coordinates that are read
    columns = [slice(0, 3), slice(3, 8), slice(8, 20), slice(8, 20)]
    for b, length in enumerate(LENGTHS):
        plain = attention.bias.expand(length, -1)
        for j in range(4):
            q, k, v = (reads[j][b, :length] @ attention.weight[kind, j, columns[j]] for kind in range(3))
            likeness = q @ k.T / math.sqrt(size)
            if is_causal:
                likeness = likeness.masked_fill(torch.ones_like(likeness).triu(1) > 0, -math.inf)
            plain = plain + likeness.softmax(1) @ v @ attention.out[j]
        torch.testing.assert_close(fused[b, :length], plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_causal", [False, True])
def test_maps_are_the_shares_that_the_fused_kernel_takes(is_causal: bool) -> None:
    attention = mixed(is_causal=is_causal)
    x_BLD, first_BLD = entries(1), entries(2)
    maps = attention.maps(x_BLD, first_BLD, VALID_BL, PLACES_BQ)
    torch.testing.assert_close(maps.sum(3), torch.ones(3, 4, 2, dtype=torch.float64))
    read_BLN = torch.cat([first_BLD[..., :8], x_BLD], dim=2)
    value = torch.einsum("bln,jnd->bjld", read_BLN, attention.weight[2] * attention.reads_JN1)
    again = torch.einsum("bjqd,jde->bqe", maps @ value, attention.out) + attention.bias
    fused = attention(x_BLD, first_BLD, VALID_BL)
    torch.testing.assert_close(again, torch.stack([fused[b, PLACES_BQ[b]] for b in range(3)]), rtol=0, atol=1e-12)


def test_one_fused_kernel_serves_all_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def counted(query: Tensor, *arguments: Tensor, **settings: Tensor) -> Tensor:
        shapes.append(tuple(query.shape))
        return scaled_dot_product_attention(query, *arguments, **settings)

    monkeypatch.setattr("rankwell.models.specialised_attention.scaled_dot_product_attention", counted)
    mixed()(entries(1), entries(2), VALID_BL)
    assert shapes == [(3, 4, 5, 3)]


def test_what_stands_outside_a_group_changes_nothing_in_its_heads() -> None:
    attention = mixed()
    x_BLD, first_BLD = entries(1), entries(2)
    before = attention.maps(x_BLD, first_BLD, VALID_BL, PLACES_BQ)

    def changed(x_BLD: Tensor, first_BLD: Tensor) -> list[bool]:
        after = attention.maps(x_BLD, first_BLD, VALID_BL, PLACES_BQ)
        return [not torch.equal(after[:, j], before[:, j]) for j in range(4)]

    other_title, other_place, other_rest = (
        torch.cat([first_BLD[..., :a], entries(3)[..., a:b], first_BLD[..., b:]], dim=2)
        for a, b in ((0, 3), (3, 8), (8, 12))
    )
    assert changed(x_BLD, other_title) == [True, False, False, False]
    assert changed(x_BLD, other_place) == [False, True, False, False]
    assert changed(x_BLD, other_rest) == [False, False, False, False]
    assert changed(entries(4), first_BLD) == [False, False, True, True]


def test_masked_weights_are_zero_and_stay_so() -> None:
    attention = mixed()
    masked = ~attention.reads_JN1.expand_as(attention.weight[0])
    assert masked.sum() == ((20 - 3) + (20 - 5) + 8 + 8) * 3
    optimizer = torch.optim.AdamW(attention.parameters(), lr=0.1)
    start = attention.weight.detach().clone()
    for seed in range(3):
        optimizer.zero_grad()
        attention(entries(seed), entries(seed + 9), VALID_BL).square().sum().backward()
        assert attention.weight.grad is not None
        assert not attention.weight.grad[:, masked].any()
        optimizer.step()
    assert not attention.weight[:, masked].any()
    assert attention.weight.ne(start)[:, ~masked].all()  # all that is read is trained, the zeros of a start as well


@pytest.mark.parametrize("head", [FedHead(group="title", sharpness=2.0), PrimedHead(group="title", sharpness=2.0)])
def test_a_head_starts_by_attending_to_its_like(head: FedHead | PrimedHead) -> None:
    attention = SpecialisedAttention(WIDTH, heads=(head,), layout=LAYOUT).double()
    x_BLD, first_BLD = entries(1), entries(2)
    maps = attention.maps(x_BLD, first_BLD, VALID_BL, PLACES_BQ)
    title_L3 = (first_BLD if isinstance(head, FedHead) else x_BLD)[0, :4, :3]
    expected = (2.0 * title_L3 @ title_L3.T / math.sqrt(3)).softmax(1)
    torch.testing.assert_close(maps[0, 0, :, :4], expected[[3, 0]], rtol=0, atol=1e-6)


def test_a_group_wider_than_the_head_is_held_against_directions_of_it() -> None:
    heads = (FedHead(group="all"), FedHead(group="all"))
    attention = SpecialisedAttention(WIDTH, heads=heads, layout={"all": 12}, head_width=4).double()
    query, key, _ = attention.weight
    assert torch.equal(query, key)
    gram = query[0].T @ query[0] / query[0, :, 0].square().sum()
    torch.testing.assert_close(gram, torch.eye(4).double(), rtol=0, atol=1e-5)
    # over all entries it is the likeness that was asked for, in the mean: the trace of q·k is that of 1/√w
    assert (query[0] @ key[0].T).trace().item() / 2 == pytest.approx(12 / math.sqrt(12))


def test_what_stands_in_the_padding_changes_nothing() -> None:
    attention = mixed()
    x_BLD, first_BLD = entries(1), entries(2)
    others = (torch.where(VALID_BL.unsqueeze(2), x, 1e3) for x in (x_BLD, first_BLD))
    same, changed = attention(x_BLD, first_BLD, VALID_BL), attention(*others, VALID_BL)
    assert torch.equal(same[VALID_BL], changed[VALID_BL])


def test_groups_that_are_not_there_are_refused() -> None:
    with pytest.raises(SchemaError, match="'salary', which has no member") as error:
        SpecialisedAttention(WIDTH, heads=(FedHead(group="salary"),), layout=LAYOUT)
    assert error.value.allowed == ["title", "place"]
    with pytest.raises(SchemaError, match="'empty', which has no member"):
        SpecialisedAttention(WIDTH, heads=(PrimedHead(group="empty"),), layout=LAYOUT)
    with pytest.raises(RecipeError, match="do not fit"):
        SpecialisedAttention(WIDTH, heads=(LearnedHead(),), layout={"title": 13})
    with pytest.raises(RecipeError, match="one gate a head"):
        SpecialisedAttention(WIDTH, heads=MIXED, layout=LAYOUT, gates=StaticGates(3))
    with pytest.raises(RecipeError, match="cannot be shared"):
        SpecialisedAttention(WIDTH, heads=(LearnedHead(),) * 5, layout=LAYOUT)
    with pytest.raises(SchemaError, match="heads"):
        SpecialisedSettings(heads=())


def test_settings_travel_as_json() -> None:
    for gates in (None, StaticGateSettings(), SegmentGateSettings(segment="member_kind", num_segments=3)):
        settings = SpecialisedSettings(heads=MIXED, head_width=5, gates=gates)
        again = SpecialisedSettings.model_validate_json(settings.model_dump_json())
        assert again == settings
        attention = make_specialised_attention(again, WIDTH, LAYOUT)
        assert (attention.heads, attention.head_width) == (MIXED, 5)
        assert (attention.gates is None) == (gates is None)


@pytest.mark.parametrize("closed", [(), (0, 1), (2, 3), (1, 2), (0, 1, 2, 3)])
def test_pruned_is_equal_and_smaller(closed: tuple[int, ...]) -> None:
    gates = StaticGates(4)
    attention = mixed(gates=gates).eval()
    gates.location.data += torch.randn(4)
    gates.location.data[list(closed)] = -3.0
    before = torch.get_rng_state()
    pruned = attention.pruned()
    assert torch.equal(torch.get_rng_state(), before)
    assert pruned.num_heads == 4 - len(closed)
    assert pruned.gates is None
    assert not pruned.training
    x_BLD, first_BLD = entries(1), entries(2)
    same = [layer(x_BLD, first_BLD, VALID_BL)[VALID_BL] for layer in (attention, pruned)]
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=1e-12)
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in (attention, pruned)]
    assert (sizes[1] < sizes[0] - 4) == bool(closed)
    if set(closed) == {2, 3}:  # what the other heads read is cut out as well
        assert pruned.weight.shape == (3, 2, 8, 3)
    if pruned.num_heads:
        maps = [layer.maps(x_BLD, first_BLD, VALID_BL, PLACES_BQ) for layer in (attention, pruned)]
        stay = [j for j in range(4) if j not in closed]
        torch.testing.assert_close(maps[0][:, stay], maps[1], rtol=0, atol=1e-12)


def stack(gates: SegmentGates) -> LayerStack:
    torch.manual_seed(0)
    return LayerStack(
        lambda: PreNormLayer(
            SpecialisedAttention(WIDTH, heads=MIXED, layout=LAYOUT, gates=gates), width=WIDTH, hidden=4, dropout=0.0
        ),
        2, width=WIDTH,
    ).double()  # fmt: skip


def test_each_segment_has_a_graph_of_its_own() -> None:
    gates = SegmentGates(4, num_segments=2)
    gates.own.data = torch.tensor([[-6.0, 0.5, 0.0, 0.0], [0.0, -6.0, -6.0, 1.0]])
    layers = stack(gates).eval()
    x_BLD = entries(1)
    with routed(layers, torch.tensor([0, 1, 5])):
        together = layers(x_BLD, VALID_BL)
    for b, (segment, num_heads) in enumerate([(0, 3), (1, 2), (None, 4)]):
        alone = without_closed_heads(layers, segment)
        assert [layer.attention.num_heads for layer in alone.layers] == [num_heads] * 2
        same_BLD = alone(x_BLD, VALID_BL)
        torch.testing.assert_close(same_BLD[b][VALID_BL[b]], together[b][VALID_BL[b]], rtol=0, atol=1e-12)
    assert isinstance(layers.layers[0].attention, SpecialisedAttention)
    assert layers.layers[0].attention.gates is gates
    with pytest.raises(RecipeError, match="need the segment"):
        layers(x_BLD, VALID_BL)  # the route was of that run alone


def test_in_deeper_layers_fed_heads_still_see_what_came_in() -> None:
    torch.manual_seed(0)
    layers = LayerStack(
        lambda: PreNormLayer(
            SpecialisedAttention(WIDTH, heads=(FedHead(group="title"),), layout=LAYOUT),
            width=WIDTH, hidden=4, dropout=0.0,
        ),
        3, width=WIDTH,
    ).double()  # fmt: skip
    seen = []
    for layer in layers.layers:
        layer.attention.register_forward_hook(lambda _, arguments, __: seen.append(arguments[1]))
    x_BLD = entries(1)
    layers(x_BLD, VALID_BL)
    assert all(torch.equal(first_BLD, x_BLD) for first_BLD in seen)
    assert len(seen) == 3


def test_a_pruned_layer_exports() -> None:
    gates = StaticGates(4)
    gates.location.data[1] = -3.0
    attention = mixed(gates=gates).eval()
    x_BLD, first_BLD = entries(1), entries(2)
    program = torch.export.export(attention.pruned(), (x_BLD, first_BLD, VALID_BL))
    mine, exported = attention(x_BLD, first_BLD, VALID_BL), program.module()(x_BLD, first_BLD, VALID_BL)
    torch.testing.assert_close(exported[VALID_BL], mine[VALID_BL], rtol=0, atol=1e-12)

"""Gates are hard concrete: exactly 0 at times, deterministic in eval mode, closed by what an open one costs."""

from __future__ import annotations

import math

import pytest
import torch

from rankwell.errors import RecipeError, SchemaError
from rankwell.models.head_gates import SegmentGates, SegmentGateSettings, StaticGates, StaticGateSettings, make_gates
from rankwell.models.specialised_attention import LearnedHead, SpecialisedAttention


@pytest.mark.parametrize("location", [-2.0, 0.0, 1.0])
def test_the_chance_is_how_often_a_gate_is_open(location: float) -> None:
    gates = StaticGates(20_000)
    gates.location.data[:] = location
    torch.manual_seed(0)
    drawn_J = gates(None)[0].detach()
    assert drawn_J.min() == 0
    assert drawn_J.max() == 1
    chance = gates.chances(None)[0, 0].item()
    # P(1.2 σ((ln u - ln(1 - u) + a) / ⅔) > 0.1) = P(ln(u / (1 - u)) > -⅔ ln 11 - a)
    assert chance == pytest.approx(1 / (1 + math.exp(-2 / 3 * math.log(11) - location)), abs=1e-6)
    assert (drawn_J > 0).double().mean().item() == pytest.approx(chance, abs=0.015)


def test_at_the_start_gates_are_open_as_often_as_declared() -> None:
    for settings in (
        StaticGateSettings(start_open=0.8),
        SegmentGateSettings(segment="kind", num_segments=3, start_open=0.8),
    ):
        gates = make_gates(settings, 4)
        assert gates.chances(torch.tensor([0, 2, 9])).flatten().tolist() == pytest.approx(
            [0.8] * gates(torch.tensor([0, 2, 9])).numel()
        )
    with pytest.raises(SchemaError):
        StaticGateSettings(start_open=1.0)


def test_eval_mode_draws_nothing_and_closes_at_minus_ln_11() -> None:
    gates = StaticGates(4).eval()
    gates.location.data = torch.tensor([-2.41, -2.38, 2.38, 2.41])
    before = torch.get_rng_state()
    first, second = gates(None), gates(None)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert torch.equal(first[0], gates.settled())
    assert first[0, 0] == 0
    assert 0 < first[0, 1] < first[0, 2] < 1
    assert first[0, 3] == 1
    assert gates.open_heads() == (1, 2, 3)


def test_the_draw_is_of_the_default_generator() -> None:
    gates = StaticGates(8)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(gates(None))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_lists_of_one_segment_have_one_gate_and_segments_their_own() -> None:
    gates = SegmentGates(6, num_segments=3)
    segment_B = torch.tensor([2, 0, 2, -1, 7])
    torch.manual_seed(0)
    drawn_BJ = gates(segment_B)
    assert torch.equal(drawn_BJ[0], drawn_BJ[2])
    assert torch.equal(drawn_BJ[3], drawn_BJ[4])  # both are of the segment that nothing is known of
    assert not torch.equal(drawn_BJ[0], drawn_BJ[1])
    drawn_BJ[0].sum().backward()
    assert gates.own.grad is not None
    assert not gates.own.grad[:2].any()
    with pytest.raises(RecipeError, match="need the segment"):
        gates(None)


def test_a_gate_closes_where_its_head_is_not_worth_it_and_stays_where_it_is() -> None:
    """Only head 0 can give what is asked for: the others' results are cut off from it."""
    torch.manual_seed(0)
    gates = StaticGates(4)
    attention = SpecialisedAttention(8, heads=(LearnedHead(),) * 4, layout={}, gates=gates)
    attention.out.data[1:] = 0.0
    attention.out.register_hook(lambda gradient: gradient * torch.tensor([1.0, 0, 0, 0])[:, None, None])
    teacher = SpecialisedAttention(8, heads=(LearnedHead(),), layout={}, head_width=2)
    optimizer = torch.optim.Adam(
        [{"params": [attention.weight, attention.out, attention.bias], "lr": 0.01},
         {"params": gates.parameters(), "lr": 0.05}]
    )  # fmt: skip
    valid_BL = torch.ones(32, 6, dtype=torch.bool)
    for _ in range(250):
        x_BLD = torch.randn(32, 6, 8)
        with torch.no_grad():
            wanted_BLD = 4 * teacher(x_BLD, x_BLD, valid_BL)
        optimizer.zero_grad()
        loss = (attention(x_BLD, x_BLD, valid_BL) - wanted_BLD).square().sum(2).mean()
        (loss + 0.1 * gates.chances(None).sum()).backward()
        optimizer.step()
    assert attention.open_heads() == (0,)
    assert gates.settled()[1:].tolist() == [0.0, 0.0, 0.0]
    assert attention.pruned().num_heads == 1


def test_a_segment_closes_what_it_does_not_need_alone() -> None:
    torch.manual_seed(0)
    gates = SegmentGates(2, num_segments=2)
    optimizer = torch.optim.Adam(gates.parameters(), lr=0.05)
    segment_B = torch.tensor([0, 1])
    worth_BJ = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # what an open gate saves in each segment
    for _ in range(200):
        optimizer.zero_grad()
        (0.2 * gates.chances(segment_B).sum() - (worth_BJ * gates(segment_B)).sum()).backward()
        optimizer.step()
    assert gates.open_heads(0) == (0,)
    assert gates.open_heads(1) == (1,)

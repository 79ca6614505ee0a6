"""The softmax over items, against autograd through all logits at once.

Letters: n states, one target each · U items · D width.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rankwell.losses import item_softmax as module
from rankwell.losses.item_softmax import item_softmax


def plain(
    state_nD: Tensor, target_nD: Tensor, item_UD: Tensor, place_n: Tensor, weights_n: Tensor, shift_U: Tensor
) -> Tensor:
    """The same, one state after the other."""
    total = state_nD.new_zeros(())
    for n, place in enumerate(place_n.tolist()):
        own = state_nD[n] @ target_nD[n]
        others = [state_nD[n] @ item_UD[u] + shift_U[u] for u in range(len(item_UD)) if u != place]
        total = total + weights_n[n] * (torch.stack([own, *others]).logsumexp(0) - own)
    return total


def leaves(num_states: int, num_items: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((num_states, 5), (num_states, 5), (num_items, 5))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("logits_per_block", [1, 14, 10**6])
@pytest.mark.parametrize("shift_U", [torch.zeros(7), torch.full((7,), 1.7), torch.linspace(-2, 2, 7)])
def test_value_and_gradients_are_those_of_all_logits(
    logits_per_block: int, shift_U: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOGITS_PER_BLOCK", logits_per_block)
    place_n, weights_n = torch.tensor([-1, 0, 6, 3, -1, 3]), torch.tensor([1.0, 2.0, 0.5, 0.0, 1.0, 3.0])
    mine, theirs = leaves(6, 7), leaves(6, 7)
    loss = item_softmax(*mine, place_n=place_n, weights_n=weights_n, shift_U=shift_U)
    other = plain(*theirs, place_n, weights_n, shift_U)
    torch.testing.assert_close(loss, other)
    (2 * loss).backward()
    (2 * other).backward()
    for one, same in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, same.grad)


def test_three_items_alike_cost_ln_3() -> None:
    loss = item_softmax(
        torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(3, 1), place_n=torch.tensor([0, 2]), weights_n=torch.ones(2)
    )
    assert loss.item() == pytest.approx(2 * math.log(3))


def test_a_target_that_is_no_item_is_one_more() -> None:
    loss = item_softmax(
        torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(3, 1), place_n=torch.tensor([-1]), weights_n=torch.ones(1)
    )
    assert loss.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(("num_states", "num_items"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_hold_against_costs_nothing(num_states: int, num_items: int) -> None:
    tensors = leaves(num_states, num_items)
    loss = item_softmax(
        *tensors, place_n=torch.full((num_states,), -1, dtype=torch.int64), weights_n=torch.ones(num_states)
    )
    loss.backward()
    assert loss.item() == 0
    assert not any(leaf.grad.any() for leaf in tensors if leaf.grad is not None)


def test_an_only_item_is_no_surprise() -> None:
    state_nD, target_nD, item_UD = leaves(3, 1)
    loss = item_softmax(
        state_nD, target_nD, item_UD, place_n=torch.zeros(3, dtype=torch.int64), weights_n=torch.ones(3)
    )
    assert loss.item() == 0


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_finite_at_extreme_logits(extreme: float) -> None:
    state_nD, target_nD, item_UD = (torch.ones(n, 1) for n in (2, 2, 3))
    state_nD, target_nD = (state_nD * extreme).requires_grad_(), target_nD.requires_grad_()
    loss = item_softmax(
        state_nD, target_nD, -item_UD, place_n=torch.tensor([-1, 1]), weights_n=torch.tensor([1.0, 1.0])
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.0 if extreme > 0 else 4e4, rel=1e-3)
    assert state_nD.grad is not None
    assert state_nD.grad.isfinite().all()


def test_a_nan_is_seen() -> None:
    state_nD, target_nD, item_UD = leaves(2, 3)
    poisoned = item_UD.detach().clone()
    poisoned[1, 0] = math.nan
    places = torch.tensor([-1, -1])
    assert item_softmax(state_nD, target_nD, poisoned, place_n=places, weights_n=torch.ones(2)).isnan()

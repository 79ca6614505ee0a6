"""Losses of pairs against plain loops over pairs, and LambdaRank against swaps in every order of ties."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from losses.long_lists import check_against, check_costs_nothing_without_order, drawn
from rankwell.errors import RecipeError
from rankwell.losses import lists
from rankwell.losses.lists import pair_blocks
from rankwell.losses.loss import Loss
from rankwell.losses.pairwise import LambdaRank, MarginLoss, rank_net

EVERY_LOSS = pytest.mark.parametrize("loss", [rank_net, MarginLoss(), LambdaRank(), LambdaRank(k=3)], ids=repr)


def better_and_worse(labels_K: list[float]) -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.product(range(len(labels_K)), repeat=2) if labels_K[i] > labels_K[j]]


def slow_rank_net(z: list[float], y: list[float], w: list[float]) -> float:
    return sum(w[i] * w[j] / sum(w) * math.log1p(math.exp(z[j] - z[i])) for i, j in better_and_worse(y))


def slow_margin(z: list[float], y: list[float], w: list[float]) -> float:
    return sum(w[i] * w[j] / sum(w) * max(0.0, 1.0 - z[i] + z[j]) for i, j in better_and_worse(y))


def slow_lambda_rank(z: list[float], y: list[float], w: list[float], k: int = 10**9) -> float:
    def discount(place: int) -> float:
        return 1 / math.log2(place + 2) if place < k else 0.0

    ideal = sum(gain * discount(place) for place, gain in enumerate(sorted(y, reverse=True)))
    if ideal == 0:
        return 0.0
    orders = [
        order
        for order in itertools.permutations(range(len(z)))
        if all(z[i] >= z[j] for i, j in itertools.pairwise(order))
    ]
    total = 0.0
    for order in orders:
        place = {i: order.index(i) for i in order}
        for i, j in better_and_worse(y):
            change = abs((y[i] - y[j]) * (discount(place[i]) - discount(place[j]))) / ideal
            total += change * math.log1p(math.exp(z[j] - z[i])) / len(orders)
    return sum(w) / len(w) * total


def test_pairs_are_those_of_a_plain_loop() -> None:
    check_against(rank_net, slow_rank_net)
    check_against(MarginLoss(), slow_margin)


@pytest.mark.parametrize("k", [1, 2, 4, None])
def test_lambda_rank_is_the_mean_over_all_orders_of_ties(k: int | None) -> None:
    for seed in range(6):
        logits_C, gains_C, weights_C, request_C = drawn([5, 1, 2, 6, 3], seed=seed, largest_label=3)
        logits_C = logits_C.round()  # more ties
        expected = 0.0
        for request in range(5):
            rows = (request_C == request) & (weights_C > 0)
            if rows.any():
                columns = [column_C[rows].tolist() for column_C in (logits_C, gains_C, weights_C)]
                expected += slow_lambda_rank(*columns, k=k or 10**9)
        found = LambdaRank(k)(logits_C, gains_C, request_C=request_C, weights_C=weights_C)
        assert found.item() == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_lambda_ranks_gradient_is_the_papers() -> None:
    """λ = -|ΔnDCG| / (1 + e^(z_i - z_j)), written out for one positive that stands second of three."""
    logits_C = torch.tensor([0.5, 0.2, -1.0], dtype=torch.float64, requires_grad=True)
    gains_C = torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64)
    ones_C, request_C = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    LambdaRank()(logits_C, gains_C, request_C=request_C, weights_C=ones_C).backward()
    up, down = 1 - 1 / math.log2(3), 1 / math.log2(3) - 1 / 2  # the gain is the ideal's, so nDCG changes by discounts
    first, third = up / (1 + math.exp(0.2 - 0.5)), down / (1 + math.exp(0.2 + 1.0))
    assert logits_C.grad is not None
    assert logits_C.grad.tolist() == pytest.approx([first, -first - third, third])


def test_lambda_rank_learns_from_logits_that_are_all_equal() -> None:
    logits_C = torch.zeros(4, requires_grad=True)
    gains_C, request_C = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.int64)
    LambdaRank()(logits_C, gains_C, request_C=request_C, weights_C=torch.ones(4)).backward()
    assert logits_C.grad is not None
    assert logits_C.grad[1] < 0
    assert (logits_C.grad[[0, 2, 3]] > 0).all()


def test_beyond_k_no_order_is_learned() -> None:
    logits_C = torch.tensor([3.0, 2.0, 1.0, 0.0], requires_grad=True)
    gains_C, request_C = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, dtype=torch.int64)
    LambdaRank(k=1)(logits_C, gains_C, request_C=request_C, weights_C=torch.ones(4)).backward()
    assert logits_C.grad is not None
    assert logits_C.grad[0] < 0
    assert logits_C.grad[3] == 0.0  # against the second and third, behind which it stands, nothing is at stake


@EVERY_LOSS
def test_requests_without_order_cost_nothing(loss: Loss) -> None:
    check_costs_nothing_without_order(loss)
    ones_C, request_C = torch.ones(3), torch.zeros(3, dtype=torch.int64)
    assert loss(torch.tensor([0.0, 3.0, 1.0]), ones_C, request_C=request_C, weights_C=ones_C) == 0.0


def dense(z_K: torch.Tensor, y_K: torch.Tensor, w_K: torch.Tensor, loss: Loss) -> float:
    """All pairs of one list as a square, equal logits nowhere."""
    lead_KK, is_pair_KK = z_K[:, None] - z_K, y_K[:, None] > y_K
    if isinstance(loss, LambdaRank):
        discount_K = 1 / torch.log2(torch.arange(len(z_K)).double() + 2)
        own_K = discount_K[torch.argsort(torch.argsort(-z_K))]
        ideal = (y_K.sort(descending=True).values * discount_K).sum()
        weight_KK = w_K.mean() * ((y_K[:, None] - y_K) * (own_K[:, None] - own_K)).abs() / ideal
    else:
        weight_KK = w_K[:, None] * w_K / w_K.sum()
    cost_KK = (1 - lead_KK).clamp(min=0) if isinstance(loss, MarginLoss) else torch.log1p(torch.exp(-lead_KK))
    return (weight_KK * cost_KK)[is_pair_KK].sum().item()


@pytest.mark.parametrize("loss", [rank_net, MarginLoss(), LambdaRank()], ids=repr)
def test_lists_of_2000(loss: Loss) -> None:
    _, labels_C, weights_C, request_C = drawn([2000, 3, 2000], seed=7)
    logits_C = torch.randn(4003, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = 0.0
    for request in range(3):
        rows = (request_C == request) & (weights_C > 0)
        expected += dense(logits_C[rows], labels_C[rows], weights_C[rows], loss)
    found = loss(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
    assert found.item() == pytest.approx(expected, rel=1e-10)


@EVERY_LOSS
def test_half_precision_is_widened(loss: Loss) -> None:
    logits_C, labels_C, weights_C, request_C = drawn([50, 60], seed=4)
    columns = {"request_C": request_C, "weights_C": weights_C.float()}
    leaf_C = logits_C.bfloat16().requires_grad_()  # quarters are exact in it
    half, whole = (loss(z_C, labels_C.float(), **columns) for z_C in (leaf_C, logits_C.float()))
    half.backward()
    assert half.dtype == torch.float32
    assert half.item() == whole.item()
    assert leaf_C.grad is not None
    assert leaf_C.grad.dtype == torch.bfloat16


@EVERY_LOSS
def test_blocks_of_pairs_change_nothing(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    logits_C, labels_C, weights_C, request_C = drawn([9, 2, 30], seed=3)

    def outcome() -> tuple[torch.Tensor, torch.Tensor]:
        leaf_C = logits_C.clone().requires_grad_()
        value = loss(leaf_C, labels_C, request_C=request_C, weights_C=weights_C)
        return value.detach(), torch.autograd.grad(value, leaf_C)[0]

    whole = outcome()
    monkeypatch.setattr(lists, "PAIRS_PER_BLOCK", 7)
    torch.testing.assert_close(outcome(), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_every_pair_comes_once_and_blocks_are_bounded(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "PAIRS_PER_BLOCK", size)
    first_C, count_C = torch.tensor([4, 0, 2, 9, 1]), torch.tensor([2, 0, 5, 0, 3])
    blocks = list(pair_blocks(first_C, count_C))
    assert max(len(one_P) for one_P, _ in blocks) <= size
    found = [pair for one_P, other_P in blocks for pair in zip(one_P.tolist(), other_P.tolist(), strict=True)]
    assert found == [(0, 4), (0, 5), (2, 2), (2, 3), (2, 4), (2, 5), (2, 6), (4, 1), (4, 2), (4, 3)]
    assert list(pair_blocks(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))) == []


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(RecipeError, match="margin"):
        MarginLoss(margin)


@pytest.mark.parametrize("k", [0, -1, 2.5, True])
def test_a_k_that_is_no_count_is_refused(k: int) -> None:
    with pytest.raises(RecipeError, match="k"):
        LambdaRank(k)

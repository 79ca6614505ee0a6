"""Losses of lists against plain arithmetic over one list at a time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from losses.long_lists import check_against, check_costs_nothing_without_order, check_long_lists, drawn
from rankwell.errors import RecipeError
from rankwell.evaluation.ranking_quality import ndcg_at_k
from rankwell.losses import lists
from rankwell.losses.listwise import ApproxNDCG, ListNet, list_mle, softmax_cross_entropy
from rankwell.losses.loss import Loss

EVERY_LOSS = pytest.mark.parametrize("loss", [softmax_cross_entropy, ListNet(), list_mle, ApproxNDCG()], ids=repr)


def divergence(p: list[float], z: list[float], w: list[float]) -> float:
    """KL of p (with the weights in it) from the softmax of z, where a row of weight w is w rows."""
    total = sum(v * math.exp(x) for v, x in zip(w, z, strict=True))
    return sum(v * q * math.log(q * total / math.exp(x)) for v, q, x in zip(w, p, z, strict=True) if q > 0)


def slow_softmax(z: list[float], y: list[float], w: list[float]) -> float:
    mass = sum(v * label for v, label in zip(w, y, strict=True))
    return mass * divergence([label / mass for label in y], z, w) if mass else 0.0


def slow_list_net(z: list[float], y: list[float], w: list[float]) -> float:
    if min(y) == max(y):
        return 0.0
    total = sum(v * math.exp(label) for v, label in zip(w, y, strict=True))
    return sum(w) * divergence([math.exp(label) / total for label in y], z, w)


def slow_list_mle(z: list[float], y: list[float], w: list[float]) -> float:
    cost = 0.0
    for i in range(len(z)):
        if y[i] > min(y):
            left = sum(v * math.exp(x) for v, x, label in zip(w, z, y, strict=True) if label <= y[i])
            equals = sum(v for v, label in zip(w, y, strict=True) if label == y[i])
            cost += w[i] * (math.log(left / equals) - z[i])
    return cost


def slow_approx_ndcg(z: list[float], y: list[float], w: list[float]) -> float:
    ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(y, reverse=True)))
    if not ideal:
        return 0.0
    found = 0.0
    for i in range(len(z)):
        position = 1 + sum(1 / (1 + math.exp(-(z[j] - z[i]) / 0.1)) for j in range(len(z)) if j != i)
        found += y[i] / math.log2(1 + position)
    return sum(w) / len(w) * (1 - found / ideal)


REFERENCES = pytest.mark.parametrize(
    ("loss", "slow"),
    [
        (softmax_cross_entropy, slow_softmax),
        (ListNet(), slow_list_net),
        (list_mle, slow_list_mle),
        (ApproxNDCG(), slow_approx_ndcg),
    ],
    ids=["softmax", "ListNet", "ListMLE", "ApproxNDCG"],
)


@REFERENCES
def test_it_is_what_plain_numbers_say(loss: Loss, slow) -> None:  # type: ignore[no-untyped-def]
    check_against(loss, slow)
    check_against(loss, slow, largest_label=1)


@REFERENCES
def test_lists_of_2000(loss: Loss, slow) -> None:  # type: ignore[no-untyped-def]
    check_long_lists(loss, slow, labels_at_most=4 if loss != ApproxNDCG() else 1)


@EVERY_LOSS
def test_requests_without_a_positive_cost_nothing(loss: Loss) -> None:
    check_costs_nothing_without_order(loss)


@EVERY_LOSS
def test_slopes_of_lists_with_grades_and_absent_rows(loss: Loss) -> None:
    logits_C, labels_C, weights_C, request_C = drawn([6, 1, 4, 9], seed=2)

    def of_logits(logits_C: torch.Tensor) -> torch.Tensor:
        return loss(logits_C, labels_C, request_C=request_C, weights_C=weights_C)

    assert torch.autograd.gradcheck(of_logits, logits_C.clone().requires_grad_())


def test_visible_values() -> None:
    request_C, ones_C = torch.tensor([0, 0, 0]), torch.ones(3, dtype=torch.float64)
    logits_C = torch.log(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    one, two = torch.tensor([0.0, 1.0, 0.0]).double(), torch.tensor([0.0, 1.0, 1.0]).double()

    def of(loss: Loss, labels_C: torch.Tensor) -> float:
        return loss(logits_C, labels_C, request_C=request_C, weights_C=ones_C).item()

    assert of(softmax_cross_entropy, one) == pytest.approx(math.log(8 / 2))
    assert of(softmax_cross_entropy, two) == pytest.approx(math.log(4 / 2) + math.log(4 / 5))
    assert of(softmax_cross_entropy, 3 * one) == pytest.approx(3 * math.log(8 / 2))
    assert of(list_mle, torch.tensor([0.0, 2.0, 1.0]).double()) == pytest.approx(math.log(8 / 2) + math.log(6 / 5))


def test_list_mle_of_untied_labels_is_plackett_luce() -> None:
    """The chances of all orders of four add up to 1."""
    logits_C, request_C = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    chances = [
        math.exp(-list_mle(logits_C, torch.tensor(order).double(), request_C=request_C, weights_C=torch.ones(4)))
        for order in itertools.permutations(range(4))
    ]
    assert sum(chances) == pytest.approx(1.0)


def test_list_mle_of_binary_labels_is_softmax_cross_entropy() -> None:
    logits_C, labels_C, weights_C, request_C = drawn([6, 9, 5], seed=11, largest_label=1)
    arguments = {"request_C": request_C, "weights_C": weights_C}
    mle, softmax = (loss(logits_C, labels_C, **arguments) for loss in (list_mle, softmax_cross_entropy))
    torch.testing.assert_close(mle, softmax, rtol=1e-12, atol=0.0)


def test_sharp_list_net_is_softmax_cross_entropy_a_request() -> None:
    logits_C, request_C = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    arguments = {"request_C": request_C, "weights_C": torch.ones(3, dtype=torch.float64)}
    labels_C = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    sharp = ListNet(sharpness=60.0)(logits_C, labels_C, **arguments)
    torch.testing.assert_close(sharp, 3 * softmax_cross_entropy(logits_C, labels_C, **arguments))


def test_a_cold_approx_ndcg_is_one_less_ndcg() -> None:
    logits_C, gains_C, _, request_C = drawn([40, 25], seed=5)
    logits_C = logits_C + torch.linspace(0, 0.2, 65)  # no ties
    ones_C = torch.ones(65, dtype=torch.float64)
    cost = ApproxNDCG(temperature=1e-4)(logits_C, gains_C, request_C=request_C, weights_C=ones_C)
    ndcg = ndcg_at_k(torch.sigmoid(logits_C), gains_C, ones_C, request_C=request_C, k=100)
    assert cost.item() == pytest.approx(2 * (1 - ndcg), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_list_mle_keeps_what_stands_far_below(dtype: torch.dtype) -> None:
    """Draws among logits 1e4 below the list's best are not lost beside it."""
    leaf_C = torch.tensor([1e4, -1e4, -1e4], dtype=dtype, requires_grad=True)
    labels_C, request_C = torch.tensor([2, 1, 0], dtype=dtype), torch.zeros(3, dtype=torch.int64)
    value = list_mle(leaf_C, labels_C, request_C=request_C, weights_C=torch.ones(3, dtype=dtype))
    value.backward()
    assert value.item() == pytest.approx(math.log(2.0), abs=2e4 * torch.finfo(dtype).eps)
    assert leaf_C.grad is not None
    assert leaf_C.grad.tolist() == pytest.approx([0.0, -0.5, 0.5], abs=1e4 * torch.finfo(dtype).eps)


def test_blocks_of_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_C, labels_C, weights_C, request_C = drawn([9, 2, 30], seed=3)

    def outcome() -> tuple[torch.Tensor, torch.Tensor]:
        leaf_C = logits_C.clone().requires_grad_()
        value = ApproxNDCG()(leaf_C, labels_C, request_C=request_C, weights_C=weights_C)
        return value.detach(), torch.autograd.grad(value, leaf_C)[0]

    whole = outcome()
    monkeypatch.setattr(lists, "PAIRS_PER_BLOCK", 7)
    torch.testing.assert_close(outcome(), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", [ListNet, ApproxNDCG])
@pytest.mark.parametrize("setting", [0.0, -1.0, float("nan"), float("inf")])
def test_settings_that_are_none_are_refused(family: type[ListNet | ApproxNDCG], setting: float) -> None:
    with pytest.raises(RecipeError, match=family.__name__):
        family(setting)

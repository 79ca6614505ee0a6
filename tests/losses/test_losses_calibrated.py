"""RCR and JRC: plain arithmetic, and that the truth is where all their parts are least."""

from __future__ import annotations

import math

import pytest
import torch

from losses.long_lists import check_against, check_long_lists
from rankwell.errors import RecipeError
from rankwell.losses.calibrated import (
    JointRankingCalibration,
    RegressionCompatibleRanking,
    sigmoid_list_cross_entropy,
)
from rankwell.losses.listwise import softmax_cross_entropy
from rankwell.losses.loss import Loss
from rankwell.losses.pairwise import rank_net


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def slow_shares(p: list[float], y: list[float], w: list[float]) -> float:
    """``Σ w·y · ln of (y's share / p's share)``, with both shares of a list in which a row of weight w is w rows."""
    mass = sum(v * label for v, label in zip(w, y, strict=True))
    total = sum(v * q for v, q in zip(w, p, strict=True))
    return sum(v * label * math.log(label / mass / (q / total)) for v, label, q in zip(w, y, p, strict=True) if label)


def slow_single(z: list[float], y: list[float], w: list[float]) -> float:
    chances = [sigmoid(x) if label >= 1 else sigmoid(-x) for x, label in zip(z, y, strict=True)]
    return -sum(v * math.log(chance) for v, chance in zip(w, chances, strict=True))


def slow_list(z: list[float], y: list[float], w: list[float]) -> float:
    return slow_shares([sigmoid(x) for x in z], y, w)


def slow_rcr(z: list[float], y: list[float], w: list[float]) -> float:
    return slow_single(z, y, w) + 0.7 * slow_list(z, y, w)


def slow_jrc(z: list[float], y: list[float], w: list[float]) -> float:
    refused = slow_shares([sigmoid(-x) for x in z], [1.0 - min(label, 1.0) for label in y], w)
    return slow_single(z, y, w) + 0.7 * (slow_list(z, y, w) + refused)


REFERENCES = pytest.mark.parametrize(
    ("loss", "slow"),
    [
        (sigmoid_list_cross_entropy, slow_list),
        (RegressionCompatibleRanking(0.7), slow_rcr),
        (JointRankingCalibration(0.7), slow_jrc),
    ],
    ids=["list", "RCR", "JRC"],
)


@REFERENCES
def test_it_is_what_plain_numbers_say(loss: Loss, slow) -> None:  # type: ignore[no-untyped-def]
    check_against(loss, slow)
    check_against(loss, slow, largest_label=1)


@REFERENCES
def test_lists_of_2000(loss: Loss, slow) -> None:  # type: ignore[no-untyped-def]
    check_long_lists(loss, slow)


def slope_at_truth(loss: Loss, shift: float = 0.0) -> torch.Tensor:
    """The expected gradient where labels are drawn from σ(z - shift): losses are linear in them but for an entropy."""
    probabilities_C = torch.tensor([0.02, 0.3, 0.9, 0.5, 0.1, 0.6], dtype=torch.float64)
    leaf_C = (torch.logit(probabilities_C) + shift).requires_grad_()
    request_C = torch.tensor([0, 0, 0, 1, 1, 1])
    weights_C = torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    (slope_C,) = torch.autograd.grad(loss(leaf_C, probabilities_C, request_C=request_C, weights_C=weights_C), leaf_C)
    return slope_C


@pytest.mark.parametrize("share", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("family", [RegressionCompatibleRanking, JointRankingCalibration])
def test_the_truth_is_least_whatever_the_share(
    family: type[RegressionCompatibleRanking | JointRankingCalibration], share: float
) -> None:
    assert slope_at_truth(family(share)).abs().max() < 1e-12
    assert slope_at_truth(family(share), shift=0.5).abs().max() > 0.01


def test_the_truth_is_not_least_for_losses_of_the_order_alone() -> None:
    assert slope_at_truth(softmax_cross_entropy).abs().max() > 0.01
    assert slope_at_truth(rank_net).abs().max() > 0.01
    assert slope_at_truth(sigmoid_list_cross_entropy).abs().max() < 1e-12


def test_halved_logits_for_jrc_would_pull_from_the_truth() -> None:
    """Why f_1 is ln σ(z) and not z / 2."""

    def halved(
        logits_C: torch.Tensor, labels_C: torch.Tensor, *, request_C: torch.Tensor, weights_C: torch.Tensor
    ) -> torch.Tensor:
        arguments = {"request_C": request_C, "weights_C": weights_C}
        acted = softmax_cross_entropy(logits_C / 2, labels_C, **arguments)
        return acted + softmax_cross_entropy(-logits_C / 2, 1 - labels_C, **arguments)

    assert slope_at_truth(halved).abs().max() > 0.01


def test_a_share_of_0_is_binary_cross_entropy() -> None:
    logits_C, labels_C = torch.tensor([0.5, -2.0]), torch.tensor([1.0, 1.0])
    request_C, weights_C = torch.tensor([0, 0]), torch.tensor([1.0, 3.0])
    expected = math.log1p(math.exp(-0.5)) + 3 * math.log1p(math.exp(2.0))
    for loss in (RegressionCompatibleRanking(0.0), JointRankingCalibration(0.0)):
        found = loss(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
        assert found.item() == pytest.approx(expected)


def test_a_request_without_a_positive_teaches_only_that_none_is() -> None:
    logits_C = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    zeros_C, request_C = torch.zeros(2, dtype=torch.float64), torch.tensor([0, 0])
    RegressionCompatibleRanking(5.0)(logits_C, zeros_C, request_C=request_C, weights_C=torch.ones(2)).backward()
    assert logits_C.grad is not None
    torch.testing.assert_close(logits_C.grad, torch.sigmoid(logits_C.detach()))


@pytest.mark.parametrize("family", [RegressionCompatibleRanking, JointRankingCalibration])
@pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(
    family: type[RegressionCompatibleRanking | JointRankingCalibration], share: float
) -> None:
    with pytest.raises(RecipeError, match="share"):
        family(share)

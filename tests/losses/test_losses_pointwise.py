"""Binary cross-entropy against arithmetic that can be checked by eye."""

from __future__ import annotations

import math

import pytest
import torch

from rankwell.errors import RecipeError
from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy, binary_cross_entropy

ONE = torch.tensor([0])


def _of_one(logit: float, label: float, weight: float = 1.0) -> float:
    as_C = [torch.tensor([value], dtype=torch.float64) for value in (logit, label, weight)]
    return binary_cross_entropy(as_C[0], as_C[1], request_C=ONE, weights_C=as_C[2]).item()


def test_visible_values() -> None:
    assert _of_one(0.0, 1.0) == pytest.approx(math.log(2.0), rel=1e-15)
    assert _of_one(math.log(3.0), 1.0) == pytest.approx(-math.log(3 / 4), rel=1e-14)
    assert _of_one(math.log(3.0), 0.0) == pytest.approx(-math.log(1 / 4), rel=1e-14)
    assert _of_one(math.log(3.0), 0.0, 2.5) == pytest.approx(2.5 * math.log(4.0), rel=1e-14)


def test_a_soft_label_mixes_the_two() -> None:
    mixed = 0.3 * -math.log(3 / 4) + 0.7 * -math.log(1 / 4)
    assert _of_one(math.log(3.0), 0.3) == pytest.approx(mixed, rel=1e-14)


def test_extremes_are_linear_or_nothing() -> None:
    assert _of_one(1e4, 0.0) == 1e4
    assert _of_one(-1e4, 1.0) == 1e4
    assert _of_one(1e4, 1.0) == 0.0
    assert _of_one(-1e4, 0.0) == 0.0
    assert _of_one(40.0, 1.0) == pytest.approx(math.exp(-40.0), rel=1e-14)  # not rounded away


def test_it_is_a_sum_not_a_mean() -> None:
    ones_C = torch.ones(5, dtype=torch.float64)
    total = binary_cross_entropy(0 * ones_C, ones_C, request_C=torch.arange(5), weights_C=ones_C)
    assert total.item() == pytest.approx(5 * math.log(2.0), rel=1e-15)


def test_gradient_is_weighted_residual() -> None:
    logits_C = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    labels_C, weights_C = torch.tensor([1.0, 0.0, 0.2]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    binary_cross_entropy(logits_C, labels_C, request_C=torch.tensor([0, 0, 1]), weights_C=weights_C).backward()
    assert logits_C.grad is not None
    torch.testing.assert_close(logits_C.grad, weights_C * (torch.sigmoid(logits_C.detach()) - labels_C))


def test_half_precision_logits_are_summed_in_the_labels_precision() -> None:
    num = 4096  # a bfloat16 sum would stop growing at 256
    logits_C, labels_C = torch.zeros(num, dtype=torch.bfloat16), torch.ones(num)
    total = binary_cross_entropy(logits_C, labels_C, request_C=torch.arange(num), weights_C=torch.ones(num))
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(num * math.log(2.0), rel=1e-6)


def test_smoothed_is_plain_on_smoothed_labels() -> None:
    logits_C = torch.tensor([1.5, -0.5], dtype=torch.float64)
    weights_C = torch.tensor([1.0, 3.0], dtype=torch.float64)
    request_C = torch.tensor([0, 1])
    smoothed = SmoothedBinaryCrossEntropy(0.2)(
        logits_C, torch.tensor([1.0, 0.0]).double(), request_C=request_C, weights_C=weights_C
    )
    plain = binary_cross_entropy(
        logits_C, torch.tensor([0.9, 0.1], dtype=torch.float64), request_C=request_C, weights_C=weights_C
    )
    torch.testing.assert_close(smoothed, plain, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("epsilon", [-0.01, 1.0, float("nan"), float("inf")])
def test_an_epsilon_that_cannot_be_undone_is_refused_at_once(epsilon: float) -> None:
    with pytest.raises(RecipeError, match="0 ≤ epsilon < 1"):
        SmoothedBinaryCrossEntropy(epsilon)

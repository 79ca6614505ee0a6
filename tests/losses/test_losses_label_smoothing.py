"""Label smoothing is inverted exactly.

Letters in names: C candidates, flat over the batch.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankwell.errors import RecipeError
from rankwell.losses.label_smoothing import smooth_labels, undo_label_smoothing
from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy

EPSILONS = [1e-6, 0.01, 0.1, 0.5, 0.99]


def test_labels_are_drawn_towards_one_half() -> None:
    labels_C = torch.tensor([0.0, 0.5, 1.0, float("nan")], dtype=torch.float64)
    smoothed_C = smooth_labels(labels_C, 0.2)
    torch.testing.assert_close(smoothed_C, torch.tensor([0.1, 0.5, 0.9, float("nan")]).double(), equal_nan=True)


@pytest.mark.parametrize("epsilon", [0.0, *EPSILONS])
def test_a_model_at_the_optimum_of_the_smoothed_loss_is_inverted_to_the_truth(epsilon: float) -> None:
    truth_C = torch.tensor([0.001, 0.03, 0.2, 0.5, 0.77, 0.999], dtype=torch.float64)
    num_C, request_C = len(truth_C), torch.arange(len(truth_C))
    loss = SmoothedBinaryCrossEntropy(epsilon)
    logits_C = torch.zeros(num_C, dtype=torch.float64, requires_grad=True)  # one free logit for each true probability
    for _ in range(60):  # Newton on the expected loss: clicks with weight p, no clicks with weight 1 - p
        expected = loss(logits_C, torch.ones(num_C).double(), request_C=request_C, weights_C=truth_C)
        expected = expected + loss(logits_C, torch.zeros(num_C).double(), request_C=request_C, weights_C=1 - truth_C)
        (gradient_C,) = torch.autograd.grad(expected, logits_C)
        q_C = torch.sigmoid(logits_C)
        step_C = (gradient_C / (q_C * (1 - q_C))).clamp(-1.0, 1.0)
        logits_C = (logits_C - step_C).detach().requires_grad_()
    assert gradient_C.abs().max() < 1e-15
    inverted_C = torch.sigmoid(undo_label_smoothing(logits_C.detach(), epsilon))
    assert (inverted_C - truth_C).abs().max() < 1e-9
    if epsilon >= 0.01:  # and without the inversion it is not the truth
        assert (torch.sigmoid(logits_C) - truth_C).abs().max() > 1e-3


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(-15, 15), st.sampled_from(EPSILONS))
def test_equal_to_the_plain_formula_where_that_one_is_exact(logit: float, epsilon: float) -> None:
    q = 1 / (1 + math.exp(-logit))
    p = (q - epsilon / 2) / (1 - epsilon)
    inverted = undo_label_smoothing(torch.tensor([logit], dtype=torch.float64), epsilon)
    if 1e-4 < p < 1 - 1e-4:
        assert torch.sigmoid(inverted).item() == pytest.approx(p, rel=1e-9)
    elif p < -1e-9:
        assert inverted.item() == pytest.approx(-53 * math.log(2.0))
    elif p > 1 + 1e-9:
        assert inverted.item() == pytest.approx(53 * math.log(2.0))


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_odd_increasing_and_inside(epsilon: float) -> None:
    limit = math.log((2 - epsilon) / epsilon)
    inside_C = torch.linspace(-limit, limit, 2001, dtype=torch.float64)
    logits_C = torch.cat([torch.tensor([-1e4, -50.0]).double(), inside_C, torch.tensor([50.0, 1e4]).double()])
    inverted_C = undo_label_smoothing(logits_C, epsilon)
    assert (inverted_C.diff() >= 0).all()
    torch.testing.assert_close(inverted_C, -undo_label_smoothing(-logits_C, epsilon), rtol=0.0, atol=1e-12)
    probabilities_C = torch.sigmoid(inverted_C)
    assert ((probabilities_C > 0) & (probabilities_C < 1)).all()


def test_small_probabilities_keep_their_digits() -> None:
    p, epsilon = 1e-9, 1e-3  # q - ε/2 cancels; the inversion is as exact as q itself is
    q = p * (1 - epsilon) + epsilon / 2
    inverted = undo_label_smoothing(torch.logit(torch.tensor([q], dtype=torch.float64)), epsilon)
    assert torch.sigmoid(inverted).item() == pytest.approx(p, rel=1e-5)


def test_no_smoothing_changes_nothing_and_nan_stays() -> None:
    logits_C = torch.tensor([-1e4, 0.1, 1e4, float("nan")])
    assert torch.equal(undo_label_smoothing(logits_C[:3], 0.0), logits_C[:3].double())
    assert undo_label_smoothing(logits_C, 0.1)[3].isnan()


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_bad_epsilon(epsilon: float) -> None:
    with pytest.raises(RecipeError, match="epsilon"):
        smooth_labels(torch.zeros(1), epsilon)
    with pytest.raises(RecipeError, match="epsilon"):
        undo_label_smoothing(torch.zeros(1), epsilon)

"""A teacher's logits: plain arithmetic, and that nothing is left to learn where they are met."""

from __future__ import annotations

import math

import pytest
import torch

from losses.long_lists import check_against, check_long_lists
from rankwell.errors import RecipeError
from rankwell.losses.distillation import Distillation, ListDistillation
from rankwell.losses.loss import Loss
from rankwell.losses.pointwise import binary_cross_entropy

TEACHER_C = torch.tensor([2.0, -1.5, 0.0, 4.0, -3.0], dtype=torch.float64)
REQUEST_C = torch.tensor([0, 0, 0, 1, 1])
WEIGHTS_C = torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0], dtype=torch.float64)


def slow_single(z: list[float], t: list[float], w: list[float]) -> float:
    total = 0.0
    for x, teacher, v in zip(z, t, w, strict=True):
        p, q = 1 / (1 + math.exp(-teacher / 2)), 1 / (1 + math.exp(-x / 2))
        total += v * 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return total


def slow_list(z: list[float], t: list[float], w: list[float]) -> float:
    p_total, q_total = (sum(v * math.exp(x / 2) for v, x in zip(w, logits, strict=True)) for logits in (t, z))
    divergence = 0.0
    for x, teacher, v in zip(z, t, w, strict=True):
        p, q = math.exp(teacher / 2) / p_total, math.exp(x / 2) / q_total
        divergence += v * p * math.log(p / q)
    return sum(w) * 4 * divergence


REFERENCES = pytest.mark.parametrize(
    ("loss", "slow"), [(Distillation(2.0), slow_single), (ListDistillation(2.0), slow_list)], ids=["single", "list"]
)


@REFERENCES
def test_it_is_what_plain_numbers_say(loss: Loss, slow) -> None:  # type: ignore[no-untyped-def]
    check_against(loss, slow)


@REFERENCES
def test_lists_of_2000(loss: Loss, slow) -> None:  # type: ignore[no-untyped-def]
    check_long_lists(loss, slow)


def value_and_slope(loss: Loss, logits_C: torch.Tensor) -> tuple[float, torch.Tensor]:
    leaf_C = logits_C.clone().requires_grad_()
    value = loss(leaf_C, TEACHER_C, request_C=REQUEST_C, weights_C=WEIGHTS_C)
    return value.item(), torch.autograd.grad(value, leaf_C)[0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_nothing_is_left_to_learn_at_the_teachers_logits(temperature: float) -> None:
    shift_C = torch.tensor([3.0, 3.0, 3.0, -2.0, -2.0], dtype=torch.float64)
    for loss, logits_C in (
        (Distillation(temperature), TEACHER_C),
        (ListDistillation(temperature), TEACHER_C + shift_C),
    ):
        value, slope_C = value_and_slope(loss, logits_C)
        assert value == pytest.approx(0.0, abs=1e-12)
        assert slope_C.abs().max() < 1e-12
    assert value_and_slope(Distillation(temperature), TEACHER_C + shift_C)[0] > 0.1


def test_at_temperature_1_slopes_are_those_of_soft_labels() -> None:
    logits_C = torch.tensor([0.3, 1.0, -1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    soft = binary_cross_entropy(logits_C, torch.sigmoid(TEACHER_C), request_C=REQUEST_C, weights_C=WEIGHTS_C)
    _, slope_C = value_and_slope(Distillation(), logits_C.detach())
    torch.testing.assert_close(slope_C, torch.autograd.grad(soft, logits_C)[0])


def test_a_hot_loss_is_a_squared_distance() -> None:
    logits_C = torch.tensor([0.3, 1.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    value, _ = value_and_slope(Distillation(temperature=1e3), logits_C)
    assert value == pytest.approx((WEIGHTS_C * (logits_C - TEACHER_C).square() / 8).sum().item(), rel=1e-3)


@pytest.mark.parametrize("loss", [Distillation(), ListDistillation(), Distillation(0.1)], ids=repr)
def test_teachers_of_1e4(loss: Loss) -> None:
    teacher_C = torch.tensor([1e4, -1e4, 0.0, 1e4, 1e4])
    leaf_C = torch.tensor([-1e4, 1e4, 1e4, 0.0, 1e4], requires_grad=True)
    value = loss(leaf_C, teacher_C, request_C=REQUEST_C, weights_C=WEIGHTS_C.float())
    value.backward()
    assert value.isfinite()
    assert value > 1e3
    assert leaf_C.grad is not None
    assert leaf_C.grad.isfinite().all()


@pytest.mark.parametrize("family", [Distillation, ListDistillation])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(
    family: type[Distillation | ListDistillation], temperature: float
) -> None:
    with pytest.raises(RecipeError, match="temperature"):
        family(temperature)

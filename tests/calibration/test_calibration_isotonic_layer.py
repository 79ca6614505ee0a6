"""The isotonic layer against its definition, a sum over all buckets, and trained to a known curve.

Letters in names: C candidates, flat over the batch · B buckets · K evaluated logits.
"""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from rankwell.calibration.isotonic_layer import IsotonicLayer
from rankwell.errors import CalibrationError


def _layer(seed: int, num_segments: int = 3, num_buckets: int = 50) -> IsotonicLayer:
    generator = torch.Generator().manual_seed(seed)
    layer = IsotonicLayer(low=-10.0, high=5.0, num_buckets=num_buckets, num_segments=num_segments)
    for parameter in layer.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    return layer


def _by_definition(layer: IsotonicLayer, logits_C: Tensor, segment_C: Tensor) -> Tensor:
    """Bias + Σ over buckets of slope × overlap + offset, each logit against each bucket, in float64."""
    num_buckets = len(layer.steepness_B)
    width = 15.0 / num_buckets
    bucket_B = torch.arange(num_buckets, dtype=torch.float64)
    least_B = torch.zeros_like(bucket_B)
    least_B[0] = -torch.inf
    most_B = torch.full_like(bucket_B, width)
    most_B[-1] = torch.inf
    overlap_CB = (logits_C.double()[:, None] - (-10.0 + width * bucket_B)).clamp(least_B, most_B)
    padded_G = torch.cat([layer.offsets_G, torch.zeros(1)])
    return layer.bias.double() + overlap_CB @ softplus(layer.steepness_B.double()) + padded_G[segment_C].double()


def test_equal_to_the_sum_over_all_buckets() -> None:
    layer = _layer(0)
    generator = torch.Generator().manual_seed(1)
    logits_C = torch.randn(2000, generator=generator) * 4.0 - 2.0
    segment_C = torch.randint(0, 4, (2000,), generator=generator)  # 3 is unknown
    reference_C = _by_definition(layer, logits_C, segment_C)
    torch.testing.assert_close(layer(logits_C, segment_C).double(), reference_C, rtol=2**-23, atol=0.0)
    torch.testing.assert_close(layer(logits_C.double(), segment_C), reference_C, rtol=0.0, atol=1e-12)


def test_gradients_equal_those_of_the_sum() -> None:
    generator = torch.Generator().manual_seed(2)
    layer = _layer(3).double()
    logits_C = (torch.randn(300, generator=generator, dtype=torch.float64) * 4.0).requires_grad_()
    segment_C = torch.randint(0, 4, (300,), generator=generator)
    weights_C = torch.randn(300, generator=generator, dtype=torch.float64)
    over = [logits_C, *layer.parameters()]
    ours = torch.autograd.grad((weights_C * layer(logits_C, segment_C)).sum(), over)
    plain = torch.autograd.grad((weights_C * _by_definition(layer, logits_C, segment_C)).sum(), over)
    for gradient, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_it_starts_as_the_logit_itself_and_rises_everywhere() -> None:
    logits_C, none_C = torch.linspace(-60.0, 60.0, 5001), torch.full((5001,), -1)
    torch.testing.assert_close(IsotonicLayer()(logits_C, none_C), logits_C, rtol=1e-7, atol=2e-6)
    layer = _layer(4)
    log_odds_C = layer(logits_C, none_C)
    assert (log_odds_C.diff() > 0).all()


def test_the_gradient_reaches_the_network_beyond_the_buckets() -> None:
    logits_C = torch.tensor([-500.0, 500.0], requires_grad=True)
    (gradient_C,) = torch.autograd.grad(_layer(5)(logits_C, torch.zeros(2, dtype=torch.int64)).sum(), logits_C)
    assert (gradient_C > 0).all()


def test_trained_it_finds_a_curve_and_the_offset_of_a_segment() -> None:
    generator = torch.Generator().manual_seed(6)
    logits_C = torch.randn(50_000, generator=generator) * 1.5
    segment_C = torch.randint(0, 2, (50_000,), generator=generator)
    true_C = torch.where(logits_C < 0, 0.5 * logits_C, 1.5 * logits_C) - 0.5 + 1.0 * segment_C
    labels_C = torch.bernoulli(torch.sigmoid(true_C), generator=generator)
    layer = IsotonicLayer(low=-4.0, high=4.0, num_buckets=8, num_segments=2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(layer(logits_C, segment_C), labels_C).backward()
        optimizer.step()
    inside_C = logits_C.abs() < 3
    error_C = torch.sigmoid(layer(logits_C, segment_C)) - torch.sigmoid(true_C)
    assert error_C[inside_C].abs().max() < 0.03
    before_C = torch.sigmoid(logits_C) - torch.sigmoid(true_C)
    assert before_C[inside_C].abs().max() > 0.2


@pytest.mark.parametrize("num_segments", [0, 3])
def test_its_calibrator_is_equal_to_it(num_segments: int) -> None:
    layer = _layer(7, num_segments=num_segments).double()
    logits_C = torch.linspace(-105.0, 100.0, 3001, dtype=torch.float64)
    segment_C = torch.arange(3001) % 5 - 1  # -1 and 4, and all but none of 3, are no segments of it
    expected_C = layer(logits_C, segment_C)
    found_C = layer.as_calibrator().calibrated_logits(logits_C, segment_C[:, None])
    torch.testing.assert_close(found_C, expected_C, atol=1e-5, rtol=0)


def test_half_precision_stays_half_precision() -> None:
    logits_C = torch.randn(10, generator=torch.Generator().manual_seed(8)).bfloat16()
    assert _layer(9)(logits_C, torch.zeros(10, dtype=torch.int64)).dtype == torch.bfloat16


@pytest.mark.slow
def test_a_hundred_thousand_logits_in_milliseconds() -> None:
    layer = IsotonicLayer(num_segments=10)
    logits_C, segment_C = torch.randn(100_000) * 3 - 3, torch.randint(0, 10, (100_000,))
    seconds = []
    with torch.no_grad():
        for _ in range(20):
            began = time.perf_counter()
            layer(logits_C, segment_C)
            seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.03  # measured: 1 to 2 ms; a sum over 100 buckets takes hundreds


@pytest.mark.parametrize(
    "wrong", [{"low": 1.0, "high": 1.0}, {"low": -torch.inf}, {"num_buckets": 0}, {"num_segments": -1}]
)
def test_buckets_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(CalibrationError, match="cannot have these buckets"):
        IsotonicLayer(**wrong)  # type: ignore[arg-type]

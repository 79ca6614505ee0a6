"""Lists as they come: drawn at random, of 2,000 candidates, and losses of one list in plain numbers.

Letters in names: C candidates, flat over the batch · K candidates of one request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rankwell.losses.loss import Loss

OneList = Callable[[list[float], list[float], list[float]], float]
"""(logits_K, labels_K, weights_K) to the loss of one request, none of whose weights is 0."""


def drawn(lengths: Sequence[int], *, seed: int, largest_label: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits with ties, grades, weights of which some are 0, requests; float64."""
    generator = torch.Generator().manual_seed(seed)
    num = sum(lengths)
    logits_C = torch.randint(-8, 9, (num,), generator=generator).double() / 4
    labels_C = torch.randint(0, largest_label + 1, (num,), generator=generator).double()
    weights_C = torch.tensor([0.0, 0.5, 1.0, 2.0]).double()[torch.randint(0, 4, (num,), generator=generator)]
    request_C = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return logits_C, labels_C, weights_C, request_C


def by_lists(one_list: OneList, logits_C: Tensor, labels_C: Tensor, weights_C: Tensor, request_C: Tensor) -> float:
    """The sum over requests, one after the other, of what is present."""
    total = 0.0
    for request in request_C.unique().tolist():
        rows = torch.nonzero((request_C == request) & (weights_C > 0)).squeeze(1)
        if len(rows):
            total += one_list(logits_C[rows].tolist(), labels_C[rows].tolist(), weights_C[rows].tolist())
    return total


def check_against(loss: Loss, one_list: OneList, *, largest_label: int = 4) -> None:
    """The loss of many lists is what plain numbers say."""
    for seed in range(5):
        logits_C, labels_C, weights_C, request_C = drawn([5, 1, 2, 7, 3, 12], seed=seed, largest_label=largest_label)
        found = loss(logits_C, labels_C, request_C=request_C, weights_C=weights_C)
        expected = by_lists(one_list, logits_C, labels_C, weights_C, request_C)
        torch.testing.assert_close(found.item(), expected, rtol=1e-11, atol=1e-11)


def check_costs_nothing_without_order(loss: Loss) -> None:
    """Without a positive, of one candidate, of no candidate: 0, with a gradient of 0."""
    for labels in ([0.0, 0.0, 0.0], [0.0], []):
        leaf_C = torch.linspace(-1.0, 2.0, len(labels)).requires_grad_()
        request_C = torch.zeros(len(labels), dtype=torch.int64)
        value = loss(leaf_C, torch.tensor(labels), request_C=request_C, weights_C=torch.ones(len(labels)))
        value.backward()
        assert value == 0.0
        assert leaf_C.grad is not None
        assert not leaf_C.grad.any()


def check_long_lists(loss: Loss, one_list: OneList, *, labels_at_most: int = 4) -> None:
    """Two lists of 2,000 in float32, beside a short one; logits of half precision are widened."""
    logits_C, labels_C, weights_C, request_C = drawn([2000, 3, 2000], seed=7, largest_label=labels_at_most)
    expected = by_lists(one_list, logits_C, labels_C, weights_C, request_C)
    for dtype in (torch.float32, torch.bfloat16):  # quarters are exact in both
        leaf_C = logits_C.to(dtype).requires_grad_()
        found = loss(leaf_C, labels_C.float(), request_C=request_C, weights_C=weights_C.float())
        found.backward()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.item(), expected, rtol=2e-5, atol=0.0)
        assert leaf_C.grad is not None
        assert leaf_C.grad.dtype == dtype
        assert leaf_C.grad.isfinite().all()

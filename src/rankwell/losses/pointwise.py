"""Losses that look at one candidate at a time.

Letters in names: C candidates, flat over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rankwell.losses.label_smoothing import check_epsilon, smooth_labels

__all__ = ["SmoothedBinaryCrossEntropy", "binary_cross_entropy"]


def binary_cross_entropy(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
    """The negative log likelihood of binary labels: Σ w·(ln(1 + e^z) - y·z).

    Args:
        logits_C: z, natural log-odds; half-precision logits are widened to the labels' dtype.
        labels_C: y in [0, 1], NaN allowed where the weight is 0.
        request_C: int64; not looked at.
        weights_C: w ≥ 0.

    Returns:
        A scalar in nats, a sum; 0 when nothing has weight.

    >>> import torch
    >>> logits_C, labels_C = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, float("nan")])
    >>> binary_cross_entropy(logits_C, labels_C, request_C=torch.tensor([0, 0, 1]),
    ...                      weights_C=torch.tensor([1.0, 2.0, 0.0]))  # ln 2 + 2 ln(1 + e⁻²)
    tensor(0.9470)
    """
    known_C = labels_C.masked_fill(weights_C == 0, 0.0)  # 0 × NaN would be NaN
    wide_C = logits_C.to(torch.promote_types(logits_C.dtype, labels_C.dtype))  # bfloat16 is too coarse to be summed
    return binary_cross_entropy_with_logits(wide_C, known_C, weight=weights_C, reduction="sum")


@final
@dataclass(frozen=True, slots=True)
class SmoothedBinaryCrossEntropy:
    """Binary cross-entropy on labels drawn towards one half: y ↦ y·(1 - ε) + ε/2.

    It distorts the probabilities on purpose, so a model trained with it is followed by
    `rankwell.losses.label_smoothing.undo_label_smoothing` with the same ε before anything is called a probability.

    Args:
        epsilon: ε in [0, 1); 0 is plain binary cross-entropy.

    Raises:
        RecipeError: ε is outside [0, 1).

    >>> import torch
    >>> loss = SmoothedBinaryCrossEntropy(epsilon=0.1)
    >>> loss(torch.tensor([2.0]), torch.tensor([1.0]), request_C=torch.tensor([0]), weights_C=torch.ones(1))
    tensor(0.2269)

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", §7, with two classes.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w·ℓ in nats on smoothed labels; arguments as in `binary_cross_entropy`."""
        smoothed_C = smooth_labels(labels_C, self.epsilon)
        return binary_cross_entropy(logits_C, smoothed_C, request_C=request_C, weights_C=weights_C)

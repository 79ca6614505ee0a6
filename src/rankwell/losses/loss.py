"""What every loss is.

Letters in names: C candidates, flat over the batch · R requests; request_C maps C → R.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Loss"]


class Loss(Protocol):
    """Logits and labels in, Σ w·ℓ in nats out: a sum, so that shards and accumulation are exact.

    The training loop divides by the count of the global batch, a sum of weights, so a loss grows with the lengths of
    lists and never with their squares: a candidate, an action or a request counts once. Any function of this signature
    is a loss; a family that takes a setting is a frozen dataclass with this `__call__`. What each one keeps:

    - value and gradient are finite at logits of ±1e4;
    - weight 0 means absent, whatever the label (an unobserved label is NaN with weight 0); with all weights 0 the value
      is 0;
    - a request all of whose weights are doubled counts as that request twice. Within a request, either a row of weight
      2 is the row twice, or, where a place in the list cannot be taken twice, only the mean weight counts;
    - the order of rows means nothing, each request's list stands alone, and the sum over two shards of requests is
      the sum over both;
    - a NaN label of positive weight makes the value NaN, so that it is seen.
    """

    def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        """Σ w·ℓ.

        Args:
            logits_C: Natural log-odds, floating.
            labels_C: Floating, of the same shape; what it may hold is the loss's own affair (a teacher's logits, too).
            request_C: int64, the request of each candidate, ascending.
            weights_C: Floating, non-negative.

        Returns:
            A scalar, in nats where the loss says nothing else; 0 when nothing has weight.
        """
        ...

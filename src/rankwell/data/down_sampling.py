"""Fewer negatives in training, and the one correction for it: those that are left weigh as much as all of them did.

Letters: R requests · C candidates, flat · A actions.

A row weight of 1 / keep rate is the whole correction. Nothing is shifted afterwards: logits, probabilities and their
calibration are those of all rows, only noisier. Splits to tune, calibrate and test are never sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import numpy.typing as npt
import torch

from rankwell.data.chunk import Chunk
from rankwell.data.split import splitmix64
from rankwell.errors import RecipeError

__all__ = ["DownSampling", "DropNegatives", "MuteNegatives"]

_Bools = npt.NDArray[np.bool_]


class DownSampling(Protocol):
    """Which candidates of a chunk are trained on, and what each of them weighs."""

    def sampled(self, chunk: Chunk, *, epoch: int) -> Chunk:
        """The chunk to train on in this epoch: other negatives in each, the same in each run."""
        ...


@final
@dataclass(frozen=True, slots=True)
class DropNegatives:
    """Most candidates without any action are left out; for losses of one candidate at a time.

    A candidate is kept with probability `keep_rate` and then weighs 1 / keep_rate times as much; one with an action is
    always kept. Whether a candidate is kept depends on the seed, the epoch, its request and its place there alone.
    Batches hold fewer requests then, because those without a candidate are gone: take more of them in a batch.

    Args:
        keep_rate: In (0, 1].
        seed: Of the draws.

    Raises:
        RecipeError: The rate is out of range, or the seed negative.

    Source: He et al. 2014, "Practical lessons from predicting clicks on ads at Facebook", §6.2, where the logits are
    shifted instead: equal for a model that is right, and wrong where one is not.
    """

    keep_rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.keep_rate, self.seed)

    def sampled(self, chunk: Chunk, *, epoch: int) -> Chunk:
        """See `DownSampling`."""
        has_action_C, kept_C = _drawn(chunk, self.keep_rate, self.seed, epoch)
        return _weighed(chunk, has_action_C, self.keep_rate).keep(kept_C)


@final
@dataclass(frozen=True, slots=True)
class MuteNegatives:
    """Most candidates without any action stay in their lists and weigh nothing; for models that read the whole list.

    A candidate that others attend to is part of what they are judged by, so it must not go. Whom a list loss compares
    goes by the weights, too: the dropped are not compared. Otherwise as `DropNegatives`.

    Args:
        keep_rate: In (0, 1].
        seed: Of the draws.

    Raises:
        RecipeError: The rate is out of range, or the seed negative.
    """

    keep_rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.keep_rate, self.seed)

    def sampled(self, chunk: Chunk, *, epoch: int) -> Chunk:
        """See `DownSampling`."""
        has_action_C, kept_C = _drawn(chunk, self.keep_rate, self.seed, epoch)
        weighed = _weighed(chunk, has_action_C, self.keep_rate)
        weights_C = weighed.whole.targets.weights_C
        return weighed.weighed(torch.where(torch.from_numpy(kept_C), weights_C, 0.0))


def _drawn(chunk: Chunk, keep_rate: float, seed: int, epoch: int) -> tuple[_Bools, _Bools]:
    """Which candidates have an action, and which are kept."""
    features, targets = chunk.whole.features, chunk.whole.targets
    has_action_C = (torch.nan_to_num(targets.labels_CA) > 0).any(dim=1).numpy()
    request_C = features.request_C.numpy()
    place_C = np.arange(len(request_C)) - features.offsets.numpy()[request_C]
    start = splitmix64(splitmix64(np.array([seed], np.uint64)) + np.array([epoch], np.uint64))
    of_request_R = splitmix64(chunk.whole.audit.request_ids_R.numpy().view(np.uint64) + start)
    uniform_C = (splitmix64(of_request_R[request_C] + place_C.astype(np.uint64)) >> np.uint64(11)) * 2.0**-53
    return has_action_C, has_action_C | (uniform_C < keep_rate)


def _weighed(chunk: Chunk, has_action_C: _Bools, keep_rate: float) -> Chunk:
    weights_C = chunk.whole.targets.weights_C
    return chunk.weighed(torch.where(torch.from_numpy(has_action_C), weights_C, weights_C / keep_rate))


def _check(keep_rate: float, seed: int) -> None:
    if not 0 < keep_rate <= 1:
        raise RecipeError("a keep rate is out of range", found=keep_rate, allowed="above 0, at most 1")
    if seed < 0:
        raise RecipeError("a seed is negative", found=seed, allowed="0 and more")

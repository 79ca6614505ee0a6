"""Which items stand for the corpus in a step of training, and what is added to their logits so that they do.

Letters: n ids, flat · U items, each once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Final, final

import torch
from torch import Tensor, nn

from rankwell.data.negatives import ItemFrequency, MixedNegatives, popularity_negatives, sum_shift, uniform_negatives
from rankwell.errors import RecipeError

__all__ = ["CorpusNegatives", "InBatchItems", "MetItems", "PopularItems"]

_HALF_LIFE: Final = 1e6


class CorpusNegatives(nn.Module, ABC):
    """Negatives of a softmax over a corpus that is known as it comes.

    Its state is kept in checkpoints, so that a training that goes on draws as it would have. Draws are torch's own, by
    the seed of the training.
    """

    @abstractmethod
    def step(self, met_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        """What this step's targets are held against.

        Args:
            met_n: int64, the ids of all items in the batch, however often; below 0 is missing.
            targets_n: int64, those of them that states are to foretell; none is missing.

        Returns:
            int64 ids, ascending, and the shift of each for `rankwell.losses.item_softmax.item_softmax`.
        """


@final
class MetItems(CorpusNegatives):
    """All items that were met so far, or so many of them, each as likely as another.

    Args:
        most: Items in a step, ≥ 1; None for all.

    Raises:
        RecipeError: `most` is below 1.

    >>> negatives = MetItems(2)
    >>> item_ids_U, shift_U = negatives.step(torch.tensor([7, 3, 9, -1, 3]), torch.tensor([3]))
    >>> len(item_ids_U), shift_U.exp().tolist()  # two stand for three
    (2, [1.5, 1.5])
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        if most is not None and most < 1:
            raise RecipeError("too few negatives are drawn", found=most, allowed="≥ 1, or None")
        self.most = most
        self._items_U = torch.empty(0, dtype=torch.int64)  # ascending

    def step(self, met_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        """See `CorpusNegatives`."""
        self._meet(met_n[met_n >= 0])
        num_items = len(self._items_U)
        if self.most is None or self.most >= num_items:
            return self._items_U, torch.zeros(num_items, dtype=torch.float64)
        drawn_U = self._items_U[torch.randperm(num_items)[: self.most].sort().values]
        return drawn_U, torch.full((len(drawn_U),), math.log(num_items / len(drawn_U)), dtype=torch.float64)

    def extra_repr(self) -> str:
        """The setting."""
        return "" if self.most is None else str(self.most)

    def get_extra_state(self) -> Tensor:
        """The items met so far."""
        return self._items_U

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self._items_U = state.clone()

    def _meet(self, met_n: Tensor) -> None:
        if len(self._items_U):
            place_n = torch.searchsorted(self._items_U, met_n).clamp(max=len(self._items_U) - 1)
            met_n = met_n[self._items_U[place_n] != met_n]
        if len(met_n):
            self._items_U = torch.unique(torch.cat([self._items_U, met_n]))


@final
class PopularItems(CorpusNegatives):
    """Items drawn by how often they were targets, to a power; some of them uniformly, so that all have a chance.

    Args:
        num: Draws in a step, with replacement, ≥ 1.
        power: Of the count; 1 is by popularity.
        uniform_share: Of the draws that are uniform over the items met, in (0, 1).
        half_life: In targets, of the counts.

    Raises:
        RecipeError: `num` is below 1, or the share is out of range.

    Source: see `rankwell.data.negatives.popularity_negatives` and `MixedNegatives`.
    """

    def __init__(
        self, num: int, *, power: float = 0.75, uniform_share: float = 0.25, half_life: float = _HALF_LIFE
    ) -> None:
        super().__init__()
        if num < 1 or not 0 < uniform_share < 1:
            raise RecipeError(
                "negatives cannot be drawn so", found={"num": num, "uniform_share": uniform_share},
                allowed="num ≥ 1 and a share above 0 and below 1",
            )  # fmt: skip
        self.num, self.power, self.uniform_share = num, power, uniform_share
        self._frequency = ItemFrequency(half_life=half_life)

    def step(self, met_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        """See `CorpusNegatives`."""
        self._frequency.observe(targets_n)
        item_ids_U = self._frequency.item_ids_U
        if not len(item_ids_U):
            return item_ids_U, torch.empty(0, dtype=torch.float64)
        popular = popularity_negatives(item_ids_U, self._frequency.log_probability(item_ids_U).exp(), power=self.power)
        mixed = MixedNegatives((uniform_negatives(item_ids_U), popular), (self.uniform_share, 1 - self.uniform_share))
        return sum_shift(mixed.draw(self.num, generator=torch.default_generator))

    def extra_repr(self) -> str:
        """The settings."""
        return f"{self.num}, power={self.power:g}, uniform_share={self.uniform_share:g}"

    def get_extra_state(self) -> Tensor:
        """The counts so far."""
        return self._frequency.state()

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self._frequency.take_state(state)


@final
class InBatchItems(CorpusNegatives):
    """The targets of the step are negatives of each other, corrected by how often the stream has them.

    Nothing but the batch is looked up. Items that are never targets are never negatives: what a model says of them is
    nobody's guess, so mix in others where such items are ranked.

    Args:
        half_life: In targets, of the counts.

    Source: see `rankwell.data.negatives.ItemFrequency` and `sum_shift`.
    """

    def __init__(self, *, half_life: float = _HALF_LIFE) -> None:
        super().__init__()
        self._frequency = ItemFrequency(half_life=half_life)

    def step(self, met_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        """See `CorpusNegatives`."""
        self._frequency.observe(targets_n)
        negatives = self._frequency.in_batch(targets_n)
        return sum_shift(negatives, num_draws=max(len(negatives) - 1, 1))

    def get_extra_state(self) -> Tensor:
        """The counts so far."""
        return self._frequency.state()

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` gave."""
        self._frequency.take_state(state)

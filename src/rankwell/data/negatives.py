"""Items that nobody chose, drawn so that a few stand for all: each with the probability it was drawn by.

Letters: U items, each once · n draws · S samplers.

A softmax over all items needs Σ_u e^(z_u). A sample gives it without bias, whatever it was drawn by, if each draw
counts 1/q: that is the correction by log Q, and `sum_shift` is its one place. Items drawn this way were not shown, so
nothing is known of p(click | shown): they may train a representation or a logit of retrieval, and never a probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final

import numba
import numpy as np
import torch
from torch import Tensor

from rankwell.errors import TrainingError

__all__ = [
    "ItemFrequency",
    "MixedNegatives",
    "NegativeSampler",
    "Negatives",
    "WeightedNegatives",
    "hard_negatives",
    "popularity_negatives",
    "sum_shift",
    "uniform_negatives",
]


@final
@dataclass(frozen=True, slots=True)
class Negatives:
    """Draws with replacement.

    Args:
        item_ids_n: int64.
        log_q_n: float64, ln of the probability by which any one draw gives this item.
    """

    item_ids_n: Tensor
    log_q_n: Tensor

    def __len__(self) -> int:
        return len(self.item_ids_n)


class NegativeSampler(Protocol):
    """Where negatives come from."""

    def draw(self, num: int, *, generator: torch.Generator) -> Negatives:
        """So many draws with replacement."""
        ...

    def log_probability(self, item_ids_n: Tensor) -> Tensor:
        """ln of the probability that one draw is this item, float64; -∞ where it never is."""
        ...


def sum_shift(negatives: Negatives, *, num_draws: int | None = None) -> tuple[Tensor, Tensor]:
    """The distinct items drawn, and what to add to their logits so that ``Σ_u e^(z_u + shift_u)`` stands for all items.

    ``shift_u = ln c_u − ln q_u − ln m`` for an item drawn c_u times in m draws: Σ_u c_u·e^(z_u)/(m·q_u) is Σ e^z over
    all items in expectation. It is made for `rankwell.losses.item_softmax.item_softmax`, which leaves the target's own
    logit alone, because that was not drawn, and masks the target among the items, however often it was hit. What is
    left is the bias of ln of a mean, of the order of 1/m.

    Args:
        negatives: Of one sampler; in-batch ones, too.
        num_draws: m, by default how many there are; one less for in-batch negatives, whose own target is no draw.

    Returns:
        int64 ids, ascending, and float64 shifts.

    Raises:
        TrainingError: A draw has no probability, or `num_draws` is below 1 though something was drawn.

    >>> from math import log
    >>> drawn = Negatives(torch.tensor([7, 3, 7]), torch.tensor([0.5, 0.25, 0.5]).log())
    >>> item_ids_U, shift_U = sum_shift(drawn)
    >>> item_ids_U.tolist(), (3 * shift_U.exp()).round(decimals=6).tolist()  # 1/.25, and twice 1/.5
    ([3, 7], [4.0, 4.0])

    Source: Bengio and Senécal 2008, "Adaptive importance sampling to accelerate training of a neural probabilistic
    language model"; Khrylchenko et al. 2025, "Correcting the LogQ correction", RecSys, on the target's own term.
    """
    num_draws = len(negatives) if num_draws is None else num_draws
    if not len(negatives):
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    bad_n = ~(negatives.log_q_n <= 0) | negatives.log_q_n.isinf()
    if bool(bad_n.any()) or num_draws < 1:
        raise TrainingError(
            "negatives without a probability cannot stand for all items",
            found=negatives.log_q_n[bad_n][:5].tolist() if num_draws >= 1 else f"num_draws = {num_draws}",
            allowed="ln q of at most 0, finite, and at least one draw",
            do="take them from a sampler that can draw each of them",
        )
    item_ids_U, place_n, counts_U = torch.unique(negatives.item_ids_n, return_inverse=True, return_counts=True)
    log_q_U = torch.empty(len(item_ids_U), dtype=torch.float64)
    log_q_U[place_n] = negatives.log_q_n.double()
    return item_ids_U, counts_U.double().log() - log_q_U - torch.tensor(float(num_draws), dtype=torch.float64).log()


@final
class WeightedNegatives:
    """Items in proportion to weights, each draw in constant time by Walker's aliases.

    Args:
        item_ids_U: int64, each once.
        weights_U: ≥ 0, finite, at least one above 0.

    Raises:
        TrainingError: There are no items, an item stands twice, or the weights are none.

    >>> sampler = WeightedNegatives(torch.tensor([5, 9]), torch.tensor([1.0, 3.0]))
    >>> sampler.log_probability(torch.tensor([9, 5, 4])).exp().tolist()
    [0.75, 0.25, 0.0]

    Source: Walker 1977, "An efficient method for generating discrete random variables with general distributions";
    Vose 1991 for building the aliases in linear time.
    """

    def __init__(self, item_ids_U: Tensor, weights_U: Tensor) -> None:
        weights_U = weights_U.double()
        if len(item_ids_U) != len(weights_U) or not bool((weights_U.isfinite() & (weights_U >= 0)).all()):
            raise TrainingError(
                "weights of negatives cannot be used", found=f"{len(weights_U)} weights of {len(item_ids_U)} items",
                allowed="a finite weight of at least 0 for each item",
            )  # fmt: skip
        if not float(weights_U.sum()) > 0:
            raise TrainingError("there is nothing to draw negatives from", found="no item with a weight above 0")
        self._item_ids_U, order_U = item_ids_U.sort()
        if bool((self._item_ids_U.diff() == 0).any()):
            raise TrainingError("an item stands twice among those to draw from", found="a repeated id")
        self._probability_U = (weights_U / weights_U.sum())[order_U]
        keep_U, alias_U = _aliases(self._probability_U.numpy())
        self._keep_U, self._alias_U = torch.from_numpy(keep_U), torch.from_numpy(alias_U)

    def draw(self, num: int, *, generator: torch.Generator) -> Negatives:
        """See `NegativeSampler`."""
        column_n = torch.randint(len(self._item_ids_U), (num,), generator=generator)
        coin_n = torch.rand(num, generator=generator, dtype=torch.float64)
        place_n = torch.where(coin_n < self._keep_U[column_n], column_n, self._alias_U[column_n])
        return Negatives(self._item_ids_U[place_n], self._probability_U[place_n].log())

    def log_probability(self, item_ids_n: Tensor) -> Tensor:
        """See `NegativeSampler`."""
        place_n = torch.searchsorted(self._item_ids_U, item_ids_n).clamp(max=len(self._item_ids_U) - 1)
        return torch.where(self._item_ids_U[place_n] == item_ids_n, self._probability_U[place_n], 0.0).log()


def uniform_negatives(item_ids_U: Tensor) -> WeightedNegatives:
    """Each item alike.

    >>> uniform_negatives(torch.tensor([5, 9])).log_probability(torch.tensor([5])).exp().tolist()
    [0.5]
    """
    return WeightedNegatives(item_ids_U, torch.ones(len(item_ids_U)))


def popularity_negatives(item_ids_U: Tensor, counts_U: Tensor, *, power: float = 0.75) -> WeightedNegatives:
    """Items in proportion to count^power: 0 is uniform, 1 by popularity.

    >>> sampler = popularity_negatives(torch.tensor([1, 2]), torch.tensor([1, 81]), power=0.5)
    >>> sampler.log_probability(torch.tensor([2])).exp().tolist()
    [0.9]

    Source: Mikolov et al. 2013, "Distributed representations of words and phrases and their compositionality", §2.2,
    for the power of 3/4.
    """
    if not power >= 0:
        raise TrainingError("the power of popularity is out of range", found=power, allowed="0 or more")
    return WeightedNegatives(item_ids_U, counts_U.double() ** power)


def hard_negatives(item_ids_U: Tensor, scores_U: Tensor, *, temperature: float = 1.0) -> WeightedNegatives:
    """Items that retrieval likes, in proportion to ``e^(score / temperature)``; a low one draws the hardest only.

    >>> sampler = hard_negatives(torch.tensor([1, 2]), torch.tensor([0.0, 1.0986]))
    >>> sampler.log_probability(torch.tensor([2])).exp().round(decimals=3).tolist()
    [0.75]
    """
    if not temperature > 0:
        raise TrainingError("a temperature is out of range", found=temperature, allowed="above 0")
    scaled_U = scores_U.double() / temperature
    return WeightedNegatives(item_ids_U, (scaled_U - scaled_U.max()).exp() if len(scaled_U) else scaled_U)


@final
@dataclass(frozen=True, slots=True)
class MixedNegatives:
    """Negatives of several samplers, each a fixed share of the draws, and all of them corrected by the mixture.

    ``q = Σ_s share_s · q_s``: an item that only one of them draws, and seldom, doesn't count for a thousand. With
    exposed items beside the whole corpus, the model learns of the items that are never shown, too.

    Args:
        samplers: S of them.
        shares: Above 0; they add up to 1.

    Raises:
        TrainingError: The shares are none.

    >>> one, other = uniform_negatives(torch.tensor([1])), uniform_negatives(torch.tensor([1, 2]))
    >>> mixed = MixedNegatives((one, other), (0.5, 0.5))
    >>> mixed.log_probability(torch.tensor([1, 2])).exp().tolist()
    [0.75, 0.25]

    Source: Yang et al. 2020, "Mixed negative sampling for learning two-tower neural networks in recommendations", WWW;
    Veach and Guibas 1995 for the balance of several samplers.
    """

    samplers: Sequence[NegativeSampler]
    shares: Sequence[float]

    def __post_init__(self) -> None:
        fine = len(self.samplers) == len(self.shares) > 0 and all(share > 0 for share in self.shares)
        if not fine or abs(sum(self.shares) - 1) > 1e-9:
            raise TrainingError(
                "shares of samplers cannot be used", found=list(self.shares), allowed="one above 0 for each, 1 in all"
            )

    def draw(self, num: int, *, generator: torch.Generator) -> Negatives:
        """See `NegativeSampler`; the shares are met to a draw."""
        ends = [round(num * sum(self.shares[: s + 1])) for s in range(len(self.shares))]
        drawn = [
            sampler.draw(end - start, generator=generator).item_ids_n
            for sampler, start, end in zip(self.samplers, [0, *ends], ends, strict=False)
        ]
        item_ids_n = torch.cat(drawn)
        return Negatives(item_ids_n, self.log_probability(item_ids_n))

    def log_probability(self, item_ids_n: Tensor) -> Tensor:
        """See `NegativeSampler`."""
        shares = torch.tensor(self.shares, dtype=torch.float64).log()
        parts_Sn = torch.stack([sampler.log_probability(item_ids_n) for sampler in self.samplers])
        return torch.logsumexp(parts_Sn + shares[:, None], dim=0)


_FORGOTTEN: Final = 1e-3


@final
class ItemFrequency:
    """How often items come, from the stream itself: the Q of in-batch negatives.

    Counts decay by one half in `half_life` draws. An item's probability is its count over all counts, with the batch it
    is asked for counted already: then 1/q is right on average over the batches it comes in, also of an item that came
    for the first time. So `observe` the batch of targets first, and take it as negatives by `in_batch` then.

    Args:
        half_life: Draws, above 0: a few hundred thousand where popularity moves by the day.

    Raises:
        TrainingError: `half_life` is out of range.

    >>> frequency = ItemFrequency(half_life=1e6)
    >>> batch_n = torch.tensor([4, 4, 4, 8])
    >>> frequency.observe(batch_n)
    >>> frequency.in_batch(batch_n).log_q_n.exp().tolist()
    [0.75, 0.75, 0.75, 0.25]

    Source: after Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations",
    algorithm 2, which keeps the mean gap between batches with the item instead; a gap cannot be less than one batch.
    """

    def __init__(self, *, half_life: float) -> None:
        if not half_life > 0:
            raise TrainingError("a half-life is out of range", found=half_life, allowed="draws, above 0")
        self._half_life = half_life
        self._item_ids_U = torch.empty(0, dtype=torch.int64)
        self._counts_U = torch.empty(0, dtype=torch.float64)  # as of draw `self._drawn`
        self._total = 0.0

    def __len__(self) -> int:
        return len(self._item_ids_U)

    @property
    def item_ids_U(self) -> Tensor:
        """int64, the items that are remembered, ascending."""
        return self._item_ids_U

    def state(self) -> Tensor:
        """All that was counted, int64 of 2 × (U + 1): ids above the bits of their counts, the total at the end."""
        counts = torch.cat([self._counts_U, torch.tensor([self._total], dtype=torch.float64)])
        return torch.stack([torch.cat([self._item_ids_U, torch.tensor([-1])]), counts.view(torch.int64)])

    def take_state(self, state: Tensor) -> None:
        """Go on from what `state` gave."""
        counts = state[1].clone().view(torch.float64)
        self._item_ids_U, self._counts_U, self._total = state[0, :-1].clone(), counts[:-1].clone(), float(counts[-1])

    def observe(self, item_ids_n: Tensor) -> None:
        """Count a batch; ids below 0 are missing and don't count."""
        kept_n = item_ids_n[item_ids_n >= 0]
        if not len(kept_n):
            return
        decay = 0.5 ** (len(kept_n) / self._half_life)
        self._counts_U *= decay
        self._total = self._total * decay + len(kept_n)
        new_U, counts_U = torch.unique(kept_n, return_counts=True)
        merged_U, place = torch.unique(torch.cat([self._item_ids_U, new_U]), return_inverse=True)
        merged_counts_U = torch.zeros(len(merged_U), dtype=torch.float64)
        merged_counts_U.index_add_(0, place, torch.cat([self._counts_U, counts_U.double()]))
        remembered_U = merged_counts_U > _FORGOTTEN
        self._item_ids_U, self._counts_U = merged_U[remembered_U], merged_counts_U[remembered_U]

    def log_probability(self, item_ids_n: Tensor) -> Tensor:
        """ln of each item's share, float64; -∞ for one that was never seen, or not for long."""
        if not len(self._item_ids_U):
            return torch.full(item_ids_n.shape, -torch.inf, dtype=torch.float64)
        place_n = torch.searchsorted(self._item_ids_U, item_ids_n).clamp(max=len(self._item_ids_U) - 1)
        return torch.where(self._item_ids_U[place_n] == item_ids_n, self._counts_U[place_n] / self._total, 0.0).log()

    def in_batch(self, item_ids_n: Tensor) -> Negatives:
        """The targets of a batch as negatives of each other; it must have been observed. Missing ones are left out.

        With `sum_shift`, give ``num_draws`` one less than there are: a target is no draw for its own state.
        """
        kept_n = item_ids_n[item_ids_n >= 0]
        return Negatives(kept_n, self.log_probability(kept_n))


@numba.njit(cache=True, nogil=True)
def _aliases(probability_U):  # type: ignore[no-untyped-def]
    """Vose's tables: with what chance a column keeps its own item, and the item it gives otherwise."""
    num = len(probability_U)
    scaled = probability_U * num
    keep, alias = np.ones(num), np.arange(num)
    small, large = np.empty(num, np.int64), np.empty(num, np.int64)
    num_small = num_large = 0
    for u in range(num):
        if scaled[u] < 1:
            small[num_small] = u
            num_small += 1
        else:
            large[num_large] = u
            num_large += 1
    while num_small and num_large:
        num_small -= 1
        num_large -= 1
        less, more = small[num_small], large[num_large]
        keep[less], alias[less] = scaled[less], more
        scaled[more] -= 1 - scaled[less]
        if scaled[more] < 1:
            small[num_small] = more
            num_small += 1
        else:
            large[num_large] = more
            num_large += 1
    for i in range(num_small):  # what rounding left: a column of weight 0 must not be kept
        if probability_U[small[i]] == 0:
            keep[small[i]], alias[small[i]] = 0.0, np.argmax(probability_U)
    return keep, alias

"""Logs of long lists in which what stands beside a candidate decides, with their truth.

Letters: R requests · K candidates of one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.signal import lfilter
from scipy.special import expit, logit

from rankwell.schema import Action, Categorical, Numeric, PiecewiseLinear, Schema

__all__ = ["LIST_SCHEMA", "REACH", "LongLists", "draw_long_lists"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REACH: Final = 25
"""How many candidates to each side, in the initial ranking, one is held against."""
_NUM_PIECES: Final = 32
LIST_SCHEMA: Final = Schema(
    features=(
        Categorical(name="category", num_ids=2),
        Numeric(name="worth"),
        Numeric(name="retrieval_score", transform=PiecewiseLinear(num_pieces=_NUM_PIECES)),
    ),
    actions=(Action(name="click"),),
    member_id=None,
    time=None,
)

_CLICK_RATE: Final = 0.02
_CONTRAST: Final = 1.6
_CROWDING: Final = 6.0
_TREND_SD: Final = 1.5
_TREND_LENGTH: Final = 80.0
_RUN_LENGTH: Final = 15
_EVENNESS: Final = 0.7


@final
@dataclass(frozen=True, slots=True)
class LongLists:
    """Requests of equally many candidates, in the order of the initial ranking, and what is true of them.

    ``logit p = contrast + crowding + constant``; the contrast is 1.6 · (worth − mean worth of the 25 before, the 25
    after and itself), the crowding −6 · (share of the whole list that is of its category, less ½).

    Args:
        category_RK: int64, 0 or 1, in runs of some 15 candidates: what stands near says little of the whole.
        worth_RK: Own noise of variance 1 upon a trend of variance 2¼ that forgets itself within some 80 candidates:
            most of what makes a worth high is that it is high thereabouts, which the contrast takes away.
        contrast_RK: The part of the logit that the candidates near by decide.
        crowding_RK: The part of the logit that the whole list decides.
        probability_RK: Of a click.
        labels_RK: 0 or 1, drawn.
    """

    category_RK: Ints
    worth_RK: Floats
    contrast_RK: Floats
    crowding_RK: Floats
    probability_RK: Floats
    labels_RK: Ints

    def best_alone(self) -> Floats:
        """R × K, the best linear guess at the logit from a candidate's own worth and category, less a constant.

        A category alone says nothing: each is as often the crowded one as the other.
        """
        return _explained(self.contrast_RK, self.worth_RK)

    def best_nearby(self) -> Floats:
        """The same from all candidates at most `REACH` places away: the contrast, and a guess at the crowding."""
        is_of_1 = self.category_RK.astype(np.float64)
        of_1_RK = _means_nearby(is_of_1)
        share_RK = np.where(self.category_RK == 1, of_1_RK, 1 - of_1_RK)
        return self.contrast_RK + _explained(self.crowding_RK, share_RK)

    def best_overall(self) -> Floats:
        """The same from a candidate's own worth and what the whole list is made of, but not where: the crowding, and a
        guess at the contrast."""
        return self.best_alone() + self.crowding_RK

    def table(self) -> pa.Table:
        """As a log of `LIST_SCHEMA`, one row a request; the retrieval score falls from 1 towards 0 along the list."""
        num_requests, length = self.labels_RK.shape
        offsets = pa.array(np.arange(num_requests + 1) * length, pa.int32())
        score_RK = np.broadcast_to(1 - np.arange(length) / length, self.labels_RK.shape)
        lists = {
            "category": self.category_RK, "worth": self.worth_RK, "retrieval_score": score_RK, "click": self.labels_RK
        }  # fmt: skip
        columns = {name: pa.ListArray.from_arrays(offsets, pa.array(values.ravel())) for name, values in lists.items()}
        return pa.table({"request_id": np.arange(num_requests), **columns})


def draw_long_lists(num_requests: int, length: int, *, seed: int, fresh: int = 0) -> LongLists:
    """Lists of one truth.

    Args:
        num_requests: R, at least 1.
        length: K, at least 1.
        seed, fresh: Of everything that is drawn.

    >>> lists = draw_long_lists(3, 100, seed=0)
    >>> lists.labels_RK.shape, bool(abs(lists.contrast_RK.mean()) < 0.1)
    ((3, 100), True)
    """
    rng = np.random.default_rng((seed, fresh, num_requests, length))
    worth_RK = _TREND_SD * _trends(rng, num_requests, length) + rng.standard_normal((num_requests, length))
    contrast_RK = _CONTRAST * (worth_RK - _means_nearby(worth_RK))
    category_RK = _categories(rng, num_requests, length)
    of_1_R1 = category_RK.mean(axis=1, keepdims=True)
    crowding_RK = -_CROWDING * (np.where(category_RK == 1, of_1_R1, 1 - of_1_R1) - 0.5)
    probability_RK = expit(contrast_RK + crowding_RK + logit(_CLICK_RATE))
    labels_RK = (rng.random((num_requests, length)) < probability_RK).astype(np.int64)
    return LongLists(category_RK, worth_RK, contrast_RK, crowding_RK, probability_RK, labels_RK)


def _trends(rng: np.random.Generator, num_requests: int, length: int) -> Floats:
    """Autoregressive along the list, of variance 1 from its first candidate on."""
    keeps = np.exp(-1 / _TREND_LENGTH)
    pushes_RK = rng.standard_normal((num_requests, length)) * np.sqrt(1 - keeps**2)
    pushes_RK[:, 0] /= np.sqrt(1 - keeps**2)
    trend_RK: Floats = lfilter([1.0], [1.0, -keeps], pushes_RK, axis=1)
    return trend_RK


def _means_nearby(values_RK: Floats) -> Floats:
    """Over those at most `REACH` places away, itself included; fewer at the ends."""
    size = 2 * REACH + 1
    sums_RK = uniform_filter1d(values_RK, size, axis=1, mode="constant")
    counts_K = uniform_filter1d(np.ones(values_RK.shape[1]), size, mode="constant")
    means_RK: Floats = sums_RK / counts_K
    return means_RK


def _explained(what_RK: Floats, by_RK: Floats) -> Floats:
    """The linear regression of one on the other, over all candidates."""
    centred_RK = by_RK - by_RK.mean()
    explained_RK: Floats = centred_RK * float((what_RK * centred_RK).mean() / (centred_RK**2).mean())
    return explained_RK


def _categories(rng: np.random.Generator, num_requests: int, length: int) -> Ints:
    """Runs of lengths 1 … 2 · `_RUN_LENGTH` − 1, each of one category, by the request's own share."""
    categories = []
    for share in rng.beta(_EVENNESS, _EVENNESS, num_requests):
        lengths = rng.integers(1, 2 * _RUN_LENGTH, length)  # as many runs as there are candidates are enough
        of_runs = (rng.random(length) < share).astype(np.int64)
        categories.append(np.repeat(of_runs, lengths)[:length])
    return np.array(categories)

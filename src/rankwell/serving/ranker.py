"""A bundle into answers: one request in, its ranked list and the impressions to log out.

Letters in names: R requests · C candidates, flat over the batch · K candidates of one request · A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankwell.data.pseudonyms import PseudonymKey
from rankwell.data.request import batch_from_request
from rankwell.errors import RequestError, SchemaError
from rankwell.ranking.policies import Policy, greedy
from rankwell.ranking.utility import Utility
from rankwell.schema import Schema
from rankwell.serving.bundle import Bundle, read_bundle
from rankwell.serving.scorer import EagerScorer, Scorer, Scores
from rankwell.tables.hashing import mix64
from rankwell.types import Audit, Batch, Column, Features, Impression, Ragged, RankedList

__all__ = ["Ranker", "Ranking"]


@final
@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to a request.

    Args:
        ranked: Best first.
        places_n: int64, where each of them stands among the request's candidates, from 0.
        scores: Of all candidates, in the order in which the request has them.
        audit: Of the request: ids and time.
        num_cut_events: By sequence, how many of the request's oldest events were left out, since there were more than
            the schema's `max_length`.
    """

    ranked: RankedList
    places_n: NDArray[np.int64]
    scores: Scores
    audit: Audit
    num_cut_events: Mapping[str, int] = field(default_factory=dict)

    @property
    def impressions(self) -> tuple[Impression, ...]:
        """What the request log keeps if the list is shown as it stands: one an entry, positions from 1."""
        request_id, member_id = int(self.audit.request_ids_R[0]), int(self.audit.member_ids_R[0])
        time_us, ranked = int(self.audit.times_us_R[0]), self.ranked
        entries = zip(
            ranked.item_ids.tolist(), ranked.probabilities.tolist(), ranked.propensities.tolist(), strict=True
        )  # fmt: skip
        return tuple(
            Impression(
                request_id=request_id,
                member_id=member_id,
                time_us=time_us,
                item_id=item_id,
                position=position,
                probability=probability,
                propensity=propensity,
            )
            for position, (item_id, probability, propensity) in enumerate(entries, start=1)
        )


@final
class Ranker:
    """Ranks the candidates of a request by a utility: by default the calibrated probability of an action.

    The way of a request: scorer (logits → label smoothing undone → calibrators → probabilities) → utility → policy.
    Several threads may ask at once.

    Args:
        scorer: What scores candidates; or a bundle, or the path of one, scored in PyTorch.
        action: The action to rank for; by default the schema's first. Its probability is what a list and its
            impressions carry, whatever they are sorted by, and its logit is what tells equal utilities apart.
        utility: What the list is sorted by; by default the probability of `action`.
        policy: Makes the list.
        max_candidates: A request with more is refused; at least 1.
        seed: Of the policy's draws, together with the request's id.
        key: Where given, member ids of requests are raw, and pseudonymised with it before anything sees them; else
            they are pseudonyms, as in the log that the model was trained on.

    Raises:
        BundleError: The path holds no whole bundle.
        SchemaError: The schema has no such action, or the utility doesn't fit it.
        RequestError: `max_candidates` is below 1: no request could be ranked.

    >>> from rankwell.calibration.platt import Platt
    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.models.wide_deep import Logistic
    >>> from rankwell.schema import Action, Categorical, Schema
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job")
    >>> model = Logistic(schema, NumericStatistics(), seed=0)  # untrained: every logit is 0
    >>> ranker = Ranker(Bundle(model=model, calibrators={"click": Platt(slope=1.0, offset=-1.0)}, created_us=0))
    >>> request = {"request_id": 1, "member_id": 2, "time_us": 3, "candidates": {"job": [42, 41]}}
    >>> ranking = ranker.rank(request, length=1)
    >>> ranking.ranked.item_ids, ranking.ranked.probabilities
    (tensor([41]), tensor([0.2689], dtype=torch.float64))
    >>> ranking.impressions[0].position
    1
    """

    def __init__(
        self,
        scorer: Scorer | Bundle | str | Path,
        *,
        action: str | None = None,
        utility: Utility | None = None,
        policy: Policy = greedy,
        max_candidates: int = 2_000,
        seed: int = 0,
        key: PseudonymKey | None = None,
    ) -> None:
        if max_candidates < 1:
            raise RequestError("max_candidates lets no request through", found=max_candidates, allowed="1 or more")
        if not isinstance(scorer, Scorer):
            scorer = EagerScorer(scorer if isinstance(scorer, Bundle) else read_bundle(scorer))
        self.scorer = scorer
        self._actions = tuple(action.name for action in self.schema.actions)
        self._ranked_for = 0 if action is None else self.schema.action_index(action)
        if utility is not None:
            utility.check(self.schema)
        self.utility = utility
        self._policy, self._max_candidates, self._seed = policy, max_candidates, seed
        self._key = key

    @property
    def schema(self) -> Schema:
        """What a request's columns mean."""
        return self.scorer.schema

    @property
    def action(self) -> str:
        """The action that it ranks for."""
        return self._actions[self._ranked_for]

    def rank(self, request: Mapping[str, Any], *, length: int | None = None) -> Ranking:
        """The ranked list of a request, best first; ties by the model's logit, then by item id.

        It is a function of the set of candidates: in another order they give the same list, bit for bit. A member or
        an item that training never saw reads the learned default row.

        Args:
            request: Plain Python data, as `batch_from_request` takes it.
            length: How many to rank; by default all candidates.

        Raises:
            RequestError: No candidates or too many, an item that stands twice, a length below 1, a raw member id, a
                column that is not as the schema says, or no bids where the utility has a bid in it.
            SchemaError: The schema doesn't say which column is the item.
        """
        return self.rank_batch(batch_from_request(request, self.schema, key=self._key), length=length)

    def rank_batch(self, batch: Batch, *, length: int | None = None) -> Ranking:
        """`rank` of a request that was read before.

        Args:
            batch: R = 1, with the member's pseudonym and, where the utility has a bid in it, the bids.
            length: How many to rank; by default all candidates.

        Raises:
            RequestError: As `rank`.
            SchemaError: The schema doesn't say which column is the item.
        """
        if self.schema.item is None:
            raise SchemaError("the schema names no item, so a list cannot say what it ranks", do="declare `item`")
        num_candidates = batch.features.num_candidates
        if not 1 <= num_candidates <= self._max_candidates:
            raise RequestError(
                "a request cannot be ranked with this number of candidates", found=num_candidates,
                allowed=f"1 … {self._max_candidates:,}",
                do="retrieve candidates before ranking" if num_candidates == 0 else
                "let retrieval keep fewer, or raise max_candidates of the ranker",
            )  # fmt: skip
        # NumPy's: torch takes longer to begin on a few hundred entries than to do it
        ids = batch.audit.item_ids_C.numpy()
        order = ids.argsort()
        order_K, ordered_ids = torch.from_numpy(order), ids[order]
        scores = self.scorer.score(Batch(_reordered(batch.features, order_K), batch.targets, batch.audit))
        logits_K, probabilities_K = (of[:, self._ranked_for] for of in (scores.logits_CA, scores.probabilities_CA))
        utilities_K = probabilities_K
        if self.utility is not None:
            bids_C = batch.audit.columns.get(self.schema.bid) if self.schema.bid is not None else None
            utilities_K = self.utility.utilities_C(
                scores.probabilities_CA, None if bids_C is None else bids_C[order_K], schema=self.schema
            )
        ranked = self._policy(
            torch.from_numpy(ordered_ids),
            utilities_K,
            logits_K=logits_K,  # the model's own: undoing label smoothing makes ties at its ends
            probabilities_K=probabilities_K,
            length=num_candidates if length is None else length,
            seed=_request_seed(self._seed, int(batch.audit.request_ids_R[0])),
        )
        history = batch.features.history
        cut = {name: int(e.num_cut_R.sum()) for name, e in history.items() if e.num_cut_R is not None}
        places_n = order[ordered_ids.searchsorted(ranked.item_ids.numpy())]
        as_given = Scores(_as_given(scores.logits_CA, order), _as_given(scores.probabilities_CA, order))
        return Ranking(ranked, places_n, as_given, batch.audit, cut)


def _as_given(ordered_KA: Tensor, order: NDArray[np.int64]) -> Tensor:
    given_KA = np.empty(tuple(ordered_KA.shape), ordered_KA.numpy().dtype)
    given_KA[order] = ordered_KA.numpy()
    return torch.from_numpy(given_KA)


def _reordered(features: Features, order_K: Tensor) -> Features:
    # A matrix product's last bit depends on a row's place in the matrix. Candidates in one canonical order make the
    # logits, and with them the list, a function of the set.
    candidates = {name: _column_in_order(column, order_K) for name, column in features.candidates.items()}
    return Features(features.context, features.history, candidates, features.offsets, features.request_C)


def _column_in_order(column: Column, order_K: Tensor) -> Column:
    if isinstance(column, Tensor):
        return column.index_select(0, order_K)
    lengths_K = column.lengths[order_K]
    offsets = torch.zeros(len(order_K) + 1, dtype=torch.int64)
    torch.cumsum(lengths_K, 0, out=offsets[1:])
    shift_K = column.offsets[:-1][order_K] - offsets[:-1]
    return Ragged(column.values[torch.arange(int(offsets[-1])) + shift_K.repeat_interleave(lengths_K)], offsets)


def _request_seed(seed: int, request_id: int) -> int:
    """The request's own seed, in 0 … 2^63 - 1: the same whenever it is asked."""
    return int(mix64(np.uint64(seed % 2**64) ^ mix64(np.uint64(request_id % 2**64)))) >> 1

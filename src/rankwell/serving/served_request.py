"""The answer to a request, as the log keeps it.

Letters: K candidates of the request · n shown · A actions · S segment columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rankwell.calibration.segment_columns import segments_of
from rankwell.serving.ranker import Ranking
from rankwell.types import Batch, Features

__all__ = ["ServedRequest", "served_request"]

Array = Tensor | NDArray[np.generic]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ServedRequest:
    """One request with what was said of its candidates and which of them were shown.

    Args:
        request_id: 0 … 2⁶³ - 1; one id is one request: of two answers to it, the log keeps the first.
        member_id: A pseudonym, or `MISSING_ID`.
        time_us: When it was asked, UTC microseconds.
        features: What the model saw, of this one request (R = 1).
        item_ids_K: int64, distinct, in the order of the features.
        places_n: int64, the places among the K of those that were shown; the first stands at position 1.
        propensities_n: float64 in (0, 1], the marginal probability that the policy put each at its position.
        logits_KA: The model's own log-odds, of each action of the schema.
        probabilities_KA: Calibrated, in (0, 1).
        bundle_id: Of the bundle that answered.
        correction_id: Of the correction that was applied to it; None where there was none.
        segments_KS: int64, the segments by which the bundle calibrated; None where it has none.
        prices_micros_n: int64, what each that was shown pays, ≥ 0; None where nothing is sold.
        audit: Further columns of the log by their name in the schema: protected attributes (1 or K entries), and by
            their column bids, retrieval exposure, examination and weight (K entries). One that is not here is logged as
            not known (protected), 0 (bid) or 1 (the others), as where a log has none.

    >>> import torch
    >>> features = Features({}, {}, {"job": torch.tensor([40, 41])}, torch.tensor([0, 2]), torch.zeros(2).long())
    >>> logits_KA = torch.tensor([[0.0], [1.0]])
    >>> served = ServedRequest(
    ...     request_id=7, member_id=5, time_us=3, features=features, item_ids_K=torch.tensor([40, 41]),
    ...     places_n=torch.tensor([1]), propensities_n=torch.ones(1), logits_KA=logits_KA,
    ...     probabilities_KA=logits_KA.sigmoid(), bundle_id="b1")
    >>> served.item_ids_K[served.places_n]
    tensor([41])
    """

    request_id: int
    member_id: int
    time_us: int
    features: Features
    item_ids_K: Array
    places_n: Array
    propensities_n: Array
    logits_KA: Array
    probabilities_KA: Array
    bundle_id: str
    correction_id: str | None = None
    segments_KS: Array | None = None
    prices_micros_n: Array | None = None
    audit: Mapping[str, Array] = field(default_factory=dict)


def served_request(
    batch: Batch,
    ranking: Ranking,
    *,
    bundle_id: str,
    calibrate_by: Sequence[str] = (),
    correction_id: str | None = None,
    prices_micros_n: Array | None = None,
) -> ServedRequest:
    """The answer of a ranker to a batch of one request, to be logged as it is shown.

    Args:
        batch: The request, as the ranker was given it.
        ranking: Its answer.
        bundle_id: See `ServedRequest`.
        calibrate_by: The segments of the scorer's calibrators, as the scorer names them.
        correction_id, prices_micros_n: See `ServedRequest`.
    """
    audit = batch.audit
    return ServedRequest(
        request_id=int(audit.request_ids_R[0]),
        member_id=int(audit.member_ids_R[0]),
        time_us=int(audit.times_us_R[0]),
        features=batch.features,
        item_ids_K=audit.item_ids_C,
        places_n=ranking.places_n,
        propensities_n=ranking.ranked.propensities,
        logits_KA=ranking.scores.logits_CA,
        probabilities_KA=ranking.scores.probabilities_CA,
        bundle_id=bundle_id,
        correction_id=correction_id,
        segments_KS=segments_of(batch, calibrate_by) if calibrate_by else None,
        prices_micros_n=prices_micros_n,
        audit=audit.columns,
    )

"""Answers to a simulated marketplace's requests, as a server would log them.

K candidates of a request · n shown · A actions.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.serving.served_request import ServedRequest
from rankwell.simulation.schema import marketplace_schema
from rankwell.simulation.settings import MarketplaceSettings
from rankwell.simulation.simulate import simulate_tables
from rankwell.types import Batch

SETTINGS = MarketplaceSettings(num_members=60, num_jobs=80, num_titles=12, num_industries=6, num_cities=5)
SCHEMA = marketplace_schema(SETTINGS)
NOW_US = 1_790_000_000_000_000


@cache
def batches(num: int = 40) -> list[Batch]:
    """The first requests of the marketplace, one a batch."""
    log = log_from_table(simulate_tables(SETTINGS, seed=3, num_requests=num)[0], SCHEMA, layout="requests")
    return [batch for _, batch in Batches(log, WholeLog("train"), "train", num_requests=1, seed=None).epoch(0)]


def served(batch: Batch, *, length: int = 4, **changes: object) -> ServedRequest:
    """The answer to a batch of one request, by logits that are drawn by its id."""
    request_id = int(batch.audit.request_ids_R[0])
    item_ids_K = batch.audit.item_ids_C
    generator = torch.Generator().manual_seed(request_id)
    logits_KA = torch.randn(len(item_ids_K), len(SCHEMA.actions), generator=generator, dtype=torch.float64) - 1
    probabilities_KA = logits_KA.sigmoid()
    ranked = SlotExploration(slots=(2,))(
        item_ids_K,
        probabilities_KA[:, 0],
        logits_K=logits_KA[:, 0],
        probabilities_K=probabilities_KA[:, 0],
        length=length,
        seed=request_id,
    )
    places = {item: k for k, item in enumerate(item_ids_K.tolist())}
    places_n = torch.tensor([places[item] for item in ranked.item_ids.tolist()])
    answer = ServedRequest(
        request_id=request_id,
        member_id=int(batch.audit.member_ids_R[0]),
        time_us=int(batch.audit.times_us_R[0]),
        features=batch.features,
        item_ids_K=item_ids_K,
        places_n=places_n,
        propensities_n=ranked.propensities,
        logits_KA=logits_KA,
        probabilities_KA=probabilities_KA,
        bundle_id="bundle-1",
        correction_id="correction-2" if request_id % 2 else None,
        segments_KS=torch.stack([item_ids_K % 3, item_ids_K % 5], dim=1),
        prices_micros_n=1_000 + places_n,
        audit=batch.audit.columns,
    )
    return replace(answer, **changes)  # type: ignore[arg-type]


def distinct_batches(num: int) -> list[Batch]:
    """Batches whose items stand once in a request."""
    found = [batch for batch in batches() if len(np.unique(batch.audit.item_ids_C)) == batch.features.num_candidates]
    return found[:num]

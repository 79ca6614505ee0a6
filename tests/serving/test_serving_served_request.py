"""An answer as the log keeps it, from what a ranker gave; K candidates of the request."""

from __future__ import annotations

import torch

from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.data.request import batch_from_request
from rankwell.data.statistics import NumericStatistics
from rankwell.models.wide_deep import Logistic
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.schema import Action, Categorical, Schema
from rankwell.serving.bundle import Bundle
from rankwell.serving.ranker import Ranker
from rankwell.serving.served_request import served_request

SCHEMA = Schema(
    features=(Categorical(name="job"), Categorical(name="title")), actions=(Action(name="click"),), item="job"
)


def test_places_are_those_of_the_request_whatever_its_order() -> None:
    bundle = Bundle(
        model=Logistic(SCHEMA, NumericStatistics(), seed=0), calibrators={"click": Uncalibrated()}, created_us=0
    )
    ranker = Ranker(bundle, policy=SlotExploration(slots=(2,)))
    request = {
        "request_id": 3,
        "member_id": 5,
        "time_us": 9,
        "candidates": {"job": [42, 2**62, 40, 7], "title": [1, 2, 3, 4]},
    }
    batch = batch_from_request(request, SCHEMA)
    ranking = ranker.rank_batch(batch, length=3)
    served = served_request(batch, ranking, bundle_id="b", calibrate_by=["title"])
    assert (served.request_id, served.member_id, served.time_us) == (3, 5, 9)
    assert torch.equal(torch.as_tensor(served.item_ids_K)[served.places_n], ranking.ranked.item_ids)
    assert torch.equal(torch.as_tensor(served.propensities_n), ranking.ranked.propensities)
    assert torch.as_tensor(served.segments_KS).tolist() == [[1], [2], [3], [4]]
    assert served.logits_KA.shape == served.probabilities_KA.shape == (4, 1)

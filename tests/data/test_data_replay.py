"""What was served can be served again."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.replay import request_of_batch
from rankwell.data.request import batch_from_request
from rankwell.data.split import WholeLog
from rankwell.types import Column


def same(one: Column, other: Column) -> bool:
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        return bool(torch.allclose(one, other, equal_nan=True))
    assert not isinstance(other, Tensor)
    return torch.equal(one.values, other.values) and torch.equal(one.lengths, other.lengths)


def test_every_request_survives_json_and_back() -> None:
    log = log_from_table(every_kind_table(40, 1), EVERY_KIND, layout="requests")
    for _, alone in Batches(log, WholeLog("train"), "train", num_requests=1, seed=None).epoch(0):
        again = batch_from_request(json.loads(json.dumps(request_of_batch(alone, 0, EVERY_KIND))), EVERY_KIND)
        for mine, theirs in (
            (alone.features.context, again.features.context),
            (alone.features.candidates, again.features.candidates),
            (alone.features.history["history"].columns, again.features.history["history"].columns),
        ):
            assert sorted(mine) == sorted(theirs)
            assert all(same(mine[name], theirs[name]) for name in mine)
        assert torch.equal(alone.audit.item_ids_C, again.audit.item_ids_C)
        assert torch.equal(alone.audit.member_ids_R, again.audit.member_ids_R)


def test_a_request_within_a_batch_is_the_request_alone() -> None:
    log = log_from_table(every_kind_table(12, 2), EVERY_KIND, layout="requests")
    ((_, together),) = Batches(log, WholeLog("train"), "train", num_requests=12, seed=None).epoch(0)
    alone = [batch for _, batch in Batches(log, WholeLog("train"), "train", num_requests=1, seed=None).epoch(0)]
    for index, batch in enumerate(alone):
        assert request_of_batch(together, index, EVERY_KIND) == request_of_batch(batch, 0, EVERY_KIND)

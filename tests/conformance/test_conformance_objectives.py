"""Every objective in `rankwell.training` keeps the contract of its kind; a new one is found without an edit.

Letters: C candidates, flat · A actions.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil

import pytest
import torch
from torch import Tensor

import rankwell.training
from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.training.objectives import ActionObjective, Objective, PointwiseObjective
from rankwell.types import Batch, Column, Encoded, Ragged, Targets


def discovered() -> list[type[Objective]]:
    for module in pkgutil.iter_modules(rankwell.training.__path__, "rankwell.training."):
        importlib.import_module(module.name)
    pending, found = list(Objective.__subclasses__()), []
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        if not inspect.isabstract(kind) and kind.__module__.startswith("rankwell."):
            found.append(kind)
    return sorted(found, key=lambda kind: kind.__name__)


OBJECTIVES = discovered()
every_objective = pytest.mark.parametrize("kind", OBJECTIVES)


def whole_batch() -> Batch:
    """12 requests of 1 … 6 candidates, weights between ½ and 2."""
    log = log_from_table(every_kind_table(12, 0), EVERY_KIND, layout="requests")
    ((_, batch),) = Batches(log, WholeLog("train"), "train", num_requests=12, seed=None).epoch(0)
    weights_C = 0.5 + 1.5 * torch.rand(batch.features.num_candidates, generator=torch.Generator().manual_seed(1))
    return with_targets(batch, weights_C=weights_C)


def with_targets(batch: Batch, **columns: Tensor) -> Batch:
    return dataclasses.replace(batch, targets=dataclasses.replace(batch.targets, **columns))


def part_of(batch: Batch, rows: Tensor) -> Batch:
    """The batch of these candidates alone; requests keep their numbers, and one may be left without candidates."""

    def kept(column: Column) -> Column:
        if isinstance(column, Tensor):
            return column[rows]
        lists = [column.values[column.offsets[i] : column.offsets[i + 1]] for i in rows.tolist()]
        ends = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
        return Ragged(torch.cat(lists), ends)

    features, request_C = batch.features, batch.features.request_C[rows]
    counts = torch.bincount(request_C, minlength=features.num_requests)
    return Batch(
        dataclasses.replace(
            features,
            candidates={name: kept(column) for name, column in features.candidates.items()},
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
            request_C=request_C,
        ),
        Targets(*(getattr(batch.targets, field.name)[rows] for field in dataclasses.fields(Targets))),
        dataclasses.replace(batch.audit, item_ids_C=batch.audit.item_ids_C[rows], columns={}),
    )


WHOLE = whole_batch()
NUM = WHOLE.features.num_candidates
LOGITS_CA = torch.randn(NUM, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2
ABSENT = torch.tensor([1, 4, 5, NUM - 1])
PRESENT = torch.tensor([row for row in range(NUM) if row not in ABSENT])


def encoded_of(batch: Batch) -> Encoded:
    """What a model's body may hand over: of requests, of events, and of items by their ids."""
    num_events = int(batch.features.history["history"].offsets[-1])
    return Encoded(
        request_RD=torch.linspace(-1, 1, batch.features.num_requests * 4).view(-1, 4),
        candidate_CD=torch.zeros(batch.features.num_candidates, 4),
        attention={},
        event_HD={"history": torch.linspace(-2, 2, num_events * 4).view(-1, 4)},
        item_vectors=lambda ids_U: torch.sin(ids_U.unsqueeze(1) * torch.arange(1.0, 5.0)),
    )


def value(kind: type[Objective], batch: Batch, logits_CA: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, count, and the loss's gradient with respect to the logits."""
    leaf_CA = logits_CA.clone().requires_grad_()
    objective = kind(EVERY_KIND)  # type: ignore[call-arg]
    objective(encoded_of(WHOLE), LOGITS_CA, WHOLE)  # whatever it learns of a log, it knows by now
    loss, count = objective(encoded_of(batch), leaf_CA, batch)
    assert loss.shape == count.shape == ()
    (gradient_CA,) = torch.autograd.grad(loss, leaf_CA)
    return loss.detach(), count, gradient_CA


def assert_same(mine: tuple[Tensor, Tensor, Tensor], theirs: tuple[Tensor, Tensor, Tensor], rows: Tensor) -> None:
    for one, other in zip(mine[:2], theirs[:2], strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(mine[2][rows], theirs[2], rtol=1e-6, atol=1e-9)


def test_discovery_finds_the_known_ones() -> None:
    assert {ActionObjective, PointwiseObjective} <= set(OBJECTIVES)


@every_objective
def test_the_count_is_the_summed_weight(kind: type[Objective]) -> None:
    loss, count, _ = value(kind, WHOLE, LOGITS_CA)
    assert loss > 0
    assert count.item() == pytest.approx(WHOLE.targets.weights_C.double().sum().item(), rel=1e-6)
    _, twice, _ = value(kind, with_targets(WHOLE, weights_C=2 * WHOLE.targets.weights_C), LOGITS_CA)
    assert twice.item() == pytest.approx(2 * count.item(), rel=1e-6)


@every_objective
def test_two_shards_of_requests_add_up(kind: type[Objective]) -> None:
    cut = int(WHOLE.features.offsets[5])
    shards = [torch.arange(0, cut), torch.arange(cut, NUM)]
    whole = value(kind, WHOLE, LOGITS_CA)
    first, second = (value(kind, part_of(WHOLE, rows), LOGITS_CA[rows]) for rows in shards)
    assert min(first[1], second[1]) > 0
    summed = (first[0] + second[0], first[1] + second[1], torch.cat([first[2], second[2]]))
    assert_same(whole, summed, torch.arange(NUM))


@every_objective
def test_weight_zero_is_absent(kind: type[Objective]) -> None:
    weights_C = WHOLE.targets.weights_C.index_fill(0, ABSENT, 0.0)
    masked = value(kind, with_targets(WHOLE, weights_C=weights_C), LOGITS_CA)
    assert_same(masked, value(kind, part_of(WHOLE, PRESENT), LOGITS_CA[PRESENT]), PRESENT)
    assert not masked[2][ABSENT].any()


@every_objective
def test_what_was_not_observed_is_absent(kind: type[Objective]) -> None:
    observed_CA = WHOLE.targets.observed_CA.index_fill(0, ABSENT, False)
    labels_CA = WHOLE.targets.labels_CA.index_fill(0, ABSENT, math.nan)
    masked = value(kind, with_targets(WHOLE, observed_CA=observed_CA, labels_CA=labels_CA), LOGITS_CA)
    assert_same(masked, value(kind, part_of(WHOLE, PRESENT), LOGITS_CA[PRESENT]), PRESENT)
    assert not masked[2][ABSENT].any()


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_finite_at_extreme_logits(kind: type[Objective], extreme: float, dtype: torch.dtype) -> None:
    signs_CA = torch.where(LOGITS_CA > 0, 1.0, -1.0).to(dtype)
    for logits_CA in (torch.full_like(signs_CA, extreme), signs_CA * extreme):
        loss, _, gradient_CA = value(kind, WHOLE, logits_CA)
        assert loss.isfinite()
        assert gradient_CA.isfinite().all()


@every_objective
def test_the_gradient_reaches_the_logits_of_every_action(kind: type[Objective]) -> None:
    _, _, gradient_CA = value(kind, WHOLE, LOGITS_CA)
    assert gradient_CA.ne(0).any(0).all()


@every_objective
def test_a_step_against_the_gradient_costs_less(kind: type[Objective]) -> None:
    before, _, gradient_CA = value(kind, WHOLE, LOGITS_CA)
    after, _, _ = value(kind, WHOLE, LOGITS_CA - 1e-3 * gradient_CA)
    assert after < before


@every_objective
def test_nothing_of_weight_is_a_sum_and_a_count_of_zero(kind: type[Objective]) -> None:
    loss, count, gradient_CA = value(kind, with_targets(WHOLE, weights_C=torch.zeros(NUM)), LOGITS_CA)
    assert (loss.item(), count.item()) == (0.0, 0.0)
    assert not gradient_CA.any()

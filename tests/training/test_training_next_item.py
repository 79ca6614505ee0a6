"""What comes next, trained at every event: against plain loops, by chance, and from start to end.

Letters: R requests · C candidates, flat · H history events, flat · U items · D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import NumericStatistics
from rankwell.errors import RecipeError, TrainingError
from rankwell.evaluation.leave_one_out import read_sequences
from rankwell.losses.listwise import softmax_cross_entropy
from rankwell.models.history import HistorySettings
from rankwell.models.model import Model
from rankwell.models.next_item import NextItem, NextItemSettings
from rankwell.models.wide_deep import Logistic
from rankwell.tables.lazy_adam import LazyAdam
from rankwell.training.corpus_negatives import MetItems
from rankwell.training.loop import LoopSettings, StepReport, fit
from rankwell.training.monitor import Monitor
from rankwell.training.next_item import NextItemNdcg, NextItemObjective, next_item_places
from rankwell.training.next_item_recipe import SEQUENCES, next_item_recipe
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.stepper import Stepper
from rankwell.training.trained import judge, train
from rankwell.types import Batch, Encoded, Ragged

HISTORIES = [[3, 1, 4], [], [1, 5], [9, 2, 6]]
ITEMS = [[1], [5, 3], [9], [2, 5]]
LABELS = [[1], [0, 1], [1], [0, 0]]


def table_of(histories: list[list[int]], items: list[list[int]], labels: list[list[int]]) -> pa.Table:
    members = np.arange(len(items))
    lists = pa.array(histories, pa.list_(pa.int64()))
    return pa.table({"member_id": members, "history_item": lists, "item": items, "next": labels})


def batches_of(table: pa.Table, num_requests: int = 100, seed: int | None = None) -> Batches:
    log = log_from_table(table, SEQUENCES, layout="requests")
    return Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=seed)


def batch_of(table: pa.Table) -> Batch:
    ((_, batch),) = batches_of(table).epoch(0)
    return batch


def model_of(*, default_rate: float = 0.0, dropout: float = 0.0, width: int = 8) -> NextItem:
    settings = NextItemSettings(
        history=HistorySettings(width=width, num_heads=2, dropout=dropout), default_rate=default_rate
    )
    return NextItem(SEQUENCES, NumericStatistics(), settings, seed=0)


def objective_of(num_negatives: int | None = None) -> NextItemObjective:
    return NextItemObjective(
        SEQUENCES, PointwiseObjective(SEQUENCES, softmax_cross_entropy), negatives=MetItems(num_negatives)
    )


PLAN = OptimizerPlan(default_rows=LazyAdam(learning_rate=0.01))


def encoded_of(batch: Batch) -> Encoded:
    """Vectors that depend on nothing but places and ids."""
    generator = torch.Generator().manual_seed(1)
    rows_UD = torch.randn(10, 4, generator=generator)
    num_events = int(batch.features.history["history"].offsets[-1])
    return Encoded(
        torch.randn(batch.features.num_requests, 4, generator=generator),
        torch.zeros(batch.features.num_candidates, 4),
        {},
        {"history": torch.randn(num_events, 4, generator=generator)},
        lambda ids_U: rows_UD[ids_U],
    )


def with_weights(batch: Batch, weights_C: Tensor) -> Batch:
    return replace(batch, targets=replace(batch.targets, weights_C=weights_C))


def test_every_event_and_what_was_acted_on_is_foretold() -> None:
    weights_C = torch.tensor([1.0, 0.5, 1.5, 2.0, 1.0, 3.0])
    batch = with_weights(batch_of(table_of(HISTORIES, ITEMS, LABELS)), weights_C)
    encoded = encoded_of(batch)
    assert encoded.item_vectors is not None
    items = sorted({1, 2, 3, 4, 5, 6, 9})  # all that histories and candidates name
    event_HD, total = encoded.event_HD["history"], 0.0

    def surprise(state_D: Tensor, target: int) -> float:
        scores = encoded.item_vectors(torch.tensor(items)) @ state_D  # type: ignore[misc]
        return float(scores.logsumexp(0) - scores[items.index(target)])

    event = candidate = 0
    for r, (history, some, labels) in enumerate(zip(HISTORIES, ITEMS, LABELS, strict=True)):
        weight = float(weights_C[candidate : candidate + len(some)].sum())
        for h in range(1, len(history)):
            total += weight * surprise(event_HD[event + h - 1], history[h])
        for c, label in enumerate(labels):
            if label:
                total += float(weights_C[candidate + c]) * surprise(encoded.request_RD[r], some[c])
        event, candidate = event + len(history), candidate + len(some)
    logits_CA = torch.randn(6, 1)
    inner, _ = PointwiseObjective(SEQUENCES, softmax_cross_entropy)(encoded, logits_CA, batch)
    loss, count = objective_of()(encoded, logits_CA, batch)
    assert float(loss) == pytest.approx(total + float(inner), rel=1e-5)
    assert float(count) == float(weights_C.sum())


def test_a_request_without_weight_costs_nothing() -> None:
    batch = with_weights(batch_of(table_of([[1, 2, 3]], [[4]], [[1]])), torch.zeros(1))
    loss, count = objective_of()(encoded_of(batch), torch.zeros(1, 1), batch)
    assert (float(loss), float(count)) == (0.0, 0.0)


def test_items_are_those_met_so_far() -> None:
    first, second = (batch_of(table_of([history], [[item]], [[1]])) for history, item in (([1, 2], 3), ([4], 5)))
    objective = objective_of()
    alone, _ = objective_of()(encoded_of(second), torch.zeros(1, 1), second)
    objective(encoded_of(first), torch.zeros(1, 1), first)
    after, _ = objective(encoded_of(second), torch.zeros(1, 1), second)
    assert after > alone  # three items more
    assert objective.negatives.get_extra_state().tolist() == [1, 2, 3, 4, 5]
    other = objective_of()
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other(encoded_of(second), torch.zeros(1, 1), second)[0], after)


def test_drawn_negatives_stand_for_all_items() -> None:
    """In the mean over draws, (e^loss - 1) is the sum over all other items: one target, so one term."""
    batch = batch_of(table_of([[]], [[3]], [[1]]))
    catalogue = batch_of(table_of([list(range(10))], [[0]], [[1]]))
    encoded = encoded_of(batch)

    def other_items(objective: NextItemObjective) -> float:
        return math.expm1(float(objective(encoded, torch.zeros(1, 1), batch)[0]))

    objectives = {num: objective_of(num) for num in (None, 4, 100)}
    for objective in objectives.values():
        objective(encoded_of(catalogue), torch.zeros(1, 1), catalogue)
    every = other_items(objectives[None])
    assert other_items(objectives[100]) == pytest.approx(every)
    torch.manual_seed(0)
    drawn = [other_items(objectives[4]) for _ in range(1000)]
    assert np.mean(drawn) == pytest.approx(every, abs=4 * np.std(drawn) / math.sqrt(len(drawn)))
    assert np.std(drawn) > 0.05 * every


def test_rows_of_negatives_are_moved() -> None:
    model = model_of()
    stepper = Stepper(model, objective_of(), PLAN, seed=0)
    model.train()
    stepper.step(batch_of(table_of([[1, 2]], [[3]], [[1]])))
    before = model.item_vectors(torch.tensor([1, 2, 3])).detach().clone()
    model.tables["items"].abandon()
    stepper.step(batch_of(table_of([[7]], [[8]], [[1]])))
    model.eval()
    assert (model.item_vectors(torch.tensor([1, 2, 3])) != before).any(1).all()


def test_a_model_without_events_is_refused() -> None:
    batch = batch_of(table_of(HISTORIES, ITEMS, LABELS))
    encoded = Encoded(torch.zeros(4, 2), torch.zeros(6, 2), {})
    with pytest.raises(RecipeError, match="needs vectors of events and of items"):
        objective_of()(encoded, torch.zeros(6, 1), batch)


def test_no_negatives_are_refused() -> None:
    with pytest.raises(RecipeError, match="too few negatives are drawn; found: 0"):
        MetItems(0)


def cycles(num_members: int, seed: int, num_items: int = 30) -> pa.Table:
    """Sequences in which item i is followed by i + 1, mostly; long enough to be held out from."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(num_members):
        length, start = int(rng.integers(4, 12)), int(rng.integers(num_items))
        skips = np.where(rng.random(length) < 0.1, 2, 1)
        sequences.append(((start + np.cumsum(skips)) % num_items).tolist())
    return pa.table({"user_id": np.arange(num_members), "items": sequences})


def test_places_among_all_are_those_of_plain_loops() -> None:
    model = model_of()
    stepper = Stepper(model, objective_of(), PLAN, seed=0)
    model.train()
    table = table_of(HISTORIES, ITEMS, LABELS)
    for _ in range(20):
        stepper.step(batch_of(table))
    model.eval()
    item_ids = torch.tensor([1, 2, 3, 4, 5, 6, 9, 77])
    vectors = model.item_vectors(item_ids)
    request_RD = model.encode(batch_of(table).features).request_RD
    known = [[3, 1, 4, 6], [], [1, 5, 1000], [9, 2, 6]]
    for histories, given in ((HISTORIES, None), (known, known)):
        expected = []
        for r, (items, labels) in enumerate(zip(ITEMS, LABELS, strict=True)):
            scores = dict(zip(item_ids.tolist(), (vectors @ request_RD[r]).tolist(), strict=True))
            for item, label in zip(items, labels, strict=True):
                if label:
                    rivals = [s for i, s in scores.items() if i not in histories[r] and i != item]
                    expected.append(sum(score > scores[item] for score in rivals))
        lists = None if given is None else _ragged(given)
        for num_requests in (100, 1):
            places = next_item_places(model, batches_of(table, num_requests), item_ids, known=lists)
            assert places.above_R.tolist() == expected
            assert not places.level_R.any()


def _ragged(lists: list[list[int]]) -> Ragged:
    values = torch.tensor([value for one in lists for value in one])
    return Ragged(values, torch.tensor([0, *(len(one) for one in lists)]).cumsum(0))


def test_the_monitor_ranks_among_what_train_and_tune_name() -> None:
    model = model_of()
    stepper = Stepper(model, objective_of(), PLAN, seed=0)
    model.train()
    stepper.step(batch_of(table_of([[1, 2]], [[3]], [[1]])))
    model.eval()
    tune = batches_of(table_of([[1, 2, 3]], [[8]], [[1]]))
    assert NextItemNdcg().value(model, tune) == 1.0  # all others are in the history
    assert NextItemNdcg(k=1).value(model, batches_of(table_of([[1]], [[3]], [[1]]))) in (0.0, 1.0)


def test_only_a_model_that_ranks_all_can_be_monitored_so() -> None:
    model = Logistic(SEQUENCES, NumericStatistics(), seed=0)
    with pytest.raises(RecipeError, match="only a NextItem ranks all items; found: Logistic"):
        NextItemNdcg().value(model, [])


@dataclass(frozen=True)
class Scripted(Monitor):
    """Figures that were fixed beforehand, one an epoch."""

    values: tuple[float, ...]

    def value(self, model: Model, tune: Iterable[Batch]) -> float:
        """The next one."""
        assert not model.training
        return self.values[int(model.tables["items"].step) // 2 - 1]  # two steps an epoch


def test_the_loop_goes_by_the_monitor() -> None:
    train_batches = batches_of(table_of(HISTORIES, ITEMS, LABELS), num_requests=2, seed=0)
    loop = LoopSettings(max_epochs=9, patience=2, monitor=Scripted((0.1, 0.4, 0.3, 0.2, 0.9)))
    history = fit(
        model_of(), objective_of(), PLAN, train_batches, batches_of(table_of(HISTORIES, ITEMS, LABELS)), loop, seed=0
    )
    assert [record.monitored for record in history.epochs] == [0.1, 0.4, 0.3, 0.2]
    assert history.best_epoch == 1


def test_a_monitor_without_a_figure_ends_the_training() -> None:
    train_batches = batches_of(table_of(HISTORIES, ITEMS, LABELS), num_requests=2, seed=0)
    loop = LoopSettings(max_epochs=9, monitor=Scripted((math.nan,)))
    with pytest.raises(TrainingError, match="Scripted"):
        fit(
            model_of(),
            objective_of(),
            PLAN,
            train_batches,
            batches_of(table_of(HISTORIES, ITEMS, LABELS)),
            loop,
            seed=0,
        )


class KilledError(Exception):
    """A training was killed."""


def test_a_training_that_was_killed_goes_on_bit_equal(tmp_path: Path) -> None:
    pq.write_table(cycles(60, seed=1), tmp_path / "cycle_sequences.parquet")
    of = read_sequences(tmp_path / "cycle_sequences.parquet")
    shuffled, tune = batches_of(of.train(), 20, seed=0), batches_of(of.held_out(back=2, num_negatives=1, seed=0))
    loop = LoopSettings(max_epochs=4, patience=9, monitor=NextItemNdcg(), drop_factor=1.0)

    def trained(folder: Path | None, on_step: Callable[[StepReport], None] | None = None) -> Tensor:
        model = model_of(dropout=0.2, default_rate=0.05)
        fit(model, objective_of(7), PLAN, shuffled, tune, loop, seed=0, checkpoints=folder, on_step=on_step)
        return model.item_vectors(torch.arange(30))

    def kill(report: StepReport) -> None:
        if report.epoch == 2 and report.num_requests > 20:
            raise KilledError

    whole = trained(None)
    with pytest.raises(KilledError):
        trained(tmp_path / "checkpoints", kill)
    assert torch.equal(trained(tmp_path / "checkpoints"), whole)


def test_the_recipe_learns_what_follows_what(tmp_path: Path) -> None:
    pq.write_table(cycles(400, seed=0), tmp_path / "cycle_sequences.parquet")
    recipe = next_item_recipe("cycles", "cycle_sequences.parquet")
    recipe = replace(
        recipe,
        loop=replace(recipe.loop, max_epochs=12, patience=12),
        build=lambda statistics, seed: model_of(dropout=0.1, width=16),
        optimizers=PLAN,
    )
    trained = train(recipe, tmp_path, seed=0)
    of = read_sequences(tmp_path / "cycle_sequences.parquet")
    assert isinstance(trained.model, NextItem)
    test = batches_of(of.held_out(back=1, num_negatives=0, seed=0))
    places = next_item_places(trained.model, test, of.item_ids, known=of.judged().items)
    assert places.hit_rate(1) > 0.7  # a tenth is skipped at random
    assert trained.history.best.monitored > 0.8
    judged = judge(recipe, trained.model, trained.calibrators, tmp_path)
    assert judged.calibrated.numbers()

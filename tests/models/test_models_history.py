"""A history is encoded once a request: event by event, from what came before; candidates read it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from every_kind_log import EVERY_KIND, every_kind_table
from rankwell.data.batches import Batches
from rankwell.data.log import log_from_table
from rankwell.data.split import WholeLog
from rankwell.data.statistics import ColumnStatistics, NumericStatistics, measure_numerics
from rankwell.models.history import EncodedHistory, HistoryEncoder, HistorySettings, TargetAttention
from rankwell.models.padding import ManyLists
from rankwell.schema import Action, Categorical, Log, Numeric, Schema, Sequence
from rankwell.types import Batch, Events

WIDTH, ROW_WIDTH = 8, 4


def batch_of(num_requests: int = 12, seed: int = 0) -> Batch:
    log = log_from_table(every_kind_table(num_requests, seed), EVERY_KIND, layout="requests")
    ((_, batch),) = Batches(log, WholeLog("train"), "train", num_requests=num_requests, seed=None).epoch(0)
    return batch


BATCH = batch_of()
EVENTS = BATCH.features.history["history"]
STATISTICS = measure_numerics([batch_of(100, 1)], EVERY_KIND)


def rows_of(events: Events, seed: int = 0) -> Tensor:
    """Stand-ins for rows: the same for the same pair of ids."""
    table = torch.randn(40, 3, 2 * ROW_WIDTH, generator=torch.Generator().manual_seed(seed))
    return table[events.columns["item"], events.columns["kind"]]


def encoder(**changes: object) -> HistoryEncoder:
    torch.manual_seed(0)
    settings = HistorySettings(width=WIDTH, num_heads=2).model_copy(update=changes)
    return HistoryEncoder(EVERY_KIND, STATISTICS, "history", row_width=ROW_WIDTH, settings=settings).eval()


def encoded(module: HistoryEncoder, events: Events) -> EncodedHistory:
    return module(rows_of(events), events)


def part(events: Events, request: int, upto: int | None = None) -> Events:
    """One request's events, all or the first few."""
    first, end = int(events.offsets[request]), int(events.offsets[request + 1])
    end = end if upto is None else min(end, first + upto)
    columns = {name: values[first:end] for name, values in events.columns.items()}
    return Events(columns, torch.tensor([0, end - first]))


def test_the_sample_has_empty_and_full_histories() -> None:
    lengths = EVENTS.offsets.diff()
    assert lengths.min() == 0
    assert lengths.max() == 5


@pytest.mark.parametrize("changes", [{}, {"is_causal": False}, {"shares_layers": True}, {"num_layers": 0}])
def test_a_history_is_the_same_alone_and_among_others(changes: dict[str, object]) -> None:
    module = encoder(**changes)
    together = encoded(module, EVENTS)
    for request in range(len(EVENTS.offsets) - 1):
        alone = encoded(module, part(EVENTS, request))
        length = int(EVENTS.offsets.diff()[request])
        torch.testing.assert_close(together.states_RTD[request, : length + 1], alone.states_RTD[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.last_RD[request], alone.last_RD[0], rtol=0, atol=1e-5)


def test_a_causal_state_knows_nothing_of_later_events() -> None:
    module = encoder(knows_order=False)
    longest = int(EVENTS.offsets.diff().argmax())
    whole = encoded(module, part(EVENTS, longest))
    for upto in range(5):
        begun = encoded(module, part(EVENTS, longest, upto))
        torch.testing.assert_close(whole.states_RTD[:, : upto + 1], begun.states_RTD, rtol=0, atol=1e-5)
    seeing = encoder(knows_order=False, is_causal=False)
    assert not torch.allclose(
        encoded(seeing, part(EVENTS, longest)).null_RD, encoded(seeing, part(EVENTS, longest, 1)).null_RD
    )


def test_an_empty_history_is_the_null_event() -> None:
    module = encoder()
    empty = int(EVENTS.offsets.diff().argmin())
    state = encoded(module, part(EVENTS, empty))
    assert state.states_RTD.shape == (1, 1, WIDTH)
    assert torch.equal(state.last_RD, state.null_RD)
    assert torch.equal(state.pooled(3), state.null_RD.repeat(1, 4))
    nothing = Events({name: values[:0] for name, values in EVENTS.columns.items()}, torch.zeros(1, dtype=torch.int64))
    assert encoded(module, nothing).last_RD.shape == (0, WIDTH)


def test_order_counts_from_the_newest_event() -> None:
    events = Events(
        {"item": torch.tensor([7, 7, 7]), "kind": torch.tensor([1, 1, 1]), "age_s": torch.full((3,), 60.0)},
        torch.tensor([0, 2, 3]),
    )
    without, knowing = encoder(knows_order=False, num_layers=0), encoder(num_layers=0)
    states = encoded(without, events).states_RTD
    torch.testing.assert_close(states[0, 1], states[0, 2])
    states = encoded(knowing, events).states_RTD
    assert not torch.allclose(states[0, 1], states[0, 2])
    torch.testing.assert_close(states[0, 2], states[1, 1])  # both are the newest


def test_ages_are_told_apart_and_none_are_needed() -> None:
    module = encoder(num_layers=0)
    ages = torch.tensor([0.0, 5.0, 60.0, 3600.0, 86_400.0, 3e6])
    zeros = torch.zeros(6, dtype=torch.int64)
    events = Events({"item": zeros, "kind": zeros, "age_s": ages}, torch.arange(7))
    states = encoded(module, events).event_HD
    assert torch.pdist(states).min() > 1e-3
    timeless = Schema(
        features=(Categorical(name="job", table="job"),), actions=(Action(name="click"),), time=None,
        sequences=(Sequence(name="history", fields=(Categorical(name="item", on="event", table="job"),), time=None),),
    )  # fmt: skip
    plain = HistoryEncoder(
        timeless, NumericStatistics(), "history", row_width=4, settings=HistorySettings(width=8, num_heads=2)
    )
    assert plain.inputs.width == 0
    ids = Events({"item": torch.tensor([1, 2])}, torch.tensor([0, 2]))
    assert plain(torch.randn(2, 4), ids).event_HD.shape == (2, 8)


def test_numerics_of_events_are_read_through_their_transforms() -> None:
    schema = Schema(
        features=(Categorical(name="job", table="job"),), actions=(Action(name="click"),), time=None,
        sequences=(Sequence(name="history", time=None, fields=(
            Categorical(name="item", on="event", table="job"),
            Numeric(name="dwell", on="event", transform=Log(), missing="indicator"))),),
    )  # fmt: skip
    column = ColumnStatistics(
        num_values=4, missing_rate=0.2, mean=3.0, sd=2.0, log_mean=1.0, log_sd=0.5, quantiles=(0.0, 1.0, 7.0)
    )
    inputs = HistoryEncoder(
        schema, NumericStatistics(columns={"history.dwell": column}), "history", row_width=4,
        settings=HistorySettings(width=8, num_heads=2),
    ).inputs  # fmt: skip
    dwell = torch.tensor([0.0, torch.e - 1, torch.nan])
    events = Events({"item": torch.zeros(3, dtype=torch.int64), "dwell": dwell}, torch.tensor([0, 3]))
    expected = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])  # (ln(1 + x) - 1) / .5, and whether it is missing
    torch.testing.assert_close(inputs(events), expected)


def test_pooled_is_the_latest_states_and_the_maximum() -> None:
    states_RTD = torch.tensor([[[0.0, 5.0], [1.0, 1.0], [2.0, -1.0]], [[3.0, 3.0], [4.0, 2.0], [99.0, 99.0]]])
    history = EncodedHistory(states_RTD, ManyLists(torch.tensor([0, 2, 3]), num_free=1))
    expected = [[2.0, -1.0, 1.0, 1.0, 0.0, 5.0, 2.0, 5.0], [4.0, 2.0, 3.0, 3.0, 3.0, 3.0, 4.0, 3.0]]
    assert history.pooled(3).tolist() == expected


def test_candidates_read_the_history_of_their_own_request() -> None:
    torch.manual_seed(0)
    module, asks = encoder(), TargetAttention(6, WIDTH, num_heads=2)
    history = encoded(module, EVENTS)
    offsets = BATCH.features.offsets
    candidate_CD = torch.randn(int(offsets[-1]), 6)
    taken = asks(candidate_CD, offsets, history)
    for request in range(len(offsets) - 1):
        its = slice(int(offsets[request]), int(offsets[request + 1]))
        alone = asks(candidate_CD[its], torch.tensor([0, its.stop - its.start]), encoded(module, part(EVENTS, request)))
        torch.testing.assert_close(taken[its], alone, rtol=0, atol=1e-5)


def test_gradient_reaches_every_parameter_and_every_row() -> None:
    module = encoder().train()
    rows = rows_of(EVENTS).requires_grad_()
    history = module(rows, EVENTS)
    asks = TargetAttention(6, WIDTH, num_heads=2)
    (asks(torch.randn(BATCH.features.num_candidates, 6), BATCH.features.offsets, history).square().sum()
     + history.pooled(2).square().sum()).backward()  # fmt: skip
    parameters = {**dict(module.named_parameters()), **dict(asks.named_parameters(prefix="asks"))}
    assert not [name for name, of in parameters.items() if of.grad is None or not of.grad.any()]
    assert rows.grad is not None
    assert rows.grad.any(1).all()


def test_settings_travel_as_json() -> None:
    settings = HistorySettings(width=32, num_layers=12, shares_layers=True)
    assert HistorySettings.model_validate_json(settings.model_dump_json()) == settings
    assert dataclasses.is_dataclass(EncodedHistory)

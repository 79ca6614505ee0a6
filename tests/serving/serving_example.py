"""A small trained ranker with something of every kind in it, for the tests of serving.

Letters in names: R requests · C candidates, flat over the batch.
"""

from __future__ import annotations

import torch

from rankwell.calibration.platt import Platt
from rankwell.calibration.temperature import Temperature
from rankwell.data.statistics import ColumnStatistics, NumericStatistics
from rankwell.models.candidate_list import ListSettings
from rankwell.models.history import HistorySettings
from rankwell.models.list_attention import LocalSettings
from rankwell.models.model import Model
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.models.wide_deep import DeepSettings, WideDeep, WideDeepSettings
from rankwell.schema import Action, Bag, Categorical, Cross, Numeric, Quantiles, Schema, Sequence, TableSpec
from rankwell.serving.bundle import Bundle
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.tables.ftrl import Ftrl
from rankwell.types import Audit, Batch, Events, Features, Ragged, Targets

NUM_JOBS = 60
FTRL = Ftrl(learning_rate=0.5, l1=1.0)
"""Leaves some rows of the wide part zero."""

SCHEMA = Schema(
    features=(
        Categorical(name="member", on="request", column="member_id", num_rows=1_000),
        Numeric(name="years", on="request"),
        Categorical(name="job"),
        Categorical(name="title", num_ids=20, missing="row"),
        Bag(name="skills", num_ids=50),
        Numeric(name="pay", transform=Quantiles(num_buckets=4), missing="indicator"),
    ),
    sequences=(Sequence(name="history", fields=(Categorical(name="item", on="event", table="job"),)),),
    tables=(TableSpec(name="job", num_rows=10_000),),
    crosses=(Cross(of=("title", "pay"), num_rows=64),),
    actions=(Action(name="click"), Action(name="apply")),
    item="job",
)

STATISTICS = NumericStatistics(
    columns={
        "years": ColumnStatistics(
            num_values=9, missing_rate=0.0, mean=7.0, sd=16 / 3, log_mean=2.0, log_sd=0.5, quantiles=(1.0, 5.0, 9.0)
        ),
        "pay": ColumnStatistics(
            num_values=9,
            missing_rate=0.1,
            mean=50.0,
            sd=9.0,
            log_mean=4.0,
            log_sd=0.5,
            quantiles=(0.0, 30.0, 50.0, 70.0, 90.0),
        ),
    }
)


def trained(model: Model) -> Model:
    """The model after a few steps on noise, so that nothing in it is as it was made."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for part, table in model.tables.items():
        table.train_with(FTRL if part in model.linear_parts else RowWiseAdaGrad(learning_rate=0.2))
    model.train()
    for step in range(4):
        logits_CA = model(batch(num_requests=9, seed=step).features)
        (logits_CA * torch.randn_like(logits_CA)).sum().backward()
        for table in model.tables.values():
            table.apply()
    return model


def example_bundle(*, label_smoothing: float = 0.0) -> Bundle:
    """Wide & Deep with batch norm, Platt for clicks and a temperature for applications."""
    settings = WideDeepSettings(deep=DeepSettings(width=4, hidden=(8,), dropout=0.2, batch_norm=True))
    return Bundle(
        model=trained(WideDeep(SCHEMA, STATISTICS, settings, seed=11)),
        calibrators={
            "click": Platt(slope=0.7, offset=-1 / 3),
            "apply": Temperature(1.9),
        },
        created_us=1_790_000_000_000_000,
        metrics={"test.click.log_loss": 0.1 + 0.2, "test.apply.auc": float("nan"), "worst": float("inf")},
        provenance={"recipe": "example", "seed": 11, "splits": {"train": [0, 10]}},
        label_smoothing=label_smoothing,
    )


def transformer_bundle() -> Bundle:
    """Layers over the history and over the list, whose candidates are in the order of a number that some lack."""
    settings = TransformerSettings(
        row_width=4, width=16, hidden=(32, 16), init_scale=0.5,
        history=HistorySettings(width=8, num_layers=1, num_heads=2),
        list=ListSettings(attention=LocalSettings(window=20), num_layers=1, rank="pay"),
    )  # fmt: skip
    model = trained(RankingTransformer(SCHEMA, STATISTICS, settings, seed=7)).eval()
    calibrators = {action.name: Platt(slope=0.9, offset=0.1) for action in SCHEMA.actions}
    return Bundle(model=model, calibrators=calibrators, created_us=1_790_000_000_000_000)


def batch(*, num_requests: int, seed: int) -> Batch:
    """Requests of 1 … 7 candidates and 0 … 3 events, features at random, missing ones among them."""
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, num: int, low: int = 0) -> torch.Tensor:
        return torch.randint(low, high, (num,), generator=generator)

    offsets = _offsets(integers(8, num_requests, low=1))
    num_candidates = int(offsets[-1])
    history_offsets = _offsets(integers(4, num_requests))
    skill_offsets = _offsets(integers(4, num_candidates))
    pay_C = torch.rand(num_candidates, generator=generator) * 100
    pay_C[integers(5, num_candidates) == 0] = float("nan")
    job_C = integers(NUM_JOBS, num_candidates)
    member_R = integers(40, num_requests)
    num_events = int(history_offsets[-1])
    features = Features(
        context={"member": member_R, "years": torch.rand(num_requests, generator=generator) * 20},
        history={
            "history": Events(
                {"item": integers(NUM_JOBS, num_events), "age_s": torch.rand(num_events, generator=generator)},
                history_offsets,
            )
        },
        candidates={
            "job": job_C,
            "title": integers(22, num_candidates, low=-1),
            "skills": Ragged(integers(60, int(skill_offsets[-1])), skill_offsets),
            "pay": pay_C,
        },
        offsets=offsets,
        request_C=torch.repeat_interleave(torch.arange(num_requests), offsets[1:] - offsets[:-1]),
    )
    nothing_C = torch.zeros(num_candidates)
    targets = Targets(
        torch.zeros(num_candidates, 2), nothing_C.bool()[:, None].expand(-1, 2), nothing_C, nothing_C.long(), nothing_C
    )
    requests_R = torch.arange(num_requests)
    return Batch(features, targets, Audit(requests_R, member_R, requests_R, job_C, {}))


def _offsets(lengths: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])

"""Training a model that encodes a history once a request, against one that encodes it once a candidate.

The same model, the same weights, the same rows: once with requests of 25 candidates, and once with each candidate as a
request of its own, its member's history copied beside it, as a log of one row a candidate has it. A step is the whole
of training: rows checked out, forward, loss, backward, dense optimizer, rows moved. Rounds of both in turns, medians.

    python benchmarks/history_once.py [--json FILE] [--candidates N] [--events N] [--requests N] [--rounds N]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from contenders.findings import Findings
from rankwell.data.statistics import NumericStatistics
from rankwell.models.history import HistorySettings
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.schema import Action, Categorical, Schema, Sequence, TableSpec
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.stepper import Stepper
from rankwell.types import Audit, Batch, Column, Events, Features, Targets

NUM_ITEMS, NUM_KINDS, NUM_MEMBERS = 100_000, 4, 100_000


def schema_of(num_events: int) -> Schema:
    """A member, an item, and a history of items and what was done with them."""
    fields = (
        Categorical(name="item", on="event", table="item"),
        Categorical(name="kind", on="event", num_ids=NUM_KINDS),
    )
    return Schema(
        features=(
            Categorical(name="member", on="request", num_ids=NUM_MEMBERS),
            Categorical(name="item", table="item"),
        ),
        tables=(TableSpec(name="item", num_ids=NUM_ITEMS),),
        sequences=(Sequence(name="history", fields=fields, time=None, max_length=num_events),),
        actions=(Action(name="click"),),
        item="item",
        time=None,
        member_id=None,
    )


def batch_of(num_requests: int, num_candidates: int, num_events: int, generator: torch.Generator) -> Batch:
    """Requests of equal size, at random."""
    num_rows = num_requests * num_candidates
    events = num_requests * num_events
    features = Features(
        context={"member": torch.randint(NUM_MEMBERS, (num_requests,), generator=generator)},
        history={
            "history": Events(
                {
                    "item": torch.randint(NUM_ITEMS, (events,), generator=generator),
                    "kind": torch.randint(NUM_KINDS, (events,), generator=generator),
                },
                torch.arange(num_requests + 1) * num_events,
            )
        },
        candidates={"item": torch.randint(NUM_ITEMS, (num_rows,), generator=generator)},
        offsets=torch.arange(num_requests + 1) * num_candidates,
        request_C=torch.arange(num_requests).repeat_interleave(num_candidates),
    )
    labels_CA = torch.randint(2, (num_rows, 1), generator=generator).float()
    return _with_targets(features, labels_CA)


def one_candidate_each(batch: Batch) -> Batch:
    """The same rows, each a request of its own with a copy of its request's context and history."""
    features = batch.features
    request_C = features.request_C
    num_rows = len(request_C)
    copied = {name: _copied(events, request_C) for name, events in features.history.items()}
    context: Mapping[str, Column] = {
        name: column[request_C] for name, column in features.context.items() if isinstance(column, Tensor)
    }
    apart = dataclasses.replace(
        features, context=context, history=copied, offsets=torch.arange(num_rows + 1), request_C=torch.arange(num_rows)
    )
    return _with_targets(apart, batch.targets.labels_CA)


def _copied(events: Events, request_C: Tensor) -> Events:
    lengths_C = events.offsets.diff()[request_C]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths_C.cumsum(0)])
    shift_C = events.offsets[request_C] - offsets[:-1]
    places_H = torch.arange(int(offsets[-1])) + shift_C.repeat_interleave(lengths_C)
    return Events({name: values[places_H] for name, values in events.columns.items()}, offsets)


def _with_targets(features: Features, labels_CA: Tensor) -> Batch:
    num_rows, num_requests = features.num_candidates, features.num_requests
    ones_C, zeros_R = torch.ones(num_rows), torch.zeros(num_requests, dtype=torch.int64)
    zeros_C = torch.zeros(num_rows, dtype=torch.int64)
    targets = Targets(labels_CA, torch.ones_like(labels_CA, dtype=torch.bool), ones_C, zeros_C, ones_C)
    return Batch(features, targets, Audit(zeros_R, zeros_R, zeros_R, zeros_C, {}))


def measure(given: argparse.Namespace) -> Findings:
    """Both in turns."""
    schema = schema_of(given.events)
    settings = TransformerSettings(history=HistorySettings(width=64, num_layers=given.layers, num_heads=4), list=None)

    def stepper() -> Stepper:
        model = RankingTransformer(schema, NumericStatistics(), settings, seed=0)
        return Stepper(model.train(), PointwiseObjective(schema), OptimizerPlan(), seed=0)

    once, each = stepper(), stepper()
    batch = batch_of(given.requests, given.candidates, given.events, torch.Generator().manual_seed(0))
    apart = one_candidate_each(batch)
    seconds: dict[str, list[float]] = {"once": [], "each": []}
    for k in range(given.rounds + 1):
        for name, step, rows in (("once", once, batch), ("each", each, apart)):
            step.model.train()
            began = time.perf_counter()
            step.step(rows)
            if k:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    model = once.model.eval()  # trained by now: its rows are not the default row's
    with torch.inference_mode():
        logits_CA = model(batch.features)
        difference = float((logits_CA - model(apart.features)).abs().max())
    num_rows = given.requests * given.candidates
    rates = {name: num_rows / statistics.median(times) for name, times in seconds.items()}
    case = f"{given.candidates} candidates, {given.events} events, {given.layers} layers of 64"
    findings = Findings("training a model over histories")
    findings.add(f"{case}: rows a second, history once a request", rates["once"])
    findings.add(f"{case}: rows a second, history once a candidate", rates["each"])
    findings.add(f"{case}: times as many", rates["once"] / rates["each"], at_least=8)
    findings.add(f"{case}: largest difference of a logit", difference, at_most=1e-5)
    findings.add(f"{case}: standard deviation of the logits", float(logits_CA.std()))
    return findings


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments.add_argument("--candidates", type=int, default=25)
    arguments.add_argument("--events", type=int, default=50)
    arguments.add_argument("--layers", type=int, default=2)
    arguments.add_argument("--requests", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args()
    findings = measure(given)
    findings.print()
    findings.write(given.json)


if __name__ == "__main__":
    main()

"""How deep a history encoder is worth being: quality, parameters and latency by layers, with and without sharing.

The marketplace as it is; without the member's experience among the features; and with a share of the training clicks
flipped. Every model takes the same steps over the same requests.

Letters: C candidates, flat · R requests · H history events, flat.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from rankwell.data.statistics import NumericStatistics, measure_numerics
from rankwell.models.history import HistorySettings
from rankwell.models.model import Model
from rankwell.models.transformer import RankingTransformer, TransformerSettings
from rankwell.schema import Schema
from rankwell.simulation.recipe import Kind, marketplace_recipe
from rankwell.simulation.schema import marketplace_schema
from rankwell.studies.depth_result import (
    CONDITIONS,
    DEPTHS,
    FLIPPED,
    HIDDEN,
    PARAMETER_PARTS,
    PERCENTILES,
    PLAIN,
    Depth,
    Outcome,
    depth_result,
)
from rankwell.studies.list_cost import times_in_turns
from rankwell.studies.study import StudyResult, simulated
from rankwell.training.recipe import LogPart, Recipe
from rankwell.training.trained import TrueProbabilities, judge, train
from rankwell.types import Batch, Column, Events, Features

__all__ = [
    "FLIP_RATE",
    "flip_clicks",
    "large_request",
    "latencies_ms",
    "outcomes_of_seed",
    "parameters_by_part",
    "study_depth",
]

FLIP_RATE: Final = 0.1
_EXPERIENCE: Final = "experience_years"
_LIST_SIZE: Final = 500
_ROUNDS: Final = 100
_BATCH: Final = 64
_NUM_SMALL: Final = 2_000
_FLIPPED_LOG: Final = "flipped"
_WITHIN: Final = {
    ".order": "positions", ".null": "positions", ".attention.": "attention", ".feed_forward.": "feed-forward",
}  # fmt: skip


def study_depth(
    *, seeds: Sequence[int], num_requests: int = 12_000, say: Callable[[str], None] = lambda _: None
) -> StudyResult:
    """0, 1, 2, 4 and 12 layers, and 4 and 12 times one and the same, on a marketplace a seed.

    Args:
        seeds: At least two.
        num_requests: Of each log.
        say: Told what is going on.

    Returns:
        By condition and depth: calibrated log loss, AUC and nDCG@10 on test with paired 95 % intervals over one layer;
        the loss of training; parameters by part; and latency percentiles of a request of 500 candidates.
    """
    found: dict[str, dict[str, list[Outcome]]] = {condition: {} for condition in CONDITIONS}
    for seed in seeds:
        for condition, outcomes in outcomes_of_seed(seed, num_requests, say).items():
            for name, outcome in outcomes.items():
                found[condition].setdefault(name, []).append(outcome)
    models, request = _serving(seeds[0])
    say(f"latency of a request of {_LIST_SIZE} candidates")
    latencies = latencies_ms(models, request, rounds=_ROUNDS)
    return depth_result(found, {name: parameters_by_part(model) for name, model in models.items()}, latencies)


def outcomes_of_seed(
    seed: int, num_requests: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, dict[str, Outcome]]:
    """By condition and depth, what a model is worth; none without layers or with shared ones but in the plain one.

    Args:
        seed: Of the marketplace, the flips and the models.
        num_requests: Of the log.
        say: Told what is going on.
    """
    found: dict[str, dict[str, Outcome]] = {}
    with simulated(seed, num_requests) as (data, truth):
        flip_clicks(data / "log", data / _FLIPPED_LOG, rate=FLIP_RATE, seed=seed)
        for condition in CONDITIONS:
            found[condition] = {}
            for depth in DEPTHS:
                if condition != PLAIN and (depth.is_shared or depth.num_layers == 0):
                    continue
                outcome = _outcome(_recipe(depth, condition), data, truth, seed)
                found[condition][depth.name] = outcome
                say(f"seed {seed}, {condition}, {depth.name}: log loss {outcome.log_loss:.4f}")
    return found


def flip_clicks(log: Path, to: Path, *, rate: float, seed: int) -> None:
    """Write a log again with some of its clicks turned around, each by itself with the same probability.

    Args:
        log: A folder of Parquet files.
        to: A new folder.
        rate: The probability.
        seed: Of the draws.
    """
    random = np.random.default_rng([seed, 2])
    to.mkdir()
    for path in sorted(log.glob("*.parquet")):
        table = pq.read_table(path).combine_chunks()
        clicks = table["click"].combine_chunks()
        values = clicks.flatten().to_numpy(zero_copy_only=False)
        flipped = np.where(random.random(len(values)) < rate, 1 - values, values).astype(values.dtype)
        place = table.schema.get_field_index("click")
        column = pa.ListArray.from_arrays(clicks.offsets, pa.array(flipped)).cast(clicks.type)
        pq.write_table(table.set_column(place, table.schema.field(place), column), to / path.name)


def parameters_by_part(model: Model) -> dict[str, int]:
    """How many dense numbers each part of the history encoder has, how many the heads, and how many all else.

    Args:
        model: A `RankingTransformer`; the rows of its tables are no part of it.
    """
    counts = dict.fromkeys(PARAMETER_PARTS, 0)
    for name, parameter in model.named_parameters():
        root = name.partition(".")[0]
        within = next((part for key, part in _WITHIN.items() if key in name), "rest")
        counts[within if root == "histories" else "heads" if root == "heads" else "rest"] += parameter.numel()
    return counts


def large_request(batches: Iterable[Batch], num_candidates: int) -> Features:
    """The request of the first batch that has the longest history, with candidates of other requests besides its own.

    Args:
        batches: Of a log without bags.
        num_candidates: So many in all, taken from the batches in their order, from the start again if they are too few.
    """
    kept = [batch.features for batch in batches]
    first = kept[0]
    (name,) = first.history
    lengths_R = first.history[name].offsets.diff()
    request = int(lengths_R.argmax())
    start, end = (int(first.history[name].offsets[request + edge]) for edge in (0, 1))
    events = {field: values[start:end] for field, values in first.history[name].columns.items()}
    taken = torch.arange(num_candidates) % sum(features.num_candidates for features in kept)
    return Features(
        context={column: _tensor(values)[request : request + 1] for column, values in first.context.items()},
        history={name: Events(events, torch.tensor([0, end - start]))},
        candidates={
            column: torch.cat([_tensor(features.candidates[column]) for features in kept])[taken]
            for column in first.candidates
        },
        offsets=torch.tensor([0, num_candidates]),
        request_C=torch.zeros(num_candidates, dtype=torch.int64),
    )


def latencies_ms(models: Mapping[str, Model], request: Features, *, rounds: int) -> dict[str, dict[int, float]]:
    """P50, P95 and P99 of the time that a model takes for a request, eager, in one thread, all in turns.

    The time is the process's own: on a machine that is shared, the wall's has in it what others take.

    Args:
        models: By name.
        request: See `large_request`.
        rounds: How many times.
    """

    def step(model: Model) -> Callable[[], None]:
        model.eval()

        def run() -> None:
            with torch.inference_mode():
                model(request)

        return run

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = times_in_turns({name: step(model) for name, model in models.items()}, rounds=rounds)
    finally:
        torch.set_num_threads(num_threads)
    return {name: {p: 1e3 * float(np.percentile(of, p)) for p in PERCENTILES} for name, of in seconds.items()}


def _outcome(recipe: Recipe, data: Path, truth: TrueProbabilities, seed: int) -> Outcome:
    trained = train(recipe, data, seed=seed)
    judged = judge(recipe, trained.model, trained.calibrators, data, truth=truth).calibrated
    assert judged.truth is not None
    return Outcome(
        log_loss=judged.log_loss, auc=judged.auc, ndcg=judged.ndcg[10],
        train_loss=trained.history.epochs[-1].train_loss, bayes_log_loss=judged.truth.bayes_log_loss,
    )  # fmt: skip


def _recipe(depth: Depth, condition: str) -> Recipe:
    """The marketplace's, for clicks alone; where clicks are flipped, those of train alone."""
    schema = marketplace_schema()
    changed: dict[str, object] = {"actions": schema.actions[:1]}
    if condition == HIDDEN:
        changed |= {
            "features": tuple(f for f in schema.features if f.name != _EXPERIENCE),
            "crosses": tuple(cross for cross in schema.crosses if _EXPERIENCE not in cross.of),
        }
    schema = schema.model_copy(update=changed)
    recipe = marketplace_recipe(Kind(depth.name, lambda s, n, seed: _model(depth, s, n, seed)), schema=schema)
    parts = dict(recipe.parts)
    if condition == FLIPPED:
        parts["train"] = LogPart(path=_FLIPPED_LOG, split=parts["train"].split)
    return dataclasses.replace(recipe, parts=parts, segments=(), num_requests=_BATCH)


def _model(depth: Depth, schema: Schema, statistics: NumericStatistics, seed: int) -> RankingTransformer:
    history = HistorySettings(width=32, num_layers=depth.num_layers, shares_layers=depth.is_shared, dropout=0.1)
    settings = TransformerSettings(
        row_width=8, width=32, hidden=(64,), dropout=0.1, init_scale=0.3, history=history, list=None
    )
    return RankingTransformer(schema, statistics, settings, seed=seed)


def _serving(seed: int) -> tuple[dict[str, Model], Features]:
    """Fresh models of every depth, and a large request: what a model has learned doesn't change its time."""
    recipe = _recipe(DEPTHS[0], PLAIN)
    with simulated(seed, _NUM_SMALL) as (data, _):
        batches = recipe.batches("train", data, seed=None)
        statistics = measure_numerics(batches, recipe.schema)
        request = large_request(batches, _LIST_SIZE)
    return {depth.name: _model(depth, recipe.schema, statistics, seed) for depth in DEPTHS}, request


def _tensor(column: Column) -> Tensor:
    assert isinstance(column, Tensor)
    return column

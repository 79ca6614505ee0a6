"""One recipe for every file of sequences: what comes next, by the protocol that leaves the last event out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa

from rankwell.data.split import HashSplit, Split, WholeLog
from rankwell.evaluation.leave_one_out import ItemSequences, read_sequences
from rankwell.losses.listwise import softmax_cross_entropy
from rankwell.models.history import HistorySettings
from rankwell.models.next_item import NextItem, NextItemSettings
from rankwell.schema import Action, Categorical, Schema, Sequence, TableSpec
from rankwell.tables.lazy_adam import LazyAdam
from rankwell.training.corpus_negatives import MetItems
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.loop import LoopSettings
from rankwell.training.next_item import NextItemNdcg, NextItemObjective
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.recipe import LogPart, Recipe

__all__ = ["SEQUENCES", "next_item_recipe"]

SEQUENCES: Final = Schema(
    features=(Categorical(name="item", table="item"),),
    # it grows with the items that training meets, so nothing here is fitted to a data set's size
    tables=(TableSpec(name="item", growing=True),),
    sequences=(
        Sequence(
            name="history", fields=(Categorical(name="item", on="event", table="item"),), time=None, max_length=200
        ),
    ),
    actions=(Action(name="next"),),
    item="item",
    request_id=None,
    time=None,
)
"""Members, the items of their latest 200 events, and the item that came next."""


def next_item_recipe(name: str, file: str) -> Recipe:
    """Train on all events but the last two, tune and calibrate on the last but one, test on the last.

    Candidates of the held-out requests are what came next and 100 items drawn uniformly from those that the member has
    no event with. The loop goes by nDCG@10 among all items, on 80 % of the members; the rest calibrates.

    Args:
        name: Of the recipe.
        file: A Parquet file with ``user_id`` and ``items``, in the data folder.

    >>> next_item_recipe("films", "film_sequences.parquet").loop.monitor
    NextItemNdcg(k=10)
    """
    settings = NextItemSettings(
        history=HistorySettings(width=64, num_layers=2, num_heads=2, dropout=0.5),
        default_rate=0.0,  # a learned default row puts items never met above most of those that were
    )
    held_out = HashSplit(train=0.0, tune=0.8, calibrate=0.2, test=0.0, seed=0)

    def part(split: Split, convert: Callable[[ItemSequences], pa.Table]) -> LogPart:
        return LogPart(path=file, split=split, convert=lambda path: convert(read_sequences(path)))

    return Recipe(
        name=name,
        schema=SEQUENCES,
        parts={
            "train": part(WholeLog("train"), lambda of: of.train()),
            # the loop goes by all items, so one negative is enough here
            "tune": part(held_out, lambda of: of.held_out(back=2, num_negatives=1, seed=0)),
            "calibrate": part(held_out, lambda of: of.held_out(back=2, num_negatives=100, seed=0)),
            "test": part(WholeLog("test"), lambda of: of.held_out(back=1, num_negatives=100, seed=1)),
        },
        build=lambda statistics, seed: NextItem(SEQUENCES, statistics, settings, seed=seed),
        objective=lambda schema: NextItemObjective(
            schema,
            PointwiseObjective(schema, softmax_cross_entropy),
            negatives=MetItems(32_768),  # all items of most catalogues, and a bound on what a step costs
        ),
        optimizers=OptimizerPlan(dense=DenseAdamW(learning_rate=1e-3), default_rows=LazyAdam(learning_rate=1e-3)),
        loop=LoopSettings(
            max_epochs=100, patience=8, monitor=NextItemNdcg(), drop_factor=1.0, matmul_precision="highest"
        ),
        num_requests=64,
        notes="Candidates are what came next and 100 negatives, so a calibrated probability is that of being the one "
        "that came next among 101, and none of a click. benchmarks/next_item.py ranks among all items, too.",
    )
